"""Cut faces out of a photo, aligned as the FFHQ data set is, and put them back where they were.

Coordinates are pixel indices: pixel (0, 0) has its centre at 0, 0, as OpenCV and the detectors have it. A
picture scaled by s therefore maps x to `(x + 0.5) s - 0.5`; facexlib's paste leaves out the -0.5 and shifts
faces. Matrices are 2 x 3 similarities that map photo pixels to crop pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import cv2
import numpy as np

from lafr_base.geometry import bounds, corners, warp

MASK_CENTER = (0.5, 0.52)
"""Centre of the pasted region in the crop, as a share of its side: faces sit a little below the middle."""

MASK_RADII = (0.46, 0.46)
"""Half-axes of the pasted region, where the mask reaches 0; it ends well inside the crop."""

MASK_PLATEAU = 0.62
"""Share of the half-axes within which the mask is 1."""

MASK_POWER = 3.0
"""Exponent of the superellipse |x|^p + |y|^p: between an ellipse (2), which cuts chins, and a box."""

NEIGHBOUR_BLEND = 0.15
"""Width of the transition between two faces whose regions overlap, in units of their radius."""

TONE_SIGMA = 0.125
"""Gaussian sigma, as a share of the crop's side, above which tones are the photo's at weight 0.5."""

_BLOCK = 1024  # pixels a side: what is worked on at once, whatever the size of the face or the photo


def paste_face(
    canvas: np.ndarray,
    face: np.ndarray,
    matrix: np.ndarray,
    scale: tuple[float, float] = (1.0, 1.0),
    neighbours: Sequence[np.ndarray] = (),
    kept: Sequence[np.ndarray] = (),
    share: float = 0.0,
) -> None:
    """Blend a face into the photo it was cut from, in place.

    The mask is 1 over the face and falls smoothly to 0 inside the crop; pixels outside it keep their bits.
    Memory beyond the canvas is bounded, however large face and photo are.

    Args:
        canvas: (H, W, 3) uint8 or uint16, the photo enlarged by `scale`; changed in place.
        face: (S, S, 3) of the same type, or float32 of the same range.
        matrix: (2, 3) that the face was cut out with, from the photo before enlarging.
        scale: canvas width and height over those of the photo.
        neighbours: matrices of other faces of the photo. Where regions overlap, a pixel goes to the face that
            is nearer, so that faces side by side do not cut into each other.
        kept: matrices of faces that stay as they are. Pixels of their regions that are nearer to them keep their bits.
        share: 0 to 1, how much of the canvas's own pixels stays under the face; 1 keeps their bits.
    """
    if share >= 1:
        return
    size = face.shape[0]
    to_canvas = _to_canvas(matrix, scale)
    to_crop = cv2.invertAffineTransform(to_canvas)
    x0, y0, x1, y1 = _region(to_canvas, size)
    others, untouched = (
        [
            cv2.invertAffineTransform(other)
            for other in (_to_canvas(matrix, scale) for matrix in matrices)
            if _overlap(_region(other, size), (x0, y0, x1, y1))
        ]
        for matrices in (neighbours, kept)
    )
    height, width = canvas.shape[:2]
    top = np.iinfo(canvas.dtype).max
    face = face.astype(np.float32)
    for x, y, w, h in _blocks(max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)):
        mask = _mask(to_crop, size, others, x, y, w, h, untouched)
        if not mask.any():
            continue
        block_matrix = to_canvas - np.array([[0, 0, x], [0, 0, y]])
        warped = warp(face, block_matrix, w, h, cv2.INTER_CUBIC, cv2.BORDER_REFLECT)
        part = canvas[y : y + h, x : x + w]
        blended = part + np.float32(1 - share) * mask[..., None] * (warped - part)
        part[:] = np.clip(np.rint(blended), 0, top).astype(canvas.dtype)


def keep_tones(restored: np.ndarray, crop: np.ndarray, weight: float) -> np.ndarray:
    """Tie a restored face to the photo: slow variations come from the photo, fine detail from the restorer.

    What a degraded photo still has right is its colours, shading and large shapes. They are taken from the
    crop by a Gaussian low-pass whose sigma is `TONE_SIGMA * S * (1 - weight) / weight` pixels: none of the crop
    at weight 0, tones at 0.5, ever finer structure above, the crop itself at 1.

    Args:
        restored: (S, S, 3) float32 of any range.
        crop: (S, S, 3) float32 of the same range, what was restored.
        weight: 0 to 1.

    Returns:
        (S, S, 3) float32; may leave the range a little, the caller clips.
    """
    if weight <= 0:
        return restored
    if weight >= 1:
        return crop
    size = restored.shape[0]
    sigma = TONE_SIGMA * size * (1 - weight) / weight
    difference = crop - restored
    # A wide blur of a shrunk picture: the same to half a grey level even on white noise, and much faster.
    side = size if sigma < 6 else max(4, round(size * 3 / sigma))
    low = cv2.resize(difference, (side, side), interpolation=cv2.INTER_AREA)
    low = cv2.GaussianBlur(low, (0, 0), sigma * side / size, borderType=cv2.BORDER_REFLECT)
    return restored + cv2.resize(low, (size, size), interpolation=cv2.INTER_CUBIC)


def is_gray(image: np.ndarray) -> bool:
    """Tell whether a (H, W, 3) uint8 or uint16 photo has no colour, up to JPEG's rounding of chroma."""
    step = max(1, int(math.sqrt(image.shape[0] * image.shape[1] / 250_000)))  # a sample tells
    sample = image[::step, ::step].astype(np.int32)
    spread = sample.max(axis=2) - sample.min(axis=2)
    unit = 1 if image.dtype == np.uint8 else 257
    return bool(np.percentile(spread, 99.5) <= 3 * unit)


