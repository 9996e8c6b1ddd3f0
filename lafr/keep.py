"""First, do no harm: a face that is intact is kept, and none gets colour that its photo lacks.

Whether a face is intact is measured from the photo alone, on its luma around the face, without a net (`lafr.intact`).
An intact face is kept as a whole, at the photo's resolution; a damaged one is the network's; between the two lies a
narrow range in which they are mixed. Nothing here depends on which network runs.

Faces are (S, S, 3) BGR float32 in [0, 1].
"""

from __future__ import annotations

import cv2
import numpy as np

from lafr.intact import SAME_SIZE, face_side, intact_odds
from lafr_base.geometry import warp_face

ODDS_RANGE = (-1.5, -0.8)
"""Log-odds of `lafr.intact.intact_odds` below which nothing of the photo is kept, and above which all is."""

LEAST_DETAIL = 0.45
"""Share of the network's pixels a side below which an enlarged face is the network's, however clean: most of what is
to be seen in it is what the photo lacks, and flaws that hardly show in a small face do in a large one."""

CHROMA_SIGMA = 1 / 128
"""Gaussian sigma, in sides of the face, that takes noise out of the photo's chroma."""

CHROMA_REACH = 1 / 24
"""How far, in sides of the face, a colour of the photo may have moved in the result."""

CHROMA_MARGIN = 2 / 255
"""How far chroma may leave the range of the photo's own."""

TINT_SPREAD = 2.5 / 255
"""Largest spread of chroma about a function of luma in a sepia or faded photo."""

_LUMA_BINS = 32
_CHROMA_SIDE = 128  # chroma has no finer detail worth looking at
_ROUNDS = 3


def kept_share(image: np.ndarray, matrix: np.ndarray | None, size: int, enlarged: bool = False) -> float | None:
    """Return how much of a face is kept of its photo, within 0 (it is the network's) to 1 (it stays as it is).

    Args:
        image: (H, W, 3) BGR uint8 or uint16.
        matrix: (2, 3), photo pixels to those of the crop; None where the whole photo is the face.
        size: side of the crop, as the network sees it.
        enlarged: whether the result has more pixels than the photo.

    Returns:
        None for a face of too few pixels to tell.
    """
    odds = intact_odds(image, matrix, size)
    if odds is None:
        return None
    side = image.shape[0] if matrix is None else face_side(matrix, size)
    if enlarged and side < LEAST_DETAIL * size:
        return 0.0
    low, high = ODDS_RANGE
    x = min(max((odds - low) / (high - low), 0.0), 1.0)
    return x * x * (3 - 2 * x)


def own_face(image: np.ndarray, crop: np.ndarray, matrix: np.ndarray | None) -> np.ndarray:
    """Return a face as its photo has it, (T, T, 3): at the photo's resolution, T at most the crop's side.

    Args:
        image: (H, W, 3) BGR uint8 or uint16.
        crop: (S, S, 3), what the network sees, of the same type.
        matrix: (2, 3), photo pixels to crop pixels; None where the whole photo is the face.
    """
    size = crop.shape[0]
    if matrix is None:
        return to_unit(image if image.shape[0] < size else crop)
    side = face_side(matrix, size)
    if side > SAME_SIZE * size:
        return to_unit(crop)
    # Sampled by cubic interpolation, sharper than the crop's: a few per cent of shrinking average nothing.
    own = min(round(side), size)
    ratio = own / size
    scaled = ratio * matrix + np.array([[0, 0, (ratio - 1) / 2], [0, 0, (ratio - 1) / 2]])
    return to_unit(warp_face(image, scaled, own, cv2.INTER_CUBIC))


