"""Pixels out of an image that Pillow has opened."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageCms

from lafr_base.images.photo import ImageError

logger = logging.getLogger(__name__)

_STRIP = 4_000_000  # pixels converted at once
_LEAST_SHARE = 8  # an eighth of a picture that is not compressed must be there


@dataclass
class Pixels:
    """A decoded picture, as it is stored: not turned by its orientation.

    Attributes:
        bgr: (H, W, 3) uint8 or uint16.
        alpha: (H, W) of the same type, or None.
        gray: whether the file has a single colour channel.
        is_srgb: colours were converted, so that the file's profile is not theirs.
        damage: see `lafr_base.images.Photo`.
    """

    bgr: np.ndarray
    alpha: np.ndarray | None = None
    gray: bool = False
    is_srgb: bool = False
    damage: str | None = None

    def fill_missing(self, missing: np.ndarray) -> None:
        """Make the rows that are `missing`, (H,) bool, gray and opaque, and say so; nothing where none is."""
        count = int(missing.sum())
        if not count:
            return
        top = np.iinfo(self.bgr.dtype).max
        self.bgr[missing] = top // 2 + 1
        if self.alpha is not None:
            self.alpha[missing] = top
        self.damage = f"cut short; {count} of {len(missing)} rows of pixels are missing"


@dataclass
class Loaded:
    """An image that Pillow has decoded.

    Attributes:
        image: the image.
        data: its file.
        missing: (H,) bool, rows that the file does not hold.
        damage: what else may be wrong.
    """

    image: Image.Image
    data: bytes
    missing: np.ndarray
    damage: str | None = None


def is_deep(image: Image.Image, data: bytes) -> bool:
    """Tell whether an image has 16 bit that Pillow reduces to 8 or holds in a way of its own."""
    if image.format == "PNG":
        return data[24] == 16  # bit depth in IHDR, always the first chunk
    if image.format == "TIFF":
        bits: Any = image.tag_v2.get(258, (1,))  # type: ignore[attr-defined]
        return max(bits) == 16
    return False


def load(
    image: Image.Image, data: bytes, rows: int | None, reopen: Callable[[bytes], Image.Image], name: str
) -> Loaded:
    """Decode.

    A picture that is not compressed and is cut short is decoded twice, filled up with zeros and with ones: rows that
    differ are missing.

    Args:
        image: as opened.
        data: its file.
        rows: how many rows the file holds, where that is known.
        reopen: opens other data as `image` was.
        name: the file's name, for messages.

    Raises:
        ImageError: less than an eighth of it is there, or its pixels are of a kind that is not supported.
        Exception: whatever Pillow's decoders raise on damaged files.
    """
    if image.mode in ("I", "F"):
        raise ImageError(f"{name}: 32-bit pixels (mode {image.mode}) are not supported; convert to 8 or 16 bit")
    tiles = list(getattr(image, "tile", []))
    missing = np.arange(image.height) >= (image.height if rows is None else rows)
    try:
        image.load()
        return Loaded(image, data, missing, _excess(image, tiles, data))
    except OSError as error:
        if "truncated" not in str(error) or not tiles or any(tile[0] != "raw" for tile in tiles):
            raise
    size = image.width * image.height * len(image.getbands()) * (2 if is_deep(image, data) else 1)
    if len(data) * _LEAST_SHARE < size:
        raise ImageError(f"{name}: truncated: too little of the picture is there; copy or download it again")
    zeros, ones = data + bytes(size), data + b"\xff" * size
    image, other = reopen(zeros), reopen(ones)
    image.load()
    with other:
        other.load()
        for top in range(0, image.height, strip := max(1, _STRIP // image.width)):
            box = (0, top, image.width, min(top + strip, image.height))
            differ = np.asarray(image.crop(box)) != np.asarray(other.crop(box))
            missing[box[1] : box[3]] = differ.reshape(len(differ), -1).any(axis=1)
    return Loaded(image, zeros, missing)


def _excess(image: Image.Image, tiles: list[Any], data: bytes) -> str | None:
    """Say so where a file whose length follows from its header is longer by a row or more."""
    if image.format not in ("BMP", "PPM") or len(tiles) != 1 or tiles[0][0] != "raw":
        return None
    if image.format == "BMP" and data[14] == 124:
        return None  # of this version, a profile may follow
    _, _, offset, args = tiles[0]
    bits = 1 if image.mode == "1" else 8 * len(image.getbands())
    row = (args[1] if isinstance(args, tuple) else 0) or (image.width * bits + 7) // 8
    if len(data) - offset < row * (image.height + 1):
        return None
    return "damaged, or several pictures in one: the file is longer than its header says; the picture may be wrong"


def take_pixels(loaded: Loaded, name: str) -> Pixels:
    """Convert an image of 8 bit, strip by strip, so that memory holds it only once more."""
    image, is_srgb = loaded.image, False
    if image.mode == "LAB":
        raise ImageError(f"{name}: colours of the kind {image.mode} are not supported; convert to RGB")
    if image.mode == "CMYK":
        image, is_srgb = _cmyk_to_rgb(image, name), True
    has_alpha = image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info
    width, height = image.size
    bgr = np.empty((height, width, 3), np.uint8)
    alpha = np.empty((height, width), np.uint8) if has_alpha else None
    for top in range(0, height, strip := max(1, _STRIP // width)):
        bottom = min(top + strip, height)
        part = image if strip >= height else image.crop((0, top, width, bottom))
        pixels = np.asarray(part.convert("RGBA" if has_alpha else "RGB"))
        bgr[top:bottom] = pixels[..., 2::-1]
        if alpha is not None:
            alpha[top:bottom] = pixels[..., 3]
    found = Pixels(bgr, alpha, image.mode in ("1", "L", "LA", "La"), is_srgb, loaded.damage)
    found.fill_missing(loaded.missing)
    return found


def take_deep_pixels(loaded: Loaded, name: str) -> Pixels:
    """Decode an image of 16 bit by OpenCV."""
    unsupported = ImageError(f"{name}: this kind of 16-bit image is not supported; convert it to a 16-bit RGB PNG")
    try:
        decoded = cv2.imdecode(np.frombuffer(loaded.data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        raise unsupported from None
    if decoded is None or decoded.dtype != np.uint16:
        raise unsupported
    pixels = np.atleast_3d(decoded)
    if pixels.shape[2] == 1:
        pixels = np.repeat(pixels, 3, axis=2)
    if pixels.shape[2] not in (3, 4) or pixels.shape[1::-1] != loaded.image.size:
        raise unsupported
    alpha = pixels[..., 3].copy() if pixels.shape[2] == 4 else None
    gray = loaded.image.mode in ("L", "LA") or loaded.image.mode.startswith("I;16")
    found = Pixels(pixels[..., :3], alpha, gray, damage=loaded.damage)
    found.fill_missing(loaded.missing)
    return found


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Apply EXIF orientation 1 to 8 (CIPA DC-008, 4.6.4 A) to (H, W, ...) pixels."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def _cmyk_to_rgb(image: Image.Image, name: str) -> Image.Image:
    profile = image.info.get("icc_profile")
    if profile:
        try:
            source, srgb = ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
            converted = ImageCms.profileToProfile(image, source, srgb, outputMode="RGB")
            if converted is not None:
                return converted
        except (ImageCms.PyCMSError, OSError) as error:
            logger.warning("%s: the CMYK profile cannot be used (%s); plain conversion instead", name, error)
    return image.convert("RGB")
