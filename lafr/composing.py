"""What becomes of a photo once the network has run over its faces: tones, identity, and the way back into the photo."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from lafr import faces as face_geometry
from lafr.results import RestoredPhoto
from lafr_base.geometry import align_matrix

if TYPE_CHECKING:
    from lafr.background import BackgroundUpsampler
    from lafr.identity import IdentityMeter

logger = logging.getLogger(__name__)

EASING = (0.6, 0.7, 0.8, 0.9)
"""Weights that a face is eased through until it passes for the same person; after the last it stays as it was."""

LEFT = 1.0
"""The weight of a face that stays as it was: its pixels in the photo are not touched."""


@dataclass(frozen=True)
class Composer:
    """Makes faces and photos of what a network gave.

    Attributes:
        upscale: enlargement of whole photos.
        bg_upsampler: enlarges what is around the faces; None for Lanczos interpolation.
        meter: measures the identity of every face; None for none.
        threshold: figure below which a face is called changed; None for the meter's own.
    """

    upscale: float
    bg_upsampler: BackgroundUpsampler | None = None
    meter: IdentityMeter | None = None
    threshold: float | None = None

    @property
    def least_identity(self) -> float:
        """The figure below which a face is called changed."""
        if self.threshold is not None or self.meter is None:
            return self.threshold or 0.0
        return self.meter.calibration.threshold

    def finish_faces(
        self,
        result: RestoredPhoto,
        outputs: Sequence[np.ndarray],
        tones: Sequence[float],
        keep_identity: bool = False,
    ) -> None:
        """Fill in `restored_faces`, `tones` and `identities` of a photo.

        Args:
            result: cropped; its `cropped_faces` are compared with.
            outputs: of the network for each crop, (S, S, 3) float32 BGR in [0, 1].
            tones: 0 to 1 for each face, how closely it follows the photo; see `lafr.faces.keep_tones`.
            keep_identity: ease a face below the threshold through `EASING`, or leave it as it was.
        """
        gray = result.input_img is not None and face_geometry.is_gray(result.input_img)
        crops = result.cropped_faces
        result.tones = list(tones)
        result.restored_faces = [_face(o, c, t, gray) for o, c, t in zip(outputs, crops, tones, strict=True)]
        if self.meter is None or not crops:
            return
        result.identities = self.meter.compare(crops, result.restored_faces)
        for slot, figure in enumerate(result.identities):
            if figure >= self.least_identity:
                continue
            name = f"{result.name}: face {result.numbers[slot]}"
            if not keep_identity:
                message = "%s may no longer show the same person: identity %.2f, below %.2f"
                logger.warning(message, name, figure, self.least_identity)
                continue
            self._ease(result, slot, outputs[slot], gray)
            how = "left as it was" if result.tones[slot] >= LEFT else f"eased to weight {result.tones[slot]:g}"
            logger.info("%s is %s, to stay the same person (identity was %.2f)", name, how, figure)

    def _ease(self, result: RestoredPhoto, slot: int, output: np.ndarray, gray: bool) -> None:
        assert self.meter is not None
        crop = result.cropped_faces[slot]
        steps = [weight for weight in EASING if weight > result.tones[slot]]
        faces = [_face(output, crop, weight, gray) for weight in steps]
        figures = self.meter.compare([crop] * len(faces), faces)
        tried = zip(steps, faces, figures, strict=True)
        passed = (attempt for attempt in tried if attempt[2] >= self.least_identity)
        result.tones[slot], result.restored_faces[slot], result.identities[slot] = next(passed, (LEFT, crop, 1.0))
        result.eased[slot] = True

    def paste(self, result: RestoredPhoto) -> None:
        """Make the whole photo, `restored_img` and `restored_alpha`, of a photo whose faces are finished.

        Faces that were found but not chosen, and those left as they were, keep their pixels to the bit: no other face's
        blending reaches into theirs.
        """
        image = result.input_img
        assert image is not None
        height, width = image.shape[:2]
        size = (max(1, round(width * self.upscale)), max(1, round(height * self.upscale)))
        if self.bg_upsampler is None:
            canvas = _resized(image, size, cv2.INTER_LANCZOS4)
        else:
            canvas = self.bg_upsampler.enhance(image, outscale=self.upscale)[0]
            if canvas.dtype != image.dtype:
                raise TypeError(f"bg_upsampler gave {canvas.dtype} for a photo of {image.dtype}")
            canvas = _resized(canvas, size, cv2.INTER_LANCZOS4)
        result.restored_img = canvas
        if result.photo is not None and result.photo.alpha is not None:
            result.restored_alpha = _resized(result.photo.alpha, size, cv2.INTER_LINEAR)
        matrices = result.affine_matrices
        pasted = [slot for slot, weight in enumerate(result.tones) if weight < LEFT]
        chosen = {result.numbers[slot] for slot in pasted}
        kept = [
            align_matrix(face.landmarks, result.face_size)
            for number, face in enumerate(result.found)
            if number not in chosen
        ]
        for slot in pasted:
            neighbours = [matrices[other] for other in pasted if other != slot]
            face = result.restored_faces[slot]
            face_geometry.paste_face(canvas, face, matrices[slot], result.scale, neighbours, kept)


def to_unit_range(image: np.ndarray) -> np.ndarray:
    """Return a uint8 or uint16 picture as float32 in [0, 1]."""
    return image.astype(np.float32) / np.iinfo(image.dtype).max


def _face(output: np.ndarray, crop: np.ndarray, weight: float, gray: bool) -> np.ndarray:
    """Return a face of the crop's type: the network's output, tied to the crop."""
    if weight >= LEFT:
        return crop
    top = np.iinfo(crop.dtype).max
    face = face_geometry.keep_tones(np.ascontiguousarray(output), to_unit_range(crop), weight)
    face = face_geometry.to_gray(face) if gray else face
    return np.rint(np.clip(face, 0, 1) * top).astype(crop.dtype)


def _resized(image: np.ndarray, size: tuple[int, int], enlarge: int) -> np.ndarray:
    """Return a copy of (width, height) `size`."""
    if size == (image.shape[1], image.shape[0]):
        return image.copy()
    shrinks = size[0] < image.shape[1]
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if shrinks else enlarge)
