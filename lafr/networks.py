"""Find and load the network that restores faces, and choose the device it runs on."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

MODELS = {"mini": Path(__file__).parent / "pretrained" / "mini"}
"""Networks that come with the package, by name."""


def load_network(model: str | Path | nn.Module, device: torch.device) -> nn.Module:
    """Load a network by bundled name or folder; a module is returned as it is.

    Raises:
        FileNotFoundError: neither a name of `MODELS` nor a folder with config.json.
        ValueError: a module without `image_size`.
    """
    if isinstance(model, nn.Module):
        if not hasattr(model, "image_size"):
            raise ValueError("model: the module needs an attribute image_size, the side of its faces in pixels")
        return model
    folder = MODELS.get(str(model), Path(model))
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"model {str(model)!r}: {folder / 'config.json'} does not exist; pass one of "
            f"{', '.join(MODELS)} or a folder written by LAFRNet.save_pretrained"
        )
    from lafr_arch.lafr_arch import LAFRNet  # imports diffusers, which takes seconds

    return LAFRNet.from_pretrained(folder, device=device)


def pick_device(device: str | torch.device | None) -> torch.device:
    """Return the device asked for; for None or "auto" a GPU where there is one.

    Raises:
        ValueError: unknown, or CUDA where PyTorch sees none.
    """
    if device is None or device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device {device!r} is unknown; use auto, cpu or cuda") from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {str(device)!r}: PyTorch sees no CUDA GPU; use cpu or auto")
    return chosen
