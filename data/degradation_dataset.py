"""Training pairs made on the fly from high-quality faces."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from basicsr.utils.registry import DATASET_REGISTRY
from torch import Tensor
from torch.utils.data import Dataset

from lafr_base.option_map import OptionMap

from .degradations import build_degradation, degrade
from .samplers import item_generator
from .sources import FaceImages, to_tensor


@DATASET_REGISTRY.register()
class FaceDegradationDataset(Dataset[dict[str, Any]]):
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
        n_draws: how many different pairs an image gives. Default none: each draw is a new one. With it LQ
            latents can be kept too (``train: latent_cache``).
        n_images, n_images_seed: random subset and its seed. Default all, 0.
        cache: keep the decoded images in memory (3 bytes a pixel). Default false.
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
        gt_only, degradation = options.flag("gt_only"), options.get("degradation")
        if gt_only == (degradation is not None):
            raise ValueError("FaceDegradationDataset: give either `degradation` or `gt_only: true`")
        self._degradation = None if gt_only else build_degradation(degradation, size)
        self._faces = FaceImages(options, "dataroot_gt", size)
        options.finish()

    def __len__(self) -> int:
        """Return the number of faces."""
        return len(self._faces)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return the pair of draw ``index``."""
        rng = item_generator(self.seed, index, self._n_draws)
        gt = self._faces.image(index)
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
