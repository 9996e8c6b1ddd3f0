"""Files written whole or not at all, digests that tell whether anything changed, and names as people may see them."""

from __future__ import annotations

import contextlib
import filecmp
import hashlib
import json
import os
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Control characters, line separators, what turns the direction of text, and bytes of names that are not UTF-8.
_UNSHOWN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def shown(path: str | os.PathLike[str]) -> str:
    r"""Return a path as a terminal, a log or a report may show it: on one line, what is no text as ``\x1b``."""
    return _UNSHOWN.sub(_escaped, str(path))


def _escaped(match: re.Match[str]) -> str:
    code = ord(match[0])
    if 0xDC80 <= code <= 0xDCFF:  # a byte, as os.fsdecode keeps it
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


def digest(*parts: Any) -> str:
    """Return a digest of bytes, files' contents (Path) and anything that JSON can hold."""
    total = hashlib.blake2b(digest_size=16)
    for part in parts:
        if isinstance(part, Path):
            total.update(bytes.fromhex(file_digest(part)))
        else:
            data = part if isinstance(part, bytes) else json.dumps(part, sort_keys=True).encode()
            total.update(hashlib.blake2b(data, digest_size=16).digest())
    return total.hexdigest()


def csv_cell(value: Any) -> Any:
    """Return a cell that a spreadsheet program does not take for a formula, as OWASP advises: with an apostrophe."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


def file_digest(path: Path) -> str:
    """Return the digest of a file's bytes, the same as `lafr_base.images.Photo.digest`."""
    total = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            total.update(block)
    return total.hexdigest()


def remove_parts(folder: Path) -> None:
    """Remove what killed processes left of `write_text` in a folder that no other process writes to now."""
    for part in folder.glob(".*.part"):
        part.unlink(missing_ok=True)


def read_json(path: Path) -> dict[str, Any]:
    """Return a mapping from a JSON file; an empty one where there is none or it is damaged."""
    try:
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file whole or not at all."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all; missing folders are made."""
    with whole(path) as part:
        part.write_text(text, encoding="utf-8", errors="backslashreplace")  # names of files may be no text


@contextlib.contextmanager
def whole(path: Path, folder: Path | None = None) -> Iterator[Path]:
    """Write a file whole or not at all, whatever interrupts it; missing folders are made.

    Args:
        path: the file.
        folder: where it is written first, on the same file system; None for beside ``path``. What a killed process
            leaves lies there, as ``.*.part``.

    Yields:
        Where to write: a hidden file, which takes the place of ``path`` where the block ends well and is gone
        otherwise. It gets the mode of a new file, whoever writes it (safetensors lets its owner alone read one).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    part = (folder or path.parent) / f".{uuid.uuid4().hex}.part"
    try:
        part.touch()
        mode = part.stat().st_mode
        yield part
        part.chmod(mode)
        os.replace(part, path)
    except BaseException:
        with contextlib.suppress(OSError):  # the disk that refused the file may refuse this
            part.unlink()
        raise


@contextlib.contextmanager
def changed(path: Path) -> Iterator[Path]:
    """Write a file as `whole` does, but leave it untouched where it holds the same already."""
    with contextlib.suppress(_SameError), whole(path) as part:
        yield part
        if path.is_file() and filecmp.cmp(part, path, shallow=False):
            raise _SameError


class _SameError(Exception):
    """What was written is there."""


def share(folder: Path) -> None:
    """Give every file below a folder the mode that a new file gets; safetensors lets its owner alone read one."""
    probe = folder / f".{uuid.uuid4().hex}"
    probe.touch()
    mode = probe.stat().st_mode
    probe.unlink()
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(mode)
