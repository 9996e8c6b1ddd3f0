"""Parts of a LAFRNet, built from their options, and their weights, from a checkpoint that a training stage wrote."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from lafr_base.checkpoints import read_state
from lafr_base.registry import ARCH_REGISTRY


def build_alignment(options: Mapping[str, Any] | None, latent_channels: int, weights: str | None = None) -> Any:
    """Build an alignment module.

    Args:
        options: ``type`` (a network of ARCH_REGISTRY that takes ``latent_channels``) and its arguments; None for none.
        latent_channels: the VAE's.
        weights: checkpoint of stage 1; None leaves the module as it starts.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        ValueError: the type is unknown, or the checkpoint does not fit.
    """
    if options is None:
        return None
    alignment = ARCH_REGISTRY.build(options, latent_channels=latent_channels)
    if weights is not None:
        load_part(alignment, weights, "alignment_weights", prefix="alignment.")
    return alignment


def load_part(module: nn.Module, path: str | Path, key: str, prefix: str = "") -> None:
    """Load a part of a network; one on the meta device, which is there to be counted, stays as it is.

    Args:
        module: the part.
        path: a checkpoint as :func:`lafr_base.checkpoints.read_state` reads it.
        key: the option that named the file, for messages: ``alignment_weights``.
        prefix: what the names of the part's tensors begin with in the file; others are left alone.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it does not fit.
    """
    if any(parameter.is_meta for parameter in module.parameters()):
        return
    file = Path(path).expanduser()
    if not file.is_file():
        raise FileNotFoundError(f"network_g: {key}: {path} does not exist; the training of that part writes it")
    stored = read_state(file)
    state = {name.removeprefix(prefix): value for name, value in stored.items() if name.startswith(prefix)}
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        part = key.removesuffix("_weights")
        raise ValueError(f"network_g: {key}: {path} does not fit `{part}`: {error}") from error
