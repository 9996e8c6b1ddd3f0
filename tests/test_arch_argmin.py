"""DifferentiableArgmin against torch.argmin and an independently written soft index."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lafr_arch.argmin import DifferentiableArgmin, differentiable_argmin


def soft_index(x: Tensor, dim: int, beta: float) -> Tensor:
    """``sum_i i exp(-beta x_i) / sum_i exp(-beta x_i)``, with the index moved to the last place."""
    rows = x.movedim(dim, -1)
    weights = torch.exp(-beta * rows)
    return (weights @ torch.arange(rows.shape[-1], dtype=x.dtype)) / weights.sum(-1)


@pytest.mark.parametrize("dim", [0, 1, -1, -2, None])
@pytest.mark.parametrize("keepdim", [False, True])
def test_forward_is_argmin(dim: int | None, keepdim: bool):
    x = torch.randn(3, 7, 5)
    result = DifferentiableArgmin(dim, keepdim, 3.0, straight_through=True)(x)
    expected = torch.argmin(x, dim, keepdim) if dim is not None else torch.argmin(x)
    if dim is None and keepdim:
        expected = expected.reshape(1, 1, 1)
    assert result.dtype == torch.float32
    assert torch.equal(result, expected.float())


@pytest.mark.parametrize("straight_through", [True, False])
@pytest.mark.parametrize("dim", [0, 1, -1])
@pytest.mark.parametrize("keepdim", [False, True])
def test_gradient_is_that_of_the_soft_index(dim: int, keepdim: bool, straight_through: bool):
    x = torch.randn(4, 6, 3, dtype=torch.float64, requires_grad=True)
    result = differentiable_argmin(x, dim, keepdim, 2.0, straight_through)
    weights = torch.randn_like(result)
    (gradient,) = torch.autograd.grad((result * weights).sum(), x)
    soft = soft_index(x, dim, 2.0)
    (expected,) = torch.autograd.grad((soft * (weights.squeeze(dim) if keepdim else weights)).sum(), x)
    torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-12)


def test_gradient_of_the_flattened_search():
    x = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(differentiable_argmin(x, None, beta=1.5), x)
    (expected,) = torch.autograd.grad(soft_index(x.reshape(-1), 0, 1.5), x)
    torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-12)


def test_soft_mode_against_finite_differences():
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: differentiable_argmin(t, 1, beta=2.0, straight_through=False), x)
    torch.testing.assert_close(differentiable_argmin(x, 1, beta=2.0, straight_through=False), soft_index(x, 1, 2.0))


def test_large_beta_makes_the_soft_index_hard():
    x = torch.tensor([[3.0, 1.0, 2.0], [0.0, 5.0, 9.0]])
    torch.testing.assert_close(differentiable_argmin(x, 1, beta=100, straight_through=False), torch.tensor([1.0, 0.0]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_large_indices_exact(dtype: torch.dtype):
    # bf16 cannot hold 257, fp16 cannot hold 2,049.
    x = torch.ones(2, 3000, dtype=dtype)
    x[0, 257] = x[1, 2049] = 0
    x.requires_grad_()
    result = differentiable_argmin(x, 1)
    assert result.tolist() == [257.0, 2049.0]
    result.sum().backward()
    assert x.grad.dtype == dtype
    assert x.grad.isfinite().all()
