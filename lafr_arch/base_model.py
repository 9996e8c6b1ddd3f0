"""Loading a base model: the VAE, UNet, schedule and prompt of a Stable Diffusion 1.x or 2.x in diffusers' layout."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from torch import Tensor, nn

from lafr_arch.autoencoder_arch import MiniAutoencoder
from lafr_arch.base_configs import BaseConfigs, base_configs, has_text_encoder
from lafr_base import weights

VAE_CLASSES: dict[str, Any] = {"AutoencoderKL": AutoencoderKL, "MiniAutoencoder": MiniAutoencoder}


class BaseModelError(ValueError):
    """A base model that is missing, incomplete or of an unknown kind."""


@dataclass
class BaseModel:
    """The parts of a base model that restoration uses, and its schedule."""

    vae: nn.Module
    unet: UNet2DConditionModel
    prompt_embeds: Tensor
    """(1, tokens, cross_attention_dim)."""
    prediction_type: str
    """``epsilon``, ``v_prediction`` or ``sample``."""
    alpha_cumprod: float
    """Product of (1 - beta) up to the fixed timestep, in (0, 1)."""
    alphas_cumprod: Tensor
    """The same up to each timestep of the schedule, (T,)."""


def load_base_model(path: str, prompt: str | None, timestep: int) -> BaseModel:
    """Load the folders vae, unet, scheduler and, for the prompt, tokenizer and text_encoder of a base model.

    Where the meta device is the default one, the parts are on it, and their configurations suffice.

    Args:
        path: local folder, or a hub id or name as :func:`lafr_base.weights.find` takes it; nothing is fetched.
        prompt: text to condition on; None for a base model without a text encoder, whose UNet was trained with a single
            zero token.
        timestep: the fixed timestep.

    Raises:
        BaseModelError: something is missing or does not fit; says what and where.
    """
    if torch.get_default_device().type == "meta":
        return _empty(base_configs(path), timestep)
    try:
        folder = weights.require(path)
    except weights.MissingWeightsError as error:
        raise BaseModelError(f"network_g: base_model: {path}: {error}") from error
    path = str(folder)
    missing = [name for name in ("vae", "unet", "scheduler") if not (folder / name).is_dir()]
    if missing:
        raise BaseModelError(f"network_g: base_model: {folder} lacks the folders {', '.join(missing)}")
    try:
        scheduler = DDPMScheduler.from_pretrained(path, subfolder="scheduler")
        unet = UNet2DConditionModel.from_pretrained(path, subfolder="unet")
        vae = load_vae(path, subfolder="vae")
        embeds = encode_prompt(path, prompt, unet.config.cross_attention_dim)
    except OSError as error:
        raise BaseModelError(f"network_g: base_model: {path}: {error}") from error
    steps = len(scheduler.alphas_cumprod)
    if not 0 <= timestep < steps:
        raise BaseModelError(f"network_g: timestep: {timestep} is not in 0..{steps - 1}, the schedule of {path}")
    return BaseModel(
        vae=vae,
        unet=unet,
        prompt_embeds=embeds,
        prediction_type=scheduler.config.prediction_type,
        alpha_cumprod=float(scheduler.alphas_cumprod[timestep].double()),
        alphas_cumprod=scheduler.alphas_cumprod,
    )


def _empty(configs: BaseConfigs, timestep: int) -> BaseModel:
    vae_config = dict(configs.vae)
    vae_class = VAE_CLASSES[vae_config.pop("_class_name", "AutoencoderKL")]
    with torch.device("cpu"):
        scheduler = DDPMScheduler.from_config(configs.scheduler)
    unet = UNet2DConditionModel.from_config(configs.unet)
    return BaseModel(
        vae=vae_class.from_config(vae_config),
        unet=unet,
        prompt_embeds=torch.empty(1, configs.n_tokens, unet.config.cross_attention_dim),
        prediction_type=scheduler.config.prediction_type,
        alpha_cumprod=float(scheduler.alphas_cumprod[timestep].double()),
        alphas_cumprod=scheduler.alphas_cumprod,
    )


def load_vae(path: str, subfolder: str | None = None) -> Any:
    """Load a VAE of any known class from a folder or hub id, by the class its config.json names.

    Raises:
        BaseModelError: the class is unknown.
    """
    name = AutoencoderKL.load_config(path, subfolder=subfolder).get("_class_name", "AutoencoderKL")
    if name not in VAE_CLASSES:
        raise BaseModelError(f"network_g: base_model: {path}: the VAE is a {name}; known: {', '.join(VAE_CLASSES)}")
    return VAE_CLASSES[name].from_pretrained(path, subfolder=subfolder)


@torch.no_grad()
def encode_prompt(path: str, prompt: str | None, width: int) -> Tensor:
    """Embedding (1, tokens, width) of a prompt; without a text encoder a single zero token.

    Args:
        path: folder of the base model.
        prompt: the text; None for a base model without a text encoder.
        width: ``cross_attention_dim`` of its UNet.

    Raises:
        BaseModelError: there is a text encoder and no prompt, or a prompt and no text encoder.
    """
    if not has_text_encoder(Path(path)):
        if prompt is not None:
            raise BaseModelError(
                f"network_g: prompt: {prompt!r} cannot be encoded: {path} has no text_encoder; leave `prompt: ~`"
            )
        return torch.zeros(1, 1, width)
    if prompt is None:
        raise BaseModelError(f"network_g: prompt: {path} has a text encoder; give a prompt ('' for the empty one)")
    from transformers import CLIPTextModel, CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(path, subfolder="tokenizer")
    text_encoder = CLIPTextModel.from_pretrained(path, subfolder="text_encoder")
    length = tokenizer.model_max_length
    tokens = tokenizer(prompt, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    return text_encoder(tokens.input_ids)[0].float()
