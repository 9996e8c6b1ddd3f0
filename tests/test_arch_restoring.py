"""The contract of restoring networks: who fulfils it, and that a folder means the same by whatever name it is given."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from base_models import write_mini_prior
from lafr.networks import load_network
from lafr_arch.baselines import BASELINES
from lafr_arch.lafr_arch import LAFRNet
from lafr_arch.network_g_arch import build_lafr
from lafr_arch.restoring import PlainNetwork, RestoringNetwork, as_restoring

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A deployed network that is run as published, as OSEDiff's is."""
    net = build_lafr(str(write_mini_prior(tmp_path / "base")), prompt=None, timestep=250)
    net.weight_means, net.half_precision = "none", False
    net.save_pretrained(tmp_path / "deployed")
    return tmp_path / "deployed"


def test_a_folder_says_what_it_is(folder: Path):
    for text in (str(folder), f"osediff:{folder}", f"mine={folder}"):
        net = load_network(text, CPU)
        assert isinstance(net, RestoringNetwork)
        assert (net.weight_means, net.half_precision) == ("none", False)


def test_folders_from_before_the_contract_are_lafrs(folder: Path):
    config = json.loads((folder / "config.json").read_text())
    del config["weight_means"], config["half_precision"]
    (folder / "config.json").write_text(json.dumps(config))
    net = LAFRNet.from_pretrained(folder)
    assert (net.weight_means, net.half_precision) == ("tones", True)
    config["weight_means"] = "sometimes"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="sometimes is unknown; use tones, network, none"):
        LAFRNet.from_pretrained(folder)


def test_baselines_fulfil_the_contract():
    assert {"gfpgan", "codeformer", "restoreformer", "bicubic"} <= set(BASELINES)
    assert isinstance(load_network("bicubic,size=64", CPU), RestoringNetwork)


class Double(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)


def test_any_module_runs_under_the_contract():
    net = as_restoring(Double(), image_size=4)
    assert isinstance(net, PlainNetwork)
    assert isinstance(net, RestoringNetwork)
    assert (net.image_size, net.weight_means, net.half_precision) == (4, "tones", False)
    assert as_restoring(net) is net
    faces = torch.rand(1, 3, 4, 4)
    assert net.for_inference() is net
    assert net.for_inference(torch.bfloat16)(faces).dtype == torch.bfloat16, "autocast lowers what can bear it"
    assert net(faces).dtype == torch.float32
    with pytest.raises(ValueError, match="needs an attribute image_size"):
        as_restoring(Double())
