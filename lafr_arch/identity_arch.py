"""The identity net: says whether two aligned faces, one of them perhaps badly damaged, are the same person."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the field's name for it

import lafr_base.compat  # noqa: F401 - BasicSR imports with any torchvision
from lafr_arch.bundled import BundledNet
from lafr_arch.conv_units import ConvUnit, ResidualUnit
from lafr_arch.recognition import recognition_crop
from lafr_base.registry import ARCH_REGISTRY

EMBEDDING = 128
"""Length of an embedding; the teacher's."""


@ARCH_REGISTRY.register()
class FaceIdentityNet(BundledNet):
    """Identity embedding of FFHQ-aligned faces, the same whatever damage or restoring did to them.

    Four stages of plain 3x3 convolutions at 1/2 to 1/16 of the 112 x 96 recognition crop, and MobileFaceNet's ending: a
    depthwise convolution over the last map (Chen et al. 2018) and a linear layer.

    Args:
        channels: widths of the four stages.
        blocks: residual units of the second to the fourth stage.
    """

    def __init__(
        self, channels: tuple[int, int, int, int] = (24, 48, 96, 128), blocks: tuple[int, int, int] = (1, 2, 1)
    ) -> None:
        super().__init__()
        if len(channels) != 4 or len(blocks) != 3:
            raise ValueError(f"network_g: channels: {channels} must be four widths, blocks: {blocks} three numbers")
        self.config = {"channels": list(channels), "blocks": list(blocks)}
        stages: list[nn.Module] = [ConvUnit(3, channels[0], 2)]
        for before, width, count in zip(channels, channels[1:], blocks, strict=False):
            stages += [ConvUnit(before, width, 2), *(ResidualUnit(width) for _ in range(count))]
        self.stages = nn.Sequential(*stages)
        last = channels[-1]
        self.ending = nn.Sequential(
            nn.Conv2d(last, last, (7, 6), groups=last, bias=False),
            nn.BatchNorm2d(last),
            nn.Flatten(),
            nn.Linear(last, EMBEDDING),
        )

    def forward(self, faces: Tensor) -> Tensor:
        """FFHQ-aligned faces (B, 3, S, S) RGB in [0, 1], S as it comes -> embeddings (B, 128) of length 1.

        The product of two embeddings is the cosine of their angle: 1 for the same face, about 0 for strangers.
        """
        crop = recognition_crop(faces) * 2 - 1
        return F.normalize(self.ending(self.stages(crop)).float(), dim=1)


@torch.no_grad()
def flip_invariant(net: nn.Module, faces: Tensor) -> Tensor:
    """Embeddings of faces and their mirror images together, (B, 128) of length 1; see :class:`FaceIdentityNet`."""
    return F.normalize(F.normalize(net(faces), dim=1) + F.normalize(net(faces.flip(-1)), dim=1), dim=1)
