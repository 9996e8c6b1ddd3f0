"""Critics for adversarial training: one of image patches, and one that looks through a frozen ImageNet network."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the field's name for it
from torch.nn.utils.parametrizations import spectral_norm

from lafr_arch.efficientnet_arch import SCALE_CHANNELS, EfficientNetLite0
from lafr_base.registry import ARCH_REGISTRY
from lafr_base.weights import require


@ARCH_REGISTRY.register()
class PatchDiscriminator(nn.Module):
    """Judge overlapping patches of an image as real (positive) or made (negative).

    Three stride-2 convolutions and two at 1/8 of the size, leaky ReLU between, spectral normalisation on
    every layer (Miyato et al., 2018) and no batch statistics, so that a judgement depends on its own image
    only. Each output sees a patch of 54 x 54 pixels (the PatchGAN of Isola et al., 2017).

    Args:
        width: channels of the first layer; 48 gives 704,977 parameters, 32 gives 314,337.
        spectral: keep every layer's largest singular value at 1.
        detail: where positive, the critic also sees what a 3 x 3 mean leaves of the image, times this gain: fine
            texture is a hundredth of the image's range, and a bounded critic learns it slowly.
        gain: multiplies the logits; a bounded critic's are small beside a hinge's margin of 1.
    """

    def __init__(self, width: int = 48, spectral: bool = True, detail: float = 0, gain: float = 1) -> None:
        super().__init__()
        self.detail, self.gain = detail, gain
        channels = (6 if detail > 0 else 3, width, 2 * width, 4 * width)
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
        shown = 2 * x - 1
        if self.detail > 0:
            mean = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
            shown = torch.cat([shown, self.detail * (x - mean)], dim=1)
        return self.gain * self.layers(shown)


class _Projection(nn.Module):
    """Frozen random mixing of feature maps across channels, and from coarse to fine across scales.

    Args:
        channels: of each map, fine to coarse.
        width: channels of every mixed map.
    """

    def __init__(self, channels: tuple[int, ...], width: int) -> None:
        super().__init__()
        self.across_channels = nn.ModuleList(nn.Conv2d(c, width, 1) for c in channels)
        self.across_scales = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in channels[1:])
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="linear")
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        self.requires_grad_(False)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        mixed = [layer(x) for layer, x in zip(self.across_channels, maps, strict=True)]
        for index in range(len(mixed) - 2, -1, -1):
            up = F.interpolate(mixed[index + 1], size=mixed[index].shape[-2:], mode="bilinear", align_corners=False)
            mixed[index] = (mixed[index] + self.across_scales[index](up)) / 2**0.5
        return mixed


@ARCH_REGISTRY.register()
class ProjectedDiscriminator(nn.Module):
    """Judge images through the frozen features of an ImageNet network (Projected GAN, Sauer et al., 2021).

    EfficientNet-Lite0's maps at 1/4 to 1/32 of the size, mixed by frozen random convolutions, go to a small critic
    each: such a critic does not memorise a small training set as one of pixels does. The features blur what is
    finer than four pixels, so that a PatchDiscriminator beside them looks at the pixels. Only the critics are trained.

    Args:
        width: channels of the mixed maps and of the critics.
        pixel_width: ``width`` of the PatchDiscriminator; 0 for none.
        path: EfficientNet-Lite0's checkpoint, or a name of ``lafr weights``.

    Raises:
        lafr.weights.MissingWeightsError: the checkpoint is not there.
    """

    def __init__(self, width: int = 64, pixel_width: int = 32, path: str = "efficientnet-lite0") -> None:
        super().__init__()
        self.features = EfficientNetLite0.from_checkpoint(require(path))
        channels = SCALE_CHANNELS[1:]
        self.projection = _Projection(channels, width)
        self.critics = nn.ModuleList(self._critic(width, strides) for strides in ((2, 2), (2, 1), (1, 1), (1, 1)))
        self.pixels = PatchDiscriminator(pixel_width, detail=10, gain=4) if pixel_width else None

    @staticmethod
    def _critic(width: int, strides: tuple[int, int]) -> nn.Sequential:
        layers: list[nn.Module] = []
        for stride in strides:
            kernel = 4 if stride == 2 else 3
            layers += [spectral_norm(nn.Conv2d(width, width, kernel, stride, padding=1)), nn.LeakyReLU(0.2)]
        return nn.Sequential(*layers, spectral_norm(nn.Conv2d(width, 1, 1)))

    def train(self, mode: bool = True) -> ProjectedDiscriminator:
        """Set the critics' mode; the frozen features stay in eval mode."""
        super().train(mode)
        self.features.eval()
        return self

    def requires_grad_(self, requires_grad: bool = True) -> ProjectedDiscriminator:
        """Let the critics take gradients or not; the features and their mixing never do."""
        super().requires_grad_(requires_grad)
        self.features.requires_grad_(False)
        self.projection.requires_grad_(False)
        return self

    def forward(self, x: Tensor) -> list[Tensor]:
        """Images (B, 3, H, W) RGB in [0, 1], H and W at least 64 -> logits (B, 1, h, w) of each critic.

        Raises:
            ValueError: the image is smaller than 64 x 64.
        """
        if min(x.shape[-2:]) < 64:
            raise ValueError(f"ProjectedDiscriminator needs images of 64 x 64 pixels or more, got {tuple(x.shape)}")
        maps = self.projection(self.features.scales(x)[1:])
        logits = [critic(value) for critic, value in zip(self.critics, maps, strict=True)]
        return logits if self.pixels is None else [*logits, self.pixels(x)]
