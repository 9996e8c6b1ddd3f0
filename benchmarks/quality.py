"""Measure a deployed network on faces degraded on the spot: LQ input, restored and HQ, and what its adapter does.

    python benchmarks/quality.py FACES --out quality.json

FACES is a folder of FFHQ-aligned faces that the network was not trained on. Every pair is a function of file name and
seed. --degradation is a preset, ``unseen_x4`` or ``unseen_x8`` (unseen_degradation.py, which no training draws), or
``none``: the original goes in. --size 256 measures small photos: they are enlarged to the network's size, and its
result is shrunk back. Intervals resample the images, each with the mean of its seeds. Lines that need weights that are
not there (LAFR_WEIGHTS) are listed as missing.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

import lafr
from lafr_arch.codebook import Codebook
from lafr_arch.lafr_arch import LAFRNet
from lafr_data.validation_dataset import ValidationFaceDataset, name_generator
from lafr_losses.common import resize
from lafr_metrics.images import to_image
from lafr_metrics.statistics import bootstrap_mean
from lafr_metrics.suite import Suite
from lafr_models.latent_distance import LatentDistances

sys.path.insert(0, str(Path(__file__).resolve().parent))
from unseen_degradation import UnseenDegradation  # noqa: E402 - the script beside this one

MINI = Path(lafr.__file__).parent / "pretrained" / "mini"
MAX_PSNR = 100.0
"""In dB; that of a picture without an error, so that means are finite."""
COLUMNS = ("lq", "restored", "hq")


METRICS = ("psnr", "ssim", "niqe", "identity", "lpips_alex", "lpips_vgg")


def sharpness(pixels: Any) -> float:
    """Variance of the Laplacian of the gray picture, of (H, W, 3) BGR uint8."""
    return float(cv2.Laplacian(cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY), cv2.CV_64F).var())


LQ_MAKERS: dict[str, Any] = {
    "none": lambda face, _: face,
    **{f"unseen_x{n}": lambda face, rng, n=n: UnseenDegradation(n, len(face)).apply(face, rng) for n in (4, 8)},
}
"""What takes a preset's place: makers of an LQ copy (H, W, 3) of a face, RGB in [0, 1], from a generator."""


