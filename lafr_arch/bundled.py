"""Small nets that the package carries: a folder with config.json and model.safetensors in half precision."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from lafr_base.model_folder import read_folder, write_folder

_Net = TypeVar("_Net", bound="BundledNet")


class BundledNet(nn.Module):
    """A net whose constructor's arguments are `config`, and whose weights are written as fp16."""

    config: dict[str, Any]
    """Arguments of the constructor, as JSON can write them."""

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json and model.safetensors (fp16, half the size)."""
        state = {k: v.half() if v.is_floating_point() else v for k, v in self.state_dict().items()}
        write_folder(folder, self.config, state)

    @classmethod
    def from_pretrained(cls: type[_Net], folder: str | Path, device: str | torch.device = "cpu") -> _Net:
        """Load a net written by :meth:`save_pretrained`, fp32 and in evaluation mode.

        Raises:
            FileNotFoundError: if config.json or model.safetensors is missing in ``folder``.
        """
        config, state = read_folder(folder)
        net = cls(**config)
        net.load_state_dict(state)  # copies fp16 into fp32 parameters
        return net.to(device).eval()
