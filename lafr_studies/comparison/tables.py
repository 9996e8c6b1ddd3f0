"""The report as Markdown and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lafr_base.files import csv_cell
from lafr_studies.comparison.store import HQ, LQ

Cell = str | float | int | None
Mean = str | float | None
"""A value, ``inf`` as text, or none."""

_PARTS = ("mean", "low", "high", "count")
_MEMORY = ("peak_mib", "idle_mib", "gpu_mib")


def means(report: Mapping[str, Any], metric: str) -> list[Mean]:
    """Return `mean_of` of each column."""
    return [mean_of(column, metric) for column in report["columns"]]


def mean_of(column: Mapping[str, Any], metric: str) -> Mean:
    """Return a metric's mean in a column, or its value for the whole set; None where there is none."""
    value: Mean = column["set"].get(metric, column["summary"].get(metric, {}).get("mean"))
    return value


def digits(values: Iterable[Mean]) -> int:
    """Return how many decimals a metric is printed with: as the field does, by the size of its largest value."""
    largest = max((abs(value) for value in values if isinstance(value, (int, float))), default=0)
    return 2 if largest >= 10 else 3 if largest >= 2 else 4


def count_faces(report: Mapping[str, Any]) -> int:
    """Return how many faces were compared: rows of inputs that could be used."""
    return sum(row["error"] is None for row in report["faces"])


def duration(seconds: float) -> str:
    """Return seconds with three digits that say something."""
    return f"{seconds:.1f}" if seconds >= 10 else f"{seconds:.3f}" if seconds >= 0.1 else f"{seconds:.2g}"


def markdown(report: Mapping[str, Any]) -> str:
    """Return the tables with all that is needed to read them."""
    parts = [f"# Comparison of {count_faces(report)} faces", _quality(report)]
    if any(column.get("difference") for column in report["columns"]):
        parts += [f"## Paired differences from {report['first']}", _differences(report)]
    parts += ["## Cost", _cost(report)]
    missing = [f"- {name}: {one_line(text)}" for name, text in report["missing"].items()]
    if missing:
        parts += ["## Metrics that are missing", "\n".join(missing)]
    notes = [f"- {one_line(note)}" for note in [*report["notes"], *faults(report)]]
    if notes:
        parts += ["## Notes", "\n".join(notes)]
    parts += ["## How it was measured", _protocol(report)]
    return "\n\n".join(parts) + "\n"


def summary_csv(report: Mapping[str, Any]) -> str:
    """Return one line a method: cost, and of each metric mean, interval, count and difference from the first."""
    rows: list[list[Cell]] = []
    heads: list[Cell] = ["method", "parameters", "seconds_median", "seconds_count", *_MEMORY]
    for metric in report["metrics"]:
        heads += [metric, *(f"{metric}_{part}" for part in _PARTS[1:])]
        heads += [f"{metric}_difference", *(f"{metric}_difference_{part}" for part in _PARTS[1:])]
    for column in report["columns"]:
        seconds = column.get("seconds") or {}
        row: list[Cell] = [column["name"], column.get("parameters"), seconds.get("median"), seconds.get("count")]
        row += [column.get(key) for key in _MEMORY]
        for metric in report["metrics"]:
            summary = column["summary"].get(metric, {"mean": column["set"].get(metric)})
            difference = column.get("difference", {}).get(metric, {})
            row += [of.get(part) for of in (summary, difference) for part in _PARTS]
        rows.append(row)
    return _csv([heads, *rows])


def faces_csv(report: Mapping[str, Any]) -> str:
    """Return one line for each face and method: its values, seconds and error."""
    metrics = [name for name, about in report["metrics"].items() if about["kind"] == "image"]
    rows: list[list[Cell]] = [["face", "input", "method", *metrics, "seconds", "error"]]
    for face in report["faces"]:
        for column in report["columns"]:
            name = column["name"]
            values, error = face["values"].get(name, {}), face["errors"].get(name)
            if values or error:
                measured = [values.get(metric) for metric in metrics]
                rows.append([face["id"], face["input"], name, *measured, face["seconds"].get(name), error])
    return _csv(rows)


