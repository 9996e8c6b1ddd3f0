"""The folder of results: whether it can be written, and what the results in it were made with.

A run of `lafr batch` that goes on must have the same options.
"""

from __future__ import annotations

import json
import os
import tempfile
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lafr.results import FACE_FOLDERS
from lafr_base.files import shown, write_text
from lafr_base.images import ImageError

RUN_FILE = "run.json"
_PROBE = 1 << 16  # bytes that must fit on the disk
_FOLDERS = (*FACE_FOLDERS, "restored_imgs")


class RunError(ImageError):
    """A folder of results that this run must not write to."""


def claim(out: Path, options: Mapping[str, Any], overwrite: bool = False) -> None:
    """Make a folder this run's, or find that it is.

    Args:
        out: the folder of results; made where missing.
        options: all that decides what the results are, as JSON can hold it.
        overwrite: it may have results of other options, which this run replaces.

    Raises:
        RunError: it holds results of other options, or of something else.
        OSError: it cannot be written.
    """
    check_claim(out, options, overwrite)
    path, text = out / RUN_FILE, json.dumps(options, indent=1, sort_keys=True) + "\n"
    if overwrite:
        write_text(path, text)
        return
    if not path.exists():
        _create(path, text)
    check_claim(out, options)  # another process may have been faster


def check_claim(out: Path, options: Mapping[str, Any], overwrite: bool = False) -> None:
    """Check that `claim` would succeed; nothing is written.

    Raises:
        RunError: as by `claim`.
    """
    # In this order: a process that has claimed the folder may be writing results already.
    occupied = any((out / name).exists() for name in _FOLDERS)
    path = out / RUN_FILE
    try:
        known = json.loads(path.read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        if occupied:
            raise RunError(
                f"{shown(out)}: holds results, but no {RUN_FILE} of `lafr batch`; choose another --out"
            ) from None
        return
    except (ValueError, RecursionError) as error:
        raise RunError(f"{shown(path)}: damaged ({error}); restore it, or choose another --out") from error
    if not isinstance(known, dict):
        raise RunError(f"{shown(path)}: damaged (no mapping); restore it, or choose another --out")
    different = [key for key in {**known, **options} if known.get(key) != options.get(key)]
    if different and not overwrite:
        changes = ", ".join(f"{key} {known.get(key)!r} (now {options.get(key)!r})" for key in different)
        raise RunError(
            f"{shown(out)}: its results were made with {changes}; use the same, let --overwrite replace them, or "
            "choose another --out"
        )


def check_restore(out: Path) -> None:
    """Check that a folder of results does not belong to `lafr batch`.

    Raises:
        RunError: it does.
    """
    if (out / RUN_FILE).exists():
        raise RunError(f"{shown(out)}: belongs to `lafr batch` ({RUN_FILE}); choose another output folder")


def check_writable(out: Path) -> None:
    """Check that results can be written, and leave nothing behind.

    Raises:
        RunError: the disk is full or read-only, or the folder is closed or a file.
    """
    folder = out
    while not folder.exists() and folder != folder.parent and not folder.is_symlink():
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder, prefix=".lafr_") as file:
            file.write(bytes(_PROBE))
            file.flush()
    except OSError as error:
        reason = error.strerror or error
        raise RunError(f"{shown(out)}: cannot be written ({reason}); choose another output folder") from error


def _create(path: Path, text: str) -> None:
    """Write a file whole, unless another process does so first."""
    part = path.with_name(f".{path.name}_{uuid.uuid4().hex}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        part.write_text(text, encoding="utf-8")
        try:
            os.link(part, path)
        except FileExistsError:
            pass
        except OSError:  # a file system without hard links
            os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
