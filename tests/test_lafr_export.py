"""`lafr export`: what it writes, in which dtype, what it refuses, and the ONNX file against torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from base_models import write_mini_prior
from lafr import cli
from lafr_arch.lafr_arch import LAFRNet  # noqa: E402 - after BasicSR can be imported
from lafr_arch.network_g_arch import build_lafr
from lafr_models.ema import trained_state  # noqa: E402


@pytest.fixture
def network(tmp_path: Path) -> dict[str, Any]:
    base = write_mini_prior(tmp_path / "base")
    return {"base_model": str(base), "prompt": None, "timestep": 250, "lora": {"rank": 2}}


def export(folder: Path, network: dict[str, Any], *arguments: str) -> int:
    option_file = folder / "options.yml"
    option_file.write_text(json.dumps({"network_g": {"type": "LAFRNet", **network}}))
    return cli.main(["export", str(option_file), str(folder / "out"), *arguments])


@pytest.fixture
def checkpoint(tmp_path: Path, network: dict[str, Any]) -> Path:
    """LoRA that does something, and an average that does something else."""
    state = trained_state(build_lafr(**network))
    average = {name: torch.randn_like(value) * 0.1 for name, value in state.items()}
    torch.save({"params": state, "params_ema": average}, tmp_path / "net_g.pth")
    return tmp_path / "net_g.pth"


def test_the_average_is_merged(tmp_path: Path, network: dict[str, Any], checkpoint: Path):
    assert export(tmp_path, network, "--weights", str(checkpoint)) == 0
    net = build_lafr(**network).eval()
    net.load_state_dict(torch.load(checkpoint, weights_only=True)["params_ema"], strict=False)
    image = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(LAFRNet.from_pretrained(tmp_path / "out")(image), net(image), rtol=0, atol=1e-4)


def test_dtype(tmp_path: Path, network: dict[str, Any], checkpoint: Path):
    assert export(tmp_path, network, "--weights", str(checkpoint), "--dtype", "bf16") == 0
    assert {v.dtype for v in load_file(tmp_path / "out/model.safetensors").values()} == {torch.bfloat16}


def test_onnx(tmp_path: Path, network: dict[str, Any], checkpoint: Path, capsys: pytest.CaptureFixture[str]):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    assert export(tmp_path, network, "--weights", str(checkpoint), "--onnx") == 0
    assert "largest difference from torch" in capsys.readouterr().out
    assert (tmp_path / "out/model.onnx").is_file()


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        ({}, (), "nothing is trained yet"),
        ({}, ("--weights", "nowhere.pth"), "nowhere.pth does not exist"),
        ({"with_unet": False, "lora": None}, (), "stage 1"),
        ({"base_model": "nobody/nothing"}, (), "nobody/nothing"),
        ({"lora": {"rank": 2, "targets": "attention"}}, ("--weights", "net_g.pth"), "does not fit"),
    ],
)
def test_refusals(
    tmp_path: Path,
    network: dict[str, Any],
    checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    change: dict[str, Any],
    arguments: tuple[str, ...],
    message: str,
):
    monkeypatch.chdir(tmp_path)
    assert checkpoint.is_file()
    assert export(tmp_path, network | change, *arguments) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
