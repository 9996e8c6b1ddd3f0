"""Weights of one part of a LAFRNet, from a checkpoint that a training stage wrote."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn


def load_part(module: nn.Module, path: str | Path, key: str, prefix: str = "") -> None:
    """Load a part of a network.

    Args:
        module: the part.
        path: a checkpoint of BasicSR's form, of which the averaged parameters are taken where it has them, or a
            safetensors file.
        key: the option that named the file, for messages: ``alignment_weights``.
        prefix: what the names of the part's tensors begin with in the file; others are left alone.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it does not fit.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise FileNotFoundError(f"network_g: {key}: {path} does not exist; the training of that part writes it")
    if file.suffix == ".safetensors":
        stored = load_file(file)
    else:
        stored = torch.load(file, map_location="cpu", weights_only=True)
        stored = stored.get("params_ema", stored.get("params", stored))
    state = {name.removeprefix(prefix): value for name, value in stored.items() if name.startswith(prefix)}
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        part = key.removesuffix("_weights")
        raise ValueError(f"network_g: {key}: {path} does not fit `{part}`: {error}") from error
