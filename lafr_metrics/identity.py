"""Identity similarity: cosine of MobileFaceNet embeddings of FFHQ-aligned faces."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from lafr_arch.mobilefacenet_arch import MobileFaceNet

# Five points (left eye, right eye, nose, mouth corners) of FFHQ's alignment at 512 (facexlib), and of the 112 x 96
# crops that identity nets are trained on (insightface).
_FFHQ = (
    (192.98138, 239.94708),
    (318.90277, 240.1936),
    (256.63416, 314.01935),
    (201.26117, 371.41043),
    (313.08905, 371.15118),
)
_CROP = ((30.2946, 51.6963), (65.5318, 51.5014), (48.0252, 71.7366), (33.5493, 92.3655), (62.7299, 92.2041))
_HEIGHT, _WIDTH = 112, 96


class IdentitySimilarity(nn.Module):
    """Cosine of the identity embeddings of two FFHQ-aligned faces, in [-1, 1]; 1 is the same.

    Args:
        path: MobileFaceNet's checkpoint (Xiaoccer/MobileFaceNet_Pytorch, ``068.ckpt``).

    Raises:
        FileNotFoundError: it does not exist.
    """

    grid: Tensor

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        path = Path(path).expanduser()
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist; it should be MobileFaceNet's checkpoint")
        self.network = MobileFaceNet()
        stored = torch.load(path, map_location="cpu", weights_only=True)
        self.network.load_state_dict(stored.get("net_state_dict", stored))
        self.eval().requires_grad_(False)
        matrix, _ = cv2.estimateAffinePartial2D(np.array(_CROP), np.array(_FFHQ) / 512, method=cv2.LMEDS)
        ys, xs = np.mgrid[:_HEIGHT, :_WIDTH].astype(np.float64)
        unit = np.stack([xs, ys, np.ones_like(xs)], axis=-1) @ matrix.T
        self.register_buffer("grid", torch.from_numpy(unit * 2 - 1).float()[None], persistent=False)

    def embed(self, faces: Tensor) -> Tensor:
        """FFHQ-aligned faces (B, 3, S, S) RGB in [0, 1] -> unit vectors (B, 128)."""
        # Three source pixels to one crop pixel at 512: shrink first, or the sampling aliases.
        faces = F.interpolate(faces, size=(192, 192), mode="bicubic", antialias=True, align_corners=False)
        crops = F.grid_sample(faces, self.grid.expand(len(faces), -1, -1, -1), align_corners=False)
        return self.network((255 * crops - 127.5) / 128)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Faces (B, 3, S, S) RGB in [0, 1] -> cosines (B,)."""
        return (self.embed(a) * self.embed(b)).sum(dim=1)