def blend(restored: np.ndarray, photo: np.ndarray, share: float) -> np.ndarray:
    """Mix a restored face and the photo's.

    A photo smaller than the face says nothing of detail finer than its pixels: there the network's stays. The rest is
    brought to the mix by back-projection (Irani and Peleg, 1991), so that the result, shrunk, is the mix.

    Args:
        restored: (S, S, 3).
        photo: (T, T, 3), the same face, T at most S.
        share: 0 to 1, of the photo.

    Returns:
        (S, S, 3).
    """
    size, side = restored.shape[0], photo.shape[0]
    seen = _shrunk(restored, side)
    mix = cv2.addWeighted(seen, 1 - share, photo, share, 0)
    if side == size:
        return np.asarray(mix)
    result = restored
    for _ in range(_ROUNDS):
        missing = cv2.subtract(mix, _shrunk(result, side))
        result = cv2.add(result, cv2.resize(missing, (size, size), interpolation=cv2.INTER_CUBIC))
    return np.asarray(result)


def limit_chroma(restored: np.ndarray, photo: np.ndarray) -> np.ndarray:
    """Give a restored face no chroma that the photo does not support.

    In a sepia or faded photo, whose chroma is a function of its luma, the result has that function. Elsewhere chroma
    stays within the range of the photo's own nearby, without its noise.

    Args:
        restored: (S, S, 3).
        photo: (S, S, 3), the face before.
    """
    size = restored.shape[0]
    side = min(size, _CHROMA_SIDE)
    sigma = max(CHROMA_SIGMA * side, 0.5)
    smooth = cv2.GaussianBlur(_ycc(_shrunk(photo, side)), (0, 0), sigma, borderType=cv2.BORDER_REFLECT)
    luma, *chroma = cv2.split(_ycc(np.clip(restored, 0, 1)))
    tint = tint_of(smooth)
    if tint is not None:
        chroma = [np.interp(luma, tint[0], values).astype(np.float32) for values in tint[1].T]
    else:
        reach = 2 * max(1, round(CHROMA_REACH * side)) + 1
        window = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (reach, reach))
        for channel, own in enumerate(cv2.split(smooth)[1:]):
            low, high = (
                cv2.resize(cv2.GaussianBlur(extreme(own, window), (0, 0), 2 * sigma), (size, size))
                for extreme in (cv2.erode, cv2.dilate)
            )
            limited = cv2.min(chroma[channel], high + np.float32(CHROMA_MARGIN))
            chroma[channel] = cv2.max(limited, low - np.float32(CHROMA_MARGIN))
    return np.asarray(cv2.cvtColor(cv2.merge((luma, *chroma)), cv2.COLOR_YCrCb2BGR))


def tint_of(ycc: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Return chroma as a function of luma, where a face (S, S, 3) YCrCb in [0, 1] has it so; else None.

    Returns:
        Luma (N,), ascending, and its chroma (N, 2).
    """
    luma, chroma = ycc[..., 0].ravel(), ycc[..., 1:].reshape(-1, 2)
    index = np.clip((luma * _LUMA_BINS).astype(int), 0, _LUMA_BINS - 1)
    count = np.bincount(index, minlength=_LUMA_BINS)
    filled = count > 0
    sums = np.stack([np.bincount(index, chroma[:, k], _LUMA_BINS) for k in (0, 1)], axis=1)
    mean = sums[filled] / count[filled, None]
    middle = np.bincount(index, luma, _LUMA_BINS)[filled] / count[filled]
    about = np.stack([np.interp(luma, middle, mean[:, k]) for k in (0, 1)], axis=1)
    rest = float(np.sqrt(((chroma - about) ** 2).sum(axis=1).mean()))
    return (middle, mean) if rest <= TINT_SPREAD else None


def to_unit(image: np.ndarray) -> np.ndarray:
    """Return a uint8 or uint16 picture as float32 in [0, 1]."""
    return image.astype(np.float32) / np.float32(np.iinfo(image.dtype).max)


def _ycc(image: np.ndarray) -> np.ndarray:
    return np.asarray(cv2.cvtColor(np.ascontiguousarray(image, np.float32), cv2.COLOR_BGR2YCrCb))


def _shrunk(image: np.ndarray, side: int) -> np.ndarray:
    if image.shape[0] == side:
        return image
    return np.asarray(cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA))
