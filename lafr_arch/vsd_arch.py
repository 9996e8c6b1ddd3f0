"""ScoreDistillation: the two score models of variational score distillation, as OSEDiff uses it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from lafr_arch.base_model import encode_prompt, load_base_model
from lafr_arch.lafr_arch import predict_sample
from lafr_arch.lora import add_lora
from lafr_base import weights
from lafr_base.registry import ARCH_REGISTRY


@ARCH_REGISTRY.register()
class ScoreDistillation(nn.Module):
    """Variational score distillation (ProlificDreamer, Wang et al., 2023), with OSEDiff's weight (Wu et al., 2024).

    Two score models look at a noisy latent of the restorer: the base model's UNet, frozen, which knows natural latents,
    and the same with LoRA, which learns the restorer's. The first's clean latent minus the second's is the way from
    what the restorer makes to what is natural. Both share the frozen weights, so the second costs its LoRA only.

    Args:
        base_model: folder, hub id or name of a base model, as LAFRNet's.
        prompt: its prompt; None for a base model without text encoder.
        negative_prompt: what classifier-free guidance leads away from; None for no guidance.
        guidance: scale of the guidance: ``negative + guidance * (positive - negative)``; 1 is none.
        lora: arguments of :func:`lafr_arch.lora.add_lora` for the second model.
        min_timestep: first timestep of the distillation.
        max_timestep: timestep behind its last.
        gradient_checkpointing: recompute activations in the second model's backward pass to save memory.

    Raises:
        ValueError: guidance without a negative prompt, or timesteps outside of the schedule.
    """

    prompt_embeds: Tensor
    negative_embeds: Tensor
    alphas_cumprod: Tensor

    def __init__(
        self,
        base_model: str,
        prompt: str | None = "face, high quality",
        negative_prompt: str | None = None,
        guidance: float = 1.0,
        lora: Mapping[str, Any] | None = None,
        min_timestep: int = 20,
        max_timestep: int = 980,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if guidance != 1 and negative_prompt is None:
            raise ValueError(f"network_vsd: guidance: {guidance:g} needs a negative_prompt ('' for the empty one)")
        base = load_base_model(base_model, prompt, timestep=0)
        steps = len(base.alphas_cumprod)
        if not 0 <= min_timestep < max_timestep <= steps:
            raise ValueError(
                f"network_vsd: min_timestep {min_timestep}, max_timestep {max_timestep}: not in 0..{steps}"
            )
        self.prediction_type = base.prediction_type
        self.guidance = guidance
        self.timesteps = (min_timestep, max_timestep)
        self.natural: Any = base.unet.requires_grad_(False)
        shared = {id(parameter): parameter for parameter in base.unet.parameters()}
        self.restored: Any = copy.deepcopy(base.unet, shared)
        add_lora(self.restored, **{"targets": "all", **(lora or {})})
        if gradient_checkpointing:
            self.restored.enable_gradient_checkpointing()
        negative = base.prompt_embeds
        if negative_prompt is not None:
            width = base.unet.config.cross_attention_dim
            negative = encode_prompt(str(weights.require(base_model)), negative_prompt, width)
        self.register_buffer("prompt_embeds", base.prompt_embeds, persistent=False)
        self.register_buffer("negative_embeds", negative, persistent=False)
        self.register_buffer("alphas_cumprod", base.alphas_cumprod, persistent=False)

    def forward(self, latent: Tensor) -> Tensor:
        """The second model's own loss: the mean squared error of denoising restored latents.

        Args:
            latent: scaled latents (B, C, h, w) of the restorer; no gradient reaches them.
        """
        latent = latent.detach()
        noisy, noise, steps, alpha = self._diffuse(latent, 0, len(self.alphas_cumprod))
        targets = {"epsilon": noise, "sample": latent, "v_prediction": alpha**0.5 * noise - (1 - alpha) ** 0.5 * latent}
        prediction = self._predict(self.restored, noisy, steps, self.prompt_embeds)
        return F.mse_loss(prediction, targets[self.prediction_type])

    def distillation_loss(self, latent: Tensor) -> Tensor:
        """A loss whose gradient moves restored latents towards natural ones.

        It is the mean of ``(latent - target)^2`` with ``target = latent - (x0_restored - x0_natural) / weight``, a
        constant, and ``weight = |latent - x0_natural|`` averaged over C, h and w. The two x0 are the clean latents that
        the models see in the same noisy one. Gradients reach ``latent`` only.

        Args:
            latent: scaled latents (B, C, h, w) of the restorer.
        """
        with torch.no_grad():
            noisy, _, steps, alpha = self._diffuse(latent, *self.timesteps)
            prediction = self._predict(self.natural, noisy, steps, self.prompt_embeds)
            if self.guidance != 1:
                negative = self._predict(self.natural, noisy, steps, self.negative_embeds)
                prediction = negative + self.guidance * (prediction - negative)
            natural = predict_sample(noisy, prediction, alpha, self.prediction_type)
            prediction = self._predict(self.restored, noisy, steps, self.prompt_embeds)
            restored = predict_sample(noisy, prediction, alpha, self.prediction_type)
            weight = (latent - natural).abs().mean(dim=(1, 2, 3), keepdim=True)
            target = latent - (restored - natural) / weight
        return F.mse_loss(latent, target)

    def _diffuse(self, latent: Tensor, low: int, high: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Noisy latents, their noise, their timesteps (B,) in low..high - 1, and alphas (B, 1, 1, 1)."""
        steps = torch.randint(low, high, (len(latent),)).to(latent.device)
        alpha = self.alphas_cumprod[steps].view(-1, 1, 1, 1)
        noise = torch.randn_like(latent)
        return alpha**0.5 * latent + (1 - alpha) ** 0.5 * noise, noise, steps, alpha

    def _predict(self, unet: nn.Module, noisy: Tensor, steps: Tensor, embeds: Tensor) -> Tensor:
        text = embeds.expand(len(noisy), -1, -1)
        return unet(noisy, steps, encoder_hidden_states=text).sample.float()
