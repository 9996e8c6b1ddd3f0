"""A photo of a session: its faces, what networks made of them, and what the page shows of it."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from lafr.choice import FaceChoice, FoundFace
from lafr.page.models import Models
from lafr.report import shares, verdict
from lafr.restorer import LAFRer
from lafr.results import RestoredPhoto
from lafr_base.geometry import align_matrix, warp_face
from lafr_base.images import to_uint8

PREVIEW_SIDE = 1400
"""Longest side of what the page shows of a photo, pixels."""

THUMB_SIDE = 112
"""Side of the thumbnails of photos and faces, pixels."""


@dataclass(frozen=True)
class Settings:
    """What is set for all photos: the model, the enlargement, and whether faces that changed are eased."""

    model: str
    upscale: float = 2
    keep_identity: bool = False


@dataclass
class Face:
    """A face of a photo.

    Attributes:
        found: by the detector.
        thumb: as it was, an address of data.
        restore: whether it is ticked.
        strength: 0 (as it was) to 100 (the network alone); None for the model's own.
    """

    found: FoundFace
    thumb: str
    restore: bool = True
    strength: int | None = None


@dataclass
class PagePhoto:
    """A photo that was uploaded.

    Attributes:
        name: as the user knows it.
        path: its file, in the session's folder.
        folder: for what networks made of its faces.
        width: of the photo in pixels.
        height: of the photo in pixels.
        faces: left to right.
        thumb: of the photo, an address of data.
    """

    name: str
    path: Path
    folder: Path
    width: int
    height: int
    faces: list[Face] = field(default_factory=list)
    thumb: str = ""

    def tick(self, choice: FaceChoice) -> None:
        """Tick the faces that a choice takes, and no others."""
        picked = choice.pick([face.found for face in self.faces], self.width, self.height)
        for number, face in enumerate(self.faces):
            face.restore = number in picked

    def compare(self, restorer: LAFRer, like: Any) -> None:
        """Measure how like the faces are to an embedding (128,); None forgets it."""
        found = [replace(face.found, likeness=None) for face in self.faces]
        if like is not None:
            image = restorer.steps.read(self.path).or_raise().input_img
            assert image is not None
            found = restorer.steps.compared(image, found, like)
        for face, one in zip(self.faces, found, strict=True):
            face.found = one

    def restored_by(self, model: str) -> list[int]:
        """Return the numbers of the faces that a network has done."""
        return [number for number in range(len(self.faces)) if self._file(model, number).is_file()]

    def missing(self, model: str) -> list[int]:
        """Return the numbers of the ticked faces that a network has not done yet."""
        done = set(self.restored_by(model))
        return [number for number, face in enumerate(self.faces) if face.restore and number not in done]

    def restore(self, models: Models, model: str) -> Iterator[int]:
        """Run a network over the ticked faces that it has not done; yields how many it did, batch by batch.

        Raises:
            Exception: whatever kept it from doing so.
        """
        todo = self.missing(model)
        restorer = models.get(model)
        result = self._cropped(restorer, todo)
        step = restorer.steps.runner.batch_size
        for start in range(0, len(todo), step):
            places = range(start, min(start + step, len(todo)))
            for place, output in zip(places, models.run(model, result, places), strict=True):
                self.folder.mkdir(parents=True, exist_ok=True)
                np.save(self._file(model, todo[place]), output)
            yield len(places)

    def compose(self, restorer: LAFRer, settings: Settings, upscale: float) -> RestoredPhoto:
        """Make the photo of the ticked faces that the network has done, each at its strength; no network is run.

        Args:
            restorer: of the settings' model.
            settings: of all photos.
            upscale: enlargement of the result, in place of the settings'.
        """
        done = [n for n in self.restored_by(settings.model) if self.faces[n].restore]
        result = self._cropped(restorer, done)
        outputs = [np.load(self._file(settings.model, number)) for number in done]
        result.weights = [1 - self.strength(number, restorer) / 100 for number in done]
        result.eased = [False] * len(done)
        composer = replace(restorer.composer, upscale=upscale)
        composer.finish_faces(result, outputs, result.weights, settings.keep_identity)
        result.upscale_factor = upscale
        composer.paste(result)
        return result

    def strength(self, number: int, restorer: LAFRer) -> int:
        """Return the strength of a face: the network alone at 100, the photo as it was at 0."""
        own = self.faces[number].strength
        if own is not None:
            return own
        # What the command does by default: half, or what a network with a knob of its own makes of half.
        return 50 if restorer.steps.weight_means == "tones" else 100

    def preview(self, restorer: LAFRer, settings: Settings) -> dict[str, Any]:
        """Return what the page shows of the photo: before, after, and every face with its figures."""
        scale = min(settings.upscale, PREVIEW_SIDE / max(self.width, self.height))
        done = set(self.restored_by(settings.model))
        result = self.compose(restorer, settings, scale)
        assert result.restored_img is not None
        assert result.input_img is not None
        size = (result.restored_img.shape[1], result.restored_img.shape[0])
        shrinks = size[0] < self.width
        before = cv2.resize(result.input_img, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LANCZOS4)
        faces = [self._face_view(number, result, restorer, number in done) for number in range(len(self.faces))]
        return {
            "name": self.name,
            "size": f"{self.width} x {self.height}",
            "before": data_url(before),
            "after": data_url(result.restored_img) if result.numbers else None,
            "faces": faces,
        }

    def _face_view(self, number: int, result: RestoredPhoto, restorer: LAFRer, done: bool) -> dict[str, Any]:
        face = self.faces[number]
        x0, y0, x1, y1 = (float(v) for v in face.found.box)
        view: dict[str, Any] = {
            "number": number,
            "before": face.thumb,
            "after": None,
            "restore": face.restore,
            "done": done,
            "strength": self.strength(number, restorer),
            "score": round(face.found.score, 2),
            "likeness": None if face.found.likeness is None else round(face.found.likeness, 2),
            "box": [x0 / self.width, y0 / self.height, (x1 - x0) / self.width, (y1 - y0) / self.height],
        }
        if number in result.numbers:
            slot = result.numbers.index(number)
            view["after"] = thumbnail(result.restored_faces[slot])
            if result.identities and restorer.composer.meter is not None:
                figure, least = result.identities[slot], restorer.composer.least_identity
                said = verdict(figure, least, result.tones[slot] if result.eased[slot] else None)
                view["identity"] = {"figure": round(float(figure), 2), "verdict": said}
                view["identity"] |= shares(figure, restorer.composer.meter.calibration)
        return view

    def _cropped(self, restorer: LAFRer, numbers: list[int]) -> RestoredPhoto:
        """Read the photo and cut faces out of it, at a network's size."""
        result = restorer.steps.read(self.path).or_raise()
        assert result.input_img is not None
        result.found, result.numbers = [face.found for face in self.faces], numbers
        for number in numbers:
            matrix = align_matrix(self.faces[number].found.landmarks, restorer.face_size)
            result.affine_matrices.append(matrix)
            result.cropped_faces.append(warp_face(result.input_img, matrix, restorer.face_size))
        return result

    def _file(self, model: str, number: int) -> Path:
        return self.folder / f"{re.sub(r'[^A-Za-z0-9]+', '_', model)}_{number}.npy"


