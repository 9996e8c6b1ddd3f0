"""How far LQ and aligned latents lie from HQ latents (LAFR, figure 7)."""

from __future__ import annotations

import numpy as np
import torch
from scipy import linalg
from torch import Tensor


def moment_distance(a: Tensor, b: Tensor) -> Tensor:
    """Mean absolute difference of the channel means, plus that of the channel covariances, of two batches of latents.

    Args:
        a: latents (B, C, h, w); each position is one sample of a vector of length C. Gradients flow.
        b: latents of the same shape.
    """
    rows = [latent.float().transpose(0, 1).flatten(1) for latent in (a, b)]
    means = [row.mean(dim=1) for row in rows]
    covariances = [torch.cov(row) for row in rows]
    return (means[0] - means[1]).abs().mean() + (covariances[0] - covariances[1]).abs().mean()


class _Moments:
    """Running mean and covariance of the channel vectors of latents."""

    def __init__(self) -> None:
        self.count = 0
        self.total: Tensor | float = 0.0
        self.outer: Tensor | float = 0.0

    def add(self, latent: Tensor) -> None:
        """Take in latents (B, C, h, w): each position is one vector of length C."""
        rows = latent.double().permute(0, 2, 3, 1).flatten(0, 2).cpu()
        self.count += len(rows)
        self.total = self.total + rows.sum(0)
        self.outer = self.outer + rows.T @ rows

    def gaussian(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean (C,) and covariance (C, C)."""
        assert isinstance(self.total, Tensor)  # noqa: S101 - set by the first add
        assert isinstance(self.outer, Tensor)  # noqa: S101
        mean = self.total / self.count
        return mean.numpy(), (self.outer / self.count - torch.outer(mean, mean)).numpy()


def frechet_distance(mean_a: np.ndarray, cov_a: np.ndarray, mean_b: np.ndarray, cov_b: np.ndarray) -> float:
    """Frechet distance of two Gaussians: ``|m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^1/2)`` (Dowson, Landau, 1982)."""
    root = linalg.sqrtm(cov_a @ cov_b)
    return float(((mean_a - mean_b) ** 2).sum() + np.trace(cov_a + cov_b - 2 * np.real(root)))


class LatentDistances:
    """Mean L1 distance and Frechet distance to HQ latents, of LQ and of aligned latents, over a set of images."""

    def __init__(self) -> None:
        self.count = 0
        self._l1 = {"lq": 0.0, "aligned": 0.0}
        self._moments = {"lq": _Moments(), "aligned": _Moments(), "hq": _Moments()}

    def add(self, lq: Tensor, aligned: Tensor, hq: Tensor) -> None:
        """Take in the scaled latents (B, C, h, w) of the same faces."""
        for name, latent in (("lq", lq), ("aligned", aligned)):
            self._l1[name] += (latent - hq).abs().mean(dim=(1, 2, 3)).sum().item()
            self._moments[name].add(latent)
        self._moments["hq"].add(hq)
        self.count += len(hq)

    def values(self) -> dict[str, float]:
        """``l1_lq``, ``l1_aligned``, ``l1_reduction`` (fraction), ``frechet_lq``, ``frechet_aligned``."""
        hq = self._moments["hq"].gaussian()
        result = {f"l1_{name}": total / self.count for name, total in self._l1.items()}
        result["l1_reduction"] = 1 - result["l1_aligned"] / result["l1_lq"] if result["l1_lq"] > 0 else 0.0
        for name in ("lq", "aligned"):
            result[f"frechet_{name}"] = frechet_distance(*self._moments[name].gaussian(), *hq)
        return result
