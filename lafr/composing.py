"""What becomes of a photo once the network has run over its faces: tones, identity, and the way back into the photo."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from lafr import faces as face_geometry
from lafr.intact import SAME_SIZE, face_side
from lafr.keep import blend, kept_share, limit_chroma, own_face, to_unit
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
        keep_intact: keep intact faces, and give none colour that its photo lacks; see `lafr.keep`.
        threshold: figure below which a face is called changed; None for the meter's own.
    """

    upscale: float
    bg_upsampler: BackgroundUpsampler | None = None
    meter: IdentityMeter | None = None
    threshold: float | None = None
    keep_intact: bool = True

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
        shares: Sequence[float | None] | None = None,
    ) -> None:
        """Fill in `restored_faces`, `kept`, `tones` and `identities` of a photo.

        Args:
            result: cropped; its `cropped_faces` are compared with.
            outputs: of the network for each crop, (S, S, 3) float32 BGR in [0, 1].
            tones: 0 to 1 for each face, how closely it follows the photo; see `lafr.faces.keep_tones`.
            keep_identity: ease a face below the threshold through `EASING`, or leave it as it was.
            shares: 0 to 1 for each face, how much of it is kept; None for those of :meth:`shares`.
        """
        shares = self.shares(result) if shares is None else shares
        gray = result.input_img is not None and face_geometry.is_gray(result.input_img)
        unfinished = [self._start(result, slot, outputs[slot], gray, share) for slot, share in enumerate(shares)]
        finished = [face.at(weight) for face, weight in zip(unfinished, tones, strict=True)]
        result.tones = list(tones)
        result.restored_faces = [face for face, _ in finished]
        result.kept = [kept for _, kept in finished]
        if self.meter is not None and finished:
            self._watch(result, self.meter, unfinished, keep_identity)
        if self.keep_intact and not result.affine_matrices and finished:
            self._use_all_pixels(result)

    def shares(self, result: RestoredPhoto) -> list[float | None]:
        """Return how much of each face of a photo that was cropped is to be kept, 0 to 1; None as in `kept`."""
        if not self.keep_intact or result.input_img is None:
            return [None] * len(result.cropped_faces)
        image, size = result.input_img, result.face_size
        if not result.affine_matrices:
            return [kept_share(image, None, size, enlarged=True) for _ in result.cropped_faces]
        return [kept_share(image, matrix, size, self.upscale > 1) for matrix in result.affine_matrices]

    def _watch(
        self, result: RestoredPhoto, meter: IdentityMeter, unfinished: Sequence[_Unfinished], keep_identity: bool
    ) -> None:
        """Measure the identities; ease the faces below the threshold, or name them."""
        result.identities = meter.compare(result.cropped_faces, result.restored_faces)
        for slot, figure in enumerate(result.identities):
            if figure >= self.least_identity:
                continue
            name = f"{result.name}: face {result.numbers[slot]}"
            if not keep_identity:
                message = "%s may no longer show the same person: identity %.2f, below %.2f"
                logger.warning(message, name, figure, self.least_identity)
                continue
            self._ease(result, slot, meter, unfinished[slot])
            how = "left as it was" if result.tones[slot] >= LEFT else f"eased to weight {result.tones[slot]:g}"
            logger.info("%s is %s, to stay the same person (identity was %.2f)", name, how, figure)

    def _ease(self, result: RestoredPhoto, slot: int, meter: IdentityMeter, unfinished: _Unfinished) -> None:
        crop = unfinished.crop
        steps = [weight for weight in EASING if weight > result.tones[slot]]
        finished = [unfinished.at(weight) for weight in steps]
        figures = meter.compare([crop] * len(finished), [face for face, _ in finished])
        tried = zip(steps, finished, figures, strict=True)
        passed = (attempt for attempt in tried if attempt[2] >= self.least_identity)
        weight, face, figure = next(passed, (LEFT, unfinished.at(LEFT), 1.0))
        result.tones[slot], result.identities[slot], result.eased[slot] = weight, figure, True
        result.restored_faces[slot], result.kept[slot] = face

    def _start(
        self, result: RestoredPhoto, slot: int, output: np.ndarray, gray: bool, share: float | None
    ) -> _Unfinished:
        crop = result.cropped_faces[slot]
        own: np.ndarray | None = None
        if share and result.input_img is not None:
            matrix = result.affine_matrices[slot] if result.affine_matrices else None
            own = own_face(result.input_img, crop, matrix)
        return _Unfinished(output, crop, gray, self.keep_intact and not gray, share, own)

    def _use_all_pixels(self, result: RestoredPhoto) -> None:
        """Give an aligned face that is larger than the network's its own size."""
        image = result.input_img
        if image is not None and image.shape[0] > result.face_size:
            kept = 1.0 if result.tones[0] >= LEFT else result.kept[0] or 0.0
            result.restored_faces[0] = _at_full_size(result.restored_faces[0], image, kept)

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
            share = self._share(result, slot)
            face_geometry.paste_face(canvas, face, matrices[slot], result.scale, neighbours, kept, share)

    def _share(self, result: RestoredPhoto, slot: int) -> float:
        """Return how much of the canvas's own pixels stays under a face: 0 where the face says all that they do."""
        side = face_side(result.affine_matrices[slot], result.face_size)
        # A photo of fewer pixels than the face, enlarged, lacks detail that the face has.
        return result.kept[slot] or 0.0 if self.upscale <= 1 or SAME_SIZE * side >= result.face_size else 0.0


@dataclass(frozen=True)
class _Unfinished:
    """What the network gave for a face, and what the photo has.

    Attributes:
        output: of the network, (S, S, 3) float32 in [0, 1].
        crop: what it saw, of the photo's type.
        gray: the photo has no colour.
        limited: the face gets no colour that its photo lacks.
        share: how much of the photo is kept; None where that was not asked, or the face is too small to tell.
        own: the face at the photo's resolution; None where nothing of it is kept.
    """

    output: np.ndarray
    crop: np.ndarray
    gray: bool
    limited: bool
    share: float | None
    own: np.ndarray | None

    def at(self, weight: float) -> tuple[np.ndarray, float | None]:
        """Return the face of the crop's type, tied to the photo by a weight, and how much of the photo is kept."""
        if weight >= LEFT:
            return self.crop, None
        if self.share == 1 and self.own is not None and self.own.shape == self.output.shape:
            face = self.own
        else:
            crop = to_unit(self.crop)
            face = face_geometry.keep_tones(np.ascontiguousarray(self.output), crop, weight)
            if self.limited:
                face = limit_chroma(face, crop)
            if self.share and self.own is not None:
                face = blend(face, self.own, self.share)
        face = face_geometry.to_gray(face) if self.gray else face
        top = np.iinfo(self.crop.dtype).max
        return np.rint(np.clip(face, 0, 1) * top).astype(self.crop.dtype), self.share


def _at_full_size(face: np.ndarray, photo: np.ndarray, kept: float) -> np.ndarray:
    """Return an aligned face at its photo's size, with as much of the photo's own pixels as is kept."""
    if kept >= 1:
        return photo.copy()
    large = cv2.resize(face, photo.shape[1::-1], interpolation=cv2.INTER_CUBIC)
    return np.asarray(cv2.addWeighted(large, 1 - kept, photo, kept, 0))


def _resized(image: np.ndarray, size: tuple[int, int], enlarge: int) -> np.ndarray:
    """Return a copy of (width, height) `size`."""
    if size == (image.shape[1], image.shape[0]):
        return image.copy()
    shrinks = size[0] < image.shape[1]
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if shrinks else enlarge)
