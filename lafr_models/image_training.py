"""What the stages that are trained on images share: their losses, an optional critic, crops of what is decoded."""

from __future__ import annotations

from typing import Any

import torch
from basicsr.archs import build_network
from torch import Tensor

from lafr_models.image_losses import ImageLosses
from lafr_models.training import TrainingModel


class ImageTrainingModel(TrainingModel):
    """A stage whose :meth:`losses` leave an image in ``output`` and what it should be in ``target``."""

    target: Tensor

    def build_image_losses(self) -> None:
        """Create ``self.image_losses`` of ``train:`` and, where one of them is adversarial, ``self.net_d``."""
        self.image_losses = ImageLosses(self.opt["train"]).to(self.device)
        if self.image_losses.adversarial is not None:
            self.net_d = self.model_to_device(build_network(self.opt["network_d"]))

    def decode_crop_option(self) -> int | None:
        """``train: decode_crop``, the side in latent positions of the part that is decoded; None for all.

        Raises:
            ValueError: a loss needs the whole face.
        """
        side: int | None = self.opt["train"].get("decode_crop")
        if side is not None and self.image_losses.whole_face:
            raise ValueError(
                f"train: decode_crop: {', '.join(self.image_losses.whole_face)} need the whole face; leave it out"
            )
        return side

    def with_adversarial(self, losses: dict[str, Tensor], current_iter: int) -> dict[str, Tensor]:
        """The losses and, where it counts, the adversarial one of ``self.output``, weighted by them."""
        if self.net_d is not None and self.image_losses.adversarial_active(current_iter):
            losses["l_gan"] = self.image_losses.generator(self.net_d, self.output, losses)
        return losses

    def discriminator_losses(self, data: dict[str, Any], current_iter: int) -> dict[str, Tensor]:
        """The critic's loss of ``self.output`` against ``self.target``, where it counts."""
        if self.net_d is None or not self.image_losses.adversarial_active(current_iter):
            return {}
        return {"l_discriminator": self.image_losses.discriminator(self.net_d, self.output, self.target)}


def random_part(latent: Tensor, image: Tensor, side: int | None) -> tuple[Tensor, Tensor]:
    """The same random square of latents (B, C, h, w) and of images (B, 3, 8h, 8w).

    Args:
        latent: latents.
        image: what they show.
        side: in latent positions. None, or the latent's own side and above, gives both whole.
    """
    height, width = latent.shape[-2:]
    if side is None or side >= min(height, width):
        return latent, image
    top, left = (int(torch.randint(size - side + 1, ())) for size in (height, width))
    scale = image.shape[-1] // width
    latent = latent[..., top : top + side, left : left + side]
    return latent, image[..., top * scale : (top + side) * scale, left * scale : (left + side) * scale]
