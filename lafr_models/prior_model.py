"""LatentPriorModel: trains a latent diffusion prior of faces."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the field's name for it
from torchvision.utils import make_grid, save_image

from lafr_base.option_keys import Key
from lafr_base.registry import MODEL_REGISTRY
from lafr_models.build import build_network
from lafr_models.training import TrainingModel


@MODEL_REGISTRY.register()
class LatentPriorModel(TrainingModel):
    """Train a :class:`~lafr_arch.prior_arch.LatentPrior` to denoise the latents of ``gt``.

    The loss is the mean squared error of the prediction, each image weighted by ``min(SNR, min_snr_gamma)`` in units of
    its prediction type (Hang et al., 2023); ``min_snr_gamma: 0`` turns the weights off. Validation makes a grid of
    ``val: n_samples`` faces from noise (``samples/ITERATION.png``) besides the autoencoder's reconstructions, which it
    measures. At the end the prior is written to ``experiments/NAME/base_model`` in diffusers' layout.
    """

    TRAIN_KEYS: ClassVar[tuple[Key, ...]] = (
        Key("min_snr_gamma", float, 5, "largest weight of a timestep (min-SNR); 0: all weigh the same"),
    )
    VAL_KEYS: ClassVar[tuple[Key, ...]] = (
        Key("n_samples", int, 16, "faces made from noise at a validation"),
        Key("sample_steps", int, 50, "steps of DDIM that make them"),
    )

    def build(self) -> None:
        self.net_g = self.model_to_device(build_network(self.opt["network_g"]))
        if self.is_train:
            self.min_snr_gamma = self.option("min_snr_gamma")

    def losses(self, data: dict[str, Any], current_iter: int) -> dict[str, Tensor]:
        prior = self.bare_g
        with torch.no_grad():
            latent = prior.encode(data["gt"])
        self.output = data["gt"]
        scheduler = prior.scheduler
        steps = torch.randint(len(scheduler.alphas_cumprod), (len(latent),)).to(latent.device)
        noise = torch.randn_like(latent)
        noisy = scheduler.add_noise(latent, noise, steps)
        kind = scheduler.config.prediction_type
        targets = {"epsilon": lambda: noise, "sample": lambda: latent}
        target = targets.get(kind, lambda: scheduler.get_velocity(latent, noise, steps))()
        error = F.mse_loss(self.net_g(noisy, steps), target, reduction="none").mean(dim=(1, 2, 3))
        return {"l_denoise": (self._weights(scheduler.alphas_cumprod.to(latent.device)[steps], kind) * error).mean()}

    def _weights(self, alphas_cumprod: Tensor, kind: str) -> Tensor:
        if self.min_snr_gamma <= 0:
            return torch.ones_like(alphas_cumprod)
        snr = alphas_cumprod / (1 - alphas_cumprod)
        capped = snr.clamp(max=self.min_snr_gamma)
        return capped / {"epsilon": snr, "v_prediction": snr + 1}.get(kind, torch.ones_like(snr))

    def restore(self, lq: Tensor) -> Tensor:
        return self.bare_g.decode(self.bare_g.encode(lq))

    @torch.no_grad()
    def nondist_validation(self, dataloader: Any, current_iter: int, tb_logger: Any, save_img: bool) -> None:
        super().nondist_validation(dataloader, current_iter, tb_logger, save_img)
        count = self.option("n_samples", "val")
        with self.averaged():
            faces = self.bare_g.eval().sample(count, steps=self.option("sample_steps", "val"))
        self.bare_g.train()
        grid = make_grid(faces.cpu(), nrow=max(1, round(count**0.5)), padding=0)
        folder = Path(self.opt["path"]["visualization"]) / "samples"
        folder.mkdir(parents=True, exist_ok=True)
        save_image(grid, folder / f"{current_iter}.png")
        if tb_logger:
            tb_logger.add_image("samples", grid, current_iter)

    def write_result(self, folder: Path) -> str:
        self.bare_g.save_pretrained(folder / "base_model")
        return "base_model"
