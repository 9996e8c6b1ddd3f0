"""Whether a run that goes on still has the options it was stopped with."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from lafr_models.option_paths import PATH_OPTIONS

_SECTIONS = ("model_type", "manual_seed", "train")
_FREE = frozenset(
    {
        "cache",
        "check_images",
        "io_backend",
        "max_seconds",
        "name",
        "num_prefetch_queue",
        "num_worker_per_gpu",
        "persistent_workers",
        "phase",
        "pin_memory",
        "prefetch_mode",
        "scale",
        "total_iter",
        *PATH_OPTIONS,
    }
)
"""Options that may change when a run goes on: they end it later, or say where the same things lie now."""

_BATCH = "batch_size_per_gpu"


def training_options(opt: Mapping[str, Any]) -> dict[str, Any]:
    """What of an option file decides what a training does, as plain values to be saved with its state."""
    kept = {key: value for key, value in opt.items() if key in _SECTIONS or key.startswith("network_")}
    train_set = dict((opt.get("datasets") or {}).get("train") or {})
    if _BATCH in train_set:
        train_set[_BATCH] *= opt.get("world_size", 1)
    plain: dict[str, Any] = json.loads(json.dumps({**kept, "datasets": {"train": train_set}}, default=str))
    return plain


def differences(saved: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """What differs between two results of :func:`training_options`.

    Returns:
        Lines ``KEY: KEY: OLD -> NEW``: those that change the training, and those that do not.
    """
    old, new = dict(_leaves(saved)), dict(_leaves(now))
    changing: list[str] = []
    free: list[str] = []
    for place in dict.fromkeys([*old, *new]):
        before, after = old.get(place), new.get(place)
        if before != after:
            line = f"{': '.join(place)}: {_text(before)} -> {_text(after)}"
            (free if place[-1] in _FREE else changing).append(line)
    return changing, free


def _leaves(options: Mapping[str, Any], place: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, value in options.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, (*place, key))
        elif value is not None:
            yield (*place, key), value


def _text(value: Any) -> str:
    return "left out" if value is None else json.dumps(value)
