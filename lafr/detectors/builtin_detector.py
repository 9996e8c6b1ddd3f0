"""The detector that needs nothing but this package: faces at any angle by FaceDetectionNet, checked by FacePointNet."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from lafr.detectors.face import (
    OVERLAP,
    DetectorSpec,
    Face,
    Picture,
    add_detector,
    check_photo,
    rescale,
    resize_to,
    settle,
)
from lafr_arch.aligner_arch import FacePointNet
from lafr_arch.detector_arch import MULTIPLE, FaceDetectionNet, peaks
from lafr_base.geometry import CROP_RADII, Array, centre_and_radius, crop_matrix, invert, tilt, transform, warp_face

NET = Path(__file__).resolve().parents[1] / "pretrained" / "detector"
ALIGNER = NET.parent / "aligner"

SEARCH_PIXELS = 1_000_000
"""Pixels of the largest copy that is searched, whatever the photo's size."""
SEARCH_ENLARGE = 1.5
"""Small photos are enlarged by this much at most, so that faces of 16 pixels are in the middle of the net's range."""
SMALLEST_COPY = 24
"""Least side of the smallest copy: the largest faces, which fill the photo, are of the net's size there."""

PROPOSAL_LOGIT = -2.5
"""Least logit of the detection net of what is looked at more closely."""
PROPOSALS = 80
"""Most places of a photo that are, but for those of a logit of at least ``SURE``."""
SURE = 0.0
TURNS = (0.0, 90.0, 180.0, -90.0)
"""Degrees from the tilt that the detection net gives at which the alignment net looks at a face first, all at once; it
knows a face that is turned by up to 35."""
LIKELY = 3.0
"""Logit of the alignment net from which it looks again, at the crop that fits best and at its mirror image; the least
of what it says counts."""
# The face's box around its points, in RMS distances of the points from their mean: brows' top to chin.
FACE_BOX = np.array([-2.0, -2.2, 2.0, 2.3])

SCORE = (1.6, 1.4, 2.5, -10.2)
"""Weights of the score's logit: of the detection net's logit, of the alignment net's, and of the logarithm of the
face's size over ``COMMON_RADIUS`` where it is smaller; and what is added. What is small is less often a face. Fitted to
12 photos at five angles, 255 faces; see lafr/pretrained/detector/README.md."""
COMMON_RADIUS = 12.0
SMALLEST_RADIUS = 3.0
"""RMS distance of the points from their mean, photo pixels: that of a face of 12 pixels."""
BATCH = 64


