"""Small nets that the package carries: a folder with config.json and model.safetensors in half precision."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from lafr_base.files import whole

_Net = TypeVar("_Net", bound="BundledNet")


class BundledNet(nn.Module):
    """A net whose constructor's arguments are `config`, and whose weights are written as fp16."""

    config: dict[str, Any]
    """Arguments of the constructor, as JSON can write them."""

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json and model.safetensors (fp16, half the size)."""
        folder = Path(folder)
        state = {k: v.half() if v.is_floating_point() else v for k, v in self.state_dict().items()}
        with whole(folder / "config.json") as config, whole(folder / "model.safetensors") as weights:
            config.write_text(json.dumps(self.config, indent=2) + "\n", encoding="utf-8")
            save_file({k: v.contiguous().cpu() for k, v in state.items()}, weights)

    @classmethod
    def from_pretrained(cls: type[_Net], folder: str | Path, device: str | torch.device = "cpu") -> _Net:
        """Load a net written by :meth:`save_pretrained`, fp32 and in evaluation mode.

        Raises:
            FileNotFoundError: if config.json or model.safetensors is missing in ``folder``.
        """
        folder = Path(folder)
        for name in ("config.json", "model.safetensors"):
            if not (folder / name).is_file():
                raise FileNotFoundError(f"{folder / name} is missing: reinstall lafr, or export the net again")
        net = cls(**json.loads((folder / "config.json").read_text(encoding="utf-8")))
        net.load_state_dict(load_file(str(folder / "model.safetensors")))  # copies fp16 into fp32 parameters
        return net.to(device).eval()
