"""What tests of the ablations need: tiny base models, faces, and files of the nets that the losses look through."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch

from base_models import MINI_IMAGE_SIZE, SD_IMAGE_SIZE, write_mini_prior, write_stable_diffusion
from lafr_arch.mobilefacenet_arch import MobileFaceNet
from lafr_studies.ablations.paper_tables import read_ablations
from lafr_studies.ablations.runs import Planner
from stage_options import batch
from tiny_weights import write_3ddfa, write_3ddfa_basis, write_arcface, write_bfm, write_clip, write_d3dfr

ABLATIONS = read_ablations()
SIZES = {"mini": MINI_IMAGE_SIZE, "full": SD_IMAGE_SIZE}


@cache
def planner(scale: str) -> Planner:
    """The planner of a scale's trainings, for plans alone: nothing is written."""
    return Planner(ABLATIONS, scale, Path("out"))


def find_weights_in(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let weights be found in what :func:`write_workspace` wrote, and nowhere else."""
    monkeypatch.setenv("LAFR_WEIGHTS", str(root / "weights"))
    for name in ("HF_HOME", "TORCH_HOME"):
        monkeypatch.setenv(name, str(root / "none"))


def write_workspace(root: Path) -> Path:
    """``mini`` and ``full`` base models, ``faces`` (three), and the mini scale's nets in ``weights``."""
    write_mini_prior(root / "mini")
    write_stable_diffusion(root / "full")
    (root / "faces").mkdir()
    for i, image in enumerate(batch(3, MINI_IMAGE_SIZE)["gt"]):
        cv2.imwrite(str(root / "faces" / f"{i}.png"), (255 * image).byte().permute(1, 2, 0).numpy()[..., ::-1])
    named = root / "weights"
    named.mkdir(parents=True)
    torch.manual_seed(0)
    write_3ddfa(named / "mb05_120x120.pth")
    write_3ddfa_basis(named / "3ddfa_68_basis.npz")
    torch.save({"net_state_dict": MobileFaceNet().state_dict()}, named / "mobilefacenet_068.ckpt")
    write_arcface(root / "arcface.pth")
    write_d3dfr(root / "d3dfr.pth")
    write_bfm(root / "bfm.mat")
    write_clip(root / "clip")
    return root


def tiny_losses(train: dict[str, Any], root: Path) -> dict[str, Any]:
    """The ``train:`` options with the losses' nets from :func:`write_workspace`, and nothing else changed."""
    files: dict[str, dict[str, Any]] = {
        "IdentityCLIPLoss": {"model": str(root / "clip")},
        "ArcFaceLoss": {"path": str(root / "arcface.pth")},
        "LPIPSLoss": {"random_backbone": True},
        "DISTSLoss": {"random_backbone": True},
        "FeatureLoss": {"path": str(root / "weights" / "mb05_120x120.pth")},
    }
    train = copy.deepcopy(train)
    for key, options in train.items():
        if key.endswith("_opt"):
            options.update(files.get(options["type"], {}))
            if options.get("backend") == "d3dfr":
                options.update(net_path=str(root / "d3dfr.pth"), face_model_path=str(root / "bfm.mat"))
    return train


def tiny_settings(root: Path, scale: str = "mini") -> list[str]:
    """``--force_yml`` that makes a scale's runs tiny."""
    data = [f"datasets:{phase}:{key}" for phase in ("train", "val") for key in ("dataroot_gt", "image_size")]
    return [
        *(f"{key}={root / 'faces' if key.endswith('gt') else SIZES[scale]}" for key in data),
        f"network_g:base_model={root / scale}",
        "datasets:train:num_worker_per_gpu=0",
        "datasets:train:batch_size_per_gpu=2",
        *(["unet:train:feature_opt:path=mb05_120x120.pth"] if scale == "mini" else []),  # by name: a tiny one will do
        "num_gpu=0",
        "train:warmup_iter=-1",
    ]
