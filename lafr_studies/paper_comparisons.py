"""The paper's tables that compare methods: comparisons on its sets of faces, with its figures beside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lafr.methods import MethodSpec
from lafr_base.face_sets import FaceSet, get_face_set
from lafr_base.files import read_json
from lafr_models.options import load_yaml
from lafr_models.training_time import RECORD
from lafr_studies.comparison import tables

TABLES = Path(__file__).resolve().parents[1] / "options" / "tables.yml"


@dataclass(frozen=True)
class PaperTable:
    """One table.

    Attributes:
        number: in the paper.
        title: what it shows.
        sets: the faces.
        columns: metrics by their headings, for each set.
        costs: headings of what methods take, in the place of the metrics; empty where the metrics are shown.
        paper: the paper's figures by method; None where it has none.
        note: what a reader should know, or empty.
    """

    number: str
    title: str
    sets: tuple[FaceSet, ...]
    columns: Mapping[str, str]
    costs: tuple[str, ...]
    paper: Mapping[str, Sequence[float | None]]
    note: str


def read_table(number: str, path: Path = TABLES) -> PaperTable:
    """Read a table's definition.

    Raises:
        ValueError: there is no such table.
    """
    known = load_yaml(path)
    if number not in known:
        raise ValueError(f"table {number} is none of {', '.join(known)}; `lafr ablate` has the paper's ablations")
    entry = known[number]
    return PaperTable(
        number=number,
        title=entry["title"],
        sets=tuple(get_face_set(name) for name in entry["sets"]),
        columns=entry["columns"],
        costs=tuple(entry.get("costs") or ()),
        paper=entry["paper"],
        note=str(entry.get("note") or "").strip(),
    )


def replace_columns(table: PaperTable, columns: Mapping[str, str]) -> PaperTable:
    """The table with other metrics, by their headings."""
    return replace(table, columns=columns)


def training_record(spec: MethodSpec | None) -> dict[str, Any]:
    """What a network's run has left of its training (``training.json``); empty where nothing is known.

    It lies beside the deployed folder, or above the folder of the checkpoints.
    """
    if spec is None or spec.path is None:
        return {}
    folders = [spec.path.parent, spec.path.parent.parent]
    return next((record for folder in folders if (record := read_json(folder / RECORD))), {})


def best_counts(reports: Sequence[Mapping[str, Any]], metrics: Sequence[str], names: Sequence[str]) -> dict[str, float]:
    """For each method 1 for every metric of every report that it is best in, and 0.5 where it is second."""
    counts = dict.fromkeys(names, 0.0)
    for report in reports:
        for metric in metrics:
            values = {name: value for name in names if (value := mean_of(report, name, metric)) is not None}
            if len(values) < 2:
                continue
            higher = report["metrics"][metric]["better"] == "higher"
            ranked = sorted(values, key=lambda name: values[name], reverse=higher)  # noqa: B023 - used at once
            counts[ranked[0]] += 1
            counts[ranked[1]] += 0.5
    return counts


def mean_of(report: Mapping[str, Any], name: str, metric: str) -> float | None:
    """A method's mean of a metric, or its value of the set; None where there is none."""
    column = next((c for c in report["columns"] if c["name"] == name), None)
    if column is None or metric not in report["metrics"]:
        return None
    value = tables.mean_of(column, metric)
    return value if isinstance(value, (int, float)) else None


def interval_of(report: Mapping[str, Any], name: str, metric: str) -> tuple[float, float] | None:
    """A mean's 95 % interval; None for a value of the whole set."""
    column = next(c for c in report["columns"] if c["name"] == name)
    summary = column["summary"].get(metric) or {}
    low, high = summary.get("low"), summary.get("high")
    return None if low is None or high is None else (low, high)


def build_table(
    table: PaperTable,
    reports: Mapping[str, Mapping[str, Any]],
    methods: Mapping[str, MethodSpec | None],
    records: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """The table as JSON can hold it.

    Args:
        table: its definition.
        reports: of :func:`lafr_studies.comparison.run.compare`, by the sets' names.
        methods: what was compared, by name.
        records: what is known of their trainings; by default what their runs have left.
    """
    names, metrics = list(methods), list(table.columns.values())
    rows = []
    best = best_counts(list(reports.values()), metrics, names)
    for name in names:
        training = dict(records.get(name) or {}) if records is not None else training_record(methods[name])
        row: dict[str, Any] = {"method": name, "training": training}
        if table.costs:
            row["values"] = _costs(name, list(reports.values())[0], training, best[name])
        else:
            row["values"] = [mean_of(r, name, metric) for r in reports.values() for metric in metrics]
            row["intervals"] = [interval_of(r, name, metric) for r in reports.values() for metric in metrics]
        rows.append(row)
    missing = {metric: text for report in reports.values() for metric, text in report["missing"].items()}
    return {
        "table": table.number,
        "title": table.title,
        "sets": {name: sum(face["error"] is None for face in report["faces"]) for name, report in reports.items()},
        "headings": list(table.costs) or _headings(table),
        "rows": rows,
        "paper": dict(table.paper),
        "missing": missing,
        "notes": [note for note in [table.note, *(n for report in reports.values() for n in report["notes"])] if note],
    }


def _headings(table: PaperTable) -> list[str]:
    several = len(table.sets) > 1
    return [f"{s.name} {heading}" if several else heading for s in table.sets for heading in table.columns]


def _costs(name: str, report: Mapping[str, Any], training: Mapping[str, Any], best: float) -> list[float | None]:
    column = next(c for c in report["columns"] if c["name"] == name)
    seconds, trainable, faces = column.get("seconds"), training.get("trainable_parameters"), training.get("faces")
    return [
        None if seconds is None else seconds["median"],
        None if trainable is None else trainable / 1e6,
        training["seconds"] / 60 if training else None,
        None if faces is None else faces / 1000,
        best,
    ]


def markdown(result: Mapping[str, Any]) -> str:
    """The table in Markdown: methods measured here with intervals, then the paper's figures."""
    sets = ", ".join(f"{name}: {count}" for name, count in result["sets"].items())
    lines = [f"# Table {result['table']}: {result['title']}", "", f"Faces: {sets}.", ""]
    rows = []
    places = [tables.digits(row["values"][i] for row in result["rows"]) for i in range(len(result["headings"]))]
    for row in result["rows"]:
        intervals = row.get("intervals") or [None] * len(places)
        cells = [_cell(v, p, i) for v, p, i in zip(row["values"], places, intervals, strict=True)]
        rows.append([row["method"], *cells])
    for method, figures in result["paper"].items():
        cells = ["" if figure is None else f"{figure:g}" for figure in figures]
        rows.append([f"*{method}, in the paper*", *cells])
    lines.append(tables.markdown_table(["Method", *result["headings"]], rows, numbers=False))
    if result["missing"]:
        lines += ["", "Not measured here:", ""]
        lines += [f"- {metric}: {tables.one_line(text)}" for metric, text in result["missing"].items()]
    lines += ["", *(f"- {note}" for note in result["notes"])] if result["notes"] else []
    return "\n".join(lines) + "\n"


def _cell(value: float | None, places: int, interval: Sequence[float] | None) -> str:
    if value is None:
        return ""
    text = f"{value:.{places}f}"
    return text if interval is None else f"{text} [{interval[0]:.{places}f}, {interval[1]:.{places}f}]"
