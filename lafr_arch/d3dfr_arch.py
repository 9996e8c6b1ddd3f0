"""D3DFRNet: the regressor of Deep3DFaceRecon, a ResNet-50 with one 1x1 head for each group of coefficients.

Source: https://github.com/sicxu/Deep3DFaceRecon_pytorch (MIT), Deng et al., "Accurate 3D Face Reconstruction with
Weakly-Supervised Learning", CVPRW 2019. Names match the published ``epoch_20.pth`` (entry ``net_recon``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lafr_base.registry import ARCH_REGISTRY

# Sizes of the groups, in the order of ``final_layers``: identity, expression, texture, angle, light, x and y, z.
COEFFICIENTS = (80, 64, 80, 3, 27, 2, 1)


class Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride, as torchvision has it) and 1x1 convolution around a shortcut."""

    def __init__(self, c_in: int, width: int, stride: int = 1) -> None:
        super().__init__()
        c_out = 4 * width
        self.conv1 = nn.Conv2d(c_in, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, c_out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(c_out)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or c_in != c_out:
            self.downsample = nn.Sequential(nn.Conv2d(c_in, c_out, 1, stride=stride, bias=False), nn.BatchNorm2d(c_out))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, 4 * width, H / stride, W / stride)."""
        out = torch.relu(self.bn1(self.conv1(x)))
        out = torch.relu(self.bn2(self.conv2(out)))
        return torch.relu(self.bn3(self.conv3(out)) + self.downsample(x))


class ResNetTrunk(nn.Module):
    """ResNet with bottlenecks, without its classifier; torchvision's names."""

    def __init__(self, width: int, blocks: Sequence[int]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        channels = width
        for i, count in enumerate(blocks):
            stage: list[nn.Module] = []
            for j in range(count):
                stage.append(Bottleneck(channels, width * 2**i, stride=2 if i > 0 and j == 0 else 1))
                channels = 4 * width * 2**i
            self.add_module(f"layer{i + 1}", nn.Sequential(*stage))
        self.stages = [f"layer{i + 1}" for i in range(len(blocks))]
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> pooled (B, channels, 1, 1)."""
        x = self.maxpool(torch.relu(self.bn1(self.conv1(x))))
        for stage in self.stages:
            x = self.get_submodule(stage)(x)
        return x.mean(dim=(2, 3), keepdim=True)


@ARCH_REGISTRY.register()
class D3DFRNet(nn.Module):
    """Coefficients of a 3D face model from an aligned face crop; 24,034,625 parameters by default.

    Args:
        width: channels of the first layer.
        blocks: bottlenecks of each stage; (3, 4, 6, 3) is ResNet-50.
    """

    def __init__(self, width: int = 64, blocks: Sequence[int] = (3, 4, 6, 3)) -> None:
        super().__init__()
        self.backbone = ResNetTrunk(width, blocks)
        self.final_layers = nn.ModuleList(nn.Conv2d(self.backbone.channels, n, 1) for n in COEFFICIENTS)

    @staticmethod
    def options_of(state: dict[str, Tensor]) -> dict[str, Any]:
        """Constructor options of the net that a state dict belongs to.

        Raises:
            KeyError: it is not a D3DFRNet's.
        """
        blocks: list[int] = []
        for i in range(1, 5):
            names = {name.split(".")[2] for name in state if name.startswith(f"backbone.layer{i}.")}
            blocks.append(len(names))
        return {"width": state["backbone.conv1.weight"].shape[0], "blocks": blocks}

    def forward(self, x: Tensor) -> Tensor:
        """Crops (B, 3, 224, 224), RGB in [0, 1] -> coefficients (B, 257), in the order of COEFFICIENTS."""
        pooled = self.backbone(x)
        return torch.cat([head(pooled) for head in self.final_layers], dim=1).flatten(1)
