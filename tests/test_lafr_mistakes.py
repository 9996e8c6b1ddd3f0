"""A user's mistakes are told in one line, without a traceback, before anything is written."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from lafr.cli import main
from lafr.networks import load_network, pick_device
from lafr_base.weights import WeightsError


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in" / "x.png"
    path.parent.mkdir()
    cv2.imwrite(str(path), np.full((32, 32, 3), 90, np.uint8))
    return path


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--device", "mps"], "networks run on a CPU or CUDA GPU"),
        (["--device", "meta"], "networks run on a CPU or CUDA GPU"),
        (["--device", "toaster"], "device 'toaster' is unknown"),
        (["--device", "cuda:99"], "CUDA GPU"),
        (["-s", "inf"], "upscale must be above 0 and finite"),
        (["-s", "nan"], "upscale must be above 0 and finite"),
        (["-s", "0"], "upscale must be above 0 and finite"),
        (["-w", "nan"], "must be within 0"),
        (["--batch_size", "0"], "batch_size must be at least 1"),
        (["--model", "absent"], "pass one of mini, a folder"),
        (["--model", "codeformer:absent.pth"], "does not exist"),
        (["--detection_model", "absent"], "absent"),
    ],
)
@pytest.mark.parametrize("command", [["restore", "-i"], ["batch"]])
def test_arguments(
    tmp_path: Path,
    source: Path,
    command: list[str],
    arguments: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
):
    device = [] if "--device" in arguments else ["--device", "cpu"]
    assert main([*command, str(source), "-o", str(tmp_path / "out"), *device, *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "out" / "run.json").exists()
    assert not (tmp_path / "out" / "restored_imgs").exists()


@pytest.mark.parametrize("name", ["RANK", "WORLD_SIZE"])
def test_variables(
    tmp_path: Path, source: Path, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv(name, "abc")
    assert main(["batch", str(source), "-o", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err == f"the variable {name} must be a whole number; it is 'abc'\n"


@pytest.mark.parametrize("kind", ["gfpgan", "codeformer", "restoreformer"])
@pytest.mark.parametrize("junk", [b"", b"junk", pickle.dumps({"a": 1}), "list", "wrong", "nested"])
def test_junk_checkpoints(tmp_path: Path, kind: str, junk: bytes | str):
    pytest.importorskip("spandrel")
    pytest.importorskip("spandrel_extra_arches")
    path = tmp_path / "junk.pth"
    if isinstance(junk, bytes):
        path.write_bytes(junk)
    else:
        torch.save({"list": [1], "wrong": {"conv.weight": torch.zeros(1)}, "nested": {"params": {1: "x"}}}[junk], path)
    with pytest.raises((ValueError, WeightsError)) as error:
        load_network(f"{kind}:{path}", torch.device("cpu"))
    assert str(path) in str(error.value)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("config", ["", "[1]", "{}", "[" * 100_000, json.dumps({"format": "lafr-1"})])
def test_junk_folders(tmp_path: Path, config: str):
    (tmp_path / "config.json").write_text(config)
    (tmp_path / "model.safetensors").write_bytes(b"junk")
    with pytest.raises(ValueError, match=r"config.json is not a deployed|model.safetensors is damaged") as error:
        load_network(str(tmp_path), torch.device("cpu"))
    assert len(str(error.value).splitlines()) == 1


def test_a_configuration_that_lacks_everything(tmp_path: Path):
    from safetensors.torch import save_file

    (tmp_path / "config.json").write_text(json.dumps({"format": "lafr-1"}))
    save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="no network that this version can build"):
        load_network(str(tmp_path), torch.device("cpu"))


def test_devices():
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device(None).type in ("cpu", "cuda")
