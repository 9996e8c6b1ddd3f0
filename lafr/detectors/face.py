"""What a detector returns, and what all detectors share."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from lafr.detectors.checks import is_sound
from lafr_base import weights
from lafr_base.geometry import Array, invert, tilt, transform
from lafr_base.registry import Registry

Picture = NDArray[np.uint8]
"""(H, W, 3) BGR."""


@dataclass(frozen=True)
class Face:
    """A face found in a photo; coordinates are pixels, pixel centres at whole numbers."""

    box: NDArray[np.float32]
    """(4,): x0, y0, x1, y1; may reach beyond the photo."""
    landmarks: NDArray[np.float32]
    """(5, 2): left eye, right eye, nose, left mouth corner, right mouth corner; left as in the image of the upright
    face."""
    score: float
    """Confidence, 0 to 1; not comparable between detectors."""


class Detector(Protocol):
    """Finds faces."""

    name: str
    """Its name in :data:`DETECTORS`."""

    def detect(self, img: Picture) -> list[Face]:
        """Find the faces of a BGR photo (H, W, 3) uint8, best score first.

        Raises:
            ValueError: ``img`` is something else.
        """


@dataclass(frozen=True, kw_only=True)
class DetectorSpec:
    """One detector.

    Attributes:
        name: what commands call it.
        rank: the lower, the sooner ``auto`` takes it.
        build: makes it of the path of its weights (None for one that has none), a torch device, and ``min_score`` where
            one is asked for.
        weights: what it needs, a name of ``lafr weights``; None for a detector without any.
        package: module that must be installed, beside what restoring needs anyway.
        other_names: that it is known by elsewhere.
    """

    name: str
    rank: int
    build: Callable[[Path | None, str, dict[str, float]], Detector]
    weights: str | None = None
    package: str | None = None
    other_names: tuple[str, ...] = ()

    def is_ready(self) -> bool:
        """Whether its weights and its library are there; nothing is fetched."""
        there = self.package is None or find_spec(self.package) is not None
        return there and (self.weights is None or weights.find(self.weights) is not None)


DETECTORS = Registry("face detector", "lafr.detectors", "_detector")
"""All detectors, by name: :class:`DetectorSpec`."""


def add_detector(spec: DetectorSpec) -> None:
    """Make a detector known.

    Raises:
        ValueError: another has its name.
    """
    DETECTORS.register(spec.name)(spec)


SMALLEST_PHOTO = 12
"""Photos with a side below this many pixels hold no face that could be found."""


def check_photo(img: Any) -> bool:  # noqa: ANN401
    """Return whether a photo is large enough to hold a face.

    Raises:
        ValueError: it is not a uint8 array of shape (H, W, 3).
    """
    if not isinstance(img, np.ndarray) or img.dtype != np.uint8 or img.ndim != 3 or img.shape[2] != 3:
        found = f"{img.dtype} {img.shape}" if isinstance(img, np.ndarray) else type(img).__name__
        raise ValueError(f"a detector takes a BGR photo, uint8 of shape (height, width, 3); got {found}")
    return min(img.shape[:2]) >= SMALLEST_PHOTO


def resize_to(img: Picture, pixels: int, largest_factor: float = 1.0) -> Picture:
    """Resize a photo to about ``pixels`` in all, enlarging it by ``largest_factor`` at most.

    Neither side falls below :data:`SMALLEST_PHOTO`. Panoramas keep more detail than by a limit of their long side.
    """
    height, width = img.shape[:2]
    factor = min(largest_factor, math.sqrt(pixels / (height * width)))
    size = max(round(width * factor), SMALLEST_PHOTO), max(round(height * factor), SMALLEST_PHOTO)
    if size == (width, height):
        return img
    return cv2.resize(img, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC)


def rescale(points: NDArray[Any], source: Picture, target: Picture) -> NDArray[np.float32]:
    """Move points (..., 2) from the resized photo ``source`` to ``target``: pixel areas, not centres, coincide."""
    factors = np.array([target.shape[1] / source.shape[1], target.shape[0] / source.shape[0]])
    return ((points + 0.5) * factors - 0.5).astype(np.float32)


TURNS = (45, 90, 135, 180, -135, -90, -45)
"""Degrees clockwise by which a photo is turned for detectors of upright faces, which miss those 40 degrees askew."""
TURNED_PIXELS = 400_000
"""Pixels of the copy that is turned where there is reason to look for turned faces."""
TURNED_SCORE = 0.05
"""How much surer than of an upright face a detector must be of one that is turned: such faces are rare, and seven more
looks at a photo would find eight times as many that are none."""
SURE = 0.3
"""How far above the least confidence the surest face must be for a photo to be taken for upright."""
MOST_ASKEW = 60.0
"""Degrees; a face that a detector shows further askew is known better where the photo is turned."""
CLOSE = 0.02
"""Scores that differ by no more say nothing of which way up a face is."""
OVERLAP = 0.5
"""Share of the smaller of two boxes above which both are of one face."""


def find_turned(
    img: Picture, search: Callable[[Picture], list[Face]], min_score: float, upright: list[Face], quick_pixels: int
) -> list[Face]:
    """Find faces that are askew, lie on their side or stand on their head, by a detector that finds upright ones.

    Nearly all photos stand upright. So a small copy is turned first, and a larger one only where that shows a face that
    is not among the upright ones, or shows it better, or where no upright one is sure.

    Args:
        img: the photo.
        search: finds the upright faces of a picture, in its pixels.
        min_score: least confidence, 0 to 1.
        upright: what it found in the photo as it is.
        quick_pixels: size of the small copy.

    Returns:
        Faces in pixels of ``img``, the upright ones among them.
    """
    upright = [face for face in upright if _stands(face)]
    least = min_score + (1 - min_score) * TURNED_SCORE
    found = _find_turned(img, search, least, quick_pixels)
    known = (
        any(_shared(face.box, other.box) > OVERLAP and other.score >= face.score - CLOSE for other in upright)
        for face in found
    )
    sure = any(face.score >= min_score + (1 - min_score) * SURE for face in upright)
    if sure and all(known):
        return upright
    closer = _find_turned(img, search, least, TURNED_PIXELS)
    return (
        upright + closer + [face for face in found if all(_shared(face.box, other.box) <= OVERLAP for other in closer)]
    )


def _stands(face: Face) -> bool:
    """Whether a face stands upright enough for a detector of upright faces to know its points."""
    return abs(tilt(face.landmarks.astype(np.float64))) < MOST_ASKEW


def _find_turned(img: Picture, search: Callable[[Picture], list[Face]], least: float, pixels: int) -> list[Face]:
    small = resize_to(img, pixels)
    found = []
    for angle in TURNS:
        picture, matrix = turn(small, angle)
        back = invert(matrix)
        for face in search(picture):
            if face.score >= least and _stands(face):
                corners = face.box.reshape(2, 2)
                centre, half = transform(back, corners.mean(axis=0)), (corners[1] - corners[0]) / 2
                half = np.sqrt(back[:, :2] ** 2 @ half**2)  # of the ellipse in the box, so that it keeps its size
                box = np.concatenate([centre - half, centre + half])
                landmarks = transform(back, face.landmarks.astype(np.float64))
                own = Face(box.astype(np.float32), landmarks.astype(np.float32), face.score)
                found.append(rescale_face(own, small, img))
    return found


def turn(img: Picture, angle: float) -> tuple[Picture, Array]:
    """Turn a photo clockwise by degrees, whole, on black; return it and the matrix (2, 3) that its pixels moved by."""
    height, width = img.shape[:2]
    radians = np.deg2rad(angle)
    linear = np.array([[np.cos(radians), -np.sin(radians)], [np.sin(radians), np.cos(radians)]]).round(12)
    extent = np.ceil(np.abs(linear) @ (width, height)).astype(int)
    shift = (extent - 1) / 2 - linear @ ((width - 1) / 2, (height - 1) / 2)
    matrix = np.column_stack([linear, shift])
    return cv2.warpAffine(img, matrix, extent.tolist(), flags=cv2.INTER_LINEAR), matrix


def rescale_face(face: Face, source: Picture, target: Picture) -> Face:
    """Move a face from the resized photo ``source`` to ``target``."""
    corners = rescale(face.box.reshape(2, 2), source, target)
    return Face(corners.flatten(), rescale(face.landmarks, source, target), face.score)


def settle(faces: list[Face], img: Picture, overlap: float) -> list[Face]:
    """Return the faces of a photo that can be restored, best first and each once; what every detector ends with."""
    return suppress([face for face in faces if is_sound(face.box, face.landmarks, img.shape[1], img.shape[0])], overlap)


def suppress(faces: list[Face], overlap: float) -> list[Face]:
    """Return the faces best first, without those that overlap a better one.

    Two faces overlap by the area their boxes share, over the smaller box's area: a box inside a larger one goes too.
    """
    kept: list[Face] = []
    for face in sorted(faces, key=lambda f: f.score, reverse=True):
        if all(_shared(face.box, other.box) <= overlap for other in kept):
            kept.append(face)
    return kept


def _shared(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    width, height = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    if width <= 0 or height <= 0:
        return 0.0
    return float(width * height / max(min(np.prod(a[2:] - a[:2]), np.prod(b[2:] - b[:2])), 1e-6))
