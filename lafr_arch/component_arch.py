"""FaceComponentCritics: critics of both eyes and the mouth of FFHQ-aligned faces (GFPGAN, Wang et al., 2021)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from lafr_base.geometry import FFHQ_POINTS, FFHQ_SIZE
from lafr_base.registry import ARCH_REGISTRY

# Name, points of the template whose centre it has, side in pixels of a face of 512 (GFPGAN cuts 80 and 120, enlarged
# by 1.4 for eyes).
_COMPONENTS = (("left_eye", (0,), 112), ("right_eye", (1,), 112), ("mouth", (3, 4), 120))


class _Critic(nn.Module):
    """Patch critic; also gives the maps that styles are compared in."""

    def __init__(self, width: int) -> None:
        super().__init__()
        sizes = [(3, width, 1), (width, 2 * width, 2), (2 * width, 2 * width, 1), (2 * width, 4 * width, 2)]
        self.layers = nn.ModuleList(nn.Conv2d(a, b, 3, stride, 1) for a, b, stride in sizes)
        self.last = nn.Conv2d(4 * width, 1, 3, padding=1)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        maps = []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.2)
            maps.append(x)
        return self.last(x), [maps[1], maps[3]]


@ARCH_REGISTRY.register()
class FaceComponentCritics(nn.Module):
    """Three critics, each of its part of the face, cut at its place in FFHQ's template.

    Args:
        width: channels of their first layers; 64 as published.
    """

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.critics = nn.ModuleDict({name: _Critic(width) for name, _, _ in _COMPONENTS})

    @staticmethod
    def cut(image: Tensor) -> dict[str, Tensor]:
        """Parts of faces (B, 3, S, S), by name."""
        size = image.shape[-1]
        parts = {}
        for name, points, side in _COMPONENTS:
            x, y = np.asarray(FFHQ_POINTS)[list(points)].mean(axis=0) * size / FFHQ_SIZE
            half = max(2, round(side * size / 512 / 2))
            left, top = (min(max(round(float(c)) - half, 0), size - 2 * half) for c in (x, y))
            parts[name] = image[..., top : top + 2 * half, left : left + 2 * half]
        return parts

    def forward(self, image: Tensor) -> dict[str, tuple[Tensor, list[Tensor]]]:
        """Faces (B, 3, S, S) RGB in [0, 1] -> for each part its logits (B, 1, h, w) and maps."""
        return {name: self.critics[name](2 * part - 1) for name, part in self.cut(image).items()}


def gram(features: Tensor) -> Tensor:
    """Maps (B, C, h, w) -> their Gram matrices (B, C, C), per element: what styles are compared by."""
    flat = features.float().flatten(2)
    return torch.bmm(flat, flat.transpose(1, 2)) / flat[0].numel()
