"""In which formats photos are read, and how large they may be: all decided before anything is decoded."""

from __future__ import annotations

import functools
import re

import pi_heif
from PIL import Image

from lafr_base.images.photo import ImageError

FORMATS = (
    "AVIF",
    "BMP",
    "DDS",
    "GIF",
    "HEIF",
    "ICO",
    "JPEG",
    "JPEG2000",
    "PCX",
    "PNG",
    "PPM",
    "PSD",
    "QOI",
    "SGI",
    "TGA",
    "TIFF",
    "WEBP",
)
"""Pillow's names of the formats that are read (MPO, which many phones write, is a kind of JPEG). Left out are those for
which Pillow starts another program (EPS), and those that hold no photos (icons of systems, films, measured data)."""

IMAGE_SUFFIXES = frozenset(
    f".{name}"
    for name in re.findall(
        r"\w+",
        "avif bmp dds gif heic heif hif ico j2k jfif jp2 jpe jpeg jpf jpg jpx mpo pbm pcx pgm png pnm ppm psd qoi sgi"
        " tga tif tiff webp",
    )
)
"""Suffixes (lower case) of files that are taken for photos without a look into them."""

MAX_PIXELS = 200_000_000
"""Largest photo read, in pixels: what phones of 200 megapixels take. Of 16 bit, half as many."""

MAX_FILE_BYTES = 1_000_000_000
"""Longest file read: the largest photo of 16 bit with alpha, not compressed, has 0.8 GB."""

# Pixels that a byte of a file can stand for at most: deflate 1,032 bytes of 8 pixels, a code of GIF's LZW 4,096 pixels
# in 12 bits (rounded up), a block of JPEG (64 pixels, in colour four of six) about 1 bit.
_PIXELS_PER_BYTE = {"PNG": 8 * 1032, "GIF": 4096, "JPEG": 4096, "MPO": 4096}


@functools.cache
def register_formats() -> None:
    """Let Pillow know all formats."""
    Image.init()
    pi_heif.register_heif_opener()


def check_file_size(name: str, size: int) -> None:
    """Check a file's length in bytes.

    Raises:
        ImageError: it is empty, or longer than `MAX_FILE_BYTES`.
    """
    if not size:
        raise ImageError(f"{name}: the file is empty (0 bytes); copy or download it again")
    if size > MAX_FILE_BYTES:
        raise ImageError(f"{name}: {size:,} bytes are more than the {MAX_FILE_BYTES:,} allowed; make it smaller")


def check_size(name: str, image_format: str, width: int, height: int, file_size: int, deep: bool = False) -> None:
    """Check what a file's header says of its picture.

    Args:
        name: the file, for the message.
        image_format: Pillow's name.
        width: in pixels, as `height`.
        height: see `width`.
        file_size: bytes of the file.
        deep: the pixels have 16 bit.

    Raises:
        ImageError: the picture is too large, or cannot be in so short a file.
    """
    size = f"{width} x {height} px"
    if width < 1 or height < 1:
        raise ImageError(f"{name}: {size} is no picture; copy or download it again")
    limit = MAX_PIXELS // 2 if deep else MAX_PIXELS
    if width * height > limit:
        depth = " of 16 bit" if deep else ""
        raise ImageError(f"{name}: {size} is more than the {limit:,} pixels{depth} allowed; make it smaller")
    if width * height > file_size * _PIXELS_PER_BYTE.get(image_format, MAX_PIXELS):
        raise ImageError(f"{name}: truncated: {file_size} bytes cannot hold {size}; copy or download it again")


def looks_like_image(start: bytes) -> bool:
    """Tell from a file's first 64 bytes whether it is of one of `FORMATS`; TGA cannot be told."""
    register_formats()
    return any(_accepts(name, start) for name in FORMATS)


def _accepts(name: str, start: bytes) -> bool:
    opener = Image.OPEN.get(name)
    accept = None if opener is None else opener[1]
    return accept is not None and accept(start) is True
