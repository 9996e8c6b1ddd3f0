"""Exponential moving average of a network's trained parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from lafr_base.checkpoints import read_state


def trained_state(net: nn.Module) -> dict[str, Tensor]:
    """State of the parts of ``net`` that training changes: parameters with gradients, and all buffers beside them.

    Frozen base models (gigabytes, and available elsewhere) stay out of checkpoints this way. A module's buffers count
    when the module, or one below it, holds a trained parameter.
    """
    trained = {name for name, parameter in net.named_parameters() if parameter.requires_grad}
    owners = {name.rpartition(".")[0] for name in trained}
    state = net.state_dict()
    return {k: v for k, v in state.items() if k in trained or (k.rpartition(".")[0] in owners and not _frozen(net, k))}


def _frozen(net: nn.Module, name: str) -> bool:
    owner, _, leaf = name.rpartition(".")
    return leaf in net.get_submodule(owner)._parameters


def load_trained(net: nn.Module, path: str | Path, keys: Sequence[str], strict: bool = True) -> int:
    """Load a checkpoint's parts into ``net``.

    Args:
        net: the bare network, its frozen parts with requires_grad False.
        path: a file that a training stage saved, or any BasicSR checkpoint.
        keys: entries to look for in the file, in order of preference; where it has none, the file itself is taken.
        strict: refuse a file that lacks a trained parameter or holds an unknown one; else load what fits.

    Returns:
        The number of tensors in the file.

    Raises:
        ValueError: the file does not fit.
    """
    state = read_state(Path(path), *keys)
    result = net.load_state_dict(state, strict=False)
    missing = sorted(set(trained_state(net)) & set(result.missing_keys))
    if strict and (missing or result.unexpected_keys):
        raise ValueError(
            f"{path} does not fit {type(net).__name__}: lacks {missing[:5]}, has unknown "
            f"{result.unexpected_keys[:5]}; with strict_load_g: false what fits is loaded"
        )
    return len(state)


class ExponentialMovingAverage:
    """Averages of the parameters that require gradients: ``average = decay * average + (1 - decay) * parameter``.

    Args:
        net: the bare network (not wrapped by DDP).
        decay: in [0, 1); the average's memory is about ``1 / (1 - decay)`` steps. Early on it is shortened to
            ``(1 + steps) / (10 + steps)``, so that a short run's average is not its initialisation.
    """

    def __init__(self, net: nn.Module, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"train: ema_decay: {decay} is not in [0, 1)")
        self.net = net
        self.decay = decay
        self.steps = 0
        self.average = {n: p.detach().clone() for n, p in net.named_parameters() if p.requires_grad}

    @torch.no_grad()
    def update(self) -> None:
        """Take in the network's current parameters."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        parameters = dict(self.net.named_parameters())
        averages = list(self.average.values())
        torch._foreach_lerp_(averages, [parameters[name].detach() for name in self.average], 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Run the block with the averages in the network, then put its own parameters back."""
        parameters = dict(self.net.named_parameters())
        own = {name: parameters[name].data for name in self.average}
        try:
            for name, value in self.average.items():
                parameters[name].data = value
            yield
        finally:
            for name, value in own.items():
                parameters[name].data = value

    def state(self) -> dict[str, Tensor]:
        """The network's trained state with the averages in place of the parameters."""
        with self.applied():
            return {name: value.detach().clone() for name, value in trained_state(self.net).items()}

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor], steps: int) -> None:
        """Continue from :meth:`state` after ``steps`` updates."""
        for name, value in self.average.items():
            value.copy_(state[name])
        self.steps = steps
