"""Units of the small nets that the package carries: convolution, batch norm and ReLU."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ConvUnit(nn.Sequential):
    """3x3 convolution, batch norm, ReLU."""

    def __init__(self, channels_in: int, channels_out: int, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False),
            nn.BatchNorm2d(channels_out),
            nn.ReLU(inplace=True),
        )


class ResidualUnit(nn.Module):
    """Two 3x3 convolutions around a skip connection."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            ConvUnit(channels, channels),
            nn.Conv2d(channels, channels, 3, 1, 1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, channels, H, W) to the same shape."""
        return torch.relu(x + self.body(x))
