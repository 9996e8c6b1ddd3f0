"""The photos of a folder or a list, streamed, each known by its path below a root."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from lafr_base.images import IMAGE_SUFFIXES, ImageError


def share_of(key: str, world: int) -> int:
    """Return which of `world` processes takes a photo.

    It follows from the photo's path alone: processes need not know of each other, nor of the photos' order or number,
    and a photo that is listed twice comes to one process.
    """
    return zlib.crc32(os.fsencode(key)) % world


class Photos:
    """Photos by key: the path below `root`, with forward slashes, which also names the results.

    Args:
        source: a folder, searched with its sub-folders, where links to folders are not followed and hidden files
            and files without one of `lafr_base.images.IMAGE_SUFFIXES` are left out; or a text file that lists photos,
            one a line, absolute or relative to the list's folder.
        root: what keys are relative to; None for the folder or, of a list, for the list's folder where its first
            line is a relative path, else the file system's root.
        leave_out: a folder that is not searched, where it is below `source`: that of the results.

    Raises:
        ImageError: `source` does not exist, or a list is empty.
    """

    def __init__(self, source: Path, root: Path | None = None, leave_out: Path | None = None) -> None:
        self.source = Path(os.path.abspath(source))
        self._is_folder = self.source.is_dir()
        if not self._is_folder and not self.source.is_file():
            raise ImageError(f"{source}: no such file or folder; check the input path")
        if self._is_folder and root is not None:
            raise ImageError(f"{source}: --root belongs to a list of photos; results keep a folder's own sub-folders")
        self._base = self.source if self._is_folder else self.source.parent
        if root is None:
            root = self._base if self._is_folder else self._root_of_list()
        self.root = Path(os.path.abspath(root))
        self._prefix = os.path.join(self.root, "")
        self._plain_base = self._base == self.root
        self._leave_out = None if leave_out is None else os.path.realpath(leave_out)

    def __iter__(self) -> Iterator[str]:
        """Yield the key of each photo; one that is not below the root begins with ``../``."""
        return self._walk() if self._is_folder else self._lines()

    def share(self, rank: int, world: int) -> Iterator[str]:
        """Yield the keys of one of `world` processes."""
        return iter(self) if world == 1 else (key for key in self if share_of(key, world) == rank)

    def path(self, key: str) -> Path:
        """Return a photo's file."""
        return self.root / key

    def _walk(self) -> Iterator[str]:
        folders = [""]
        while folders:
            folder = folders.pop()
            with os.scandir(os.path.join(self.source, folder)) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        if self._leave_out is None or os.path.realpath(entry.path) != self._leave_out:
                            folders.append(f"{folder}{entry.name}/")
                    elif os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES and entry.is_file():
                        yield folder + entry.name

    def _root_of_list(self) -> Path:
        first = next(islice(self._read(), 1), None)
        if first is None:
            raise ImageError(f"{self.source}: the list names no photo")
        return Path(self._base.anchor) if os.path.isabs(first) else self._base

    def _read(self) -> Iterator[str]:
        with self.source.open("rb") as file:
            for line in file:
                text = os.fsdecode(line.strip(b"\r\n"))
                if text.strip():
                    yield text

    def _lines(self) -> Iterator[str]:
        for text in self._read():
            if "//" in text or "/." in text or text.startswith("."):  # a photo has one key, however it is spelled
                path = os.path.normpath(os.path.join(self._base, text))
            elif self._plain_base and not os.path.isabs(text):
                path = self._prefix + text
            else:
                path = os.path.join(self._base, text)
            below = path.startswith(self._prefix)
            key = path[len(self._prefix) :] if below else os.path.relpath(path, self.root)
            yield key.replace(os.sep, "/")
