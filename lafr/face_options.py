"""The flags that choose faces, weigh them, and watch over their identity: what `restore` and `batch` have in common."""

from __future__ import annotations

import argparse
import re
from typing import Any

OPTIONS = (
    "faces",
    "largest",
    "min_face",
    "face_box",
    "min_score",
    "like",
    "min_likeness",
    "only_center_face",
    "weight",
    "face_weights",
    "keep_identity",
    "identity_threshold",
)
"""Names of the parsed arguments, all of which JSON can hold."""


def add_face_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    group = parser.add_argument_group(
        "choice of faces", "Only faces that meet every condition are restored; the others keep their pixels to the bit."
    )
    add = group.add_argument
    add(
        "--faces",
        type=face_numbers,
        metavar="N,N-N",
        help="by number, left to right from 0, as --draw_box shows them and results are named: 0,2 or 1-3",
    )
    add("--largest", type=int, metavar="N", help="the N largest")
    add("--only_center_face", action="store_true", help="only the face nearest to the centre")
    add("--min_face", type=float, default=0, metavar="PX", help="with boxes of at least PX pixels a side")
    add("--face_box", type=_box, metavar="X0,Y0,X1,Y1", help="whose centre lies in this box of photo pixels")
    add("--min_score", type=float, default=0, metavar="S", help="that the detector is at least so sure of, 0 to 1")
    add("--like", metavar="PHOTO", help="that look like the largest face of a reference photo")
    add("--min_likeness", type=float, metavar="X", help="how much, -1 to 1 (default: the identity net's threshold)")
    add(
        "--face_weights",
        type=_weights,
        default={},
        metavar="N=W,N=W",
        help="weights of single faces by number, in place of -w: 0=0.3,2=0.8",
    )
    group = parser.add_argument_group(
        "identity", "Each restored face is compared with the face as it was in the photo."
    )
    add = group.add_argument
    add(
        "--keep_identity",
        "--keep-identity",
        action="store_true",
        help="a face that may no longer show the same person follows the photo more closely, step by step until it "
        "passes, or stays as it was; without it, such faces are named",
    )
    add(
        "--identity_threshold",
        type=float,
        metavar="X",
        help="figure below which a face counts as changed, -1 to 1 (default: what 1 %% of pairs of strangers reach)",
    )


def face_options(args: argparse.Namespace) -> dict[str, Any]:
    """Return the keyword arguments of `lafr.LAFRer.enhance_many` that the flags mean.

    Raises:
        ValueError: a value that cannot be used; the message names its flag.
    """
    from lafr.choice import FaceChoice

    weights = {int(number): weight for number, weight in args.face_weights.items()}
    for flag, weight in [("--weight", args.weight), *(("--face_weights", weight) for weight in weights.values())]:
        if not 0 <= weight <= 1:
            raise ValueError(f"{flag} must be within 0 to 1; got {weight:g}")
    choice = FaceChoice(
        numbers=None if args.faces is None else frozenset(args.faces),
        largest=args.largest,
        min_size=args.min_face,
        box=None if args.face_box is None else tuple(args.face_box),
        min_score=args.min_score,
        like=args.like,
        min_likeness=args.min_likeness,
    )
    return {
        "only_center_face": args.only_center_face,
        "weight": args.weight,
        "choice": choice,
        "weights": weights,
        "keep_identity": args.keep_identity,
    }


def face_numbers(text: str) -> list[int]:
    """Read numbers of faces, ascending, from a text such as 0,2 or 1-3.

    Raises:
        argparse.ArgumentTypeError: it is something else.
    """
    numbers: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,4})\s*(?:-\s*(\d{1,4})\s*)?", part)
        if match is None:
            raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers such as 0,2 or 1-3")
        first = int(match[1])
        numbers.update(range(first, int(match[2] or first) + 1))
    if not numbers:
        raise argparse.ArgumentTypeError(f"{text!r} names no face")
    return sorted(numbers)


def _box(text: str) -> list[float]:
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) != 4:
        raise argparse.ArgumentTypeError(f"{text!r} is not a box of four pixel positions such as 100,50,400,350")
    return values


def _weights(text: str) -> dict[str, float]:
    weights: dict[str, float] = {}
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,4})\s*=\s*(\d*\.?\d+)\s*", part)
        if match is None:
            raise argparse.ArgumentTypeError(f"{text!r} is not a list of weights such as 0=0.3,2=0.8")
        weights[str(int(match[1]))] = float(match[2])  # as JSON, which has no other keys, gives it back
    return weights
