"""report.json and report.csv beside the results: every face found, whether it was restored, and its identity."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lafr import __version__
from lafr.composing import LEFT, Composer
from lafr.results import RestoredPhoto
from lafr_base.files import csv_cell, read_json, write_json, write_text

if TYPE_CHECKING:
    from lafr.identity import Calibration

JSON_NAME, CSV_NAME = "report.json", "report.csv"

COLUMNS = (
    *("input", "output", "status", "reason", "face", "x0", "y0", "x1", "y1", "score", "restored", "weight"),
    *("eased_to", "likeness", "identity", "same_above", "different_above", "verdict"),
)
"""Columns of report.csv: one line a face, or one a photo that has none."""

VERDICTS = ("same", "changed", "eased", "left")
"""Of a face's identity: above the threshold; below it; above it after easing the weight; left as it was."""

_SHARE_OF_TIME = 20  # the report is written again when 20 times as long has passed as writing it took


def photo_entry(path: Path, result: RestoredPhoto, composer: Composer) -> dict[str, Any]:
    """Return what report.json says of a photo.

    Keys: ``input``, ``output`` (None for a photo that failed), ``status`` (restored, faceless or failed), ``reason`` of
    a failure, ``width`` and ``height`` of the input, and ``faces``, left to right. A face has ``face`` (its number),
    ``box`` (x0, y0, x1, y1, photo pixels), ``score`` of the detector, ``restored``, and where they are known
    ``likeness`` to the reference, ``weight``, ``eased_to``, ``identity``, the shares of pairs of the same and of
    different persons above that figure, and the ``verdict``, one of `VERDICTS`.

    Args:
        path: the photo's file.
        result: of the restorer.
        composer: the restorer's.
    """
    image = result.input_img
    status = "failed" if result.error is not None else "restored" if result.restored_faces else "faceless"
    return {
        "input": str(path),
        "output": None if result.output is None else str(result.output),
        "status": status,
        "reason": None if result.error is None else str(result.error) or type(result.error).__name__,
        "width": None if image is None else image.shape[1],
        "height": None if image is None else image.shape[0],
        "faces": [] if result.error is not None else _faces(result, composer),
    }


def _faces(result: RestoredPhoto, composer: Composer) -> list[dict[str, Any]]:
    slots = {number: slot for slot, number in enumerate(result.numbers)}
    faces: list[dict[str, Any]] = []
    for number in range(max(len(result.found), len(slots))):  # an aligned face is not looked for
        entry: dict[str, Any] = {"face": number, "restored": number in slots}
        if result.found:
            found = result.found[number]
            entry |= {"box": [round(float(v), 1) for v in found.box], "score": round(found.score, 4)}
            if found.likeness is not None:
                entry["likeness"] = round(found.likeness, 4)
        if number in slots:
            entry |= _restored(result, slots[number], composer)
        faces.append(entry)
    return faces


def _restored(result: RestoredPhoto, slot: int, composer: Composer) -> dict[str, Any]:
    entry: dict[str, Any] = {"weight": result.weights[slot]} if result.weights else {}
    eased = bool(result.eased) and result.eased[slot]
    if eased:
        entry["eased_to"] = result.tones[slot]
    if result.identities and composer.meter is not None:
        figure = result.identities[slot]
        entry |= {"identity": round(figure, 4), **shares(figure, composer.meter.calibration)}
        entry["verdict"] = verdict(figure, composer.least_identity, result.tones[slot] if eased else None)
    return entry


def shares(figure: float, calibration: Calibration) -> dict[str, float]:
    """Return which shares of pairs of the same and of different persons lie above a figure."""
    return {
        "same_above": round(calibration.share_of_same(figure), 4),
        "different_above": round(calibration.share_of_different(figure), 4),
    }


def verdict(figure: float, least: float, eased_to: float | None) -> str:
    """Return what a face's identity figure means, one of `VERDICTS`."""
    if eased_to is not None:
        return "left" if eased_to >= LEFT else "eased"
    return "same" if figure >= least else "changed"


class Report:
    """The two files in a folder of results; what they say of other photos is kept.

    Args:
        out: the folder of results.
        about: what else report.json says of the run: the model, the identity's threshold.
    """

    def __init__(self, out: Path, about: Mapping[str, Any]) -> None:
        self._out = out
        self._about = dict(about)
        self._written = read_json(out / JSON_NAME)
        known = self._written.get("photos")
        self._photos: dict[str, dict[str, Any]] = {}
        if isinstance(known, list):
            self._photos = {p["input"]: p for p in known if isinstance(p, dict) and isinstance(p.get("input"), str)}
        self._next = 0.0

    def note(self, entry: dict[str, Any]) -> None:
        """Take in a photo; now and then, the files are written."""
        self._photos[entry["input"]] = entry
        start = time.monotonic()
        if start >= self._next:
            self.write()
            self._next = time.monotonic() + _SHARE_OF_TIME * (time.monotonic() - start)

    def write(self) -> None:
        """Write both files, each whole or not at all.

        Raises:
            OSError: the folder cannot be written.
        """
        photos = list(self._photos.values())
        everything = {"lafr": __version__, **self._about, "photos": photos}
        if everything == self._written:
            return
        write_json(self._out / JSON_NAME, everything)
        write_text(self._out / CSV_NAME, to_csv(photos))
        self._written = everything


def to_csv(photos: list[dict[str, Any]]) -> str:
    """Return report.csv of photos as `photo_entry` gives them."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for photo in photos:
        for face in photo.get("faces") or [{}]:
            box = dict(zip(("x0", "y0", "x1", "y1"), face.get("box") or (), strict=False))
            writer.writerow(
                {key: csv_cell(value) for key, value in {**photo, **face, **box}.items() if value is not None}
            )
    return stream.getvalue()
