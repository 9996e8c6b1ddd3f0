"""Netpbm files of 16 bit (PGM, PPM): Pillow reads colour as 8 bit and gray as 32 bit."""

from __future__ import annotations

import re

import numpy as np

from lafr_base.images.photo import ImageError
from lafr_base.images.pixels import Pixels

MAX_TEXT_VALUES = 30_000_000
"""Most numbers read from a file that spells them out: each takes ten times its memory meanwhile."""

_TOKEN = re.compile(rb"(?:\s|#[^\r\n]*[\r\n])*(\d{1,9})")


def deep_header(data: bytes) -> tuple[int, int, int, int] | None:
    """Return width, height, largest value and where the header ends; None for a file of 8 bit or another format."""
    if data[:1] != b"P" or data[1:2] not in (b"2", b"3", b"5", b"6"):
        return None
    numbers: list[int] = []
    position = 2
    while len(numbers) < 3:
        match = _TOKEN.match(data, position, position + 100_000)
        if match is None:
            return None
        numbers.append(int(match[1]))
        position = match.end()
    width, height, top = numbers
    return (width, height, top, position + 1) if 255 < top < 65536 else None


def decode_deep(data: bytes, header: tuple[int, int, int, int], name: str) -> Pixels:
    """Decode a file of 16 bit.

    Args:
        data: the file.
        header: from `deep_header`.
        name: the file's name, for messages.

    Returns:
        The pixels, scaled to 65535; those that are not there are gray.

    Raises:
        ImageError: no row is there, or there is something else than numbers.
    """
    width, height, top, start = header
    channels = 3 if data[1:2] in b"36" else 1
    count = width * height * channels
    if start >= len(data):
        raise ImageError(f"{name}: truncated: no row of pixels is there; copy or download it again")
    if data[1:2] in b"56":
        values = np.frombuffer(data, ">u2", min(count, (len(data) - start) // 2), start)
    elif count > MAX_TEXT_VALUES:
        raise ImageError(f"{name}: too large for a file that spells its numbers out; convert it to PNG")
    else:
        try:
            values = np.array(data[start - 1 :].split()[:count], dtype=np.uint32)
        except (ValueError, OverflowError):
            raise ImageError(f"{name}: damaged: something else than numbers among its pixels") from None
    rows = len(values) // (width * channels)
    if not rows:
        raise ImageError(f"{name}: truncated: no row of pixels is there; copy or download it again")
    pixels = np.zeros((height, width, channels), np.uint16)
    there = values[: rows * width * channels].reshape(rows, width, channels)
    if top == 65535:
        pixels[:rows] = np.minimum(there, top)
    else:
        for row in range(rows):
            pixels[row] = (np.minimum(there[row].astype(np.uint32), top) * 65535 + top // 2) // top
    bgr = np.repeat(pixels, 3, axis=2) if channels == 1 else pixels[..., ::-1]
    found = Pixels(bgr, gray=channels == 1)
    found.fill_missing(np.arange(height) >= rows)
    return found
