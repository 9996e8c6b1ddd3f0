"""The photos of a folder, a list or a file, streamed, each known by its path below a root."""

from __future__ import annotations

import codecs
import os
import zlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from lafr_base.files import shown
from lafr_base.images import IMAGE_SUFFIXES, ImageError, is_image
from lafr_base.images.listing import LeftOut, walk

_ENCODINGS = ((codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
_LONGEST_LINE = 1 << 13  # bytes: twice the longest path; what follows on a line is dropped, and no such photo is found
_PROBE = 1 << 12  # bytes at the beginning, in which no list has a 0


def share_of(key: str, world: int) -> int:
    """Return which of `world` processes takes a photo.

    It follows from the photo's path alone: processes need not know of each other, nor of the photos' order or number,
    and a photo that is listed twice comes to one process.
    """
    return zlib.crc32(os.fsencode(key)) % world


class Photos:
    """Photos by key: the path below `root`, with forward slashes, which also names the results.

    Args:
        source: a folder (see `lafr_base.images.listing.walk`); a photo; or a text file that lists photos, one a line,
            absolute or relative to the list's folder, in UTF-8, UTF-16 with its mark, or the bytes of the file system.
        root: what keys are relative to; None for the folder or, of a list, for the list's folder where its first
            line is a relative path, else the file system's root.
        leave_out: a folder that is not searched, where it is below `source`: that of the results.
        recursive: search sub-folders, too.

    Attributes:
        left_out: what the search passed over, once it is through.

    Raises:
        ImageError: `source` does not exist, is neither a photo nor a list, or an empty list.
    """

    def __init__(
        self, source: Path, root: Path | None = None, leave_out: Path | None = None, recursive: bool = True
    ) -> None:
        self.source = Path(os.path.abspath(source))
        self.left_out = LeftOut()
        self._recursive = recursive
        self._is_folder = self.source.is_dir()
        if not self._is_folder and not self.source.is_file():
            raise ImageError(f"{shown(source)}: no such file or folder; check the input path")
        self._is_photo = not self._is_folder and _is_photo(self.source)
        if (self._is_folder or self._is_photo) and root is not None:
            kind = "a folder's own sub-folders" if self._is_folder else "its name"
            raise ImageError(f"{shown(source)}: --root belongs to a list of photos; results keep {kind}")
        self._base = self.source if self._is_folder else self.source.parent
        if root is None:
            root = self._base if self._is_folder or self._is_photo else self._root_of_list()
        self.root = Path(os.path.abspath(root))
        self._prefix = os.path.join(self.root, "")
        self._plain_base = self._base == self.root
        self._leave_out = None if leave_out is None else os.path.realpath(leave_out)

    def __iter__(self) -> Iterator[str]:
        """Yield the key of each photo; one that is not below the root begins with ``../``."""
        if self._is_photo:
            return iter((self.source.name,))
        if not self._is_folder:
            return self._lines()
        self.left_out = LeftOut()
        return walk(self.source, self._recursive, self.left_out, self._leave_out)

    def share(self, rank: int, world: int) -> Iterator[str]:
        """Yield the keys of one of `world` processes."""
        return iter(self) if world == 1 else (key for key in self if share_of(key, world) == rank)

    def path(self, key: str) -> Path:
        """Return a photo's file."""
        return self.root / key

    def _root_of_list(self) -> Path:
        first = next(islice(self._read(), 1), None)
        if first is None:
            raise ImageError(f"{shown(self.source)}: the list names no photo")
        return Path(self._base.anchor) if os.path.isabs(first) else self._base

    def _read(self) -> Iterator[str]:
        with self.source.open("rb") as file:
            start = file.read(3)
            for mark, encoding in _ENCODINGS:
                if start.startswith(mark):
                    yield from self._read_text(encoding)
                    return
            if b"\0" in start + file.read(_PROBE):
                raise ImageError(f"{shown(self.source)}: neither a photo nor a list of photos, one a line")
            file.seek(3 if start == codecs.BOM_UTF8 else 0)
            while line := file.readline(_LONGEST_LINE):
                rest = line
                while len(rest) == _LONGEST_LINE and not rest.endswith(b"\n"):
                    rest = file.readline(_LONGEST_LINE)
                text = os.fsdecode(line.strip(b"\r\n"))
                if text.strip():
                    yield text

    def _read_text(self, encoding: str) -> Iterator[str]:
        try:
            with self.source.open(encoding=encoding) as file:
                for line in file:
                    text = line.strip("\r\n").removeprefix("\ufeff")
                    if text.strip():
                        yield text
        except UnicodeDecodeError as error:
            raise ImageError(f"{shown(self.source)}: no list of photos ({error}); write it as UTF-8") from None

    def _lines(self) -> Iterator[str]:
        for text in self._read():
            if "//" in text or "/." in text or text.startswith("."):  # a photo has one key, however it is spelled
                path = os.path.normpath(os.path.join(self._base, text)) + ("/" if text.endswith("/") else "")
            elif self._plain_base and not os.path.isabs(text):
                path = self._prefix + text
            else:
                path = os.path.join(self._base, text)
            below = path.startswith(self._prefix)
            key = path[len(self._prefix) :] if below else os.path.relpath(path, self.root)
            yield key.replace(os.sep, "/")


def _is_photo(path: Path) -> bool:
    try:
        return path.suffix.lower() in IMAGE_SUFFIXES or is_image(path)
    except OSError as error:
        raise ImageError(f"{shown(path)}: cannot be read ({error.strerror}); check the file's permissions") from None
