"""The trainings behind a table's rows: option files with the deltas merged in, shared where equal, run by the launcher.

    OUT/options/NAME.yml                 a training's complete option file
    OUT/experiments/NAME/                what the launcher makes of it; finished.json once it has ended
    OUT/logs/NAME.log                    what the launcher said

NAME is the stage and a digest of the options and of the base model and the images they name. A change of either is
another training; an unfinished one goes on; a finished one is not done again, whatever table or row asks for it.
"""

from __future__ import annotations

import copy
import inspect
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from lafr_base import weights
from lafr_base.files import digest, read_json, write_json
from lafr_models.option_paths import resolve_paths
from lafr_models.options import load_yaml
from lafr_studies.ablations.deltas import AblationError, Options, assignment_delta, merge
from lafr_studies.ablations.paper_tables import ROOT, Ablations, Row

LAUNCHER = ROOT / "basicsr" / "train.py"
# What has no influence on the trained network.
_NEUTRAL = ("name", "logger", "num_gpu")
_TAIL = 1 << 20  # bytes at a file's end that tell two trainings of one network apart
_SHOWN = 12  # lines of a log in a message


class TrainingError(RuntimeError):
    """A training that did not end well; the message has the end of its log."""


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        stage: ``align``, ``unet`` or another stage of the scale.
        name: folder under OUT/experiments.
        options: its complete option file.
        validation: the set that its network is measured on, as in ``datasets: val:``; no validation is run in training.
    """

    stage: str
    name: str
    options: Options
    validation: Options

    def folder(self, out: Path) -> Path:
        """What the launcher writes to."""
        return out / "experiments" / self.name

    def finished(self, out: Path) -> bool:
        """Whether the training has ended."""
        return bool(read_json(self.folder(out) / "finished.json")) and self.weights(out).is_file()

    def weights(self, out: Path) -> Path:
        """The trained parts."""
        return self.folder(out) / "models" / "net_g_latest.pth"


class Planner:
    """Makes the trainings of rows and seeds.

    Args:
        ablations: where the scale is from.
        scale: name of the scale whose option files are the base.
        out: folder of all trainings, absolute.
        steps: iterations of each row's last stage; None for what the options say.
        force: ``KEY:KEY=VALUE``, for every stage of every row, or for one stage where the first key is its name.

    Raises:
        AblationError: an option file cannot be read, or an assignment is none.
    """

    def __init__(
        self, ablations: Ablations, scale: str, out: Path, steps: int | None = None, force: Sequence[str] = ()
    ) -> None:
        if scale not in ablations.scales:
            raise AblationError(f"the ablations have no scale {scale}; there are {', '.join(ablations.scales)}")
        self.scale = ablations.scales[scale]
        self.out = out
        self.steps = steps
        self.force = {assignment: assignment_delta(assignment) for assignment in force}
        self.base = {stage: load_yaml(path) for stage, path in self.scale.files.items()}
        # A key that one scale's file leaves out may be in the other's.
        self.known = {
            stage: [load_yaml(other.files[stage]) for other in ablations.scales.values() if stage in other.files]
            for stage in self.base
        }
        self._prints: dict[str, str | None] = {}

    def options(self, row: Row, stage: str, seed: int) -> Options:
        """A stage's option file with all deltas of a row merged in, but for its name and its alignment module's file.

        Raises:
            AblationError: a delta has an unknown key or takes away what is not there.
        """
        opt: Options = copy.deepcopy(self.base[stage])
        scale = self.scale.name
        known = self.known[stage]
        steps: list[tuple[str, Mapping[str, Any]]] = [
            (f"scale {scale}", self.scale.delta),
            (f"row {row.name}", row.delta),
            (f"row {row.name}: {scale}", row.at_scale.get(scale, {})),
        ]
        for label, delta in steps:
            for key in ("all", stage):
                if delta.get(key):
                    opt = merge(opt, delta[key], f"{label}: {key}", known)
        for assignment, delta in self.force.items():
            stages = {key: value for key, value in delta.items() if key in self.base}
            if not stages:
                opt = merge(opt, delta, f"--force_yml {assignment}", known)
            elif stage in stages:
                opt = merge(opt, stages[stage], f"--force_yml {assignment}", known)
        opt["manual_seed"] = seed
        train = opt["datasets"]["train"] = {**opt["datasets"]["train"], "seed": seed}
        if train.get("n_images") is not None:
            train["n_images_seed"] = seed
        if self.steps is not None and stage == row.stages[-1]:
            set_steps(opt, self.steps)
        return opt

    def plan(self, row: Row, seed: int) -> list[Run]:
        """The trainings of a row for a seed, in order; the last one's network is what is measured.

        Raises:
            AblationError: as :meth:`options`; or the stages do not fit together.
        """
        runs: list[Run] = []
        for stage in row.stages:
            opt = self.options(row, stage, seed)
            # Measured once, at the end, and not by the launcher.
            opt.pop("val", None)
            validation = opt["datasets"].get("val")
            if validation is None:
                raise AblationError(f"{self.scale.files[stage]}: datasets: val: lacks; networks are measured on it")
            opt["datasets"] = {key: value for key, value in opt["datasets"].items() if key == "train"}
            previous = runs[-1] if runs else None
            network = opt["network_g"]
            if previous is not None:
                if _whole(network.get("alignment")) != _whole(previous.options["network_g"].get("alignment")):
                    raise AblationError(
                        f"row {row.name}: network_g: alignment: differs between {previous.stage} and {stage}"
                    )
                opt["network_g"] = {**network, "alignment_weights": previous.name}
            name = f"{stage}_{self._digest(opt)[:12]}"
            if previous is not None:
                opt["network_g"]["alignment_weights"] = str(previous.weights(self.out))
            opt["name"] = name
            runs.append(Run(stage, name, opt, validation))
        return runs

    def _digest(self, opt: Options) -> str:
        network = opt["network_g"]
        sources = [network.get("base_model"), opt["datasets"]["train"].get("dataroot_gt")]
        return digest({k: v for k, v in opt.items() if k not in _NEUTRAL}, [self._print(s) for s in sources if s])

    def _print(self, source: str) -> str | None:
        if source not in self._prints:
            self._prints[source] = fingerprint(source)
        return self._prints[source]


def _whole(alignment: Mapping[str, Any] | None) -> Options | None:
    """An alignment module's options with the defaults of its class: one file may spell out what another leaves out."""
    from lafr_base.registry import ARCH_REGISTRY

    if alignment is None:
        return None
    parameters = inspect.signature(ARCH_REGISTRY[alignment["type"]]).parameters
    return {**{name: parameter.default for name, parameter in parameters.items()}, **alignment}


