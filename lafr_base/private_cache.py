"""Files that are made once on a machine and then trusted: compiled kernels, exported graphs.

They lie in ``~/.cache/lafr`` (or XDG_CACHE_HOME), in folders that only the user can write to, each beside its SHA-256:
what is damaged, by a full disk or a loss of power, or was put there by others, is not loaded.
"""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

from lafr_base.files import whole


class CacheError(RuntimeError):
    """A folder of the cache cannot be trusted; the message says why and what to do."""


def cache_folder(name: str) -> Path:
    """``lafr/NAME`` under XDG_CACHE_HOME, by default ``~/.cache``; not made."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lafr" / name


def make_private(folder: Path) -> None:
    """Make a folder, and see to it that nobody else can put a file into it, or has put one there.

    Raises:
        CacheError: the folder is another user's.
        OSError: it cannot be made.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not hasattr(os, "geteuid"):
        return
    status = folder.lstat()
    if status.st_uid != os.geteuid() or stat.S_ISLNK(status.st_mode):
        raise CacheError(
            f"{folder} is another user's, or a link; remove it, or set XDG_CACHE_HOME to a folder of yours"
        )
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        folder.chmod(0o700)
        for path in folder.iterdir():
            if not path.is_dir():
                path.unlink()


def seal(path: Path) -> None:
    """Note a file's SHA-256 beside it."""
    with whole(_noted(path)) as noted:
        noted.write_bytes(sha256(path))


def is_whole(path: Path) -> bool:
    """Whether a file is there as it was sealed."""
    noted = _noted(path)
    return path.is_file() and noted.is_file() and noted.read_bytes() == sha256(path)


def sha256(path: Path) -> bytes:
    """The digest of a file, as hexadecimal digits."""
    total = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            total.update(block)
    return total.hexdigest().encode()


def _noted(path: Path) -> Path:
    return path.with_suffix(".sha256")
