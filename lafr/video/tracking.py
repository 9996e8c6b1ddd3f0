"""Which face is which from frame to frame, and landmarks that do not tremble.

Detectors look at each frame anew, and what they find trembles by a few per cent of the face. Here they look at every
few frames only; between, a face is carried by the motion of its texture, which optical flow (Lucas and Kanade, 1981,
the pyramids of Bouguet, 2001) measures to a small part of a pixel. What the detector finds draws the landmarks after
it little by little, so that they neither tremble nor drift: a complementary filter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
from scipy.optimize import linear_sum_assignment

from lafr.choice import FoundFace
from lafr_base.geometry import align_matrix, centre_and_radius, warp_face
from lafr_base.images import to_uint8

DETECT_EVERY = 5
"""Frames from one search for faces to the next."""

CUT = 27.0
"""Mean difference of hue, saturation and value (0 to 255) between frames of two scenes: PySceneDetect's default."""

_PULL = 0.12  # share of the way to what the detector found that the landmarks go each frame
_TRUST = 0.3  # least weight of a new finding against the mean of those before
_GATE = 0.8  # a face found is the tracked one within so many of its radii
_MISSES = 2  # searches that may pass over a face that the flow still follows
_SIDE = 160  # of the crops in which motion is measured, pixels
_POINTS = 80  # of texture, that are followed
_FEWEST = 10  # with fewer the face is lost
_CRITERIA = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 20, 0.01)


@dataclass
class Track:
    """A face through the frames of a scene.

    Attributes:
        number: of the film's faces, in the order in which they appear; of one frame, left to right.
        landmarks: (5, 2) float64 upright pixels of the current frame.
        box: (4,) x0, y0, x1, y1, moved along with the landmarks.
        score: the detector's when it last found the face, 0 to 1.
        found: (5, 2) the mean of what the detector found, carried along.
        findings: how often it was found.
        missed: searches since it was found.
    """

    number: int
    landmarks: np.ndarray
    box: np.ndarray
    score: float
    found: np.ndarray
    findings: int = 1
    missed: int = 0

    def as_found(self) -> FoundFace:
        """What a detector would say of it."""
        return FoundFace(self.box, self.landmarks, self.score)

    def move(self, motion: np.ndarray) -> None:
        """Carry it along by a similarity (2, 3) of frame pixels."""
        self.landmarks = self.landmarks @ motion[:, :2].T + motion[:, 2]
        self.found = self.found @ motion[:, :2].T + motion[:, 2]
        box = self.box.reshape(2, 2)
        centre = box.mean(axis=0) @ motion[:, :2].T + motion[:, 2]
        half = (box[1] - box[0]) / 2 * np.sqrt(np.linalg.det(motion[:, :2]))
        self.box = np.concatenate((centre - half, centre + half))


@dataclass
class Tracker:
    """Follows the faces of a film, frame after frame.

    Attributes:
        find: finds the faces of a BGR frame.
        every: frames from one search to the next.
        tracks: the faces of the current frame.
        numbers: faces that have appeared so far.
        came: whether a face appeared in the current frame.
        cut: whether a scene began with the current frame.
    """

    find: Callable[[np.ndarray], list[FoundFace]]
    every: int = DETECT_EVERY
    tracks: list[Track] = field(default_factory=list)
    numbers: int = 0
    came: bool = False
    cut: bool = False
    _gray: np.ndarray | None = None
    _thumb: np.ndarray | None = None
    _since: int = 0

    def step(self, image: np.ndarray) -> list[Track]:
        """Take in the next frame, (H, W, 3) BGR uint8 or uint16; return its faces, by number."""
        image = to_uint8(image)
        gray, thumb = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), _thumbnail(image)
        self.cut = self._thumb is None or self._thumb.shape != thumb.shape or _difference(self._thumb, thumb) > CUT
        self.came = False
        lost = False
        if self.cut:
            self.tracks = []
        elif self._gray is not None:
            moved = []
            for track in self.tracks:
                motion = _motion(self._gray, gray, track.landmarks)
                if motion is not None:
                    track.move(motion)
                    moved.append(track)
            lost = len(moved) < len(self.tracks)
            before, self.tracks = self.tracks, moved
        self._since += 1
        if self.cut or lost or self._since >= self.every:
            found = self.find(image)
            if lost:  # the flow failed: where the face was, it may be found again
                self.tracks = before
            self._match(found, {track.number for track in moved} if lost else None)
            self._since = 0
        for track in self.tracks:
            track.landmarks = track.landmarks + _PULL * (track.found - track.landmarks)
        self._gray, self._thumb = gray, thumb
        return list(self.tracks)

    def _match(self, found: Sequence[FoundFace], followed: set[int] | None) -> None:
        """Tell which found face is which track; the rest are new.

        Args:
            found: left to right.
            followed: numbers of the tracks that the flow could follow; None for all. Others end where they are not
                found.
        """
        kept: list[Track] = []
        pairs = dict(pair_up([track.landmarks for track in self.tracks], [face.landmarks for face in found]))
        for place, track in enumerate(self.tracks):
            carried = followed is None or track.number in followed
            if place in pairs:
                face = found[pairs[place]]
                landmarks = face.landmarks.astype(np.float64)
                if carried:
                    track.findings += 1
                    share = max(1 / track.findings, _TRUST)
                    track.found = track.found + share * (landmarks - track.found)
                else:
                    track.findings, track.found, track.landmarks = 1, landmarks, landmarks
                track.box, track.score, track.missed = face.box.astype(np.float64), face.score, 0
            else:
                track.missed += 1
                if not carried or track.missed > _MISSES:
                    continue
            kept.append(track)
        for place in sorted(set(range(len(found))) - set(pairs.values())):
            face = found[place]
            landmarks = face.landmarks.astype(np.float64)
            kept.append(Track(self.numbers, landmarks, face.box.astype(np.float64), face.score, landmarks))
            self.numbers += 1
            self.came = True
        self.tracks = kept


