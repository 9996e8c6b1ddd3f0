"""What was done: lines of JSON, one a photo, appended when all its files are there; one file a process.

    DIR/manifest/rank-00000-of-00002.jsonl     by the process that takes share 0 of 2
    DIR/manifest/ray-0f3c....jsonl             by a run of the Ray engine

A line has ``photo`` (its key), ``status`` (restored, faceless or failed), ``faces``, ``seconds`` since the process's
line before, ``reason`` of a failure, and ``recovered`` where the files were found and only the line was missing. A
process that is killed while it writes leaves the beginning of a line, which is no JSON and is passed over.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

from lafr.scale.photos import share_of
from lafr_base.images import ImageError

logger = logging.getLogger(__name__)

RESTORED, FACELESS, FAILED = "restored", "faceless", "failed"

_RANK_FILE = re.compile(r"rank-(\d+)-of-(\d+)\.jsonl")
_MERGE_AT = 1 << 16


@dataclass(frozen=True)
class Record:
    """What is said of a photo.

    Attributes:
        photo: its key.
        status: `RESTORED`, `FACELESS` (its whole photo was enlarged only) or `FAILED`.
        faces: how many were restored; None where that is not known any more.
        seconds: since the line before; None for what was only recovered.
        reason: why it failed.
        recovered: its files were all there, from a process that was killed before it wrote the line.
    """

    photo: str
    status: str
    faces: int | None = None
    seconds: float | None = None
    reason: str | None = None
    recovered: bool = False

    def to_line(self) -> bytes:
        """Return the line; fields without a value are left out."""
        fields = {key: value for key, value in asdict(self).items() if value is not None and value is not False}
        return json.dumps(fields).encode("ascii") + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> Record:
        """Return what a line says.

        Raises:
            ValueError: it is none, or only the beginning of one.
        """
        try:
            return cls(**json.loads(line))
        except TypeError as error:
            raise ValueError(f"no line of a manifest: {line!r}") from error


class Manifest:
    """One process's file, open for appending; no other process can open it meanwhile.

    Args:
        folder: the folder of results.
        name: name of the file, without suffix.

    Raises:
        ImageError: another process holds it.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.path = folder / "manifest" / f"{name}.jsonl"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(self.path.with_suffix(".lock"), timeout=0)  # the system frees it when the process dies
        try:
            self._lock.acquire()
        except Timeout:
            message = f"{self.path}: another process is writing it; let it end, or give each its own --rank"
            raise ImageError(message) from None
        except NotImplementedError:
            logger.warning("%s: the file system has no locks; take care not to start the same rank twice", folder)
        self._file = self.path.open("ab+", buffering=0)
        self._end_torn_line()

    def append(self, record: Record) -> None:
        """Write a line; when this returns it survives the process, whatever kills that.

        Raises:
            OSError: the disk is full or gone.
        """
        line = record.to_line()
        if self._file.write(line) != len(line):
            raise OSError(f"{self.path}: only a part of a line could be written; is the disk full?")

    def close(self) -> None:
        """Close the file and let other processes have it."""
        self._file.close()
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


def rank_file(rank: int, world: int) -> str:
    """Name of the manifest of one of `world` processes."""
    return f"rank-{rank:05d}-of-{world:05d}"


class DigestSet:
    """A set of photos that takes 16 bytes each (a Python set of their keys takes 150 and more).

    Photos are known by 128-bit digests: among a billion, two are equal with a chance of 1e-21.
    """

    def __init__(self) -> None:
        self._sorted = np.empty(0, dtype="S16")
        self._recent: set[bytes] = set()

    def add(self, key: str) -> None:
        """Add a photo's key."""
        self._recent.add(_digest(key))
        if len(self._recent) > max(_MERGE_AT, len(self._sorted) // 4):
            recent = np.array(list(self._recent), dtype="S16")
            self._sorted = np.unique(np.concatenate((self._sorted, recent)))
            self._recent.clear()

    def __contains__(self, key: str) -> bool:
        digest = _digest(key)
        if digest in self._recent:
            return True
        index = int(np.searchsorted(self._sorted, np.bytes_(digest)))
        return index < len(self._sorted) and self._sorted[index] == digest


class Ledger:
    """What is known of one share's photos: from the manifests of a folder, and from what is noted since.

    Args:
        folder: the folder of results.
        rank: the share, of `world`.
        world: number of shares.
        retry_failed: photos that failed are taken for unknown.
        leave_out: name of a manifest that is not read.

    Attributes:
        faces: restored faces.
    """

    def __init__(
        self, folder: Path, rank: int = 0, world: int = 1, retry_failed: bool = False, leave_out: str | None = None
    ) -> None:
        self.faces = 0
        self._done = DigestSet()
        self._failed: set[str] = set()
        self._counts: Counter[str] = Counter()
        for record in read_manifests(folder, rank, world, leave_out):
            if record.status != FAILED or not retry_failed:
                self.note(record)

    def note(self, record: Record) -> None:
        """Take in a line. A photo that was done after it had failed is done."""
        key = record.photo
        if key in self._done:
            return
        if record.status == FAILED:
            self._failed.add(key)
            return
        self._done.add(key)
        self._failed.discard(key)
        self._counts[record.status] += 1
        self.faces += record.faces or 0

    def __contains__(self, key: str) -> bool:
        return key in self._failed or key in self._done

    def count(self, status: str) -> int:
        """Return the number of photos that ended so."""
        return len(self._failed) if status == FAILED else self._counts[status]

    def __len__(self) -> int:
        return len(self._failed) + self._counts.total()


def read_manifests(folder: Path, rank: int = 0, world: int = 1, leave_out: str | None = None) -> Iterator[Record]:
    """Yield the lines about one share's photos; a file that cannot hold any is not opened."""
    for path in sorted((folder / "manifest").glob("*.jsonl")):
        if path.stem == leave_out:
            continue
        match = _RANK_FILE.fullmatch(path.name)
        if match is not None:
            other_rank, other_world = int(match[1]), int(match[2])
            # Numbers with the remainder `rank` by `world` and those with `other_rank` by `other_world`: none is both.
            if (rank - other_rank) % math.gcd(world, other_world):
                continue
        with path.open("rb") as file:
            for line in file:
                try:
                    record = Record.from_line(line)
                except ValueError:
                    continue
                if world == 1 or share_of(record.photo, world) == rank:
                    yield record


def _digest(key: str) -> bytes:
    """A photo's digest; NumPy, which keeps 16 bytes of each, leaves out zeros at the end."""
    return blake2b(os.fsencode(key), digest_size=16).digest().rstrip(b"\0")
