"""How many parameters each part of a LAFRNet has, counted on the meta device: no weights are read or made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from lafr_arch.base_configs import base_configs
from lafr_arch.base_model import load_base_model
from lafr_arch.ip_adapter import image_attention
from lafr_arch.network_g_arch import build_lafr
from lafr_arch.static_unet import StaticCrossAttention

LABELS = {
    "unet": "UNet of the base model",
    "unet_pruned": "UNet, pruned: without time embedding, its projections, and keys and values of the prompt",
    "unet_constants": "constant keys and values that take their place",
    "vae": "VAE: encoder, decoder, and 1x1 convolutions between them",
    "vae_encoder": "  its encoder",
    "vae_decoder": "  its decoder",
    "text_encoder": "text encoder (not needed once the UNet is pruned)",
    "adapter": "alignment module",
    "decoder": "decoder that takes the place of the VAE's",
    "fidelity": "path that carries the face past the latent to the decoder",
    "lora": "LoRA on the UNet, or both",
    "vae_lora": "LoRA on the VAE's encoder",
    "ip_adapter": "IP-Adapter: projection, keys and values of the image tokens",
    "image_encoder": "  its image encoder, frozen",
    "trainable": "trainable in both stages: alignment module, LoRA or UNet, fidelity path, decoder where it trains",
    "inference": "deployed network: VAE (with that decoder), alignment module, UNet and its constants, IP-Adapter",
}
"""What each key of :func:`network_sizes` counts."""


def count(module: nn.Module | None) -> int:
    """Number of parameters."""
    return 0 if module is None else sum(parameter.numel() for parameter in module.parameters())


def network_sizes(network_g: Mapping[str, Any]) -> dict[str, int]:
    """Count the parameters of the parts of a LAFRNet.

    Args:
        network_g: options of a :class:`~lafr_arch.lafr_arch.LAFRNet`.

    Returns:
        Numbers of parameters, by the keys of :data:`LABELS`; ``decoder`` and ``vae_lora`` only where they are asked
        for. The constants are buffers, not parameters.

    Raises:
        lafr_base.weights.MissingWeightsError: the base model is neither there nor one whose configuration is known.
        ValueError: an option does not fit.
    """
    options = {key: value for key, value in network_g.items() if key != "type"}
    configs = base_configs(options["base_model"])
    bare: dict[str, Any] = {"prune": True, "with_unet": True, "train_unet": False}
    bare |= dict.fromkeys(("lora", "semantic_lora", "vae_lora"))
    with torch.device("meta"):
        base = load_base_model(options["base_model"], None, 0)
        sizes = {"unet": count(base.unet)}
        net, plain = build_lafr(**options), build_lafr(**{**options, **bare})
        text_encoder = None
        if configs.text_encoder is not None:
            from transformers import CLIPTextConfig, CLIPTextModel

            text_encoder = CLIPTextModel(CLIPTextConfig(**configs.text_encoder))
    constants = [module for module in plain.unet.modules() if isinstance(module, StaticCrossAttention)]
    conditioning = sum(map(count, image_attention(plain.unet)))
    sizes["unet_pruned"] = count(plain.unet) - conditioning
    sizes["unet_constants"] = sum(module.key.numel() + module.value.numel() for module in constants)
    vae: Any = base.vae
    sizes |= {"vae": count(vae), "vae_encoder": count(vae.encoder), "vae_decoder": count(vae.decoder)}
    sizes["text_encoder"] = count(text_encoder)
    sizes["adapter"] = count(net.alignment)
    sizes["lora"] = _lora(net.unet)
    if options.get("vae_lora") is not None:
        sizes["vae_lora"] = _lora(net.vae)
    if net.fidelity is not None:
        sizes["fidelity"] = count(net.fidelity)
    if net.ip_adapter is not None:
        sizes["ip_adapter"] = count(net.ip_adapter.image_proj) + conditioning
        sizes["image_encoder"] = count(net.ip_adapter.encoder)
    if net.decoder is not None:
        sizes["decoder"] = count(net.decoder)
    sizes["trainable"] = sum(parameter.numel() for parameter in net.parameters() if parameter.requires_grad)
    sizes["inference"] = count(plain) + sizes["unet_constants"]
    return sizes


def _lora(module: nn.Module | None) -> int:
    if module is None:
        return 0
    return sum(parameter.numel() for name, parameter in module.named_parameters() if ".lora_" in name)


def format_sizes(sizes: Mapping[str, int]) -> str:
    """One line for each number, with what it counts."""
    return "\n".join(f"{value:>15,}  {key:<14}  {LABELS[key]}" for key, value in sizes.items())
