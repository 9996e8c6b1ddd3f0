"""DifferentiableArgmin: the paper's differentiable argmin (LAFR, A.2.2), with the defects of its listing mended.

The listing's straight-through forward returns the argmax; here it is the argmin. Its ``arange`` lacks the input's
device, ``dim=None`` breaks its backward, and half precision cannot hold indices above 256 (bf16) or 2,048 (fp16):
here indices live on the input's device, any ``dim`` works, and half precision is computed and returned in float32.

A float index has no gradient through a table lookup and its value depends on the order of the entries, so the codebook
of this project does not use it; see :mod:`lafr_arch.codebook` for the lookup that does carry gradients.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def _positions(x: Tensor, dim: int) -> Tensor:
    """Indices 0..n-1 along ``dim``, shaped to broadcast against ``x``."""
    shape = [1] * x.dim()
    shape[dim] = x.shape[dim]
    return torch.arange(x.shape[dim], device=x.device, dtype=x.dtype).view(shape)


class _StraightThroughArgmin(torch.autograd.Function):
    """Hard argmin forward; backward, the gradient of the soft index ``sum_i i * softmax(-beta * x)_i``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dim: int, keepdim: bool, beta: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.dim, ctx.keepdim, ctx.beta = dim, keepdim, beta
        return torch.argmin(x, dim, keepdim).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None, None]:
        (x,) = ctx.saved_tensors
        (grad,) = grad_outputs
        weights = torch.softmax(-ctx.beta * x, dim=ctx.dim)
        positions = _positions(x, ctx.dim)
        soft_index = (weights * positions).sum(dim=ctx.dim, keepdim=True)
        if not ctx.keepdim:
            grad = grad.unsqueeze(ctx.dim)
        return grad * -ctx.beta * weights * (positions - soft_index), None, None, None


def differentiable_argmin(
    x: Tensor, dim: int | None = None, keepdim: bool = False, beta: float = 1.0, straight_through: bool = True
) -> Tensor:
    """Index of the smallest entry as a float tensor with a gradient.

    Args:
        x: distances, any shape; half precision is computed in float32.
        dim: dimension to search; None searches the flattened tensor.
        keepdim: keep the searched dimension with size 1 (all dimensions where ``dim`` is None).
        beta: inverse temperature of the softmax; the larger, the closer the soft index to the hard one.
        straight_through: exact argmin forward and the soft index's gradient backward; False: soft index forward too.

    Returns:
        Float indices: float32, or float64 for float64 input.
    """
    x = x if x.dtype == torch.float64 else x.float()
    if dim is None:
        index = differentiable_argmin(x.reshape(-1), 0, False, beta, straight_through)
        return index.reshape([1] * x.dim()) if keepdim else index
    if straight_through:
        return _StraightThroughArgmin.apply(x, dim, keepdim, beta)
    return (torch.softmax(-beta * x, dim=dim) * _positions(x, dim)).sum(dim=dim, keepdim=keepdim)


class DifferentiableArgmin(nn.Module):
    """Module form of :func:`differentiable_argmin`, with the paper's signature and the same arguments."""

    def __init__(self, dim: int | None, keepdim: bool, beta: float, straight_through: bool) -> None:
        super().__init__()
        self.dim = dim
        self.keepdim = keepdim
        self.beta = beta
        self.straight_through = straight_through

    def forward(self, x: Tensor) -> Tensor:
        """Distances of any shape -> float indices of the smallest along ``dim``."""
        return differentiable_argmin(x, self.dim, self.keepdim, self.beta, self.straight_through)
