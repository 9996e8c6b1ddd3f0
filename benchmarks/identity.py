"""What the identity net says of pairs of faces whose truth is known, and the calibration made of it.

    python benchmarks/identity.py FACES [FACES ...] --out identity.json [--calibrate FOLDER]

FACES are folders of FFHQ-aligned faces, one face a person, that the net was not trained on. Each face is degraded by
every preset and restored by a network; pairs of whole, degraded and restored faces of one person and of two are
compared. So are degraded faces with a restoring that is known to be wrong: another person's face in the colours and
shading of the degraded one. --calibrate writes what `lafr.identity.Calibration` reads into the net's folder. Where
MobileFaceNet's weights are found, its figures for the same pairs stand beside.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from tqdm import tqdm

import lafr
from lafr import LAFRer
from lafr.faces import keep_tones
from lafr.identity import FOLDER, IdentityMeter
from lafr_base.files import write_text
from lafr_base.images import read_image
from lafr_base.weights import MissingWeightsError
from lafr_data.degradations import PRESETS, build_degradation, degrade
from lafr_metrics.face_metric import IdentitySimilarity, separation

SIZE = 512
"""Side of the faces that are degraded, pixels."""

TRAINED_PRESETS = ("gfpgan", "codeformer2", "codeformer3", "osediff_face")
PERCENTILES = 100
OTHER = 7
"""Who stands in for whom in wrong restorings: the face so many places before."""

Embed = Callable[[list[np.ndarray]], np.ndarray]


def load_faces(folders: list[Path]) -> list[np.ndarray]:
    """Faces (512, 512, 3) BGR uint8 of folders, in order."""
    paths = [path for folder in folders for path in sorted(folder.iterdir()) if path.is_file()]
    faces = [read_image(path).bgr for path in paths]
    return [cv2.resize(face, (SIZE, SIZE), interpolation=cv2.INTER_AREA) for face in faces]


def degraded(face: np.ndarray, preset: str, seed: int) -> np.ndarray:
    """A degraded copy, BGR uint8; a function of preset and seed."""
    rng = np.random.default_rng([seed, list(PRESETS).index(preset)])
    lq, _ = degrade(face[..., ::-1].astype(np.float32) / 255, build_degradation(preset, SIZE), rng)
    return np.rint(lq[..., ::-1] * 255).astype(np.uint8)


def mixed(other: np.ndarray, degraded_face: np.ndarray) -> np.ndarray:
    """Another person's face, tied to a degraded one as the restorer ties its faces at weight 0.5."""
    tied = keep_tones(other.astype(np.float32), degraded_face.astype(np.float32), 0.5)
    return np.rint(np.clip(tied, 0, 255)).astype(np.uint8)


def teacher() -> Embed | None:
    """MobileFaceNet's embeddings, or None where its weights are not found."""
    try:
        net = IdentitySimilarity()
    except MissingWeightsError:
        return None

    def embed(faces: list[np.ndarray]) -> np.ndarray:
        tensors = [torch.from_numpy(np.ascontiguousarray(f[..., ::-1].transpose(2, 0, 1))) for f in faces]
        return np.concatenate([net.embed(tensor[None].float() / 255).numpy() for tensor in tensors])

    return embed


def embed_all(faces: list[np.ndarray], restorer: LAFRer, nets: dict[str, Embed]) -> dict[str, dict[str, Any]]:
    """Embeddings of every face by every net: net -> whole, or (degraded or restored, preset) -> (N, 128)."""
    found: dict[str, dict[Any, Any]] = {name: {"whole": embed(faces)} for name, embed in nets.items()}
    for preset in tqdm(TRAINED_PRESETS, desc="presets"):
        lq = [degraded(face, preset, seed) for seed, face in enumerate(faces)]
        results = list(restorer.enhance_many(lq, has_aligned=True))
        restored = [result.restored_faces[0] for result in results]
        wrong = [mixed(faces[index - OTHER], face) for index, face in enumerate(lq)]
        for name, embed in nets.items():
            found[name]["degraded", preset] = embed(lq)
            found[name]["restored", preset] = embed(restored)
            found[name]["wrong", preset] = embed(wrong)
    return found


