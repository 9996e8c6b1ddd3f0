"""What a photo is once it is read, and what is said of one that cannot be."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np


class ImageError(ValueError):
    """A photo that cannot be read or written; the message names the file, the cause and what to do."""


class DiskError(ImageError):
    """A file that the system does not let be read or written: the photo itself may be in order."""


@dataclass
class Photo:
    """A decoded photo, turned upright by its EXIF orientation.

    Attributes:
        bgr: (H, W, 3) uint8 or uint16, blue first; gray files have three equal channels.
        alpha: (H, W) of the same dtype, or None where the file has no alpha channel.
        gray: whether the file has a single colour channel.
        icc_profile: embedded colour profile, or None. CMYK is converted to sRGB on reading and has none.
        exif: EXIF block as bytes, its orientation set to upright, or None.
        path: the file it came from.
        format: Pillow's name of the file's format ("JPEG", "PNG", ...); empty for an array that was no file.
        damage: what is missing or may be wrong in the picture, in words for its owner; None where nothing
            is known to be.
        digest: of the file's bytes, hexadecimal; empty for an array that was no file.
    """

    bgr: np.ndarray
    alpha: np.ndarray | None = None
    gray: bool = False
    icc_profile: bytes | None = None
    exif: bytes | None = None
    path: Path | None = None
    format: str = ""
    damage: str | None = None
    digest: str = ""


def to_uint8(image: np.ndarray) -> np.ndarray:
    """Return a uint16 picture rounded to uint8 (65535 becomes 255); a uint8 one as it is."""
    if image.dtype == np.uint8:
        return image
    return cv2.convertScaleAbs(image, alpha=1 / 257)  # OpenCV rounds and saturates, without a float copy