@torch.no_grad()
def measure(
    net: LAFRNet, faces: str, preset: str, seeds: list[int], n_images: int | None, size: int | None = None
) -> dict[str, Any]:
    """All figures of one network on one set; see the module."""
    suite, alone = Suite(METRICS), Suite(["niqe"])
    fast = net.for_inference()
    distances = LatentDistances()
    codebooks = [module for module in net.modules() if isinstance(module, Codebook)]
    used = [torch.zeros(book.groups, book.n_codes, dtype=torch.bool) for book in codebooks]

    def note(index: int) -> Any:
        def hook(book: Codebook, inputs: tuple[Tensor, ...]) -> None:
            for group, codes in enumerate(book.indices(inputs[0]).transpose(0, 1).flatten(1).cpu()):
                used[index][group, codes] = True

        return hook

    side = size or net.image_size
    hooks = [book.register_forward_pre_hook(note(i)) for i, book in enumerate(codebooks)]
    rows: dict[str, dict[str, dict[str, list[float]]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for seed in seeds:
        options: dict[str, Any] = {
            "name": "quality",
            "dataroot_gt": faces,
            "image_size": side,
            "degradation": "celeba_x4" if preset in LQ_MAKERS else preset,
            "seed": seed,
        }
        if n_images is not None:
            options["n_images"] = n_images
        dataset = ValidationFaceDataset(options)
        for index in tqdm(range(len(dataset)), desc=f"seed {seed}", unit="face", disable=None):
            item = dataset[index]
            lq, hq = item["lq"][None], item["gt"][None]
            if preset in LQ_MAKERS:
                rng = name_generator(Path(item["gt_path"]).stem, seed)
                made = LQ_MAKERS[preset](item["gt"].permute(1, 2, 0).numpy(), rng)
                lq = torch.from_numpy(np.ascontiguousarray(made)).permute(2, 0, 1)[None]
            seen, original = (resize(x, net.image_size) for x in (lq, hq))
            latent = net.encode(seen)
            distances.add(latent, net.align(latent), net.encode(original))
            restored = resize(fast(seen), side).clamp(0, 1)
            pixels = {"lq": to_image(lq), "restored": to_image(restored), "hq": to_image(hq)}
            for column, image in pixels.items():
                row = alone.measure(image) if column == "hq" else suite.measure(image, pixels["hq"])
                row = {**row, "sharpness": sharpness(image)}
                for name, value in row.items():
                    rows[item["gt_path"]][name][column].append(min(value, MAX_PSNR) if name == "psnr" else value)
    for hook in hooks:
        hook.remove()
    return {
        "set": {"faces": len(rows), "seeds": seeds, "degradation": preset, "image_size": side},
        "metrics": summarise(rows),
        "adapter": {**distances.values(), "used_codes": [float(table.float().mean()) for table in used]},
        "missing": suite.missing,
        "images": {Path(path).name: row for path, row in rows.items()},
        "versions": {"lafr": lafr.__version__, "torch": torch.__version__},
    }


def summarise(rows: Any) -> dict[str, Any]:
    """Mean and 95 % interval over images of each metric and column, and of restored minus LQ, paired."""
    result: dict[str, Any] = {}
    for metric in dict.fromkeys(name for row in rows.values() for name in row):
        columns = {
            column: [sum(row[metric][column]) / len(row[metric][column]) for row in rows.values()]
            for column in COLUMNS
            if all(row[metric][column] for row in rows.values())
        }
        result[metric] = {column: bootstrap_mean(values) for column, values in columns.items()}
        pairs = zip(columns["restored"], columns["lq"], strict=True)
        if metric == "sharpness":
            result[metric]["median"] = {column: float(np.median(values)) for column, values in columns.items()}
        result[metric]["gain"] = bootstrap_mean([after - before for after, before in pairs])
    return result


def table(report: dict[str, Any]) -> str:
    """The report as lines of text."""
    about = report["set"]
    heads = (*COLUMNS, "gain")
    lines = [f"{about['faces']} faces x seeds {about['seeds']}, {about['degradation']}, {about['image_size']} px"]
    lines.append(f"{'metric':<12}" + "".join(f"{head:>28}" for head in heads))
    for metric, columns in report["metrics"].items():
        cells = []
        for head in heads:
            value = columns.get(head)
            cells.append("-" if value is None else f"{value['mean']:.4f} [{value['low']:.4f}, {value['high']:.4f}]")
        lines.append(f"{metric:<12}" + "".join(f"{cell:>28}" for cell in cells))
    lines += [f"{name:<16} {value}" for name, value in report["adapter"].items()]
    if "sharpness" in report["metrics"]:
        lines.append(f"sharpness, medians: {report['metrics']['sharpness']['median']}")
    return "\n".join(lines + [f"missing: {name}: {why.splitlines()[-1]}" for name, why in report["missing"].items()])


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("faces", help="folder of FFHQ-aligned faces")
    parser.add_argument("--model", default=str(MINI), help="deployed folder; the bundled mini by default")
    parser.add_argument("--degradation", default="celeba_x4", help="preset (default %(default)s)")
    parser.add_argument("--size", type=int, help="side of the photos; the network's own by default")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--n_images", type=int, help="only this many faces")
    parser.add_argument("--out", type=Path, help="write the report, every image's values in it, as JSON")
    args = parser.parse_args()
    net = LAFRNet.from_pretrained(args.model)
    report = measure(net, args.faces, args.degradation, args.seeds, args.n_images, args.size)
    if args.out:
        args.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(table(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
