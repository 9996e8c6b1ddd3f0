"""LAFR and the published methods, trained here for the same seconds on the same faces, and compared."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lafr_base.face_sets import FaceSet
from lafr_base.files import read_json, write_json
from lafr_models.options import load_yaml, override
from lafr_models.training_time import RECORD
from lafr_studies.paper_comparisons import PaperTable, read_table

ROOT = Path(__file__).resolve().parents[1]
METHODS = ROOT / "options" / "rivals.yml"
_SHOWN = 12  # lines of a log in a message
_FOREVER = 1_000_000_000  # iterations: time ends the runs


class RivalError(RuntimeError):
    """A method that is unknown, or a training that did not end well; the message says which."""


@dataclass(frozen=True)
class Stage:
    """One training of a method.

    Attributes:
        name: of its run.
        file: its option file, under options/.
        share: of the method's seconds, above 0 to 1.
        starts: names of earlier stages by the key of ``network_g`` that takes what they trained.
    """

    name: str
    file: str
    share: float
    starts: Mapping[str, str]


def read_methods(names: Sequence[str] | None = None, path: Path = METHODS) -> dict[str, list[Stage]]:
    """The stages of methods; of all by default.

    Raises:
        RivalError: a name is unknown.
    """
    listed = load_yaml(path)
    unknown = [name for name in names or () if name not in listed]
    if unknown:
        raise RivalError(f"method {unknown[0]} is unknown; there are {', '.join(listed)}")
    return {
        name: [Stage(s["stage"], s["file"], float(s["share"]), dict(s.get("from") or {})) for s in listed[name]]
        for name in (names or listed)
    }


def plan(
    methods: Mapping[str, Sequence[Stage]], seconds: float, faces: Path, out: Path, force: Sequence[str] = ()
) -> dict[str, dict[str, Any]]:
    """Option files of all trainings, by run, in an order in which each finds what it starts from.

    Args:
        methods: as :func:`read_methods` gives them.
        seconds: of training, for each method.
        faces: folder of the faces to train on.
        out: where runs are written.
        force: ``KEY:KEY=VALUE`` for all, or ``RUN:KEY:KEY=VALUE`` for one.

    Raises:
        RivalError: two methods want one run for different times.
    """
    runs: dict[str, dict[str, Any]] = {}
    stages = {stage.name for listed in methods.values() for stage in listed}
    for listed in methods.values():
        for stage in listed:
            opt = load_yaml(ROOT / "options" / stage.file)
            opt["name"] = stage.name
            opt["datasets"] = {"train": {**opt["datasets"]["train"], "dataroot_gt": str(faces)}}
            opt.pop("val", None)  # measured once, at the end
            opt["train"] |= {"total_iter": _FOREVER, "warmup_iter": -1, "max_seconds": seconds * stage.share}
            opt["train"].pop("scheduler", None)
            for key, other in stage.starts.items():
                opt["network_g"][key] = str(out / "experiments" / other / "models" / "net_g_latest.pth")
            for assignment in force:
                first, _, rest = assignment.partition(":")
                if first not in stages:
                    override(opt, assignment)
                elif first == stage.name:
                    override(opt, rest)
            if runs.setdefault(stage.name, opt) != opt:
                raise RivalError(f"{stage.name} is a stage of two methods that differ in what they want of it")
    return runs


def train(opt: Mapping[str, Any], out: Path) -> None:
    """Train by the project's launcher, from where it stopped; nothing where it has been for its seconds.

    Raises:
        RivalError: it did not end well; the message has the end of its log.
    """
    name = opt["name"]
    weights = out / "experiments" / name / "models" / "net_g_latest.pth"
    trained = read_json(out / "experiments" / name / RECORD).get("seconds", 0)
    if weights.is_file() and trained >= opt["train"]["max_seconds"]:
        return
    option_file, log = out / "options" / f"{name}.yml", out / "logs" / f"{name}.log"
    write_json(option_file, opt)  # JSON is YAML
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, str(ROOT / "basicsr" / "train.py"), "-opt", str(option_file), "--auto_resume"]
    # A relative path is first looked for where this command was started.
    with log.open("ab") as stream:
        done = subprocess.run(
            command, stdout=stream, stderr=subprocess.STDOUT, env={**os.environ, "LAFR_ROOT": str(out)}, check=False
        )
    if done.returncode or not weights.is_file():
        lines = log.read_text("utf-8", "replace").splitlines()[-_SHOWN:]
        raise RivalError(f"training {name} ended with status {done.returncode}; {log}:\n" + "\n".join(lines))


def method_seconds(methods: Mapping[str, Sequence[Stage]], out: Path) -> dict[str, dict[str, Any]]:
    """What each method's trainings took together: ``seconds``, ``iterations`` and parameters of the last stage."""
    records = {}
    for name, listed in methods.items():
        runs = [read_json(out / "experiments" / stage.name / RECORD) for stage in listed]
        total = {key: sum(run.get(key, 0) for run in runs) for key in ("seconds", "iterations", "images")}
        records[name] = {**runs[-1], **total}
    return records


def tables(methods: Mapping[str, Sequence[Stage]], out: Path, count: int) -> list[PaperTable]:
    """The paper's Tables 1 and 3, for faces of one's own and without the paper's figures, which are of other faces."""
    own = FaceSet("held-out faces", "faces", count, "lq", "hq", str(out), "degraded by `lafr degrade`, x4, seed 0")
    note = (
        f"Trained for the same seconds each: {', '.join(methods)}. The prior of osediff and lafr was there before and "
        "is not counted; the others start from nothing."
    )
    return [
        replace(table, sets=(own,), paper={}, note=" ".join(filter(None, (table.note, note))), title=title)
        for table, title in (
            (read_table("1"), "methods trained here, on held-out faces"),
            (read_table("3"), "what methods trained here take"),
        )
    ]


def deployed(name: str, methods: Mapping[str, Sequence[Stage]], out: Path) -> str:
    """A method as ``lafr compare`` takes it."""
    return f"{name}={out / 'experiments' / methods[name][-1].name / 'deployed'}"


def train_all(runs: Mapping[str, Mapping[str, Any]], out: Path, say: Callable[[str], None]) -> list[str]:
    """Train all, one after the other; what fails is left out, and with it what starts from it.

    Returns:
        What went wrong, a line each.
    """
    failures = []
    for name, opt in runs.items():
        say(f"training {name}: {opt['train']['max_seconds']:g} seconds")
        try:
            train(opt, out)
        except RivalError as error:
            failures.append(str(error))
            say(str(error))
    return failures
