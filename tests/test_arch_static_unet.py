"""The pruned UNet against diffusers' own, and the sizes of Stable Diffusion 2.1's."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from base_models import (
    SD21_UNET,
    TINY_MINI_UNET,
    TINY_SD15_UNET,
    TINY_SD21_UNET,
    TOKENS,
    assert_close_in_range,
    tiny_unet,
)
from conftest import ROOT
from lafr_arch.lora import add_lora, lora_layers, merge_lora
from lafr_arch.static_unet import StaticCrossAttention, StaticUNet
from lafr_models.options import load_yaml

MINI_OPTIONS_UNET = {"in_channels": 8, "out_channels": 8} | load_yaml(ROOT / "options/mini/prior.yml")["network_g"][
    "unet"
]


def count(module: nn.Module, trained_only: bool = False) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trained_only)


def prompt_of(unet: UNet2DConditionModel, tokens: int) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.randn(1, tokens, unet.config.cross_attention_dim, generator=generator)


@torch.no_grad()
def full_output(unet: UNet2DConditionModel, latent: Tensor, prompt: Tensor, timestep: int) -> Tensor:
    return unet(latent, timestep, encoder_hidden_states=prompt.expand(len(latent), -1, -1)).sample


def randomise_lora(module: nn.Module) -> None:
    """Give LoRA's up layers, zero at first, values: the same for the same layer of any network."""
    for name, parameter in module.named_parameters():
        if "lora_" in name:
            generator = torch.Generator().manual_seed(sum(name.encode()) + parameter.numel())
            parameter.data.copy_(0.1 * torch.randn(parameter.shape, generator=generator))


@pytest.mark.parametrize(
    ("config", "tokens", "timestep", "size"),
    [
        pytest.param(TINY_SD21_UNET, TOKENS, 999, (8, 8), id="sd21"),
        pytest.param(TINY_SD21_UNET, TOKENS, 250, (13, 10), id="sd21-odd"),
        pytest.param(TINY_SD15_UNET, TOKENS, 999, (8, 16), id="sd15"),
        pytest.param(TINY_SD15_UNET, TOKENS, 1, (7, 9), id="sd15-odd"),
        pytest.param(MINI_OPTIONS_UNET, 1, 250, (8, 8), id="mini"),
        pytest.param(MINI_OPTIONS_UNET, 1, 999, (9, 14), id="mini-odd"),
    ],
)
def test_pruned_equals_full(config: dict[str, Any], tokens: int, timestep: int, size: tuple[int, int]):
    unet = tiny_unet(config)
    prompt = prompt_of(unet, tokens)
    latent = torch.randn(2, unet.config.in_channels, *size)
    expected = full_output(unet, latent, prompt, timestep)
    other_time = full_output(unet, latent, prompt, 500)
    other_prompt = full_output(unet, latent, -2 * prompt, timestep)
    pruned = StaticUNet.from_unet(unet, prompt, timestep)
    with torch.no_grad():
        assert_close_in_range(pruned(latent), expected)
    # What was folded in matters: otherwise the test above could not fail.
    for other in (other_time, other_prompt):
        assert (other - expected).abs().max() > 1e-3 * (expected.max() - expected.min())


def test_conditioning_is_gone():
    pruned = StaticUNet.from_unet(tiny_unet(TINY_SD21_UNET), torch.randn(1, TOKENS, 16), 999)
    names = [name for name, _ in pruned.named_parameters()]
    assert not [name for name in names if "time_emb" in name or "attn2.to_k" in name or "attn2.to_v" in name]
    constants = [m for m in pruned.modules() if isinstance(m, StaticCrossAttention)]
    assert len(constants) == 16
    assert all(m.key.shape == m.value.shape == (1, TOKENS, m.to_q.out_features) for m in constants)


def test_lora_before_and_after_pruning_agree():
    prompt = torch.randn(1, TOKENS, 16)
    latent = torch.randn(1, 4, 8, 8)
    unet = tiny_unet(TINY_SD21_UNET)
    plain = full_output(unet, latent, prompt, 999)
    merged_first = copy.deepcopy(unet)
    assert add_lora(merged_first, rank=2) == 66
    randomise_lora(merged_first)
    with torch.no_grad():
        adapted = full_output(merged_first, latent, prompt, 999)
        merge_lora(merged_first)
        assert_close_in_range(full_output(merged_first, latent, prompt, 999), adapted)
        pruned_last = StaticUNet.from_unet(merged_first, prompt, 999)(latent)

        pruned_first = StaticUNet.from_unet(unet, prompt, 999)
        assert add_lora(pruned_first, rank=2) == 66
        assert_close_in_range(pruned_first(latent), plain)  # LoRA starts as no change
        randomise_lora(pruned_first)
        assert_close_in_range(pruned_first(latent), adapted)
        merge_lora(pruned_first)
        assert not lora_layers(pruned_first)
        assert_close_in_range(pruned_first(latent), adapted)
    assert_close_in_range(pruned_last, adapted)
    assert (adapted - plain).abs().max() > 0.01 * (plain.max() - plain.min())


