"""What ``lafr evaluate`` does: match restored images with references, measure them, report in JSON, CSV and text."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from lafr_base.files import csv_cell, whole
from lafr_base.images import ImageError, read_image, to_uint8
from lafr_metrics.suite import METRICS, MetricError, Suite, protocol, summarise

# What restoring appends to NAME: the face's number as NAME_00 (GFPGAN, CodeFormer), a suffix as NAME_lafr, or both.
_TAIL = re.compile(r"(_\d\d)?(_[A-Za-z][\w.+-]*)?")
_SUMMARY = ("mean", "low", "high", "count", "left_out")

Pairs = dict[str, tuple[Path, "Path | None"]]
Progress = Callable[[Sequence[Path], str], Iterable[Path]]


def match(restored: Sequence[Path], references: Sequence[Path] | None) -> tuple[Pairs, dict[str, str]]:
    """Match files by stem: equal, or the restored one's with what restoring appends.

    Args:
        restored: image files.
        references: image files; None where there are none, and nothing is to be matched.

    Returns:
        By the restored file's name the two files; and what stays without a partner, by name, with the reason.
    """
    if references is None:
        return {path.name: (path, None) for path in restored}, {}
    stems: dict[str, list[Path]] = {}
    for path in references:
        stems.setdefault(path.stem, []).append(path)
    pairs: Pairs = {}
    errors: dict[str, str] = {}
    taken: dict[Path, str] = {}
    # Equal names first: NAME.png, not NAME_compare.png beside it, is the result of NAME.
    for path in sorted(restored, key=lambda path: (path.stem not in stems, path.name)):
        stem = _reference_stem(path.stem, stems)
        if stem is None:
            errors[path.name] = f"no reference is called {path.stem}"
        elif len(stems[stem]) > 1:
            errors[path.name] = f"several references are called {stem}: {', '.join(p.name for p in stems[stem])}"
        elif (reference := stems[stem][0]) in taken:
            errors[path.name] = f"its reference {reference.name} is already that of {taken[reference]}"
        else:
            taken[reference] = path.name
            pairs[path.name] = path, reference
    for path in references:
        if path not in taken and len(stems[path.stem]) == 1:
            errors[f"reference {path.name}"] = "no restored image is called so"
    return {name: pairs[name] for name in sorted(pairs)}, errors


def _reference_stem(stem: str, references: Iterable[str]) -> str | None:
    """The longest stem of a reference that ``stem`` is, or continues by what restoring appends."""
    fitting = (name for name in references if stem.startswith(name) and _TAIL.fullmatch(stem, len(name)))
    return max(fitting, key=len, default=None)


class Evaluation:
    """Values of a set of images, collected image by image.

    Args:
        suite: the metrics.
        errors: what went wrong so far, by image; more is added.
    """

    def __init__(self, suite: Suite, errors: dict[str, str]) -> None:
        self.suite = suite
        self.errors = errors
        self._rows: dict[str, dict[str, float]] = {}
        self._paths: dict[str, tuple[Path, Path | None]] = {}
        self._sizes: Counter[str] = Counter()
        self._set: dict[str, float] = {}

    def add(self, name: str, restored: Path, reference: Path | None) -> list[str]:
        """Measure one image by all image metrics; return what went wrong.

        An image that cannot be read, or whose reference cannot or has another size, is left out of all metrics, so that
        all means are over the same images.
        """
        faults: dict[str, str] = {}
        try:
            image = to_uint8(read_image(restored).bgr)
            target = None if reference is None else to_uint8(read_image(reference).bgr)
            values = self.suite.measure(image, target, faults)
        except (ImageError, MetricError) as error:
            self.errors[name] = str(error)
            return [str(error)]
        self.errors.update({f"{name}, {metric}": reason for metric, reason in faults.items()})
        height, width = image.shape[:2]
        self._sizes[f"{width} x {height}"] += 1
        self._rows[name] = values
        self._paths[name] = restored, reference
        return [f"{metric}: {reason}" for metric, reason in faults.items()]

    def finish(self, references: Sequence[Path] | None, progress: Progress) -> list[str]:
        """Measure the set metrics over the images added; return what went wrong.

        Args:
            references: all images of the reference folder, or None.
            progress: see :meth:`lafr_metrics.suite.Suite.measure_set`.
        """
        if not self._rows:
            return []
        faults: dict[str, str] = {}
        paths = [restored for restored, _ in self._paths.values()]
        self._set = self.suite.measure_set(paths, references, faults, progress)
        self.errors.update(faults)
        return [reason if Path(what).is_absolute() else f"{what}: {reason}" for what, reason in faults.items()]

    def report(self) -> dict[str, Any]:
        """All there is to say, as JSON can hold it; an infinite value is the string ``inf``."""
        names = [*self.suite.names, *self.suite.missing]
        return {
            "count": len(self._rows),
            "sizes": dict(self._sizes),
            "device": str(self.suite.device),
            "summary": summarise(self._rows),
            "set": self._set,
            "missing": self.suite.missing,
            "errors": self.errors,
            "protocol": protocol([name for name in METRICS if name in names]),
            "images": {
                name: {
                    "restored": self._paths[name][0].name,
                    "reference": getattr(self._paths[name][1], "name", None),
                    "values": {metric: _plain(value) for metric, value in values.items()},
                }
                for name, values in self._rows.items()
            },
        }


def _plain(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)


def table(report: dict[str, Any]) -> str:
    """The means as lines of text."""
    sizes = ", ".join(f"{size} ({count})" for size, count in report["sizes"].items())
    lines = [f"{report['count']} images, {sizes}"]
    for name, spec in METRICS.items():
        value = "-"
        if name in report["set"]:
            value = f"{report['set'][name]:.4f}"
        elif name in report["summary"]:
            summary = report["summary"][name]
            if summary["mean"] is not None:
                value = f"{summary['mean']:.4f}  [{summary['low']:.4f}, {summary['high']:.4f}]"
            if summary["left_out"]:
                value += f"  ({summary['left_out']} infinite, not in the mean)"
        else:
            continue
        lines.append(f"{spec.title:<24}{'higher' if spec.better == 'higher' else 'lower':<8}{value}")
    return "\n".join(lines)


def as_csv(report: dict[str, Any]) -> str:
    """A line for each image, then the lines ``[mean]``, ``[low]``, ``[high]``, ``[count]`` and ``[left_out]`` of the
    image metrics, ``[set]`` of the set metrics and ``[missing]`` with reasons.

    Every metric asked for has a column, the missing ones too.
    """
    names = list(report["protocol"]["metrics"])
    text = io.StringIO()
    writer = csv.DictWriter(text, ["image", "reference", *names], restval="", lineterminator="\n")
    writer.writeheader()
    for name, image in report["images"].items():
        reference = csv_cell(image["reference"] or "")
        writer.writerow({"image": csv_cell(name), "reference": reference, **image["values"]})
    for key in _SUMMARY:
        row = {name: summary[key] for name, summary in report["summary"].items()}
        writer.writerow({"image": f"[{key}]", **{name: "" if value is None else value for name, value in row.items()}})
    writer.writerow({"image": "[set]", **report["set"]})
    reasons = {name: " ".join(reason.split()) for name, reason in report["missing"].items()}
    writer.writerow({"image": "[missing]", **reasons})
    return text.getvalue()


def write_reports(report: dict[str, Any], path: Path) -> None:
    """Write the report to ``path`` (JSON) and beside it as .csv, both whole or neither.

    Raises:
        OSError: the folder cannot be written to.
    """
    with whole(path) as first, whole(path.with_suffix(".csv")) as second:
        first.write_text(json.dumps(report, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        second.write_text(as_csv(report), encoding="utf-8")
