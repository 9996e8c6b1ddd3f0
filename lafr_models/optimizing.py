"""What of ``train:`` the optimizers read, and what can be wrong with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from basicsr.models import lr_scheduler

from lafr_base.dtypes import DTYPES
from lafr_base.option_keys import call_faults, did_you_mean

AMP = {name: DTYPES[name] for name in ("bf16", "fp16")}

SCHEDULERS: dict[str, Any] = {
    "MultiStepLR": lr_scheduler.MultiStepRestartLR,
    "MultiStepRestartLR": lr_scheduler.MultiStepRestartLR,
    "CosineAnnealingRestartLR": lr_scheduler.CosineAnnealingRestartLR,
}
"""Schedules that BasicSR's ``setup_schedulers`` knows."""


def training_faults(train: Mapping[str, Any]) -> list[str]:
    """What is wrong with optimizers, schedule, averages, precision and batches of ``train:``."""
    faults = []
    for key, options in train.items():
        if key.startswith("optim_") and isinstance(options, Mapping):
            faults += _optimizer_faults(f"train: {key}", options)
    scheduler = train.get("scheduler")
    if isinstance(scheduler, Mapping):
        faults += _scheduler_faults(scheduler)
    elif scheduler is None and _number(train.get("warmup_iter"), -1) > 0:
        faults.append("train: warmup_iter: a warm-up needs a `scheduler`")
    decay = _number(train.get("ema_decay"), 0)
    if not 0 <= decay < 1:
        faults.append(f"train: ema_decay: {decay} is not in [0, 1)")
    if _number(train.get("accumulate"), 1) < 1:
        faults.append(f"train: accumulate: {train['accumulate']} must be at least 1")
    amp = train.get("amp")
    if amp is not None and amp not in AMP:
        faults.append(f"train: amp: {amp} is unknown; use bf16, fp16 or leave it out")
    return faults


def _number(value: Any, default: float) -> float:
    """The value where it is a number; what it is otherwise is said by the check of its kind."""
    return value if isinstance(value, (int, float)) else default


def _optimizer_faults(label: str, options: Mapping[str, Any]) -> list[str]:
    if "type" not in options or "lr" not in options:
        return [f"{label}: needs `type` and `lr`"]
    kind = getattr(torch.optim, str(options["type"]), None)
    if not isinstance(kind, type):
        known = [n for n, v in vars(torch.optim).items() if isinstance(v, type)]
        hint = did_you_mean(options["type"], known)
        return [f"{label}: type: {options['type']} is not an optimizer of torch.optim{hint}"]
    faults = call_faults(label, kind, {k: v for k, v in options.items() if k != "lr"}, ("params", "lr"))
    lr = options["lr"]
    if not isinstance(lr, (int, float)) or isinstance(lr, bool) or lr < 0:
        faults.append(f"{label}: lr: {lr!r} is not a number of at least 0")
    return faults


def _scheduler_faults(options: Mapping[str, Any]) -> list[str]:
    kind = options.get("type")
    if kind not in SCHEDULERS:
        hint = did_you_mean(kind, SCHEDULERS) or f"; known: {', '.join(SCHEDULERS)}"
        return [f"train: scheduler: type: {kind} is unknown{hint}"]
    faults = call_faults("train: scheduler", SCHEDULERS[kind], options, ("optimizer",))
    periods, weights = options.get("periods"), options.get("restart_weights", [1])
    if isinstance(periods, list) and isinstance(weights, list) and len(periods) != len(weights):
        faults.append(f"train: scheduler: restart_weights: {weights} should be one for each of periods: {periods}")
    return faults
