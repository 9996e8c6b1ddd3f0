"""MobileFaceNet: a small face recognition net, used to measure whether a restored face is the same person.

Source: Chen et al., "MobileFaceNets" (2018), as built by https://github.com/Xiaoccer/MobileFaceNet_Pytorch; names match
its ``068.ckpt``.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from lafr_base.checkpoints import read_state
from lafr_base.registry import ARCH_REGISTRY

# Expansion, channels, repeats, stride of the first repeat (table 1 of the paper).
_SETTING = ((2, 64, 5, 2), (4, 128, 1, 2), (2, 128, 6, 1), (4, 128, 1, 2), (2, 128, 2, 1))
_EMBEDDING = 128


class _ConvBlock(nn.Module):
    """Convolution, normalisation and, unless linear, PReLU."""

    def __init__(
        self,
        c_in: int,
        c_out: int,
        kernel: int | tuple[int, int],
        stride: int = 1,
        padding: int = 0,
        groups: int = 1,
        linear: bool = False,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, kernel, stride, padding, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(c_out)
        self.prelu: nn.Module = nn.Identity() if linear else nn.PReLU(c_out)

    def forward(self, x: Tensor) -> Tensor:
        return self.prelu(self.bn(self.conv(x)))


class _Bottleneck(nn.Module):
    """Inverted residual: expand, depthwise convolution, project."""

    def __init__(self, c_in: int, c_out: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = c_in * expansion
        self.conv = nn.Sequential(
            nn.Conv2d(c_in, width, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.PReLU(width),
            nn.Conv2d(width, width, 3, stride, 1, groups=width, bias=False),
            nn.BatchNorm2d(width),
            nn.PReLU(width),
            nn.Conv2d(width, c_out, 1, bias=False),
            nn.BatchNorm2d(c_out),
        )
        self.connect = stride == 1 and c_in == c_out

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.connect else self.conv(x)


@ARCH_REGISTRY.register()
class MobileFaceNet(nn.Module):
    """Identity embedding of an aligned face crop of 112 rows and 96 columns; 128 values."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = _ConvBlock(3, 64, 3, 2, 1)
        self.dw_conv1 = _ConvBlock(64, 64, 3, 1, 1, groups=64)
        blocks: list[nn.Module] = []
        channels = 64
        for expansion, width, repeats, stride in _SETTING:
            for i in range(repeats):
                blocks.append(_Bottleneck(channels, width, stride if i == 0 else 1, expansion))
                channels = width
        self.blocks = nn.Sequential(*blocks)
        self.conv2 = _ConvBlock(channels, 512, 1)
        self.linear7 = _ConvBlock(512, 512, (7, 6), groups=512, linear=True)
        self.linear1 = _ConvBlock(512, _EMBEDDING, 1, linear=True)

    @classmethod
    def from_checkpoint(cls, path: str | Path) -> MobileFaceNet:
        """Load a published checkpoint (``net_state_dict`` or a bare state dict), in eval mode without gradients.

        Raises:
            ValueError: the file holds another net.
        """
        state = read_state(Path(path), "net_state_dict")
        net = cls()
        try:
            net.load_state_dict(state)
        except RuntimeError as error:
            raise ValueError(f"{path} is not a MobileFaceNet: {error}") from error
        return net.eval().requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """RGB crops (B, 3, 112, 96) in [-1, 1], ``(x - 127.5) / 128`` of bytes -> embeddings (B, 128)."""
        x = self.blocks(self.dw_conv1(self.conv1(x)))
        return self.linear1(self.linear7(self.conv2(x))).flatten(1)
