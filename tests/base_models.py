"""Tiny base models with random weights, in Stable Diffusion's layout, and the sizes of the real one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from torch import Tensor

from lafr_arch.autoencoder_arch import MiniAutoencoder
from lafr_arch.prior_arch import LatentPrior

# unet/config.json of Stable Diffusion 2.1, but for its defaults.
SD21_UNET: dict[str, Any] = {
    "sample_size": 64,
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "cross_attention_dim": 1024,
    "attention_head_dim": (5, 10, 20, 20),
    "use_linear_projection": True,
}

TINY_SD21_UNET: dict[str, Any] = {
    **SD21_UNET,
    "sample_size": 8,
    "block_out_channels": (8, 16, 24, 24),
    "norm_num_groups": 4,
    "cross_attention_dim": 16,
    "attention_head_dim": (1, 2, 4, 4),
}

TINY_SD15_UNET: dict[str, Any] = {
    **TINY_SD21_UNET,
    "layers_per_block": 1,
    "attention_head_dim": 2,
    "use_linear_projection": False,
}

# The form of options/mini/prior.yml.
TINY_MINI_UNET: dict[str, Any] = {
    "sample_size": 4,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
    "block_out_channels": [8, 16],
    "layers_per_block": 1,
    "cross_attention_dim": 8,
    "attention_head_dim": 2,
    "norm_num_groups": 4,
    "use_linear_projection": True,
}

SCHEDULER: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "clip_sample": False,
}

SD_IMAGE_SIZE = 64
MINI_IMAGE_SIZE = 32
TOKENS = 77


def tiny_unet(config: dict[str, Any]) -> UNet2DConditionModel:
    """A UNet with random weights, in eval mode; channels as in Stable Diffusion where the config gives none."""
    torch.manual_seed(0)
    return UNet2DConditionModel(**{"in_channels": 4, "out_channels": 4, **config}).eval()


def write_text_encoder(folder: Path, width: int) -> None:
    """Write ``tokenizer`` and ``text_encoder``: a byte-level CLIP tokenizer and a two-layer text model."""
    from transformers import CLIPTextConfig, CLIPTextModel

    letters = [chr(c) for c in range(ord("!"), ord("~") + 1)]
    tokens = [*letters, *(f"{c}</w>" for c in letters), "fa", "ce</w>", "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    start, end = len(tokens) - 2, len(tokens) - 1
    tokenizer = folder / "tokenizer"
    tokenizer.mkdir(parents=True)
    (tokenizer / "vocab.json").write_text(json.dumps(vocabulary))
    (tokenizer / "merges.txt").write_text("#version: 0.2\nf a\nc e</w>\n")
    (tokenizer / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "CLIPTokenizer",
                "model_max_length": TOKENS,
                "bos_token": "<|startoftext|>",
                "eos_token": "<|endoftext|>",
                "unk_token": "<|endoftext|>",
                "pad_token": "!",
            }
        )
    )
    config = CLIPTextConfig(
        vocab_size=len(tokens),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=TOKENS,
        bos_token_id=start,
        eos_token_id=end,
        pad_token_id=0,
    )
    torch.manual_seed(1)
    CLIPTextModel(config).save_pretrained(folder / "text_encoder")


def write_stable_diffusion(folder: Path, prediction_type: str = "epsilon") -> Path:
    """Write a tiny Stable Diffusion 2.1: vae, unet, scheduler, tokenizer, text_encoder."""
    torch.manual_seed(0)
    AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(4, 4, 8, 8),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=2,
        sample_size=SD_IMAGE_SIZE,
        scaling_factor=0.18215,
    ).save_pretrained(folder / "vae")
    tiny_unet(TINY_SD21_UNET).save_pretrained(folder / "unet")
    DDPMScheduler(**SCHEDULER, prediction_type=prediction_type).save_pretrained(folder / "scheduler")
    write_text_encoder(folder, TINY_SD21_UNET["cross_attention_dim"])
    return folder


def write_mini_vae(folder: Path) -> Path:
    """Write a tiny MiniAutoencoder whose residual blocks do something."""
    torch.manual_seed(0)
    vae = MiniAutoencoder(
        latent_channels=8,
        encoder_widths=(8, 12),
        decoder_widths=(12, 8),
        encoder_blocks=1,
        decoder_blocks=1,
        scaling_factor=1.5,
        sample_size=MINI_IMAGE_SIZE,
    )
    for name, parameter in vae.named_parameters():
        if "conv2.weight" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    vae.save_pretrained(folder)
    return folder


def write_mini_prior(folder: Path, prediction_type: str = "v_prediction") -> Path:
    """Write a tiny mini prior as LatentPriorModel does: vae, unet, scheduler, model_index.json."""
    vae = write_mini_vae(folder / "vae")
    torch.manual_seed(0)
    prior = LatentPrior(str(vae), TINY_MINI_UNET, {**SCHEDULER, "prediction_type": prediction_type})
    prior.save_pretrained(folder)
    return folder


def assert_close_in_range(actual: Tensor, expected: Tensor, share: float = 1e-4) -> None:
    """The largest difference is below ``share`` of the expected values' range."""
    bound = share * (expected.max() - expected.min())
    difference = (actual - expected).abs().max()
    assert difference <= bound, f"{difference:.2e} > {bound:.2e}"
