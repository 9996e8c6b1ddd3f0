"""The detector that needs nothing but this package: boxes by scikit-image's cascade, the rest by FacePointNet."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from lafr.detectors.face import DetectorSpec, Face, Picture, add_detector, check_photo, rescale, resize_to, settle
from lafr_arch.aligner_arch import FacePointNet
from lafr_base.geometry import CROP_RADII, Array, centre_and_radius, crop_matrix, invert, tilt, transform, warp_face

WEIGHTS = Path(__file__).resolve().parents[1] / "pretrained" / "aligner"

SEARCH_PIXELS = 1_000_000
"""Pixels of the copy that the cascade searches: a second on one CPU core, whatever the photo's size."""
SEARCH_ENLARGE = 1.5
"""Small photos are enlarged by this much at most, so that faces of 16 pixels fill the cascade's window of 24."""
WINDOW = 24
MIN_NEIGHBORS = (4, 2)
"""How many of the cascade's windows must agree on a box: at first, and where that found no face. On 67 photos with 109
faces, 4 alone found 93 with 1 false box, 2 alone 100 with 7 and both in turn 100 with 3."""
TURNS = (-30.0, 30.0, 90.0, 180.0, -90.0)
"""Degrees by which a photo is turned where no upright face was found."""

# Where the crop that the net wants lies relative to the cascade's box, as fractions of the box's side: medians over
# the faces of the training set.
BOX_TO_CROP_SHIFT = 0.083
BOX_TO_CROP_SIDE = 1.27
# The face's box around its points, in RMS distances of the points from their mean: brows' top to chin.
FACE_BOX = np.array([-2.0, -2.2, 2.0, 2.3])

FACE_LOGIT = 5.5
"""Logit of the net that counts as score 0.5. Three in five of its training crops were faces; of the cascade's boxes few
are, and those that are not resemble faces. On 12 photos (109 boxes) false boxes reached 5.0, faces began at 6.3."""
OVERLAP = 0.5
BATCH = 64


