"""Measure what the restorer does to faces that need no restoring, and whether keeping them costs the others anything.

    python benchmarks/intact.py FACES --out intact.json

FACES is a folder of sharp, FFHQ-aligned faces that the network was not trained on and `lafr.intact` not fitted to. At
each of --sizes they go in as they are: as aligned faces, and as photos whose face is found where the template has it.
The result, brought back to the size, is compared with them: PSNR, and sharpness, the variance of the Laplacian of the
gray face. Then they go in damaged by each of --degradations, at the network's size, and PSNR, sharpness and identity
(MobileFaceNet's cosine, where its weights are there) of the result to the original are measured. A degradation is a
preset, one of unseen_degradation.py, jpeg_Q (compressed at quality Q) or noise_S (of standard deviation S, in units of
1/255). All with `keep_intact` and without, from the same output of the network.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import torch
from tqdm import tqdm

import lafr
from lafr.choice import Wishes
from lafr.restorer import LAFRer
from lafr.results import RestoredPhoto
from lafr_base.geometry import FFHQ_POINTS
from lafr_base.weights import MissingWeightsError
from lafr_data.degradation_steps import compress_jpeg
from lafr_data.degradations import build_degradation
from lafr_data.sources import FaceImages
from lafr_data.validation_dataset import name_generator

sys.path.insert(0, str(Path(__file__).resolve().parent))
from unseen_degradation import MildDegradation, UnseenDegradation  # noqa: E402 - the script beside this one

MAX_PSNR = 100.0
"""In dB; that of a picture without an error, so that means are finite."""
LEAST_PSNR = 35.0
"""In dB, of a face that counts as kept."""
ROUTES = {"with": True, "without": False}
DEGRADATIONS = ["celeba_x4", "celeba_x8", "world", "unseen_x4", "unseen_x8", "unseen_mild", "jpeg_50", "noise_8"]


class Template:
    """A detector that finds one face, where FFHQ's template has it in a square photo."""

    name = "template"

    def detect(self, image: np.ndarray) -> list[Any]:
        """As `lafr.detectors.Detector` has it."""
        points = (FFHQ_POINTS + 0.5) * (len(image) / 512) - 0.5
        return [SimpleNamespace(landmarks=points, box=np.array([0, 0, *image.shape[1::-1]]), score=1.0)]


def sharpness(image: np.ndarray) -> float:
    """Variance of the Laplacian of the gray picture, of (H, W, 3) BGR uint8."""
    return float(cv2.Laplacian(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), cv2.CV_64F).var())


def psnr(first: np.ndarray, second: np.ndarray) -> float:
    """PSNR in dB of two pictures of uint8, at most `MAX_PSNR`."""
    error = np.mean((first.astype(np.float64) - second) ** 2)
    return float(min(MAX_PSNR, 10 * np.log10(255**2 / max(error, 1e-9))))


def resized(image: np.ndarray, side: int) -> np.ndarray:
    """A square picture at another size: averaged, or by Lanczos interpolation."""
    how = cv2.INTER_AREA if side < len(image) else cv2.INTER_LANCZOS4
    return image if side == len(image) else cv2.resize(image, (side, side), interpolation=how)


