"""What a photo says of itself: read after the pixels, so that damage here costs none of them."""

from __future__ import annotations

import io
import logging
from dataclasses import dataclass
from typing import Any

from PIL import Image

logger = logging.getLogger(__name__)

_ORIENTATION_TAG = 0x0112
_EXIF_IFD = 0x8769
_PIXEL_SIZE_TAGS = (0xA002, 0xA003)  # wrong after upscaling


@dataclass
class Metadata:
    """What a photo says of itself.

    Attributes:
        orientation: EXIF's, 1 to 8.
        exif: the EXIF block, its orientation set to 1, without the stored pixel size; or None.
        profile: ICC profile, or None.
    """

    orientation: int = 1
    exif: bytes | None = None
    profile: bytes | None = None


def read_metadata(image: Image.Image, name: str) -> Metadata:
    """Read EXIF data and colour profile of an image whose pixels are taken out already.

    Args:
        image: as Pillow opened it.
        name: the file's, for a warning about damaged data.
    """
    profile = image.info.get("icc_profile")
    profile = profile if isinstance(profile, bytes) and profile else None
    try:
        exif = image.getexif()
        stored = exif.get(_ORIENTATION_TAG, 1)
        orientation = stored if stored in range(1, 9) else 1
        if not len(exif):
            return Metadata(orientation, None, profile)
        exif[_ORIENTATION_TAG] = 1
        for tag in _PIXEL_SIZE_TAGS:
            exif.get_ifd(_EXIF_IFD).pop(tag, None)
        return Metadata(orientation, exif.tobytes(), profile)
    except Exception as error:  # Pillow's parser raises nearly anything on damaged data; here it does nothing else
        logger.warning("%s: damaged EXIF data is left out (%s)", name, error)
        return Metadata(profile=profile)


def read_png_metadata(data: bytes, name: str) -> Metadata:
    """Read the same from a PNG file that holds metadata alone; see `lafr_base.images.png.Png`."""
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            image.load()
            return read_metadata(image, name)
    except Exception as error:  # as above: the picture is read already
        logger.warning("%s: damaged metadata is left out (%s)", name, error)
        return Metadata()


def has_second_frame(image: Any) -> bool:
    """Tell whether more pictures follow the first, without counting them. The image's frame changes."""
    try:
        image.seek(1)
    except Exception:  # there is none, or none that can be read: nothing is wanted of it
        return False
    return True
