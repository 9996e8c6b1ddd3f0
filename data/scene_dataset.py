"""Training scenes for the face detection net: faces at any angle, pasted into pictures that show no face."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from lafr_base.geometry import FFHQ_POINTS, FFHQ_SIZE, Array, centre_and_radius, crop_matrix, transform
from lafr_base.registry import DATASET_REGISTRY
from lafr_data.aligner_dataset import MIRROR, load_landmarks, load_textures
from lafr_data.degradations import build_degradation, degrade
from lafr_data.samplers import item_generator
from lafr_data.sources import FaceDataset, FaceImages, ImageFolder, OptionMap, decode, to_tensor

MAX_FACES = 6
"""Most faces of a scene."""
PLACE = 1.5
"""Least distance of two faces' centres, in the sum of their radii; boxes that touch have 2."""
HEAD = (2.6, 3.5)
"""Half-axes of a cut-out head around its five points, in their RMS distance from their mean."""
PARTS = ((-2.2, -1.7, 2.2, -0.2), (-1.6, 0.4, 1.6, 2.0), (-2.4, -3.4, 2.4, -1.5), (0.9, -2.0, 3.2, 2.0))
"""Boxes of what is no face: eyes alone, mouth and chin, forehead and hair, an ear with its side of the hair; in radii
from the five points' mean."""

Picture = NDArray[np.float32]


