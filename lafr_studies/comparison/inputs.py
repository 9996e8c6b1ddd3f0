"""The photos of a comparison: read, searched for faces once, and matched with their references."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from lafr import __version__
from lafr.detectors import Detector, Face
from lafr_base.files import digest, read_json, write_json
from lafr_base.geometry import align_matrix, warp_face
from lafr_base.images import ImageError, list_images, read_image, to_uint8

MIN_EYE_DISTANCE = 5.0
"""Faces whose eyes are closer, in photo pixels, are left alone, as by `lafr.restorer.LAFRer` and GFPGAN."""

FACE_SIZE = 512
"""Side in pixels at which faces of whole photos are measured: that of FFHQ crops in this field."""

_ASPECT_TOLERANCE = 0.02  # rounding to whole pixels changes the two scales of a small photo by less


@dataclass(frozen=True)
class Settings:
    """What is the same for every method of a comparison.

    Attributes:
        aligned: inputs are FFHQ-aligned faces and not whole photos.
        size: side in pixels at which faces are measured and shown.
        upscale: enlargement of whole photos.
        weight: of `lafr.restorer.LAFRer.enhance`; None for `lafr_studies.comparison.worker.usual_weight`.
        detector: name of the detector that found the faces; "" with `aligned`.
        device: torch device.
        precision: one of `lafr.batching.PRECISIONS`.
    """

    aligned: bool
    size: int
    upscale: float
    weight: float | None
    detector: str
    device: str
    precision: str


@dataclass
class Input:
    """One photo of the comparison.

    Attributes:
        name: of its results, without suffix; no two inputs share it.
        path: its file.
        digest: of the file's content.
        width, height: in pixels, upright.
        faces: those found, left to right, as JSON can hold them: box, landmarks, score. One without landmarks
            where the photo is an aligned face.
        reference: file of the same photo undegraded, or None.
        error: why it cannot be used, or None.
    """

    name: str
    path: Path
    digest: str = ""
    width: int = 0
    height: int = 0
    faces: list[dict[str, Any]] = field(default_factory=list)
    reference: Path | None = None
    error: str | None = None

    def face_names(self) -> list[str]:
        """Return the names of its faces' files, without suffix."""
        return [f"{self.name}_{index:02d}" for index in range(len(self.faces))]

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` makes an Input of again."""
        return asdict(self) | {"path": str(self.path), "reference": self.reference and str(self.reference)}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Input:
        """Make an Input of what `to_json` returned."""
        reference = fields["reference"]
        paths = {"path": Path(fields["path"]), "reference": Path(reference) if reference else None}
        return cls(**{**fields, **paths})


def read_input(name: str, path: Path, aligned: bool) -> tuple[Input, np.ndarray | None]:
    """Read a photo; one that cannot be used has an error, and no pixels.

    Returns:
        The input, its face in place if it is an aligned one, and its (H, W, 3) BGR uint8 pixels.
    """
    item = Input(name, path)
    try:
        pixels = to_uint8(read_image(path).bgr)
        item.digest = digest(path)
    except (ImageError, OSError) as error:
        item.error = str(error)
        return item, None
    item.height, item.width = pixels.shape[:2]
    if aligned:
        if item.width != item.height:
            item.error = f"{path}: an aligned face must be square; this one is {item.width} x {item.height} px"
            return item, None
        item.faces = [{}]
    return item, pixels


def find_faces(item: Input, pixels: np.ndarray, detector: Detector, cache: Path) -> None:
    """Set the faces of a whole photo, those of an earlier run where neither photo nor detector changed.

    Args:
        item: the photo; its faces, or its error, are set.
        pixels: (H, W, 3) BGR uint8.
        detector: finds them.
        cache: file that keeps them.
    """
    key = digest([item.digest, detector.name, MIN_EYE_DISTANCE, __version__])
    known = read_json(cache)
    if known.get("key") != key:
        try:
            found = detector.detect(pixels)
        except Exception as error:  # a detector's fault in one photo must not stop the others
            item.error = f"{item.path}: the face detector failed: {error}"
            return
        wide = [f for f in found if np.linalg.norm(f.landmarks[1] - f.landmarks[0]) >= MIN_EYE_DISTANCE]
        wide.sort(key=lambda face: float(face.box[0] + face.box[2]))
        faces = [{"box": f.box.tolist(), "landmarks": f.landmarks.tolist(), "score": float(f.score)} for f in wide]
        known = {"key": key, "faces": faces}
        write_json(cache, known)
    item.faces = known["faces"]


def to_faces(item: Input) -> list[Face]:
    """Return the faces of a whole photo as a detector gives them."""
    return [Face(np.array(f["box"]), np.array(f["landmarks"]), float(f["score"])) for f in item.faces]


def match_references(items: Iterable[Input], folder: Path) -> list[str]:
    """Set each input's reference: the file of the folder with the same name, whatever its suffix.

    Returns:
        Names of the inputs that have none.

    Raises:
        ImageError: the folder does not exist, holds no image, or two with the same name.
    """
    by_stem = images_by_stem(folder)
    missing = []
    for item in items:
        item.reference = by_stem.get(item.path.stem)
        if item.reference is None:
            missing.append(item.path.name)
    return missing


def images_by_stem(folder: Path) -> dict[str, Path]:
    """Return a folder's images by name without suffix.

    Raises:
        ImageError: the folder does not exist, holds no image, or two with the same name.
    """
    paths = list_images(folder)
    twice = sorted(stem for stem, count in Counter(path.stem for path in paths).items() if count > 1)
    if twice:
        raise ImageError(f"{folder}: several images are called {', '.join(twice)}; keep one of each")
    return {path.stem: path for path in paths}


def common_side(sides: Iterable[int]) -> int:
    """Return the side that most aligned faces have, the larger one where two are as frequent."""
    counts = Counter(sides)
    return max(counts, key=lambda side: (counts[side], side), default=FACE_SIZE)


def cut_faces(image: np.ndarray, item: Input, settings: Settings) -> list[np.ndarray]:
    """Cut an input's faces out of a picture of it: the photo itself, its reference or a method's result.

    All are cut at the same places, those found in the input, so that what pasting back does is measured too.

    Args:
        image: (H, W, 3) BGR uint8, of the input's shape at any scale.
        item: the input.
        settings: says whether it is an aligned face, and the size of the crops.

    Returns:
        (size, size, 3) BGR uint8, one a face.

    Raises:
        ValueError: the picture has another shape than the input.
    """
    height, width = image.shape[:2]
    scale_x, scale_y = width / item.width, height / item.height
    if abs(scale_x / scale_y - 1) > _ASPECT_TOLERANCE:
        raise ValueError(f"{width} x {height} px do not have the shape of the input, {item.width} x {item.height} px")
    if settings.aligned:
        return [resize_face(image, settings.size)]
    # Pixel centres are whole numbers: x of the input lies at (x + 0.5) s - 0.5.
    to_input = np.array(
        [[1 / scale_x, 0, 0.5 / scale_x - 0.5], [0, 1 / scale_y, 0.5 / scale_y - 0.5], [0, 0, 1]],
    )
    matrices = [align_matrix(np.array(face["landmarks"]), settings.size) for face in item.faces]
    return [warp_face(image, matrix @ to_input, settings.size) for matrix in matrices]


def resize_face(image: np.ndarray, size: int) -> np.ndarray:
    """Resize an aligned face: bicubic to enlarge, pixel areas to shrink."""
    if image.shape[:2] == (size, size):
        return image
    shrinks = image.shape[0] > size
    return cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
