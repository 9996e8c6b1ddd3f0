"""Figures 6 and 9: metrics over the number of training images, from the reports of ``lafr ablate 11`` and ``12``."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.ticker import NullFormatter, ScalarFormatter

from lafr_base.files import write_json
from lafr_metrics.specs import METRICS
from lafr_studies.ablations.row_report import spread
from lafr_studies.figures.drawing import COLOURS, new_figure, save
from lafr_studies.figures.figure_inputs import FigureError

METHODS = {"11": "LAFR", "12": "OSEDiff"}
"""What the paper's tables of training-set sizes train."""

_ARROWS = {"higher": " ↑", "lower": " ↓"}
_COLUMNS = 4


def read_report(path: Path) -> dict[str, Any]:
    """The report of ``lafr ablate 11`` or ``12`` (``table_11_mini.json``).

    Raises:
        FileNotFoundError: there is none.
        FigureError: the file holds something else.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; `lafr ablate 11` and `lafr ablate 12` write table_*.json")
    try:
        report = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise FigureError(f"{path} is no JSON file: {error}") from error
    table = report.get("table") if isinstance(report, dict) else None
    if table not in METHODS:
        raise FigureError(f"{path} is no report of `lafr ablate 11` or `lafr ablate 12`")
    return report


def series(report: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """By the paper's column heading, a point for each number of images, smallest first.

    A point has ``images``; ``seeds``, ``mean``, ``sd``, ``low`` and ``high`` (Student's 95 % interval over the seeds)
    where the row was measured; ``paper`` where the paper has a figure.
    """
    result: dict[str, list[dict[str, Any]]] = {}
    for heading, metric in report["columns"].items():
        points = []
        for row in report["rows"]:
            values = row["cells"].get(metric, {}).get("seeds", {})
            point: dict[str, Any] = {"images": int(row["labels"][0]), "seeds": values}
            if values:
                point |= {key: value for key, value in spread(list(values.values())).items() if key != "count"}
            if row["paper"].get(heading) is not None:
                point["paper"] = row["paper"][heading]
            points.append(point)
        result[heading] = sorted(points, key=lambda point: point["images"])
    return result


def make(reports: Sequence[Path], out: Path, paper: bool = False) -> dict[str, Any]:
    """Write ``trend.png`` and ``trend.json``; return the latter's content.

    Args:
        reports: of one method for figure 6, of both for figure 9; one each.
        out: folder to write to.
        paper: draw the paper's figures too, dashed, with an axis of their own: they are of other data.

    Raises:
        FileNotFoundError: a report is missing.
        FigureError: a file is no such report, there are two of one method, or nothing was measured.
    """
    read = [read_report(path) for path in reports]
    tables = [report["table"] for report in read]
    if len(set(tables)) < len(tables):
        raise FigureError("two reports are of the same method: one of table 11 and one of table 12 can be drawn")
    columns = read[0]["columns"]
    lines = {METHODS[report["table"]]: series(report) for report in read}
    measured = [
        heading
        for heading in columns
        if any("mean" in point for line in lines.values() for point in line.get(heading, []))
    ]
    if not measured:
        raise FigureError(f"{', '.join(map(str, reports))}: nothing was measured")
    result = {
        "figure": "trend",
        "scale": {METHODS[report["table"]]: report.get("scale") for report in read},
        "metrics": {heading: columns[heading] for heading in measured},
        "series": lines,
    }
    _draw(result, out / "trend.png", paper)
    write_json(out / "trend.json", result)
    return result


def _draw(result: Mapping[str, Any], path: Path, paper: bool) -> None:
    metrics = result["metrics"]
    across = min(len(metrics), _COLUMNS)
    down = math.ceil(len(metrics) / across)
    figure, panels = new_figure(3.1 * across, 2.5 * down + 0.3, across, down)
    for ax, (heading, metric) in zip(panels, metrics.items(), strict=False):
        better = METRICS[metric].better if metric in METRICS else "lower"
        ax.set_title(heading + _ARROWS[better], fontsize=10)
        other = ax.twinx() if paper else None
        for (method, lines), colour in zip(result["series"].items(), COLOURS, strict=False):
            _line(ax, lines.get(heading, []), method, colour)
            if other is not None:
                dashed = [(p["images"], p["paper"]) for p in lines.get(heading, []) if "paper" in p]
                other.plot(*zip(*dashed, strict=True), color=colour, linestyle="--", linewidth=0.9, alpha=0.7)
                other.tick_params(labelsize=7, colors="#777777")
        ax.set_xscale("log")
        counts = sorted({p["images"] for lines in result["series"].values() for p in lines[heading] if "mean" in p})
        ax.set_xticks(counts, labels=_tick_labels(counts), rotation=60)
        ax.xaxis.set_minor_formatter(NullFormatter())
        ax.yaxis.set_major_formatter(ScalarFormatter(useOffset=False))
        ax.tick_params(labelsize=7)
    for ax in panels[len(metrics) :]:
        ax.set_visible(False)
    panels[0].legend(frameon=False, fontsize=8)
    figure.supxlabel("training images" + ("; dashed, right axis: the paper" if paper else ""), fontsize=9)
    save(figure, path)


def _tick_labels(counts: Sequence[int]) -> list[str]:
    """The numbers themselves; empty where, on a logarithmic axis, one would stand on the one before."""
    room = 0.05 * math.log(counts[-1] / counts[0])
    labels, last = [], -math.inf
    for count in counts:
        free = math.log(count) - last >= room
        labels.append(str(count) if free else "")
        last = math.log(count) if free else last
    return labels


def _line(ax: Any, points: Sequence[Mapping[str, Any]], method: str, colour: str) -> None:
    found = [point for point in points if "mean" in point]
    images = [point["images"] for point in found]
    ax.plot(images, [point["mean"] for point in found], color=colour, marker="o", markersize=3, label=method)
    banded = [point for point in found if point["low"] is not None]
    ax.fill_between(
        [p["images"] for p in banded], [p["low"] for p in banded], [p["high"] for p in banded], color=colour, alpha=0.15
    )


def text(result: Mapping[str, Any]) -> str:
    """What the figure says, in lines: the smallest and the largest number of images, by metric and method."""
    lines = []
    for heading in result["metrics"]:
        for method, values in result["series"].items():
            found = [point for point in values.get(heading, []) if "mean" in point]
            if found:
                ends = [f"{point['mean']:.4g} with {point['images']}" for point in (found[0], found[-1])]
                lines.append(f"{heading:<6} {method:<8} {' -> '.join(dict.fromkeys(ends))}")
    return "\n".join(lines)
