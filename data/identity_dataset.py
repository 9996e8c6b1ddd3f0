"""Training pairs for the identity net: a face, and a damaged, badly aligned copy of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np

from lafr_base.geometry import crop_matrix
from lafr_base.option_map import OptionMap
from lafr_base.registry import DATASET_REGISTRY
from lafr_data.degradations import build_degradation, degrade
from lafr_data.samplers import item_generator
from lafr_data.sources import FaceDataset, FaceImages, to_tensor


@DATASET_REGISTRY.register()
class FaceIdentityDataset(FaceDataset):
    """FFHQ-aligned faces and copies that a restorer could meet: damaged by any preset, aligned by a detector's points.

    An item is ``lq`` and ``gt`` (3, S, S), RGB float32 in [0, 1], and ``lq_path``, ``gt_path``. It is a function of
    ``seed``, the index and the draw (:class:`lafr_data.samplers.Draw`).

    Options:
        dataroot_gt: folder of images (any depth) or an LMDB in BasicSR's layout.
        image_size: side S. Default 144, the scale of the recognition crop.
        degradations: list of preset names or mappings with ``preset`` and overrides, one of which is drawn.
        degraded_ratio: share of the copies that are degraded. Default 0.85.
        max_angle: largest turn of a copy, degrees. Default 6.
        max_shift: largest shift of a copy, fraction of the side, in x and y. Default 0.03.
        max_zoom: largest factor of a copy's size, up and down. Default 1.08.
        n_images, n_images_seed, cache, io_backend, seed: as in FaceDegradationDataset.

    Raises:
        FileNotFoundError: no images at ``dataroot_gt``.
        ValueError: an option is missing, unknown or out of range, or an image cannot be read.
    """

    def __init__(self, opt: Mapping[str, Any]) -> None:
        options = OptionMap(opt, type(self).__name__)
        self.opt = opt
        self.seed = options.integer("seed", 0, minimum=0)
        self._size = options.integer("image_size", 144, minimum=16)
        presets = options.require("degradations")
        if not isinstance(presets, (list, tuple)) or not presets:
            raise ValueError(f"degradations: {presets!r} must be a list of presets")
        self._degradations = [build_degradation(preset, self._size) for preset in presets]
        self._degraded_ratio = float(options.get("degraded_ratio", 0.85))
        self._max_angle = float(options.get("max_angle", 6))
        self._max_shift = float(options.get("max_shift", 0.03))
        self._max_zoom = float(options.get("max_zoom", 1.08))
        self._faces = FaceImages(options, "dataroot_gt", self._size)
        self.sources = (self._faces,)
        options.finish()

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return the pair of draw ``index``."""
        rng = item_generator(self.seed, index)
        gt = self._faces.image(index)
        lq = gt[:, ::-1].copy() if rng.random() < 0.5 else gt
        if rng.random() < self._degraded_ratio:
            lq, _ = degrade(lq, self._degradations[rng.integers(len(self._degradations))], rng)
        lq = cv2.warpAffine(
            lq,
            self._misalignment(rng),
            (self._size, self._size),
            flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        )
        path = self._faces.path(index)
        return {"lq": to_tensor(lq), "gt": to_tensor(gt), "lq_path": path, "gt_path": path}

    def _misalignment(self, rng: np.random.Generator) -> np.ndarray:
        """A similarity about the face's centre, as errors of the five points make it: (2, 3), copy from face."""
        centre = (self._size - 1) / 2 + rng.uniform(-1, 1, 2) * self._max_shift * self._size
        side = self._size * self._max_zoom ** rng.uniform(-1, 1)
        return crop_matrix(centre, side, rng.uniform(-1, 1) * self._max_angle, self._size)
