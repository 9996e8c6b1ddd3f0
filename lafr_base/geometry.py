"""The one place that knows how a face lies in an FFHQ-aligned image, and how it is cut out of a photo.

Coordinates are pixel indices x, y: pixel (0, 0) has its centre at 0, 0, as OpenCV and the detectors have it. A picture
scaled by s therefore maps x to ``(x + 0.5) s - 0.5``. Matrices are (2, 3) similarities that map photo to crop.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

FFHQ_SIZE = 512
"""Side in pixels of the image that FFHQ_POINTS are stated for."""

FFHQ_POINTS: NDArray[np.float64] = np.array(
    [
        [192.98138, 239.94708],
        [318.90277, 240.1936],
        [256.63416, 314.01935],
        [201.26117, 371.41043],
        [313.08905, 371.15118],
    ]
)
"""Left eye, right eye, nose, left and right mouth corner, image-left first; x, y in pixels whose centres are whole
numbers (facexlib's FaceRestoreHelper)."""
FFHQ_POINTS.setflags(write=False)

CROP_RADII = 5.0
"""Side of the five-point alignment net's crop, in RMS distances of the five points from their mean."""


def similarity(source: np.ndarray, target: np.ndarray) -> Array:
    """Return the (2, 3) rotation, scale and shift that takes points (N, 2) nearest to others in least squares.

    The closed form of Umeyama (1991).
    """
    source_mean, target_mean = source.mean(axis=0), target.mean(axis=0)
    a, b = source - source_mean, target - target_mean
    variance = float((a * a).sum())
    cos = float((a * b).sum()) / variance
    sin = float((a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).sum()) / variance
    rotation = np.array([[cos, -sin], [sin, cos]])
    return np.column_stack((rotation, target_mean - rotation @ source_mean))


def align_matrix(landmarks: np.ndarray, size: int) -> np.ndarray:
    """Return the similarity that moves five landmarks onto the FFHQ template.

    In least squares. It places FFHQ faces as exactly as facexlib's LMEDS estimate (median deviation 11.5 px of 512 for
    both) and has no random choice in it.

    Args:
        landmarks: (5, 2) photo pixels: eyes, nose, mouth corners, image-left first.
        size: side of the crop in pixels.

    Returns:
        (2, 3) float64.

    Raises:
        ValueError: the landmarks are not finite, not (5, 2), or all in one place.
    """
    source = np.asarray(landmarks, dtype=np.float64)
    if source.shape != (5, 2) or not np.isfinite(source).all():
        raise ValueError(f"landmarks must be five finite points (5, 2); got {source.tolist()}")
    if float(((source - source.mean(axis=0)) ** 2).sum()) < 1e-6:
        raise ValueError(f"the five landmarks lie in one place, {source.mean(axis=0).tolist()}")
    return similarity(source, (FFHQ_POINTS + 0.5) * (size / FFHQ_SIZE) - 0.5)


def warp_face(image: np.ndarray, matrix: np.ndarray, size: int, interpolation: int = cv2.INTER_LINEAR) -> np.ndarray:
    """Cut the aligned face out of a photo.

    Enlarging is bilinear, as the degradation that networks are trained on ends with; shrinking averages all
    photo pixels that fall into a crop pixel. What lies outside the photo is its reflection.

    Args:
        image: (H, W, C) uint8, uint16 or float32.
        matrix: (2, 3) from `align_matrix`.
        size: side of the crop in pixels.
        interpolation: OpenCV's, for enlarging and turning.

    Returns:
        (size, size, C) of the photo's type.
    """
    # Only the part around the face: OpenCV warps no source beyond 32,767 px a side.
    height, width = image.shape[:2]
    x0, y0, x1, y1 = bounds(corners(cv2.invertAffineTransform(matrix), 0, 0, size, size), margin=3)
    x0, x1 = min(max(x0, 0), width - 1), max(min(x1, width), 1)
    y0, y1 = min(max(y0, 0), height - 1), max(min(y1, height), 1)
    part = image[y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)]
    matrix = matrix @ np.array([[1, 0, x0], [0, 1, y0], [0, 0, 1]])
    return warp(part, matrix, size, size, interpolation, cv2.BORDER_REFLECT)


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


def corners(matrix: np.ndarray, x0: float, y0: float, x1: float, y1: float) -> np.ndarray:
    """Return the four corners (4, 2) of a box, moved by a matrix."""
    box = np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])
    return box @ matrix[:, :2].T + matrix[:, 2]


def bounds(points: np.ndarray, margin: int) -> tuple[int, int, int, int]:
    """Return x0, y0, x1, y1 of the whole pixels that points (N, 2) span, and ``margin`` more on each side."""
    low, high = np.floor(points.min(axis=0)) - margin, np.ceil(points.max(axis=0)) + margin + 1
    return int(low[0]), int(low[1]), int(high[0]), int(high[1])


def warp(image: np.ndarray, matrix: np.ndarray, width: int, height: int, enlarge: int, border: int) -> np.ndarray:
    """Warp by a similarity without aliasing: where it shrinks, sample finely and average."""
    shrink = 1 / math.sqrt(abs(float(np.linalg.det(matrix[:, :2]))))
    if shrink <= 1.05:  # a few per cent alias nothing that can be seen, averaging would blur
        return cv2.warpAffine(image, matrix, (width, height), flags=enlarge, borderMode=border)
    k = math.ceil(shrink)
    fine = k * matrix + np.array([[0, 0, (k - 1) / 2], [0, 0, (k - 1) / 2]])
    sampled = cv2.warpAffine(image, fine, (width * k, height * k), flags=cv2.INTER_LINEAR, borderMode=border)
    return cv2.resize(sampled, (width, height), interpolation=cv2.INTER_AREA)
