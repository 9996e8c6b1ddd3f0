"""Synthetic degradations of aligned faces: blur, down, noise, JPEG, back, and colour for some presets.

The order and the meaning of every range follow GFPGAN's and CodeFormer's FFHQ datasets (TencentARC/GFPGAN,
sczhou/CodeFormer), with two differences: every random draw comes from an explicit generator, so that a
pair is a pure function of (image, generator), and the JPEG quality is an integer, as OpenCV demands.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import cv2
import numpy as np

from lafr_data.degradation_steps import (
    Image,
    Range,
    adjust_color,
    anisotropic_kernel,
    compress_jpeg,
    to_gray,
    validate_ranges,
)
from lafr_data.world_degradation import REFERENCE_SIZE, WorldDegradation


class Degrades(Protocol):
    """What makes an LQ copy of a face; given for faces of 512 x 512 pixels until :meth:`scaled` to others."""

    def scaled(self, face_size: int) -> Degrades:
        """Return the same for faces of ``face_size`` pixels."""

    def apply(self, gt: Image, rng: np.random.Generator) -> tuple[Image, Image]:
        """Return the pair (lq, gt) for a face RGB (H, W, 3), float32 in [0, 1]; a function of ``rng``."""


@dataclass(frozen=True, kw_only=True)
class Degradation:
    """What may happen to a face; each range is ``(low, high)``, drawn uniformly, both ends included.

    ``blur_kernel_size`` and ``blur_sigma`` are pixels of a 512 x 512 face, whatever the size of the images:
    see :meth:`scaled`. Validated on construction.

    Raises:
        ValueError: a value is out of range; the message names the key.
    """

    blur_sigma: Range
    """Standard deviation of the Gaussian blur in pixels, above 0; drawn twice for an anisotropic kernel."""
    downsample_range: Range
    """Factor by which the face is shrunk (bilinear) before noise and JPEG; below 1 enlarges."""
    noise_range: Range | None
    """Standard deviation of the white Gaussian noise in units of 1/255; None for none."""
    jpeg_range: tuple[int, int] | None
    """JPEG quality, 1 to 100; None for no JPEG."""
    blur_kernel_size: int = 41
    """Side of the blur kernel in pixels, odd."""
    isotropic_prob: float = 0.5
    """Probability of an isotropic kernel; else it is anisotropic with any rotation."""
    color_jitter_prob: float = 0.0
    """Probability of shifting each of R, G, B by a constant within +- ``color_jitter_shift`` / 255."""
    color_jitter_shift: float = 20.0
    """Largest shift of a colour channel in units of 1/255."""
    color_jitter_pt_prob: float = 0.0
    """Probability of changing brightness, contrast, saturation and hue, in random order."""
    brightness: Range = (0.5, 1.5)
    """Factor of the brightness."""
    contrast: Range = (0.5, 1.5)
    """Factor of the contrast about the mean gray."""
    saturation: Range = (0.0, 1.5)
    """Factor of the saturation; 0 is gray."""
    hue: Range = (-0.1, 0.1)
    """Shift of the hue in turns, within -0.5 to 0.5."""
    gray_prob: float = 0.0
    """Probability of a gray LQ image."""
    gt_gray: bool = False
    """Whether GT turns gray where LQ does (GFPGAN's ``gt_gray``), so that nothing learns to colourise."""

    def __post_init__(self) -> None:
        if isinstance(self.blur_kernel_size, bool) or not isinstance(self.blur_kernel_size, int):
            raise ValueError(f"blur_kernel_size: {self.blur_kernel_size!r} is not an integer")
        if self.blur_kernel_size < 1 or self.blur_kernel_size % 2 == 0:
            raise ValueError(f"blur_kernel_size: {self.blur_kernel_size} must be odd and positive")
        validate_ranges(self)

    def scaled(self, face_size: int) -> Degradation:
        """Return this degradation for faces of ``face_size`` pixels.

        Sigma and kernel are multiplied by ``face_size / 512``; the kernel keeps an odd size. The
        down-sampling factor, noise and JPEG are the same at every size.
        """
        factor = face_size / REFERENCE_SIZE
        low, high = self.blur_sigma
        radius = round((self.blur_kernel_size - 1) / 2 * factor)
        return dataclasses.replace(self, blur_sigma=(low * factor, high * factor), blur_kernel_size=2 * radius + 1)

    def apply(self, gt: Image, rng: np.random.Generator) -> tuple[Image, Image]:
        """Return the pair (lq, gt); see :func:`degrade`. GT turns gray under ``gt_gray`` alone."""
        height, width = gt.shape[:2]
        lq = random_blur(gt, self, rng)
        factor = rng.uniform(*self.downsample_range)
        small = (max(1, int(width / factor)), max(1, int(height / factor)))
        lq = cv2.resize(lq, small, interpolation=cv2.INTER_LINEAR)
        if self.noise_range is not None:
            sigma = np.float32(rng.uniform(*self.noise_range) / 255)
            lq = lq + sigma * rng.standard_normal(lq.shape, dtype=np.float32)
        lq = np.clip(lq, 0, 1)
        if self.jpeg_range is not None:
            lq = compress_jpeg(lq, int(rng.integers(*self.jpeg_range, endpoint=True)))
        lq = cv2.resize(lq, (width, height), interpolation=cv2.INTER_LINEAR)
        if rng.random() < self.color_jitter_prob:
            shift = self.color_jitter_shift / 255
            lq = np.clip(lq + rng.uniform(-shift, shift, 3).astype(np.float32), 0, 1)
        if rng.random() < self.gray_prob:
            lq = to_gray(lq)
            if self.gt_gray:
                gt = to_gray(gt)
        if rng.random() < self.color_jitter_pt_prob:
            for operation in rng.permutation(["brightness", "contrast", "saturation", "hue"]):
                lq = adjust_color(lq, operation, rng.uniform(*getattr(self, operation)))
        return np.clip(np.rint(lq * 255), 0, 255).astype(np.float32) / 255, gt


def random_blur(image: Image, config: Degradation, rng: np.random.Generator) -> Image:
    """Blur with a random Gaussian kernel; an isotropic one as two 1-D passes, which are the same filter."""
    size = config.blur_kernel_size
    if rng.random() < config.isotropic_prob:
        return cv2.GaussianBlur(image, (size, size), rng.uniform(*config.blur_sigma))
    sigma_x, sigma_y = rng.uniform(*config.blur_sigma), rng.uniform(*config.blur_sigma)
    return cv2.filter2D(image, -1, anisotropic_kernel(size, sigma_x, sigma_y, rng.uniform(-math.pi, math.pi)))


@dataclass(frozen=True)
class MixedDegradation:
    """One of several degradations, drawn by their shares."""

    parts: tuple[Degrades, ...]
    shares: tuple[float, ...]

    def scaled(self, face_size: int) -> MixedDegradation:
        """Return the same for faces of ``face_size`` pixels."""
        return dataclasses.replace(self, parts=tuple(part.scaled(face_size) for part in self.parts))

    def apply(self, gt: Image, rng: np.random.Generator) -> tuple[Image, Image]:
        """Return the pair (lq, gt) that the drawn part makes."""
        total = np.cumsum(self.shares) / sum(self.shares)
        return self.parts[int(np.searchsorted(total, rng.random(), side="right"))].apply(gt, rng)


PRESETS: dict[str, Degradation | WorldDegradation] = {
    # options/train_gfpgan_v1.yml of TencentARC/GFPGAN
    "gfpgan": Degradation(
        blur_sigma=(0.1, 10),
        downsample_range=(0.8, 8),
        noise_range=(0, 20),
        jpeg_range=(60, 100),
        color_jitter_prob=0.3,
        color_jitter_pt_prob=0.3,
        gray_prob=0.01,
    ),
    # options/CodeFormer_stage2.yml and CodeFormer_stage3.yml of sczhou/CodeFormer
    "codeformer2": Degradation(blur_sigma=(1, 15), downsample_range=(4, 30), noise_range=(0, 20), jpeg_range=(30, 80)),
    "codeformer3": Degradation(
        blur_sigma=(0.1, 10), downsample_range=(1, 12), noise_range=(0, 15), jpeg_range=(60, 100)
    ),
    # the face training of OSEDiff, most plausible for the paper's training set
    "osediff_face": Degradation(
        blur_sigma=(1, 15), downsample_range=(1, 30), noise_range=(0, 20), jpeg_range=(30, 100)
    ),
    # the paper's CelebA test: x4, blur, noise and JPEG as gfpgan; no colour change, which PSNR would measure
    "celeba_x4": Degradation(blur_sigma=(0.1, 10), downsample_range=(4, 4), noise_range=(0, 20), jpeg_range=(60, 100)),
    "celeba_x8": Degradation(blur_sigma=(0.1, 10), downsample_range=(8, 8), noise_range=(0, 20), jpeg_range=(60, 100)),
    # photos as people have them; every field is described in world_degradation.py
    "world": WorldDegradation(),
}


def build_degradation(option: str | Mapping[str, Any], face_size: int) -> Degrades:
    """Build the degradation that an option file names, for faces of ``face_size`` pixels.

    Args:
        option: a name of :data:`PRESETS`; or a mapping with ``preset: NAME`` and any field of the preset's class
            that is to differ; or a mapping with ``mix:``, a list of such mappings of which each may have a ``share``
            of the draws (default 1). Overriding blur values are pixels of a 512 x 512 face, like the presets'.
        face_size: side of the face in pixels.

    Raises:
        ValueError: the preset or a key is unknown, or a value is out of range; the message names the key.
    """
    if not isinstance(option, (str, Mapping)):
        raise ValueError(f"degradation: {option!r} is neither a preset nor a mapping")
    if isinstance(option, Mapping) and "mix" in option:
        if len(option) > 1 or not isinstance(option["mix"], list) or not option["mix"]:
            raise ValueError("degradation: mix: must be a list of presets, and nothing may stand beside it")
        entries = [{"preset": entry} if isinstance(entry, str) else dict(entry) for entry in option["mix"]]
        shares = tuple(_parse("share", entry.pop("share", 1.0), "float") for entry in entries)
        if min(shares) < 0 or sum(shares) <= 0:
            raise ValueError(f"degradation: mix: the shares {shares} must not be negative, nor all be 0")
        return MixedDegradation(tuple(_build(entry) for entry in entries), shares).scaled(face_size)
    return _build({"preset": option} if isinstance(option, str) else dict(option or {})).scaled(face_size)


def _build(overrides: dict[str, Any]) -> Degradation | WorldDegradation:
    preset = overrides.pop("preset", None)
    if preset not in PRESETS:
        raise ValueError(f"degradation: preset: {preset!r} is unknown; choose one of {', '.join(PRESETS)}")
    base = PRESETS[preset]
    fields = {field.name: field for field in dataclasses.fields(base) if field.name != "face_size"}
    for key, value in overrides.items():
        if key not in fields:
            raise ValueError(f"degradation: {key} is unknown; known keys are preset, {', '.join(fields)}")
        overrides[key] = _parse(key, value, str(fields[key].type))
    try:
        return dataclasses.replace(base, **overrides)
    except ValueError as error:
        raise ValueError(f"degradation: {error}") from error


def _parse(key: str, value: Any, kind: str) -> Any:
    """Check a value of an option file against a field's annotation; lists of two numbers become ranges."""
    if value is None and kind.endswith("None"):
        return None
    if kind == "bool":
        if isinstance(value, bool):
            return value
        raise ValueError(f"degradation: {key}: {value!r} must be true or false")
    number = int if kind.startswith(("int", "tuple[int")) else float
    is_range = kind.startswith(("Range", "tuple"))
    items = list(value) if is_range and isinstance(value, (list, tuple)) else [value]
    numeric = all(isinstance(v, (int, float)) and not isinstance(v, bool) and number(v) == v for v in items)
    if not numeric or len(items) != (2 if is_range else 1):
        expected = f"a list of two {number.__name__}s" if is_range else f"one {number.__name__}"
        raise ValueError(f"degradation: {key}: {value!r} must be {expected}")
    return tuple(number(v) for v in items) if is_range else number(items[0])


def degrade(gt: Image, config: Degrades, rng: np.random.Generator) -> tuple[Image, Image]:
    """Return the pair (lq, gt): a degraded copy of a face, and the face itself or what a preset makes of it.

    Args:
        gt: RGB, (H, W, 3), float32 in [0, 1].
        config: already scaled to the face's size.
        rng: source of every draw.

    Returns:
        lq and gt of the same shape and range; lq holds multiples of 1/255, as a file would.
    """
    return config.apply(gt, rng)
