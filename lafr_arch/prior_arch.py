"""LatentPrior: a latent diffusion model of faces, trained here and saved in Stable Diffusion's layout."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, DDPMScheduler, UNet2DConditionModel
from torch import Tensor, nn

from lafr_arch.base_model import BaseModelError, load_vae
from lafr_base.files import write_json
from lafr_base.registry import ARCH_REGISTRY


@ARCH_REGISTRY.register()
class LatentPrior(nn.Module):
    """An unconditional denoising model on the latents of a frozen VAE.

    The UNet is a diffusers ``UNet2DConditionModel`` conditioned on a single zero token, so that it is pruned, adapted
    and deployed by the same code as Stable Diffusion's.

    Args:
        vae: folder of the VAE.
        unet: arguments of ``UNet2DConditionModel``; channels in and out are filled in from the VAE.
        scheduler: arguments of ``DDPMScheduler``: betas, number of steps, prediction type.
    """

    def __init__(self, vae: str, unet: Mapping[str, Any], scheduler: Mapping[str, Any]) -> None:
        super().__init__()
        if not Path(vae).expanduser().is_dir():
            raise BaseModelError(f"network_g: vae: the folder {vae} does not exist")
        self.vae: Any = load_vae(str(Path(vae).expanduser())).eval().requires_grad_(False)
        channels = self.vae.config.latent_channels
        self.unet: Any = UNet2DConditionModel(**{"in_channels": channels, "out_channels": channels, **unet})
        self.scheduler: Any = DDPMScheduler(**scheduler)

    def encode(self, image: Tensor) -> Tensor:
        """Images (B, 3, H, W) RGB in [0, 1] -> scaled latents (B, C, H / 8, W / 8)."""
        return self.vae.encode(2 * image - 1).latent_dist.mean * self.vae.config.scaling_factor

    def decode(self, latent: Tensor) -> Tensor:
        """Scaled latents -> images RGB, clamped to [0, 1]."""
        return ((self.vae.decode(latent / self.vae.config.scaling_factor).sample + 1) / 2).clamp(0, 1)

    def forward(self, noisy: Tensor, timesteps: Tensor) -> Tensor:
        """Noisy latents (B, C, h, w) and their timesteps (B,) -> the prediction, of the scheduler's type."""
        token = noisy.new_zeros(len(noisy), 1, self.unet.config.cross_attention_dim)
        return self.unet(noisy, timesteps, encoder_hidden_states=token).sample

    @torch.no_grad()
    def sample(self, count: int, steps: int = 50, seed: int = 0) -> Tensor:
        """Make faces from noise by DDIM: (count, 3, H, W) RGB in [0, 1]; a function of ``seed``."""
        generator = torch.Generator().manual_seed(seed)
        side = self.unet.config.sample_size
        latent = torch.randn(count, self.unet.config.in_channels, side, side, generator=generator)
        latent = latent.to(next(self.unet.parameters()).device)
        # The clamp that diffusers applies by default suits images, not latents.
        ddim = DDIMScheduler.from_config(self.scheduler.config, clip_sample=False, timestep_spacing="trailing")
        ddim.set_timesteps(steps)
        for t in ddim.timesteps:
            latent = ddim.step(self(latent, t.to(latent.device).expand(count)), t, latent).prev_sample
        return self.decode(latent)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write vae, unet, scheduler and model_index.json, which says that there is no text encoder."""
        folder = Path(folder)
        self.vae.save_pretrained(folder / "vae")
        self.unet.save_pretrained(folder / "unet")
        self.scheduler.save_pretrained(folder / "scheduler")
        index = {
            "_class_name": "LatentPrior",
            "scheduler": ["diffusers", "DDPMScheduler"],
            "text_encoder": [None, None],
            "tokenizer": [None, None],
            "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["lafr_arch.autoencoder_arch", type(self.vae).__name__],
        }
        write_json(folder / "model_index.json", index)
