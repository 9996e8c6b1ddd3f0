"""The tables of ``options/ablations.yml``: rows, columns, the paper's figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lafr
from lafr_models.options import load_yaml
from lafr_studies.ablations.deltas import AblationError, Options

ROOT = Path(lafr.__file__).resolve().parents[1]
"""The checkout: option files and launchers are not part of the installed package."""

ABLATIONS = ROOT / "options" / "ablations.yml"

COSTS = {
    "parameters": "parameters of the deployed network, millions",
    "alignment": "parameters of the alignment module, millions",
    "seconds": "seconds a face, batch 1, median over the validation set on this machine",
}
"""Columns that are no metrics, and what they say."""

SCALES = ("mini", "full")


@dataclass(frozen=True)
class Row:
    """One row of a table.

    Attributes:
        name: what ``--rows`` calls it.
        labels: its first cells, as the paper prints them.
        stages: what is trained, in this order; the last one is measured.
        paper: the paper's figures by column heading; None where it has none.
        delta: changes by stage, ``all`` for every stage.
        at_scale: further changes by scale and stage.
        scales: the scales that have the row.
    """

    name: str
    labels: tuple[str, ...]
    stages: tuple[str, ...]
    paper: Mapping[str, float | None]
    delta: Mapping[str, Options] = field(default_factory=dict)
    at_scale: Mapping[str, Mapping[str, Options]] = field(default_factory=dict)
    scales: tuple[str, ...] = SCALES


@dataclass(frozen=True)
class Table:
    """One table.

    Attributes:
        name: its number in the paper.
        title: what it compares.
        labels: headings of the rows' first cells.
        columns: the paper's headings, each with the metric or the cost (:data:`COSTS`) it is.
        reference: name of the row that the others are compared with.
        rows: in the paper's order.
        note: what to know when reading it.
    """

    name: str
    title: str
    labels: tuple[str, ...]
    columns: Mapping[str, str]
    reference: str
    rows: tuple[Row, ...]
    note: str = ""


@dataclass(frozen=True)
class Scale:
    """One scale: its option files and what all its rows change in them.

    Attributes:
        name: ``mini`` or ``full``.
        files: option file of each stage.
        delta: changes by stage.
        also: metrics measured besides a table's own.
        note: what to know when reading its tables.
    """

    name: str
    files: Mapping[str, Path]
    delta: Mapping[str, Options] = field(default_factory=dict)
    also: tuple[str, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Ablations:
    """The file's content."""

    scales: Mapping[str, Scale]
    tables: Mapping[str, Table]

    def table(self, name: str) -> Table:
        """Return a table by its number.

        Raises:
            AblationError: there is none.
        """
        if name not in self.tables:
            raise AblationError(f"no table {name} among the ablations; there are {', '.join(self.tables)}")
        return self.tables[name]


def read_ablations(path: Path = ABLATIONS) -> Ablations:
    """Read an ablations' file; paths of option files in it are relative to it.

    Raises:
        AblationError: a key lacks or is unknown, or parts do not fit together; says which.
        lafr_models.options.OptionError: it cannot be read.
    """
    if not path.is_file():
        raise AblationError(f"{path} does not exist; the ablations are run from a checkout of the repository")
    content = load_yaml(path)
    _keys(content, f"{path}", required=("scales", "tables"))
    scales = {}
    for name, value in content["scales"].items():
        label = f"{path}: scales: {name}"
        if name not in SCALES:
            raise AblationError(f"{label}: a scale is {' or '.join(SCALES)}")
        _keys(value, label, required=("files",), optional=("delta", "also", "note"))
        files = {stage: path.parent / file for stage, file in value["files"].items()}
        scales[name] = Scale(
            name, files, value.get("delta") or {}, tuple(value.get("also") or ()), value.get("note") or ""
        )
        _stages(scales[name].delta, files, label)
    tables = {}
    for name, value in content["tables"].items():
        tables[str(name)] = _table(str(name), value, scales, f"{path}: tables: {name}")
    return Ablations(scales, tables)


def _table(name: str, value: Mapping[str, Any], scales: Mapping[str, Scale], label: str) -> Table:
    _keys(value, label, ("title", "labels", "columns", "reference", "rows", "stages"), ("note",))
    columns = dict(value["columns"])
    _metrics(columns, label)
    rows = tuple(_row(str(key), row, value, scales, f"{label}: rows: {key}") for key, row in value["rows"].items())
    if value["reference"] not in [row.name for row in rows if row.scales == SCALES]:
        raise AblationError(f"{label}: reference: {value['reference']} is no row of all scales")
    labels = tuple(map(str, value["labels"]))
    return Table(name, value["title"], labels, columns, value["reference"], rows, value.get("note") or "")


def _row(name: str, value: Mapping[str, Any], table: Mapping[str, Any], scales: Mapping[str, Scale], label: str) -> Row:
    _keys(value, label, ("labels", "paper"), ("stages", "delta", "only", *SCALES))
    if len(value["labels"]) != len(table["labels"]):
        raise AblationError(f"{label}: labels: {len(table['labels'])} are needed, as the table has")
    if len(value["paper"]) != len(table["columns"]):
        raise AblationError(f"{label}: paper: {len(table['columns'])} figures are needed, one a column, ~ for none")
    only = tuple(value.get("only") or SCALES)
    at_scale = {scale: value[scale] for scale in SCALES if value.get(scale)}
    stages = tuple(value.get("stages") or table["stages"])
    for scale in {*only, *at_scale}:
        if scale not in scales:
            raise AblationError(f"{label}: only: {scale} is no scale")
        unknown = [stage for stage in stages if stage not in scales[scale].files]
        if unknown:
            raise AblationError(f"{label}: stages: scale {scale} has no option file for {', '.join(unknown)}")
    for delta in (value.get("delta") or {}, *at_scale.values()):
        _stages(delta, (*stages, "all"), label)
    paper = dict(zip(table["columns"], value["paper"], strict=True))
    return Row(name, tuple(map(str, value["labels"])), stages, paper, value.get("delta") or {}, at_scale, only)


def _keys(value: Any, label: str, required: tuple[str, ...], optional: tuple[str, ...] = ()) -> None:
    if not isinstance(value, Mapping):
        raise AblationError(f"{label}: must be a mapping")
    for key in required:
        if value.get(key) is None:
            raise AblationError(f"{label}: the key `{key}:` lacks")
    for key in value:
        if key not in (*required, *optional):
            raise AblationError(f"{label}: {key} is unknown; known: {', '.join((*required, *optional))}")


def _stages(delta: Mapping[str, Any], stages: Any, label: str) -> None:
    for stage in delta:
        if stage not in stages:
            raise AblationError(f"{label}: the delta has {stage}, which is none of {', '.join(stages)}")


def _metrics(columns: Mapping[str, str], label: str) -> None:
    from lafr_metrics.specs import METRICS

    for heading, name in columns.items():
        if name not in METRICS and name not in COSTS:
            raise AblationError(f"{label}: columns: {heading}: no metric or cost is called {name}")