def pair_up(tracked: Sequence[np.ndarray], found: Sequence[np.ndarray]) -> list[tuple[int, int]]:
    """Pair faces by their landmarks (5, 2), so that these lie nearest in all, and none too far; return their places."""
    if not tracked or not found:
        return []
    distance = np.array(
        [
            [np.linalg.norm(new - old, axis=1).mean() / centre_and_radius(old.astype(np.float64))[1] for new in found]
            for old in tracked
        ]
    )
    chosen = zip(*linear_sum_assignment(np.minimum(distance, _GATE)), strict=True)
    return [(int(row), int(column)) for row, column in chosen if distance[row, column] < _GATE]


def _motion(before: np.ndarray, after: np.ndarray, landmarks: np.ndarray) -> np.ndarray | None:
    """Return the similarity (2, 3) by which a face moved between two gray frames; None where it cannot be followed."""
    matrix = align_matrix(landmarks, _SIDE)
    old, new = (warp_face(gray[..., None], matrix, _SIDE).reshape(_SIDE, _SIDE) for gray in (before, after))
    points = cv2.goodFeaturesToTrack(old, _POINTS, 0.01, 4, mask=_FACE)
    if points is None or len(points) < _FEWEST:
        return None
    there, seen, _ = cv2.calcOpticalFlowPyrLK(old, new, points, None, winSize=(21, 21), criteria=_CRITERIA)
    back, seen_back, _ = cv2.calcOpticalFlowPyrLK(new, old, there, None, winSize=(21, 21), criteria=_CRITERIA)
    returned = np.linalg.norm((back - points).reshape(-1, 2), axis=1) < 1
    good = returned & (seen.ravel() > 0) & (seen_back.ravel() > 0)
    if good.sum() < _FEWEST:
        return None
    in_crop, inliers = cv2.estimateAffinePartial2D(points[good], there[good], ransacReprojThreshold=1.5)
    if in_crop is None or inliers.sum() < max(_FEWEST, 0.4 * good.sum()):
        return None
    whole = np.vstack((matrix, (0, 0, 1)))
    motion: np.ndarray = (np.linalg.inv(whole) @ np.vstack((in_crop, (0, 0, 1))) @ whole)[:2]
    return motion


def _face_mask() -> np.ndarray:
    mask = np.zeros((_SIDE, _SIDE), np.uint8)
    axes = (round(0.27 * _SIDE), round(0.36 * _SIDE))
    cv2.ellipse(mask, (_SIDE // 2, round(0.55 * _SIDE)), axes, 0, 0, 360, 255, -1)
    return mask


_FACE = _face_mask()


def _thumbnail(image: np.ndarray) -> np.ndarray:
    """A small picture in hue, saturation and value."""
    height = max(1, round(64 * image.shape[0] / image.shape[1]))
    return cv2.cvtColor(cv2.resize(image, (64, height), interpolation=cv2.INTER_AREA), cv2.COLOR_BGR2HSV)


def _difference(a: np.ndarray, b: np.ndarray) -> float:
    return float(cv2.absdiff(a, b).mean())
