"""The files of a deployed network: one folder with ``config.json`` and ``model.safetensors``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

import lafr_arch.adapter_arch  # noqa: F401 - registers its class, so that it is not looked for in every module
from lafr_arch import kl_autoencoder
from lafr_arch.autoencoder_arch import MiniAutoencoder
from lafr_arch.decoder_arch import frozen_decoder
from lafr_arch.fidelity_arch import build_fidelity
from lafr_arch.lora_strengths import LoraStrengths
from lafr_arch.parts import build_alignment
from lafr_arch.static_unet import StaticUNet
from lafr_arch.unet_blocks import build_unet, knows
from lafr_base.model_folder import read_config, read_folder, write_folder

if TYPE_CHECKING:
    from lafr_arch.lafr_arch import LAFRNet

FORMAT = "lafr-1"


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
        "weight_means": net.weight_means,
        "half_precision": net.half_precision,
        "alignment": net.configs.get("alignment"),
        "vae": {k: v for k, v in net.vae.config.items() if k == "_class_name" or not k.startswith("_")},
        "unet": {**net.unet.unet_config, "n_tokens": net.unet.n_tokens},
    }
    config["vae"]["_class_name"] = type(net.vae).__name__
    config |= {name: value for name, value in net.configs.items() if name != "alignment"}
    if net.strengths is not None:
        config["lora_strengths"] = net.strengths.config
    if net.ip_adapter is not None:
        config["ip_adapter"] = net.ip_adapter.deployed_config()
    state = {
        name: value if "codebook" in name or not value.is_floating_point() else value.to(dtype)
        for name, value in net.state_dict().items()
    }
    write_folder(folder, config, state)


def read(folder: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Configuration and weights (in fp32) of a folder that :func:`write` wrote.

    Raises:
        FileNotFoundError: a file is missing; says which.
        ValueError: the folder holds something else.
    """
    config, state = read_folder(folder, FORMAT, "a deployed LAFR network")
    return config, {k: v.float() if v.is_floating_point() else v for k, v in state.items()}


def empty_parts(config: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of :class:`LAFRNet` that a configuration of :func:`read` describes, without weights.

    Folders that were written before ``weight_means`` and ``half_precision`` were are LAFR's own: the defaults hold.
    """
    unet_config, vae_config = dict(config["unet"]), dict(config["vae"])
    n_tokens = unet_config.pop("n_tokens")
    conditioner = None
    if config.get("ip_adapter") is None and knows(unet_config):
        unet = build_unet(unet_config)
    else:
        from diffusers import UNet2DConditionModel  # takes seconds, as all of diffusers

        unet = UNet2DConditionModel.from_config(unet_config)
    if config.get("ip_adapter") is not None:
        from lafr_arch.ip_adapter import IPAdapter, add_image_attention

        conditioner = IPAdapter.from_deployed_config(config["ip_adapter"], unet.config.cross_attention_dim)
        add_image_attention(unet, conditioner.tokens, conditioner.scale)
    vae: Any = _vae_class(vae_config.pop("_class_name"), vae_config).from_config(vae_config)
    configs = {name: config[name] for name in ("alignment", "decoder", "fidelity") if config.get(name) is not None}
    scalars = ("prediction_type", "alpha_cumprod", "image_size", "weight_means", "half_precision")
    static = StaticUNet(unet, n_tokens)
    loras = config.get("lora_strengths")
    return {
        "vae": vae,
        "unet": static,
        "strengths": None if loras is None else LoraStrengths(static, loras),
        "alignment": build_alignment(configs.get("alignment"), vae.config.latent_channels),
        "ip_adapter": conditioner,
        "fidelity": build_fidelity(configs["fidelity"], vae) if "fidelity" in configs else None,
        "decoder": frozen_decoder(configs["decoder"], vae.config) if "decoder" in configs else None,
        "configs": configs,
        **{name: config[name] for name in scalars if name in config},
    }


def _vae_class(name: str, config: Mapping[str, Any]) -> Any:
    if name == "MiniAutoencoder":
        return MiniAutoencoder
    if name == "AutoencoderKL" and kl_autoencoder.knows(config):
        return kl_autoencoder.AutoencoderKL
    from lafr_arch.base_model import VAE_CLASSES  # imports diffusers

    return VAE_CLASSES[name]


def is_deployed(folder: str | Path) -> bool:
    """Whether a folder holds a deployed network."""
    return read_config(folder).get("format") == FORMAT
