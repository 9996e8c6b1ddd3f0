"""LAFRUNetModel: stage 2, LoRA on the UNet under the multilevel loss (LAFR, 2.4)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from basicsr.archs import build_network
from basicsr.utils.registry import MODEL_REGISTRY
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from lafr_models.image_training import ImageTrainingModel, random_part
from lafr_models.training import log_sizes

# Latent positions at the edge of a decoded crop whose pixels are left out of the losses: the decoder lacks what is
# around them.
_MARGIN = 1


@MODEL_REGISTRY.register()
class LAFRUNetModel(ImageTrainingModel):
    """Fine-tune ``network_g``'s UNet (LoRA, or all of it) on restored images; adapter, encoder and decoder are frozen.

    Losses: the image losses of ``train:`` between the restored face and ``gt``, plus ``latent_weight`` times the L1
    distance between the restored latent and that of ``gt`` (0 by default; costs no decoding). ``decode_crop``: side,
    in latent positions, of the random part that is decoded for the image losses; the whole face by default. The
    decoder is more than half of the work, so a crop of half the side takes less than half the time; losses that look
    at a whole face need all.

    At the end the network is also written, deployed (LoRA merged), to ``experiments/NAME/deployed``.
    """

    def build(self) -> None:
        net = build_network(self.opt["network_g"])
        if net.alignment is not None:
            net.alignment.requires_grad_(False)
        self.net_g = self.model_to_device(net)
        log_sizes(self.opt["network_g"])
        if not self.is_train:
            return
        self.build_image_losses()
        self.latent_weight = float(self.opt["train"].get("latent_weight", 0))
        self.decode_crop = self.decode_crop_option()

    def losses(self, data: dict[str, Any], current_iter: int) -> dict[str, Tensor]:
        latent = self.net_g(data["lq"], output="restored")
        latent_losses = self.latent_losses(latent, data)
        self.output, self.target = self._decode(latent, data["gt"])
        losses = self.with_adversarial(self.image_losses(self.output, self.target), current_iter)
        return {**losses, **latent_losses}

    def latent_losses(self, latent: Tensor, data: dict[str, Any]) -> dict[str, Tensor]:
        """Losses of the restored latents (B, C, h, w) themselves."""
        if self.latent_weight <= 0:
            return {}
        with torch.no_grad():
            target = self.bare_g.encode(data["gt"])
        return {"l_latent": self.latent_weight * F.l1_loss(latent, target)}

    def _decode(self, latent: Tensor, gt: Tensor) -> tuple[Tensor, Tensor]:
        """Decode the latent, or a random crop of it; return images and the part of ``gt`` they show."""
        part, shown = random_part(latent, gt, self.decode_crop)
        image = self.bare_g.decode(part)
        if part is latent:
            return image, gt
        margin = _MARGIN * shown.shape[-1] // part.shape[-1]
        inner = slice(margin, -margin)
        return image[..., inner, inner], shown[..., inner, inner]

    def restore(self, lq: Tensor) -> Tensor:
        return self.bare_g(lq).clamp(0, 1)

    def write_result(self, folder: Path) -> str:
        self.bare_g.save_pretrained(folder / "deployed")
        return "deployed"
