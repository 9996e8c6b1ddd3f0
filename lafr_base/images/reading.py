"""A file, or its bytes, to a photo.

Pillow decodes, except that it reduces 16-bit colour to 8 bit; there OpenCV decodes. OpenCV in turn would drop profiles
and metadata: those are always taken by Pillow. Pixels come first: what is wrong with them is told, whatever
else there is.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import os
import stat
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from lafr_base.files import shown
from lafr_base.images import jpeg, netpbm, png, tiff
from lafr_base.images.budget import FORMATS, check_file_size, check_size, looks_like_image, register_formats
from lafr_base.images.metadata import Metadata, has_second_frame, read_metadata, read_png_metadata
from lafr_base.images.photo import DiskError, ImageError, Photo
from lafr_base.images.pixels import Pixels, is_deep, load, take_deep_pixels, take_pixels, upright

logger = logging.getLogger(__name__)

_TGA_SUFFIXES = (".tga", ".icb", ".vda", ".vst")
_TGA_FOOTER = b"TRUEVISION-XFILE.\0"

_limit_lock = threading.Lock()
_readers = 0  # photos that are being read by any thread
_pillows_limit: int | None = None  # meanwhile


def read_image(path: str | Path) -> Photo:
    """Read a photo of any of `lafr_base.images.budget.FORMATS`, told by its content, not its name.

    Gray, palette, RGB(A), CMYK, 8 or 16 bit. Of several frames or pages the first is read, with a warning. A file that
    is cut short, or a JPEG that libjpeg complains of, gives what is there, with `Photo.damage` and a warning.

    Raises:
        ImageError: the file is missing, empty, damaged, no image, larger than the limits of `lafr_base.images.budget`,
            or of a kind that is not supported (floating point or 32-bit pixels, cameras' raw files).
        DiskError: the system refuses to read it.
    """
    path = Path(path)
    return decode_image(_read_file(path), path)


def is_image(path: str | Path) -> bool:
    """Tell by its first bytes whether a file is of a format that is read. TGA cannot be told.

    Raises:
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        return looks_like_image(file.read(64))


def decode_image(data: bytes, path: str | Path) -> Photo:
    """Read a photo from a file's bytes.

    Args:
        data: the file.
        path: what it is called, for messages. It need not exist; its suffix matters for TGA alone, which has no mark.

    Raises:
        ImageError: as `read_image`.
    """
    path, name = Path(path), shown(path)
    check_file_size(name, len(data))
    digest = hashlib.blake2b(data, digest_size=16).hexdigest()
    header = netpbm.deep_header(data)
    if header is not None:
        check_size(name, "PPM", header[0], header[1], len(data), deep=True)
        pixels, metadata, found = netpbm.decode_deep(data, header, name), Metadata(), "PPM"
    else:
        with _own_pixel_limit():
            pixels, metadata, found = _decode(path, name, data)
    if pixels.damage is not None:
        logger.warning("%s: %s", name, pixels.damage)
    return Photo(
        bgr=np.ascontiguousarray(upright(pixels.bgr, metadata.orientation)),
        alpha=None if pixels.alpha is None else np.ascontiguousarray(upright(pixels.alpha, metadata.orientation)),
        gray=pixels.gray,
        icc_profile=None if pixels.is_srgb else metadata.profile,
        exif=metadata.exif,
        path=path,
        format=found,
        damage=pixels.damage,
        digest=digest,
    )


def _read_file(path: Path) -> bytes:
    name = shown(path)
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with open(descriptor, "rb") as file:  # not blocking, so that a pipe without a writer does not stop everything
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ImageError(f"{name}: no regular file; give a photo's path")
            check_file_size(name, status.st_size)
            return file.read()
    except (FileNotFoundError, NotADirectoryError):
        link = " (the link leads nowhere)" if os.path.islink(path) else ""
        raise ImageError(f"{name}: no such file{link}; check the path") from None
    except IsADirectoryError:
        raise ImageError(f"{name}: a folder; give a photo's path") from None
    except PermissionError as error:
        raise ImageError(f"{name}: cannot be read ({error.strerror}); check the file's permissions") from None
    except OSError as error:
        raise DiskError(f"{name}: cannot be read ({error.strerror or error}); check the disk") from error
    except ValueError as error:
        if isinstance(error, ImageError):
            raise
        raise ImageError(f"{name}: no path ({error}); check it") from None


@dataclass
class _Source:
    """A file's bytes as they are to be decoded, and what is known of them by then.

    Attributes:
        data: what Pillow gets.
        damage: see `lafr_base.images.Photo`.
        metadata: a PNG file of metadata.
        orientation: of a TIFF file.
        rows: how many rows of pixels are there; None for all.
        several: whether more frames or pages follow; None where that is not known.
    """

    data: bytes
    damage: str | None = None
    metadata: bytes | None = None
    orientation: int | None = None
    rows: int | None = None
    several: bool | None = None


def _prepare(data: bytes, name: str) -> _Source:
    if data.startswith(png.SIGNATURE):
        parts = png.take_apart(data, name)
        if parts.left_out:
            logger.warning("%s: damaged metadata is left out (%s)", name, ", ".join(parts.left_out))
        return _Source(parts.pixels, metadata=parts.metadata, rows=parts.rows, several=parts.animated)
    if data.startswith(tiff.SIGNATURES):
        page = tiff.first_page(data, name)
        return _Source(page.data, orientation=page.orientation, several=page.several)
    if data.startswith(jpeg.SIGNATURE):
        repaired, damage = jpeg.repair(data, name)
        return _Source(repaired, damage, several=False)  # the further pictures of an MPO file are previews or depths
    return _Source(data)


def _decode(path: Path, name: str, data: bytes) -> tuple[Pixels, Metadata, str]:
    """Return pixels, metadata and Pillow's name of the format."""
    source = _prepare(data, name)
    is_tga = path.suffix.lower() in _TGA_SUFFIXES or data.endswith(_TGA_FOOTER)
    formats = FORMATS if is_tga else tuple(name for name in FORMATS if name != "TGA")
    with _faults_named(name):
        image = _open(source.data, formats)
    with image:
        found = image.format or ""
        with _faults_named(name):
            deep = is_deep(image, source.data)
        check_size(name, found, image.width, image.height, len(data), deep)
        with _faults_named(name):
            loaded = load(image, source.data, source.rows, lambda padded: _open(padded, formats), name)
            pixels = (take_deep_pixels if deep else take_pixels)(loaded, name)
        pixels.damage = source.damage or pixels.damage
        if source.metadata is not None:
            metadata = read_png_metadata(source.metadata, name)
        else:
            metadata = read_metadata(loaded.image, name)
        if source.orientation is not None:  # a TIFF's tags describe its own strips and bit depth, not the photo
            metadata = Metadata(source.orientation, None, metadata.profile)
        if has_second_frame(loaded.image) if source.several is None else source.several:
            logger.warning("%s: holds several frames, only the first is read", name)
        return pixels, metadata, found


def _open(data: bytes, formats: tuple[str, ...]) -> Image.Image:
    """Read a file's header."""
    register_formats()
    return Image.open(io.BytesIO(data), formats=formats)


@contextlib.contextmanager
def _own_pixel_limit() -> Iterator[None]:
    """Lift Pillow's global limit (179 MP, a warning from 89 MP): `lafr_base.images.budget` has another."""
    global _readers, _pillows_limit
    with _limit_lock:
        _readers += 1
        if _readers == 1:
            _pillows_limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        with _limit_lock:
            _readers -= 1
            if not _readers:
                Image.MAX_IMAGE_PIXELS = _pillows_limit


@contextlib.contextmanager
def _faults_named(name: str) -> Iterator[None]:
    """Turn what decoders raise on a damaged file into an ImageError; nothing but calls of decoders belongs inside."""
    try:
        yield
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError(f"{name}: not an image, or of a format that is not supported; convert it to PNG") from None
    except MemoryError:
        raise ImageError(f"{name}: too little memory to decode it; make it smaller") from None
    except Exception as error:  # OSError, SyntaxError, struct.error, TypeError, AssertionError, ...
        raise ImageError(f"{name}: damaged or truncated ({error}); copy or download it again") from error
