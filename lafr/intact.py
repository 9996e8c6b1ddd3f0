"""Whether a face in a photo is intact: sharp, free of noise, and free of compression, measured without a net.

A photo that was ever smaller or out of focus has little in its finest scale against the next. Noise is in the finest
scale everywhere, detail only here and there, so that the median of the finest diagonal differences tells one from the
other (Donoho and Johnstone, 1994). JPEG breaks a picture at every eighth pixel and empties its finest scale where
little happens. `figures` measures these; three linear functions of them, `WEIGHTS`, say how sure each of the three is.
They were fitted by benchmarks/fit_intact.py.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

from lafr_base.images import to_uint8

FIGURES = (
    *("diagonal_median", "diagonal_90", "diagonal_98", "straight_median", "straight_90"),
    *("coarse_diagonal_median", "coarse_diagonal_90", "coarse_straight_98", "blocks"),
)
"""Names of what `figures` gives: quantiles of the wavelet's magnitudes at the finest scale and at the next, coarse one,
and the step at the borders of blocks."""

QUESTIONS = ("sharp", "without noise", "without compression")

WEIGHTS = np.array(
    [
        [2.020, 4.398, 6.574, -4.583, -9.032, -0.797, 0.462, 1.983, 5.993, 0.728],
        [-13.405, 4.661, 5.148, -1.679, 4.178, -0.485, -0.806, -1.439, 9.681, -14.312],
        [-3.490, 4.331, 2.929, -3.769, -7.856, 5.470, -5.588, -0.288, -23.260, 47.762],
    ]
)
"""Of each of `QUESTIONS`: nine weights, in the order of `FIGURES`, and the constant. Their sums are log-odds."""

WINDOW = 5 / 8
"""Side of what is looked at, in sides of the aligned face: from brows to chin, with little of what is around it."""

MIN_SIDE = 96
"""Least side of a face, in photo pixels, that is looked at; smaller ones tell too little."""

FINER = 2.0
"""Noise and compression are looked for up to this many times the network's resolution; finer, they average away."""

SAME_SIZE = 1.05
"""Ratio of a face's side in the photo to the network's up to which it has no more detail than the network sees."""

_LEAST = 32  # pixels a side of what is looked at: of faces that lie partly outside the photo
_MOST = 384
_OFFSET = 0.1  # grey levels, so that nothing has a logarithm


def intact_odds(image: np.ndarray, matrix: np.ndarray | None, size: int) -> float | None:
    """Return the log-odds that a face is intact at the network's resolution: those of the worst of `QUESTIONS`.

    Args:
        image: (H, W, 3) BGR uint8 or uint16.
        matrix: (2, 3), photo pixels to those of the crop; None where the whole photo is the face.
        size: side of the crop, as the network sees it.

    Returns:
        None for a face of too few pixels to tell.
    """
    side = float(image.shape[0]) if matrix is None else face_side(matrix, size)
    if side < MIN_SIDE:
        return None
    window = _window(image, matrix, size, side)
    if min(window.shape[:2]) < _LEAST:
        return None
    if side <= SAME_SIZE * size:
        return float(log_odds(figures(window)).min())
    seen = log_odds(figures(_shrunk(window, size / side)))
    if min(window.shape[:2]) * size / side < _LEAST:
        return None
    finer = log_odds(figures(_middle(_shrunk(window, min(1.0, FINER * size / side)))))
    return float(min(seen.min(), finer[1:].min()))


def figures(window: np.ndarray) -> np.ndarray:
    """Measure what tells sharp from soft, and detail from noise and from compression.

    Args:
        window: (H, W, 3) BGR uint8, part of a face.

    Returns:
        (9,): natural logarithms of `FIGURES`, in grey levels; of ``blocks``, of a ratio.
    """
    luma = cv2.cvtColor(window.astype(np.float32), cv2.COLOR_BGR2GRAY)  # not rounded
    low, *fine = haar(luma)
    _, *coarse = haar(low)
    rows, columns, diagonal = (_quantiles(band) for band in fine)
    coarse_rows, coarse_columns, coarse_diagonal = (_quantiles(band) for band in coarse)
    straight, coarse_straight = (rows + columns) / 2, (coarse_rows + coarse_columns) / 2
    blocks = (_blocks(luma) + _blocks(luma.T)) / 2
    return np.array([*diagonal, *straight[:2], *coarse_diagonal[:2], coarse_straight[2], blocks])


def log_odds(measured: np.ndarray) -> np.ndarray:
    """Return (3,), how sure each of `QUESTIONS` is to be answered by yes, of (9,) figures."""
    return np.asarray(WEIGHTS[:, :-1] @ measured + WEIGHTS[:, -1])


def haar(luma: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return the mean of each 2 x 2 square of (H, W), and its differences along rows, columns and diagonals."""
    even = luma[: luma.shape[0] // 2 * 2, : luma.shape[1] // 2 * 2]
    a, b, c, d = even[::2, ::2], even[::2, 1::2], even[1::2, ::2], even[1::2, 1::2]
    left, right, upper, lower = a + c, b + d, a + b, c + d
    return (left + right) / 4, (left - right) / 2, (upper - lower) / 2, (a + d - b - c) / 2


def face_side(matrix: np.ndarray, size: int) -> float:
    """Return the side in photo pixels of a crop of `size` pixels, cut out by a matrix (2, 3)."""
    return size / math.sqrt(float(np.linalg.det(matrix[:, :2])))


def _quantiles(band: np.ndarray) -> np.ndarray:
    return np.asarray(np.log(np.quantile(np.abs(band), (0.5, 0.9, 0.98)) + _OFFSET))


def _blocks(luma: np.ndarray) -> float:
    """Return the logarithm of how much the third difference down the columns stands out at the worst of 8 phases."""
    steps = np.abs(np.diff(luma, n=3, axis=0))
    phases = [float(np.median(steps[phase::8])) for phase in range(8)]
    return math.log(max(phases) / (float(np.median(phases)) + 0.05) + _OFFSET)


def _window(image: np.ndarray, matrix: np.ndarray | None, size: int, side: float) -> np.ndarray:
    """Return the photo's own pixels, not turned and not resized, around the middle of a face."""
    height, width = image.shape[:2]
    middle = np.array([width / 2, height / 2])
    if matrix is not None:
        middle = cv2.invertAffineTransform(matrix) @ np.array([(size - 1) / 2, (size - 1) / 2, 1]) + 0.5
    x0, y0 = np.maximum(np.rint(middle - WINDOW / 2 * side), 0).astype(int)
    x1, y1 = np.maximum(np.rint(middle + WINDOW / 2 * side), 0).astype(int)
    return to_uint8(image[y0:y1, x0:x1])


def _shrunk(window: np.ndarray, ratio: float) -> np.ndarray:
    if ratio >= 1:
        return window
    width, height = max(1, round(window.shape[1] * ratio)), max(1, round(window.shape[0] * ratio))
    return np.asarray(cv2.resize(window, (width, height), interpolation=cv2.INTER_AREA))


def _middle(window: np.ndarray) -> np.ndarray:
    """Return at most `_MOST` pixels a side: enough to tell."""
    top, left = (max(0, (side - _MOST) // 2) for side in window.shape[:2])
    return window[top : top + _MOST, left : left + _MOST]
