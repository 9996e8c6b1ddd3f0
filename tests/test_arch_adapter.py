"""The latent alignment adapter: size, shapes, gradients."""

from __future__ import annotations

import pytest
import torch

from lafr_arch.adapter_arch import LatentAlignmentAdapter


def test_size_of_the_paper():
    with torch.device("meta"):
        plain, grouped = LatentAlignmentAdapter(), LatentAlignmentAdapter(groups=4, skip=True)
    assert sum(p.numel() for p in plain.parameters()) == 5_138_180
    assert sum(p.numel() for p in grouped.parameters()) == 5_138_180


@pytest.mark.parametrize("channels", [4, 8, 16])
@pytest.mark.parametrize("skip", [False, True])
def test_shape_for_any_latent(channels: int, skip: bool):
    adapter = LatentAlignmentAdapter(channels, hidden=16, n_codes=8, blocks=1, groups=2, skip=skip)
    latent = torch.randn(2, channels, 5, 7)
    result = adapter(latent)
    assert result.shape == latent.shape
    assert torch.equal(result, latent) == skip  # with the identity paths it starts as the identity


def test_without_skip_only_codes_get_through():
    adapter = LatentAlignmentAdapter(4, hidden=16, n_codes=1, blocks=1).eval()
    with torch.no_grad():
        torch.testing.assert_close(adapter(torch.randn(1, 4, 6, 6)), adapter(torch.randn(1, 4, 6, 6)))


def test_every_parameter_gets_a_gradient():
    adapter = LatentAlignmentAdapter(4, hidden=16, n_codes=8, blocks=1)
    adapter(torch.randn(2, 4, 6, 6)).square().sum().backward()
    dead = [name for name, p in adapter.named_parameters() if p.grad is None or not p.grad.any()]
    assert not dead
