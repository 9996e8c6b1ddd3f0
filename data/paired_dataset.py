"""Pairs of LQ and GT faces that exist as files."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from lafr_base.option_map import OptionMap
from lafr_base.registry import DATASET_REGISTRY
from lafr_data.samplers import item_generator
from lafr_data.sources import FaceDataset, FaceImages, to_tensor


def check_pairs(lq: list[str], gt: list[str]) -> None:
    """Check that two lists of names match one to one.

    Raises:
        ValueError: a name occurs in one list only or twice; the message gives up to five such names a list.
    """
    faults = []
    for option, names, others in (("dataroot_lq", lq, gt), ("dataroot_gt", gt, lq)):
        for fault, wrong in (
            ("has no partner for", sorted(set(names) - set(others))),
            ("has more than one file named", sorted({a for a, b in itertools.pairwise(names) if a == b})),
        ):
            if wrong:
                more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
                faults.append(f"{option} {fault} {', '.join(wrong[:5])}{more}")
    if faults:
        raise ValueError(f"{'; '.join(faults)}: give each face one file of the same name in both folders")


@DATASET_REGISTRY.register()
class PairedFaceDataset(FaceDataset):
    """LQ and GT faces matched by file name without suffix (with its folder, where folders are nested).

    An item is ``lq`` and ``gt`` (3, H, W), RGB float32 in [0, 1], and ``lq_path``, ``gt_path``.

    Options:
        dataroot_lq, dataroot_gt: folders of images (any depth) or LMDBs in BasicSR's layout.
        image_size: side in pixels; other sizes are cut to the central square and resized. Default: as the files
            are, and then a pair must be of one size.
        use_hflip: flip half of the pairs. Default false.
        n_images, n_images_seed: random subset and its seed. Default all, 0.
        check_images: as in FaceDegradationDataset.
        cache: keep the decoded images in memory (3 bytes a pixel). Default false.
        io_backend: ``{type: disk}`` or ``{type: lmdb}``, for both. Default by the path's end.
        seed: seed of flip and order. Default 0.

    Raises:
        FileNotFoundError: no images at ``dataroot_lq`` or ``dataroot_gt``.
        ValueError: a file without partner, a pair of two sizes, an image that cannot be read, or an option that is
            missing, unknown or out of range.
    """

    def __init__(self, opt: Mapping[str, Any]) -> None:
        self.opt = opt  # BasicSR reads the set's name from it
        options = OptionMap(opt, type(self).__name__)
        self.seed = options.integer("seed", default=0, minimum=0)
        self._flip = options.flag("use_hflip")
        size = options.optional_integer("image_size", minimum=8)
        self._lq = FaceImages(options, "dataroot_lq", size)
        self._gt = FaceImages(options, "dataroot_gt", size)
        self.sources = (self._lq, self._gt)
        options.finish()
        check_pairs(self._lq.all_keys, self._gt.all_keys)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return the pair of draw ``index``."""
        lq, gt = self._lq.image(index), self._gt.image(index)
        lq_path, gt_path = self._lq.path(index), self._gt.path(index)
        if lq.shape != gt.shape:
            sizes = f"{lq.shape[1]}x{lq.shape[0]} and {gt.shape[1]}x{gt.shape[0]}"
            raise ValueError(f"{lq_path} and {gt_path} are {sizes}: give `image_size` to resize both")
        if self._flip and item_generator(self.seed, index).random() < 0.5:
            lq, gt = lq[:, ::-1], gt[:, ::-1]
        return {"lq": to_tensor(lq), "gt": to_tensor(gt), "lq_path": lq_path, "gt_path": gt_path}
