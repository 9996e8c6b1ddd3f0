"""What the report says of all photos of a folder of results, from the lines of its manifests."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lafr.scale.ledger import DigestMap
from lafr.scale.manifest import BEGUN, FAILED, KEPT, Record
from lafr.scale.photos import Photos

# When a photo was done; file (its number) and offset of its line; the same of the line that says it was begun.
_NEWEST = struct.Struct("<dIQIQ")
_NOWHERE = (0xFFFFFFFF, 0)


def read_entries(out: Path, photos: Photos) -> Iterator[dict[str, Any]]:
    """Yield what `lafr.report.photo_entry` says, of each photo once, in the order of the lines.

    The lines are read twice; what is held meanwhile of a photo is where its lines are, 48 bytes.

    Args:
        out: the folder of results.
        photos: say where those photos are whose lines do not.
    """
    files = sorted((out / "manifest").glob("*.jsonl"))
    newest = DigestMap(_NEWEST.size)
    for number, offset, record in _records(files):
        at, *places = _NEWEST.unpack(newest.get(record.photo) or _NEWEST.pack(-2, *_NOWHERE, *_NOWHERE))
        if record.status == BEGUN:
            places[2:] = number, offset
        else:
            now = -1 if record.status == FAILED else record.at or 0  # one that was done is, though it failed later
            if now < at:
                continue
            at, places[:2] = now, (number, offset)
        newest[record.photo] = _NEWEST.pack(at, *places)
    for number, offset, record in _records(files):
        _, *place, file, at = _NEWEST.unpack(newest.get(record.photo) or bytes(_NEWEST.size))
        if place == [number, offset]:
            yield _entry(out, photos, record, None if (file, at) == _NOWHERE else _record(files[file], at))


def _records(files: Sequence[Path]) -> Iterator[tuple[int, int, Record]]:
    """Yield each line about a photo, with the number of its file and its place there."""
    for number, path in enumerate(files):
        offset = 0
        with path.open("rb") as file:
            for line in file:
                with contextlib.suppress(ValueError):  # the beginning of one, or options
                    record = Record.from_line(line)
                    if record.status != KEPT:
                        yield number, offset, record
                offset += len(line)


def _record(path: Path, offset: int) -> Record:
    with path.open("rb") as file:
        file.seek(offset)
        return Record.from_line(file.readline())


def _entry(out: Path, photos: Photos, record: Record, begun: Record | None) -> dict[str, Any]:
    same = begun is not None and (begun.digest, begun.options) == (record.digest, record.options)
    seen = begun.report if begun is not None and same and record.status != FAILED else None
    return {
        "input": record.source or str(photos.path(record.photo)),
        "output": None if record.output is None else str(out / record.output),
        "status": record.status,
        "reason": record.reason,
        **(seen or {"width": None, "height": None, "faces": []}),
    }
