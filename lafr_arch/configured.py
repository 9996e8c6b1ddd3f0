"""Networks that keep their constructor's arguments, in a folder of diffusers' layout: config.json and safetensors."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from lafr_base.model_folder import read_folder, write_folder

_Net = TypeVar("_Net", bound="ConfiguredNet")

WEIGHTS_NAME = "diffusion_pytorch_model.safetensors"


class Config(dict[str, Any]):
    """The arguments, as a mapping and as attributes."""

    def __getattr__(self, name: str) -> Any:
        """An argument by its name."""
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    def __reduce__(self) -> Any:
        """Copies and pickles are made of the mapping."""
        return Config, (dict(self),)


def keeps_config(constructor: Callable[..., None]) -> Callable[..., None]:
    """Make a constructor note its arguments in ``config``."""
    signature = inspect.signature(constructor)

    @functools.wraps(constructor)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        bound = signature.bind(self, *args, **kwargs)
        bound.apply_defaults()
        constructor(self, *args, **kwargs)
        self.config = Config(list(bound.arguments.items())[1:])

    return init


class ConfiguredNet(nn.Module):
    """A network whose constructor is decorated by :func:`keeps_config`."""

    config: Config
    """Arguments of the constructor."""

    @classmethod
    def from_config(cls: type[_Net], config: dict[str, Any]) -> _Net:
        """A network of such arguments; what begins with an underscore is diffusers' own."""
        return cls(**{key: value for key, value in config.items() if not key.startswith("_")})

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json and the weights, both whole or none."""
        write_folder(folder, {"_class_name": type(self).__name__, **self.config}, self.state_dict(), WEIGHTS_NAME)

    @classmethod
    def from_pretrained(cls: type[_Net], folder: str | Path, subfolder: str | None = None) -> _Net:
        """Load what :meth:`save_pretrained` wrote, in eval mode.

        Raises:
            FileNotFoundError: a file is missing; the message names it.
            ValueError: the weights are damaged.
        """
        config, state = read_folder(Path(folder, subfolder or ""), weights_name=WEIGHTS_NAME)
        with torch.device("meta"):  # nothing is drawn for weights that are read
            net = cls.from_config(config)
        net.load_state_dict(state, assign=True)
        return net.eval()
