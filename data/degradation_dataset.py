"""Training pairs made on the fly from high-quality faces."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lafr_base.geometry import crop_matrix
from lafr_base.option_map import OptionMap
from lafr_base.registry import DATASET_REGISTRY
from lafr_data.degradations import build_degradation, degrade
from lafr_data.samplers import item_generator
from lafr_data.sources import FaceDataset, FaceImages, to_tensor


@dataclass(frozen=True, kw_only=True)
class Jitter:
    """How far an aligned face may be moved in place and size; see FaceDegradationDataset."""

    shift: float = 0.0
    zoom: float = 1.0
    angle: float = 0.0
    probability: float = 0.5

    def __post_init__(self) -> None:
        limits = (("shift", self.shift, 0, 0.5), ("zoom", self.zoom, 1, 2), ("angle", self.angle, 0, 180))
        for name, value, low, high in (*limits, ("jitter_prob", self.probability, 0, 1)):
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
                raise ValueError(f"jitter: {name}: {value!r} must be a number within {low} to {high}")

    @classmethod
    def from_option(cls, option: Mapping[str, float] | None, probability: float | None) -> Jitter | None:
        """Read the options ``jitter`` and ``jitter_prob``.

        Raises:
            ValueError: a key is unknown or a value out of range.
        """
        if option is None:
            return None
        unknown = set(option) - {"shift", "zoom", "angle"}
        if unknown:
            raise ValueError(f"jitter: {', '.join(sorted(unknown))} is unknown; known keys are shift, zoom, angle")
        return cls(**option, **({} if probability is None else {"probability": probability}))

    def move(self, image: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
        """Return the image, RGB (S, S, 3) in [0, 1], moved or as it is; a function of ``rng``."""
        if rng.random() >= self.probability:
            return image
        size = image.shape[0]
        centre = (size - 1) / 2 + rng.uniform(-1, 1, 2) * self.shift * size
        side = size * self.zoom ** rng.uniform(-1, 1)
        matrix = crop_matrix(centre, side, rng.uniform(-1, 1) * self.angle, size)
        flags, border = cv2.INTER_CUBIC, cv2.BORDER_REFLECT_101
        moved = cv2.warpAffine(image, matrix, (size, size), flags=flags, borderMode=border)
        return np.clip(moved, 0, 1)


@DATASET_REGISTRY.register()
class FaceDegradationDataset(FaceDataset):
    """High-quality faces and copies degraded at random; horizontal flip is the only augmentation.

    An item is ``lq`` and ``gt`` (3, H, W), RGB float32 in [0, 1], and ``lq_path``, ``gt_path``. It is a
    function of ``seed``, the index and the draw (:class:`lafr_data.samplers.Draw`), whatever worker makes
    it.

    Options:
        dataroot_gt: folder of images (any depth) or an LMDB in BasicSR's layout.
        image_size: side in pixels; other sizes are cut to the central square and resized.
        degradation: preset name, or mapping with ``preset`` and overrides; see :mod:`lafr_data.degradations`.
        gt_only: true for no degradation (``lq`` is ``gt``), in place of ``degradation``. Default false.
        use_hflip: flip half of the images. Default true.
        crop_size: random crop of this side from both images, after the degradation. Default none.
        sampling: mapping of file name patterns (``ffhq_*``) to how often such a face is drawn, 1 for the others; 0.3:
            three times in ten draws. Default none: all alike.
        jitter: mapping with ``shift`` (fraction of the side, in x and y), ``zoom`` (largest factor of the size, up and
            down) and ``angle`` (degrees), each drawn uniformly up to its value: a detector is never exact. What lies
            beyond the image is its reflection. Default none.
        jitter_prob: share of the draws that are moved; interpolation softens those a little. Default 0.5.
        n_draws: how many different pairs an image gives. Default none: each draw is a new one. With it LQ
            latents can be kept too (``train: latent_cache``).
        n_images, n_images_seed: random subset and its seed. Default all, 0.
        cache: keep the decoded images in memory (3 bytes a pixel). Default false.
        check_images: read every image once before a run, so that a broken one does not end it later. Default true.
        io_backend: ``{type: disk}`` or ``{type: lmdb}``. Default by the path's end.
        seed: seed of flip, crop, degradation and order. Default 0.

    Raises:
        FileNotFoundError: no images at ``dataroot_gt``.
        ValueError: an option is missing, unknown or out of range, or an image cannot be read.
    """

    def __init__(self, opt: Mapping[str, Any]) -> None:
        self.opt = opt  # BasicSR reads the set's name from it
        options = OptionMap(opt, type(self).__name__)
        self.seed = options.integer("seed", default=0, minimum=0)
        size = options.integer("image_size", minimum=8)
        self._flip = options.flag("use_hflip", True)
        self._crop = options.optional_integer("crop_size")
        if self._crop is not None and self._crop > size:
            raise ValueError(f"crop_size: {self._crop} is larger than image_size: {size}")
        self._n_draws = options.optional_integer("n_draws")
        self._jitter = Jitter.from_option(options.get("jitter"), options.get("jitter_prob"))
        gt_only, degradation = options.flag("gt_only"), options.get("degradation")
        if gt_only == (degradation is not None):
            raise ValueError("FaceDegradationDataset: give either `degradation` or `gt_only: true`")
        self._degradation = None if gt_only else build_degradation(degradation, size)
        self._faces = FaceImages(options, "dataroot_gt", size)
        self._shares = self._sampling(options.get("sampling"))
        self.sources = (self._faces,)
        options.finish()

    def _sampling(self, option: Mapping[str, float] | None) -> NDArray[np.float64] | None:
        """Return the cumulative shares of the faces in the draws, (N,), or None where all are alike."""
        if option is None:
            return None
        if self._n_draws is not None:
            raise ValueError("sampling: is at odds with `n_draws`, which fixes the pairs of each face; leave one out")
        keys = [self._faces.key(index).rpartition("/")[2] for index in range(len(self._faces))]
        weights = np.ones(len(keys))
        for pattern, factor in option.items():
            chosen = np.array([fnmatchcase(key, pattern) for key in keys])
            if isinstance(factor, bool) or not isinstance(factor, (int, float)) or factor < 0:
                raise ValueError(f"sampling: {pattern}: {factor!r} must be a number of at least 0")
            if not chosen.any():
                raise ValueError(f"sampling: {pattern}: no file of dataroot_gt has such a name")
            weights[chosen] = factor
        if not weights.any():
            raise ValueError("sampling: leaves no face to draw")
        return np.cumsum(weights) / weights.sum()

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return the pair of draw ``index``."""
        rng = item_generator(self.seed, index, self._n_draws)
        if self._shares is not None:
            index = int(np.searchsorted(self._shares, rng.random(), side="right"))
        gt = self._faces.image(index)
        if self._jitter is not None:
            gt = self._jitter.move(gt, rng)
        if self._flip and rng.random() < 0.5:
            gt = gt[:, ::-1].copy()
        lq = gt
        if self._degradation is not None:
            lq, gt = degrade(gt, self._degradation, rng)
        if self._crop is not None:
            top, left = rng.integers(0, gt.shape[0] - self._crop, size=2, endpoint=True)
            window = slice(top, top + self._crop), slice(left, left + self._crop)
            lq, gt = lq[window], gt[window]
        gt_tensor: Tensor = to_tensor(gt)
        lq_tensor = gt_tensor if self._degradation is None else to_tensor(lq)
        path = self._faces.path(index)
        return {"lq": lq_tensor, "gt": gt_tensor, "lq_path": path, "gt_path": path}
