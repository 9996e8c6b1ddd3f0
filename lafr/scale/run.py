"""The options that the results in a folder were made with: a run that goes on must have the same."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lafr.results import FACE_FOLDERS
from lafr_base.images import ImageError

RUN_FILE = "run.json"
_FOLDERS = (*FACE_FOLDERS, "restored_imgs")


class RunError(ImageError):
    """A folder of results that this run must not write to."""


def claim(out: Path, options: Mapping[str, Any]) -> None:
    """Make a folder this run's, or find that it is.

    Args:
        out: the folder of results; made where missing.
        options: all that decides what the results are, as JSON can hold it.

    Raises:
        RunError: it holds results of other options, or of something else.
    """
    # In this order: a process that has claimed the folder may be writing results already.
    occupied = any((out / name).exists() for name in _FOLDERS)
    path = out / RUN_FILE
    if not path.exists():
        if occupied:
            raise RunError(f"{out}: holds results, but no {RUN_FILE} of `lafr batch`; choose another --out")
        _create(path, json.dumps(options, indent=1, sort_keys=True) + "\n")
    try:
        known = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise RunError(f"{path}: damaged ({error}); restore it, or choose another --out") from error
    different = [key for key in {**known, **options} if known.get(key) != options.get(key)]
    if different:
        changes = ", ".join(f"{key} {known.get(key)!r} (now {options.get(key)!r})" for key in different)
        raise RunError(f"{out}: its results were made with {changes}; use the same, or choose another --out")


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
