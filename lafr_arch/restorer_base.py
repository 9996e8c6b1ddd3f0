"""Rival restorers that are trained here: what they share, and the folder that a trained one is kept in.

A network maps faces (B, 3, S, S) RGB in [0, 1] to the same. Given the originals, too, it returns the image and the
losses of its own method, by name; what is common (pixels, features, identity, critics) belongs to the stage
(:class:`lafr_models.restorer_model.RestorerModel`).
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lafr_arch.restoring import RunsAsItIs
from lafr_base.checkpoints import read_state
from lafr_base.model_folder import CONFIG_NAME, WEIGHTS_NAME, read_config, read_folder, write_folder
from lafr_base.registry import ARCH_REGISTRY
from lafr_base.weights import require

FORMAT = "restorer-1"

Losses = dict[str, Tensor]


class Restorer(RunsAsItIs, nn.Module):
    """Base of the rivals, under :class:`lafr_arch.restoring.RestoringNetwork`."""

    image_size: int

    def arguments(self) -> dict[str, Any]:
        """The constructor's arguments that make an empty network of the same form."""
        raise NotImplementedError

    def forward(self, lq: Tensor, gt: Tensor | None = None) -> Any:
        """Restore faces.

        Args:
            lq: (B, 3, S, S) RGB in [0, 1].
            gt: the originals, the same; in training.

        Returns:
            The image; with ``gt`` the image, or None where the stage makes none, and the method's own losses.
        """
        raise NotImplementedError

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json and model.safetensors, whole or not at all."""
        config = {"format": FORMAT, "type": type(self).__name__, "arguments": self.arguments()}
        write_folder(folder, config, {name: value.clone() for name, value in self.state_dict().items()})


def is_restorer(folder: str | Path) -> bool:
    """Whether a folder holds a trained rival."""
    return read_config(folder).get("format") == FORMAT


def load_restorer(folder: str | Path) -> Restorer:
    """Load what :meth:`Restorer.save_pretrained` wrote, in eval mode.

    Raises:
        FileNotFoundError: a file is missing; says which.
        ValueError: the folder holds something else.
    """
    config, state = read_folder(folder, FORMAT, "a restorer that basicsr/train.py wrote")
    net: Restorer = ARCH_REGISTRY[config["type"]](**config["arguments"])
    try:
        net.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"{Path(folder) / WEIGHTS_NAME} does not fit its {CONFIG_NAME}: {error}") from error
    return net.eval().requires_grad_(False)


def spandrel_module(name: str) -> Any:
    """A module of spandrel that holds published network code.

    Raises:
        ImportError: spandrel is not installed; the message says how to get it.
    """
    try:
        return importlib.import_module(f"spandrel.architectures.{name}")
    except ImportError as error:
        raise ImportError(f"this baseline needs spandrel: pip install 'lafr[baselines]' ({error})") from error


def load_start(net: nn.Module, path: str, option: str, unused: tuple[str, ...] = ()) -> None:
    """Load a checkpoint that a network starts from, another stage's or a published one.

    Args:
        net: takes every tensor of the file.
        path: checkpoint (``params_ema`` or ``params`` in it are opened), or a name of ``lafr weights``.
        option: its option, for messages.
        unused: beginnings of names in the file that have no place in ``net``.

    Raises:
        ValueError: the file has tensors that do not fit.
    """
    state = {name: value for name, value in read_state(require(path)).items() if not name.startswith(unused or "\0")}
    own = net.state_dict()
    wrong = [name for name, value in state.items() if name not in own or own[name].shape != value.shape]
    if wrong or not state:
        raise ValueError(f"{option}: {path} does not fit {type(net).__name__}: {', '.join(wrong[:5]) or 'it is empty'}")
    net.load_state_dict(state, strict=False)
