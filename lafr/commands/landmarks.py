"""Find the five landmarks of FFHQ-aligned face photos: labels for training the alignment net.

The result is a JSON file {name without suffix: [[x, y], ...]} of left eye, right eye, nose, left and right mouth corner
(left as in the image), as fractions of the photo's sides. Photos where the detector finds no face near FFHQ's template
are left out; FacePointDataset gives them the template's points.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

HELP = "find the five landmarks of aligned face photos (labels for the alignment net)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``lafr landmarks``."""
    parser.add_argument("-i", "--input", type=Path, required=True, metavar="DIR", help="folder of aligned face photos")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="JSON file to write")
    parser.add_argument("--detection_model", default="auto", metavar="NAME", help="face detector (default: auto)")
    parser.add_argument("--device", default="cpu", help="torch device (default: cpu)")


def run(args: argparse.Namespace) -> int:
    """Write the landmarks; return 0, 1 where a photo could not be read or none had a face, 2 where nothing was done."""
    import cv2
    import numpy as np
    from tqdm import tqdm

    from lafr.detectors import build_detector
    from lafr_base.files import write_json
    from lafr_base.geometry import FFHQ_POINTS, FFHQ_SIZE, centre_and_radius
    from lafr_data.sources import ImageFolder, decode

    folder = ImageFolder(args.input, "--input")
    try:
        detector = build_detector(args.detection_model, args.device)
    except ValueError as error:
        print(f"--detection_model: {error}", file=sys.stderr)
        return 2
    template = (FFHQ_POINTS + 0.5) / FFHQ_SIZE
    _, nearest = centre_and_radius(template)
    landmarks: dict[str, list[list[float]]] = {}
    unreadable = 0
    for index, key in enumerate(tqdm(folder.keys, unit="photo", disable=None)):
        try:
            photo = decode(folder.encoded(index), folder.path(index))
        except (OSError, ValueError) as error:
            print(error, file=sys.stderr)
            unreadable += 1
            continue
        sides = np.array(photo.shape[1::-1])
        faces = [(f.landmarks + 0.5) / sides for f in detector.detect(cv2.cvtColor(photo, cv2.COLOR_RGB2BGR))]
        distance, best = min(
            ((float(np.linalg.norm(p - template, axis=1).mean()), p.tolist()) for p in faces), default=(np.inf, [])
        )
        if distance < nearest:
            landmarks[key] = [[round(value, 5) for value in point] for point in best]
    args.output.parent.mkdir(parents=True, exist_ok=True)
    write_json(args.output, landmarks)
    print(f"{args.output}: landmarks of {len(landmarks)} of {len(folder.keys)} photos by {detector.name}")
    return 1 if unreadable or not landmarks else 0
