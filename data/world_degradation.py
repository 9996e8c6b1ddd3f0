"""WorldDegradation: what happens to photos of people in the world, from nothing at all to two rounds of everything.

The idea of two rounds and of shuffled resampling kernels is Real-ESRGAN's (Wang et al., 2021); lens and motion blur,
shot noise, grain, halos, WebP and faded prints are added here, and a share of photos that are hardly damaged.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import cv2
import numpy as np

from lafr_data.degradation_steps import (
    Image,
    Range,
    anisotropic_kernel,
    compress_jpeg,
    compress_webp,
    disk_kernel,
    motion_kernel,
    to_gray,
    validate_ranges,
)

REFERENCE_SIZE = 512
_SHRINK = (cv2.INTER_AREA, cv2.INTER_LINEAR, cv2.INTER_CUBIC)
_ENLARGE = (cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_LANCZOS4)
_SEPIA = np.array([1.07, 0.98, 0.82], np.float32)
_SECOND_ROUND = 0.5
"""How much weaker the second round's blur, noise and resizing are."""


def _log_uniform(rng: np.random.Generator, bounds: Range) -> float:
    return float(np.exp(rng.uniform(*np.log(bounds))))


@dataclass(frozen=True, kw_only=True)
class WorldDegradation:
    """What may happen to a face; ranges are ``(low, high)``, probabilities within 0 to 1.

    Blur is given in pixels of a 512 x 512 face, whatever the size of the images: see :meth:`scaled`. Changes of colour
    that a restorer should leave as they are, gray, sepia and fading, happen to GT as well.

    Raises:
        ValueError: a value is out of range; the message names the key.
    """

    intact_prob: float = 0.12
    """Probability of no damage but a last compression at ``intact_quality``, or not even that."""
    intact_quality: tuple[int, int] = (85, 98)
    """JPEG quality of such photos."""
    blur_prob: float = 0.85
    """Probability of blur in the first round."""
    blur_sigma: Range = (0.3, 10)
    """Standard deviation of the Gaussian blur in pixels, drawn log-uniformly; twice for an anisotropic kernel."""
    lens_prob: float = 0.15
    """Share of the blurs that are a disk, as out of focus, of radius 1.5 sigma."""
    motion_prob: float = 0.15
    """Share of the blurs that are a straight line, as of a moved camera, of length 3 sigma."""
    downsample_range: Range = (1, 14)
    """Factor by which the face is shrunk, drawn log-uniformly; the kernel is drawn, too."""
    noise_prob: float = 0.7
    """Probability of sensor noise."""
    noise_range: Range = (0, 25)
    """Standard deviation of the noise in units of 1/255."""
    shot_prob: float = 0.4
    """Share of the noises whose variance grows with the brightness, as photons' does; half of all are gray."""
    grain_prob: float = 0.08
    """Probability of a scanned print's grain: noise of two pixels' size, strongest in the middle tones."""
    halo_prob: float = 0.12
    """Probability of over-sharpening after the resizing."""
    jpeg_range: tuple[int, int] = (30, 95)
    """JPEG or WebP quality, 1 to 100."""
    webp_prob: float = 0.15
    """Share of the compressions by WebP; the others are JPEG, in three of ten with full chroma."""
    second_prob: float = 0.4
    """Probability of a second, weaker round."""
    gray_prob: float = 0.06
    """Probability of a gray photo, GT too."""
    tint_prob: float = 0.05
    """Probability of a sepia or faded print, GT too."""
    face_size: int = REFERENCE_SIZE
    """Side of the face in pixels; set by :meth:`scaled`."""

    def __post_init__(self) -> None:
        validate_ranges(self)

    def scaled(self, face_size: int) -> WorldDegradation:
        """Return this degradation for faces of ``face_size`` pixels; only the blur scales with them."""
        return dataclasses.replace(self, face_size=face_size)

    def apply(self, gt: Image, rng: np.random.Generator) -> tuple[Image, Image]:
        """Return the pair (lq, gt), RGB (H, W, 3) float32 in [0, 1] of the size of ``gt``; a function of ``rng``."""
        gt = self._tint(gt, rng)
        if rng.random() < self.intact_prob:
            lq = gt
            if rng.random() < 0.7:
                lq = compress_jpeg(gt, int(rng.integers(*self.intact_quality, endpoint=True)))
            return lq, gt
        lq = self._round(gt, rng, 1.0)
        if rng.random() < self.second_prob:
            lq = self._round(lq, rng, _SECOND_ROUND)
        height, width = gt.shape[:2]
        lq = cv2.resize(lq, (width, height), interpolation=int(rng.choice(_ENLARGE)))
        return np.rint(np.clip(lq, 0, 1) * 255).astype(np.float32) / 255, gt

    def _tint(self, gt: Image, rng: np.random.Generator) -> Image:
        kind = rng.random()
        if kind < self.gray_prob:
            return to_gray(gt)
        if kind < self.gray_prob + self.tint_prob:
            saturation, black = np.float32(rng.uniform(0, 0.6)), np.float32(rng.uniform(0, 0.15))
            faded = to_gray(gt) * (1 - saturation) + gt * saturation
            tint = _SEPIA if rng.random() < 0.5 else np.ones(3, np.float32)
            return np.clip((faded * (1 - black) + black) * tint, 0, 1)
        return gt

    def _round(self, image: Image, rng: np.random.Generator, strength: float) -> Image:
        if rng.random() < self.blur_prob * strength:
            image = self._blur(image, rng, strength)
        low, high = self.downsample_range
        factor = _log_uniform(rng, (low, max(low, high * strength**3)))
        side = (max(8, round(image.shape[1] / factor)), max(8, round(image.shape[0] / factor)))
        image = cv2.resize(image, side, interpolation=int(rng.choice(_SHRINK)))
        if rng.random() < self.halo_prob:
            soft = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.6, 2))
            image = image + np.float32(rng.uniform(0.3, 1.5)) * (image - soft)
        image = np.clip(image, 0, 1)
        if rng.random() < self.noise_prob:
            image = self._noise(image, rng, strength)
        if rng.random() < self.grain_prob:
            grain = cv2.GaussianBlur(rng.standard_normal(image.shape[:2], dtype=np.float32), (0, 0), 0.9)[..., None]
            image = image + grain * np.float32(rng.uniform(0.03, 0.12)) * 4 * image * (1 - image)
        image = np.clip(image, 0, 1)
        quality = int(rng.integers(*self.jpeg_range, endpoint=True))
        if rng.random() < self.webp_prob:
            return compress_webp(image, quality)
        return compress_jpeg(image, quality, full_chroma=rng.random() < 0.3)

    def _blur(self, image: Image, rng: np.random.Generator, strength: float) -> Image:
        scale = strength * self.face_size / REFERENCE_SIZE
        sigma = scale * _log_uniform(rng, self.blur_sigma)
        kind = rng.random()
        if kind < self.lens_prob:
            kernel = disk_kernel(1.5 * sigma)
        elif kind < self.lens_prob + self.motion_prob:
            kernel = motion_kernel(3 * sigma, rng.uniform(0, np.pi))
        elif rng.random() < 0.5:
            return cv2.GaussianBlur(image, (0, 0), sigma)
        else:
            other = scale * _log_uniform(rng, self.blur_sigma)
            size = 2 * int(np.ceil(3 * max(sigma, other))) + 1
            kernel = anisotropic_kernel(min(size, 61), sigma, other, rng.uniform(-np.pi, np.pi))
        return cv2.filter2D(image, -1, kernel, borderType=cv2.BORDER_REFLECT_101)

    def _noise(self, image: Image, rng: np.random.Generator, strength: float) -> Image:
        sigma = np.float32(strength * rng.uniform(*self.noise_range) / 255)
        shape = image.shape[:2] + ((1,) if rng.random() < 0.5 else (3,))
        noise = sigma * rng.standard_normal(shape, dtype=np.float32)
        if rng.random() < self.shot_prob:
            noise = noise * np.sqrt(image / 0.5)
        return image + noise
