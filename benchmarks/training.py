"""Steps per second and peak memory of both training stages, with and without what makes them cheap.

    python benchmarks/training.py --out training.json
    python benchmarks/training.py --stages align_full --batch 1 --steps 5 --out training_full.json

Needs no weights and no photos: the base model has the mini prior's shape and random weights, the faces are smooth
noise degraded as in options/mini/align.yml. Stage ``align_full`` is options/lafr_align.yml on a VAE of SD 2.1's width,
512 x 512. The faces are so few that from the first timed step on a cache has all that it can have. Variants of a stage
take turns, step by step on the same batches, in one process; peak memory and idle share, the part of a step's time
that the network waits for data, come from one process for each. A ratio is the steps per second of a variant over
those of the stage's first.
"""

from __future__ import annotations

import argparse
import copy
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))

from machine import machine  # noqa: E402 - the script beside this one

import lafr  # noqa: E402
from lafr_models.launcher import patch_training
from lafr_models.options import complete, load_yaml

OPTIONS = Path(__file__).resolve().parents[1] / "options"
FILES = {"align": "mini/align.yml", "unet": "mini/unet.yml", "align_full": "lafr_align.yml"}
CACHE: dict[str, Any] = {"train": {"latent_cache": "cache"}}
KEPT_PAIRS: dict[str, Any] = {**CACHE, "datasets": {"train": {"n_draws": 1}}}
VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "align": {"plain": {}, "latent_cache": CACHE, "latent_cache, n_draws": KEPT_PAIRS},
    "align_full": {"plain": {}, "latent_cache": CACHE, "latent_cache, n_draws": KEPT_PAIRS},
    "unet": {
        "plain": {"train": {"decode_crop": None}},
        "decode_crop": {},
        "gradient_checkpointing": {"train": {"decode_crop": None}, "network_g": {"gradient_checkpointing": True}},
        "accumulate": {"train": {"decode_crop": None, "accumulate": 4}},
    },
}
"""Stages and their variants, as deltas of the stage's option file; the first is what the others are compared with."""

WARM_UP = 3
ALONE = 3  # timed steps of the process that has one variant


def write_mini(folder: Path) -> None:
    """Write a base model of mini's shape."""
    from basicsr.archs import build_network

    options = load_yaml(OPTIONS / "mini" / "prior.yml")["network_g"]
    build_network(load_yaml(OPTIONS / "mini" / "autoencoder.yml")["network_g"]).save_pretrained(folder / "vae")
    build_network({**options, "vae": str(folder / "vae")}).save_pretrained(folder / "base_model")


def write_full_vae(folder: Path) -> None:
    """Write a base model with Stable Diffusion 2.1's VAE; the UNet, which takes no part in stage 1, is a narrow one."""
    from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel

    from lafr_arch.base_configs import KNOWN

    configs = KNOWN["sd21-base"]
    narrow = {"block_out_channels": [32, 32, 32, 32], "attention_head_dim": 1, "cross_attention_dim": 8}
    AutoencoderKL.from_config(configs.vae).save_pretrained(folder / "base_model" / "vae")
    UNet2DConditionModel.from_config({**configs.unet, **narrow}).save_pretrained(folder / "base_model" / "unet")
    DDPMScheduler.from_config(configs.scheduler).save_pretrained(folder / "base_model" / "scheduler")


def prepare(folder: Path, stage: str, faces: int) -> None:
    """Write a stage's base model and faces."""
    torch.manual_seed(0)
    (folder / "faces").mkdir(parents=True)
    (write_full_vae if stage == "align_full" else write_mini)(folder)
    size = load_yaml(OPTIONS / FILES[stage])["datasets"]["train"]["image_size"]
    generator = np.random.default_rng(0)
    for index in range(faces):
        face = cv2.resize(generator.integers(0, 256, (24, 24, 3), dtype=np.uint8), (size, size))
        cv2.imwrite(str(folder / "faces" / f"{index:04}.png"), face)


def stage_options(stage: str, variant: str, folder: Path, batch: int) -> dict[str, Any]:
    """The options of one variant, complete, with everything that would need weights left out."""
    opt = load_yaml(OPTIONS / FILES[stage])
    opt["network_g"] |= {"base_model": str(folder / "base_model"), "prompt": None}
    opt["network_g"] |= VARIANTS[stage][variant].get("network_g", {})
    opt["network_g"].pop("alignment_weights", None)
    opt["train"] |= VARIANTS[stage][variant].get("train", {})
    opt["train"].pop("feature_opt", None)
    if "gan_opt" in opt["train"]:
        opt["train"]["gan_opt"]["start_iter"] = 0
    if "latent_cache" in opt["train"]:
        opt["train"]["latent_cache"] = opt["train"]["latent_cache"] and str(folder / variant)
    data = opt["datasets"]["train"]
    data |= {"dataroot_gt": str(folder / "faces"), "batch_size_per_gpu": batch, "use_hflip": False}
    data |= {"num_worker_per_gpu": 1, "n_images": None} | VARIANTS[stage][variant].get("datasets", {}).get("train", {})
    opt["datasets"].pop("val")
    opt |= {"dist": False, "rank": 0, "world_size": 1, "auto_resume": False, "num_gpu": torch.cuda.device_count()}
    complete(opt, str(folder), is_train=True)
    data |= {"phase": "train", "scale": 1}
    return opt


