"""Options of tiny training runs, as dicts, and the models made from them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from basicsr.models import build_model
from torch import Tensor

import lafr
from lafr_models.launcher import patch_training

lafr.register()
patch_training()

ADAPTER = {"type": "LatentAlignmentAdapter", "hidden": 16, "n_codes": 8, "blocks": 1}
PIXEL = {"type": "L1Loss", "loss_weight": 1.0}


def options(root: Path, model_type: str, network_g: dict[str, Any], **train: Any) -> dict[str, Any]:
    """What ``parse_options`` makes of an option file, for a run of ``model_type`` under ``root``."""
    (root / "models").mkdir(parents=True, exist_ok=True)
    (root / "training_states").mkdir(exist_ok=True)
    return {
        "name": "tiny",
        "model_type": model_type,
        "num_gpu": 0,
        "manual_seed": 0,
        "dist": False,
        "rank": 0,
        "world_size": 1,
        "is_train": True,
        "auto_resume": False,
        "network_g": network_g,
        "path": {
            "experiments_root": str(root),
            "models": str(root / "models"),
            "training_states": str(root / "training_states"),
            "visualization": str(root / "visualization"),
        },
        "train": {"optim_g": {"type": "AdamW", "lr": 1e-2}, "total_iter": 8} | train,
        "val": {"metrics": {"psnr": {"type": "calculate_psnr", "crop_border": 0}}},
    }


def build(opt: dict[str, Any]) -> Any:
    """The model of the options, which stay as they are (BasicSR takes them apart)."""
    torch.manual_seed(0)
    return build_model(copy.deepcopy(opt))


def batch(size: int = 4, side: int = 32) -> dict[str, Any]:
    """Smooth random images and noisy copies, RGB in [0, 1]."""
    generator = torch.Generator().manual_seed(1)
    gt = torch.nn.functional.interpolate(torch.rand(size, 3, 5, 5, generator=generator), size=side, mode="bicubic")
    gt = gt.clamp(0, 1)
    lq = (gt + 0.1 * torch.randn(gt.shape, generator=generator)).clamp(0, 1)
    paths = [f"{i}.png" for i in range(size)]
    return {"lq": lq, "gt": gt, "lq_path": paths, "gt_path": paths}


def step(model: Any, current_iter: int, data: dict[str, Any] | None = None) -> dict[str, float]:
    """One iteration as the launcher does it; return its losses."""
    model.update_learning_rate(current_iter, warmup_iter=-1)
    model.feed_data(batch() if data is None else data)
    model.optimize_parameters(current_iter)
    return dict(model.get_current_log())


def learn(model: Any, data: dict[str, Any], iterations: int) -> list[float]:
    """Train on the same batch; return the sum of its losses at each iteration."""
    history = []
    for iteration in range(1, iterations + 1):
        model.feed_data(data)
        model.optimize_parameters(iteration)
        history.append(sum(model.log_dict.values()))
    return history


def snapshot(net: torch.nn.Module) -> dict[str, Tensor]:
    """A copy of all parameters and buffers."""
    return {name: value.detach().clone() for name, value in net.state_dict().items()}


def changed(net: torch.nn.Module, before: dict[str, Tensor]) -> set[str]:
    """Names of the parameters and buffers that are no longer bit for bit what they were."""
    return {name for name, value in net.state_dict().items() if not torch.equal(value, before[name])}


class Loader(list[dict[str, Any]]):
    """A validation loader: batches of one image, and a dataset with a name."""

    def __init__(self, count: int = 2) -> None:
        whole = batch(count)
        super().__init__({k: v[i : i + 1] for k, v in whole.items()} for i in range(count))
        self.dataset = type("Named", (), {"opt": {"name": "faces_val"}})()
