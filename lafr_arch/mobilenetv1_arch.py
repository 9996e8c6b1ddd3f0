"""MobileNetV1 as 3DDFA-V2 uses it: a face image in, pose, shape and expression parameters out.

Source: https://github.com/cleardusk/3DDFA_V2 (MIT), Guo et al., "Towards Fast, Accurate and Stable 3D Dense
Face Alignment", ECCV 2020. Names match the published ``mb05_120x120.pth``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lafr_base.registry import ARCH_REGISTRY


class DepthwiseBlock(nn.Module):
    """3x3 depthwise and 1x1 convolution, each with batch normalisation and ReLU."""

    def __init__(self, c_in: int, c_out: int, stride: int = 1) -> None:
        super().__init__()
        self.conv_dw = nn.Conv2d(c_in, c_in, 3, stride=stride, padding=1, groups=c_in, bias=False)
        self.bn_dw = nn.BatchNorm2d(c_in)
        self.conv_sep = nn.Conv2d(c_in, c_out, 1, bias=False)
        self.bn_sep = nn.BatchNorm2d(c_out)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C_out, H / stride, W / stride)."""
        x = torch.relu(self.bn_dw(self.conv_dw(x)))
        return torch.relu(self.bn_sep(self.conv_sep(x)))


# name, output channels at width 1, stride
_BLOCKS = (
    ("dw2_1", 64, 1), ("dw2_2", 128, 2), ("dw3_1", 128, 1), ("dw3_2", 256, 2), ("dw4_1", 256, 1),
    ("dw4_2", 512, 2), ("dw5_1", 512, 1), ("dw5_2", 512, 1), ("dw5_3", 512, 1), ("dw5_4", 512, 1),
    ("dw5_5", 512, 1), ("dw5_6", 1024, 2), ("dw6", 1024, 1),
)  # fmt: skip


@ARCH_REGISTRY.register()
class MobileNetV1(nn.Module):
    """Regressor of 3DDFA-V2: parameters of a 3D face model from a face crop.

    Args:
        widen_factor: multiplies all channels; the published ``mb05`` net has 0.5.
        num_params: outputs of ``fc_param``: 12 pose, 40 shape, 10 expression.
        num_landmarks: points of the auxiliary head ``fc_lm`` of the published file, two numbers each; it
            steers training only and :meth:`forward` does not evaluate it. 0 leaves it out.
    """

    def __init__(self, widen_factor: float = 0.5, num_params: int = 62, num_landmarks: int = 68) -> None:
        super().__init__()
        channels = int(32 * widen_factor)
        self.conv1 = nn.Conv2d(3, channels, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        for name, width, stride in _BLOCKS:
            c_out = int(width * widen_factor)
            self.add_module(name, DepthwiseBlock(channels, c_out, stride))
            channels = c_out
        self.fc_param = nn.Linear(channels, num_params)
        if num_landmarks:
            self.fc_lm = nn.Linear(channels, 2 * num_landmarks)

    @staticmethod
    def options_of(state: dict[str, Tensor]) -> dict[str, Any]:
        """Constructor options of the net that a state dict belongs to (``mb05`` and ``mb1`` are published).

        Raises:
            KeyError: it is not a MobileNetV1's.
        """
        landmarks = state["fc_lm.bias"].shape[0] // 2 if "fc_lm.bias" in state else 0
        return {
            "widen_factor": state["conv1.weight"].shape[0] / 32,
            "num_params": state["fc_param.bias"].shape[0],
            "num_landmarks": landmarks,
        }

    def features(self, x: Tensor) -> list[Tensor]:
        """Five maps, the last layer at 1/2, 1/4, 1/8, 1/16 and 1/32 of the size; x as in :meth:`forward`.

        With ``widen_factor`` 0.5 they have 32, 64, 128, 256 and 512 channels.
        """
        maps: list[Tensor] = []
        x = torch.relu(self.bn1(self.conv1(x)))
        for name, _, stride in _BLOCKS:
            if stride == 2:
                maps.append(x)
            x = self.get_submodule(name)(x)
        return [*maps, x]

    def forward(self, x: Tensor) -> Tensor:
        """Face crops to normalised parameters (B, num_params).

        x is (B, 3, 120, 120) BGR, ``(255 image - 127.5) / 128`` for an image in [0, 1].
        """
        return self.fc_param(self.features(x)[-1].mean(dim=(2, 3)))
