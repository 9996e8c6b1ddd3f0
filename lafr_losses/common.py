"""What the losses share: frozen nets, files of weights, resizing, distances."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from lafr_base.checkpoints import read_state
from lafr_base.registry import LOSS_REGISTRY

_Net = TypeVar("_Net", bound=nn.Module)


class FrozenLoss(nn.Module):
    """Base of the losses that look through frozen nets: whatever is asked for, they stay in eval mode.

    Attributes:
        whole_face: the loss makes sense on a whole aligned face only, not on a patch of one.
    """

    whole_face: ClassVar[bool] = False

    @classmethod
    def required_weights(cls, **options: Any) -> list[str]:  # noqa: ARG003 - for the classes that need some
        """Names, paths or hub ids, as :func:`lafr_base.weights.require` takes them, of what these options need.

        Raises:
            ValueError: an option has no valid value.
        """
        return []

    def train(self, mode: bool = True) -> FrozenLoss:  # noqa: ARG002
        """Stay in eval mode: batch statistics and dropout of a frozen net must not follow the training."""
        return super().train(False)


def required_weights(options: dict[str, Any]) -> list[str]:
    """Weights that a loss needs, from its YAML options (``type`` and arguments), without building it.

    For a launcher that wants to say all that is missing at once: pass the lists of all losses, joined, to
    :func:`lafr_base.weights.require_all`. Losses without weights, BasicSR's own among them, need nothing.
    """
    arguments = dict(options)
    loss = LOSS_REGISTRY.get(arguments.pop("type"))
    return loss.required_weights(**arguments) if loss is not None and issubclass(loss, FrozenLoss) else []


def freeze(net: _Net) -> _Net:
    """Put a net into eval mode and take the gradients from its parameters."""
    return net.eval().requires_grad_(False)


def full_precision(x: Tensor) -> Tensor:
    """Half precision to float32; float32 and float64 as they are."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def check_choice(owner: str, key: str, value: Any, choices: tuple[Any, ...]) -> None:
    """Raise ValueError naming the option where ``value`` is not one of ``choices``."""
    if value not in choices:
        raise ValueError(f"{owner}: {key}: {value!r} is not one of {', '.join(map(str, choices))}")


def load_strict(net: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """Load every tensor of ``net`` from ``state``.

    Raises:
        ValueError: names or shapes differ; the file and the differences are named.
    """
    try:
        net.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"{path} is not a {type(net).__name__}: {error}") from error


def load_net(network: type[_Net], path: Path, key: str | None = None) -> _Net:
    """Build a frozen net from its file of weights; its size is read off the tensors (``network.options_of``).

    Args:
        network: class of the net.
        path: the file.
        key: entry that holds its tensors, as for :func:`lafr_base.checkpoints.read_state`.

    Raises:
        ValueError: the file holds something else.
    """
    state = read_state(path, *([] if key is None else [key]))
    try:
        net = network(**network.options_of(state))  # type: ignore[attr-defined]
    except (KeyError, IndexError) as error:
        raise ValueError(f"{path} is not a {network.__name__}: it has no {error}") from error
    load_strict(net, state, path)
    return freeze(net)


def read_class_name(folder: Path) -> str:
    """``_class_name`` of a diffusers folder's config.json.

    Raises:
        FileNotFoundError: there is no config.json.
        ValueError: it names no class.
    """
    config = folder / "config.json"
    if not config.is_file():
        raise FileNotFoundError(f"{config} does not exist; save_pretrained writes it")
    name = json.loads(config.read_text()).get("_class_name")
    if not isinstance(name, str):
        raise ValueError(f"{config} has no _class_name")
    return name


def resize(x: Tensor, size: int | tuple[int, int]) -> Tensor:
    """Antialiased bicubic resize, as PIL does it but differentiable and without clamping; (B, C, H, W)."""
    shape = (size, size) if isinstance(size, int) else size
    if tuple(x.shape[-2:]) == tuple(shape):
        return x
    return F.interpolate(x, size=shape, mode="bicubic", align_corners=False, antialias=True)


def normalise_channels(x: Tensor, eps: float = 1e-10) -> Tensor:
    """Divide each position's channels by their Euclidean norm.

    ``eps`` stands under the root, so the gradient is finite where all channels are zero, as after a ReLU.
    """
    return x * torch.rsqrt(x.square().sum(dim=1, keepdim=True) + eps)


def distance(kind: str, a: Tensor, b: Tensor) -> Tensor:
    """Distance of two batches of vectors (B, N), a scalar: mean over the batch.

    Args:
        kind: ``cos``: 1 - cosine similarity of each pair; ``l2``: mean squared difference; ``l1``: mean absolute
            difference.
        a: one of each pair.
        b: the other.
    """
    if kind == "cos":
        return (1 - F.cosine_similarity(a, b, dim=1)).mean()
    return F.mse_loss(a, b) if kind == "l2" else F.l1_loss(a, b)
