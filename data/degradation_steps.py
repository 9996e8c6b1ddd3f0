"""Steps that degradations are made of: blur kernels, compression, colour, and the check of a configuration's ranges."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[Any]
"""RGB, (H, W, 3), float32 in [0, 1]."""
Range = tuple[float, float]

_SMALLEST = 1e-6  # OpenCV takes a sigma of 0 as "choose one"
_LIMITS: dict[str, tuple[float, float]] = {
    "blur_sigma": (_SMALLEST, math.inf),
    "downsample_range": (0.1, math.inf),
    "noise_range": (0, math.inf),
    "jpeg_range": (1, 100),
    "intact_quality": (1, 100),
    "color_jitter_shift": (0, 255),
    "brightness": (0, math.inf),
    "contrast": (0, math.inf),
    "saturation": (0, math.inf),
    "hue": (-0.5, 0.5),
}


def validate_ranges(config: Any) -> None:
    """Check the ranges and probabilities (fields that end in ``_prob``) of a dataclass.

    Raises:
        ValueError: a value is out of range; the message names the field.
    """
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        limits = (0.0, 1.0) if field.name.endswith("_prob") else _LIMITS.get(field.name)
        if value is None or limits is None:
            continue
        low, high = value if isinstance(value, tuple) else (value, value)
        lowest, highest = limits
        if not lowest <= low <= high <= highest:
            raise ValueError(f"{field.name}: {value} must lie within {lowest:g} to {highest:g}, low before high")


def anisotropic_kernel(size: int, sigma_x: float, sigma_y: float, rotation: float) -> NDArray[Any]:
    """Return a rotated Gaussian kernel, (size, size), sum 1, as ``bivariate_Gaussian`` of BasicSR does.

    Args:
        size: side in pixels, odd.
        sigma_x: standard deviation along the first axis, pixels.
        sigma_y: standard deviation along the second axis, pixels.
        rotation: angle of the axes, radians.
    """
    axis = np.arange(size, dtype=np.float64) - size // 2
    cos, sin = math.cos(rotation), math.sin(rotation)
    along = cos * axis[None, :] + sin * axis[:, None]
    across = -sin * axis[None, :] + cos * axis[:, None]
    kernel = np.exp(-0.5 * ((along / sigma_x) ** 2 + (across / sigma_y) ** 2))
    return (kernel / kernel.sum()).astype(np.float32)


def disk_kernel(radius: float) -> NDArray[Any]:
    """Return a lens out of focus: a disk of ``radius`` pixels with a soft rim, (N, N) with N odd, sum 1."""
    half = math.ceil(radius + 0.5)
    axis = np.arange(-half, half + 1, dtype=np.float64)
    kernel = np.clip(radius + 0.5 - np.hypot(axis[:, None], axis[None, :]), 0, 1)
    return (kernel / kernel.sum()).astype(np.float32)


def motion_kernel(length: float, angle: float) -> NDArray[Any]:
    """Return a straight motion of ``length`` pixels at ``angle`` radians, (N, N) with N odd, sum 1."""
    half = math.ceil(length / 2 + 1)
    axis = np.arange(-half, half + 1, dtype=np.float64)
    along = axis[None, :] * math.cos(angle) + axis[:, None] * math.sin(angle)
    across = axis[:, None] * math.cos(angle) - axis[None, :] * math.sin(angle)
    kernel = np.clip(length / 2 + 0.5 - np.abs(along), 0, 1) * np.clip(1 - np.abs(across), 0, 1)
    return (kernel / kernel.sum()).astype(np.float32)


def compress_jpeg(image: Image, quality: int, full_chroma: bool = False) -> Image:
    """Return an RGB image, (H, W, 3) in [0, 1], after JPEG at ``quality`` (1 to 100).

    The colours have half the resolution, OpenCV's default, unless ``full_chroma``.
    """
    options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    if full_chroma:
        options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    return _compress(image, ".jpg", options)


def compress_webp(image: Image, quality: int) -> Image:
    """Return an RGB image, (H, W, 3) in [0, 1], after lossy WebP at ``quality`` (1 to 100)."""
    return _compress(image, ".webp", [cv2.IMWRITE_WEBP_QUALITY, quality])


def _compress(image: Image, suffix: str, options: list[int]) -> Image:
    bgr = cv2.cvtColor((image * 255).round().astype(np.uint8), cv2.COLOR_RGB2BGR)
    _, code = cv2.imencode(suffix, bgr, options)
    decoded = np.asarray(cv2.imdecode(code, cv2.IMREAD_COLOR))
    return cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB).astype(np.float32) / 255


def to_gray(image: Image) -> Image:
    """Return the gray of an RGB image, (H, W, 3), as RGB."""
    return cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)


def adjust_color(image: Image, operation: str, amount: float) -> Image:
    """Change one property of an RGB image in [0, 1], as torchvision's ``adjust_<operation>`` does.

    Args:
        image: (H, W, 3).
        operation: brightness, contrast, saturation (a factor) or hue (a shift in turns).
        amount: the factor or shift.
    """
    if operation == "hue":
        hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
        hsv[..., 0] = (hsv[..., 0] + 360 * amount) % 360
        changed = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    elif operation == "brightness":
        changed = image * np.float32(amount)
    else:
        gray = to_gray(image)
        base = gray.mean() if operation == "contrast" else gray
        changed = np.float32(amount) * image + np.float32(1 - amount) * base
    return np.clip(changed, 0, 1)
