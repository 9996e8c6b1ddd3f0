"""Read and write photos without losing what they hold: 16 bit, alpha, EXIF, ICC profile.

Arrays are OpenCV's: BGR, uint8 or uint16. Pillow decodes, except that it reduces 16-bit colour to 8 bit;
there OpenCV decodes. OpenCV in turn would drop profiles and metadata: those are always taken by Pillow.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import struct
import threading
import uuid
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageCms, UnidentifiedImageError

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = frozenset(
    {
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".png",
        ".webp",
        ".bmp",
        ".tif",
        ".tiff",
        ".gif",
        ".ppm",
        ".pgm",
        ".avif",
    }
)
"""Suffixes (lower case) of files that `list_images` takes from a folder."""

OUTPUT_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
"""Suffixes that `write_image` can write."""

MAX_PIXELS = 300_000_000
"""Largest photo read, in pixels: a 20,000 x 15,000 panorama, 0.9 GB decoded. More is refused."""

MAX_SIDE = {".jpg": 65_500, ".jpeg": 65_500, ".webp": 16_383}
"""Longest side in pixels that a format (libjpeg, libwebp) can hold."""

_ORIENTATION_TAG = 0x0112
_EXIF_IFD = 0x8769
_PIXEL_SIZE_TAGS = (0xA002, 0xA003)  # wrong after upscaling
_EXIF_LIMIT = 65_533  # bytes of a JPEG APP1 segment
_pixel_limit_lock = threading.Lock()


class ImageError(ValueError):
    """A photo that cannot be read or written; the message names the file, the cause and what to do."""


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
    """

    bgr: np.ndarray
    alpha: np.ndarray | None = None
    gray: bool = False
    icc_profile: bytes | None = None
    exif: bytes | None = None
    path: Path | None = None


