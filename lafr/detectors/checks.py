"""Whether the points of a face fit each other, its box and the photo: a face that they do not fit is not restored."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lafr_base.geometry import FFHQ_POINTS, centre_and_radius, similarity, transform

MISFIT = 0.65
"""Largest :func:`misfit`. Of 4,418 photos of faces in all poses the worst had 0.51 by YuNet's points; a face in full
profile has 0.64, one whose sides are swapped 0.99, and nine of ten sets of random points more than 0.68."""
BOX_SIDES = (2.0, 9.0)
"""Sides of a box, in RMS distances of the points from their mean; detectors' boxes have 3.5 to 5."""
BOX_MARGIN = 0.1
"""How far points may lie outside their box, as a share of its side."""
PHOTO_MARGIN = 0.3
"""How far a point may lie outside the photo, in RMS distances of the points from their mean. A face that the photo's
edge cuts by more has too little left to be aligned by: what stood there would be made up."""


def misfit(points: NDArray[Any]) -> float:
    """How badly five points (5, 2) fit an upright face, moved, turned and scaled: RMS distance, over their size.

    0 is a perfect fit. Near 1 nothing of the face is in them, as for points whose left and right are swapped.
    """
    points = np.asarray(points, dtype=np.float64)
    _, radius = centre_and_radius(points)
    if radius < 1e-6:
        return math.inf
    distance = transform(similarity(FFHQ_POINTS, points), FFHQ_POINTS) - points
    return float(np.sqrt((distance**2).sum(axis=1).mean())) / radius


def is_sound(box: NDArray[Any], points: NDArray[Any], width: int, height: int) -> bool:
    """Whether a face's box (4,) and points (5, 2) fit each other and a photo of so many pixels."""
    if not (np.isfinite(box).all() and np.isfinite(points).all()) or misfit(points) > MISFIT:
        return False
    _, radius = centre_and_radius(np.asarray(points, dtype=np.float64))
    sides = box[2:] - box[:2]
    if sides.min() < BOX_SIDES[0] * radius or sides.max() > BOX_SIDES[1] * radius:
        return False
    in_box = (points >= box[:2] - BOX_MARGIN * sides) & (points <= box[2:] + BOX_MARGIN * sides)
    margin = PHOTO_MARGIN * radius
    in_photo = (points >= -0.5 - margin) & (points <= np.array([width, height]) - 0.5 + margin)
    return bool(in_box.all() and in_photo.all())
