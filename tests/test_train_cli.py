"""basicsr/train.py as a user runs it: stopped and resumed, on two processes, with faulty options."""

from __future__ import annotations

import os
import re
import runpy
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch
import yaml

from base_models import MINI_IMAGE_SIZE, write_mini_prior
from conftest import ROOT
from lafr_models.options import load_yaml
from stage_options import ADAPTER, PIXEL, batch

TRAIN = str(ROOT / "basicsr" / "train.py")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a mini prior (``prior``) and six faces (``faces``)."""
    folder = tmp_path_factory.mktemp("train")
    write_mini_prior(folder / "prior")
    (folder / "faces").mkdir()
    for i, image in enumerate(batch(6, MINI_IMAGE_SIZE)["gt"]):
        pixels = (255 * image).byte().permute(1, 2, 0).numpy()[..., ::-1]
        cv2.imwrite(str(folder / "faces" / f"{i}.png"), pixels)
    return folder


def options(workspace: Path, name: str, **train: Any) -> dict[str, Any]:
    data = {"name": "faces", "dataroot_gt": str(workspace / "faces"), "image_size": MINI_IMAGE_SIZE}
    return {
        "name": name,
        "model_type": "LAFRAlignModel",
        "num_gpu": "auto",
        "manual_seed": 5,
        "datasets": {
            "train": {
                **data,
                "type": "FaceDegradationDataset",
                "degradation": "gfpgan",
                "num_worker_per_gpu": 1,
                "batch_size_per_gpu": 2,
                "dataset_enlarge_ratio": 1,
            },
            "val": {**data, "name": "faces_val", "type": "ValidationFaceDataset", "n_images": 2},
        },
        "network_g": {
            "type": "LAFRNet",
            "base_model": str(workspace / "prior"),
            "prompt": None,
            "with_unet": False,
            "sample_latent": True,
            "alignment": ADAPTER,
        },
        "path": {},
        "train": {
            "optim_g": {"type": "AdamW", "lr": 1e-3},
            "scheduler": {"type": "CosineAnnealingRestartLR", "periods": [8], "restart_weights": [1], "eta_min": 0},
            "warmup_iter": 3,
            "total_iter": 8,
            "ema_decay": 0.5,
            "reseed_every": 2,
            "reseed_until": 8,
            **train,
        },
        "val": {
            "val_freq": 2,
            "save_img": False,
            "metrics": {"psnr": {"type": "calculate_psnr", "crop_border": 0}},
        },
        "logger": {"print_freq": 1, "save_checkpoint_freq": 4, "use_tb_logger": True},
    }


def write(folder: Path, opt: dict[str, Any]) -> str:
    path = folder / f"{opt['name']}.yml"
    path.write_text(yaml.safe_dump(opt, sort_keys=False))
    return str(path)


def launch(root: Path, *arguments: str, program: tuple[str, ...] = (TRAIN,)) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {
        "LAFR_ROOT": str(root),
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    return subprocess.run(
        [sys.executable, *program, *arguments],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


def torchrun() -> tuple[str, ...]:
    """Arguments of Python that start a program as two processes."""
    return ("-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", str(free_port()))


def run_here(monkeypatch: pytest.MonkeyPatch, root: Path, *arguments: str) -> None:
    """Run the launcher in this process, which has imported everything."""
    monkeypatch.setenv("LAFR_ROOT", str(root))
    monkeypatch.setattr(sys, "argv", [TRAIN, *arguments])
    runpy.run_path(TRAIN, run_name="__main__")


def logged(log: str) -> dict[int, str]:
    """Learning rate, losses and codebook figures by iteration, as the log prints them."""
    lines = re.findall(r"iter:\s*(\d+), lr:\((\S+?),?\)\].*?(l_\w+:.*)", log)
    return {int(i): f"{lr} {values.strip()}" for i, lr, values in lines}


def test_stopped_and_resumed_equals_never_stopped(workspace: Path, tmp_path: Path):
    path = write(tmp_path, options(workspace, "run"))
    whole = launch(tmp_path, "-opt", path)
    assert whole.returncode == 0, whole.stderr[-3000:]
    run = tmp_path / "experiments" / "run"
    assert {p.name for p in tmp_path.iterdir()} == {"run.yml", "experiments", "tb_logger"}
    assert list((tmp_path / "tb_logger" / "run").glob("events*"))
    expected = logged(whole.stdout + whole.stderr)
    assert list(expected) == list(range(1, 9))
    assert "psnr" in whole.stdout + whole.stderr
    assert sorted(p.name for p in (run / "training_states").iterdir()) == ["4.state", "8.state"]
    latest = torch.load(run / "models" / "net_g_latest.pth", weights_only=True)

    # What a run killed in its fifth iteration leaves: an epoch has three, so it stopped inside the second.
    (run / "training_states" / "8.state").unlink()
    for name in ("net_g_8.pth", "net_g_latest.pth"):
        (run / "models" / name).unlink()
    resumed = launch(tmp_path, "-opt", path, "--auto_resume")
    assert resumed.returncode == 0, resumed.stderr[-3000:]
    output = resumed.stdout + resumed.stderr
    assert "Resuming training from epoch: 1, iter: 4" in output
    assert logged(output) == {i: expected[i] for i in range(5, 9)}
    again = torch.load(run / "models" / "net_g_latest.pth", weights_only=True)
    for key in ("params", "params_ema"):
        assert again[key].keys() == latest[key].keys()
        for name, value in latest[key].items():
            assert torch.equal(again[key][name], value), f"{key} {name}"


def test_two_processes_equal_one_with_twice_the_batch(workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    opt = options(workspace, "two", total_iter=3, optim_g={"type": "SGD", "lr": 1.0}, ema_decay=0, pixel_opt=PIXEL)
    del opt["train"]["scheduler"], opt["train"]["warmup_iter"], opt["network_g"]["with_unet"]
    del opt["train"]["reseed_every"], opt["train"]["reseed_until"]
    opt |= {"model_type": "LAFRUNetModel"}
    opt["network_g"] |= {"sample_latent": False, "timestep": 250, "lora": {"rank": 2, "targets": "conv"}}
    opt["logger"] |= {"save_checkpoint_freq": 2, "use_tb_logger": False}
    opt["val"]["val_freq"] = 100
    opt["datasets"]["train"]["num_worker_per_gpu"] = 0
    two = launch(tmp_path, "-opt", write(tmp_path, opt), "--launcher", "pytorch", program=(*torchrun(), TRAIN))
    assert two.returncode == 0, two.stderr[-3000:]
    opt["name"] = "one"
    run_here(monkeypatch, tmp_path, "-opt", write(tmp_path, opt), "--force_yml", "datasets:train:batch_size_per_gpu=4")

    def stored(name: str, label: str) -> dict[str, torch.Tensor]:
        path = tmp_path / "experiments" / name / "models" / f"net_g_{label}.pth"
        return torch.load(path, weights_only=True)["params"]

    ones, twos = stored("one", "latest"), stored("two", "latest")
    moved = 0.0
    for name, value in stored("one", "2").items():
        moved = max(moved, (ones[name] - value).abs().max().item())
        torch.testing.assert_close(twos[name], ones[name], rtol=1e-3, atol=2e-6)
    assert moved > 1e-4
    assert len(re.findall(r"l_pixel: \S+", two.stdout + two.stderr)) == 3  # the first process logs, the other does not
    assert (tmp_path / "experiments" / "two" / "deployed" / "model.safetensors").is_file()


def test_every_shipped_option_file_starts_on_two_processes(tmp_path: Path):
    files = [p for p in sorted((ROOT / "options").rglob("*.yml")) if "train" in load_yaml(p)]
    assert len(files) > 10
    done = launch(tmp_path, *map(str, files), program=(*torchrun(), str(ROOT / "tests/launch_worker.py")))
    assert done.returncode == 0, done.stderr[-3000:]
    for path in files:
        for rank in (0, 1):
            assert f"{path}: process {rank} of 2, sum 2" in done.stdout


def test_faulty_options_end_with_a_line_and_a_status(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    path = write(tmp_path, options(workspace, "run"))
    with pytest.raises(SystemExit) as exit_info:
        run_here(monkeypatch, tmp_path, "-opt", path, "--force_yml", "path:modles=x")
    assert exit_info.value.code == 2
    assert re.search(
        r"error: .*run\.yml: cannot start:\n- path: modles is unknown; known keys: ", capsys.readouterr().err
    )
    assert not (tmp_path / "experiments").exists()
