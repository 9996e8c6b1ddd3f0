"""report.json and report.csv beside the results: every face found, whether it was restored, and its identity."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lafr import __version__
from lafr.composing import LEFT, Composer
from lafr.results import RestoredPhoto
from lafr_base.files import changed, csv_cell

if TYPE_CHECKING:
    from lafr.identity import Calibration

JSON_NAME, CSV_NAME = "report.json", "report.csv"

COLUMNS = (
    *("input", "output", "status", "reason", "face", "x0", "y0", "x1", "y1", "score", "restored", "weight"),
    *("eased_to", "kept", "likeness", "identity", "same_above", "different_above", "verdict"),
)
"""Columns of report.csv: one line a face, or one a photo that has none."""

VERDICTS = ("same", "changed", "eased", "left")
"""Of a face's identity: above the threshold; below it; above it after easing the weight; left as it was."""


def photo_entry(path: Path, result: RestoredPhoto, composer: Composer) -> dict[str, Any]:
    """Return what report.json says of a photo.

    Keys: ``input``, ``output`` (None for a photo that failed), ``status`` (restored, faceless or failed), ``reason`` of
    a failure, ``width`` and ``height`` of the input, and ``faces``, left to right. A face has ``face`` (its number),
    ``box`` (x0, y0, x1, y1, photo pixels), ``score`` of the detector, ``restored``, and where they are known
    ``likeness`` to the reference, ``weight``, ``eased_to``, ``kept`` (0 to 1, how much of it is the photo's own, since
    it is intact), ``identity``, the shares of pairs of the same and of different persons above that figure, and the
    ``verdict``, one of `VERDICTS`.

    Args:
        path: the photo's file.
        result: of the restorer.
        composer: the restorer's.
    """
    return {
        "input": str(path),
        "output": None if result.output is None else str(result.output),
        "status": "failed" if result.error is not None else "restored" if result.restored_faces else "faceless",
        "reason": None if result.error is None else str(result.error) or type(result.error).__name__,
        **faces_entry(result, composer),
    }


def faces_entry(result: RestoredPhoto, composer: Composer) -> dict[str, Any]:
    """Return the part of `photo_entry` that only the restorer knows: ``width``, ``height`` and ``faces``."""
    image = result.input_img
    return {
        "width": None if image is None else image.shape[1],
        "height": None if image is None else image.shape[0],
        "faces": [] if result.error is not None else _faces(result, composer),
    }


def _faces(result: RestoredPhoto, composer: Composer) -> list[dict[str, Any]]:
    slots = {number: slot for slot, number in enumerate(result.numbers or range(len(result.restored_faces)))}
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
    kept = result.kept[slot] if result.kept else None
    if kept is not None:
        entry["kept"] = round(kept, 4)
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


def write_report(out: Path, about: Mapping[str, Any], photos: Iterable[Mapping[str, Any]]) -> None:
    """Write both files, each whole or not at all; what they are to say already stays untouched.

    Photos are taken one by one, so that memory does not grow with their number.

    Args:
        out: the folder of results.
        about: what else report.json says of the run: the model, the identity's threshold.
        photos: as `photo_entry` gives them.

    Raises:
        OSError: the folder cannot be written.
    """
    head = json.dumps({"lafr": __version__, **about}, indent=1, allow_nan=False)[:-2]
    with (
        changed(out / JSON_NAME) as json_part,
        changed(out / CSV_NAME) as csv_part,
        json_part.open("w", encoding="ascii") as file,
        csv_part.open("w", encoding="utf-8", errors="backslashreplace", newline="") as table,  # names may be no text
    ):
        writer = csv.DictWriter(table, COLUMNS, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        file.write(f'{head},\n "photos": [')
        for index, photo in enumerate(photos):
            file.write(f"{',' if index else ''}\n  {json.dumps(photo, allow_nan=False, default=float)}")
            writer.writerows(_rows(photo))
        file.write("\n ]\n}\n")


def _rows(photo: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for face in photo.get("faces") or [{}]:
        box = dict(zip(("x0", "y0", "x1", "y1"), face.get("box") or (), strict=False))
        yield {key: csv_cell(value) for key, value in {**photo, **face, **box}.items() if value is not None}
