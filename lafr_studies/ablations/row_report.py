"""A table's result: means and spread over seeds beside the paper's figures, paired differences; as Markdown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from lafr_metrics.specs import METRICS
from lafr_studies.ablations.paper_tables import COSTS, Row, Table
from lafr_studies.comparison.tables import digits, markdown_table, one_line

Measures = Mapping[str, Mapping[int, Mapping[str, Any]]]
"""What :func:`lafr_studies.ablations.row_metrics.measure` returned, by row and seed."""

LEVEL = 0.95
_COST_DIGITS = {"parameters": 2, "alignment": 2, "seconds": 3}


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Mean, sample standard deviation and Student's 95 % interval of one value a seed.

    Returns:
        ``mean``, ``sd``, ``low``, ``high``, ``count``; all but mean and count are None for a single value.
    """
    data = np.asarray(values, dtype=np.float64)
    result: dict[str, Any] = {"mean": float(data.mean()), "sd": None, "low": None, "high": None, "count": len(data)}
    if len(data) > 1:
        sd = float(data.std(ddof=1))
        half = float(stats.t.ppf((1 + LEVEL) / 2, len(data) - 1)) * sd / math.sqrt(len(data))
        result.update(sd=sd, low=result["mean"] - half, high=result["mean"] + half)
    return result


def value_of(record: Mapping[str, Any], metric: str) -> float | None:
    """One network's value of a metric (mean over its faces) or cost; None where it could not be had."""
    if metric in COSTS:
        return record[metric]
    if metric in record["set"]:
        return record["set"][metric]
    values = [face[metric] for face in record["faces"].values() if face.get(metric) is not None]
    return float(np.mean(values)) if values else None


def paired_difference(record: Mapping[str, Any], reference: Mapping[str, Any], metric: str) -> float | None:
    """One network's value less another's: mean over the faces that both have a value for, or of the set's values."""
    if metric in COSTS or metric in record["set"]:
        a, b = value_of(record, metric), value_of(reference, metric)
        return None if a is None or b is None else a - b
    pairs = [
        (face[metric], reference["faces"][name][metric])
        for name, face in record["faces"].items()
        if face.get(metric) is not None and reference["faces"].get(name, {}).get(metric) is not None
    ]
    return float(np.mean([a - b for a, b in pairs])) if pairs else None


def build_report(
    table: Table, rows: Sequence[Row], metrics: Sequence[str], measures: Measures, **about: Any
) -> dict[str, Any]:
    """Collect a table's result.

    Args:
        table: the table.
        rows: those that were asked for.
        metrics: metrics and costs, the table's columns first.
        measures: by row and seed; a row or seed that failed is not there.
        about: what else belongs into the report: scale, seeds, steps, failures, missing metrics, protocol, notes.
    """
    reference = measures.get(table.reference, {})
    result = []
    for row in rows:
        seeds = measures.get(row.name, {})
        cells: dict[str, Any] = {}
        for metric in metrics:
            values = {seed: value_of(record, metric) for seed, record in seeds.items()}
            found = {seed: value for seed, value in values.items() if value is not None}
            cell: dict[str, Any] = {"seeds": found, **(spread(list(found.values())) if found else {})}
            if row.name != table.reference:
                differences = {
                    seed: paired_difference(record, reference[seed], metric)
                    for seed, record in seeds.items()
                    if seed in reference
                }
                paired = {seed: value for seed, value in differences.items() if value is not None}
                if paired:
                    cell["difference"] = {"seeds": paired, **spread(list(paired.values()))}
            cells[metric] = cell
        result.append({"name": row.name, "labels": list(row.labels), "paper": dict(row.paper), "cells": cells})
    return {
        "table": table.name,
        "title": table.title,
        "labels": list(table.labels),
        "columns": dict(table.columns),
        "reference": table.reference,
        "metrics": list(metrics),
        "rows": result,
        **about,
    }


