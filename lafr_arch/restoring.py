"""What a network that restores faces offers to those that run it: one contract, for LAFRNet, baselines and others."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

WEIGHT_MEANS = ("tones", "network", "none")
"""What the weight of :meth:`lafr.restorer.LAFRer.enhance` can mean: how much of the photo's tones the restored face is
given (the default), an argument of the network's own forward, or nothing."""


@runtime_checkable
class RestoringNetwork(Protocol):
    """A module that maps faces (B, 3, S, S) RGB in [0, 1] to the same.

    Attributes:
        image_size: S, the side of its faces in pixels.
        weight_means: one of :data:`WEIGHT_MEANS`. ``network``: its forward takes the keyword ``weight``, 0 to 1.
        half_precision: a GPU, or a CPU with units for it, may run it in half precision unasked. False: asked only.
        own_kernels: on a CPU :meth:`for_inference` brings kernels that are faster than what torch.compile makes.
    """

    image_size: int
    weight_means: str
    half_precision: bool
    own_kernels: bool

    def __call__(self, lq: Tensor, **options: Any) -> Any:
        """Restore faces."""

    def for_inference(self, dtype: torch.dtype | None = None, kernels: bool = True) -> nn.Module:
        """Return what gives the same faces, to rounding, as fast as is known; in ``dtype``, where that is given.

        Without ``kernels`` it is made of PyTorch's layers alone. The network itself stays as it is.
        """


class RunsAsItIs:
    """The contract's part for networks without a faster form: lower precision is PyTorch's autocast."""

    weight_means: str = "none"
    half_precision: bool = False
    own_kernels: bool = False

    def for_inference(self, dtype: torch.dtype | None = None, kernels: bool = True) -> nn.Module:  # noqa: ARG002
        """The network itself, or under autocast."""
        assert isinstance(self, nn.Module)
        return self if dtype is None else _Autocast(self, dtype)


def as_restoring(network: nn.Module, image_size: int | None = None) -> Any:
    """Return a network under the contract: itself where it fulfils it, else a :class:`PlainNetwork` of it.

    Args:
        network: maps (B, 3, S, S) RGB in [0, 1] to the same.
        image_size: S, where the network does not say it.

    Raises:
        ValueError: it has no `image_size`, or a part of the contract only; the message says what it lacks.
    """
    if isinstance(network, RestoringNetwork):
        return network
    said = ("weight_means", "half_precision", "own_kernels", "for_inference")
    missing = [name for name in said if not hasattr(network, name)]
    if len(missing) < len(said):
        lacks = ", ".join([*missing, *([] if hasattr(network, "image_size") else ["image_size"])])
        raise ValueError(
            f"model: {type(network).__name__} lacks {lacks}: derive it from lafr_arch.restoring.RunsAsItIs, which has "
            "what a network need not say itself"
        )
    size = getattr(network, "image_size", image_size)
    if size is None:
        raise ValueError("model: the module needs an attribute image_size, the side of its faces in pixels")
    return PlainNetwork(network, int(size))


class PlainNetwork(RunsAsItIs, nn.Module):
    """Any module under the contract; its faces are given tones of the photo.

    Args:
        network: maps (B, 3, S, S) RGB in [0, 1] to the same.
        image_size: S.
    """

    weight_means = "tones"

    def __init__(self, network: nn.Module, image_size: int) -> None:
        super().__init__()
        self.network = network
        self.image_size = image_size

    def forward(self, lq: Tensor, **options: Any) -> Any:
        """As the network's."""
        return self.network(lq, **options)


class _Autocast(nn.Module):
    """A network under autocast, which lowers the operations that can bear it."""

    def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.network = network
        self.dtype = dtype

    def forward(self, lq: Tensor, **options: Any) -> Any:
        with torch.autocast(lq.device.type, dtype=self.dtype):
            return self.network(lq, **options)
