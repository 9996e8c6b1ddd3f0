"""Quality of a deployed network on degraded faces: per image, with means and bootstrap intervals, beside LQ and HQ.

python benchmarks/quality.py --faces FOLDER [--model lafr/pretrained/mini] [--identity CHECKPOINT] --out quality.json
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

import lafr.compat  # noqa: F401 - BasicSR imports with any torchvision

# isort: split
from basicsr.metrics import calculate_niqe, calculate_psnr, calculate_ssim
from basicsr.utils import tensor2img
from torch.utils.data import DataLoader
from tqdm import tqdm

from lafr_arch.codebook import Codebook
from lafr_arch.lafr_arch import LAFRNet
from lafr_data.validation_dataset import ValidationFaceDataset
from lafr_metrics.identity import IdentitySimilarity
from lafr_models.latent_distance import LatentDistances


def interval(values: list[float], draws: int = 2000) -> dict[str, float]:
    """Mean and its 95 % bootstrap interval over images (fixed seed)."""
    data = np.array(values)
    rng = np.random.default_rng(0)
    means = data[rng.integers(0, len(data), (draws, len(data)))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return {"mean": float(data.mean()), "low": float(low), "high": float(high)}


@torch.inference_mode()
def measure(args: argparse.Namespace, seed: int, columns: dict[str, dict[str, list[float]]]) -> dict[str, Any]:
    """Restore every face of one seed; append each image's values to ``columns``; return the latents' distances."""
    net = LAFRNet.from_pretrained(args.model, args.device)
    identity = IdentitySimilarity(args.identity).to(args.device) if args.identity else None
    dataset = ValidationFaceDataset(
        {
            "name": "faces",
            "dataroot_gt": args.faces,
            "image_size": net.image_size,
            "degradation": args.degradation,
            "seed": seed,
        }
    )
    distances, used, codebooks = LatentDistances(), [], []
    if net.alignment is not None:
        codebooks = [module for module in net.alignment.modules() if isinstance(module, Codebook)]
    for codebook in codebooks:
        codebook.register_forward_pre_hook(lambda module, inputs: used.append(module.indices(inputs[0]).flatten()))
    for data in tqdm(DataLoader(dataset, batch_size=4), desc=f"seed {seed}", unit="batch", disable=None):
        lq, gt = data["lq"].to(args.device), data["gt"].to(args.device)
        latent = net.encode(lq)
        aligned = net.align(latent)
        distances.add(latent, aligned, net.encode(gt))
        restored = net.decode(net.denoise(aligned)).clamp(0, 1)
        views = {"lq": lq, "restored": restored, "hq": gt}
        for i in range(len(gt)):
            images = {name: tensor2img([view[i : i + 1].cpu()]) for name, view in views.items()}
            for name, image in images.items():
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    columns[name].setdefault("niqe", []).append(float(calculate_niqe(image, 0)))
                if name != "hq":
                    columns[name].setdefault("psnr_rgb", []).append(calculate_psnr(image, images["hq"], 0))
                    columns[name].setdefault("ssim_rgb", []).append(calculate_ssim(image, images["hq"], 0))
        if identity is not None:
            for name in ("lq", "restored"):
                columns[name].setdefault("identity", []).extend(identity(views[name], gt).tolist())
    result = distances.values()
    if used:
        result["codes_used"] = len(torch.cat(used).unique()) / (codebooks[0].n_codes)
    return result


def main() -> int:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faces", required=True, help="folder of FFHQ-aligned high-quality faces")
    parser.add_argument("--model", default=str(Path(__file__).parents[1] / "lafr" / "pretrained" / "mini"))
    parser.add_argument("--degradation", default="celeba_x4")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--identity", help="MobileFaceNet's checkpoint; without it identity is not measured")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", help="JSON file to write")
    args = parser.parse_args()

    columns: dict[str, dict[str, list[float]]] = {"lq": {}, "restored": {}, "hq": {}}
    latents = {str(seed): measure(args, seed, columns) for seed in args.seeds}
    table = {name: {metric: interval(v) for metric, v in values.items()} for name, values in columns.items()}
    metrics = ["psnr_rgb", "ssim_rgb", "niqe", "identity"]
    print(f"{'':10}" + "".join(f"{metric:>26}" for metric in metrics))
    for name, row in table.items():
        cells = [row.get(m) for m in metrics]
        text = [f"{c['mean']:.4f} [{c['low']:.3f}, {c['high']:.3f}]" if c else "-" for c in cells]
        print(f"{name:10}" + "".join(f"{cell:>26}" for cell in text))
    for seed, values in latents.items():
        print(f"latents, seed {seed}: " + ", ".join(f"{k} {v:.4f}" for k, v in values.items()))
    if args.out:
        report = {
            "degradation": args.degradation,
            "seeds": args.seeds,
            "images": len(columns["hq"]["niqe"]),
            "means": table,
            "latents": latents,
            "per_image": columns,
            "torch": torch.__version__,
        }
        Path(args.out).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