def markdown(report: Mapping[str, Any]) -> str:
    """Return the table in the paper's layout, the differences and all that is needed to read them."""
    seeds = ", ".join(map(str, report["seeds"]))
    parts = [
        f"# Table {report['table']} at {report['scale']} scale: {report['title']}",
        f"Mean ± standard deviation over seeds {seeds}; in brackets the paper's figure, on its own data. "
        "- is what could not be had.",
        _values(report),
        f"## Paired differences from row {report['reference']}",
        "The same seed, the same faces; mean ± standard deviation over seeds, and Student's 95 % interval of the mean "
        "over seeds. ✱: the interval leaves out zero.",
        _differences(report),
    ]
    notes = [*report["notes"], *(f"{name}: not measured: {reason}" for name, reason in report["missing"].items())]
    notes += [f"{name}: {COSTS[name]}" for name in report["metrics"] if name in COSTS]
    notes += report["failures"]
    parts += ["## Notes", "\n".join(f"- {one_line(note)}" for note in notes)] if notes else []
    lines = [f"- row {row}: {text}" for row, text in report["trainings"].items()]
    metrics = [METRICS[name] for name in report["metrics"] if name in METRICS]
    lines += [f"- {spec.name}: {spec.title}, {spec.variant} ({spec.library})" for spec in metrics]
    lines.append("- versions: " + ", ".join(f"{k} {v}" for k, v in report["protocol"]["versions"].items()))
    parts += ["## How it was made", "\n".join(lines)]
    return "\n\n".join(parts) + "\n"


def _headings(report: Mapping[str, Any]) -> dict[str, str]:
    """Heading of each metric, the paper's where it has one, with its better direction."""
    names = {metric: heading for heading, metric in report["columns"].items()}
    arrows = {"higher": " ↑", "lower": " ↓"}
    return {
        metric: names.get(metric, metric) + (arrows[METRICS[metric].better] if metric in METRICS else " ↓")
        for metric in report["metrics"]
    }


def _values(report: Mapping[str, Any]) -> str:
    decimals = _digits(report, "mean")
    paper_name = {metric: heading for heading, metric in report["columns"].items()}
    lines = []
    for row in report["rows"]:
        cells = ["#" + row["name"], *row["labels"]]
        for metric in report["metrics"]:
            text = _number(row["cells"][metric], decimals[metric])
            figure = row["paper"].get(paper_name.get(metric))
            cells.append(text if figure is None else f"{text} ({figure:g})")
        lines.append(cells)
    return markdown_table(["row", *report["labels"], *_headings(report).values()], lines, numbers=False)


def _differences(report: Mapping[str, Any]) -> str:
    metrics = [metric for metric in report["metrics"] if metric not in COSTS]
    decimals = _digits(report, "mean")
    lines = []
    for row in report["rows"]:
        if row["name"] == report["reference"]:
            continue
        cells = ["#" + row["name"], *row["labels"]]
        for metric in metrics:
            found = row["cells"][metric].get("difference", {})
            text = _number(found, decimals[metric] + 1, "+")
            if found.get("low") is not None:
                text += f" [{found['low']:+.{decimals[metric] + 1}f}, {found['high']:+.{decimals[metric] + 1}f}]"
                text += " ✱" if found["low"] > 0 or found["high"] < 0 else ""
            cells.append(text)
        lines.append(cells)
    headings = _headings(report)
    return markdown_table(["row", *report["labels"], *(headings[metric] for metric in metrics)], lines, numbers=False)


def _digits(report: Mapping[str, Any], key: str) -> dict[str, int]:
    return {
        metric: _COST_DIGITS.get(metric, digits([row["cells"][metric].get(key) for row in report["rows"]]))
        for metric in report["metrics"]
    }


def _number(cell: Mapping[str, Any], decimals: int, sign: str = "") -> str:
    if cell.get("mean") is None:
        return "-"
    text = f"{cell['mean']:{sign}.{decimals}f}"
    return text if cell.get("sd") is None else f"{text} ± {cell['sd']:.{decimals}f}"
