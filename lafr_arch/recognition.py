"""Where a face recognition net looks in an FFHQ-aligned face, and what MobileFaceNet says of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from lafr_arch.mobilefacenet_arch import MobileFaceNet
from lafr_base.geometry import FFHQ_POINTS, FFHQ_SIZE, similarity
from lafr_base.registry import ARCH_REGISTRY
from lafr_base.weights import require

WEIGHTS = "mobilefacenet"
"""What ``lafr weights`` calls MobileFaceNet's checkpoint."""

# Eyes, nose and mouth corners in pixels of 96 x 112 recognition crops (SphereFace, ArcFace and
# MobileFaceNet_Pytorch).
_CROP = np.array(
    [[30.2946, 51.6963], [65.5318, 51.5014], [48.0252, 71.7366], [33.5493, 92.3655], [62.7299, 92.2041]]
)  # fmt: skip
_HEIGHT, _WIDTH = 112, 96


def _sampling() -> tuple[int, np.ndarray]:
    """Side of faces at the crop's scale, and where in them its pixels lie: (1, H, W, 2), as grid_sample takes it."""
    matrix = similarity(FFHQ_POINTS, _CROP)
    side = round(FFHQ_SIZE * float(np.hypot(matrix[0, 0], matrix[1, 0])))
    to_crop = similarity((FFHQ_POINTS + 0.5) * side / FFHQ_SIZE - 0.5, _CROP)
    inverse = np.linalg.inv(np.vstack([to_crop, [0, 0, 1]]))[:2]
    y, x = np.mgrid[0:_HEIGHT, 0:_WIDTH].astype(np.float64)
    places = inverse @ np.stack([x.ravel(), y.ravel(), np.ones(x.size)])
    return side, ((places + 0.5) * 2 / side - 1).T.reshape(1, _HEIGHT, _WIDTH, 2)  # -1 is the outer edge


_SIDE, _GRID = _sampling()


def recognition_crop(face: Tensor) -> Tensor:
    """Cut the crop a recognition net expects out of FFHQ-aligned faces.

    The face is first resized, antialiased, to where the crop has its scale: sampling it directly would alias.

    Args:
        face: (B, 3, S, S) of any range.

    Returns:
        (B, 3, 112, 96).
    """
    small = F.interpolate(face, size=(_SIDE, _SIDE), mode="bilinear", antialias=True, align_corners=False)
    grid = torch.from_numpy(_GRID).to(face).expand(len(face), -1, -1, -1)
    return F.grid_sample(small, grid, padding_mode="border", align_corners=False)


@ARCH_REGISTRY.register()
class MobileFaceNetFace(nn.Module):
    """Identity embedding of FFHQ-aligned faces by a frozen MobileFaceNet, differentiable to the image.

    Args:
        path: ``068.ckpt`` of MobileFaceNet_Pytorch, or a name of ``lafr weights``; ``mobilefacenet`` by default.

    Raises:
        lafr_base.weights.MissingWeightsError: the file is not there.
        ValueError: it holds another net.
    """

    def __init__(self, path: str | Path = WEIGHTS) -> None:
        super().__init__()
        self.network = MobileFaceNet.from_checkpoint(require(str(path)))

    def forward(self, face: Tensor) -> Tensor:
        """FFHQ-aligned faces (B, 3, S, S) RGB in [0, 1] -> embeddings (B, 128), not normalised."""
        return self.network((255 * recognition_crop(face) - 127.5) / 128)
