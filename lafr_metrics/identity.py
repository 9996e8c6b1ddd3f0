"""Identity similarity: cosine of MobileFaceNet embeddings of two aligned faces."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from lafr_arch.recognition import WEIGHTS, MobileFaceNetFace


class IdentitySimilarity:
    """Cosine of the identity embeddings of two faces, -1 to 1; higher is more alike.

    Args:
        path: ``068.ckpt`` of MobileFaceNet_Pytorch, or a name of ``lafr weights``; ``mobilefacenet`` by default.

    Raises:
        lafr_base.weights.MissingWeightsError: the file is not there.
        ValueError: it holds another net.
    """

    def __init__(self, path: str = WEIGHTS) -> None:
        self.face = MobileFaceNetFace(path)

    @torch.no_grad()
    def embed(self, face: Tensor) -> Tensor:
        """FFHQ-aligned faces (B, 3, S, S) RGB in [0, 1] -> normalised embeddings (B, 128)."""
        return F.normalize(self.face(face), dim=1)

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """Similarity of each pair of faces (B, 3, S, S) RGB in [0, 1], (B,)."""
        return (self.embed(a) * self.embed(b)).sum(1)


def separation(same: Tensor, different: Tensor, allowed: float = 0.01) -> tuple[float, float]:
    """How well similarities tell pairs of one person from pairs of two.

    Args:
        same: similarities of pairs of the same person, (N,).
        different: of pairs of different persons, (M,).
        allowed: share of the different pairs that may lie above the threshold.

    Returns:
        The threshold, and the share of the same pairs that lies above it.
    """
    threshold = float(torch.quantile(different.double(), 1 - allowed))
    return threshold, float((same > threshold).double().mean())