class BuiltinDetector:
    """Face detection net and five-point alignment net.

    The first looks at copies of the photo, each half as large as the one before, and proposes faces. The second looks
    at each in four orientations, of which the one where it is surest counts, and finds the points in a crop that is
    upright by them. What both say decides.

    Args:
        device: torch device of the nets.
        min_score: least confidence, 0 to 1.
    """

    name = "builtin"

    def __init__(self, device: str | torch.device = "cpu", min_score: float = 0.5) -> None:
        self.device = torch.device(device)
        self.min_score = min_score
        self._net = FaceDetectionNet.from_pretrained(NET, self.device)
        self._aligner = FacePointNet.from_pretrained(ALIGNER, self.device)

    def detect(self, img: Picture) -> list[Face]:
        """Find the faces of a BGR photo; see :class:`lafr.detectors.face.Detector`."""
        if not check_photo(img):
            return []
        proposed, first = self.propose(img)
        points, second = self.refine(img, proposed)
        scores = score(first, second, points)
        faces = [
            Face(_box(points[i]), points[i].astype(np.float32), float(scores[i]))
            for i in np.flatnonzero(scores >= self.min_score)
        ]
        return settle(faces, img, OVERLAP)

    @torch.inference_mode()
    def propose(self, img: Picture) -> tuple[Array, Array]:
        """Return the points (N, 5, 2) in pixels of ``img`` and the logits (N,) of what the detection net proposes."""
        points, logits = [np.zeros((0, 5, 2))], [np.zeros(0)]
        copy = resize_to(img, SEARCH_PIXELS, SEARCH_ENLARGE)
        while True:
            height, width = copy.shape[:2]
            padded = cv2.copyMakeBorder(copy, 0, -height % MULTIPLE, 0, -width % MULTIPLE, cv2.BORDER_REPLICATE)
            x = torch.from_numpy(np.ascontiguousarray(padded[..., ::-1].transpose(2, 0, 1))).to(self.device)
            heat, places = self._net(x[None].float().contiguous(memory_format=torch.channels_last) / 255)
            _, row, column = peaks(heat, PROPOSAL_LOGIT)
            logits.append(heat[0, row, column].double().cpu().numpy())
            points.append(rescale(places[0, row, column].double().cpu().numpy(), copy, img).astype(np.float64))
            if min(height, width) < 2 * SMALLEST_COPY:
                break
            copy = cv2.resize(copy, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
        return _distinct(np.concatenate(points), np.concatenate(logits))

    def refine(self, img: Picture, proposed: Array) -> tuple[Array, Array]:
        """Return the alignment net's points (N, 5, 2) and face logits (N,) of faces with known points (N, 5, 2)."""
        count = len(proposed)
        points, logits = self._align(img, [self._crop(face, turn) for turn in TURNS for face in proposed])
        best = logits.reshape(len(TURNS), count).argmax(axis=0)
        points = points.reshape(len(TURNS), count, 5, 2)[best, np.arange(count)]
        points, logits = self._align(img, [self._crop(face) for face in points])
        likely = np.flatnonzero(logits > LIKELY)
        matrices = [self._crop(face) for face in points[likely]]
        for mirrored in (False, True):
            again, verdict = self._align(img, matrices, mirrored)
            logits[likely] = np.minimum(logits[likely], verdict)
            if not mirrored:
                points[likely] = again
        return points, logits

    def _crop(self, points: Array, turn: float = 0.0) -> Array:
        centre, radius = centre_and_radius(points)
        return crop_matrix(centre, CROP_RADII * max(radius, 1.0), tilt(points) + turn, self._aligner.image_size)

    @torch.inference_mode()
    def _align(self, img: Picture, matrices: list[Array], mirrored: bool = False) -> tuple[Array, Array]:
        """Return the points (N, 5, 2) in pixels of ``img`` and the face logits (N,) of N crops.

        The net sees the crops mirrored if asked for; the points then are not those of the photo.
        """
        size = self._aligner.image_size
        points, logits = [np.zeros((0, 5, 2))], [np.zeros(0)]
        for start in range(0, len(matrices), BATCH):
            batch = matrices[start : start + BATCH]
            crops = np.stack([warp_face(img, matrix, size)[:, :, ::-1].transpose(2, 0, 1) for matrix in batch])
            crops = np.ascontiguousarray(crops[..., ::-1]) if mirrored else crops
            found, face = self._aligner(torch.from_numpy(crops).to(self.device).float() / 255)
            found = found.double().cpu().numpy() * size
            points.append(np.stack([transform(invert(m), p) for m, p in zip(batch, found, strict=True)]))
            logits.append(face.double().cpu().numpy())
        return np.concatenate(points), np.concatenate(logits)


def score(first: Array, second: Array, points: Array) -> Array:
    """Return the confidence (N,), 0 to 1, that faces with points (N, 5, 2) are faces.

    Args:
        first: (N,) logits of the detection net.
        second: (N,) logits of the alignment net.
        points: pixels of the photo.
    """
    size = _radii(points)
    weights = (
        SCORE[0] * first + SCORE[1] * second + SCORE[2] * np.log(np.clip(size / COMMON_RADIUS, 1e-3, 1)) + SCORE[3]
    )
    return np.where(size < SMALLEST_RADIUS, 0.0, 1 / (1 + np.exp(-weights)))


def _radii(points: Array) -> Array:
    """RMS distances (N,) of points (N, 5, 2) from their mean."""
    return np.sqrt(((points - points.mean(axis=1, keepdims=True)) ** 2).sum(axis=2).mean(axis=1))


def _distinct(points: Array, logits: Array) -> tuple[Array, Array]:
    """Return what is sure and the likeliest of the rest, without those whose centre lies within a likelier one."""
    order = np.argsort(-logits, kind="stable")[: max(4 * PROPOSALS, int((logits >= SURE).sum()))]
    points, logits = points[order], logits[order]
    centres = points.mean(axis=1)
    radii = _radii(points)
    distances = np.linalg.norm(centres[:, None] - centres, axis=-1)
    shadows = distances < np.maximum(radii[:, None], radii)
    free = radii > 0.5
    for i in range(len(points)):
        if free[i]:
            free[i + 1 :] &= ~shadows[i, i + 1 :]
    kept = np.flatnonzero(free)
    kept = kept[: max(PROPOSALS, int((logits[kept] >= SURE).sum()))]
    return points[kept], logits[kept]


def _box(points: Array) -> NDArray[np.float32]:
    centre, radius = centre_and_radius(points)
    return (np.tile(centre, 2) + radius * FACE_BOX).astype(np.float32)


add_detector(
    DetectorSpec(name="builtin", rank=100, build=lambda _, device, options: BuiltinDetector(device, **options))
)
