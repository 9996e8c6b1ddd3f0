"""What face detectors find in photos whose faces are known, at any angle, and in portraits coded again and again.

    python benchmarks/detection.py PHOTOS --labels detection_labels.json --detectors builtin yunet --out detection.json

PHOTOS is a folder; the labels are a JSON file: name of a photo -> its faces, each five points x, y (eyes, nose, mouth
corners, left first as in the image of the upright face). Those of `benchmarks/results/detection_labels.json` are
YuNet's, looked over by eye, for the photos that other restoration projects publish as examples. Each photo is turned by
every angle. A label is found where a detector's points have their mean within half of the label's size, half to twice
its size, and stand within 30 degrees of it; what fits no label is false. The error of the points is in distances
between the eyes. Times are of one CPU core.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from lafr.demo import PORTRAITS
from lafr.detectors import Detector, build_detector
from lafr.detectors.face import turn
from lafr_base.geometry import centre_and_radius, tilt, transform
from lafr_base.images import read_image

ANGLES = (0, 45, 90, 135, 180)
"""Degrees, clockwise."""
QUALITIES = range(10, 98, 2)
"""Of the JPEGs that the sample portraits are coded as: 44."""


def fits(points: np.ndarray, label: np.ndarray) -> bool:
    """Whether a detector's points are those of a label."""
    (centre, radius), (own_centre, own_radius) = centre_and_radius(label), centre_and_radius(points)
    askew = (tilt(points) - tilt(label) + 180) % 360 - 180
    near = np.linalg.norm(own_centre - centre) < 0.5 * radius
    return bool(near and 0.5 < own_radius / radius < 2 and abs(askew) < 30)


def compare(detector: Detector, photo: np.ndarray, labels: list[np.ndarray]) -> dict[str, Any]:
    """Count what a detector finds in a photo."""
    start = time.process_time()
    faces = [face.landmarks.astype(np.float64) for face in detector.detect(photo)]
    seconds = time.process_time() - start
    missing, errors, false = list(labels), [], 0
    for points in faces:
        match = next((i for i, label in enumerate(missing) if fits(points, label)), None)
        if match is None:
            false += 1
            continue
        label = missing.pop(match)
        errors.append(float(np.linalg.norm(points - label, axis=1).mean() / np.linalg.norm(label[0] - label[1])))
    return {"found": len(labels) - len(missing), "false": false, "seconds": seconds, "errors": errors}


def total(counts: list[dict[str, Any]], labels: int) -> dict[str, Any]:
    """Sum up photos."""
    errors = [error for count in counts for error in count["errors"]]
    return {
        "faces": labels,
        "found": sum(count["found"] for count in counts),
        "false": sum(count["false"] for count in counts),
        "point_error": round(float(np.mean(errors)), 3) if errors else None,
        "seconds_a_photo": round(sum(count["seconds"] for count in counts) / len(counts), 3),
    }


def at_angles(
    detector: Detector, photos: dict[str, np.ndarray], labels: dict[str, list[np.ndarray]], angles: list[int]
) -> dict[str, Any]:
    """Count what a detector finds in photos, turned."""
    report: dict[str, Any] = {}
    for angle in angles:
        counts = []
        for name, photo in photos.items():
            picture, matrix = turn(photo, angle)
            counts.append(compare(detector, picture, [transform(matrix, label) for label in labels[name]]))
        report[f"{angle} degrees"] = total(counts, sum(len(labels[name]) for name in photos))
        print(detector.name, angle, report[f"{angle} degrees"], flush=True)
    return report


def at_qualities(detector: Detector) -> dict[str, Any]:
    """Count in how many codes of each sample portrait its one face, none, or more is found."""
    report: dict[str, Any] = {}
    for name, load in PORTRAITS.items():
        codes = [cv2.imencode(".jpg", load(), [cv2.IMWRITE_JPEG_QUALITY, quality])[1] for quality in QUALITIES]
        found = [len(detector.detect(cv2.imdecode(code, cv2.IMREAD_COLOR))) for code in codes]
        report[name] = {"coded": len(codes), "one_face": found.count(1), "none": found.count(0)}
        report[name] |= {"more": sum(count > 1 for count in found)}
        print(detector.name, name, report[name], flush=True)
    return report


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, help="folder of photos")
    parser.add_argument(
        "--labels", type=Path, default=Path(__file__).parent / "results" / "detection_labels.json", help="their faces"
    )
    parser.add_argument("--detectors", nargs="+", default=["builtin"], metavar="NAME", help="as --detection_model")
    parser.add_argument("--angles", nargs="*", type=int, default=ANGLES, metavar="DEGREES", help="default: %(default)s")
    parser.add_argument("--portraits", action="store_true", help="also code the sample portraits 44 times each")
    parser.add_argument("--threshold", type=float, help="least confidence; a detector's own by default")
    parser.add_argument("--out", type=Path, help="write the report as JSON, beside what it has already")
    parser.add_argument(
        "--as", dest="suffix", default="", metavar="TEXT", help="appended to the detectors' names there"
    )
    args = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    labels = {
        name: [np.array(points, dtype=np.float64) for points in faces]
        for name, faces in json.loads(args.labels.read_text(encoding="utf-8")).items()
    }
    photos = {name: read_image(args.photos / name).bgr for name in labels}
    report = json.loads(args.out.read_text(encoding="utf-8")) if args.out and args.out.is_file() else {}
    for name in args.detectors:
        detector = build_detector(name, min_score=args.threshold)
        detector.detect(np.zeros((64, 64, 3), np.uint8))  # what is only loaded once
        own = report.setdefault(name + args.suffix, {})
        own |= at_angles(detector, photos, labels, list(args.angles))
        own |= at_qualities(detector) if args.portraits else {}
        if args.out:
            args.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
