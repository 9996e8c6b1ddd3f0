"""A whole table: check, train, measure, report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lafr.networks import pick_device
from lafr_base.files import read_json, write_json, write_text
from lafr_metrics.suite import Suite, protocol
from lafr_models.training_time import RECORD
from lafr_studies.ablations.deltas import AblationError
from lafr_studies.ablations.paper_tables import ABLATIONS, COSTS, Row, Table, read_ablations
from lafr_studies.ablations.row_metrics import measure
from lafr_studies.ablations.row_report import build_report, markdown
from lafr_studies.ablations.runs import LAUNCHER, Planner, Run, TrainingError, missing_files, train


@dataclass(frozen=True)
class Request:
    """What to do.

    Attributes:
        table: its number in the paper.
        scale: ``mini`` or ``full``.
        seeds: one training of every row each.
        out: folder to write to, absolute.
        rows: names of rows; None for all of the scale. The reference row is always added.
        steps: iterations of each row's last stage; None for what the options say.
        force: assignments as ``--force_yml`` takes them.
        device: where networks are measured.
        file: the ablations.
        launcher: the training script.
    """

    table: str
    scale: str
    seeds: tuple[int, ...]
    out: Path
    rows: tuple[str, ...] | None = None
    steps: int | None = None
    force: tuple[str, ...] = ()
    device: str = "auto"
    file: Path = ABLATIONS
    launcher: Path = LAUNCHER


def choose_rows(table: Table, scale: str, names: tuple[str, ...] | None) -> list[Row]:
    """The rows of a scale, or those named and the reference, in the table's order.

    Raises:
        AblationError: a name is unknown at this scale.
    """
    rows = [row for row in table.rows if scale in row.scales]
    if names is None:
        return rows
    for name in names:
        if name not in [row.name for row in rows]:
            known = ", ".join(row.name for row in rows)
            raise AblationError(f"table {table.name} has no row {name} at {scale} scale; there are {known}")
    return [row for row in rows if row.name in (*names, table.reference)]


def run_table(request: Request, say: Callable[[str], None]) -> tuple[dict[str, Any], str]:
    """Train and measure a table's rows; the plugin must be registered.

    The report is written after every seed, so that an interrupted run leaves those that are done.

    Args:
        request: what to do.
        say: takes a line about what is going on.

    Returns:
        The report and its Markdown.

    Raises:
        AblationError: a name, an option or a delta cannot be used, or files are missing; nothing was trained.
    """
    ablations = read_ablations(request.file)
    table = ablations.table(request.table)
    rows = choose_rows(table, request.scale, request.rows)
    planner = Planner(ablations, request.scale, request.out, request.steps, request.force)
    plans = {(row.name, seed): planner.plan(row, seed) for seed in request.seeds for row in rows}
    _require(rows, plans, request.seeds[0])
    try:
        device = pick_device(request.device)
    except ValueError as error:
        raise AblationError(f"--device: {error}") from error
    asked = dict.fromkeys([*table.columns.values(), *planner.scale.also])
    suite = Suite([name for name in asked if name not in COSTS], device)

    todo = {run.name for runs in plans.values() for run in runs if not run.finished(request.out)}
    say(f"table {table.name}: {len(rows)} rows, {len(request.seeds)} seeds; {len(todo)} trainings to do")
    measures: dict[str, dict[int, Any]] = {row.name: {} for row in rows}
    failures: dict[str, str] = {}
    broken: dict[str, str] = {}
    report: dict[str, Any] = {}
    text = ""
    for seed in request.seeds:
        for row in rows:
            try:
                runs = plans[row.name, seed]
                _train(runs, request, todo, broken, say)
                measures[row.name][seed] = measure(runs[-1], request.out, suite, device)
            except (TrainingError, ValueError, OSError) as error:
                failures[f"{row.name}, seed {seed}"] = str(error)
        report = build_report(
            table,
            rows,
            list(asked),
            measures,
            scale=request.scale,
            seeds=list(request.seeds),
            failures=[f"row {place}: {error}" for place, error in failures.items()],
            missing=dict(suite.missing),
            notes=[note for note in (table.note, planner.scale.note) if note] + _errors(measures),
            trainings={row.name: _describe([plans[row.name, s] for s in request.seeds], request.out) for row in rows},
            runs={f"{row.name}, seed {s}": [r.name for r in plans[row.name, s]] for row in rows for s in request.seeds},
            protocol=protocol(suite.names),
        )
        text = markdown(report)
        stem = f"table_{table.name}_{request.scale}"
        write_json(request.out / f"{stem}.json", report)
        write_text(request.out / f"{stem}.md", text)
    return report, text


def _require(rows: list[Row], plans: Mapping[tuple[str, int], list[Run]], seed: int) -> None:
    faults: dict[str, list[str]] = {}
    for row in rows:
        missing = missing_files(plans[row.name, seed])
        if missing is not None:
            faults.setdefault(missing, []).append(row.name)
    if faults:
        texts = [f"rows {', '.join(names)}: {missing}" for missing, names in faults.items()]
        raise AblationError("\n".join([*texts, "`--rows` leaves out rows that cannot be had"]))


def _train(
    runs: list[Run], request: Request, todo: set[str], broken: dict[str, str], say: Callable[[str], None]
) -> None:
    for run in runs:
        if run.name in broken:  # shared with another row
            raise TrainingError(broken[run.name])
        if run.name in todo:
            say(f"training {run.name}; log: {request.out / 'logs' / f'{run.name}.log'}")
        try:
            train(run, request.out, request.launcher)
        except TrainingError as error:
            broken[run.name] = str(error)
            raise
        todo.discard(run.name)


def _describe(seeds: list[list[Run]], out: Path) -> str:
    """A row's stages: their steps and batches, and the minutes that they took on average over seeds, where known."""
    parts = []
    for stage, *others in zip(*seeds, strict=True):
        options = stage.options
        batch = options["datasets"]["train"].get("batch_size_per_gpu")
        records = [read_json(run.folder(out) / RECORD) for run in (stage, *others)]
        minutes = [record["seconds"] / 60 for record in records if record]
        taken = f" in {sum(minutes) / len(minutes):.1f} min" if minutes else ""
        parts.append(f"{stage.stage} {options['train']['total_iter']} steps of batch {batch}{taken}")
    return ", ".join(parts)


def _errors(measures: Mapping[str, Mapping[int, Mapping[str, Any]]]) -> list[str]:
    return [
        f"row {row}, seed {seed}: {metric}: {text}"
        for row, seeds in measures.items()
        for seed, record in seeds.items()
        for metric, text in record["errors"].items()
    ]
