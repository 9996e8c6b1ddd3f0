"""Metrics that pyiqa serves: built from local files alone, equal to what pyiqa itself gives."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lafr_metrics.iqa_metric import _packaging_in_pkg_resources, _without_pretraining
from lafr_metrics.suite import Suite

pytest.importorskip("pyiqa", reason="pyiqa (extra `metrics`) is not installed")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty weights folder and torch hub's cache, and no network."""
    from pyiqa.utils import download_util

    def refuse(*_: Any) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setenv("LAFR_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "pyiqa"
    folder.mkdir(parents=True)
    monkeypatch.setattr(download_util, "DEFAULT_CACHE_DIR", str(folder))
    return folder


@pytest.fixture
def image(astronaut: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(astronaut[60:190, 100:290, ::-1])


def as_tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image[..., ::-1].transpose(2, 0, 1).copy())[None].float() / 255


def test_musiq_is_found_in_pyiqas_cache_and_equals_create_metric(cache: Path, image: np.ndarray):
    import pyiqa
    from pyiqa.archs.musiq_arch import MUSIQ

    assert "musiq-koniq" in Suite(["musiq"]).missing["musiq"]
    torch.save(MUSIQ(pretrained=False).state_dict(), cache / "musiq_koniq_ckpt-e95806b9.pth")
    suite = Suite(["musiq"])
    assert suite.names == ["musiq"]
    expected = pyiqa.create_metric("musiq", device=torch.device("cpu"))(as_tensor(image)).item()
    assert suite.measure(image)["musiq"] == pytest.approx(expected, abs=1e-4)


def tiny_clip(path: Path) -> None:
    """A CLIP of the ResNet kind as openai-clip stores it (TorchScript), with few channels."""
    with _packaging_in_pkg_resources():
        from clip.model import CLIP

    net = CLIP(
        embed_dim=64, image_resolution=64, vision_layers=(1, 1, 1, 1), vision_width=8, vision_patch_size=None,
        context_length=77, vocab_size=49408, transformer_width=64, transformer_heads=1, transformer_layers=1,
    )  # fmt: skip
    net.logit_scale.data.fill_(3)
    holder = nn.Module()
    for name, value in net.state_dict().items():
        *folders, last = name.split(".")
        place = holder
        for folder in folders:
            if not hasattr(place, folder):
                place.add_module(folder, nn.Module())
            place = getattr(place, folder)
        place.register_buffer(last, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.jit.save(torch.jit.script(holder), str(path))


def test_clipiqa_is_the_mean_probability_of_the_good_prompts(tmp_path: Path, image: np.ndarray):
    tiny_clip(tmp_path / "hub" / "clip" / "RN50.pt")
    suite = Suite(["clipiqa"])
    assert suite.names == ["clipiqa"], suite.missing
    value = suite.measure(image)["clipiqa"]

    from clip import tokenize
    from pyiqa.archs.clip_model import load

    net = load(str(tmp_path / "hub" / "clip" / "RN50.pt"), "cpu")
    pairs = ["Good image", "bad image", "Sharp image", "blurry image", "sharp edges", "blurry edges"]
    pairs += ["High resolution image", "low resolution image", "Noise-free image", "noisy image"]
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(1, 3, 1, 1)
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(1, 3, 1, 1)
    with torch.no_grad():
        logits = net((as_tensor(image) - mean) / std, tokenize(pairs), pos_embedding=False)[0]
    assert value == pytest.approx(logits.view(-1, 2).softmax(1)[:, 0].mean().item(), abs=1e-5)


def test_maniqa_asks_timm_for_no_download(monkeypatch: pytest.MonkeyPatch):
    from pyiqa.archs import maniqa_arch

    original = maniqa_arch.timm.create_model
    with _without_pretraining(maniqa_arch.timm):
        net = maniqa_arch.timm.create_model("vit_tiny_patch16_224", pretrained=True)
    assert sum(p.numel() for p in net.parameters()) > 5e6
    assert maniqa_arch.timm.create_model is original


def test_a_package_that_pyiqa_needs_is_named(cache: Path, monkeypatch: pytest.MonkeyPatch):
    from pyiqa.archs.musiq_arch import MUSIQ

    torch.save(MUSIQ(pretrained=False).state_dict(), cache / "musiq_koniq_ckpt-e95806b9.pth")
    monkeypatch.setitem(__import__("sys").modules, "pyiqa.archs.musiq_arch", None)
    assert "pip install 'lafr[metrics]'" in Suite(["musiq"]).missing["musiq"]
