"""What was done: lines of JSON, one a photo, appended when all its files are there; one file a process.

    DIR/manifest/rank-00000-of-00002.jsonl     by the process that takes share 0 of 2
    DIR/manifest/ray-0f3c....jsonl             by a run of Ray; ray-0f3c...-77ab....jsonl by one of its actors
    DIR/manifest/restore.jsonl                 by `lafr restore`

A line has ``photo`` (its key), ``status`` (restored, faceless or failed), ``faces``, ``seconds`` since the process's
line before, ``reason`` of a failure, ``damage`` of a photo that was restored in part, and ``recovered`` where the files
were found and only the line was missing. What a result was made from, and how, is in ``size``, ``time``, ``digest`` and
``options``; what the last stands for, in a line of its own. Before a photo's files are written, a line with the status
``begun`` says the same, so that files without a line are known again, and what the report is to say of the photo's
faces (``report``); the line says where its last file is (``output``). A process that is killed while it writes leaves
the beginning of a line, which is no JSON and is passed over.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from lafr_base.files import digest, shown
from lafr_base.images import ImageError

logger = logging.getLogger(__name__)

RESTORED, FACELESS, FAILED = "restored", "faceless", "failed"
BEGUN = "begun"
"""Status of a line that only says what is being made."""

KEPT = "kept"
"""Status of a photo that is not done since there is a result of another photo, or made with other options; no line."""

UNFINISHED = ".unfinished"
"""Folder, in that of the results, of files that are being written: a folder in it for each process."""

_TYPES: dict[str, type | tuple[type, ...]] = {
    "photo": str,
    "status": str,
    "faces": int,
    "seconds": (int, float),
    "reason": str,
    "recovered": bool,
    "size": int,
    "time": int,
    "digest": str,
    "options": str,
    "damage": str,
    "at": (int, float),
    "source": str,
    "output": str,
    "report": dict,
}

_OF_ACTOR = re.compile(r"ray-[0-9a-f]+-[0-9a-f]+\.jsonl")
_LOCK_SECONDS = 1
"""How long a manifest's lock is waited for: others hold it for a moment, to see whether its process runs."""


@dataclass(frozen=True)
class Record:
    """What is said of a photo.

    Attributes:
        photo: its key; of `lafr restore` the name of its results.
        status: `RESTORED`, `FACELESS` (its whole photo was enlarged only) or `FAILED`; `BEGUN`; `KEPT`.
        faces: how many were restored; None where that is not known any more.
        seconds: since the line before; None for what was only recovered.
        reason: why it failed, or was kept.
        recovered: its files were all there, from a process that was killed before it wrote the line.
        size: of the photo's file, in bytes.
        time: of its last change, in nanoseconds.
        digest: of its bytes; see `lafr_base.images.Photo`.
        options: short name of the options it was restored with; see `Manifest.name_options`.
        damage: see `lafr_base.images.Photo`.
        at: seconds since 1970 when the line was made.
        source: the photo's file, where `photo` does not say it.
        output: its last file, below the folder of results.
        report: see `lafr.report.faces_entry`; of a photo that is begun.
    """

    photo: str
    status: str
    faces: int | None = None
    seconds: float | None = None
    reason: str | None = None
    recovered: bool = False
    size: int | None = None
    time: int | None = None
    digest: str | None = None
    options: str | None = None
    damage: str | None = None
    at: float | None = None
    source: str | None = None
    output: str | None = None
    report: dict[str, Any] | None = None

    def to_line(self) -> bytes:
        """Return the line; fields without a value are left out."""
        values = {key: value for key, value in asdict(self).items() if value is not None and value is not False}
        return json.dumps(values, default=float).encode("ascii") + b"\n"  # NumPy's numbers, too

    @classmethod
    def from_line(cls, line: bytes) -> Record:
        """Return what a line says; fields that are not known are passed over.

        Raises:
            ValueError: it is none, or only the beginning of one.
        """
        values = _parse(line)
        known = {field.name: values[field.name] for field in fields(cls) if field.name in values}
        if "photo" not in known or known.get("status") not in (RESTORED, FACELESS, FAILED, BEGUN, KEPT):
            raise ValueError(f"no line of a manifest: {line!r}")
        for name, value in known.items():
            if not isinstance(value, _TYPES[name]) or (isinstance(value, bool) and name != "recovered"):
                raise ValueError(f"no line of a manifest: {name} is {value!r}")
        os.fsencode(known["photo"])
        return cls(**known)


