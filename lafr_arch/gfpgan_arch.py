"""GFPGAN (Wang et al., 2021), version 1, clean: a U-Net whose features steer a StyleGAN2 generator; to be trained."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from lafr_arch.restorer_base import Losses, Restorer, load_start, spandrel_module
from lafr_base.registry import ARCH_REGISTRY


@ARCH_REGISTRY.register()
class GFPGANRestorer(Restorer):
    """The published network (its code comes with spandrel, Apache-2.0), at any size.

    Its own loss is the pyramid's: the L1 distance of the U-Net's images at every size from the original, resized.

    Args:
        image_size: side of the faces, a power of 2.
        narrow: factor of all numbers of channels; 1 as published.
        channel_multiplier: of the channels from 64 x 64 on; 2 as published.
        num_style_feat: channels of the style codes; 512 as published.
        num_mlp: layers of the mapping network; 8 as published. It has no part in restoring.
        decoder_weights: checkpoint of a StyleGAN2 generator of faces (clean version, for instance
            ``StyleGAN2_512_Cmul1_FFHQ_B12G4_scratch_800k.pth`` of GFPGAN's releases) that the decoder starts from, as
            in the paper; without it the decoder starts from nothing.
        fix_decoder: keep the decoder as it starts.
        pyramid_weight: weight of the pyramid's loss.
    """

    def __init__(
        self,
        image_size: int = 512,
        narrow: float = 1.0,
        channel_multiplier: int = 2,
        num_style_feat: int = 512,
        num_mlp: int = 8,
        decoder_weights: str | None = None,
        fix_decoder: bool = False,
        pyramid_weight: float = 1.0,
    ) -> None:
        super().__init__()
        if image_size < 16 or image_size & (image_size - 1):
            raise ValueError(f"GFPGANRestorer: image_size: {image_size} must be a power of 2, at least 16")
        self.image_size = image_size
        self.pyramid_weight = pyramid_weight
        self.form = {
            "image_size": image_size,
            "narrow": narrow,
            "channel_multiplier": channel_multiplier,
            "num_style_feat": num_style_feat,
            "num_mlp": num_mlp,
        }
        kind = spandrel_module("GFPGAN.__arch.gfpganv1_clean_arch").GFPGANv1Clean
        self.model: Any = kind(
            out_size=image_size,
            num_style_feat=num_style_feat,
            channel_multiplier=channel_multiplier,
            num_mlp=num_mlp,
            narrow=narrow,
            input_is_latent=True,
            different_w=True,
            sft_half=True,
        )
        if decoder_weights is not None:
            load_start(self.model.stylegan_decoder, decoder_weights, "decoder_weights")
        # The mapping network is not run: style codes come from the U-Net.
        self.model.stylegan_decoder.style_mlp.requires_grad_(False)
        if fix_decoder:
            self.model.stylegan_decoder.requires_grad_(False)

    def arguments(self) -> dict[str, Any]:
        """See :class:`Restorer`."""
        return dict(self.form)

    def forward(self, lq: Tensor, gt: Tensor | None = None) -> Any:
        """See :class:`Restorer`; in eval mode without noise, so that a face gives the same result each time."""
        noise = self.training and gt is not None
        image, pyramid = self.model(2 * lq - 1, return_rgb=gt is not None, randomize_noise=noise)
        image = (image + 1) / 2
        if gt is None:
            return image.clamp(0, 1)
        return image, self._pyramid_loss(pyramid, gt)

    def _pyramid_loss(self, pyramid: list[Tensor], gt: Tensor) -> Losses:
        if self.pyramid_weight == 0:
            return {}
        total = torch.stack(
            [
                F.l1_loss((rgb + 1) / 2, F.interpolate(gt, size=rgb.shape[-2:], mode="bilinear", antialias=True))
                for rgb in pyramid
            ]
        ).sum()
        return {"l_pyramid": self.pyramid_weight * total}