def list_images(path: str | Path) -> list[Path]:
    """Return the image files of a folder, sorted by name, or the one file given.

    A folder is not searched deeper; hidden files and files without one of `IMAGE_SUFFIXES` are left out.
    A path to a file is returned as it is, whatever its suffix.

    Raises:
        ImageError: where the path does not exist or the folder holds no image.
    """
    path = Path(path)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise ImageError(f"{path}: no such file or folder; check the input path")
    found = [p for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith(".")]
    found = sorted(p for p in found if p.is_file())
    if not found:
        raise ImageError(f"{path}: the folder holds no image ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return found


def read_image(path: str | Path) -> Photo:
    """Read a photo of any common format and mode: gray, palette, RGB(A), CMYK, 8 or 16 bit.

    Of an animation the first frame is read.

    Raises:
        ImageError: the file is missing, empty, truncated, no image, larger than `MAX_PIXELS`, or of a kind
            that is not supported (floating point or 32-bit pixels).
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise ImageError(f"{path}: no such file; check the path") from None
    except OSError as error:
        raise ImageError(f"{path}: cannot be read ({error.strerror or error}); check the file's permissions") from None
    if not data:
        raise ImageError(f"{path}: the file is empty (0 bytes); copy or download it again")
    try:
        with _own_pixel_limit():
            image = Image.open(io.BytesIO(data))  # reads the header only
        with image:
            return _decode(path, data, image)
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError(f"{path}: not an image, or of a format that is not supported; convert it to PNG") from None
    except MemoryError:
        raise ImageError(f"{path}: too little memory to decode it; make it smaller") from None
    except Exception as error:  # decoders raise anything on damaged files: OSError, SyntaxError, struct.error, ...
        raise ImageError(f"{path}: damaged or truncated ({error}); copy or download it again") from error


def write_image(
    path: str | Path,
    bgr: np.ndarray,
    *,
    alpha: np.ndarray | None = None,
    gray: bool = False,
    icc_profile: bytes | None = None,
    exif: bytes | None = None,
    quality: int = 95,
) -> Path:
    """Write a picture whole or not at all: into a temporary file beside `path`, then renamed over it.

    PNG holds everything. JPEG and WebP hold 8 bit, JPEG no alpha: what is lost is logged as a warning.

    Args:
        path: file with one of `OUTPUT_SUFFIXES`; missing folders are made.
        bgr: (H, W, 3) uint8 or uint16.
        alpha: (H, W) of the same dtype, or None.
        gray: write one colour channel if the three are equal.
        icc_profile: colour profile; left out where its colour space is not that of the written channels.
        exif: EXIF block to embed.
        quality: of JPEG and WebP, 1 to 100. JPEG chroma is not subsampled.

    Raises:
        ImageError: unknown suffix, a side longer than the format's `MAX_SIDE`, or the disk refuses.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in OUTPUT_SUFFIXES:
        raise ImageError(f"{path}: cannot write '{suffix}'; use one of {', '.join(OUTPUT_SUFFIXES)}")
    limit = MAX_SIDE.get(suffix)
    if limit is not None and max(bgr.shape[:2]) > limit:
        size = f"{bgr.shape[1]} x {bgr.shape[0]}"
        raise ImageError(f"{path}: {size} px is too large for {suffix}, which holds {limit} px a side; use png")
    if suffix != ".png" and bgr.dtype == np.uint16:
        logger.warning("%s: %s holds 8 bit only, 16-bit values are rounded; use png to keep them", path, suffix)
        bgr, alpha = to_uint8(bgr), None if alpha is None else to_uint8(alpha)
    if suffix in (".jpg", ".jpeg") and alpha is not None:
        logger.warning("%s: JPEG has no alpha channel, transparency is dropped; use png or webp to keep it", path)
        alpha = None
    gray = gray and bool((bgr[..., 0] == bgr[..., 1]).all() and (bgr[..., 1] == bgr[..., 2]).all())
    if icc_profile is not None and icc_profile[16:20] != (b"GRAY" if gray and alpha is None else b"RGB "):
        icc_profile = None
    if exif is not None and len(exif) > _EXIF_LIMIT and suffix != ".png":
        logger.warning("%s: the EXIF block is too long for %s and is left out", path, suffix)
        exif = None
    if suffix == ".png":
        data = _encode_png(bgr, alpha, gray, icc_profile, exif)
    else:
        data = _encode_pil(bgr, alpha, gray, suffix, quality, icc_profile, exif)
    _replace(path, data)
    return path


def to_uint8(image: np.ndarray) -> np.ndarray:
    """Return a uint16 picture rounded to uint8 (65535 becomes 255); a uint8 one as it is."""
    if image.dtype == np.uint8:
        return image
    return cv2.convertScaleAbs(image, alpha=1 / 257)  # OpenCV rounds and saturates, without a float copy


@contextlib.contextmanager
def _own_pixel_limit() -> Iterator[None]:
    """Lift Pillow's global limit (179 MP, a warning from 89 MP): `MAX_PIXELS` is checked instead."""
    with _pixel_limit_lock:
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


def _decode(path: Path, data: bytes, image: Image.Image) -> Photo:
    width, height = image.size
    if width * height > MAX_PIXELS:
        size = f"{width} x {height} px"
        raise ImageError(f"{path}: {size} is more than the {MAX_PIXELS:,} pixels allowed; make it smaller")
    if image.mode in ("I", "F"):
        raise ImageError(f"{path}: 32-bit pixels (mode {image.mode}) are not supported; convert to 8 or 16 bit")
    if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
        logger.warning("%s: holds %d frames, only the first is read", path, image.n_frames)  # type: ignore[attr-defined]
    icc_profile = image.info.get("icc_profile") or None
    orientation, exif = _exif(path, image)
    if _is_16_bit(data, image):
        image.load()  # OpenCV fills a truncated file with zeros; Pillow says so
        pixels = _decode_16_bit(path, data)
        bgr, alpha = pixels[..., :3], pixels[..., 3] if pixels.shape[2] == 4 else None
    else:
        if image.mode == "CMYK":
            image, icc_profile = _cmyk_to_rgb(image, icc_profile), None
        has_alpha = image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info
        pixels = np.asarray(image.convert("RGBA" if has_alpha else "RGB"))
        bgr, alpha = pixels[..., 2::-1], pixels[..., 3] if has_alpha else None
    gray = image.mode in ("1", "L", "LA", "La") or image.mode.startswith("I;16")
    return Photo(
        bgr=np.ascontiguousarray(_upright(bgr, orientation)),
        alpha=None if alpha is None else np.ascontiguousarray(_upright(alpha, orientation)),
        gray=gray,
        icc_profile=icc_profile,
        exif=exif,
        path=path,
    )


def _is_16_bit(data: bytes, image: Image.Image) -> bool:
    if image.format == "PNG":
        return data[24] == 16  # bit depth in IHDR, always the first chunk
    if image.format == "TIFF":
        bits: Any = image.tag_v2.get(258, (1,))  # type: ignore[attr-defined]
        return max(bits) == 16
    return False


def _decode_16_bit(path: Path, data: bytes) -> np.ndarray:
    """Return (H, W, 3 or 4) uint16, BGR(A), as stored: orientation is left to the caller."""
    buffer = np.frombuffer(_with_plain_tiff_orientation(data), dtype=np.uint8)
    try:
        pixels = cv2.imdecode(buffer, cv2.IMREAD_UNCHANGED)
    except cv2.error:
        pixels = None
    if pixels is None or pixels.dtype != np.uint16:
        raise ImageError(f"{path}: this kind of 16-bit image is not supported; convert it to a 16-bit RGB PNG")
    if pixels.ndim == 2 or pixels.shape[2] == 1:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_GRAY2BGR)
    return pixels


