"""Reading checkpoints: safetensors, or what ``torch.save`` wrote, of which nothing but tensors is taken."""

from __future__ import annotations

import pickle
import struct
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

WRAPPERS = ("params_ema", "params", "state_dict")
"""Entries that hold the tensors in checkpoints of BasicSR (averaged parameters before the last ones) and of others."""


JUNK = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    pickle.UnpicklingError,
    struct.error,
    SafetensorError,
)
"""What reading a file, and fitting what it holds to a network, raise where it holds something else."""


def first_line(error: Exception) -> str:
    """Return an error's kind and the first line of what it says; torch.load explains itself in many."""
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return what a checkpoint holds, on the CPU; nothing in it is executed.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no checkpoint, or a damaged one; the message names it.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except JUNK as error:
        raise ValueError(f"{path} cannot be read as a checkpoint: {first_line(error)}") from error
    if not isinstance(stored, dict):
        raise ValueError(f"{path} cannot be read as a checkpoint: it holds a {type(stored).__name__}, not a state dict")
    return stored


def read_state(path: Path, *keys: str) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint, on the CPU, without the prefix ``module.`` of wrapped networks.

    Args:
        path: the file.
        keys: entries that may hold them, in order of preference, before those of :data:`WRAPPERS`; where there is
            none of all these, the file itself holds them.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds no state dict.
    """
    stored: Any = read_checkpoint(path)
    state = next((stored[key] for key in (*keys, *WRAPPERS) if key in stored), stored)
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path} holds no state dict" + (f" under {keys[0]!r}" if keys else ""))
    return {name.removeprefix("module."): tensor for name, tensor in state.items()}
