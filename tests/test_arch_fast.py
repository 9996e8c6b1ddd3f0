"""The fast inference path: every rewritten layer and network against what it replaces."""

from __future__ import annotations

import copy
import logging
import platform
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the field's name for it

import lafr_arch.fast
from base_models import TINY_SD21_UNET, assert_close_in_range, tiny_unet, write_mini_prior
from lafr.networks import MODELS
from lafr_arch import fast_kernels
from lafr_arch.autoencoder_arch import ResidualBlock
from lafr_arch.fast import (
    FastResidualBlock,
    FastResnetBlock,
    FastUpsample,
    FusedConv2d,
    PointwiseConv2d,
    rewrite,
)
from lafr_arch.lafr_arch import LAFRNet
from lafr_arch.lora import lora_layers
from lafr_arch.network_g_arch import build_lafr
from lafr_arch.static_unet import StaticUNet

WIDE_UNET: dict[str, Any] = {
    **TINY_SD21_UNET,
    "block_out_channels": (16, 32, 48, 48),
    "norm_num_groups": 8,
    "sample_size": 32,
}


@pytest.fixture(autouse=True)
def inference() -> Any:
    with torch.inference_mode():
        yield


@pytest.fixture(params=["kernels", "plain"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With the compiled kernels, and as on a machine where they cannot be compiled."""
    if request.param == "plain":
        monkeypatch.setattr(lafr_arch.fast, "load_kernels", lambda: None)
    elif fast_kernels.load_kernels() is None:
        pytest.skip("no C++ compiler")
    return str(request.param)


@pytest.fixture
def kernels() -> fast_kernels.Kernels:
    found = fast_kernels.load_kernels()
    if found is None:
        pytest.skip("no C++ compiler")
    return found


def norm(channels: int) -> nn.GroupNorm:
    layer = nn.GroupNorm(4, channels)
    nn.init.normal_(layer.weight)
    nn.init.normal_(layer.bias)
    return layer


def reference(x: Tensor, layer: FusedConv2d) -> Tensor:
    """The layers one after the other, in float64."""
    plain = copy.deepcopy(layer).double()
    x = x.double()
    x = x if plain.norm is None else plain.norm(x)
    x = F.silu(x) if plain.silu else x
    x = F.interpolate(x, scale_factor=2.0, mode="nearest") if plain.upsample else x
    return plain.conv(x)


# Sizes below and above the one from which Winograd's method is used, none a multiple of its tiles' 4.
@pytest.mark.parametrize("size", [(6, 5), (29, 38)])
@pytest.mark.parametrize(
    ("normed", "silu", "upsample"),
    [(False, False, False), (True, True, False), (True, False, False), (False, True, False), (True, True, True)],
)
@pytest.mark.parametrize("channels", [(32, 48), (16, 3)])
def test_fused_convolution(
    path: str, size: tuple[int, int], normed: bool, silu: bool, upsample: bool, channels: tuple[int, int]
):
    layer = FusedConv2d(nn.Conv2d(*channels, 3, padding=1), norm(channels[0]) if normed else None, silu, upsample)
    x = torch.randn(2, channels[0], *size) + 0.5
    expected = reference(x, layer)
    residual = torch.randn(expected.shape)
    assert_close_in_range(layer(x), expected, share=1e-5)
    assert_close_in_range(layer(x, residual), expected + residual, share=1e-5)
    half = layer(x.bfloat16()) if path == "kernels" and not torch.cpu._is_amx_tile_supported() else None
    if half is not None:
        assert half.dtype == torch.bfloat16
        assert_close_in_range(half, reference(x.bfloat16(), layer), share=4e-3)


def test_residuals_are_kept_or_overwritten_as_told(kernels: fast_kernels.Kernels):
    layer = FusedConv2d(nn.Conv2d(16, 16, 3, padding=1))
    x, residual = (torch.randn(1, 16, 32, 32).contiguous(memory_format=torch.channels_last) for _ in range(2))
    before = residual.clone()
    kept = layer(x, residual)
    assert torch.equal(residual, before)
    overwritten = layer(x, residual, overwrite=True)
    assert torch.equal(overwritten, kept)
    assert overwritten.data_ptr() == residual.data_ptr()


@pytest.mark.parametrize("mean", [0.0, 300.0])
def test_normalisation(kernels: fast_kernels.Kernels, mean: float):
    layer = norm(32)
    x = (torch.randn(2, 32, 40, 24) + mean).contiguous(memory_format=torch.channels_last)
    scale, shift = kernels.normalisation(x, layer)
    expected = copy.deepcopy(layer).double()(x.double())
    actual = x.double() * scale.double()[:, :, None, None] + shift.double()[:, :, None, None]
    assert_close_in_range(actual, expected, share=1e-5 if mean else 1e-6)


def test_values_that_are_not_finite_stay_so(kernels: fast_kernels.Kernels):
    layer = FusedConv2d(nn.Conv2d(16, 16, 3, padding=1), silu=True)
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.zeros(1, 16, 32, 32, dtype=dtype)
        x[0, 3, 10, 10] = float("nan")
        assert layer(x)[0, :, 9:12, 9:12].isnan().all()


def test_extreme_activations(kernels: fast_kernels.Kernels):
    layer = FusedConv2d(nn.Conv2d(16, 16, 3, padding=1), silu=True)
    x = torch.full((1, 16, 32, 32), -200.0)
    x[:, ::2] = 200.0
    assert_close_in_range(layer(x), reference(x, layer), share=1e-5)


def test_pointwise_convolution():
    conv = nn.Conv2d(32, 48, 1)
    x = torch.randn(2, 32, 5, 7)
    assert_close_in_range(PointwiseConv2d(conv)(x), conv(x), share=1e-6)


@pytest.mark.parametrize("channels", [(32, 32), (32, 48)])
@pytest.mark.parametrize("size", [8, 32])
def test_resnet_block(path: str, channels: tuple[int, int], size: int):
    block = ResnetBlock2D(in_channels=channels[0], out_channels=channels[1], temb_channels=None, groups=8).eval()
    x = torch.randn(1, channels[0], size, size)
    before = x.clone()
    expected = block(x, None)
    assert_close_in_range(FastResnetBlock(block, overwrite=False)(x), expected, share=1e-5)
    assert torch.equal(x, before)
    assert_close_in_range(FastResnetBlock(block, overwrite=True)(x), expected, share=1e-5)


def test_mini_residual_block(path: str):
    block = ResidualBlock(32)
    nn.init.normal_(block.conv2.weight, std=0.1)
    x = torch.randn(2, 32, 24, 24)
    expected = block(x)
    assert_close_in_range(FastResidualBlock(block)(x), expected, share=1e-5)


def test_upsample(path: str):
    block = Upsample2D(32, use_conv=True, out_channels=32)
    x = torch.randn(1, 32, 15, 17)
    fast = FastUpsample(block)
    assert_close_in_range(fast(x), block(x), share=1e-5)
    assert_close_in_range(fast(x, (29, 34)), block(x, (29, 34)), share=1e-5)


def test_stable_diffusion_vae(path: str):
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 32),
        layers_per_block=1,
        norm_num_groups=8,
    ).eval()
    image, latent = torch.rand(2, 3, 64, 48), torch.randn(2, 4, 16, 12)
    expected = vae.encode(image).latent_dist.mean, vae.decode(latent).sample
    account = rewrite(vae, overwrite=True)
    assert_close_in_range(vae.encode(image).latent_dist.mean, expected[0], share=1e-5)
    assert_close_in_range(vae.decode(latent).sample, expected[1], share=1e-5)
    left = {name for name, kind in account.items() if kind == "Conv2d"}
    assert left == {
        "encoder.conv_in",
        "decoder.conv_in",
        "encoder.down_blocks.0.downsamplers.0.conv",
        "encoder.down_blocks.1.downsamplers.0.conv",
    }
    assert account["decoder.conv_out"] == account["encoder.conv_out"] == "FusedConv2d"
    assert list(account.values()).count("FastResnetBlock") == 13


@pytest.mark.parametrize("size", [32, 24])
def test_stable_diffusion_unet(path: str, size: int):
    unet = tiny_unet(WIDE_UNET)
    text = torch.randn(1, 7, 16)
    static = StaticUNet.from_unet(unet, text, 999).eval()
    x = torch.randn(2, 4, size, size)
    expected = static(x)
    account = rewrite(static)
    assert_close_in_range(static(x), expected, share=1e-5)
    assert list(account.values()).count("FastResnetBlock") == 22
    assert list(account.values()).count("FastUpsample") == 3
    assert {name for name, kind in account.items() if kind == "Conv2d"} == {
        "conv_in",
        *(f"down_blocks.{i}.downsamplers.0.conv" for i in range(3)),
    }


def test_what_is_not_replaced_is_told(path: str):
    unet = tiny_unet(WIDE_UNET)
    text, x = torch.randn(1, 7, 16), torch.randn(1, 4, 32, 32)
    expected = unet(x, 999, encoder_hidden_states=text).sample
    account = rewrite(unet)
    told = [kind for kind in account.values() if kind == "ResnetBlock2D, which takes a time embedding"]
    assert len(told) == 22
    assert account["mid_block.resnets.0.conv1"] == "FusedConv2d"
    assert_close_in_range(unet(x, 999, encoder_hidden_states=text).sample, expected, share=1e-5)
    narrow = nn.Sequential(ResnetBlock2D(in_channels=8, temb_channels=None, groups=4))
    assert "multiple of 16" in rewrite(narrow)["0"]


@pytest.fixture(scope="module")
def mini() -> LAFRNet:
    return LAFRNet.from_pretrained(MODELS["mini"])


def test_mini(path: str, mini: LAFRNet, face_image: Tensor):
    state = {name: (value.clone(), value.stride()) for name, value in mini.state_dict().items()}
    fast = mini.for_inference()
    faces = torch.cat([face_image, face_image.flip(3), 0.5 * face_image])
    for output in ("aligned", "restored", "image"):
        assert_close_in_range(fast(faces, output=output), mini(faces, output=output), share=1e-4)
    assert {name for name, kind in fast.inference_plan.items() if kind == "Conv2d"} == {
        "vae.encoder.4",
        "vae.decoder.0",
        "alignment.extractor.0",
        "unet.conv_in",
        "unet.down_blocks.0.downsamplers.0.conv",
        "unet.down_blocks.1.downsamplers.0.conv",
    }
    assert not any("which" in kind for kind in fast.inference_plan.values())
    for name, value in mini.state_dict().items():  # the original is as it was
        assert torch.equal(value, state[name][0])
        assert value.stride() == state[name][1]


def test_a_fast_network_can_be_made_fast_again(path: str, mini: LAFRNet, face_image: Tensor):
    fast = mini.for_inference()
    again = fast.for_inference()
    assert torch.equal(again(face_image), fast(face_image))
    assert "Conv2d" in again.inference_plan.values()


def test_half_precision_decoder(mini: LAFRNet, face_image: Tensor):
    fast = mini.for_inference(decoder_dtype=torch.bfloat16)
    difference = 255 * (fast(face_image) - mini(face_image)).abs().mean()
    assert 0 < difference < 1
    assert mini.decoder_dtype == torch.float32
    assert {p.dtype for p in mini.parameters()} == {torch.float32}


def test_lora_is_merged_in_the_copy_only(tmp_path: Path):
    with torch.inference_mode(False):
        net = build_lafr(
            str(write_mini_prior(tmp_path)), prompt=None, timestep=250, lora={"rank": 2}, prune=False
        ).eval()
        for name, parameter in net.named_parameters():
            if "lora_B" in name:
                parameter.data.normal_(std=0.1)
        fast = net.for_inference()
    assert isinstance(fast.unet, StaticUNet)
    assert not lora_layers(fast.unet)
    assert lora_layers(net.unet)
    face = torch.rand(1, 3, 32, 32)
    assert_close_in_range(fast(face, output="restored"), net(face, output="restored"))


def test_threads_do_not_share_working_memory(kernels: fast_kernels.Kernels, mini: LAFRNet):
    fast = mini.for_inference()
    faces = [torch.rand(1, 3, 128, 128) for _ in range(4)]
    expected = [fast(face) for face in faces]

    def restore(face: Tensor) -> Tensor:
        with torch.inference_mode():
            return fast(face)

    with ThreadPoolExecutor(4) as pool:
        for actual, wanted in zip(pool.map(restore, faces), expected, strict=True):
            assert_close_in_range(actual, wanted, share=1e-5)


def test_working_memory_outlives_inference_mode(kernels: fast_kernels.Kernels):
    layer, x = FusedConv2d(nn.Conv2d(16, 16, 3, padding=1)).requires_grad_(False), torch.rand(1, 16, 160, 160)
    expected = layer(x)
    with torch.inference_mode(False), torch.no_grad():
        assert torch.equal(layer(x.clone()), expected)


def test_gradients_are_refused():
    with torch.inference_mode(False), pytest.raises(RuntimeError, match="no gradients"):
        FusedConv2d(nn.Conv2d(16, 16, 3, padding=1))(torch.rand(1, 16, 8, 8))


def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(fast_kernels, "_built", lambda: None)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with caplog.at_level(logging.WARNING):
        assert fast_kernels.load_kernels.__wrapped__() is None
    assert "install g++" in caplog.text


def test_a_compiler_that_fails(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(fast_kernels, "_built", lambda: None)
    monkeypatch.setattr(shutil, "which", lambda name: "/bin/false")
    with caplog.at_level(logging.WARNING):
        assert fast_kernels.load_kernels.__wrapped__() is None
    assert "/bin/false failed on fast_kernels.cpp" in caplog.text
    assert not list(tmp_path.rglob("*.so"))


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="flags of x86-64")
@pytest.mark.parametrize("processor", ["x86-64", "haswell"])
def test_kernels_for_processors_without_avx512(processor: str, tmp_path: Path):
    if processor == "haswell" and torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"):
        pytest.skip("this processor has no AVX2")
    try:
        kernels = fast_kernels.Kernels(fast_kernels._compile(tmp_path, f"-march={processor}"))
    except fast_kernels.KernelError:
        pytest.skip("no C++ compiler")
    x = torch.randn(2, 32, 9, 14).contiguous(memory_format=torch.channels_last)
    conv = nn.Conv2d(32, 48, 3, padding=1)
    weight = fast_kernels.transform_weight(conv.weight, kernels.panel)
    affine = (torch.randn(2, 32), torch.randn(2, 32))
    result = kernels.winograd(x, weight, conv.bias.detach(), affine, silu=True)  # type: ignore[union-attr]
    scale, shift = (t[..., None, None] for t in affine)
    assert_close_in_range(result, conv(F.silu(x * scale + shift)), 1e-5)
