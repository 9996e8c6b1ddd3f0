"""The paper's option files as a user runs them, on a tiny Stable Diffusion 2.1 with every loss, on a CPU."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from skimage import data as photos
from skimage import io

import lafr
from base_models import SD_IMAGE_SIZE, write_stable_diffusion

lafr.register()

from lafr_arch.lafr_arch import LAFRNet  # noqa: E402
from lafr_models.options import load_yaml  # noqa: E402
from tiny_weights import write_bfm, write_clip, write_d3dfr  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
MINI = ROOT / "lafr/pretrained/mini"
# NIQE needs larger images.
PSNR = "{psnr: {type: calculate_psnr, crop_border: 0, test_y_channel: false}}"
TINY = (
    "num_gpu=0",
    "datasets:train:n_images=2",
    f"datasets:train:image_size={SD_IMAGE_SIZE}",
    f"datasets:val:image_size={SD_IMAGE_SIZE}",
    "datasets:train:num_worker_per_gpu=0",
    "datasets:train:batch_size_per_gpu=2",
    f"network_g:image_size={SD_IMAGE_SIZE}",
    "network_g:alignment:hidden=16",
    "network_g:alignment:n_codes=8",
    "val:val_freq=2",
    f"val:metrics={PSNR}",
    "logger:print_freq=1",
    "logger:save_checkpoint_freq=2",
)


def launch(root: Path, script: str, option_file: str, *settings: str, flags: tuple[str, ...] = ()) -> tuple[int, str]:
    """Run a launcher as a user does, its output under ``root``; return exit status and what it wrote."""
    environment = os.environ | {"LAFR_ROOT": str(root), "LAFR_WEIGHTS": str(root / "none"), "OMP_NUM_THREADS": "1"}
    environment |= {"HF_HOME": str(root / "none")}
    command = [sys.executable, str(ROOT / "basicsr" / script), "-opt", str(ROOT / "options" / option_file), *flags]
    command += ["--force_yml", *settings] if settings else []
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two faces, a tiny base model and tiny nets for the losses."""
    folder = tmp_path_factory.mktemp("full")
    (folder / "faces").mkdir()
    for i in range(2):
        io.imsave(folder / f"faces/{i}.png", photos.astronaut()[10 * i : 200 + 10 * i, 120:320], check_contrast=False)
    write_stable_diffusion(folder / "sd")
    write_d3dfr(folder / "d3dfr.pth")
    write_bfm(folder / "bfm.mat")
    write_clip(folder / "clip")
    return folder


def settings(root: Path) -> list[str]:
    roots = [f"datasets:{name}:dataroot_gt={root / 'faces'}" for name in ("train", "val")]
    return [*TINY, *roots, f"network_g:base_model={root / 'sd'}"]


@pytest.fixture(scope="module")
def aligned(root: Path) -> Path:
    """Stage 1, two steps."""
    options = [*settings(root), "train:total_iter=2", f"train:latent_cache={root / 'latents'}"]
    status, text = launch(root, "train.py", "lafr_align.yml", *options)
    assert status == 0, text
    assert "alignment module" in text  # the sizes
    assert "l1_reduction" in text
    assert len(list(root.glob("latents/*/*.npy"))) in (2, 3, 4)  # two faces, two orientations
    return root / "experiments/lafr_align/models/net_g_latest.pth"


def unet_settings(root: Path) -> list[str]:
    """Stage 2 finds stage 1's adapter by the path that its option file has, under LAFR_ROOT."""
    return [
        *settings(root),
        "train:perceptual_opt:random_backbone=true",
        f"train:identity_opt:model={root / 'clip'}",
        f"train:structure_opt:net_path={root / 'd3dfr.pth'}",
        f"train:structure_opt:face_model_path={root / 'bfm.mat'}",
    ]