def compare(embeddings: dict[Any, np.ndarray]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Figures of the same and of different pairs, by kind of pair, all presets together."""
    pairs: dict[str, tuple[list[np.ndarray], list[np.ndarray]]] = {}
    for preset in TRAINED_PRESETS:
        three = {"whole": embeddings["whole"]}
        three |= {kind: embeddings[kind, preset] for kind in ("degraded", "restored")}
        for one, other in itertools.combinations(three, 2):
            cosines = three[one] @ three[other].T
            same, different = pairs.setdefault(f"{one} - {other}", ([], []))
            same.append(np.diag(cosines))
            different.append(cosines[~np.eye(len(cosines), dtype=bool)])
    return {name: (np.concatenate(same), np.concatenate(different)) for name, (same, different) in pairs.items()}


def summary(same: np.ndarray, different: np.ndarray, threshold: float) -> dict[str, float]:
    """Figures of one kind of pair."""
    own, found = separation(torch.from_numpy(same), torch.from_numpy(different))
    return {
        "same_mean": float(same.mean()),
        "different_mean": float(different.mean()),
        "same_above_threshold": float((same > threshold).mean()),
        "different_above_threshold": float((different > threshold).mean()),
        "threshold_at_1_percent": own,
        "same_above_it": found,
    }


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("faces", type=Path, nargs="+", help="folders of FFHQ-aligned faces")
    parser.add_argument(
        "--net", type=Path, default=FOLDER, help="folder of the identity net; the bundled one by default"
    )
    parser.add_argument("--model", default="mini", help="what restores the faces (default %(default)s)")
    parser.add_argument("--calibrate", type=Path, metavar="FOLDER", help="write calibration.json there")
    parser.add_argument("--out", type=Path, help="write the report as JSON")
    args = parser.parse_args()
    nets: dict[str, Embed] = {"identity": IdentityMeter(folder=args.net).embed}
    if (embed := teacher()) is not None:
        nets["mobilefacenet"] = embed
    faces = load_faces(args.faces)
    embeddings = embed_all(faces, LAFRer(model=args.model, identity=False), nets)
    report: dict[str, Any] = {
        "faces": len(faces),
        "presets": TRAINED_PRESETS,
        "model": args.model,
        "versions": {"lafr": lafr.__version__, "torch": torch.__version__},
    }
    for name in nets:
        pairs = compare(embeddings[name])
        same = np.concatenate([figures for figures, _ in pairs.values()])
        different = np.concatenate([figures for _, figures in pairs.values()])
        threshold = float(np.percentile(different, 99))
        report[name] = {"threshold": threshold, "all": summary(same, different, threshold)}
        wrong = np.concatenate(
            [(embeddings[name]["degraded", p] * embeddings[name]["wrong", p]).sum(axis=1) for p in TRAINED_PRESETS]
        )
        report[name]["wrong"] = {"mean": float(wrong.mean()), "below_threshold": float((wrong < threshold).mean())}
        report[name] |= {kind: summary(*figures, threshold) for kind, figures in pairs.items()}
        if name == "identity" and args.calibrate:
            steps = np.linspace(0, 100, PERCENTILES + 1)
            stored = {"threshold": threshold} | {
                key: np.percentile(values, steps).round(4).tolist()
                for key, values in (("same", same), ("different", different))
            }
            write_text(args.calibrate / "calibration.json", json.dumps(stored) + "\n")
    if len(nets) == 2:
        # What users are shown (degraded against restored) against what they cannot know (whole against restored).
        shown, truth = compare(embeddings["identity"]), compare(embeddings["mobilefacenet"])
        figures = shown["degraded - restored"][0], truth["whole - restored"][0]
        report["correlation_with_truth"] = float(np.corrcoef(*figures)[0, 1])
    text = json.dumps(report, indent=2) + "\n"
    if args.out:
        args.out.write_text(text, encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
