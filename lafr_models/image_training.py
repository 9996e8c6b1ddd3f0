"""What the stages that are trained on images share: their losses, an optional critic, crops of what is decoded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from lafr_base.geometry import FFHQ_POINTS, FFHQ_SIZE
from lafr_base.option_keys import Key
from lafr_models.build import build_network
from lafr_models.image_losses import ImageLosses
from lafr_models.stage_keys import NetworkKey
from lafr_models.training import TrainingModel


class ImageTrainingModel(TrainingModel):
    """A stage whose :meth:`losses` leave an image in ``output`` and what it should be in ``target``."""

    NEEDS_IMAGE_LOSS: ClassVar[bool] = True
    TRAIN_KEYS: ClassVar[tuple[Key, ...]] = (
        Key("gan_opt", Mapping, None, "the critic's loss; `start_iter` is the first iteration that has it"),
        Key("*_opt", Mapping, None, "a loss between images, logged as `l_*`: its `type`, arguments and `loss_weight`"),
        Key("optim_d", Mapping, None, "optimizer of the critic; needed by gan_opt"),
    )
    NETWORKS: ClassVar[tuple[NetworkKey, ...]] = (
        NetworkKey("network_d", Mapping, None, "the critic; needed by gan_opt"),
    )

    target: Tensor

    @classmethod
    def faults(cls, opt: Mapping[str, Any]) -> list[str]:
        """Also losses that are missing, or lack what they need."""
        faults = super().faults(opt)
        train = opt.get("train")
        if train is None:
            return faults
        losses = [key for key, value in train.items() if key.endswith("_opt") and value is not None]
        if cls.NEEDS_IMAGE_LOSS and not set(losses) - {"gan_opt"}:
            faults.append("train: has no loss between images; add for instance pixel_opt: {type: MSELoss}")
        if "gan_opt" in losses:
            needed = {"network_d": opt.get("network_d"), "train: optim_d": train.get("optim_d")}
            faults += [f"{key} is missing: train: gan_opt needs it" for key, value in needed.items() if value is None]
        return faults

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
        side: int | None = self.option("decode_crop")
        if side is not None and self.image_losses.whole_face and not self.opt["train"].get("whole_face_every"):
            raise ValueError(
                f"train: decode_crop: {', '.join(self.image_losses.whole_face)} need the whole face; leave it out, or "
                f"set whole_face_every"
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
    corner = random_corner(latent, side)
    return (
        (latent, image)
        if side is None or corner is None
        else (cut(latent, latent, corner, side), cut(image, latent, corner, side))
    )


def random_corner(latent: Tensor, side: int | None, focus: float = 0.0) -> tuple[int, int] | None:
    """Top and left, in latent positions, of a random square of ``side``; None where that is all there is.

    Args:
        latent: latents (B, C, h, w) of FFHQ-aligned faces.
        side: in latent positions; None for all.
        focus: share of the squares that are centred on an eye or a corner of the mouth, as far as the border allows.
    """
    height, width = latent.shape[-2:]
    if side is None or side >= min(height, width):
        return None
    if focus > 0 and torch.rand(()) < focus:
        x, y = ((FFHQ_POINTS + 0.5) / FFHQ_SIZE)[[0, 1, 3, 4]][int(torch.randint(4, ()))]
        spread = torch.rand(2) - 0.5  # by up to a quarter of the square
        left = round(x * width - side * (0.5 + 0.5 * float(spread[0])))
        top = round(y * height - side * (0.5 + 0.5 * float(spread[1])))
        return min(max(top, 0), height - side), min(max(left, 0), width - side)
    # Drawn from beyond the border by a position, so that squares at the border, whose edge counts, are no rarity.
    top, left = (int(torch.randint(-1, size - side + 2, ()).clamp(0, size - side)) for size in (height, width))
    return top, left


def cut(x: Tensor, latent: Tensor, corner: tuple[int, int], side: int) -> Tensor:
    """The square at ``corner``, in positions of ``latent`` as ``side``, of a map (B, C, k h, k w) of the same faces."""
    scale = x.shape[-1] // latent.shape[-1]
    top, left = (scale * position for position in corner)
    return x[..., top : top + scale * side, left : left + scale * side]