def test_unmerged_adapters_are_refused():
    unet = tiny_unet(TINY_SD15_UNET)
    add_lora(unet)
    with pytest.raises(ValueError, match="merge them before pruning"):
        StaticUNet.from_unet(unet, torch.randn(1, TOKENS, 16), 999)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"resnet_time_scale_shift": "scale_shift"}, "resnet_time_scale_shift: 'scale_shift'"),
        ({"center_input_sample": True}, "center_input_sample: True"),
        ({"class_embed_type": "timestep"}, "class_embed_type: 'timestep'"),
        ({"num_class_embeds": 3}, "num_class_embeds: 3"),
        (
            {"down_block_types": ["ResnetDownsampleBlock2D", "CrossAttnDownBlock2D"]},
            "has a ResnetDownsampleBlock2D",
        ),
        ({"mid_block_type": "UNetMidBlock2DSimpleCrossAttn"}, "has a UNetMidBlock2DSimpleCrossAttn"),
    ],
)
def test_other_conditioning_is_refused(change: dict[str, Any], message: str):
    unet = tiny_unet({**TINY_MINI_UNET, **change})
    with pytest.raises(ValueError, match=message):
        StaticUNet.from_unet(unet, torch.zeros(1, 1, 8), 999)


@pytest.mark.parametrize("shape", [(1, 8), (2, 1, 8), (1, 1, 9)])
def test_prompts_that_do_not_fit_are_refused(shape: tuple[int, ...]):
    with pytest.raises(ValueError, match=r"must be \(1, tokens, 8\)"):
        StaticUNet.from_unet(tiny_unet(TINY_MINI_UNET), torch.zeros(shape), 999)


def test_gradient_checkpointing_gives_the_same_gradients():
    latent = torch.randn(1, 4, 8, 8)
    gradients = []
    for checkpointing in (False, True):
        pruned = StaticUNet.from_unet(tiny_unet(TINY_SD21_UNET), torch.ones(1, TOKENS, 16), 999).train()
        pruned.requires_grad_(False)
        add_lora(pruned, rank=2)
        randomise_lora(pruned)
        calls = 0

        def counted(_module: nn.Module, _inputs: Any) -> None:
            nonlocal calls
            calls += 1

        pruned.down_blocks[0].resnets[0].register_forward_pre_hook(counted)
        if checkpointing:
            pruned.enable_gradient_checkpointing()
        pruned(latent).square().mean().backward()
        assert calls == 1 + checkpointing
        gradients.append([p.grad for p in pruned.parameters() if p.requires_grad])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(recomputed, plain)


def test_sizes_of_stable_diffusion_21():
    with torch.device("meta"):
        unet = UNet2DConditionModel(**SD21_UNET)
        assert count(unet) == 865_910_724
        pruned = StaticUNet(unet, TOKENS)
    assert count(pruned) == 812_476_164
    constants = sum(b.numel() for name, b in pruned.named_buffers() if name.endswith((".key", ".value")))
    assert constants == 2 * TOKENS * (5 * 320 + 5 * 640 + 6 * 1280)
    # Pruning leaves every convolution, and takes to_k and to_v from 16 of the 32 attentions.
    attention = copy.deepcopy(pruned)
    assert add_lora(pruned, rank=4, targets="conv") == 66
    assert count(pruned, trained_only=True) == 2_327_200
    assert add_lora(attention, rank=4, targets="attention") == 128 - 32


@pytest.mark.parametrize(
    ("targets", "layers", "parameters"),
    [("conv", 66, 2_327_200), ("attention", 128, 829_952), ("all", 258, 4_055_712)],
)
def test_sizes_of_lora_on_stable_diffusion_21(targets: str, layers: int, parameters: int):
    with torch.device("meta"):
        unet = UNet2DConditionModel(**SD21_UNET)
    assert add_lora(unet, rank=4, targets=targets) == layers
    assert count(unet, trained_only=True) == parameters


def test_lora_by_names_and_its_scale():
    layers = nn.ModuleDict({"conv1": nn.Conv2d(2, 2, 1), "conv2": nn.Conv2d(2, 2, 1), "proj": nn.Linear(2, 2)})
    assert add_lora(layers, rank=1, targets=["conv1", "proj"], alpha=3.0) == 2
    randomise_lora(layers)
    x = torch.randn(1, 2, 3, 3)
    conv: Any = layers["conv1"]
    up, down = conv.lora_B["default"].weight, conv.lora_A["default"].weight
    expected = conv.get_base_layer()(x) + 3 * torch.einsum("or,ri,bihw->bohw", up[..., 0, 0], down[..., 0, 0], x)
    torch.testing.assert_close(conv(x), expected)


def test_unknown_lora_targets_are_refused():
    with pytest.raises(ValueError, match="targets: everything is unknown; use conv, attention, all"):
        add_lora(nn.Sequential(nn.Conv2d(1, 1, 1)), targets="everything")
    with pytest.raises(ValueError, match="no layer is called to_q"):
        add_lora(nn.Sequential(nn.Conv2d(1, 1, 1)), targets=["to_q"])
