"""Find and load the network that restores faces, and choose the device it runs on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from lafr.methods import MODELS as MODELS
from lafr.methods import MethodError, MethodSpec, parse_method
from lafr_arch.baselines import BASELINES
from lafr_arch.restorer_base import is_restorer, load_restorer
from lafr_arch.restoring import as_restoring


def load_network(model: str | Path | MethodSpec | nn.Module, device: torch.device) -> Any:
    """Load a network by what `lafr.methods.parse_method` calls it, or take a module for one.

    Returns:
        A module that fulfils `lafr_arch.restoring.RestoringNetwork`: the one given, where it does.

    Raises:
        lafr.methods.MethodError: no such network, or a folder of results.
        FileNotFoundError, lafr_base.weights.MissingWeightsError: a folder or checkpoint is not there.
        ValueError: a file that holds something else, or a module that lacks something.
    """
    if isinstance(model, nn.Module):
        return as_restoring(model)
    spec = model if isinstance(model, MethodSpec) else parse_method(str(model))
    if not spec.is_network:
        raise MethodError(f"model {str(model)!r} is a folder of results; a network is needed here")
    try:
        network = _build(spec)
    except (LookupError, TypeError, AttributeError, AssertionError) as error:  # of a configuration of something else
        what = f"{type(error).__name__}: {error}"
        raise ValueError(f"{spec.path}: no network that this version can build ({what})") from error
    return network.to(device)


def _build(spec: MethodSpec) -> nn.Module:
    if spec.kind == "lafr" and spec.path is not None and is_restorer(spec.path):
        return load_restorer(spec.path)
    if spec.kind == "lafr":
        from lafr_arch.lafr_arch import LAFRNet

        network = LAFRNet.from_pretrained(str(spec.path))
        if spec.options:
            network.set_strengths(**spec.options)
        return network
    return BASELINES[spec.kind].build(None if spec.path is None else str(spec.path), spec.options)


def pick_device(device: str | torch.device | None) -> torch.device:
    """Return the device asked for; for None or "auto" a GPU where there is one.

    Raises:
        ValueError: unknown, of another kind than CPU and CUDA, or a GPU that PyTorch does not see.
    """
    if device is None or device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device {device!r} is unknown; use auto, cpu or cuda") from error
    count = torch.cuda.device_count() if chosen.type == "cuda" else 0
    if chosen.type == "cuda" and not count:
        raise ValueError(f"device {str(device)!r}: PyTorch sees no CUDA GPU; use cpu or auto")
    if chosen.type == "cuda" and chosen.index is not None and chosen.index >= count:
        raise ValueError(f"device {str(device)!r}: PyTorch sees {count} CUDA GPUs, the first of which is cuda:0")
    if chosen.type not in ("cpu", "cuda"):
        raise ValueError(f"device {str(device)!r}: networks run on a CPU or CUDA GPU here; use auto, cpu or cuda")
    return chosen
