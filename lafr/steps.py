"""What is done with one photo, in the order in which it is done: read, search, restore, finish.

Faults of a photo are kept in its result: one bad photo must not stop the others.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from lafr.batching import FaceRunner
from lafr.choice import FaceChoice, FoundFace, Wishes
from lafr.composing import LEFT, Composer
from lafr.detectors import Detector
from lafr.intact import face_side
from lafr.keep import to_unit
from lafr.results import RestoredPhoto
from lafr_base.geometry import align_matrix, warp_face
from lafr_base.images import Photo, read_image, to_uint8

logger = logging.getLogger(__name__)

LARGE_FACE = 2.0
"""Faces that are this many times larger in the photo than the network's are reported where they become less sharp."""


@dataclass
class PhotoSteps:
    """The steps of a photo.

    Attributes:
        runner: runs the network.
        detector: finds faces.
        composer: makes faces and photos of what the network gave.
        face_size: side of the crops in pixels.
        weight_means: of the network; see :class:`lafr_arch.restoring.RestoringNetwork`.
        eye_dist_threshold: faces whose eyes are closer than this many photo pixels are left alone.
    """

    runner: FaceRunner
    detector: Detector
    composer: Composer
    face_size: int
    weight_means: str
    eye_dist_threshold: float

    def read(self, image: np.ndarray | str | Path) -> RestoredPhoto:
        """Read a photo, or take an array for one."""
        result = RestoredPhoto(self.composer.upscale, self.face_size)
        try:
            photo = read_image(image) if isinstance(image, (str, Path)) else as_photo(image)
            result.photo, result.input_img = photo, photo.bgr
        except Exception as error:
            _fail(result, error)
        return result

    def search(self, result: RestoredPhoto, wishes: Wishes) -> RestoredPhoto:
        """Find the faces of a photo that was read, choose among them and cut them out."""
        try:
            if result.input_img is not None and wishes.has_aligned:
                result.cropped_faces, result.numbers = [self._fit(result.input_img)], [0]
            elif result.input_img is not None:
                self._crop(result, result.input_img, wishes.choice)
        except Exception as error:
            _fail(result, error)
        result.weights = [wishes.weight_of(number) for number in result.numbers]
        result.eased = [False] * len(result.cropped_faces)
        return result

    def restore(self, faces: Sequence[tuple[RestoredPhoto, int]], weight: float) -> list[np.ndarray | None]:
        """Run the network over faces of any photos.

        Args:
            faces: photos that were searched, each with the place of a face in its `cropped_faces`.
            weight: of these faces, where the network takes one.

        Returns:
            Faces (S, S, 3) float32 BGR; None where there is none, and the photo failed.
        """
        crops = [to_unit(result.cropped_faces[place])[..., ::-1] for result, place in faces]
        options = {"weight": weight} if self.weight_means == "network" else {}
        try:
            outputs = self.runner(crops, **options)
        except Exception as error:
            for result, _ in faces:
                _fail(result, error)
            return [None] * len(faces)
        for (result, _), output in zip(faces, outputs, strict=True):
            if output is None:
                _fail(result, FloatingPointError("the network's result is not finite, even in fp32"))
        return [None if output is None else output[..., ::-1] for output in outputs]

    def finish(self, result: RestoredPhoto, outputs: Sequence[np.ndarray | None], wishes: Wishes) -> RestoredPhoto:
        """Make the faces and the whole photo of what the network gave for each of its crops."""
        if result.error is not None or result.input_img is None:
            return result
        try:
            tones = result.weights if self.weight_means == "tones" else [0.0] * len(result.weights)
            made = [output for output in outputs if output is not None]
            self.composer.finish_faces(result, made, tones, wishes.keep_identity)
            self._name_losses(result)
            if wishes.paste_back:
                self.composer.paste(result)
        except Exception as error:
            _fail(result, error)
        return result

    def _name_losses(self, result: RestoredPhoto) -> None:
        for slot, matrix in enumerate(result.affine_matrices):
            side = face_side(matrix, self.face_size)
            changes = result.tones[slot] < LEFT and (result.kept[slot] or 0.0) < 0.5
            if side > LARGE_FACE * self.face_size and changes:
                message = "%s: a face of %d px is restored at %d px and loses its finest detail"
                logger.warning(message, result.name, side, self.face_size)

    def reference(self, image: np.ndarray | str | Path) -> np.ndarray:
        """Return the embedding (128,) of the largest face of a photo, which others are to be like.

        Raises:
            ValueError: it has no face.
            ImageError: it cannot be read.
        """
        result = self.read(image).or_raise()
        assert result.input_img is not None
        assert self.composer.meter is not None
        found = self.find(result.input_img)
        if not found:
            raise ValueError(f"{result.name}: no face was found to compare others with; pass a clearer photo")
        face = max(found, key=lambda face: face.area)
        return self.composer.meter.embed([self._cut(result.input_img, face)[0]])[0]

    def _fit(self, face: np.ndarray) -> np.ndarray:
        height, width = face.shape[:2]
        if height != width:
            raise ValueError(f"an aligned face must be square; got {width} x {height} px")
        shrinks = height > self.face_size
        interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        return cv2.resize(face, (self.face_size, self.face_size), interpolation=interpolation)

    def _crop(self, result: RestoredPhoto, image: np.ndarray, choice: FaceChoice) -> None:
        found = self.find(image)
        if choice.like is not None:
            found = self.compared(image, found, choice.like)
        self.take(result, found, choice.pick(found, image.shape[1], image.shape[0]))

    def compared(self, image: np.ndarray, found: list[FoundFace], like: Any) -> list[FoundFace]:
        """Return faces of a photo with their likeness to an embedding (128,)."""
        if not found or self.composer.meter is None:
            return found
        likeness = self.composer.meter.embed([self._cut(image, face)[0] for face in found]) @ like
        return [replace(face, likeness=float(value)) for face, value in zip(found, likeness, strict=True)]

    def take(self, result: RestoredPhoto, found: list[FoundFace], numbers: list[int]) -> None:
        """Cut faces out of a photo that was read.

        Args:
            result: of the photo; filled in.
            found: every face of the photo.
            numbers: places in `found` of those that are restored.
        """
        image = result.input_img
        assert image is not None
        result.found, result.numbers = found, numbers
        result.eased = [False] * len(numbers)
        for number in numbers:
            face = found[number]
            crop, matrix = self._cut(image, face)
            result.det_faces.append(np.append(face.box, face.score).astype(np.float64))
            result.all_landmarks_5.append(face.landmarks)
            result.affine_matrices.append(matrix)
            result.cropped_faces.append(crop)

    def find(self, image: np.ndarray) -> list[FoundFace]:
        """Find the faces that are not too small, left to right."""
        if min(image.shape[:2]) <= 2 * self.eye_dist_threshold:
            return []  # smaller than the smallest face
        found = [
            FoundFace(face.box, face.landmarks, float(face.score)) for face in self.detector.detect(to_uint8(image))
        ]
        found = [f for f in found if np.linalg.norm(f.landmarks[1] - f.landmarks[0]) >= self.eye_dist_threshold]
        return sorted(found, key=lambda face: float(face.box[0] + face.box[2]))

    def _cut(self, image: np.ndarray, face: FoundFace) -> tuple[np.ndarray, np.ndarray]:
        matrix = align_matrix(face.landmarks, self.face_size)
        return warp_face(image, matrix, self.face_size), matrix


def as_photo(image: np.ndarray) -> Photo:
    """Wrap an array given to `LAFRer.enhance`.

    Raises:
        ValueError: not a (H, W), (H, W, 3) or (H, W, 4) array of uint8 or uint16.
    """
    if not isinstance(image, np.ndarray):
        raise ValueError(f"img must be an array; got {type(image).__name__} (cv2.imread gives None for bad files)")
    if image.ndim == 2:
        image = image[..., None]
    if image.ndim != 3 or image.shape[2] not in (1, 3, 4) or not image.size:
        raise ValueError(f"img must be (H, W), (H, W, 3) or (H, W, 4); got {image.shape}")
    if image.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"img must be uint8 or uint16, BGR; got {image.dtype}")
    bgr = image[..., [0, 0, 0]] if image.shape[2] == 1 else np.ascontiguousarray(image[..., :3])
    return Photo(bgr=bgr, alpha=image[..., 3] if image.shape[2] == 4 else None, gray=image.shape[2] == 1)


def _fail(result: RestoredPhoto, error: Exception) -> None:
    logger.debug("photo failed", exc_info=error)
    result.error = result.error or error
    result.restored_faces, result.restored_img, result.restored_alpha = [], None, None
