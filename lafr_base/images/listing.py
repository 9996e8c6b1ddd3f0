"""The photos of a folder."""

from __future__ import annotations

from pathlib import Path

from lafr_base.images.budget import IMAGE_SUFFIXES
from lafr_base.images.photo import ImageError


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
