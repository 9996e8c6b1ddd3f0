"""Configurations of a base model's parts: its own config.json files, or those of Stable Diffusion, known by hub id.

With them a network can be built, counted or filled with random numbers where no weights are at hand.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lafr_base import weights
from lafr_base.weight_list import SD21_BASE_HUB, SD21_HUB

# unet/config.json, vae/config.json, text_encoder/config.json and scheduler/scheduler_config.json of the repositories,
# without the keys that equal the defaults of diffusers and transformers.
_VAE: dict[str, Any] = {
    "_class_name": "AutoencoderKL",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "sample_size": 512,
    "scaling_factor": 0.18215,
}
_SCHEDULER: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "clip_sample": False,
    "prediction_type": "epsilon",
}
_UNET: dict[str, Any] = {
    "sample_size": 64,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": [320, 640, 1280, 1280],
    "layers_per_block": 2,
}
_UNET_2: dict[str, Any] = {
    **_UNET,
    "attention_head_dim": [5, 10, 20, 20],
    "cross_attention_dim": 1024,
    "use_linear_projection": True,
}
# OpenCLIP ViT-H/14's text model without its last layer, and CLIP ViT-L/14's.
_TEXT_2: dict[str, Any] = {
    "vocab_size": 49408,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 23,
    "num_attention_heads": 16,
    "max_position_embeddings": 77,
    "hidden_act": "gelu",
}
_TEXT_1: dict[str, Any] = {
    **_TEXT_2,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "hidden_act": "quick_gelu",
}


@dataclass(frozen=True)
class BaseConfigs:
    """Configurations of the parts of a base model.

    Attributes:
        unet: of a ``UNet2DConditionModel``.
        vae: of a VAE, its class under ``_class_name``.
        scheduler: of a ``DDPMScheduler``.
        text_encoder: of a ``CLIPTextModel``; None where the base model has none.
    """

    unet: dict[str, Any]
    vae: dict[str, Any]
    scheduler: dict[str, Any]
    text_encoder: dict[str, Any] | None

    @property
    def n_tokens(self) -> int:
        """Tokens of a prompt: those of the text encoder; one where there is none."""
        return 1 if self.text_encoder is None else int(self.text_encoder.get("max_position_embeddings", 77))


_SD21_BASE = BaseConfigs(_UNET_2, _VAE, _SCHEDULER, _TEXT_2)
_SD21 = BaseConfigs(
    {**_UNET_2, "sample_size": 96, "upcast_attention": True},
    {**_VAE, "sample_size": 768},
    {**_SCHEDULER, "prediction_type": "v_prediction"},
    _TEXT_2,
)
_SD15 = BaseConfigs({**_UNET, "attention_head_dim": 8, "cross_attention_dim": 768}, _VAE, _SCHEDULER, _TEXT_1)

KNOWN: dict[str, BaseConfigs] = {
    **dict.fromkeys(("sd21-base", *SD21_BASE_HUB, "stabilityai/stable-diffusion-2-1-base"), _SD21_BASE),
    **dict.fromkeys(("sd21", *SD21_HUB, "stabilityai/stable-diffusion-2-1"), _SD21),
    **dict.fromkeys(("stable-diffusion-v1-5/stable-diffusion-v1-5", "runwayml/stable-diffusion-v1-5"), _SD15),
}
"""Base models whose configurations are known without their files, by hub id or name of ``lafr weights``."""


def base_configs(base_model: str) -> BaseConfigs:
    """Configurations of a base model: those of its folder where it is there, else those of :data:`KNOWN`.

    Args:
        base_model: folder, hub id or name of ``lafr weights``.

    Raises:
        lafr_base.weights.MissingWeightsError: it is neither there nor known.
        ValueError: a file is missing from the folder or is not JSON.
    """
    folder = weights.find(base_model)
    if folder is None:
        if base_model in KNOWN:
            return KNOWN[base_model]
        raise weights.MissingWeightsError([base_model])
    return BaseConfigs(
        unet=_read(folder / "unet" / "config.json"),
        vae=_read(folder / "vae" / "config.json"),
        scheduler=_read(folder / "scheduler" / "scheduler_config.json"),
        text_encoder=_read(folder / "text_encoder" / "config.json") if has_text_encoder(folder) else None,
    )


def has_text_encoder(folder: Path) -> bool:
    """Whether the base model has a text encoder: by its folder, unless model_index.json lists null for it."""
    index = folder / "model_index.json"
    listed = _read(index).get("text_encoder", True) if index.is_file() else True
    if listed in (None, [None, None]):
        return False
    return (folder / "text_encoder").is_dir()


def _read(path: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"network_g: base_model: {path}: {error}") from error
    return config
