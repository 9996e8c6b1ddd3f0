"""The files of a deployed network: one folder with ``config.json`` and ``model.safetensors``."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lafr_arch.base_model import VAE_CLASSES
from lafr_arch.ip_adapter import IPAdapter, add_image_attention
from lafr_arch.static_unet import StaticUNet
from lafr_base.files import share

if TYPE_CHECKING:
    from lafr_arch.lafr_arch import LAFRNet

FORMAT = "lafr-1"
WEIGHTS_NAME = "model.safetensors"


def write(net: LAFRNet, folder: str | Path, dtype: torch.dtype = torch.float32) -> None:
    """Write a deployed network; files are written whole or not at all.

    Args:
        net: after :meth:`LAFRNet.deploy`.
        folder: created where missing.
        dtype: of the stored weights; the codebook stays in fp32, since rounding it changes which code is nearest.
    """
    config: dict[str, Any] = {
        "format": FORMAT,
        "image_size": net.image_size,
        "prediction_type": net.prediction_type,
        "alpha_cumprod": net.alpha_cumprod,
        "alignment": net.alignment_config,
        "vae": {k: v for k, v in net.vae.config.items() if k == "_class_name" or not k.startswith("_")},
        "unet": {**net.unet.unet_config, "n_tokens": net.unet.n_tokens},
    }
    config["vae"]["_class_name"] = type(net.vae).__name__
    if net.decoder_config is not None:
        config["decoder"] = net.decoder_config
    if net.fidelity_config is not None:
        config["fidelity"] = net.fidelity_config
    if net.ip_adapter is not None:
        config["ip_adapter"] = net.ip_adapter.deployed_config()
    state = {
        name: (value if "codebook" in name or not value.is_floating_point() else value.to(dtype)).contiguous().cpu()
        for name, value in net.state_dict().items()
    }
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        weights, text = Path(temporary) / WEIGHTS_NAME, Path(temporary) / "config.json"
        save_file(state, weights, metadata={"format": "pt"})
        text.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        share(Path(temporary))
        os.replace(weights, folder / WEIGHTS_NAME)
        os.replace(text, folder / "config.json")


def read(folder: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Configuration and weights (in fp32) of a folder that :func:`write` wrote.

    Raises:
        FileNotFoundError: a file is missing; says which.
        ValueError: the folder holds something else.
    """
    folder = Path(folder).expanduser()
    for name in ("config.json", WEIGHTS_NAME):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder / name} does not exist; a deployed LAFR folder has it")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if config.get("format") != FORMAT:
        raise ValueError(f"{folder / 'config.json'} is not a deployed LAFR network (format {config.get('format')!r})")
    state = load_file(folder / WEIGHTS_NAME)
    return config, {k: v.float() if v.is_floating_point() else v for k, v in state.items()}


def empty_parts(config: dict[str, Any]) -> tuple[nn.Module, StaticUNet, IPAdapter | None]:
    """The VAE, the pruned UNet and the IP-Adapter, if any, that a configuration of :func:`read` describes."""
    unet_config, vae_config = dict(config["unet"]), dict(config["vae"])
    n_tokens = unet_config.pop("n_tokens")
    unet: Any = UNet2DConditionModel.from_config(unet_config)
    conditioner = None
    if config.get("ip_adapter") is not None:
        conditioner = IPAdapter.from_deployed_config(config["ip_adapter"], unet.config.cross_attention_dim)
        add_image_attention(unet, conditioner.tokens, conditioner.scale)
    vae: Any = VAE_CLASSES[vae_config.pop("_class_name")]
    return vae.from_config(vae_config), StaticUNet(unet, n_tokens), conditioner


def is_deployed(folder: str | Path) -> bool:
    """Whether a folder holds a deployed network."""
    config = Path(folder) / "config.json"
    return config.is_file() and json.loads(config.read_text(encoding="utf-8")).get("format") == FORMAT
