"""Networks of Stable Diffusion 2.1's form with random weights: the peer (OSEDiff's way of running) and LAFR."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from lafr_arch.base_configs import KNOWN, BaseConfigs
from lafr_arch.lafr_arch import LAFRNet, predict_sample
from lafr_arch.lora import add_lora, lora_layers, merge_lora
from lafr_arch.parts import build_alignment
from lafr_arch.static_unet import StaticUNet

TIMESTEP = 999
ADAPTER = {"type": "LatentAlignmentAdapter"}


class Peer(LAFRNet):
    """OSEDiff's forward: the text encoder at every call, the UNet as diffusers has it, one dtype throughout."""

    tokens: Tensor

    def __init__(self, vae: nn.Module, unet: nn.Module, text_encoder: nn.Module, tokens: Tensor, alpha: float) -> None:
        size = 8 * unet.config.sample_size  # type: ignore[union-attr, operator]
        super().__init__(vae, unet, None, prediction_type="epsilon", alpha_cumprod=alpha, image_size=size)  # type: ignore[arg-type]
        self.text_encoder = text_encoder
        self.register_buffer("tokens", tokens)

    def encode(self, image: Tensor) -> Tensor:
        """Images -> latents."""
        return super().encode(image.to(self.vae.dtype))

    def denoise(self, latent: Tensor, lq: Tensor | None = None) -> Tensor:  # noqa: ARG002 - as LAFRNet's
        """Latents -> restored latents."""
        text = self.text_encoder(self.tokens)[0].expand(len(latent), -1, -1)
        noise = self.unet(latent, TIMESTEP, encoder_hidden_states=text).sample
        return predict_sample(latent, noise, self.alpha_cumprod, self.prediction_type)


def configurations(scale: str) -> BaseConfigs:
    """Stable Diffusion 2.1's, or for `tiny` a narrow one of the same form."""
    configs = KNOWN["sd21-base"]
    if scale == "full":
        return configs
    narrow = {"sample_size": 8, "block_out_channels": [32, 32, 64, 64], "attention_head_dim": [2, 2, 4, 4]}
    text = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    return replace(
        configs,
        unet={**configs.unet, **narrow, "cross_attention_dim": 32, "norm_num_groups": 8},
        vae={**configs.vae, "block_out_channels": [16, 32, 32, 32], "norm_num_groups": 8, "sample_size": 64},
        text_encoder={**(configs.text_encoder or {}), **text, "num_attention_heads": 4},
    )


@torch.no_grad()
def fill(module: nn.Module) -> None:
    """Draw weights by the number of a layer's inputs, so that activations keep their scale."""
    # One block of random numbers, used again and again from places that differ: drawing 1.3e9 takes a minute.
    block = torch.randn(2**24 + 12345)
    start = 0
    norms = [name for name, part in module.named_modules() if isinstance(part, nn.GroupNorm | nn.LayerNorm)]
    ones = {f"{name}.weight" for name in norms}
    for name, value in (*module.named_parameters(), *module.named_buffers()):
        if not value.is_floating_point():
            value.copy_(torch.arange(value.numel()).view(value.shape))  # the text encoder's positions
        elif value.dim() > 1:
            flat = value.view(-1)
            for part in flat.split(2**24):
                start = (start + 7919) % 12345
                torch.mul(block[start : start + len(part)], 1 / math.sqrt(value[0].numel()), out=part)
        else:
            value.fill_(float(name in ones or name.endswith("scale")))


def random_part(build: Callable[[], nn.Module]) -> nn.Module:
    """A part of the base model with random weights, without its constructor's slow initialisation."""
    with torch.device("meta"):
        part = build()
    part = part.to_empty(device="cpu").eval().requires_grad_(False)
    fill(part)
    return part


def random_vae(configs: BaseConfigs) -> nn.Module:
    """The VAE."""
    return random_part(lambda: AutoencoderKL.from_config({k: v for k, v in configs.vae.items() if k != "_class_name"}))


@torch.no_grad()
def random_networks(scale: str, check: bool) -> tuple[Peer, LAFRNet, Tensor | None, Tensor]:
    """The peer and LAFR's deployed network on the same random weights; for the check a latent and what it becomes.

    Returns:
        Peer, network, the result of the UNet with prompt, timestep and unmerged LoRA (None without `check`), and the
        latent that it was made from.
    """
    configs = configurations(scale)
    n_tokens, size = configs.n_tokens, configs.unet["sample_size"]
    vae = random_vae(configs)
    unet: Any = random_part(lambda: UNet2DConditionModel.from_config(configs.unet))
    text_config = CLIPTextConfig(**(configs.text_encoder or {}))
    text_encoder = random_part(lambda: CLIPTextModel(text_config))
    tokens = torch.randint(text_config.vocab_size, (1, n_tokens))
    alpha = float(DDPMScheduler(**configs.scheduler).alphas_cumprod[TIMESTEP])
    peer = Peer(vae, unet, text_encoder, tokens, alpha)
    add_lora(unet, rank=4, targets="conv")
    for name in lora_layers(unet):
        up: Any = unet.get_submodule(name).lora_B["default"]
        up.weight.normal_(std=0.01)
    latent = torch.randn(1, 4, size, size)
    expected = peer.denoise(latent) if check else None
    merge_lora(unet)

    pruned = StaticUNet.from_unet(copy.deepcopy(unet), text_encoder(tokens)[0], TIMESTEP)
    alignment = build_alignment(ADAPTER, vae.config.latent_channels)
    fill(alignment)
    net = LAFRNet(
        vae,
        pruned,
        alignment,
        prediction_type="epsilon",
        alpha_cumprod=alpha,
        image_size=8 * size,
        configs={"alignment": ADAPTER},
    )
    return peer, net.eval().requires_grad_(False), expected, latent