def _parse(line: bytes) -> dict[str, Any]:
    try:
        values = json.loads(line)
    except RecursionError as error:
        raise ValueError("no line of a manifest") from error
    if not isinstance(values, dict):
        raise ValueError(f"no line of a manifest: {line!r}")
    return values


class Manifest:
    """One process's file, open for appending; no other process can open it meanwhile.

    Files that killed processes did not finish are removed: those of this name, and those whose process does not run.

    Args:
        folder: the folder of results.
        name: name of the file, without suffix.

    Attributes:
        unfinished: folder for files that are being written.

    Raises:
        ImageError: another process holds it.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.path = folder / "manifest" / f"{name}.jsonl"
        self.unfinished = folder / UNFINISHED / name
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # The system frees it when the process dies.
        self._lock = FileLock(self.path.with_suffix(".lock"), timeout=_LOCK_SECONDS)
        try:
            self._lock.acquire()
        except Timeout:
            message = f"{shown(self.path)}: another process is writing it; let it end, or choose another folder or rank"
            raise ImageError(message) from None
        except NotImplementedError:
            logger.warning("%s: the file system has no locks; take care not to start the same rank twice", folder)
        self._file = self.path.open("ab+", buffering=0)
        self._end_torn_line()
        self._options: set[str] = set()
        shutil.rmtree(self.unfinished, ignore_errors=True)
        _remove_unfinished_of_the_dead(folder)

    def append(self, record: Record) -> None:
        """Write a line; when this returns it survives the process, whatever kills that.

        Raises:
            OSError: the disk is full or gone.
        """
        self._write(record.to_line())

    def name_options(self, options: Mapping[str, Any]) -> str:
        """Return a short name for options, and note once what it stands for.

        Raises:
            OSError: the disk is full or gone.
        """
        name = options_name(options)
        if name not in self._options:
            self._write(json.dumps({"options": name, "are": dict(options)}).encode("ascii") + b"\n")
            self._options.add(name)
        return name

    def _write(self, line: bytes) -> None:
        if self._file.write(line) != len(line):
            raise OSError(f"{self.path}: only a part of a line could be written; is the disk full?")

    def close(self) -> None:
        """Close the file and let other processes have it."""
        self._file.close()
        for folder in (self.unfinished, self.unfinished.parent):
            with contextlib.suppress(OSError):  # it does not exist, or another process has files in it
                folder.rmdir()
        self._lock.release()

    def __enter__(self) -> Manifest:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _end_torn_line(self) -> None:
        if self._file.seek(0, os.SEEK_END):
            self._file.seek(-1, os.SEEK_END)
            if self._file.read(1) != b"\n":
                self._file.write(b"\n")


def _remove_unfinished_of_the_dead(folder: Path) -> None:
    with contextlib.suppress(OSError):
        for left in list((folder / UNFINISHED).iterdir()):
            lock = FileLock(folder / "manifest" / f"{left.name}.lock", timeout=0)
            with contextlib.suppress(Timeout, NotImplementedError), lock:
                shutil.rmtree(left, ignore_errors=True)


def is_written(folder: Path) -> bool:
    """Whether a process writes a manifest of a folder; Ray's actors, which outlive their work, do not count."""
    for path in (folder / "manifest").glob("*.jsonl"):
        if _OF_ACTOR.fullmatch(path.name):
            continue
        try:
            with contextlib.suppress(NotImplementedError), FileLock(path.with_suffix(".lock"), timeout=0):
                pass
        except Timeout:
            return True
    return False


def options_name(options: Mapping[str, Any]) -> str:
    """Return a short name for options that JSON can hold."""
    return digest(dict(options))[:12]


def rank_file(rank: int, world: int) -> str:
    """Name of the manifest of one of `world` processes."""
    return f"rank-{rank:05d}-of-{world:05d}"
