"""Fit the weights of lafr/intact.py: what tells an intact face from one that is soft, noisy or compressed.

    python benchmarks/fit_intact.py FACES --out fit_intact.json

FACES is a folder of sharp, FFHQ-aligned faces. Each is taken at one of `SIZES`, by turns, as it is and as cameras and
people change it (`INTACT`), and damaged in each of the ways of `SOFT`, `NOISY`, `COMPRESSED` and `ANY`. For each of the
three questions of `lafr.intact.QUESTIONS` a logistic regression tells the intact faces from those damaged so. What is
damaged in several ways at once (`ANY`) counts for the question that it fails most clearly, in turns of fitting.

Printed are the weights, and for each kind of damage the share of faces that `lafr.keep.kept_share` would keep, by
regressions that have not seen the face (five groups of faces).
"""

from __future__ import annotations

import argparse
import json
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from lafr.intact import FIGURES, QUESTIONS, figures
from lafr.keep import ODDS_RANGE
from lafr_base.option_map import OptionMap
from lafr_data.degradation_steps import compress_jpeg, compress_webp
from lafr_data.degradations import build_degradation, degrade
from lafr_data.sources import FaceImages

Face = NDArray[np.float32]
"""RGB (S, S, 3) in [0, 1]."""

SIZES = (512, 256, 384, 192, 512, 128, 96)
SOFT_BELOW, ANY_BELOW = 34.0, 31.0
"""PSNR in dB below which soft faces and those damaged in several ways are called damaged: a preset may draw nothing."""
FOLDS, TURNS, STEPS, RIDGE = 5, 4, 15, 1e-4


def shrunk(face: Face, factor: float, enlarge: int = cv2.INTER_CUBIC) -> Face:
    """A face that was once smaller."""
    side = round(len(face) / factor)
    small = cv2.resize(face, (side, side), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(small, face.shape[:2], interpolation=enlarge))


def sharpened(face: Face, sigma: float, amount: float) -> Face:
    """A face whose edges were raised."""
    return np.asarray(face + np.float32(amount) * (face - cv2.GaussianBlur(face, (0, 0), sigma)))


def contrast(face: Face, factor: float) -> Face:
    """A face of another contrast."""
    return on_levels((face - face.mean()) * np.float32(factor) + face.mean())


def dark(face: Face) -> Face:
    """A face in the shadow."""
    return on_levels(face**1.8)


def noisy(face: Face, deviation: float, rng: np.random.Generator, channels: int = 3) -> Face:
    """A face with Gaussian noise, in units of 1/255; of one channel, it is gray."""
    return face + rng.normal(0, deviation / 255, (*face.shape[:2], channels)).astype(np.float32)


def preset(option: Any) -> Callable[[Face, np.random.Generator], Face]:
    """Damage by a preset of lafr_data, which leaves the colours as they are."""
    return lambda face, rng: degrade(face, build_degradation(option, len(face)), rng)[0]


