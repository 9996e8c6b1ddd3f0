"""MobileFaceNet: a small face-identity embedding (Chen et al., 2018).

Key names as in the checkpoints of Xiaoccer/MobileFaceNet_Pytorch.
"""

from __future__ import annotations

from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the field's name for it

# Expansion, channels, repeats and first stride of each group of bottlenecks.
_SETTING = ((2, 64, 5, 2), (4, 128, 1, 2), (2, 128, 6, 1), (4, 128, 1, 2), (2, 128, 2, 1))


class _ConvBlock(nn.Module):
    def __init__(
        self,
        c_in: int,
        c_out: int,
        kernel: int | tuple[int, int],
        stride: int = 1,
        padding: int = 0,
        depthwise: bool = False,
        linear: bool = False,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, kernel, stride, padding, groups=c_in if depthwise else 1, bias=False)
        self.bn = nn.BatchNorm2d(c_out)
        self.prelu = None if linear else nn.PReLU(c_out)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.conv(x))
        return x if self.prelu is None else self.prelu(x)


class _Bottleneck(nn.Module):
    def __init__(self, c_in: int, c_out: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = c_in * expansion
        self.identity = stride == 1 and c_in == c_out
        self.conv = nn.Sequential(
            nn.Conv2d(c_in, wide, 1, bias=False),
            nn.BatchNorm2d(wide),
            nn.PReLU(wide),
            nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False),
            nn.BatchNorm2d(wide),
            nn.PReLU(wide),
            nn.Conv2d(wide, c_out, 1, bias=False),
            nn.BatchNorm2d(c_out),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.identity else self.conv(x)


@ARCH_REGISTRY.register()
class MobileFaceNet(nn.Module):
    """Embedding of a face's identity: RGB (B, 3, 112, 96), ``(255 x - 127.5) / 128`` -> (B, 128) of unit length."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = _ConvBlock(3, 64, 3, 2, 1)
        self.dw_conv1 = _ConvBlock(64, 64, 3, 1, 1, depthwise=True)
        blocks: list[nn.Module] = []
        channels = 64
        for expansion, c_out, repeats, stride in _SETTING:
            for i in range(repeats):
                blocks.append(_Bottleneck(channels, c_out, stride if i == 0 else 1, expansion))
                channels = c_out
        self.blocks = nn.Sequential(*blocks)
        self.conv2 = _ConvBlock(channels, 512, 1)
        self.linear7 = _ConvBlock(512, 512, (7, 6), depthwise=True, linear=True)
        self.linear1 = _ConvBlock(512, 128, 1, linear=True)

    def forward(self, x: Tensor) -> Tensor:
        """Aligned crops in the value range of the class's docstring -> unit vectors."""
        x = self.blocks(self.dw_conv1(self.conv1(x)))
        return F.normalize(self.linear1(self.linear7(self.conv2(x))).flatten(1))