def _with_plain_tiff_orientation(data: bytes) -> bytes:
    """Set a TIFF's orientation to upright: OpenCV turns some orientations and fails on others."""
    if data[:4] not in (b"II*\0", b"MM\0*"):
        return data
    order = "<" if data[:2] == b"II" else ">"
    (start,) = struct.unpack_from(order + "I", data, 4)
    (entries,) = struct.unpack_from(order + "H", data, start)
    for offset in range(start + 2, start + 2 + 12 * entries, 12):
        if struct.unpack_from(order + "H", data, offset)[0] == _ORIENTATION_TAG:
            plain = bytearray(data)
            struct.pack_into(order + "H", plain, offset + 8, 1)
            return bytes(plain)
    return data


def _exif(path: Path, image: Image.Image) -> tuple[int, bytes | None]:
    """Return the orientation (1 to 8) and the EXIF block without it and without the stored pixel size."""
    try:
        exif = image.getexif()
        orientation = int(exif.get(_ORIENTATION_TAG, 1))
        if image.format == "TIFF" or not len(exif):
            return orientation, None  # a TIFF's tags describe its own strips and bit depth, not the photo
        exif[_ORIENTATION_TAG] = 1
        for tag in _PIXEL_SIZE_TAGS:
            exif.get_ifd(_EXIF_IFD).pop(tag, None)
        return orientation, exif.tobytes()
    except Exception as error:  # damaged metadata must not cost the photo
        logger.warning("%s: damaged EXIF data is left out (%s)", path, error)
        return 1, None


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Apply EXIF orientation 1 to 8 (CIPA DC-008, 4.6.4 A) to (H, W, ...) pixels."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def _cmyk_to_rgb(image: Image.Image, icc_profile: bytes | None) -> Image.Image:
    if icc_profile is not None:
        try:
            source, srgb = ImageCms.ImageCmsProfile(io.BytesIO(icc_profile)), ImageCms.createProfile("sRGB")
            converted = ImageCms.profileToProfile(image, source, srgb, outputMode="RGB")
            if converted is not None:
                return converted
        except (ImageCms.PyCMSError, OSError) as error:
            logger.warning("the CMYK profile cannot be used (%s); plain conversion instead", error)
    return image.convert("RGB")


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
        chunks += _png_chunk(b"iCCP", b"ICC Profile\0\0" + zlib.compress(icc_profile))
    if exif is not None:
        chunks += _png_chunk(b"eXIf", exif.removeprefix(b"Exif\0\0"))
    end_of_header = 8 + 25  # signature, IHDR
    return data[:end_of_header] + chunks + data[end_of_header:]


def _png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


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


def _replace(path: Path, data: bytes) -> None:
    part = path.with_name(f".{path.stem[:32]}_{uuid.uuid4().hex}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(data)
        os.replace(part, path)
    except BaseException as error:  # also on Ctrl-C: no partial file stays
        with contextlib.suppress(OSError):
            part.unlink()
        if isinstance(error, OSError):
            reason = error.strerror or error
            raise ImageError(f"{path}: cannot be written ({reason}); choose another output folder") from error
        raise
