"""Small decoders: their form, in a LAFRNet, in a deployed folder, and on the fast path."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny
from safetensors.torch import load_file
from torch import Tensor, nn

from base_models import MINI_IMAGE_SIZE, SD_IMAGE_SIZE, assert_close_in_range, write_mini_prior, write_stable_diffusion
from lafr import LAFRer, cli  # noqa: E402
from lafr.networks import MODELS  # noqa: E402 - after BasicSR can be imported
from lafr_arch.decoder_arch import SmallDecoder, TAESDDecoder  # noqa: E402
from lafr_arch.lafr_arch import LAFRNet  # noqa: E402
from lafr_arch.network_g_arch import build_lafr
from lafr_arch.sizes import count, network_sizes  # noqa: E402
from lafr_models.ema import trained_state  # noqa: E402

DECODER = {"type": "SmallDecoder", "widths": [16, 8], "blocks": [1, 1]}


def randomise(net: nn.Module) -> nn.Module:
    """Weights with which every block does something."""
    for parameter in net.parameters():
        if parameter.dim() > 1:
            nn.init.kaiming_normal_(parameter, nonlinearity="linear")
    return net


@pytest.fixture(scope="module")
def mini_base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_mini_prior(tmp_path_factory.mktemp("mini")))


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A checkpoint as a training writes it."""
    decoder = randomise(SmallDecoder(8, 1.5, (16, 8), (1, 1)))
    torch.save({"params": {}, "params_ema": decoder.state_dict()}, tmp_path / "net_g.pth")
    return tmp_path / "net_g.pth"


def network(base: str, **arguments: Any) -> dict[str, Any]:
    return {"base_model": base, "prompt": None, "timestep": 250, **arguments}


@pytest.mark.parametrize("levels", [1, 2, 3, 4])
def test_any_number_of_levels_gives_eight_times_the_size(levels: int):
    decoder = SmallDecoder(4, widths=(8,) * levels, blocks=(0,) * (levels - 1) + (1,))
    assert decoder(torch.randn(2, 4, 3, 5)).shape == (2, 3, 24, 40)


def test_options_count():
    size = count(SmallDecoder())
    assert size < 49_490_179 / 8  # of Stable Diffusion's decoder
    assert count(SmallDecoder(widths=(256, 128, 32))) < size
    assert count(SmallDecoder(blocks=(3, 2, 3))) == size - 2 * (9 * 128**2 + 128)
    assert count(SmallDecoder(latent_channels=8)) == size + 4 * 9 * 256


def test_latents_are_scaled_inside():
    latent = torch.randn(1, 4, 2, 2)
    one, two = (randomise(SmallDecoder(scaling_factor=factor, widths=(8,), blocks=(1,))) for factor in (1.0, 0.5))
    two.load_state_dict(one.state_dict())
    torch.testing.assert_close(two(2 * latent), one(latent))