def open_photo(name: str, path: Path, folder: Path, models: Models, max_pixels: int) -> PagePhoto:
    """Read an uploaded photo and find its faces.

    Raises:
        ValueError: it cannot be read, or has more than `max_pixels` pixels.
    """
    result = models.get(models.names[0]).steps.read(path).or_raise()
    image = result.input_img
    assert image is not None
    height, width = image.shape[:2]
    if width * height > max_pixels:
        raise ValueError(f"{width} x {height} px is more than the {max_pixels:,} pixels allowed; make it smaller")
    photo = PagePhoto(name, path, folder, width, height, thumb=thumbnail(image))
    for found in models.find_faces(result):
        photo.faces.append(Face(found, thumbnail(warp_face(image, align_matrix(found.landmarks, 256), 256))))
    return photo


def thumbnail(image: np.ndarray) -> str:
    """Return the middle square of a picture, small, as an address of data."""
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = image[top : top + side, left : left + side]
    return data_url(cv2.resize(square, (THUMB_SIDE, THUMB_SIDE), interpolation=cv2.INTER_AREA))


def data_url(image: np.ndarray) -> str:
    """Return a (H, W, 3) BGR uint8 or uint16 picture as an address that holds it, JPEG of quality 90."""
    _, code = cv2.imencode(".jpg", to_uint8(image), [cv2.IMWRITE_JPEG_QUALITY, 90])
    return "data:image/jpeg;base64," + base64.b64encode(code.tobytes()).decode()
