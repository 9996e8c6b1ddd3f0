"""A degradation that no training draws: what helps under the presets alone is over-fitting.

Made of other parts than lafr_data's: camera shake along a random path or a box, Pillow's Lanczos or box averaging,
photon counts, Pillow's JPEG with 4:2:2 chroma, bicubic back.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

REFERENCE_SIZE = 512


def shake_kernel(length: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """The path of a hand that shakes: a smooth random walk of about ``length`` pixels, (N, N), sum 1."""
    steps = rng.standard_normal((64, 2)).cumsum(axis=0).cumsum(axis=0)
    path = (steps - steps.mean(axis=0)) / max(np.ptp(steps, axis=0).max(), 1e-9) * length
    half = int(np.ceil(length)) + 1  # the mean need not lie in the middle of the path
    kernel = np.zeros((2 * half + 1, 2 * half + 1), np.float32)
    np.add.at(kernel, tuple(np.rint(path + half).astype(int).T), 1)
    kernel = cv2.GaussianBlur(kernel, (0, 0), 0.6)
    return kernel / kernel.sum()


@dataclass(frozen=True)
class UnseenDegradation:
    """Blur, shrink by ``factor``, photon noise, JPEG, and back, for faces of ``face_size`` pixels."""

    factor: float
    face_size: int = REFERENCE_SIZE

    def apply(self, gt: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
        """The LQ copy of a face, both RGB (H, W, 3) float32 in [0, 1]; a function of ``rng``."""
        extent = rng.uniform(1, 16) * self.face_size / REFERENCE_SIZE
        if rng.random() < 0.6:
            blurred = cv2.filter2D(gt, -1, shake_kernel(extent, rng), borderType=cv2.BORDER_REPLICATE)
        else:
            side = max(1, round(extent))
            blurred = cv2.blur(gt, (side, side), borderType=cv2.BORDER_REPLICATE)
        size = (max(8, round(gt.shape[1] / self.factor)), max(8, round(gt.shape[0] / self.factor)))
        kernel = Image.Resampling.LANCZOS if rng.random() < 0.5 else Image.Resampling.BOX
        small = Image.fromarray(np.rint(np.clip(blurred, 0, 1) * 255).astype(np.uint8)).resize(size, kernel)
        photons = 10 ** rng.uniform(1.8, 3.2)
        counts = rng.poisson(np.asarray(small, np.float64) / 255 * photons) / photons
        noisy = Image.fromarray(np.rint(np.clip(counts, 0, 1) * 255).astype(np.uint8))
        buffer = io.BytesIO()
        noisy.save(buffer, "JPEG", quality=int(rng.integers(50, 95)), subsampling="4:2:2")
        decoded = Image.open(buffer).convert("RGB")
        large = decoded.resize((gt.shape[1], gt.shape[0]), Image.Resampling.BICUBIC)
        return np.asarray(large, np.float32) / 255


@dataclass(frozen=True)
class MildDegradation:
    """What is hardly seen: a box blur of at most 3 pixels, photon noise, Lanczos resizing, JPEG 2000."""

    def apply(self, gt: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
        """The LQ copy of a face, both RGB (H, W, 3) float32 in [0, 1]; a function of ``rng``."""
        side = int(rng.integers(1, 3, endpoint=True))
        blurred = np.clip(cv2.blur(gt, (side, side), borderType=cv2.BORDER_REPLICATE), 0, 1)
        photons = 10 ** rng.uniform(2.3, 4)
        counts = rng.poisson(blurred.astype(np.float64) * photons) / photons
        picture = Image.fromarray(np.rint(np.clip(counts, 0, 1) * 255).astype(np.uint8))
        if rng.random() < 0.5:
            factor = rng.uniform(1, 2)
            size = (round(gt.shape[1] / factor), round(gt.shape[0] / factor))
            small = picture.resize(size, Image.Resampling.LANCZOS)
            picture = small.resize((gt.shape[1], gt.shape[0]), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG2000", quality_mode="rates", quality_layers=[rng.uniform(4, 25)])
        return np.asarray(Image.open(buffer).convert("RGB"), np.float32) / 255
