"""The codebook: nearest code forward, gradient of an independently written soft lookup backward."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lafr_arch.codebook import Codebook


def rows_of(features: Tensor, groups: int) -> Tensor:
    """(B, D, h, w) -> (positions, groups, D / groups), position by position."""
    batch, dim, height, width = features.shape
    rows = [
        features[b, :, y, x].reshape(groups, dim // groups)
        for b in range(batch)
        for y in range(height)
        for x in range(width)
    ]
    return torch.stack(rows)


def soft_lookup(features: Tensor, codes: Tensor, beta: float) -> Tensor:
    """``sum_i softmax(-beta |f - c_i|^2)_i c_i`` written out: (positions, groups, D / groups)."""
    result = []
    for row in rows_of(features, len(codes)):
        parts = []
        for group, query in enumerate(row):
            weights = [torch.exp(-beta * ((query - code) ** 2).sum()) for code in codes[group]]
            total = sum(weights)
            parts.append(sum(w / total * code for w, code in zip(weights, codes[group], strict=True)))
        result.append(torch.stack(parts))
    return torch.stack(result)


@pytest.mark.parametrize("groups", [1, 3])
def test_nearest_code_by_brute_force(groups: int):
    codebook = Codebook(n_codes=40, dim=12, groups=groups)
    features = torch.randn(2, 12, 5, 4)
    rows = rows_of(features, groups)
    labels = torch.stack([torch.cdist(rows[:, g], codebook.codes[g]).argmin(-1) for g in range(groups)], 1)
    expected = torch.stack([codebook.codes[g][labels[:, g]] for g in range(groups)], 1)
    with torch.no_grad():
        result = codebook(features)
    assert torch.equal(rows_of(result, groups), expected)
    indices = codebook.indices(features)
    assert indices.shape == (2, groups, 5, 4)
    assert torch.equal(indices.permute(0, 2, 3, 1).reshape(-1, groups), labels)


@pytest.mark.parametrize("groups", [1, 2])
def test_gradients_equal_the_soft_lookup_written_out(groups: int):
    codebook = Codebook(n_codes=6, dim=4, groups=groups, beta=0.7)
    features = torch.randn(2, 4, 2, 3, requires_grad=True)
    weights = torch.randn(2, 4, 2, 3)
    gradients = torch.autograd.grad((codebook(features) * weights).sum(), (features, codebook.codes))
    # Training has just moved the running scale of the distances: the gradient uses the new one.
    beta = 0.7 / codebook.scale.item()
    soft = soft_lookup(features, codebook.codes, beta)
    expected = torch.autograd.grad((soft * rows_of(weights, groups)).sum(), (features, codebook.codes))
    for gradient, reference in zip(gradients, expected, strict=True):
        assert reference.abs().max() > 1e-3
        torch.testing.assert_close(gradient, reference, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("groups", [1, 2])
def test_training_and_inference_give_the_same_values(groups: int):
    codebook = Codebook(n_codes=20, dim=8, groups=groups)
    features = torch.randn(2, 8, 4, 4)
    trained = codebook(features)
    assert trained.requires_grad
    with torch.no_grad():
        torch.testing.assert_close(trained.detach(), codebook.eval()(features), rtol=0, atol=1e-6)


def test_half_precision_chooses_the_same_codes():
    codebook = Codebook(n_codes=300, dim=16)
    features = torch.randn(1, 16, 6, 6).bfloat16()
    with torch.no_grad():
        expected = codebook(features.float())
        with torch.autocast("cpu", torch.bfloat16):
            result = codebook(features)
    assert result.dtype == torch.bfloat16
    assert torch.equal(result, expected.bfloat16())


def test_usage_and_scale_follow_the_lookups():
    codebook = Codebook(n_codes=4, dim=2)
    with torch.no_grad():
        codebook.codes.copy_(torch.tensor([[[0.0, 0], [10, 0], [0, 10], [10, 10]]]))
    features = torch.tensor([[1.0, 0], [0, 1], [10, 9], [9, 10]]).T.reshape(1, 2, 2, 2)
    codebook.train()(features)
    expected = 0.99 * torch.full((4,), 0.25) + 0.01 * torch.tensor([0.5, 0, 0, 0.5])
    torch.testing.assert_close(codebook.usage[0], expected)
    torch.testing.assert_close(codebook.scale, torch.tensor(1.0))  # every distance is 1
    codebook.eval()(features)
    torch.testing.assert_close(codebook.usage[0], expected)


@pytest.mark.parametrize("groups", [1, 2])
def test_kmeans_lowers_the_error(groups: int):
    codebook = Codebook(n_codes=16, dim=4, groups=groups)
    blobs = 5 * torch.randn(16, 4)
    features = (blobs[torch.randint(16, (400,))] + 0.1 * torch.randn(400, 4)).T.reshape(1, 4, 20, 20)

    @torch.no_grad()
    def error() -> float:
        return (codebook.eval()(features) - features).square().sum(1).mean().item()

    before = error()
    # One pass of no iterations chooses data points; ten move them to the centres.
    torch.manual_seed(3)
    codebook.initialise(features, iterations=0)
    points = error()
    torch.manual_seed(3)
    codebook.initialise(features)
    after = error()
    assert after < 0.6 * points < 0.2 * before
    # The scale is the mean nearest squared distance of a group's part of the channels.
    assert codebook.scale.item() == pytest.approx(after / groups, rel=1e-4)


def test_kmeans_needs_a_position_for_each_code():
    with pytest.raises(ValueError, match="9 positions cannot initialise 10 codes"):
        Codebook(n_codes=10, dim=4).initialise(torch.randn(1, 4, 3, 3))


def test_reseeding_moves_exactly_the_dead_codes():
    codebook = Codebook(n_codes=10, dim=4, groups=2, reseed_below=0.1)
    codebook.usage.fill_(0.1)
    codebook.usage[0, 3] = codebook.usage[1, 7] = 0.009  # below a tenth of an even share
    codebook.usage[1, 8] = 0.011
    before = codebook.codes.detach().clone()
    features = torch.randn(1, 4, 3, 3) + 100
    assert codebook.reseed(features) == 2
    moved = (codebook.codes != before).any(-1)
    assert moved.nonzero().tolist() == [[0, 3], [1, 7]]
    rows = rows_of(features, 2)
    assert (rows[:, 0] == codebook.codes[0, 3]).all(-1).any()
    assert (rows[:, 1] == codebook.codes[1, 7]).all(-1).any()
    assert codebook.reseed(features) == 0


def test_statistics_of_even_and_single_use():
    codebook = Codebook(n_codes=8, dim=4)
    assert codebook.statistics()["codebook_perplexity"] == pytest.approx(8, rel=1e-5)
    assert codebook.statistics()["codebook_used"] == 1
    codebook.usage.zero_()
    codebook.usage[0, 2] = 1
    assert codebook.statistics()["codebook_perplexity"] == pytest.approx(1, rel=1e-5)
    assert codebook.statistics()["codebook_used"] == pytest.approx(1 / 8)
    codebook.usage[0, 5] = 1
    assert codebook.statistics()["codebook_perplexity"] == pytest.approx(2, rel=1e-5)


def test_groups_must_divide_the_channels():
    with pytest.raises(ValueError, match="groups: 3 does not divide the 8 channels"):
        Codebook(dim=8, groups=3)


def test_initial_codes_have_unit_length_on_average():
    assert Codebook(1024, 256).codes.norm(dim=-1).mean().item() == pytest.approx(1, abs=0.01)
    assert math.prod(Codebook(1024, 256, groups=4).codes.shape) == 1024 * 256
