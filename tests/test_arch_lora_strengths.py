"""Two LoRAs with a strength each: exact at every strength, trained one after the other, kept in the deployed folder."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from base_models import write_mini_prior
from lafr.methods import MethodError, parse_method
from lafr.networks import load_network
from lafr_arch.lafr_arch import LAFRNet
from lafr_arch.lora import lora_layers, merge_lora
from lafr_arch.network_g_arch import build_deployed_lafr, build_lafr
from stage_options import PIXEL, batch, build, changed, options, snapshot, step

CPU = torch.device("cpu")
# The second has other layers, another rank and another scale.
LORAS: dict[str, Any] = {
    "lora": {"rank": 2, "targets": "conv"},
    "semantic_lora": {"rank": 3, "targets": ["conv1", "to_q", "to_out.0", "proj_in"], "alpha": 5.0},
}


@pytest.fixture(scope="module")
def prior(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_mini_prior(tmp_path_factory.mktemp("prior")))


def two_loras(prior: str) -> LAFRNet:
    """A network with two LoRAs that do something."""
    net = build_lafr(prior, prompt=None, timestep=250, **LORAS)
    torch.manual_seed(3)
    for name, parameter in net.unet.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(parameter, std=0.05)
    return net.eval()


def scaled(net: LAFRNet, pixel: float, semantic: float) -> LAFRNet:
    """The same, merged by peft with its LoRAs scaled: what the strengths must give."""
    net = copy.deepcopy(net)
    for name in lora_layers(net.unet):
        layer: Any = net.unet.get_submodule(name)
        for adapter, strength in (("default", pixel), ("semantic", semantic)):
            if adapter in layer.lora_A:
                layer.lora_B[adapter].weight.data *= strength
    merge_lora(net.unet)
    return net


@torch.no_grad()
def restored(net: Any) -> Tensor:
    return net(batch(2)["lq"])


@pytest.mark.parametrize(("pixel", "semantic"), [(1, 1), (0, 0), (1, 0), (0, 1), (0.5, 1.5)])
def test_strengths_scale_what_each_lora_adds(prior: str, tmp_path: Path, pixel: float, semantic: float):
    net = two_loras(prior)
    expected = restored(scaled(net, pixel, semantic))
    net.save_pretrained(tmp_path / "net")
    read = LAFRNet.from_pretrained(tmp_path / "net")
    read.set_strengths(pixel=pixel, semantic=semantic)
    torch.testing.assert_close(restored(read), expected, rtol=0, atol=2e-5)
    torch.testing.assert_close(restored(read.for_inference()), expected, rtol=0, atol=2e-5)
    if (pixel, semantic) != (1, 1):
        assert (expected - restored(scaled(net, 1, 1))).abs().max() > 1e-3
    # Back at 1 and 1 the network is what the folder holds, to the bit; so is one whose strengths were never set.
    read.set_strengths()
    assert torch.equal(restored(read), restored(LAFRNet.from_pretrained(tmp_path / "net")))
    assert torch.equal(restored(read), restored(copy.deepcopy(net).deploy()))


def test_nothing_is_left_of_either_at_zero(prior: str):
    net = two_loras(prior).deploy()
    net.set_strengths(pixel=0, semantic=0)
    plain = build_lafr(prior, prompt=None, timestep=250).eval()
    torch.testing.assert_close(restored(net), restored(plain), rtol=0, atol=2e-5)


def test_a_method_and_an_option_file_name_strengths(prior: str, tmp_path: Path):
    folder = tmp_path / "net"
    two_loras(prior).save_pretrained(folder)
    expected = LAFRNet.from_pretrained(folder)
    expected.set_strengths(pixel=0.5, semantic=0)
    assert torch.equal(restored(load_network(f"{folder},pixel=0.5,semantic=0", CPU)), restored(expected))
    built = build_deployed_lafr(str(folder), pixel_strength=0.5, semantic_strength=0)
    assert torch.equal(restored(built), restored(expected))
    assert parse_method(f"weak={folder},semantic=0.2").options == {"semantic": 0.2}
    with pytest.raises(MethodError, match="fidelity is unknown; a network's folder takes pixel, semantic"):
        parse_method(f"{folder},fidelity=1")
    with pytest.raises(ValueError, match="strength semantic must be at least 0"):
        load_network(f"{folder},semantic=-1", CPU)
    build_lafr(prior, prompt=None, lora=LORAS["lora"]).save_pretrained(tmp_path / "one")
    with pytest.raises(ValueError, match="no strengths to set"):
        load_network(f"{tmp_path / 'one'},pixel=1", CPU)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ({"semantic_lora": LORAS["semantic_lora"]}, "semantic_lora stands beside lora"),
        ({**LORAS, "prune": False}, "semantic_lora stands beside lora, on a UNet with prune: true"),
        ({**LORAS, "semantic_lora": {"targets": ["to_x"]}}, "semantic_lora: targets: no layer is called to_x"),
    ],
)
def test_refusals(prior: str, network: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        build_lafr(prior, prompt=None, **network)


# ---- training ----------------------------------------------------------------------------------------------------


def run(root: Path, prior: str, **train: Any) -> Any:
    network = {"type": "LAFRNet", "base_model": prior, "prompt": None, "timestep": 250, **LORAS}
    losses = {"pixel_opt": {"type": "MSELoss", "loss_weight": 4.0}, "detail_opt": PIXEL}
    return options(root, "LAFRUNetModel", network, **{"pixel_iter": 2, "latent_weight": 0.1, **losses, **train})


def test_they_train_one_after_the_other_and_resume(prior: str, tmp_path: Path):
    model = build(run(tmp_path, prior))
    unet = model.bare_g.unet
    for iteration in (1, 2):
        before = snapshot(unet)
        assert set(step(model, iteration)) == {"l_pixel"}
        moved = changed(unet, before)
        assert moved
        assert all(".lora_" in name and ".default." in name for name in moved)
    model.save(0, 2)
    for iteration in (3, 4):
        before = snapshot(unet)
        assert set(step(model, iteration)) == {"l_pixel", "l_detail", "l_latent"}
        moved = changed(unet, before)
        assert moved
        assert all(".lora_" in name and ".semantic." in name for name in moved)
    model.save(0, -1)
    deployed = LAFRNet.from_pretrained(tmp_path / "deployed")
    model.net_g.eval()
    torch.testing.assert_close(restored(deployed), restored(model.bare_g), rtol=0, atol=2e-5)
    assert deployed.strengths is not None
    # A run that was stopped between the two goes on as one that was not.
    again = build(run(tmp_path, prior))
    again.load_network(again.net_g, str(tmp_path / "models/net_g_2.pth"))
    again.resume_training(torch.load(tmp_path / "training_states/2.state", weights_only=False))
    for iteration in (3, 4):
        step(again, iteration)
    assert not changed(again.bare_g.unet, snapshot(unet))


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({"pixel_iter": 0}, "semantic_lora needs pixel_iter, of 1 or more, and pixel_opt"),
        ({"pixel_opt": None}, "semantic_lora needs pixel_iter, of 1 or more, and pixel_opt"),
        ({"pixel_iter": 8}, "pixel_iter: 8 leaves none of 8 iterations to the semantic LoRA"),
    ],
)
def test_options_that_do_not_fit(prior: str, tmp_path: Path, train: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        build(run(tmp_path, prior, **train))
    opt = run(tmp_path, prior)
    del opt["network_g"]["semantic_lora"]
    with pytest.raises(ValueError, match="pixel_iter is for two LoRAs"):
        build(opt)
