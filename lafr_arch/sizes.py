"""How many parameters each part of a LAFRNet has, counted on the meta device: no weights are read or made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from basicsr.archs import build_network
from diffusers import UNet2DConditionModel
from torch import nn

from lafr_arch.base_configs import base_configs
from lafr_arch.base_model import VAE_CLASSES
from lafr_arch.decoder_arch import build_decoder
from lafr_arch.fidelity_arch import FidelityPath
from lafr_arch.ip_adapter import IPAdapter, add_image_attention, image_attention
from lafr_arch.lora import add_encoder_lora, add_lora, layers_called
from lafr_arch.static_unet import StaticCrossAttention, StaticUNet

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
    "lora": "LoRA on the UNet",
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
    configs = base_configs(network_g["base_model"])
    vae_config = dict(configs.vae)
    vae_class = VAE_CLASSES[vae_config.pop("_class_name", "AutoencoderKL")]
    with torch.device("meta"):
        vae = vae_class.from_config(vae_config)
        unet = UNet2DConditionModel.from_config(configs.unet)
        text_encoder = None
        if configs.text_encoder is not None:
            from transformers import CLIPTextConfig, CLIPTextModel

            text_encoder = CLIPTextModel(CLIPTextConfig(**configs.text_encoder))
        alignment = network_g.get("alignment")
        adapter = None
        if alignment is not None:
            adapter = build_network({"latent_channels": vae.config.latent_channels, **alignment})
        whole = count(unet)
        pruned = StaticUNet(unet, configs.n_tokens)
    sizes = {"unet": whole, "unet_pruned": count(pruned)}
    sizes["unet_constants"] = sum(
        module.key.numel() + module.value.numel()
        for module in pruned.modules()
        if isinstance(module, StaticCrossAttention)
    )
    sizes["vae"] = count(vae)
    sizes["vae_encoder"] = count(vae.encoder)
    sizes["vae_decoder"] = count(vae.decoder)
    sizes["text_encoder"] = count(text_encoder)
    sizes["adapter"] = count(adapter)
    # Before the LoRA, which would be counted with its layer.
    own = [pruned.get_submodule(name) for name in layers_called(pruned, (network_g.get("lora") or {}).get("train", ()))]
    own_size = sum(count(layer) for layer in own)
    sizes["lora"] = _lora_size(network_g, configs.unet, pruned)
    used = whole if network_g.get("prune") is False else sizes["unet_pruned"]
    sizes["trainable"] = sizes["adapter"] + sizes["lora"] + (used if network_g.get("train_unet") else own_size)
    if network_g.get("vae_lora") is not None:
        with torch.device("meta"):
            add_encoder_lora(vae, **network_g["vae_lora"])
        sizes["vae_lora"] = count(vae) - sizes["vae"]
        sizes["trainable"] += sizes["vae_lora"]
    if network_g.get("fidelity") is not None:
        with torch.device("meta"):
            sizes["fidelity"] = count(FidelityPath(*vae.fusion_channels, **network_g["fidelity"]))
        sizes["trainable"] += sizes["fidelity"]
    if network_g.get("train_decoder"):
        sizes["trainable"] += sizes["vae_decoder"]
    if network_g.get("ip_adapter") is not None:
        conditioner = IPAdapter.without_weights(network_g["ip_adapter"], configs.unet["cross_attention_dim"])
        sizes["ip_adapter"] = count(conditioner.image_proj) + _image_attention_size(configs.unet)
        sizes["image_encoder"] = count(conditioner.encoder)
        sizes["trainable"] += sizes["ip_adapter"]
    sizes["inference"] = sizes["vae"] + sizes["adapter"] + sizes["unet_pruned"] + sizes["unet_constants"]
    sizes["inference"] += sizes.get("ip_adapter", 0) + sizes.get("image_encoder", 0)
    sizes["inference"] += sizes.get("fidelity", 0)
    if network_g.get("decoder") is not None:
        with torch.device("meta"):
            sizes["decoder"] = count(build_decoder(network_g["decoder"], vae.config))
        replaced = sizes["vae_decoder"] + count(getattr(vae, "post_quant_conv", None))
        sizes["inference"] += sizes["decoder"] - replaced
    return sizes


def _image_attention_size(unet_config: dict[str, Any]) -> int:
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(unet_config)
        add_image_attention(unet)
    return sum(map(count, image_attention(unet)))


def _lora_size(network_g: Mapping[str, Any], unet_config: dict[str, Any], pruned: nn.Module) -> int:
    lora = network_g.get("lora")
    if lora is None:
        return 0
    net: nn.Module = pruned
    if network_g.get("prune") is False:
        with torch.device("meta"):
            net = UNet2DConditionModel.from_config(unet_config)
    before = count(net)
    with torch.device("meta"):
        add_lora(net, **lora)
    return count(net) - before


def format_sizes(sizes: Mapping[str, int]) -> str:
    """One line for each number, with what it counts."""
    return "\n".join(f"{value:>15,}  {key:<14}  {LABELS[key]}" for key, value in sizes.items())
