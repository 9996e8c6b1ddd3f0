"""The damage net: how far each part of a face photo is from its unknown original."""

from __future__ import annotations

import torch
from torch import nn

import lafr_base.compat  # noqa: F401 - BasicSR imports with any torchvision
from lafr_arch.aligner_arch import ConvUnit, ResidualUnit
from lafr_arch.bundled import BundledNet
from lafr_base.registry import ARCH_REGISTRY

CELL = 16
"""Side in pixels of the squares that get one number each."""

FLOOR = 1e-5
"""Least mean squared error that is told apart, of values in [0, 1]: 50 dB, below what anyone sees."""


def log_error(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """log10 of the mean squared difference, at least `FLOOR`, of each `CELL` x `CELL` square.

    Args:
        first: (B, 3, H, W) in [0, 1], H and W multiples of `CELL`.
        second: of the same shape.

    Returns:
        (B, 1, H / CELL, W / CELL), from -5 to 0.
    """
    squares = (first - second).square().mean(dim=1, keepdim=True)
    return torch.nn.functional.avg_pool2d(squares, CELL).clamp(min=FLOOR).log10()


@ARCH_REGISTRY.register()
class DamageNet(BundledNet):
    """Predict the local error of a face photo from the photo alone.

    Four stages at 1/2 to 1/16 of the resolution. Damage is much the same all over a photo, but shows only where there
    is detail: the last stage therefore adds the features' mean over the photo to every place.

    Args:
        channels: widths of the four stages.
    """

    def __init__(self, channels: tuple[int, int, int, int] = (24, 32, 48, 64)) -> None:
        super().__init__()
        if len(channels) != 4:
            raise ValueError(f"network_g: channels: {channels} must be four widths")
        self.config = {"channels": list(channels)}
        half, quarter, eighth, sixteenth = channels
        self.local = nn.Sequential(
            nn.PixelUnshuffle(2),
            ConvUnit(12, half),
            ConvUnit(half, quarter, 2),
            ResidualUnit(quarter),
            ConvUnit(quarter, eighth, 2),
            ResidualUnit(eighth),
            ConvUnit(eighth, sixteenth, 2),
        )
        self.whole = nn.Sequential(nn.Linear(sixteenth, sixteenth), nn.ReLU(inplace=True))
        self.merge = nn.Sequential(ConvUnit(2 * sixteenth, sixteenth), nn.Conv2d(sixteenth, 1, 1))
        nn.init.constant_(self.merge[-1].bias, -3.0)  # type: ignore[arg-type]  # 30 dB, about the mean

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Predict the error of photos ``x`` (B, 3, H, W), RGB in [0, 1], H and W multiples of `CELL`.

        Returns:
            (B, 1, H / CELL, W / CELL): log10 of the mean squared error, as :func:`log_error` would give it to the
            original.
        """
        features = self.local((x - 0.5) * 4)
        whole = self.whole(features.mean(dim=(2, 3)))[:, :, None, None].expand_as(features)
        result: torch.Tensor = self.merge(torch.cat([features, whole], dim=1))
        return result