@DATASET_REGISTRY.register()
class FaceSceneDataset(FaceDataset):
    """Scenes with known faces, made from FFHQ-aligned square face photos and pictures without people.

    A scene's ground is a piece of scikit-image's pictures or of `backgrounds`, a smooth or noisy surface, a face photo
    so large that no face of it counts, or any of these cut up and shuffled. Onto it come faces at any angle and of any
    size, cut out or with what is around them, perhaps in other light or partly covered, and parts of faces. Faces that
    are cut by the scene's edge count while their centre is inside.

    An item is ``lq`` (3, S, S) RGB float32 in [0, 1]; ``points`` (6, 5, 2) float32, x and y in pixels, zero where there
    are fewer faces; ``lq_path``. It is a function of ``seed``, the index and the draw
    (:class:`lafr_data.samplers.Draw`).

    Options:
        dataroot_gt: folder of photos (any depth) or an LMDB in BasicSR's layout.
        photo_size: side the photos are read at. Default 128.
        landmarks: JSON file of ``lafr landmarks``; photos it lacks, or all without it, have the template's points.
        backgrounds: folder of more pictures without people; none by default.
        image_size: side S of a scene, a multiple of 16. Default 128.
        face_radius: smallest and largest RMS distance of a face's five points from their mean, pixels. Default 2 to 14.
        upright_ratio: share of the faces that are tilted little; the others have any angle. Default 0.4.
        empty_ratio: share of the scenes without a face. Default 0.2.
        degradation: preset name, or mapping with ``preset`` and overrides, applied to the scene.
        degraded_ratio: share of the scenes that are degraded. Default 0.7.
        items_per_photo: length of the set, in items a photo. Default 1.
        n_images, n_images_seed, cache, check_images, io_backend, seed: as in FaceDegradationDataset.

    Raises:
        FileNotFoundError: no images at ``dataroot_gt`` or ``backgrounds``.
        ValueError: an option is missing, unknown or out of range, or a file cannot be read.
    """

    def __init__(self, opt: Mapping[str, Any]) -> None:
        options = OptionMap(opt, type(self).__name__)
        self.opt = opt
        self.seed = options.integer("seed", 0, minimum=0) or 0
        self._size = options.integer("image_size", 128, minimum=32) or 128
        self._items = options.integer("items_per_photo", 1) or 1
        low, high = options.get("face_radius", (2, 14))
        if self._size % 16 or not 0 < low < high:
            raise ValueError(f"image_size: {self._size} must be a multiple of 16, face_radius: {low} below {high}")
        self._radii = (float(low), float(high))
        self._upright_ratio = float(options.get("upright_ratio", 0.4))
        self._empty_ratio = float(options.get("empty_ratio", 0.2))
        self._degraded_ratio = float(options.get("degraded_ratio", 0.7))
        self._degradation = build_degradation(options.require("degradation"), self._size)
        landmarks, backgrounds = options.get("landmarks"), options.get("backgrounds")
        self._landmarks = {} if landmarks is None else load_landmarks(landmarks)
        self._photos = FaceImages(options, "dataroot_gt", options.integer("photo_size", 128))
        self.sources = (self._photos,)
        options.finish()
        self._grounds = load_textures()
        if backgrounds is not None:
            more = ImageFolder(Path(str(backgrounds)).expanduser(), "backgrounds")
            self._grounds += [decode(more.encoded(i), more.path(i)) for i in range(len(more.keys))]

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self._photos) * self._items

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return the scene of draw ``index``."""
        rng = item_generator(self.seed, index)
        first = int(index) % len(self._photos)
        scene = self._ground(rng)
        for _ in range(rng.integers(0, 3)):
            self._paste_part(scene, rng)
        count = 0 if rng.random() < self._empty_ratio else 1 + min(rng.geometric(0.45) - 1, MAX_FACES - 1)
        faces = np.zeros((MAX_FACES, 5, 2))
        for place in range(count):
            photo_index = first if place == 0 else int(rng.integers(len(self._photos)))
            faces[place] = self._paste_face(scene, photo_index, faces[:place], rng)
        for points in faces[:count]:
            if points.any() and rng.random() < 0.2:
                self._cover(scene, points, rng)
        scene = self._light(scene, rng)
        if rng.random() < self._degraded_ratio:
            scene, _ = degrade(np.clip(scene, 0, 1), self._degradation, rng)
        return {
            "lq": to_tensor(np.clip(scene, 0, 1)),
            "points": torch.from_numpy(faces).float(),
            "lq_path": self._photos.path(first),
        }

    # ---- the ground -------------------------------------------------------------------------------------------------

    def _ground(self, rng: np.random.Generator) -> Picture:
        kind = rng.random()
        if kind < 0.5:
            scene = self._piece(rng)
        elif kind < 0.65:
            cells = int(2 ** rng.integers(1, 6))
            scene = rng.random((cells, cells, 3), dtype=np.float32)
            scene = rng.random(3, dtype=np.float32) + (scene - 0.5) * rng.uniform(0, 1)
            scene = cv2.resize(scene.astype(np.float32), (self._size, self._size), interpolation=cv2.INTER_CUBIC)
        else:
            scene = self._close_up(rng)
        if rng.random() < 0.2:  # its texture without its shapes
            scene = _shuffled(scene, int(rng.choice([8, 16, 32])), rng)
        return np.ascontiguousarray(scene, dtype=np.float32)

    def _piece(self, rng: np.random.Generator) -> Picture:
        """Cut a random square of a picture without people, perhaps in other colours."""
        picture = self._grounds[rng.integers(len(self._grounds))]
        extent = np.array([picture.shape[1], picture.shape[0]])
        side = min(self._size * 2.0 ** rng.uniform(-1, 1.6), float(extent.min()))
        matrix = crop_matrix(rng.uniform(side / 2, extent - side / 2), side, float(rng.uniform(-180, 180)), self._size)
        piece = _cut(picture, matrix, self._size).astype(np.float32) / np.float32(255)
        return np.asarray(piece[..., rng.permutation(3)] if rng.random() < 0.3 else piece, dtype=np.float32)

    def _close_up(self, rng: np.random.Generator) -> Picture:
        """Enlarge part of a face photo so much that its face does not count."""
        index = int(rng.integers(len(self._photos)))
        photo = self._photos.image(index)
        _, radius = centre_and_radius(self._points(index, photo.shape[0]))
        scale = self._radii[1] * 2.0 ** rng.uniform(0.2, 1.5) / radius
        side = self._size / scale
        centre = rng.uniform(0, photo.shape[0], 2)
        return _cut(photo, crop_matrix(centre, side, float(rng.uniform(-180, 180)), self._size), self._size)

    # ---- faces and parts of them ------------------------------------------------------------------------------------

    def _points(self, index: int, side: int) -> Array:
        fractions = self._landmarks.get(self._photos.key(index), (FFHQ_POINTS + 0.5) / FFHQ_SIZE)
        return fractions * side - 0.5

    def _photo(self, index: int, rng: np.random.Generator) -> tuple[Picture, Array]:
        """Return a face photo, perhaps mirrored, and its points."""
        photo = self._photos.image(index)
        points = self._points(index, photo.shape[0])
        if rng.random() < 0.5:
            photo = np.ascontiguousarray(photo[:, ::-1])
            points = (np.array([photo.shape[1] - 1, 0]) + points * (-1, 1))[MIRROR]
        return photo, points

    def _placing(self, points: Array, rng: np.random.Generator) -> tuple[Array, float]:
        """Draw where a face photo goes: its matrix from photo to scene, and the scale."""
        centre, radius = centre_and_radius(points)
        wanted = float(np.exp(rng.uniform(*np.log(self._radii))))
        upright = rng.random() < self._upright_ratio
        angle = float(rng.normal(0, 15) if upright else rng.uniform(-180, 180))
        scale = wanted / radius
        # crop_matrix stands up what is turned by its angle; this turns what stands upright.
        linear = crop_matrix(np.zeros(2), 1 / scale, -angle, 1)[:, :2]
        target = rng.uniform(-0.5, self._size - 0.5, 2)
        return np.column_stack([linear, target - linear @ centre]), scale

    def _paste_face(self, scene: Picture, index: int, others: Array, rng: np.random.Generator) -> Array:
        """Paste a face where there is room and return its points (5, 2); zero where there is none."""
        photo, points = self._photo(index, rng)
        centre, radius = centre_and_radius(points)
        for _ in range(8):
            matrix, scale = self._placing(points, rng)
            placed = transform(matrix, points)
            if all(_room(placed, other) for other in others if other.any()):
                break
        else:
            return np.zeros((5, 2))
        side = photo.shape[0]
        kind = rng.random()
        mask = np.zeros((side, side), np.float32)
        if kind < 0.45:  # the head alone
            stretch = rng.uniform(0.9, 1.35)
            axes = [round(stretch * axis * radius) for axis in HEAD]
            middle = (round(centre[0]), round(centre[1] - 0.35 * radius))
            cv2.ellipse(mask, middle, axes, 0, 0, 360, 1.0, -1)
            mask = cv2.blur(mask, (7, 7)) if rng.random() < 0.7 else mask
        elif kind < 0.65:  # with hair and shoulders, fading out
            mask[side // 8 : -side // 8, side // 8 : -side // 8] = 1
            mask = cv2.blur(mask, (side // 4 - 1, side // 4 - 1))
        else:  # a photo in a photo
            mask[:] = 1
        if rng.random() < 0.3:
            photo = np.clip(photo, 0, 1) ** np.float32(2 ** rng.uniform(-1, 1))
        _blend(scene, photo, mask, matrix, scale)
        return placed

    def _paste_part(self, scene: Picture, rng: np.random.Generator) -> None:
        """Paste a part of a face that is no face, or a face whose parts are out of order."""
        photo, points = self._photo(int(rng.integers(len(self._photos))), rng)
        matrix, scale = self._placing(points, rng)
        centre, radius = centre_and_radius(points)
        mask = np.zeros(photo.shape[:2], np.float32)
        if rng.random() < 0.25:
            photo = _shuffled(photo, photo.shape[0] // 8, rng)
            box = np.array([-3.0, -3.0, 3.0, 3.0])
        else:
            box = np.array(PARTS[rng.integers(len(PARTS))])
        x0, y0, x1, y1 = np.rint(np.tile(centre, 2) + radius * box).astype(int).clip(0)
        mask[y0:y1, x0:x1] = 1
        _blend(scene, photo, cv2.blur(mask, (5, 5)) if rng.random() < 0.5 else mask, matrix, scale)

    def _cover(self, scene: Picture, points: Array, rng: np.random.Generator) -> None:
        """Cover part of a face: glasses, a hand, a hat, a frame."""
        centre, radius = centre_and_radius(points)
        middle = centre + rng.uniform(-2.4, 2.4, 2) * radius
        axes = rng.uniform(0.3, 1.5, 2) * radius
        colour = rng.random(3).tolist()
        box = (middle.tolist(), (2 * axes).tolist(), float(rng.uniform(0, 180)))
        if rng.random() < 0.5:
            cv2.ellipse(scene, box, colour, -1)
        else:
            cv2.fillPoly(scene, [np.rint(cv2.boxPoints(box)).astype(np.int32)], colour)

    def _light(self, scene: Picture, rng: np.random.Generator) -> Picture:
        if rng.random() < 0.25:
            scene = np.repeat(scene.mean(axis=2, keepdims=True), 3, axis=2)
        if rng.random() < 0.6:
            gain = 2.0 ** rng.uniform(-0.8, 0.5, 1 if rng.random() < 0.5 else 3)
            scene = scene * gain.astype(np.float32)
            scene = (scene - 0.5) * np.float32(rng.uniform(0.5, 1.2)) + np.float32(rng.uniform(0.4, 0.6))
        return scene.astype(np.float32)


def _room(points: Array, other: Array) -> bool:
    centre, radius = centre_and_radius(points)
    other_centre, other_radius = centre_and_radius(other)
    return float(np.linalg.norm(centre - other_centre)) >= PLACE * (radius + other_radius)


def _cut(picture: NDArray[Any], matrix: Array, size: int) -> NDArray[Any]:
    """Cut a square; beyond the picture lies its edge, drawn out, which repeats no face."""
    if np.linalg.det(matrix[:, :2]) < 0.3:
        picture = cv2.blur(picture, (2, 2))
    return cv2.warpAffine(picture, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _blend(scene: Picture, photo: Picture, mask: Picture, matrix: Array, scale: float) -> None:
    """Lay a masked photo onto a scene, in place."""
    while scale < 0.55 and photo.shape[0] > 8:  # halve first: sampling a photo too coarsely aliases
        half = (photo.shape[1] // 2, photo.shape[0] // 2)
        photo, mask = (cv2.resize(p, half, interpolation=cv2.INTER_AREA) for p in (photo, mask))
        matrix = matrix @ np.array([[2, 0, 0.5], [0, 2, 0.5], [0, 0, 1]])
        scale *= 2
    reach = transform(matrix, np.array([[0, 0], [1, 0], [0, 1], [1, 1]]) * (photo.shape[0] - 1))
    x0, y0 = np.floor(reach.min(axis=0)).astype(int).clip(0)
    x1, y1 = np.minimum(np.ceil(reach.max(axis=0)).astype(int) + 1, scene.shape[1::-1])
    if x1 <= x0 or y1 <= y0:
        return
    local = matrix - np.array([[0, 0, x0], [0, 0, y0]])
    size = (int(x1 - x0), int(y1 - y0))
    warped = cv2.warpAffine(photo, local, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    share = cv2.warpAffine(mask, local, size, flags=cv2.INTER_LINEAR)[..., None]
    part = scene[y0:y1, x0:x1]
    part += share * (warped - part)


def _shuffled(picture: Picture, cell: int, rng: np.random.Generator) -> Picture:
    """Cut a square picture into cells of some pixels and put them back in any order."""
    count = picture.shape[0] // cell
    used = count * cell
    cells = picture[:used, :used].reshape(count, cell, count, cell, 3).swapaxes(1, 2).reshape(-1, cell, cell, 3)
    order = rng.permutation(len(cells))
    shuffled = picture.copy()
    shuffled[:used, :used] = cells[order].reshape(count, count, cell, cell, 3).swapaxes(1, 2).reshape(used, used, 3)
    return shuffled
