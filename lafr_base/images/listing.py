"""The photos of a folder, and what in it is none: nothing is left out without a word."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from lafr_base.files import shown
from lafr_base.images.budget import IMAGE_SUFFIXES
from lafr_base.images.photo import ImageError
from lafr_base.images.reading import is_image

RESULT_FOLDERS = frozenset({"restored_imgs", "restored_faces", "cropped_faces", "cmp"})
"""Names of folders that hold results, here as in GFPGAN and CodeFormer: what they hold is not restored again."""

_SUFFIXES_NAMED = 5

HIDDEN = "hidden"
DEEPER = "sub-folders (-r searches them)"
LINKED = "links to folders"
NOWHERE = "links that lead nowhere"
SPECIAL = "pipes, sockets or devices"
RESULTS = "folders of results"
OTHER = "not photos"


class LeftOut:
    """What a search of folders passes over.

    Attributes:
        counts: how many entries of each kind, by what they are.
        suffixes: how many of the files that are no photos have each suffix (lower case).
        closed: folders that cannot be searched, with the reason.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.suffixes: Counter[str] = Counter()
        self.closed: list[tuple[str, str]] = []

    def __str__(self) -> str:
        """One line that says what was left out; empty where nothing was."""
        return ", ".join(f"{count} {kind}{self._examples(kind)}" for kind, count in sorted(self.counts.items()))

    def _examples(self, kind: str) -> str:
        if kind != OTHER:
            return ""
        most = sorted(self.suffixes, key=lambda suffix: (-self.suffixes[suffix], suffix))[:_SUFFIXES_NAMED]
        names = ", ".join(shown(suffix) or "no suffix" for suffix in most)
        return f" ({names}{', ...' if len(self.suffixes) > len(most) else ''})"


def walk(root: Path, recursive: bool, left_out: LeftOut, skip: str | None = None) -> Iterator[str]:
    """Yield the photos of a folder as paths below it, with forward slashes, in the order of the disk.

    A file is a photo by its suffix, or else by its content. Links to files are followed, links to folders are not.

    Args:
        root: the folder.
        recursive: search its sub-folders, too.
        left_out: told of everything that is not yielded.
        skip: real path of a folder that is not searched.
    """
    folders = [""]
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(os.path.join(root, folder)) as entries:
                for entry in entries:
                    kind = _kind(entry, recursive, skip)
                    if kind is None:
                        yield folder + entry.name
                    elif kind == "":
                        folders.append(f"{folder}{entry.name}/")
                    else:
                        left_out.counts[kind] += 1
                        if kind == OTHER:
                            left_out.suffixes[os.path.splitext(entry.name)[1].lower()] += 1
        except OSError as error:
            left_out.closed.append((os.path.join(root, folder), error.strerror or str(error)))


def _kind(entry: os.DirEntry[str], recursive: bool, skip: str | None) -> str | None:
    """Return what an entry is left out as; None for a photo, "" for a folder to search."""
    if entry.name.startswith("."):
        return HIDDEN
    if entry.is_dir(follow_symlinks=False):
        if entry.name in RESULT_FOLDERS or (skip is not None and os.path.realpath(entry.path) == skip):
            return RESULTS
        return "" if recursive else DEEPER
    try:
        if entry.is_dir():
            return LINKED
        regular = entry.is_file()
    except OSError:  # a link to itself
        return NOWHERE
    if not regular:
        return NOWHERE if entry.is_symlink() and not os.path.exists(entry.path) else SPECIAL
    if os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES:
        return None
    try:
        return None if is_image(entry.path) else OTHER
    except OSError:
        return None  # reading it says what is wrong


def list_images(path: str | Path) -> list[Path]:
    """Return the photos of a folder, sorted by name, or the one file given.

    A folder is not searched deeper. A path to a file is returned as it is, whatever it holds.

    Raises:
        ImageError: the path does not exist, cannot be searched, or holds no photo.
    """
    path = Path(path)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise ImageError(f"{shown(path)}: no such file or folder; check the input path")
    left_out = LeftOut()
    found = sorted(path / name for name in walk(path, recursive=False, left_out=left_out))
    if left_out.closed:
        raise ImageError(f"{shown(path)}: cannot be searched ({left_out.closed[0][1]}); check its permissions")
    if not found:
        raise ImageError(f"{shown(path)}: the folder holds no photo{f'; it has {left_out}' if str(left_out) else ''}")
    return found
