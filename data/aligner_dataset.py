"""Training crops for the five-point alignment net: faces under random similarity warps, and crops that are no face."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from lafr_base.geometry import CROP_RADII, FFHQ_POINTS, FFHQ_SIZE, Array, centre_and_radius, crop_matrix, transform
from lafr_base.option_map import OptionMap
from lafr_base.registry import DATASET_REGISTRY
from lafr_data.degradations import build_degradation, degrade
from lafr_data.samplers import item_generator
from lafr_data.sources import FaceDataset, FaceImages, to_tensor

MIRROR = [1, 0, 2, 4, 3]  # the points change sides when a face is flipped
TEXTURES = ("brick", "chelsea", "coffee", "coins", "grass", "gravel", "page", "retina", "rocket", "text")
"""scikit-image's pictures (installed with it) that show no person."""

Picture = NDArray[np.float32]


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def load_landmarks(path: str | Path) -> dict[str, Array]:
    """Read landmarks written by ``lafr landmarks``: key of a photo -> (5, 2) fractions of its side.

    Raises:
        ValueError: the file is missing or holds something else; the message names it.
    """
    try:
        entries = json.loads(Path(path).expanduser().read_text(encoding="utf-8"))
        landmarks = {key: np.array(value, dtype=np.float64) for key, value in entries.items()}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise ValueError(f"landmarks: {path}: {error}; `lafr landmarks` writes this file") from error
    wrong = next((key for key, value in landmarks.items() if value.shape != (5, 2)), None)
    if wrong is not None:
        raise ValueError(f"landmarks: {path}: {wrong} is not five points x, y; `lafr landmarks` writes this file")
    return landmarks


def load_textures() -> list[NDArray[np.uint8]]:
    """Return the pictures without people, RGB (H, W, 3) uint8, that scikit-image carries."""
    from skimage import color, data

    pictures = [np.asarray(getattr(data, name)()) for name in TEXTURES]
    return [color.gray2rgb(picture) if picture.ndim == 2 else picture[..., :3] for picture in pictures]