@pytest.mark.parametrize(
    ("decoder", "message"),
    [
        ({"widths": []}, "widths"),
        ({"widths": [8] * 5}, "one to four"),
        ({"widths": [8, 8], "blocks": [1]}, "blocks"),
        ({"type": "NoDecoder"}, "NoDecoder is unknown"),
        ({"width": 8}, "width"),
    ],
)
def test_faults_are_told(mini_base: str, weights: Path, decoder: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        build_lafr(**network(mini_base, decoder=DECODER | decoder, decoder_weights=str(weights)))


def test_weights_that_are_missing_or_others_are_told(mini_base: str, weights: Path):
    with pytest.raises(ValueError, match="need each other"):
        build_lafr(**network(mini_base, decoder=DECODER))
    with pytest.raises(ValueError, match="need each other"):
        build_lafr(**network(mini_base, decoder_weights=str(weights)))
    with pytest.raises(FileNotFoundError, match=r"decoder_weights: nowhere\.pth does not exist"):
        build_lafr(**network(mini_base, decoder=DECODER, decoder_weights="nowhere.pth"))
    with pytest.raises(ValueError, match="does not fit `decoder`"):
        build_lafr(**network(mini_base, decoder=DECODER | {"widths": [16, 16]}, decoder_weights=str(weights)))


@torch.no_grad()
def test_it_takes_the_decoders_place(tmp_path: Path, mini_base: str, weights: Path):
    plain = build_lafr(**network(mini_base)).eval()
    net = build_lafr(**network(mini_base, decoder=DECODER, decoder_weights=str(weights))).eval()
    face = torch.rand(2, 3, MINI_IMAGE_SIZE, MINI_IMAGE_SIZE)
    assert torch.equal(net(face, output="restored"), plain(face, output="restored"))
    assert not torch.allclose(net(face), plain(face), atol=0.05)
    latent = net(face, output="restored") / net.vae.config.scaling_factor
    torch.testing.assert_close(net(face), ((net.decoder(latent) + 1) / 2).clamp(0, 1))  # type: ignore[misc]

    # A deployed folder says which decoder it holds, and does not hold the VAE's.
    net.save_pretrained(tmp_path / "deployed")
    assert json.loads((tmp_path / "deployed/config.json").read_text())["decoder"] == DECODER
    names = load_file(tmp_path / "deployed/model.safetensors")
    assert any(name.startswith("decoder.") for name in names)
    assert not any(name.startswith("vae.decoder") for name in names)
    loaded = LAFRNet.from_pretrained(tmp_path / "deployed")
    torch.testing.assert_close(loaded(face), net(face))
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert_close_in_range(loaded.for_inference()(face), net(face))

    plain.save_pretrained(tmp_path / "plain")
    assert "decoder" not in json.loads((tmp_path / "plain/config.json").read_text())
    assert LAFRNet.from_pretrained(tmp_path / "plain").decoder is None


def test_export_follows_the_options(tmp_path: Path, mini_base: str, weights: Path):
    options = network(mini_base, lora={"rank": 2}, decoder=DECODER, decoder_weights=str(weights))
    net = build_lafr(**options).eval()
    torch.save({"params": trained_state(net)}, tmp_path / "lora.pth")
    (tmp_path / "options.yml").write_text(json.dumps({"network_g": {"type": "LAFRNet", **options}}))
    arguments = [str(tmp_path / "options.yml"), str(tmp_path / "out"), "--weights", str(tmp_path / "lora.pth")]
    assert cli.main(["export", *arguments]) == 0
    face = np.random.default_rng(0).integers(0, 256, (MINI_IMAGE_SIZE, MINI_IMAGE_SIZE, 3), dtype=np.uint8)
    with torch.no_grad():
        image = net(torch.from_numpy(face[..., ::-1].copy()).permute(2, 0, 1)[None].float() / 255)
        exported = LAFRNet.from_pretrained(tmp_path / "out")
    assert isinstance(exported.decoder, SmallDecoder)
    # As a user restores with it: BGR, 8 bits.
    restorer = LAFRer(model=str(tmp_path / "out"), device="cpu", keep_intact=False)
    _, (restored,), _ = restorer.enhance(face, has_aligned=True, weight=0)
    expected = (255 * image[0].permute(1, 2, 0).numpy()[..., ::-1]).round()
    assert np.abs(restored.astype(float) - expected).max() <= 1


@torch.no_grad()
def test_stable_diffusion_with_taesd(tmp_path: Path):
    torch.manual_seed(0)
    # Its blocks' widths are fewer than the published ones'; names and form are theirs.
    small = {"decoder_block_out_channels": (16,) * 4, "encoder_block_out_channels": (8,) * 4}
    taesd = AutoencoderTiny(**small, num_decoder_blocks=(1, 1, 1, 1)).eval()
    taesd.save_pretrained(tmp_path / "taesd")
    decoder = {"type": "TAESDDecoder", "widths": [16] * 4, "blocks": [1] * 4}
    base = str(write_stable_diffusion(tmp_path / "sd"))
    net = build_lafr(base, decoder=decoder, decoder_weights=str(tmp_path / "taesd")).eval()
    assert isinstance(net.decoder, TAESDDecoder)
    assert net.vae.post_quant_conv is None
    face = torch.rand(1, 3, SD_IMAGE_SIZE, SD_IMAGE_SIZE)
    expected = (taesd.decode(net(face, output="restored")).sample + 1) / 2
    torch.testing.assert_close(net(face), expected.clamp(0, 1))
    assert_close_in_range(net.for_inference()(face), net(face))
    with pytest.raises(ValueError, match="four numbers"):
        TAESDDecoder(widths=(8, 8))


@pytest.mark.parametrize("widths", [(48, 32), (64, 32, 16)])
@torch.inference_mode()
def test_the_fast_path_equals_the_plain_one(widths: tuple[int, ...], face_image: Tensor):
    net = LAFRNet.from_pretrained(MODELS["mini"])
    net.set_decoder({"type": "SmallDecoder", "widths": list(widths), "blocks": [1] * len(widths)})
    randomise(net.decoder)  # type: ignore[arg-type]
    fast = net.for_inference()
    assert_close_in_range(fast(face_image), net(face_image))
    kinds = [kind for name, kind in fast.inference_plan.items() if name.startswith("decoder.")]
    assert kinds.count("FastResidualBlock") == len(widths)
    assert kinds.count("FastUpsample") == len(widths) - 1
    assert kinds.count("Conv2d") == 1  # the first, which has too few channels
    half = 255 * (net.for_inference(decoder_dtype=torch.bfloat16)(face_image) - net(face_image)).abs().mean()
    assert 0 < half < 2
    assert net.decoder_dtype == torch.float32


def test_sizes(mini_base: str, weights: Path):
    plain, small = network(mini_base), network(mini_base, decoder=DECODER, decoder_weights=str(weights))
    before, after = network_sizes(plain), network_sizes(small)
    assert "decoder" not in before
    assert after["decoder"] == count(SmallDecoder(8, 1.5, (16, 8), (1, 1)))
    deployed = build_lafr(**small).deploy()
    assert after["inference"] == count(deployed) + after["unet_constants"]
    assert before["inference"] - after["inference"] == after["vae_decoder"] - after["decoder"]
