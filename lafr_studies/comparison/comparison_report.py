"""The report of a comparison: everything that tables and page show, as JSON can hold it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, median
from typing import Any

from lafr import __version__
from lafr_metrics.suite import METRICS, Suite, protocol, summarise
from lafr_studies.comparison.inputs import Input, Settings
from lafr_studies.comparison.measure import Values
from lafr_studies.comparison.running import Method
from lafr_studies.comparison.store import HQ, LQ
from lafr_studies.comparison.worker import MEMORY, TIMING

USUAL = "0, the network's own result; 0.5 where it is the network's own knob, as CodeFormer's"

TITLES = {LQ: "input", HQ: "reference"}
"""What the columns of inputs and references are called."""


def build_report(
    items: Sequence[Input],
    methods: Sequence[Method],
    values: Mapping[str, Values],
    suite: Suite,
    settings: Settings,
    notes: Sequence[str],
) -> dict[str, Any]:
    """Return the whole report.

    Args:
        items: all inputs, with those that could not be used.
        methods: all methods, after they ran; paired differences are against the first.
        values: what was measured, by method and for ``lq`` and ``hq``.
        suite: the metrics.
        settings: of the comparison.
        notes: sentences that a reader should know.
    """
    first = methods[0].name
    columns = [_column(name, TITLES[name], values[name], items) for name in (LQ, HQ) if name in values]
    for method in methods:
        column = _column(method.name, method.name, values[method.name], items)
        if method.name != first:
            column["difference"] = differences(values[method.name], values[first], items)
        columns.insert(len(columns) - (HQ in values), {**column, **_cost(method)})
    definitions = protocol(suite.names)
    about = {name: METRICS[name].describe() for name in suite.names}
    return {
        "lafr": __version__,
        "first": first,
        "metrics": about,
        "missing": suite.missing,
        "notes": list(notes),
        "columns": columns,
        "faces": [row for item in items for row in _rows(item, methods, values)],
        "protocol": {
            **settings.__dict__,
            "weight": USUAL if settings.weight is None else settings.weight,
            "interval": f"{definitions['interval']}; of a photo with several faces the mean over its faces counts once",
            "difference": f"each method minus {first}, over the photos that both restored",
            "seconds": TIMING,
            "memory": MEMORY,
            "versions": definitions["versions"],
        },
    }


def differences(values: Values, first: Values, items: Iterable[Input]) -> dict[str, dict[str, Any]]:
    """Return the mean of a method's value minus the first method's, with its interval, by metric."""
    faces: dict[str, dict[str, float]] = {}
    for face, row in values.faces.items():
        other = first.faces.get(face, {})
        faces[face] = {metric: value - other[metric] for metric, value in row.items() if metric in other}
    return summarise(_by_input(faces, items))


def _by_input(faces: Mapping[str, Mapping[str, float]], items: Iterable[Input]) -> dict[str, dict[str, float]]:
    """Return the mean over each photo's faces: faces of one photo are not independent."""
    rows = {}
    for item in items:
        found = [faces[name] for name in item.face_names() if name in faces]
        metrics = dict.fromkeys(metric for row in found for metric in row)
        rows[item.name] = {metric: fmean(row[metric] for row in found if metric in row) for metric in metrics}
    return rows


def _column(name: str, title: str, values: Values, items: Iterable[Input]) -> dict[str, Any]:
    return {
        "name": name,
        "title": title,
        "faces": len(values.faces),
        "summary": summarise(_by_input(values.faces, items)),
        "set": {metric: number(value) for metric, value in values.set_values.items()},
        "set_errors": values.set_errors,
    }


def _cost(method: Method) -> dict[str, Any]:
    seconds = [value for record in method.records.values() for value in record.get("seconds", [])]
    spec = method.spec
    return {
        "text": method.text,
        "kind": spec.kind if spec is not None else None,
        "unavailable": method.unavailable,
        "failed": len(method.errors),
        "seconds": {"median": median(seconds), "mean": fmean(seconds), "count": len(seconds)} if seconds else None,
        **{key: method.footprint.get(key) for key in ("parameters", "face_size", "weight", "threads", "device")},
        **{key: method.footprint.get(key) for key in ("peak_mib", "idle_mib", "gpu_mib")},
    }


def _rows(item: Input, methods: Sequence[Method], values: Mapping[str, Values]) -> list[dict[str, Any]]:
    """Return one row a face; one for the whole input where it could not be used."""
    names = item.face_names() if item.error is None else [item.name]
    rows = []
    for index, name in enumerate(names):
        found = {column: of.faces[name] for column, of in values.items() if name in of.faces}
        errors = {method.name: text for method in methods if (text := _error(item, method)) is not None}
        rows.append(
            {
                "id": name,
                "input": item.path.name,
                "error": item.error,
                "index": index,
                "of": len(names),
                "box": item.faces[index].get("box") if item.error is None else None,
                "values": {column: {m: number(v) for m, v in row.items()} for column, row in found.items()},
                "seconds": {m.name: s for m in methods if (s := _seconds(m, item, index)) is not None},
                "errors": errors,
                "metric_errors": {column: of.errors[name] for column, of in values.items() if name in of.errors},
            }
        )
    return rows


def _error(item: Input, method: Method) -> str | None:
    if item.error is not None:
        return item.error
    return method.errors.get(item.name) if method.unavailable is None or item.name in method.errors else None


def _seconds(method: Method, item: Input, index: int) -> float | None:
    seconds = method.records.get(item.name, {}).get("seconds", [])
    return seconds[index] if index < len(seconds) else None


def number(value: float) -> float | str:
    """Return a value as JSON can hold it: one that is not finite as text."""
    return value if math.isfinite(value) else str(value)