class BuiltinDetector:
    """LBP frontal cascade and five-point alignment net.

    The cascade proposes boxes, the net finds the points, a second crop upright and centred on them refines them,
    and the net's confidence in that crop decides.

    Args:
        device: torch device of the net.
        min_score: least confidence, 0 to 1.
    """

    name = "builtin"

    def __init__(self, device: str | torch.device = "cpu", min_score: float = 0.5) -> None:
        from skimage import data
        from skimage.feature import Cascade

        self.device = torch.device(device)
        self.min_score = min_score
        self._cascade = Cascade(data.lbp_frontal_face_cascade_filename())
        self._net = FacePointNet.from_pretrained(WEIGHTS, self.device)

    def detect(self, img: Picture) -> list[Face]:
        """Find the faces of a BGR photo; see :class:`lafr.detectors.face.Detector`."""
        if not check_photo(img):
            return []
        small = resize_to(img, SEARCH_PIXELS, SEARCH_ENLARGE)
        gray = cv2.cvtColor(small, cv2.COLOR_BGR2GRAY)
        faces: list[Face] = []
        for neighbors in MIN_NEIGHBORS:
            faces = faces or self._verify(img, small, self._propose(gray, neighbors), 0.0)
        for turn in TURNS if not faces else ():
            matrix, turned = _turn(gray, turn)
            if turned.size > 2 * SEARCH_PIXELS:  # a panorama, whose turned copy is nearly all margin
                continue
            corners = self._propose(turned, MIN_NEIGHBORS[-1])
            centres = transform(invert(matrix), corners[:, :2])
            faces += self._verify(img, small, np.column_stack([centres, corners[:, 2]]), turn)
        return settle(faces, img, OVERLAP)

    def _propose(self, gray: NDArray[np.uint8], neighbors: int) -> Array:
        """Return the cascade's boxes (N, 3): centre x, y and side in pixels of ``gray``."""
        if min(gray.shape) <= WINDOW:
            return np.zeros((0, 3))
        boxes = self._cascade.detect_multi_scale(
            img=gray,
            scale_factor=1.2,
            step_ratio=1,
            min_size=(WINDOW, WINDOW),
            max_size=(min(gray.shape),) * 2,
            min_neighbor_number=neighbors,
        )
        rows = [(b["c"] + (b["width"] - 1) / 2, b["r"] + (b["height"] - 1) / 2, b["width"]) for b in boxes]
        return np.array(rows, dtype=np.float64).reshape(-1, 3)

    def _verify(self, img: Picture, small: Picture, boxes: Array, angle: float) -> list[Face]:
        """Find the points of boxes of ``small``, turned by ``angle`` degrees, in ``img``; drop what is no face."""
        if not len(boxes):
            return []
        factor = img.shape[1] / small.shape[1]
        centres = rescale(boxes[:, :2], small, img).astype(np.float64)
        sides = boxes[:, 2] * factor
        radians = np.deg2rad(angle)
        down = np.array([-np.sin(radians), np.cos(radians)])
        size = self._net.image_size
        matrices = [
            crop_matrix(centre + BOX_TO_CROP_SHIFT * side * down, BOX_TO_CROP_SIDE * side, angle, size)
            for centre, side in zip(centres, sides, strict=True)
        ]
        points, logits = self._run(img, matrices)
        likely = np.flatnonzero(logits > 0)
        matrices = []
        for i in likely:
            centre, radius = centre_and_radius(points[i])
            matrices.append(crop_matrix(centre, CROP_RADII * max(radius, 1.0), tilt(points[i]), size))
        points, logits = self._run(img, matrices)
        scores = 1 / (1 + np.exp(FACE_LOGIT - logits))
        return [
            Face(_box(points[i]), points[i].astype(np.float32), float(scores[i]))
            for i in np.flatnonzero(scores >= self.min_score)
        ]

    @torch.inference_mode()
    def _run(self, img: Picture, matrices: list[Array]) -> tuple[Array, Array]:
        """Return the points (N, 5, 2) in pixels of ``img`` and the face logits (N,) of N crops."""
        size = self._net.image_size
        points, logits = [np.zeros((0, 5, 2))], [np.zeros(0)]
        for start in range(0, len(matrices), BATCH):
            batch = matrices[start : start + BATCH]
            crops = np.stack([warp_face(img, matrix, size)[:, :, ::-1].transpose(2, 0, 1) for matrix in batch])
            found, face = self._net(torch.from_numpy(crops).to(self.device).float() / 255)
            found = found.double().cpu().numpy() * size
            points.append(np.stack([transform(invert(m), p) for m, p in zip(batch, found, strict=True)]))
            logits.append(face.double().cpu().numpy())
        return np.concatenate(points), np.concatenate(logits)


def _turn(gray: NDArray[np.uint8], angle: float) -> tuple[Array, NDArray[np.uint8]]:
    """Turn a picture so that faces tilted by ``angle`` degrees stand upright; return the matrix and the picture."""
    height, width = gray.shape
    radians = np.deg2rad(-angle)
    cos, sin = np.cos(radians), np.sin(radians)
    linear = np.array([[cos, -sin], [sin, cos]])
    extent = np.ceil(np.abs(linear) @ (width, height)).astype(int)
    centre = np.array([width - 1, height - 1]) / 2
    matrix = np.column_stack([linear, (extent - 1) / 2 - linear @ centre])
    return matrix, cv2.warpAffine(gray, matrix, extent.tolist(), flags=cv2.INTER_LINEAR)


def _box(points: Array) -> NDArray[np.float32]:
    centre, radius = centre_and_radius(points)
    return (np.tile(centre, 2) + radius * FACE_BOX).astype(np.float32)


add_detector(
    DetectorSpec(name="builtin", rank=100, build=lambda _, device, options: BuiltinDetector(device, **options))
)
