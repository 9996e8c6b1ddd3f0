"""Sample photos for a first run: public-domain portraits that dependencies carry, degraded on the spot."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from lafr_base.images import read_image, to_uint8, write_image
from lafr_data.degradations import build_degradation, degrade

DEGRADATION = {
    "preset": "celeba_x4",
    "blur_sigma": [1.5, 2.5],
    "downsample_range": [2.5, 2.5],
    "noise_range": [6, 10],
    "jpeg_range": [50, 65],
}
"""What happens to the portraits: the order of the training presets, in strengths of a bad web photo."""

SHRINK = 2
"""Samples are this much smaller than the portraits, so that the default `--upscale 2` gives their size again."""


def _astronaut() -> np.ndarray:
    """Eileen Collins, NASA: public domain (scikit-image's data/README.txt)."""
    from skimage import data

    return data.astronaut()[..., ::-1]


def _hopper() -> np.ndarray:
    """Grace Hopper, James S. Davis, U.S. Navy: public domain (Matplotlib's sample data)."""
    from matplotlib import get_data_path

    return read_image(Path(get_data_path()) / "sample_data" / "grace_hopper.jpg").bgr


PORTRAITS: dict[str, Callable[[], np.ndarray]] = {"astronaut": _astronaut, "grace_hopper": _hopper}
"""Name of each sample and where its original comes from, BGR uint8."""


@dataclass(frozen=True)
class Sample:
    """A degraded portrait.

    Attributes:
        path: the degraded photo, as a file.
        original: (H, W, 3) BGR uint8, undegraded.
    """

    path: Path
    original: np.ndarray


def write_samples(folder: Path) -> list[Sample]:
    """Degrade the portraits and write them into a folder; the same pixels every time.

    Raises:
        lafr_base.images.ImageError: the folder cannot be written.
    """
    samples = []
    for seed, (name, load) in enumerate(PORTRAITS.items()):
        original = np.ascontiguousarray(load())
        rgb = original[..., ::-1].astype(np.float32) / 255
        lq, _ = degrade(rgb, build_degradation(DEGRADATION, 512), np.random.default_rng(seed))
        size = (original.shape[1] // SHRINK, original.shape[0] // SHRINK)
        small = cv2.resize(lq, size, interpolation=cv2.INTER_AREA)
        pixels = np.rint(small[..., ::-1] * 255).astype(np.uint8)
        samples.append(Sample(write_image(folder / f"{name}.png", pixels), original))
    return samples


def write_comparison(path: Path, sample: Sample, restored: np.ndarray) -> Path:
    """Write input, restored photo and original side by side, all in the original's size.

    Args:
        path: PNG file to write.
        sample: what was restored.
        restored: (H, W, 3) BGR.
    """
    height, width = sample.original.shape[:2]
    views = [read_image(sample.path).bgr, to_uint8(restored), sample.original]
    row = [cv2.resize(view, (width, height), interpolation=cv2.INTER_CUBIC) for view in views]
    return write_image(path, np.hstack(row))