def batches(opt: dict[str, Any]) -> Iterator[Any]:
    """The stage's training data, each image with one LQ copy."""
    from basicsr.data import build_dataset
    from torch.utils.data import DataLoader

    from lafr_data.samplers import ResumableSampler

    options = {**opt["datasets"]["train"], "n_draws": 1}
    dataset = build_dataset(copy.deepcopy(options))
    loader = DataLoader(
        dataset,
        options["batch_size_per_gpu"],
        sampler=ResumableSampler(dataset, ratio=1000),
        num_workers=options["num_worker_per_gpu"],
    )
    yield from loader


def run_steps(stage: str, variants: list[str], folder: Path, batch: int, steps: int) -> dict[str, Any]:
    """Seconds of each variant's steps, taken in turn on the same batches, and the share spent waiting for data."""
    lafr.register()
    patch_training()
    from basicsr.models import build_model

    options = {variant: stage_options(stage, variant, folder, batch) for variant in variants}
    models = {}
    for variant, opt in options.items():
        torch.manual_seed(0)
        models[variant] = build_model(copy.deepcopy(opt))
    data = batches(next(iter(options.values())))
    seconds: dict[str, list[float]] = {variant: [] for variant in variants}
    losses: dict[str, float] = {}
    waits = []
    for step in range(1, WARM_UP + steps + 1):
        start = time.perf_counter()
        item = next(data)
        waits.append(time.perf_counter() - start)
        for variant, model in models.items():
            torch.manual_seed(step)  # the first step of stage 1 draws its codes before the model seeds itself
            start = time.perf_counter()
            model.feed_data(item)
            model.optimize_parameters(step)
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            seconds[variant].append(time.perf_counter() - start)
            losses[variant] = float(sum(v for k, v in model.get_current_log().items() if k.startswith("l_")))
    medians = {variant: statistics.median(values[WARM_UP:]) for variant, values in seconds.items()}
    return {
        "seconds": medians,
        "loss": losses,
        "wait": statistics.median(waits[WARM_UP:]),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
        "peak_gpu_mb": torch.cuda.max_memory_allocated() / 1e6 if torch.cuda.is_available() else None,
    }


def child(stage: str, variants: list[str], folder: Path, batch: int, steps: int) -> dict[str, Any]:
    """:func:`run_steps` in a process of its own."""
    command = [sys.executable, __file__, "--folder", str(folder), "--stages", stage, "--variants", *variants]
    command += ["--batch", str(batch), "--steps", str(steps)]
    lines = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()  # noqa: S603
    return json.loads(lines[-1])


def measure(stage: str, folder: Path, batch: int, steps: int) -> dict[str, Any]:
    """All figures of one stage."""
    variants = list(VARIANTS[stage])
    together = child(stage, variants, folder, batch, steps)
    first = together["seconds"][variants[0]]
    report: dict[str, Any] = {"batch": batch, "variants": {}}
    for variant in variants:
        alone = child(stage, [variant], folder, batch, ALONE)
        seconds = alone["seconds"][variant]
        report["variants"][variant] = {
            "steps_per_second": 1 / together["seconds"][variant],
            "ratio": first / together["seconds"][variant],
            "loss": together["loss"][variant],
            "idle_share": alone["wait"] / (alone["wait"] + seconds),
            "peak_memory_mb": alone["peak_mb"],
            "peak_gpu_memory_mb": alone["peak_gpu_mb"],
        }
    return report


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stages", nargs="+", choices=VARIANTS, default=["align", "unet"])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=10, help="timed steps of each variant (default %(default)s)")
    parser.add_argument("--out", type=Path, help="write the report as JSON")
    parser.add_argument("--variants", nargs="+", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.folder is not None:
        print(json.dumps(run_steps(args.stages[0], args.variants, args.folder, args.batch, args.steps)))
        return 0
    lafr.register()
    with tempfile.TemporaryDirectory() as temporary:
        stages = {}
        for stage in args.stages:
            folder = Path(temporary) / stage
            prepare(folder, stage, faces=WARM_UP * args.batch)
            stages[stage] = measure(stage, folder, args.batch, args.steps)
    report = {
        "stages": stages,
        "machine": machine(),
        "versions": {"lafr": lafr.__version__, "torch": torch.__version__},
    }
    text = json.dumps(report, indent=2)
    if args.out:
        args.out.write_text(text + "\n", encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
