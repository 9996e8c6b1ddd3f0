"""NIQE (Mittal et al., "Making a 'completely blind' image quality analyzer", 2013), equal to BasicSR's.

niqe_pristine.npz holds the authors' parameters, as BasicSR 1.4.2 (Apache-2.0) has them.
"""

from __future__ import annotations

from functools import cache
from importlib import resources

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import convolve
from scipy.special import gamma

from lafr_metrics.images import ImagePair, MetricError
from lafr_metrics.psnr_ssim_metric import luma
from lafr_metrics.specs import Y_CHANNEL, MetricSpec, add_metric

Array = NDArray[np.floating]

BLOCK = 96
"""Side in pixels of the blocks that features are taken of, at full size; half of it at half size."""

_SHAPES = np.arange(0.2, 10.001, 0.001)
_RATIOS = gamma(2 / _SHAPES) ** 2 / (gamma(1 / _SHAPES) * gamma(3 / _SHAPES))
# MATLAB's imresize(x, 0.5): Keys' cubic kernel (a = -0.5), stretched to eight taps.
_HALF_TAPS = (-0.01171875, -0.03515625, 0.11328125, 0.43359375)
_TAPS = np.array((*_HALF_TAPS, *_HALF_TAPS[::-1]), dtype=np.float32)


@cache
def _pristine() -> tuple[Array, Array, Array]:
    """Mean (1, 36) and covariance (36, 36) of good photos' features, and the 7 x 7 Gaussian window."""
    with resources.files("lafr_metrics").joinpath("niqe_pristine.npz").open("rb") as stream:
        stored = np.load(stream)
        return stored["mu_pris_param"], stored["cov_pris_param"], stored["gaussian_window"]


def _halve(image: Array) -> Array:
    """(H, W) -> (H / 2, W / 2), even sides."""
    for _ in range(2):
        padded = np.pad(image, ((3, 4), (0, 0)), mode="symmetric")
        count = image.shape[0]
        image = sum(weight * padded[tap : tap + count : 2] for tap, weight in enumerate(_TAPS)).T
    return image


def _gaussian_fits(values: Array) -> tuple[Array, Array, Array]:
    """Shape, left and right scale of asymmetric generalised Gaussians of rows (N, M): equation 7, by moments."""
    square = values**2
    left, right = (np.sqrt(np.where(side, square, 0).sum(1) / side.sum(1)) for side in (values < 0, values > 0))
    ratio = left / right
    target = np.abs(values).mean(1) ** 2 / square.mean(1) * (ratio**3 + 1) * (ratio + 1) / (ratio**2 + 1) ** 2
    shape = _SHAPES[np.argmin((_RATIOS - target[:, None]) ** 2, axis=1)]
    scale = np.sqrt(gamma(1 / shape) / gamma(3 / shape))
    return shape, left * scale, right * scale


def _features(blocks: Array) -> Array:
    """Blocks (N, S, S) of normalised luma -> 18 features of each, (N, 18)."""
    count = len(blocks)
    shape, left, right = _gaussian_fits(blocks.reshape(count, -1))
    columns = [shape, (left + right) / 2]
    for shift in ((0, 1), (1, 0), (1, 1), (1, -1)):
        product = blocks * np.roll(blocks, shift, axis=(1, 2))
        shape, left, right = _gaussian_fits(product.reshape(count, -1))
        columns += [shape, (right - left) * gamma(2 / shape) / gamma(1 / shape), left, right]
    return np.stack(columns, axis=1)


def niqe(image: np.ndarray) -> float:
    """NIQE of (H, W, 3) BGR uint8; lower is more natural.

    Raises:
        MetricError: it has fewer than two blocks, the fewest that have a covariance, or is flat.
    """
    rows, columns = image.shape[0] // BLOCK, image.shape[1] // BLOCK
    if rows * columns < 2:
        size = f"{image.shape[1]} x {image.shape[0]}"
        raise MetricError(f"NIQE needs two blocks of {BLOCK} x {BLOCK} pixels, and the image is {size}")
    mean, covariance, window = _pristine()
    y = luma(image[: rows * BLOCK, : columns * BLOCK]).round()
    features = []
    with np.errstate(divide="ignore", invalid="ignore"):
        for side in (BLOCK, BLOCK // 2):
            local = convolve(y, window, mode="nearest")
            deviation = np.sqrt(np.abs(convolve(y**2, window, mode="nearest") - local**2))
            blocks = ((y - local) / (deviation + 1)).reshape(rows, side, columns, side)
            features.append(_features(blocks.swapaxes(1, 2).reshape(-1, side, side)))
            y = _halve(y)
    found = np.concatenate(features, axis=1)
    whole = found[~np.isnan(found).any(axis=1)]
    if len(whole) < 2:
        raise MetricError("NIQE is not defined for this image: it is flat")
    difference = mean - np.nanmean(found, axis=0)
    inverse = np.linalg.pinv((covariance + np.cov(whole, rowvar=False)) / 2)
    return float(np.sqrt(difference @ inverse @ difference.T).item())


def _measure(pair: ImagePair) -> float:
    return niqe(pair.restored)


add_metric(
    MetricSpec(
        name="niqe",
        title="NIQE",
        better="lower",
        variant=f"blocks of 96 x 96, official parameters, {Y_CHANNEL}, rounded",
        library="own, as BasicSR 1.4.2",
        build=lambda _: _measure,
    )
)