def set_steps(opt: Options, steps: int) -> None:
    """Set the iterations of an option file, and those of a schedule of one period."""
    train = opt["train"] = {**opt["train"], "total_iter": steps}
    scheduler = train.get("scheduler")
    if scheduler and len(scheduler.get("periods") or ()) == 1:
        train["scheduler"] = {**scheduler, "periods": [steps]}


def fingerprint(source: str) -> str | None:
    """A digest that tells whether a folder or weight is the same, without reading it all; None where it is not there.

    Names and sizes of all files count, and of weights the last MiB: a network trained again is another one.
    """
    path = weights.find(source)
    if path is None:
        return None
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    parts: list[Any] = [[p.relative_to(path).as_posix(), p.stat().st_size] for p in files]
    for file in files:
        if file.suffix in (".safetensors", ".bin", ".pth", ".ckpt"):
            with file.open("rb") as stream:
                stream.seek(max(0, file.stat().st_size - _TAIL))
                parts.append(stream.read())
    return digest(*parts)


def missing_files(runs: Sequence[Run]) -> str | None:
    """What a row's trainings name and is not there, or None; the plugin must be registered."""
    from lafr_models.startup import MissingFilesError, require_files

    faults = []
    made = {run.name for run in runs}
    for run in runs:
        opt = copy.deepcopy(run.options)
        if any(name in str(opt["network_g"].get("alignment_weights")) for name in made):
            opt["network_g"] = {k: v for k, v in opt["network_g"].items() if k != "alignment_weights"}
        opt["datasets"] = {**opt["datasets"], "val": dict(run.validation)}
        resolve_paths(opt)
        try:
            require_files(opt)
        except (MissingFilesError, ValueError) as error:
            faults.append(str(error))
    return "\n".join(dict.fromkeys(faults)) or None


def train(run: Run, out: Path, launcher: Path = LAUNCHER) -> None:
    """Run a training to its end by the project's launcher, from where it stopped; nothing where it is finished.

    A training that another process is at is waited for, so that several may work on tables that share trainings.

    Raises:
        TrainingError: the launcher failed.
        AblationError: there is no launcher.
    """
    locks = out / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    with FileLock(locks / f"{run.name}.lock"):
        if not run.finished(out):
            _launch(run, out, launcher)


def _launch(run: Run, out: Path, launcher: Path) -> None:
    if not launcher.is_file():
        raise AblationError(f"{launcher} does not exist; the ablations are run from a checkout of the repository")
    option_file = out / "options" / f"{run.name}.yml"
    write_json(option_file, run.options)  # JSON is YAML
    log = out / "logs" / f"{run.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, str(launcher), "-opt", str(option_file), "--auto_resume"]
    start = time.time()
    with log.open("ab") as stream:
        done = subprocess.run(
            command, stdout=stream, stderr=subprocess.STDOUT, env={**os.environ, "LAFR_ROOT": str(out)}, check=False
        )
    if done.returncode or not run.weights(out).is_file():
        lines = log.read_text("utf-8", "replace").splitlines()[-_SHOWN:]
        raise TrainingError(f"training {run.name} ended with status {done.returncode}; {log}:\n" + "\n".join(lines))
    write_json(run.folder(out) / "finished.json", {"stage": run.stage, "seconds": round(time.time() - start, 1)})
