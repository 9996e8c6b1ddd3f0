"""AutoencoderModel: trains the VAE of a face prior."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from lafr_base.option_keys import Key
from lafr_base.registry import MODEL_REGISTRY
from lafr_models.build import build_network
from lafr_models.image_training import ImageTrainingModel


@MODEL_REGISTRY.register()
class AutoencoderModel(ImageTrainingModel):
    """Train a VAE (``network_g``) on images, with an optional discriminator (``network_d``).

    Losses: the image losses of ``train:`` between the image and its decoded latent, plus ``kl_weight`` times the mean
    Kullback-Leibler divergence per latent element. ``latent_noise`` is the standard deviation of noise added to the
    latent before decoding, relative to the latent's own, so that the decoder forgives what a restorer gets wrong.
    At the end the averaged network is written to ``experiments/NAME/vae`` in diffusers' layout, with the scaling factor
    measured on the last training batches (about a hundred).
    """

    TRAIN_KEYS: ClassVar[tuple[Key, ...]] = (
        Key("kl_weight", float, 0, "weight of the Kullback-Leibler divergence per latent element"),
        Key("latent_noise", float, 0, "standard deviation of noise on the latents, relative to their own"),
    )

    def build(self) -> None:
        self.net_g = self.model_to_device(build_network(self.opt["network_g"]))
        if self.is_train:
            self.build_image_losses()
            self.kl_weight = self.option("kl_weight")
            self.latent_noise = self.option("latent_noise")
            self.latent_square: Tensor | None = None

    def losses(self, data: dict[str, Any], current_iter: int) -> dict[str, Tensor]:
        decoded, distribution = self.net_g(2 * data["gt"] - 1, self.latent_noise)
        self.output, self.target = (decoded + 1) / 2, data["gt"]
        square = distribution.mean.detach().square().mean()
        self.latent_square = square if self.latent_square is None else self.latent_square.lerp(square, 0.01)
        losses = self.image_losses(self.output, self.target)
        if self.kl_weight > 0:
            losses["l_kl"] = self.kl_weight * distribution.kl().mean() / distribution.mean[0].numel()
        return self.with_adversarial(losses, current_iter)

    def restore(self, lq: Tensor) -> Tensor:
        latent = self.bare_g.encode(2 * lq - 1).latent_dist.mean
        return ((self.bare_g.decode(latent).sample + 1) / 2).clamp(0, 1)

    def write_result(self, folder: Path) -> str:
        if self.latent_square is not None:
            self.bare_g.config["scaling_factor"] = float(self.latent_square.rsqrt())
        self.bare_g.save_pretrained(folder / "vae")
        return "vae"
