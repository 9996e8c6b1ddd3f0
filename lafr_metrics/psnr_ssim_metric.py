"""PSNR and SSIM of RGB and of Y, equal to BasicSR's and scikit-image's."""

from __future__ import annotations

import math
from collections.abc import Callable

import cv2
import numpy as np
import torch

from lafr_metrics.images import MetricError
from lafr_metrics.specs import Y_CHANNEL, ImageMetric, MetricSpec, add_metric

_WINDOW = 11
_SIGMA = 1.5


def luma(bgr: np.ndarray) -> np.ndarray:
    """(H, W, 3) BGR uint8 -> (H, W) float32, MATLAB's Y of YCbCr, 16 to 235, not rounded."""
    return (bgr @ np.array([24.966, 128.553, 65.481]) / 255 + 16).astype(np.float32)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB of two images of range 255; infinite where they are equal."""
    error = float(np.mean((a.astype(np.float64) - b) ** 2))
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Structural similarity (Wang et al., 2004) of two images of range 255, the mean over channels; -1 to 1.

    Raises:
        MetricError: they are smaller than the window.
    """
    if min(a.shape[:2]) < _WINDOW:
        raise MetricError("SSIM needs images of at least 11 x 11 pixels")

    def mean(x: np.ndarray) -> np.ndarray:
        valid = slice(_WINDOW // 2, -(_WINDOW // 2))
        return cv2.GaussianBlur(x, (_WINDOW, _WINDOW), _SIGMA)[valid, valid]

    a, b = a.astype(np.float64), b.astype(np.float64)
    mean_a, mean_b = mean(a), mean(b)
    variances = mean(a * a) - mean_a**2 + mean(b * b) - mean_b**2
    covariance = mean(a * b) - mean_a * mean_b
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    map_ = (2 * mean_a * mean_b + c1) * (2 * covariance + c2) / ((mean_a**2 + mean_b**2 + c1) * (variances + c2))
    return float(map_.mean())


def _of_rgb(function: Callable[[np.ndarray, np.ndarray], float]) -> Callable[[torch.device], ImageMetric]:
    return lambda _: lambda pair: function(*pair.arrays)


def _of_luma(function: Callable[[np.ndarray, np.ndarray], float]) -> Callable[[torch.device], ImageMetric]:
    return lambda _: lambda pair: function(*map(luma, pair.arrays))


_SSIM = (
    "11 x 11 Gaussian window of sigma 1.5, K1 0.01, K2 0.03, range 255, biased covariances, valid positions only, "
    "no downsampling"
)
for _name, _function, _variant in (("psnr", psnr, "dB, range 255"), ("ssim", ssim, _SSIM)):
    add_metric(
        MetricSpec(
            name=_name,
            title=f"{_name.upper()} (RGB)",
            better="higher",
            reference=True,
            variant=f"{_variant}, one mean over R, G and B",
            library="own, as BasicSR 1.4.2",
            build=_of_rgb(_function),
        )
    )
    add_metric(
        MetricSpec(
            name=f"{_name}_y",
            title=f"{_name.upper()} (Y)",
            better="higher",
            reference=True,
            variant=f"{_variant}, {Y_CHANNEL}, not rounded",
            library="own, as BasicSR 1.4.2",
            build=_of_luma(_function),
        )
    )
