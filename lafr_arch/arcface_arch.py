"""ArcFaceResNet18: the gray 128 x 128 face recognition net that GFPGAN and VQFR use for identity.

Source: https://github.com/TencentARC/GFPGAN (Apache-2.0), gfpgan/archs/arcface_arch.py with ``IRBlock``, [2, 2, 2, 2],
``use_se=False``; Deng et al., "ArcFace", CVPR 2019. Names match the published ``arcface_resnet18.pth``.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from lafr_base.registry import ARCH_REGISTRY


class IRBlock(nn.Module):
    """Improved residual block: normalise, convolve, PReLU, convolve; one PReLU serves both places."""

    def __init__(self, c_in: int, c_out: int, stride: int = 1) -> None:
        super().__init__()
        self.bn0 = nn.BatchNorm2d(c_in)
        self.conv1 = nn.Conv2d(c_in, c_in, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(c_in)
        self.prelu = nn.PReLU()
        self.conv2 = nn.Conv2d(c_in, c_out, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(c_out)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or c_in != c_out:
            self.downsample = nn.Sequential(nn.Conv2d(c_in, c_out, 1, stride=stride, bias=False), nn.BatchNorm2d(c_out))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C_out, H / stride, W / stride)."""
        out = self.prelu(self.bn1(self.conv1(self.bn0(x))))
        return self.prelu(self.bn2(self.conv2(out)) + self.downsample(x))


@ARCH_REGISTRY.register()
class ArcFaceResNet18(nn.Module):
    """Identity embedding of a gray face.

    Args:
        width: channels of the first stage; the published net has 64.
        embedding: length of the embedding; the published net has 512.
    """

    def __init__(self, width: int = 64, embedding: int = 512) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.prelu = nn.PReLU()
        self.maxpool = nn.MaxPool2d(2, stride=2)
        channels = width
        for i in range(4):
            c_out, stride = width * 2**i, 1 if i == 0 else 2
            stage = nn.Sequential(IRBlock(channels, c_out, stride), IRBlock(c_out, c_out))
            self.add_module(f"layer{i + 1}", stage)
            channels = c_out
        self.bn4 = nn.BatchNorm2d(channels)
        self.dropout = nn.Dropout()
        self.fc5 = nn.Linear(channels * 8 * 8, embedding)
        self.bn5 = nn.BatchNorm1d(embedding)

    @staticmethod
    def options_of(state: dict[str, Tensor]) -> dict[str, Any]:
        """Constructor options of the net that a state dict belongs to.

        Raises:
            KeyError: it is not an ArcFaceResNet18's.
        """
        return {"width": state["conv1.weight"].shape[0], "embedding": state["fc5.weight"].shape[0]}

    def forward(self, x: Tensor) -> Tensor:
        """Gray faces (B, 1, 128, 128) in [-1, 1] -> embeddings (B, embedding), not normalised."""
        x = self.maxpool(self.prelu(self.bn1(self.conv1(x))))
        for i in range(4):
            x = self.get_submodule(f"layer{i + 1}")(x)
        x = self.dropout(self.bn4(x)).flatten(1)
        return self.bn5(self.fc5(x))
