"""Codebook: nearest-code lookup whose gradient reaches both the queries and the codes (LAFR, section 2.3 and A.2.2).

Follows vector-quantize-pytorch (https://github.com/lucidrains/vector-quantize-pytorch) in what it does about dying
codes: initialisation by k-means on data and re-seeding of unused codes from the current batch.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def straight_through(hard: Tensor, soft: Tensor) -> Tensor:
    """The value of ``hard`` with the gradient of ``soft``."""
    return soft + (hard - soft).detach()


def squared_distances(queries: Tensor, codes: Tensor) -> Tensor:
    """``|q|^2 - 2 q.c + |c|^2`` by one matrix product: (G, N, D) against (G, K, D) -> (G, N, K)."""
    return (
        queries.square().sum(-1, keepdim=True)
        - 2 * queries @ codes.transpose(-1, -2)
        + codes.square().sum(-1).unsqueeze(-2)
    )


class Codebook(nn.Module):
    """A table of learned codes; each position of a feature map is replaced by its nearest code.

    Forward is the hard lookup ``c* = argmin_i |f - c_i|_2`` in fp32. Backward is the gradient of the weighted sum of
    codes ``sum_i softmax(-beta d_i / s)_i c_i`` with squared distances d, so both f and the codes learn; s is the
    running mean of the nearest squared distance, which makes beta independent of the features' scale. The paper's
    :class:`~lafr_arch.argmin.DifferentiableArgmin` is not used: its float index has no gradient through the table.

    Args:
        n_codes: codes in the table (of each group).
        dim: channels of the feature map.
        groups: the channels are cut into this many parts, each with a table of its own: that many codes a position.
            1 is the paper's form. The number of parameters does not change.
        beta: inverse temperature of the backward's softmax.
        reseed_below: codes whose share of the lookups falls below this fraction of an even share are dead: they are
            moved onto features of the current batch by :meth:`reseed`.
    """

    usage: Tensor
    scale: Tensor

    def __init__(
        self, n_codes: int = 1024, dim: int = 256, groups: int = 1, beta: float = 4.0, reseed_below: float = 0.05
    ) -> None:
        super().__init__()
        if dim % groups:
            raise ValueError(f"Codebook: groups: {groups} does not divide the {dim} channels")
        self.n_codes, self.groups, self.beta, self.reseed_below = n_codes, groups, beta, reseed_below
        codes = torch.empty(groups, n_codes, dim // groups)
        if not codes.is_meta:  # where there is nothing to draw, and torch would import its compiler to do so
            codes.normal_().div_(math.sqrt(dim // groups))
        self.codes = nn.Parameter(codes)
        self.register_buffer("usage", torch.full((groups, n_codes), 1 / n_codes))
        self.register_buffer("scale", torch.ones(()))

    def _queries(self, features: Tensor) -> Tensor:
        """(B, D, h, w) -> (G, B * h * w, D / G) in fp32."""
        batch, dim, height, width = features.shape
        parts = features.float().reshape(batch, self.groups, dim // self.groups, height * width)
        return parts.permute(1, 0, 3, 2).reshape(self.groups, -1, dim // self.groups)

    def _map(self, rows: Tensor, like: Tensor) -> Tensor:
        """Inverse of :meth:`_queries`."""
        batch, dim, height, width = like.shape
        parts = rows.reshape(self.groups, batch, height * width, dim // self.groups).permute(1, 0, 3, 2)
        return parts.reshape(batch, dim, height, width).to(like.dtype)

    def forward(self, features: Tensor) -> Tensor:
        """Replace each position by its nearest code: (B, D, h, w) -> (B, D, h, w)."""
        with torch.autocast(features.device.type, enabled=False):
            queries = self._queries(features)
            codes = self.codes.float()
            if not torch.is_grad_enabled():
                return self._map(self._lookup(codes, self.nearest(queries)), features)
            distances = squared_distances(queries, codes)
            nearest, indices = distances.min(dim=-1)
            if self.training:
                self._observe(nearest.detach(), indices)
            soft = torch.softmax(-self.beta / self.scale * distances, dim=-1) @ codes
            return self._map(straight_through(self._lookup(codes, indices), soft), features)

    @staticmethod
    def _lookup(codes: Tensor, indices: Tensor) -> Tensor:
        return torch.gather(codes, 1, indices.unsqueeze(-1).expand(-1, -1, codes.shape[-1]))

    def nearest(self, queries: Tensor) -> Tensor:
        """Indices (G, N) of the codes nearest to queries (G, N, D / G); the queries' own norm does not matter."""
        codes = self.codes.float()
        return torch.baddbmm(codes.square().sum(-1).unsqueeze(-2), queries, codes.transpose(-1, -2), alpha=-2).argmin(
            -1
        )

    def indices(self, features: Tensor) -> Tensor:
        """(B, D, h, w) -> indices of the nearest codes (B, G, h, w)."""
        batch, _, height, width = features.shape
        return self.nearest(self._queries(features)).reshape(self.groups, batch, height, width).transpose(0, 1)

    @torch.no_grad()
    def _observe(self, nearest: Tensor, indices: Tensor, decay: float = 0.99) -> None:
        """Follow how often each code is used, and the scale of the distances."""
        # Not bincount, whose shape depends on the values: a GPU would have to be waited for.
        counts = torch.zeros_like(self.usage).scatter_add_(1, indices, torch.ones_like(nearest))
        mean = nearest.mean()
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(counts)
            torch.distributed.all_reduce(mean)
            mean /= torch.distributed.get_world_size()
        self.usage.lerp_(counts / counts.sum(-1, keepdim=True), 1 - decay)
        self.scale.lerp_(mean.clamp(min=1e-8), 1 - decay)

    @torch.no_grad()
    def initialise(self, features: Tensor, iterations: int = 10) -> None:
        """Set the codes to the k-means centres of a batch of features (B, D, h, w) of good images.

        Raises:
            ValueError: fewer positions than codes.
        """
        queries = self._queries(features)
        count = queries.shape[1]
        if count < self.n_codes:
            raise ValueError(f"Codebook: {count} positions cannot initialise {self.n_codes} codes; use a larger batch")
        for group, rows in enumerate(queries):
            centres = rows[torch.randperm(count, device="cpu")[: self.n_codes].to(rows.device)].clone()
            for _ in range(iterations):
                labels = squared_distances(rows[None], centres[None])[0].argmin(-1)
                sums = torch.zeros_like(centres).index_add_(0, labels, rows)
                sizes = torch.bincount(labels, minlength=self.n_codes).unsqueeze(-1)
                centres = torch.where(sizes > 0, sums / sizes.clamp(min=1), centres)
            self.codes[group] = centres
        self.usage.fill_(1 / self.n_codes)
        self.scale.copy_(squared_distances(queries, self.codes.float()).amin(-1).mean().clamp(min=1e-8))

    @torch.no_grad()
    def reseed(self, features: Tensor) -> int:
        """Move dead codes onto random features (B, D, h, w) of the current batch; return how many were dead."""
        queries = self._queries(features)
        moved = 0
        for group, rows in enumerate(queries):
            dead = (self.usage[group] < self.reseed_below / self.n_codes).nonzero().squeeze(-1)
            if len(dead):
                chosen = torch.randint(rows.shape[0], (len(dead),), device="cpu").to(rows.device)
                self.codes[group, dead] = rows[chosen].to(self.codes.dtype)
                self.usage[group, dead] = 1 / self.n_codes
                moved += len(dead)
        return moved

    def statistics(self) -> dict[str, float]:
        """``codebook_perplexity``: exp of the usage's entropy; ``codebook_used``: fraction not dead."""
        share = self.usage / self.usage.sum(-1, keepdim=True)
        entropy = -(share * share.clamp(min=1e-12).log()).sum(-1)
        used = (share >= self.reseed_below / self.n_codes).float().mean()
        return {"codebook_perplexity": entropy.exp().mean().item(), "codebook_used": used.item()}
