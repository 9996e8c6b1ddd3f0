"""PatchDiscriminator: a small convolutional critic of image patches for adversarial training."""

from __future__ import annotations

from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm


@ARCH_REGISTRY.register()
class PatchDiscriminator(nn.Module):
    """Judge overlapping patches of an image as real (positive) or made (negative).

    Three stride-2 convolutions and two at 1/8 of the size, leaky ReLU between, spectral normalisation on
    every layer (Miyato et al., 2018) and no batch statistics, so that a judgement depends on its own image
    only. Each output sees a patch of 54 x 54 pixels (the PatchGAN of Isola et al., 2017).

    Args:
        width: channels of the first layer; 48 gives 704,977 parameters, 32 gives 314,337.
        spectral: keep every layer's largest singular value at 1.
    """

    def __init__(self, width: int = 48, spectral: bool = True) -> None:
        super().__init__()
        channels = (3, width, 2 * width, 4 * width)
        layers: list[nn.Module] = []
        for c_in, c_out in zip(channels[:-1], channels[1:], strict=True):
            layers += [nn.Conv2d(c_in, c_out, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        layers += [nn.Conv2d(channels[-1], channels[-1], 3, padding=1), nn.LeakyReLU(0.2)]
        layers += [nn.Conv2d(channels[-1], 1, 3, padding=1)]
        if spectral:
            layers = [spectral_norm(layer) if isinstance(layer, nn.Conv2d) else layer for layer in layers]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, 3, H, W) RGB in [0, 1], H and W at least 8 -> logits (B, 1, H // 8, W // 8).

        Raises:
            ValueError: the image is smaller than 8 x 8.
        """
        if min(x.shape[-2:]) < 8:
            raise ValueError(f"PatchDiscriminator needs images of 8 x 8 pixels or more, got {tuple(x.shape)}")
        return self.layers(2 * x - 1)
