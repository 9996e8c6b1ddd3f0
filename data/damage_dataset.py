"""Windows of faces, damaged or intact, at many sizes: what the damage net learns from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from lafr_base.option_map import OptionMap
from lafr_base.registry import DATASET_REGISTRY
from lafr_data.degradation_dataset import Jitter
from lafr_data.degradations import build_degradation, degrade
from lafr_data.samplers import item_generator
from lafr_data.sources import FaceDataset, FaceImages, to_tensor
from lafr_data.world_degradation import REFERENCE_SIZE

_SHRINK = (cv2.INTER_AREA, cv2.INTER_AREA, cv2.INTER_LINEAR, cv2.INTER_CUBIC)
"""How a sharp photo came to its size: mostly by averaging; without it edges are sharper still."""


@DATASET_REGISTRY.register()
class DamageDataset(FaceDataset):
    """Pairs of a damaged window of a face and its original, the face at a random size.

    The face is moved a little, shrunk to the drawn size, cut, then degraded as a face of that size. A face smaller
    than the window is continued by its reflection.

    An item is ``lq`` (multiples of 1/255, as a file's) and ``gt``, (3, W, W) RGB float32 in [0, 1]; ``lq_path``. It is
    a function of ``seed``, the index and the draw (:class:`lafr_data.samplers.Draw`).

    Options:
        dataroot_gt: folder of square, sharp face photos (any depth) or an LMDB in BasicSR's layout.
        photo_size: side the photos are read at. Default 512.
        face_size: ``[low, high]``, sides of the faces in pixels, drawn log-uniformly; at most ``photo_size``.
        window: side W of an item in pixels, a multiple of 16.
        degradation: preset name, mapping with ``preset`` and overrides, or ``mix``. Intact photos belong in it.
        jitter, jitter_prob: as in FaceDegradationDataset.
        items_per_photo: length of the set, in items a photo. Default 1.
        n_images, n_images_seed, cache, io_backend, seed: as in FaceDegradationDataset.

    Raises:
        FileNotFoundError: no images at ``dataroot_gt``.
        ValueError: an option is missing, unknown or out of range, or a file cannot be read.
    """

    def __init__(self, opt: Mapping[str, Any]) -> None:
        options = OptionMap(opt, type(self).__name__)
        self.opt = opt
        self.seed = options.integer("seed", 0, minimum=0)
        photo_size = options.integer("photo_size", 512, minimum=32)
        low, high = options.require("face_size")
        if not 32 <= low <= high <= photo_size:
            raise ValueError(f"face_size: [{low}, {high}] must lie within 32 to photo_size: {photo_size}")
        self._sizes = (float(low), float(high))
        self._window = options.integer("window", minimum=32)
        if self._window % 16:
            raise ValueError(f"window: {self._window} is not a multiple of 16")
        self.items_per_photo = options.integer("items_per_photo", 1)
        self._degradation = build_degradation(options.require("degradation"), REFERENCE_SIZE)
        self._jitter = Jitter.from_option(options.get("jitter"), options.get("jitter_prob"))
        self._photos = FaceImages(options, "dataroot_gt", photo_size)
        self.sources = (self._photos,)
        options.finish()

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return the pair of draw ``index``."""
        rng = item_generator(self.seed, index)
        photo_index = int(index) % len(self._photos)
        face = self._photos.image(photo_index)
        size = round(float(np.exp(rng.uniform(*np.log(self._sizes)))))
        if self._jitter is not None:
            face = self._jitter.move(face, rng)
        if rng.random() < 0.5:
            face = np.ascontiguousarray(face[:, ::-1])
        if size < face.shape[0]:
            face = cv2.resize(face, (size, size), interpolation=int(rng.choice(_SHRINK)))
        gt = _on_levels(self._cut(face, rng))
        lq, gt = degrade(gt, self._degradation.scaled(size), rng)
        path = self._photos.path(photo_index)
        return {"lq": to_tensor(_on_levels(lq)), "gt": to_tensor(gt), "lq_path": path}

    def _cut(self, face: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
        missing = max(0, self._window - face.shape[0])
        if missing:
            before = int(rng.integers(0, missing, endpoint=True))
            margins = (before, missing - before) * 2
            face = cv2.copyMakeBorder(face, *margins, cv2.BORDER_REFLECT_101)
        top, left = rng.integers(0, face.shape[0] - self._window, size=2, endpoint=True)
        return np.ascontiguousarray(face[top : top + self._window, left : left + self._window])


def _on_levels(image: NDArray[Any]) -> NDArray[np.float32]:
    """Round to multiples of 1/255, as a file would; cubic interpolation leaves the range."""
    return (np.rint(np.clip(image, 0, 1) * 255) / 255).astype(np.float32)
