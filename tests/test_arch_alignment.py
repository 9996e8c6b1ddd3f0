"""Alignment modules of other methods: sizes, what gets through, gradients, and their place in a LAFRNet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from base_models import MINI_IMAGE_SIZE, write_mini_prior
from lafr_arch.alignment_arch import FaithDiffAlignment, VQFRAlignment  # noqa: E402
from lafr_arch.lafr_arch import LAFRNet  # noqa: E402
from lafr_arch.network_g_arch import build_lafr
from stage_options import build, changed, options, snapshot, step  # noqa: E402

SMALL_VQFR: dict[str, Any] = {"base_channels": 8, "multipliers": (1, 2), "code_dim": 8, "n_codes": 4, "blocks": 1}
SMALL_FAITHDIFF: dict[str, Any] = {"width": 16, "heads": 2}


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_sizes_for_stable_diffusion():
    """Table 6 of the paper gives VQFR's module 19.0M."""
    with torch.device("meta"):
        assert count(VQFRAlignment()) == 19_040_900
        assert count(FaithDiffAlignment()) == 9_873_284
        codes = VQFRAlignment().encoder_out(torch.zeros(1, 256, 16, 16))
    assert codes.shape == (1, 256, 16, 16)


@pytest.mark.parametrize("size", [(8, 8), (7, 10)])
def test_any_size_in_the_same_size_out(size: tuple[int, int]):
    latent = torch.randn(2, 3, *size)
    for module in (VQFRAlignment(3, **SMALL_VQFR), FaithDiffAlignment(3, **SMALL_FAITHDIFF)):
        assert module(latent).shape == latent.shape


def test_vqfr_looks_up_codes_at_the_lowest_resolution_and_lets_nothing_else_through():
    module = VQFRAlignment(3, **SMALL_VQFR).eval()
    seen = []
    module.codebook.register_forward_hook(lambda _, __, output: seen.append(output))
    with torch.no_grad():
        first, second = torch.randn(2, 1, 3, 8, 8).unbind()
        module(first)
        assert seen[0].shape == (1, 8, 4, 4)  # two levels: half the size
        module.codebook.codes.zero_()
        torch.testing.assert_close(module(first), module(second), rtol=0, atol=0)


def test_vqfr_gradients_reach_encoder_and_codes():
    module = VQFRAlignment(3, **SMALL_VQFR)
    module(torch.randn(2, 3, 8, 8)).square().mean().backward()
    for parameter in (module.conv_in.weight, module.codebook.codes, module.conv_out[-1].weight):
        assert parameter.grad is not None
        assert parameter.grad.abs().max() > 0


def test_faithdiff_starts_as_the_identity_and_sees_every_position():
    module = FaithDiffAlignment(3, **SMALL_FAITHDIFF)
    latent = torch.randn(1, 3, 8, 8, requires_grad=True)
    torch.testing.assert_close(module(latent), latent, rtol=0, atol=0)
    torch.nn.init.normal_(module.proj_out.weight)
    (gradient,) = torch.autograd.grad(module(latent)[0, 0, 0, 0], latent)
    assert (gradient.abs().sum(1) > 0).all()


def test_faithdiff_attention_is_that_of_torch():
    module = FaithDiffAlignment(3, **SMALL_FAITHDIFF)
    block = module.layers[0]
    other = torch.nn.MultiheadAttention(16, 2, batch_first=True)
    other.in_proj_weight, other.in_proj_bias = block.to_qkv.weight, block.to_qkv.bias
    other.out_proj.weight, other.out_proj.bias = block.to_out.weight, block.to_out.bias
    x = torch.randn(2, 9, 16)
    normed = block.norm_attention(x)
    expected = x + other(normed, normed, normed, need_weights=False)[0]
    expected = expected + block.mlp(block.norm_mlp(expected))
    torch.testing.assert_close(block(x), expected)


def test_heads_that_do_not_divide_the_width():
    with pytest.raises(ValueError, match="heads: 3 does not divide width: 16"):
        FaithDiffAlignment(width=16, heads=3)


@pytest.mark.parametrize(
    "alignment", [{"type": "VQFRAlignment", **SMALL_VQFR}, {"type": "FaithDiffAlignment", **SMALL_FAITHDIFF}]
)
def test_trained_by_stage_one_and_deployed(alignment: dict[str, Any], tmp_path: Path):
    prior = str(write_mini_prior(tmp_path / "prior"))
    network = {"type": "LAFRNet", "base_model": prior, "prompt": None, "timestep": 250, "alignment": alignment}
    model = build(options(tmp_path, "LAFRAlignModel", {**network, "with_unet": False}))
    before = snapshot(model.net_g)
    step(model, 1)
    step(model, 2)
    assert changed(model.net_g, before)
    assert all(name.startswith("alignment.") for name in changed(model.net_g, before))
    model.save(0, -1)
    net = build_lafr(
        **{k: v for k, v in network.items() if k != "type"}, alignment_weights=str(tmp_path / "models/net_g_latest.pth")
    )
    net.save_pretrained(tmp_path / "deployed")
    image = torch.rand(1, 3, MINI_IMAGE_SIZE, MINI_IMAGE_SIZE)
    deployed = LAFRNet.from_pretrained(tmp_path / "deployed")
    torch.testing.assert_close(deployed(image), net.eval()(image), rtol=0, atol=1e-5)
