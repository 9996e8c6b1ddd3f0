"""How long a training took: recorded by every run, also by one that was stopped and went on."""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from lafr_base.files import write_json

RECORD = "training.json"
"""File of a run's folder that says how long it trained, and on what."""


class Stopwatch:
    """Seconds of training: of steps and of waiting for data, but not of validation and of starting up.

    Attributes:
        seconds: before the part that is running.
    """

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self._since: float | None = None

    def start(self) -> None:
        """Go on; nothing where it is running."""
        if self._since is None:
            self._since = time.perf_counter()

    def stop(self) -> None:
        """Stop; nothing where it has stopped."""
        self.seconds, self._since = self.total, None

    @property
    def total(self) -> float:
        """Seconds until now."""
        return self.seconds + (0.0 if self._since is None else time.perf_counter() - self._since)


def write_record(opt: Mapping[str, Any], iterations: int, seconds: float, trainable: int) -> None:
    """Write ``training.json`` into a run's folder.

    Args:
        opt: the run's options, with what the launcher adds.
        iterations: how many it has done.
        seconds: how long they took.
        trainable: number of parameters that train.
    """
    train_set = (opt.get("datasets") or {}).get("train") or {}
    batch = int(train_set.get("batch_size_per_gpu", 0)) * int(opt["world_size"])
    record = {
        "model_type": opt["model_type"],
        "iterations": iterations,
        "seconds": round(seconds, 3),
        "images": iterations * batch,
        "faces": opt.get("train_faces"),
        "trainable_parameters": trainable,
        "processes": opt["world_size"],
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if opt["num_gpu"] else platform.processor() or platform.machine(),
    }
    write_json(Path(opt["path"]["experiments_root"]) / RECORD, record)