def _csv(rows: Iterable[Sequence[Cell]]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([csv_cell(cell) for cell in row] for row in rows)
    return buffer.getvalue()


def _quality(report: Mapping[str, Any]) -> str:
    heads = ["method", "faces"]
    columns = report["columns"]
    cells: list[list[str]] = [[column["title"], str(column["faces"])] for column in columns]
    for metric, about in report["metrics"].items():
        heads.append(f"{about['title']} {'↑' if about['better'] == 'higher' else '↓'}")
        found = means(report, metric)
        decimals = digits(found)
        best = best_mean(report, found, about["better"])
        for row, column, mean in zip(cells, columns, found, strict=True):
            text = _value(mean, decimals)
            text = f"**{text}**" if mean is not None and mean == best else text
            row.append(text + _interval(column["summary"].get(metric), decimals))
    return markdown_table(heads, cells)


def best_mean(report: Mapping[str, Any], means: Sequence[Mean], better: str) -> float | None:
    """Return the best mean of the methods; inputs and references take no part."""
    names = [column["name"] for column in report["columns"]]
    found = [
        mean for name, mean in zip(names, means, strict=True) if name not in (LQ, HQ) and isinstance(mean, (int, float))
    ]
    if len(found) < 2:
        return None
    return max(found) if better == "higher" else min(found)


def _differences(report: Mapping[str, Any]) -> str:
    metrics = {name: about for name, about in report["metrics"].items() if about["kind"] == "image"}
    cells = []
    for column in report["columns"]:
        if "difference" not in column:
            continue
        row = [column["title"]]
        for metric in metrics:
            found = column["difference"].get(metric)
            mean = None if found is None else found["mean"]
            decimals = digits([mean])
            row.append(_value(mean, decimals, "+") + _interval(found, decimals, "+"))
        cells.append(row)
    return markdown_table(["method", *(about["title"] for about in metrics.values())], cells)


def _cost(report: Mapping[str, Any]) -> str:
    heads = [
        "method",
        "parameters",
        "seconds per face",
        "face size",
        "peak memory, MiB",
        "of it idle",
        "GPU, MiB",
        "weight",
    ]
    cells = []
    for column in report["columns"]:
        if column["name"] in (LQ, HQ):
            continue
        seconds = column["seconds"]
        cells.append(
            [
                column["title"],
                "-" if column["parameters"] is None else f"{column['parameters']:,}",
                "-" if seconds is None else f"{duration(seconds['median'])} (n = {seconds['count']})",
                str(column["face_size"] or "-"),
                *(_value(column[key], 0) for key in _MEMORY),
                "-" if column["weight"] is None else f"{column['weight']:g}",
            ]
        )
    return markdown_table(heads, cells)


def _protocol(report: Mapping[str, Any]) -> str:
    lines = [f"- {key}: {value}" for key, value in report["protocol"].items() if key != "versions"]
    lines.append("- versions: " + ", ".join(f"{k} {v}" for k, v in report["protocol"]["versions"].items()))
    lines += [f"- {about['title']}: {about['variant']} ({about['library']})" for about in report["metrics"].values()]
    return "\n".join(lines)


def faults(report: Mapping[str, Any]) -> list[str]:
    """Return a sentence for everything that failed."""
    found = [f"{c['title']}: not run: {c['unavailable']}" for c in report["columns"] if c.get("unavailable")]
    found += [f"{c['title']}: {m}: {text}" for c in report["columns"] for m, text in c["set_errors"].items()]
    for row in report["faces"]:
        if row["error"] is not None:  # the same for all methods
            found.append(row["error"])
            continue
        found += [f"{row['id']}: {name}: {text}" for name, text in row["errors"].items()]
        for name, errors in row["metric_errors"].items():
            found += [f"{row['id']}: {name}: {metric}: {text}" for metric, text in errors.items()]
    return found


def markdown_table(heads: Sequence[str], rows: Iterable[Sequence[str]], numbers: bool = True) -> str:
    """Return a table; with ``numbers`` all columns but the first end at the right."""
    lines = [heads, ["---", *["---:" if numbers else "---"] * (len(heads) - 1)], *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _value(value: float | str | None, decimals: int, sign: str = "") -> str:
    if value is None:
        return "-"
    return value if isinstance(value, str) else f"{value:{sign},.{decimals}f}"


def _interval(summary: Mapping[str, Any] | None, decimals: int, sign: str = "") -> str:
    if not summary or summary["mean"] is None:
        return ""
    left_out = f", {summary['left_out']} infinite left out" if summary.get("left_out") else ""
    return f" [{summary['low']:{sign}.{decimals}f}, {summary['high']:{sign}.{decimals}f}]{left_out}"


def one_line(text: str) -> str:
    """Return a text on one line, with nothing that Markdown would read as HTML."""
    return " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
