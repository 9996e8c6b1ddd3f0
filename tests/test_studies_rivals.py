"""lafr rivals: equal seconds, stages that find each other, and the paper's Tables 1 and 3 of what was trained."""

from __future__ import annotations

import os
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import pytest

pytest.importorskip("spandrel")

import lafr
from base_models import MINI_IMAGE_SIZE, write_mini_prior
from lafr.cli import main
from lafr_base.files import read_json
from lafr_studies import rivals
from stage_options import batch
from tiny_weights import write_3ddfa

lafr.register()

METHODS = ("lafr", "osediff", "gfpgan", "codeformer", "restoreformer")


def test_every_method_gets_its_seconds_and_the_same_faces(tmp_path: Path):
    from lafr_models.option_check import option_faults

    methods = rivals.read_methods()
    assert tuple(methods) == METHODS
    runs = rivals.plan(methods, 1000, tmp_path / "faces", tmp_path, ["num_gpu=0", "unet:train:ema_decay=0.5"])
    assert len(runs) == 8  # one autoencoder of codes for two methods
    for name, listed in methods.items():
        assert sum(runs[stage.name]["train"]["max_seconds"] for stage in listed) == pytest.approx(1000), name
    done: set[str] = set()
    sets = []
    for name, opt in runs.items():
        assert option_faults(opt, is_train=True) == []
        assert opt["num_gpu"] == 0
        network = opt["network_g"]
        starts = [
            network[k] for k in ("alignment_weights", "vq_weights", "start") if str(network.get(k)).endswith("pth")
        ]
        assert all(Path(start).parts[-3] in done for start in starts)
        done.add(name)
        train_set = opt["datasets"]["train"]
        assert train_set["dataroot_gt"] == str(tmp_path / "faces")
        assert "scheduler" not in opt["train"]
        if not train_set.get("gt_only"):
            sets.append({k: train_set.get(k) for k in ("degradation", "image_size", "n_images", "use_hflip")})
    assert all(one == sets[0] for one in sets)
    assert runs["unet"]["train"]["ema_decay"] == 0.5
    assert runs["align"]["train"]["ema_decay"] != 0.5
    with pytest.raises(rivals.RivalError, match="method vqfr is unknown; there are lafr, osediff"):
        rivals.read_methods(["vqfr"])


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The launcher runs here, which has imported everything; gives the option files that it was started with."""
    started = []

    def run(command: list[str], env: dict[str, str], **_: Any) -> SimpleNamespace:
        started.append(Path(command[3]).stem)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "environ", env)
            patch.setattr(sys, "argv", command[1:])
            runpy.run_path(command[1], run_name="__main__")
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(rivals, "subprocess", SimpleNamespace(run=run, STDOUT=None))
    return started


def test_seconds_of_training_and_two_tables(tmp_path: Path, in_this_process: list[str]):
    for i, image in enumerate(batch(3, MINI_IMAGE_SIZE)["gt"]):
        for folder in ("faces", "val"):
            (tmp_path / folder).mkdir(exist_ok=True)
            pixels = (255 * image).byte().permute(1, 2, 0).numpy()[..., ::-1]
            cv2.imwrite(str(tmp_path / folder / f"{i}.png"), pixels)
    prior = write_mini_prior(tmp_path / "prior")
    write_3ddfa(tmp_path / "3ddfa.pth")
    tiny = [
        "num_gpu=0",
        "datasets:train:image_size=32",
        "datasets:train:batch_size_per_gpu=2",
        "datasets:train:num_worker_per_gpu=0",
        "logger:use_tb_logger=false",
        *(f"{run}:network_g:base_model={prior}" for run in ("align", "unet")),
        *(f"{run}:network_g:alignment:{size}" for run in ("align", "unet") for size in ("hidden=16", "n_codes=8")),
        "unet:network_g:lora:rank=2",
        "unet:train:decode_crop=~",
        f"unet:train:feature_opt:path={tmp_path / '3ddfa.pth'}",
        "gfpgan:network_g:image_size=32",
        "gfpgan:network_g:narrow=0.03125",
        "gfpgan:network_g:num_style_feat=8",
        "gfpgan:network_components=~",
        "gfpgan:train:feature_opt=~",
        "gfpgan:train:identity_opt=~",
    ]
    command = ["rivals", "--faces", str(tmp_path / "faces"), "--val", str(tmp_path / "val"), "--seconds", "0.5"]
    command += ["--methods", "lafr", "gfpgan", "--metrics", "psnr", "ssim", "--size", "32", "--device", "cpu"]
    command += ["-o", str(tmp_path / "out"), "--force_yml", *tiny]
    assert main(command) == 0
    assert in_this_process == ["align", "unet", "gfpgan"]
    table, costs = (read_json(tmp_path / f"out/table_{number}.json") for number in (1, 3))
    assert table["sets"] == {"held-out faces": 3}
    assert table["paper"] == {}
    assert [row["method"] for row in table["rows"]] == ["lafr", "gfpgan"]
    for row in table["rows"]:
        for value, (low, high) in zip(row["values"], row["intervals"], strict=True):
            assert low <= value <= high
    minutes = costs["headings"].index("Training (min)")
    records = {run: read_json(tmp_path / f"out/experiments/{run}/training.json") for run in in_this_process}
    for row, runs, seconds in zip(costs["rows"], (["align", "unet"], ["gfpgan"]), ([0.1, 0.4], [0.5]), strict=True):
        assert row["values"][minutes] * 60 == pytest.approx(sum(records[run]["seconds"] for run in runs))
        for run, wanted in zip(runs, seconds, strict=True):
            assert records[run]["seconds"] >= wanted
            assert records[run]["iterations"] >= 1
    assert "Trained for the same seconds each: lafr, gfpgan." in (tmp_path / "out/table_3.md").read_text()
    assert (tmp_path / "out/compared/index.html").is_file()
    # Again: nothing is trained twice.
    assert main(command) == 0
    assert len(in_this_process) == 3