@DATASET_REGISTRY.register()
class FacePointDataset(FaceDataset):
    """Crops with five landmarks, or without a face, made from FFHQ-aligned square face photos.

    A face's landmarks are FFHQ's template scaled to the photo, or what a JSON file says of it, which fits faces in
    profile better. Crops without a face are details of face photos, faces far off centre, far too small or upside down,
    and pieces of scikit-image's pictures.

    An item is ``lq`` (3, S, S) RGB float32 in [0, 1]; ``points`` (5, 2) float32, x, y as fractions of S (pixel centres
    at whole pixels), zero without a face; ``face`` float32, 1 or 0; ``lq_path``. It is a function of ``seed``, the
    index and the draw (:class:`lafr_data.samplers.Draw`).

    Options:
        dataroot_gt: folder of photos (any depth) or an LMDB in BasicSR's layout.
        photo_size: side the photos are read at. Default 256.
        landmarks: JSON file of ``lafr landmarks``; photos it lacks, or all without it, have the template's points.
        image_size: side S of a crop. Default 64.
        degradation: preset name, or mapping with ``preset`` and overrides, applied to the crop.
        degraded_ratio: share of the crops that are degraded. Default 0.8.
        face_ratio: share of the crops that show a face. Default 0.6.
        max_angle: largest turn of a face, degrees. Default 35.
        max_shift: largest shift of a face, fraction of the crop's side, in x and y. Default 0.15.
        max_zoom: largest factor of a face's size, up and down. Default 1.4.
        items_per_photo: length of the set, in items a photo. Default 1.
        n_images, n_images_seed, cache, check_images, io_backend, seed: as in FaceDegradationDataset.

    Raises:
        FileNotFoundError: no images at ``dataroot_gt``.
        ValueError: an option is missing, unknown or out of range, or a file cannot be read.
    """

    def __init__(self, opt: Mapping[str, Any]) -> None:
        options = OptionMap(opt, type(self).__name__)
        self.opt = opt
        self.seed = options.integer("seed", 0, minimum=0) or 0
        self._size = options.integer("image_size", 64, minimum=16) or 64
        self.items_per_photo = options.integer("items_per_photo", 1)
        self._degraded_ratio = float(options.get("degraded_ratio", 0.8))
        self._face_ratio = float(options.get("face_ratio", 0.6))
        self._max_angle = float(options.get("max_angle", 35))
        self._max_shift = float(options.get("max_shift", 0.15))
        self._max_zoom = float(options.get("max_zoom", 1.4))
        self._degradation = build_degradation(options.require("degradation"), self._size)
        landmarks = options.get("landmarks")
        self._landmarks = {} if landmarks is None else load_landmarks(landmarks)
        self._photos = FaceImages(options, "dataroot_gt", options.integer("photo_size", 256))
        self.sources = (self._photos,)
        options.finish()
        self._textures = load_textures()

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return the crop of draw ``index``."""
        rng = item_generator(self.seed, index)
        photo_index = int(index) % len(self._photos)
        photo = self._photos.image(photo_index)
        points = self._points(self._photos.key(photo_index), photo.shape[0])
        is_face = rng.random() < self._face_ratio
        if is_face:
            crop, points = self._face(photo, points, rng)
        elif rng.random() < 0.6:
            crop = self._part_of_face_photo(photo, points, rng)
        else:
            crop = self._part_of_texture(rng)
        if rng.random() < 0.5:
            crop = np.ascontiguousarray(crop[:, ::-1])
            points = (np.array([self._size - 1, 0]) + points * (-1, 1))[MIRROR]
        if rng.random() < self._degraded_ratio:
            crop, _ = degrade(np.clip(crop, 0, 1), self._degradation, rng)
        return {
            "lq": to_tensor(np.clip(crop, 0, 1)),
            "points": torch.from_numpy(points * is_face / self._size).float(),
            "face": torch.tensor(float(is_face)),
            "lq_path": self._photos.path(photo_index),
        }

    def _points(self, key: str, side: int) -> Array:
        fractions = self._landmarks.get(key, (FFHQ_POINTS + 0.5) / FFHQ_SIZE)
        return fractions * side - 0.5

    def _face(self, photo: Picture, points: Array, rng: np.random.Generator) -> tuple[Picture, Array]:
        """Cut a face as a detector's box would: roughly centred, at roughly its size, perhaps partly covered."""
        centre, radius = centre_and_radius(points)
        # A detector's second crop is far better placed than its first: draw how badly this one is.
        amount = rng.random()
        side = CROP_RADII * radius * self._max_zoom ** (amount * rng.uniform(-1, 1))
        shift = amount * rng.uniform(-1, 1, 2) * self._max_shift * side
        angle = amount * rng.uniform(-1, 1) * self._max_angle
        matrix = crop_matrix(centre + shift, side, angle, self._size)
        crop = self._warp(photo, matrix, rng)
        if rng.random() < 0.15:  # a hand, a hat, a frame
            left, top = rng.integers(0, self._size, 2)
            width, height = rng.integers(self._size // 10, self._size // 3, 2)
            crop[top : top + height, left : left + width] = rng.random(3)
        return crop, transform(matrix, points)

    def _part_of_face_photo(self, photo: Picture, points: Array, rng: np.random.Generator) -> Picture:
        """Cut what is no boxed face: a detail, a face far off centre, far too small, or upside down."""
        centre, radius = centre_and_radius(points)
        face_side = side = CROP_RADII * radius
        angle = rng.uniform(-1, 1) * self._max_angle
        kind = rng.integers(4)
        if kind == 0:
            side *= _log_uniform(rng, 0.08, 0.4)
            centre = rng.uniform(side / 2, photo.shape[0] - side / 2, 2)
        elif kind == 1:
            side *= _log_uniform(rng, 0.5, 1.2)
            direction, distance = rng.uniform(0, 2 * np.pi), rng.uniform(0.5, 0.8) * max(side, face_side)
            centre = centre + distance * np.array([np.cos(direction), np.sin(direction)])
        elif kind == 2:
            centre = centre + rng.uniform(-0.6, 0.6, 2) * side
            side *= _log_uniform(rng, 2.4, 5)
        else:
            angle += 180
        return self._warp(photo, crop_matrix(centre, side, angle, self._size), rng, reflect=False)

    def _part_of_texture(self, rng: np.random.Generator) -> Picture:
        """Cut a random square of a picture without people."""
        picture = self._textures[rng.integers(len(self._textures))]
        extent = np.array([picture.shape[1], picture.shape[0]])
        side = _log_uniform(rng, 24, extent.min())
        matrix = crop_matrix(rng.uniform(side / 2, extent - side / 2), side, rng.uniform(-180, 180), self._size)
        return (self._warp(picture, matrix, rng) / 255).astype(np.float32)

    def _warp(self, image: NDArray[Any], matrix: Array, rng: np.random.Generator, reflect: bool = True) -> NDArray[Any]:
        """Cut a crop; beyond the photo lies its reflection (not where that would show a face again) or one colour."""
        border = cv2.BORDER_REFLECT_101 if reflect and rng.random() < 0.6 else cv2.BORDER_CONSTANT
        colour = rng.random(3) * (255 if image.dtype == np.uint8 else 1)
        size = (self._size, self._size)
        if np.linalg.det(matrix[:, :2]) < 0.25:  # shrinking below half aliases; average first
            image = cv2.blur(image, (3, 3))
        return cv2.warpAffine(
            image, matrix, size, flags=cv2.INTER_LINEAR, borderMode=border, borderValue=colour.tolist()
        )