WORLD = {"preset": "world", "intact_prob": 0, "gray_prob": 0, "tint_prob": 0}
Damages = dict[str, Callable[[Face, np.random.Generator], Face]]
INTACT: Damages = {
    "original": lambda face, rng: face,
    "jpeg 95": lambda face, rng: compress_jpeg(face, 95),
    "jpeg 85": lambda face, rng: compress_jpeg(face, 85),
    "jpeg 75": lambda face, rng: compress_jpeg(face, 75),
    "contrast 0.6": lambda face, rng: contrast(face, 0.6),
    "contrast 1.4": lambda face, rng: contrast(face, 1.4),
    "dark": lambda face, rng: dark(face),
    "sharpened": lambda face, rng: sharpened(face, 1, 1),
    "sharpened, jpeg 92": lambda face, rng: compress_jpeg(on_levels(sharpened(face, 0.7, 1.5)), 92),
}
SOFT: Damages = {
    "x2": lambda face, rng: shrunk(face, 2),
    "x3": lambda face, rng: shrunk(face, 3),
    "x4": lambda face, rng: shrunk(face, 4),
    "x4, linear": lambda face, rng: shrunk(face, 4, cv2.INTER_LINEAR),
    "blur": lambda face, rng: cv2.GaussianBlur(face, (0, 0), 2 * len(face) / 512),
    "x3, sharpened": lambda face, rng: sharpened(shrunk(face, 3), 1.5, 1.5),
    "x4, sharpened": lambda face, rng: sharpened(shrunk(face, 4), 2, 2),
    "dark, x4": lambda face, rng: shrunk(dark(face), 4),
    "contrast 0.6, x3": lambda face, rng: shrunk(contrast(face, 0.6), 3),
    "celeba_x4": preset("celeba_x4"),
    "codeformer3": preset("codeformer3"),
    "osediff_face": preset("osediff_face"),
}
NOISY: Damages = {
    "noise 6": lambda face, rng: noisy(face, 6, rng),
    "noise 12": lambda face, rng: noisy(face, 12, rng),
    "gray noise 8": lambda face, rng: noisy(face, 8, rng, 1),
    "dark, noise 6": lambda face, rng: noisy(dark(face), 6, rng),
}
COMPRESSED: Damages = {
    "jpeg 55": lambda face, rng: compress_jpeg(face, 55),
    "jpeg 35": lambda face, rng: compress_jpeg(face, 35),
}
ANY: Damages = {
    "world": preset(WORLD),
    "world again": preset(WORLD),
}
OPEN: Damages = {  # neither intact nor damaged
    "webp 40": lambda face, rng: compress_webp(face, 40),
    "noise 3": lambda face, rng: noisy(face, 3, rng),
    "x1.5": lambda face, rng: shrunk(face, 1.5),
}
KINDS = INTACT | SOFT | NOISY | COMPRESSED | ANY | OPEN
CLEAN_FOR = (  # beside the intact, what passes for each of the questions
    {*NOISY, *COMPRESSED},
    {*COMPRESSED, "x1.5", "x2", "x3", "blur"},
    {*NOISY, "x1.5", "x2", "x3", "blur"},
)


def on_levels(face: NDArray[Any]) -> Face:
    """Round to multiples of 1/255, as a file would."""
    return np.asarray(np.rint(np.clip(face, 0, 1) * 255) / 255, np.float32)


def measure(faces: FaceImages) -> tuple[NDArray[np.float64], list[str], NDArray[np.float64], NDArray[np.int64]]:
    """Figures (N, 9), kinds, PSNR in dB to the original, and groups of faces."""
    rows, kinds, psnrs, groups = [], [], [], []
    for index in tqdm(range(len(faces)), unit="face", disable=None):
        size = SIZES[index % len(SIZES)]
        face = on_levels(cv2.resize(faces.image(index), (size, size), interpolation=cv2.INTER_AREA))
        start = round(size * 3 / 16)
        for number, (kind, damage) in enumerate(KINDS.items()):
            changed = on_levels(damage(face, np.random.default_rng([index, number])))
            window = changed[start : size - start, start : size - start, ::-1]
            rows.append(figures(np.rint(window * 255).astype(np.uint8)))
            kinds.append(kind)
            psnrs.append(-10 * np.log10(max(float(((changed - face) ** 2).mean()), 1e-10)))
            groups.append(zlib.crc32(faces.key(index).encode()) % FOLDS)
    return np.array(rows), kinds, np.array(psnrs), np.array(groups)


