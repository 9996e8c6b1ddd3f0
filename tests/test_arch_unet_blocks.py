"""The blocks of deployed networks against diffusers', of which they are trained: names, order, results, gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

from base_models import TINY_MINI_UNET, TINY_SD15_UNET, TINY_SD21_UNET, assert_close_in_range, tiny_unet
from lafr_arch import kl_autoencoder
from lafr_arch.autoencoder_arch import DiagonalGaussian
from lafr_arch.static_unet import StaticUNet
from lafr_arch.unet_blocks import build_unet, knows

DEEP = {**TINY_MINI_UNET, "transformer_layers_per_block": [1, 2], "layers_per_block": 2, "attention_head_dim": [2, 4]}


def both(config: dict[str, Any]) -> tuple[StaticUNet, StaticUNet]:
    """A UNet of diffusers' blocks, pruned, and one of ours with its weights."""
    unet = tiny_unet(config)
    full = dict(unet.config)
    assert knows(full)
    pruned = StaticUNet.from_unet(unet, torch.randn(1, 3, unet.config.cross_attention_dim), 250)
    ours = StaticUNet(build_unet(full), 3)
    assert [name for name, _ in ours.named_parameters()] == [name for name, _ in pruned.named_parameters()]
    assert list(ours.state_dict()) == list(pruned.state_dict())
    ours.load_state_dict(pruned.state_dict())
    return pruned, ours


@pytest.mark.parametrize("size", [(8, 8), (13, 10)])
@pytest.mark.parametrize("config", [TINY_SD21_UNET, TINY_SD15_UNET, TINY_MINI_UNET, DEEP])
def test_the_same_as_diffusers(config: dict[str, Any], size: tuple[int, int]):
    pruned, ours = both(config)
    latent = torch.randn(2, 4, *size)
    with torch.no_grad():
        assert_close_in_range(ours(latent), pruned(latent), 1e-5)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_same_gradients(checkpointing: bool):
    pruned, ours = both(TINY_MINI_UNET)
    if checkpointing:
        ours.enable_gradient_checkpointing()
    latent = torch.randn(2, 4, 8, 8)
    for net in (pruned, ours):
        net(latent).square().mean().backward()
    for (name, mine), theirs in zip(ours.named_parameters(), pruned.parameters(), strict=True):
        assert mine.grad is not None
        assert theirs.grad is not None
        torch.testing.assert_close(mine.grad, theirs.grad, atol=1e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize(
    "change",
    [
        {"act_fn": "gelu"},
        {"resnet_out_scale_factor": 2.0},
        {"down_block_types": ["DownBlock2D", "AttnDownBlock2D"]},
        {"mid_block_type": "UNetMidBlock2D"},
    ],
)
def test_other_forms_are_left_to_diffusers(change: dict[str, Any]):
    assert not knows({**TINY_MINI_UNET, **change})


def test_the_same_vae():
    theirs = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 48),
        layers_per_block=2,
        norm_num_groups=8,
    ).eval()
    assert kl_autoencoder.knows(theirs.config)
    assert not kl_autoencoder.knows({**theirs.config, "use_quant_conv": False})
    ours = kl_autoencoder.AutoencoderKL.from_config(dict(theirs.config)).eval()
    assert ours.config.scaling_factor == theirs.config.scaling_factor
    ours.load_state_dict(theirs.state_dict())
    image, latent = torch.rand(2, 3, 24, 40), torch.randn(2, 4, 6, 10)
    with torch.no_grad():
        moments, expected = ours.encode(image).latent_dist, theirs.encode(image).latent_dist
        assert_close_in_range(moments.mean, expected.mean, 1e-5)
        assert_close_in_range(moments.logvar, expected.logvar, 1e-5)
        assert_close_in_range(ours.decode(latent).sample, theirs.decode(latent).sample, 1e-5)


def test_the_distribution_of_latents():
    parameters = torch.randn(2, 8, 4, 4) * 20
    ours, theirs = DiagonalGaussian(parameters), DiagonalGaussianDistribution(parameters)
    assert torch.equal(ours.mode(), theirs.mode())
    torch.testing.assert_close(ours.kl(), theirs.kl())
    torch.manual_seed(3)
    drawn = ours.sample()
    torch.manual_seed(3)
    torch.testing.assert_close(drawn, theirs.sample())
