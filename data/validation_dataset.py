"""Validation pairs that are the same in every run, on every machine, in any order."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from lafr_base.option_map import OptionMap
from lafr_base.registry import DATASET_REGISTRY
from lafr_data.degradations import build_degradation, degrade
from lafr_data.sources import FaceDataset, FaceImages, to_tensor


def name_generator(name: str, seed: int) -> np.random.Generator:
    """Return the generator that a validation image's degradation draws from, a function of name and seed.

    Args:
        name: file name without folder and suffix.
        seed: any whole number.
    """
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest, "big"))


@DATASET_REGISTRY.register()
class ValidationFaceDataset(FaceDataset):
    """High-quality faces with an LQ copy that is a function of file name and ``seed`` and nothing else.

    An item is ``lq`` and ``gt`` (3, H, W), RGB float32 in [0, 1], and ``lq_path``, ``gt_path``. Folder and
    suffix do not count as the name, so that an LMDB of the same files gives the same pairs.

    Options:
        dataroot_gt: folder of images (any depth) or an LMDB in BasicSR's layout.
        image_size: side in pixels; other sizes are cut to the central square and resized.
        degradation: preset name, or mapping with ``preset`` and overrides. Default celeba_x4.
        seed: seed of the degradation. Default 0.
        n_images, n_images_seed: random subset and its seed. Default all, 0.
        check_images: as in FaceDegradationDataset.
        cache: keep the decoded images in memory (3 bytes a pixel). Default false.
        io_backend: ``{type: disk}`` or ``{type: lmdb}``. Default by the path's end.

    Raises:
        FileNotFoundError: no images at ``dataroot_gt``.
        ValueError: an option is missing, unknown or out of range, or an image cannot be read.
    """

    def __init__(self, opt: Mapping[str, Any]) -> None:
        self.opt = opt  # BasicSR reads the set's name from it
        options = OptionMap(opt, type(self).__name__)
        self.seed = options.integer("seed", default=0, minimum=0)
        size = options.integer("image_size", minimum=8)
        self._degradation = build_degradation(options.get("degradation", "celeba_x4"), size)
        self._faces = FaceImages(options, "dataroot_gt", size)
        self.sources = (self._faces,)
        options.finish()

    def names(self) -> list[str]:
        """Return each face's path below the folder, without suffix.

        Raises:
            ValueError: two files differ in the suffix only.
        """
        names = [self._faces.key(index) for index in range(len(self))]
        twice = sorted(name for name, count in Counter(names).items() if count > 1)
        if twice:
            raise ValueError(f"dataroot_gt: {twice[0]} is the name of several files, of different suffixes")
        return names

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return pair ``index``."""
        name = PurePosixPath(self._faces.key(index)).name
        lq, gt = degrade(self._faces.image(index), self._degradation, name_generator(name, self.seed))
        path = self._faces.path(index)
        return {"lq": to_tensor(lq), "gt": to_tensor(gt), "lq_path": path, "gt_path": path}