def regress(x: NDArray[np.float64], y: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Logistic regression with a little ridge, by Newton's method: weights and, last, the constant."""
    columns = np.c_[x, np.ones(len(x))]
    ridge = RIDGE * weights.sum() * np.eye(columns.shape[1])
    ridge[-1, -1] = 0
    result = np.zeros(columns.shape[1])
    for _ in range(STEPS):
        share = 1 / (1 + np.exp(-np.clip(columns @ result, -30, 30)))
        slope = columns.T @ (weights * (share - y)) + ridge @ result
        curve = (columns * (weights * share * (1 - share) + 1e-9)[:, None]).T @ columns + ridge
        result -= np.linalg.solve(curve, slope)
    return np.asarray(result)


def fit(x: NDArray[np.float64], kinds: list[str], psnrs: NDArray[np.float64]) -> NDArray[np.float64]:
    """The three rows of weights (3, 10) for figures x (N, 9)."""
    middle, spread = x.mean(axis=0), x.std(axis=0)
    scaled = (x - middle) / spread

    def of(names: Any) -> NDArray[np.bool_]:
        return np.array([kind in names for kind in kinds])

    any_damage = of(ANY) & (psnrs < ANY_BELOW)
    damaged = (of(SOFT) & (psnrs < SOFT_BELOW), of(NOISY), of(COMPRESSED))
    blame = np.full((3, len(x)), 1 / 3)
    for _ in range(TURNS):
        rows = []
        for question in range(3):
            passes = of(INTACT) | of(CLEAN_FOR[question])
            used = passes | damaged[question] | any_damage
            weights = np.where(passes & ~of(INTACT), 0.3, np.where(any_damage, blame[question], 1.0))
            weights[of({"jpeg 75"})] = 3.0  # where intact ends
            weights[passes] *= weights[used & ~passes].sum() / weights[passes].sum()
            rows.append(regress(scaled[used], passes[used].astype(float), weights[used]))
        result = np.array(rows)
        odds = np.c_[scaled, np.ones(len(x))] @ result.T
        clear = np.exp(-np.clip(odds - odds.min(axis=1, keepdims=True), 0, 30))
        blame = (clear / clear.sum(axis=1, keepdims=True)).T
    slopes = result[:, :-1] / spread
    return np.c_[slopes, result[:, -1] - slopes @ middle]


def main() -> int:
    """Measure, fit, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("faces", help="folder of sharp, FFHQ-aligned faces")
    parser.add_argument("--n_images", type=int, help="only this many faces")
    parser.add_argument("--out", type=Path, help="write the report as JSON")
    parser.add_argument(
        "--measured", type=Path, help="keep the figures in this .npz, or take them from it if it is there"
    )
    args = parser.parse_args()
    options = {"dataroot_gt": args.faces, "n_images": args.n_images}
    faces = FaceImages(OptionMap({k: v for k, v in options.items() if v is not None}, "fit"), "dataroot_gt", None)
    if args.measured and args.measured.is_file():
        with np.load(args.measured) as file:
            x, kinds, psnrs, groups = file["x"], file["kinds"].tolist(), file["psnrs"], file["groups"]
    else:
        x, kinds, psnrs, groups = measure(faces)
        if args.measured:
            np.savez(args.measured, x=x, kinds=kinds, psnrs=psnrs, groups=groups)
    unseen = np.zeros(len(x))
    for group in range(FOLDS):
        others, held = groups != group, groups == group
        if held.any():
            weights = fit(x[others], [k for k, used in zip(kinds, others, strict=True) if used], psnrs[others])
            unseen[held] = (np.c_[x[held], np.ones(held.sum())] @ weights.T).min(axis=1)
    weights = fit(x, kinds, psnrs)
    names = np.array(kinds)
    report: dict[str, Any] = {
        "faces": len(faces),
        "figures": FIGURES,
        "weights": {question: row.tolist() for question, row in zip(QUESTIONS, weights, strict=True)},
    }
    report["kinds"] = {
        kind: {
            "psnr_median": float(np.median(psnrs[names == kind])),
            "odds": {str(q): float(np.quantile(unseen[names == kind], q)) for q in (0.01, 0.02, 0.5, 0.98, 0.99)},
            "kept": float((unseen[names == kind] > np.mean(ODDS_RANGE)).mean()),
        }
        for kind in KINDS
    }
    for question, row in zip(QUESTIONS, weights, strict=True):
        print(f"{question:20} {', '.join(f'{value:.3f}' for value in row)}")
    for kind, row in report["kinds"].items():
        odds = " ".join(f"{value:6.2f}" for value in row["odds"].values())
        print(f"{kind:20} PSNR {row['psnr_median']:5.1f}, log-odds {odds}, kept {row['kept']:.3f}")
    if args.out:
        args.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