@pytest.mark.usefixtures("aligned")
def test_both_stages_resume_export_and_test(root: Path, monkeypatch: pytest.MonkeyPatch):
    options = unet_settings(root)
    status, text = launch(root, "train.py", "lafr_unet.yml", *options, "train:total_iter=2")
    assert status == 0, text
    for name in ("l_pixel", "l_perceptual", "l_identity", "l_structure", "psnr"):
        assert name in text
    status, text = launch(root, "train.py", "lafr_unet.yml", *options, "train:total_iter=4", flags=("--auto_resume",))
    assert status == 0, text
    assert "Resuming training from epoch: 0, iter: 2" in text
    run = root / "experiments/lafr_unet"
    assert {p.name for p in run.glob("models/*.pth")} == {"net_g_2.pth", "net_g_4.pth", "net_g_latest.pth"}
    assert list(run.glob("visualization/*/*.png"))

    # Exported from the checkpoint as deployed by the run.
    opt = load_yaml(ROOT / "options/lafr_unet.yml")
    opt["network_g"] |= {"base_model": str(root / "sd"), "image_size": SD_IMAGE_SIZE}
    opt["network_g"]["alignment"] |= {"hidden": 16, "n_codes": 8}
    (root / "unet.json").write_text(json.dumps(opt))  # JSON is YAML
    monkeypatch.setenv("LAFR_ROOT", str(root))
    command = ["export", str(root / "unet.json"), str(root / "out")]
    from lafr import cli

    assert cli.main(command) == 0
    exported, deployed = (LAFRNet.from_pretrained(folder) for folder in (root / "out", run / "deployed"))
    image = torch.rand(1, 3, SD_IMAGE_SIZE, SD_IMAGE_SIZE)
    torch.testing.assert_close(exported(image), deployed(image), rtol=0, atol=1e-5)

    status, text = launch(
        root,
        "test.py",
        "test_lafr.yml",
        "num_gpu=0",
        f"datasets:test_1:dataroot_gt={root / 'faces'}",
        f"datasets:test_1:image_size={SD_IMAGE_SIZE}",
        f"val:metrics={PSNR}",
    )
    assert status == 0, text
    assert "psnr" in text
    assert len(list(root.glob("results/lafr_test/visualization/celeba_x4/*.png"))) == 2


def test_osediff(root: Path):
    # It has no alignment module. The network of the distillation takes base model and prompt from network_g.
    options = [setting for setting in settings(root) if ":alignment:" not in setting]
    options += ["train:perceptual_opt:random_backbone=true", "train:total_iter=2"]
    status, text = launch(root, "train.py", "osediff.yml", *options)
    assert status == 0, text
    for name in ("l_pixel", "l_perceptual", "l_vsd", "l_vsd_lora", "psnr"):
        assert name in text
    run = root / "experiments/osediff"
    assert {p.name for p in run.glob("models/*_2.pth")} == {"net_g_2.pth", "net_vsd_2.pth"}
    assert LAFRNet.from_pretrained(run / "deployed").alignment is None


def test_bundled_mini_restores_a_folder(root: Path):
    settings = ("num_gpu=0", f"datasets:test_1:dataroot_gt={root / 'faces'}", f"network_g:folder={MINI}")
    status, text = launch(root, "test.py", "mini/test.yml", *settings)
    assert status == 0, text
    assert len(list(root.glob("results/mini_test/visualization/celeba_x4/*.png"))) == 2
    figures = {name: float(value) for name, value in re.findall(r"# (psnr|ssim|niqe): ([\d.]+)", text)}
    assert set(figures) == {"psnr", "ssim", "niqe"}
    assert figures["psnr"] > 20


def test_missing_files_are_told_at_once_before_the_run(tmp_path: Path):
    status, text = launch(tmp_path, "train.py", "lafr_unet.yml")
    assert status == 2
    for name in ("sd21-base", "vgg16", "clip-image-encoder", "d3dfr", "bfm", "alignment_weights", "datasets/ffhq"):
        assert name in text
    assert not list(tmp_path.iterdir())


def test_the_papers_settings():
    align, unet = (load_yaml(ROOT / "options" / name) for name in ("lafr_align.yml", "lafr_unet.yml"))
    batch = align["datasets"]["train"]["batch_size_per_gpu"]
    assert batch == 16
    assert align["train"]["total_iter"] * batch == 100 * align["datasets"]["train"]["n_images"]
    assert align["train"]["optim_g"]["lr"] == 1e-4
    assert unet["train"]["optim_g"]["lr"] == 5e-5
    assert (unet["train"]["total_iter"], unet["datasets"]["train"]["batch_size_per_gpu"]) == (17000, 2)
    weights = {key: value["loss_weight"] for key, value in unet["train"].items() if key.endswith("_opt")}
    assert weights == {"pixel_opt": 4, "perceptual_opt": 2, "identity_opt": 1, "structure_opt": 1}
    assert align["network_g"]["alignment"] | {"groups": 1, "skip": False} == align["network_g"]["alignment"]
