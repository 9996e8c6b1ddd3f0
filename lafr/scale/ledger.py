"""What is known of a share's photos, from all manifests of a folder: which results are there, of what, and how made."""

from __future__ import annotations

import math
import os
import re
import struct
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from lafr.scale.manifest import BEGUN, FAILED, KEPT, Record, _parse
from lafr.scale.photos import share_of
from lafr_base.files import shown

_RANK_FILE = re.compile(r"rank-(\d+)-of-(\d+)\.jsonl")
_MERGE_AT = 1 << 16


class DigestMap:
    """A dictionary of short bytes by photos' keys, in 16 bytes each and the length of the values.

    Photos are known by 128-bit digests: among a billion, two are equal with a chance of 1e-21.

    Args:
        length: of the values.
    """

    def __init__(self, length: int) -> None:
        self._type = np.dtype([("key", "S16"), ("value", f"V{length}")] if length else [("key", "S16")])
        self._sorted = np.empty(0, dtype=self._type)
        self._recent: dict[bytes, bytes] = {}

    def __setitem__(self, key: str, value: bytes) -> None:
        """Set a photo's value."""
        self._recent[_digest(key)] = value
        if len(self._recent) > max(_MERGE_AT, len(self._sorted) // 4):
            self._merge()

    def get(self, key: str) -> bytes | None:
        """Return a photo's value; None where there is none."""
        digest = _digest(key)
        if digest in self._recent:
            return self._recent[digest]
        index = int(np.searchsorted(self._sorted["key"], np.bytes_(digest)))
        if index == len(self._sorted) or self._sorted["key"][index] != digest:
            return None
        return bytes(self._sorted[index]["value"]) if "value" in (self._type.names or ()) else b""

    def __contains__(self, key: str) -> bool:
        return self.get(key) is not None

    def _merge(self) -> None:
        recent = np.empty(len(self._recent), dtype=self._type)
        recent["key"] = list(self._recent)
        if "value" in (self._type.names or ()):
            recent["value"] = list(self._recent.values())
        both = np.concatenate((recent, self._sorted))  # of equal keys, `unique` keeps the first
        self._sorted = both[np.unique(both["key"], return_index=True)[1]]
        self._recent.clear()


class DigestSet(DigestMap):
    """A set of photos that takes 16 bytes each (a Python set of their keys takes 150 and more)."""

    def __init__(self) -> None:
        super().__init__(0)

    def add(self, key: str) -> None:
        """Add a photo's key."""
        self[key] = b""


class Verdict(Enum):
    """What is to be done with a photo."""

    TODO = "no result is there"
    DONE = "its result is there"
    FAILED = "it failed before"
    RECOVERED = "its result is there, but not the line that says so"
    DIFFERENT = "the result was made from another photo, or with other options"
    UNKNOWN = "nothing says what the result was made from"


class Ledger:
    """What is known of one share's photos: from the manifests of a folder, and from what is noted since.

    Args:
        folder: the folder of results.
        rank: the share, of `world`.
        world: number of shares.
        retry_failed: photos that failed are taken for unknown.
        leave_out: beginning of the names of manifests that are not read.
        only: beginning of the names of those that are read.

    Attributes:
        faces: restored faces.
        damaged: photos that were restored in part.
        kept: photos that were not done, since there are results of something else.
        options: the options that lines name.
        sources: the photos' files, where lines say them.
    """

    def __init__(
        self,
        folder: Path,
        rank: int = 0,
        world: int = 1,
        retry_failed: bool = False,
        leave_out: str | None = None,
        only: str = "",
    ) -> None:
        self.faces = self.damaged = self.kept = 0
        self.options: dict[str, dict[str, Any]] = {}
        self.sources: dict[str, str] = {}
        self._done = DigestMap(_VALUE.size)
        self._failed: set[str] = set()
        self._begun: dict[str, bytes] = {}
        self._counts: Counter[str] = Counter()
        for line in read_lines(folder, rank, world, leave_out, only):
            if isinstance(line, Record):
                if line.status != FAILED or not retry_failed:
                    self.note(line)
            elif isinstance(line["are"], dict):
                self.options[str(line["options"])] = line["are"]

    def note(self, record: Record) -> None:
        """Take in a line. Of several about a photo, the newest counts; one that was done after it failed is done."""
        key = record.photo
        if record.status == BEGUN:
            self._begun[key] = _content(record)
            return
        if record.status == KEPT:
            self.kept += 1
            return
        known = self._done.get(key)
        if record.status == FAILED:
            if known is None:
                self._failed.add(key)
            return
        self._begun.pop(key, None)
        self._failed.discard(key)
        at = record.at or 0.0
        if known is not None and _VALUE.unpack(known)[0] > at:
            return
        self._done[key] = _VALUE.pack(
            at, _seen(record), _content(record), (record.options or "").encode("ascii", "replace")
        )
        if record.source is not None:
            self.sources[key] = record.source
        if known is None:
            self._counts[record.status] += 1
            self.faces += record.faces or 0
            self.damaged += record.damage is not None

    def judge(self, record: Record, exists: bool, content: Callable[[], str]) -> Verdict:
        """Say what is to be done with a photo.

        Args:
            record: its key, size, time and options.
            exists: whether the last file of its results is there.
            content: returns the digest of the photo's bytes; called where size and time do not tell.
        """
        known = self._done.get(record.photo)
        if known is not None and exists:
            _, seen, made, _ = _VALUE.unpack(known)
            if seen == _seen(record) or made == _content(record, content()):
                return Verdict.DONE
            return Verdict.DIFFERENT
        if record.photo in self._failed:
            return Verdict.FAILED
        if not exists:
            return Verdict.TODO
        begun = self._begun.get(record.photo)
        return Verdict.RECOVERED if begun == _content(record, content()) else Verdict.UNKNOWN

    def difference(self, record: Record, now: Mapping[str, Any]) -> str:
        """Say, of a photo whose verdict is `Verdict.DIFFERENT`, what is different."""
        name = _VALUE.unpack(self._done.get(record.photo) or bytes(_VALUE.size))[3].rstrip(b"\0").decode("ascii")
        before = self.options.get(name)
        if name == record.options or before is None:
            source = self.sources.get(record.photo)
            other = source is not None and source != record.source
            return f"was made from {shown(source) if other and source else 'another state of the photo'}"
        keys = [key for key in {**before, **now} if before.get(key) != now.get(key)]
        return "was made with " + ", ".join(f"{key} {before.get(key)!r} (now {now.get(key)!r})" for key in keys)

    def __contains__(self, key: str) -> bool:
        return key in self._failed or key in self._done

    def count(self, status: str) -> int:
        """Return the number of photos that ended so."""
        return len(self._failed) if status == FAILED else self._counts[status]

    def __len__(self) -> int:
        return len(self._failed) + self._counts.total()


# When a line was made; digests of size, time and options, and of content and options; the options' name.
_VALUE = struct.Struct("<d16s16s12s")


def _seen(record: Record) -> bytes:
    return _short(record.size, record.time, record.options)


def _content(record: Record, digest: str | None = None) -> bytes:
    return _short(record.digest if digest is None else digest, record.options)


def _short(*parts: object) -> bytes:
    return blake2b(repr(parts).encode("utf-8", "surrogateescape"), digest_size=16).digest()


def read_lines(
    folder: Path, rank: int = 0, world: int = 1, leave_out: str | None = None, only: str = ""
) -> Iterator[Record | dict[str, Any]]:
    """Yield the lines about one share's photos, and those that say what options are.

    A file that cannot hold any is not opened. Arguments are those of `Ledger`.
    """
    for path in sorted((folder / "manifest").glob("*.jsonl")):
        if not path.stem.startswith(only) or (leave_out is not None and path.stem.startswith(leave_out)):
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
                    if line.startswith(b'{"options": '):
                        yield {"are": None, **_parse(line)}
                        continue
                    record = Record.from_line(line)
                except ValueError:
                    continue
                if world == 1 or share_of(record.photo, world) == rank:
                    yield record


def _digest(key: str) -> bytes:
    """A photo's digest; NumPy, which keeps 16 bytes of each, leaves out zeros at the end."""
    return blake2b(os.fsencode(key), digest_size=16).digest().rstrip(b"\0")