def damage(face: np.ndarray, degradation: str, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The pair (damaged, original) of a face (S, S, 3) BGR uint8, by a preset or an unseen degradation."""
    gt = (face[..., ::-1] / 255).astype(np.float32)
    if degradation.startswith("jpeg_"):
        lq = compress_jpeg(gt, int(degradation.removeprefix("jpeg_")))
    elif degradation.startswith("noise_"):
        deviation = float(degradation.removeprefix("noise_")) / 255
        lq = gt + rng.normal(0, deviation, gt.shape).astype(np.float32)
    elif degradation == "unseen_mild":
        lq = MildDegradation().apply(gt, rng)
    elif degradation.startswith("unseen_x"):
        lq = UnseenDegradation(int(degradation.removeprefix("unseen_x")), len(face)).apply(gt, rng)
    else:
        lq, gt = build_degradation(degradation, len(face)).apply(gt, rng)
    lq, gt = (np.rint(np.clip(x, 0, 1) * 255).astype(np.uint8)[..., ::-1] for x in (lq, gt))
    return np.ascontiguousarray(lq), np.ascontiguousarray(gt)


class Identity:
    """MobileFaceNet's cosine of two faces, or nothing where its weights are missing."""

    def __init__(self) -> None:
        self.metric: Any = None
        try:
            from lafr_metrics.face_metric import IdentitySimilarity

            self.metric = IdentitySimilarity()
        except MissingWeightsError as error:
            print(f"identity is left out: {error}", file=sys.stderr)

    def add(self, row: dict[str, list[float]], first: np.ndarray, second: np.ndarray) -> None:
        """Append the figure of two faces, (H, W, 3) BGR uint8."""
        if self.metric is not None:
            tensors = (
                torch.from_numpy(x[..., ::-1].transpose(2, 0, 1)[None].astype(np.float32) / 255)
                for x in (first, second)
            )
            row["identity"].append(float(self.metric(*tensors)))


def restored(restorer: LAFRer, image: np.ndarray, wishes: Wishes) -> dict[str, tuple[RestoredPhoto, float]]:
    """What becomes of a photo by each of `ROUTES`, and the CPU seconds of all that is done after the network."""
    steps = restorer.steps
    found = steps.search(steps.read(image), wishes).or_raise()
    outputs = steps.restore([(found, 0)], wishes.weight)
    results = {}
    for route, keep_intact in ROUTES.items():
        finishing = replace(steps, composer=replace(steps.composer, keep_intact=keep_intact))
        start = time.process_time()
        result = finishing.finish(copy.copy(found), outputs, wishes).or_raise()
        results[route] = result, time.process_time() - start
    return results


def measure(restorer: LAFRer, faces: FaceImages, sizes: list[int], degradations: list[str]) -> Any:
    """All figures; see the module."""
    identity = Identity()
    intact: Any = defaultdict(lambda: defaultdict(list))
    damaged: Any = defaultdict(lambda: defaultdict(list))
    seconds: dict[str, list[float]] = defaultdict(list)
    net_size = restorer.face_size
    for index in tqdm(range(len(faces)), unit="face", disable=None):
        original = np.ascontiguousarray(np.rint(faces.image(index)[..., ::-1] * 255).astype(np.uint8))
        for size in sizes:
            face = resized(original, size)
            intact[f"{size} original"]["sharpness"].append(sharpness(face))
            for kind, wishes in (("aligned", Wishes(has_aligned=True, paste_back=False)), ("photo", Wishes())):
                for route, (result, took) in restored(restorer, face, wishes).items():
                    picture = result.restored_faces[0] if result.restored_img is None else result.restored_img
                    row = intact[f"{size} {kind} {route}"]
                    row["psnr"].append(psnr(resized(picture, size), face))
                    row["enough"].append(float(row["psnr"][-1] >= LEAST_PSNR))
                    row["sharpness"].append(sharpness(resized(picture, size)))
                    row["kept"].append(result.kept[0] or 0.0)
                    seconds[f"{size} {kind} {route}"].append(took)
        for degradation in degradations:
            lq, gt = damage(resized(original, net_size), degradation, name_generator(faces.key(index), 0))
            pictures = {"input": lq}
            for route, (result, _) in restored(restorer, lq, Wishes(has_aligned=True, paste_back=False)).items():
                pictures[route] = result.restored_faces[0]
                damaged[f"{degradation} {route}"]["kept"].append(result.kept[0] or 0.0)
            for name, picture in pictures.items():
                row = damaged[f"{degradation} {name}"]
                row["psnr"].append(psnr(picture, gt))
                row["sharpness"].append(sharpness(picture))
                identity.add(row, picture, gt)
    return {
        "set": {"faces": len(faces), "network_size": net_size},
        "intact": {key: summary(row) for key, row in intact.items()},
        "damaged": {key: summary(row) for key, row in damaged.items()},
        "cpu_seconds": {key: float(np.median(values)) for key, values in seconds.items()},
        "versions": {"lafr": lafr.__version__, "torch": torch.__version__},
    }


def summary(row: dict[str, list[float]]) -> dict[str, float]:
    """Mean, median and least of each figure over the faces."""
    kinds = {"mean": np.mean, "median": np.median, "min": np.min}
    return {f"{name}_{kind}": float(of(values)) for name, values in row.items() for kind, of in kinds.items()}


def table(report: Any) -> str:
    """The report as lines of text."""
    lines = [f"{report['set']['faces']} faces, a network of {report['set']['network_size']} px"]
    for part in ("intact", "damaged"):
        for key, row in report[part].items():
            figures = [("psnr_mean", ".2f"), ("psnr_min", ".1f"), ("sharpness_median", ".0f"), ("identity_mean", ".3f")]
            figures += [("enough_mean", ".3f"), ("kept_mean", ".3f")]
            cells = [f"{name} {row[name]:{how}}" for name, how in figures if name in row]
            lines.append(f"{part:<8} {key:<24} {', '.join(cells)}")
    lines += [f"CPU seconds, {key:<16} {value:.3f}" for key, value in report["cpu_seconds"].items()]
    return "\n".join(lines)


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("faces", help="folder of sharp, FFHQ-aligned faces")
    parser.add_argument("--model", default="mini", help="as `lafr restore` takes it (default: %(default)s)")
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512, 1024], help="default: %(default)s")
    parser.add_argument("--degradations", nargs="+", default=DEGRADATIONS)
    parser.add_argument("--n_images", type=int, help="only this many faces")
    parser.add_argument("--out", type=Path, help="write the report as JSON")
    args = parser.parse_args()
    from lafr_base.option_map import OptionMap

    options = {"dataroot_gt": args.faces, "n_images": args.n_images}
    faces = FaceImages(OptionMap({k: v for k, v in options.items() if v is not None}, "intact"), "dataroot_gt", None)
    restorer = LAFRer(
        model=args.model, upscale=1, detection_model=Template(), device="cpu", identity=False, batch_size=1
    )
    report = measure(restorer, faces, args.sizes, args.degradations)
    if args.out:
        args.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(table(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
