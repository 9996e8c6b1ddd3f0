"""Where the crop that the five-point alignment net looks at lies in a photo.

Coordinates are pixels x, y with pixel centres at whole numbers. A matrix is (2, 3), float64, and maps photo to crop.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from lafr_base.ffhq import FFHQ_POINTS

Array = NDArray[np.float64]

CROP_RADII = 5.0
"""Side of the alignment net's crop, in RMS distances of the five points from their mean."""


def centre_and_radius(points: Array) -> tuple[Array, float]:
    """Return the mean (2,) of ``points`` (N, 2) and their RMS distance from it, in pixels."""
    centre = points.mean(axis=0)
    return centre, float(np.sqrt(((points - centre) ** 2).sum(axis=1).mean()))


def tilt(points: Array) -> float:
    """Return by how many degrees the face of five ``points`` is turned clockwise, in the least-squares sense."""
    template = (FFHQ_POINTS - FFHQ_POINTS.mean(axis=0)) @ (1, 1j)
    return float(np.rad2deg(np.angle(template.conj() @ ((points - points.mean(axis=0)) @ (1, 1j)))))


def crop_matrix(centre: Array, side: float, angle: float, size: int) -> Array:
    """Return the matrix that maps the square at ``centre`` with ``side`` pixels, turned by ``angle``, to size x size.

    ``angle`` is in degrees: a face turned clockwise in the photo by it comes out upright.
    """
    radians = np.deg2rad(-angle)
    scale = size / side
    cos, sin = scale * np.cos(radians), scale * np.sin(radians)
    linear = np.array([[cos, -sin], [sin, cos]])
    return np.column_stack([linear, np.full(2, (size - 1) / 2) - linear @ centre])


def transform(matrix: Array, points: Array) -> Array:
    """Map ``points`` (..., 2) by ``matrix``."""
    return points @ matrix[:, :2].T + matrix[:, 2]


def invert(matrix: Array) -> Array:
    """Return the inverse of a similarity matrix."""
    linear = np.linalg.inv(matrix[:, :2])
    return np.column_stack([linear, -linear @ matrix[:, 2]])


def warp_crop(image: NDArray[np.uint8], matrix: Array, size: int) -> NDArray[np.uint8]:
    """Cut the crop (size, size, 3) that ``matrix`` defines out of ``image`` (H, W, 3); borders are reflected.

    Only the crop's surroundings are touched, and strong shrinking averages areas first, so that the cost does not
    depend on the photo's size and nothing aliases.
    """
    corners = transform(invert(matrix), np.array([[0, 0], [size, 0], [0, size], [size, size]], dtype=np.float64))
    height, width = image.shape[:2]
    left, top = np.clip(np.floor(corners.min(axis=0)) - 2, 0, (width - 1, height - 1)).astype(int)
    right, bottom = np.clip(np.ceil(corners.max(axis=0)) + 3, (left + 1, top + 1), (width, height)).astype(int)
    patch = image[top:bottom, left:right]
    matrix = np.column_stack([matrix[:, :2], transform(matrix, np.array([left, top], dtype=np.float64))])
    shrink = int(1 / np.sqrt(max(abs(np.linalg.det(matrix[:, :2])), 1e-12)))
    if shrink >= 2 and min(patch.shape[:2]) > 2 * shrink:
        new_width, new_height = patch.shape[1] // shrink, patch.shape[0] // shrink
        factors = np.array([patch.shape[1] / new_width, patch.shape[0] / new_height])
        patch = cv2.resize(patch, (new_width, new_height), interpolation=cv2.INTER_AREA)
        # pixel centres: x_old = (x_new + 0.5) * factor - 0.5
        offset = matrix[:, :2] @ ((factors - 1) / 2) + matrix[:, 2]
        matrix = np.column_stack([matrix[:, :2] * factors, offset])
    return cv2.warpAffine(patch, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