def to_gray(face: np.ndarray) -> np.ndarray:
    """Return a (H, W, 3) BGR picture with its luma (ITU-R BT.601) in all three channels."""
    return cv2.cvtColor(cv2.cvtColor(face, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)


def draw_box(
    canvas: np.ndarray, matrix: np.ndarray, size: int, scale: tuple[float, float], number: int, chosen: bool = True
) -> None:
    """Outline a crop of `size` pixels on an enlarged photo, in place: green with its number, gray where not chosen."""
    outline = corners(_to_canvas(matrix, scale), -0.5, -0.5, size - 0.5, size - 0.5)
    top = int(np.iinfo(canvas.dtype).max)
    thickness = max(1, round(min(canvas.shape[:2]) / 300))
    colour = (0, top, 0) if chosen else (top // 2,) * 3
    points = np.rint(outline).astype(np.int32)
    cv2.polylines(canvas, [points], True, colour, thickness)
    side = float(np.linalg.norm(outline[1] - outline[0]))
    height = min(max(12, 0.12 * side), side)  # of the number, pixels
    scale_of_font = cv2.getFontScaleFromHeight(cv2.FONT_HERSHEY_SIMPLEX, max(1, round(height)), thickness)
    anchor = int(points[0, 0]) + 2 * thickness, int(points[0, 1] + height) + 2 * thickness
    for line, shade in ((3 * thickness, (0, 0, 0)), (thickness, colour)):  # legible on any ground
        _put_text(canvas, str(number), anchor, scale_of_font, shade, line)


def _put_text(
    canvas: np.ndarray, text: str, anchor: tuple[int, int], scale: float, colour: tuple[int, ...], thickness: int
) -> None:
    """Write on a picture of any type; OpenCV writes on uint8 alone."""
    font = cv2.FONT_HERSHEY_SIMPLEX
    (width, height), below = cv2.getTextSize(text, font, scale, thickness)
    x0, y0 = max(0, anchor[0] - thickness), max(0, anchor[1] - height - thickness)
    part = canvas[y0 : max(y0, anchor[1] + below + thickness), x0 : max(x0, anchor[0] + width + thickness)]
    if part.size:
        mask = np.zeros(part.shape[:2], np.uint8)
        cv2.putText(mask, text, (anchor[0] - x0, anchor[1] - y0), font, scale, 255, thickness, cv2.LINE_8)
        part[mask > 0] = colour


def _to_canvas(matrix: np.ndarray, scale: tuple[float, float]) -> np.ndarray:
    """Return the matrix from crop pixels to those of the photo enlarged by `scale`."""
    sx, sy = scale
    inverse = cv2.invertAffineTransform(np.asarray(matrix, dtype=np.float64))
    return np.array([[sx], [sy]]) * inverse + np.array([[0, 0, (sx - 1) / 2], [0, 0, (sy - 1) / 2]])


def _region(to_canvas: np.ndarray, size: int) -> tuple[int, int, int, int]:
    """Return the bounds of the canvas pixels that the mask of a crop can reach."""
    (cx, cy), (rx, ry) = MASK_CENTER, MASK_RADII
    box = corners(to_canvas, (cx - rx) * size, (cy - ry) * size, (cx + rx) * size, (cy + ry) * size)
    return bounds(box, margin=1)


def _blocks(x0: int, y0: int, x1: int, y1: int) -> Iterator[tuple[int, int, int, int]]:
    for y in range(y0, y1, _BLOCK):
        for x in range(x0, x1, _BLOCK):
            yield x, y, min(_BLOCK, x1 - x), min(_BLOCK, y1 - y)


def _radius(to_crop: np.ndarray, size: int, x: int, y: int, w: int, h: int) -> np.ndarray:
    """Return (h, w) float32: 0 at the centre of the pasted region, 1 on its rim."""
    columns = np.arange(x, x + w, dtype=np.float32)[None]
    rows = np.arange(y, y + h, dtype=np.float32)[:, None]
    u = to_crop[0, 0] * columns + to_crop[0, 1] * rows + to_crop[0, 2]
    v = to_crop[1, 0] * columns + to_crop[1, 1] * rows + to_crop[1, 2]
    a = np.abs((u + 0.5) / size - MASK_CENTER[0]) / MASK_RADII[0]
    b = np.abs((v + 0.5) / size - MASK_CENTER[1]) / MASK_RADII[1]
    return np.power(a**MASK_POWER + b**MASK_POWER, 1 / MASK_POWER).astype(np.float32)


def _smoothstep(x: np.ndarray) -> np.ndarray:
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)


def _overlap(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> bool:
    return a[0] < b[2] and a[2] > b[0] and a[1] < b[3] and a[3] > b[1]


def _mask(
    to_crop: np.ndarray,
    size: int,
    others: Sequence[np.ndarray],
    x: int,
    y: int,
    w: int,
    h: int,
    untouched: Sequence[np.ndarray] = (),
) -> np.ndarray:
    radius = _radius(to_crop, size, x, y, w, h)
    mask = _smoothstep((1 - radius) / (1 - MASK_PLATEAU))
    for other in others:
        lead = _radius(other, size, x, y, w, h) - radius
        mask *= _smoothstep(0.5 + lead / (2 * NEIGHBOUR_BLEND))
    for other in untouched:  # the whole transition lies on this side of the border
        lead = _radius(other, size, x, y, w, h) - radius
        mask *= _smoothstep(lead / (2 * NEIGHBOUR_BLEND))
    return mask.astype(np.float32)
