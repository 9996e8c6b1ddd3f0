"""Write pictures whole or not at all, with what they hold: 16 bit, alpha, EXIF, ICC profile."""

from __future__ import annotations

import errno
import io
import logging
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from lafr_base.files import shown, whole
from lafr_base.images.photo import DiskError, ImageError, to_uint8
from lafr_base.images.png import chunk

logger = logging.getLogger(__name__)

OUTPUT_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
"""Suffixes that `write_image` can write."""

MAX_SIDE = {".jpg": 65_500, ".jpeg": 65_500, ".webp": 16_383}
"""Longest side in pixels that a format (libjpeg, libwebp) can hold."""

_NAMES_FAULTS = (errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG, errno.EEXIST)
_EXIF_LIMIT = 65_533  # bytes of a JPEG APP1 segment


def write_image(
    path: str | Path,
    bgr: np.ndarray,
    *,
    alpha: np.ndarray | None = None,
    gray: bool = False,
    icc_profile: bytes | None = None,
    exif: bytes | None = None,
    quality: int = 95,
    unfinished: Path | None = None,
) -> Path:
    """Write a picture whole or not at all: into a temporary file, then renamed over `path`.

    PNG holds everything. JPEG and WebP hold 8 bit, JPEG no alpha: what is lost is logged as a warning.

    Args:
        path: file with one of `OUTPUT_SUFFIXES`; missing folders are made.
        bgr: (H, W, 3) uint8 or uint16.
        alpha: (H, W) of the same dtype, or None.
        gray: write one colour channel if the three are equal.
        icc_profile: colour profile; left out where its colour space is not that of the written channels.
        exif: EXIF block to embed.
        quality: of JPEG and WebP, 1 to 100. JPEG chroma is not subsampled.
        unfinished: folder for the temporary file, on the same disk; None for that of `path`.

    Raises:
        ImageError: unknown suffix, a side longer than the format's `MAX_SIDE`, or a name that cannot be.
        DiskError: the disk refuses.
    """
    path = Path(path)
    name, suffix = shown(path), path.suffix.lower()
    if suffix not in OUTPUT_SUFFIXES:
        raise ImageError(f"{name}: cannot write '{suffix}'; use one of {', '.join(OUTPUT_SUFFIXES)}")
    limit = MAX_SIDE.get(suffix)
    if limit is not None and max(bgr.shape[:2]) > limit:
        size = f"{bgr.shape[1]} x {bgr.shape[0]}"
        raise ImageError(f"{name}: {size} px is too large for {suffix}, which holds {limit} px a side; use png")
    if suffix != ".png" and bgr.dtype == np.uint16:
        logger.warning("%s: %s holds 8 bit only, 16-bit values are rounded; use png to keep them", name, suffix)
        bgr, alpha = to_uint8(bgr), None if alpha is None else to_uint8(alpha)
    if suffix in (".jpg", ".jpeg") and alpha is not None:
        logger.warning("%s: JPEG has no alpha channel, transparency is dropped; use png or webp to keep it", name)
        alpha = None
    gray = gray and bool((bgr[..., 0] == bgr[..., 1]).all() and (bgr[..., 1] == bgr[..., 2]).all())
    if icc_profile is not None and icc_profile[16:20] != (b"GRAY" if gray and alpha is None else b"RGB "):
        icc_profile = None
    if exif is not None and len(exif) > _EXIF_LIMIT and suffix != ".png":
        logger.warning("%s: the EXIF block is too long for %s and is left out", name, suffix)
        exif = None
    if suffix == ".png":
        data = _encode_png(bgr, alpha, gray, icc_profile, exif)
    else:
        data = _encode_pil(bgr, alpha, gray, suffix, quality, icc_profile, exif)
    _replace(path, data, path.parent if unfinished is None else unfinished)
    return path


def _encode_png(
    bgr: np.ndarray, alpha: np.ndarray | None, gray: bool, icc_profile: bytes | None, exif: bytes | None
) -> bytes:
    """Encode with OpenCV, which alone writes 16-bit colour, and add the chunks that it cannot write."""
    if alpha is not None:
        pixels = np.dstack((bgr, alpha))
    else:
        pixels = np.ascontiguousarray(bgr[..., 0]) if gray else bgr
    done, encoded = cv2.imencode(".png", pixels)
    if not done:
        raise ImageError(f"a picture of shape {pixels.shape} and type {pixels.dtype} cannot be encoded as PNG")
    data = encoded.tobytes()
    chunks = b""
    if icc_profile is not None:
        chunks += chunk(b"iCCP", b"ICC Profile\0\0" + zlib.compress(icc_profile))
    if exif is not None:
        chunks += chunk(b"eXIf", exif.removeprefix(b"Exif\0\0"))
    end_of_header = 8 + 25  # signature, IHDR
    return data[:end_of_header] + chunks + data[end_of_header:]


def _encode_pil(
    bgr: np.ndarray,
    alpha: np.ndarray | None,
    gray: bool,
    suffix: str,
    quality: int,
    icc_profile: bytes | None,
    exif: bytes | None,
) -> bytes:
    if alpha is not None:
        image = Image.fromarray(np.dstack((bgr[..., ::-1], alpha)))
    else:
        image = Image.fromarray(np.ascontiguousarray(bgr[..., 0] if gray else bgr[..., ::-1]))
    options: dict[str, Any] = {"quality": quality}
    if suffix in (".jpg", ".jpeg"):
        options |= {"format": "JPEG", "subsampling": 0}
    else:
        options |= {"format": "WEBP", "exact": True}  # keep the colour of fully transparent pixels
    if icc_profile is not None:
        options["icc_profile"] = icc_profile
    if exif is not None:
        options["exif"] = exif
    buffer = io.BytesIO()
    image.save(buffer, **options)
    return buffer.getvalue()


def _replace(path: Path, data: bytes, folder: Path) -> None:
    try:
        with whole(path, folder) as part:
            part.write_bytes(data)
    except OSError as error:
        if error.errno == errno.EXDEV and folder != path.parent:  # a folder of results is a link to another disk
            return _replace(path, data, path.parent)
        kind = ImageError if error.errno in _NAMES_FAULTS else DiskError
        reason = error.strerror or error
        raise kind(f"{shown(path)}: cannot be written ({reason}); choose another output folder") from error
