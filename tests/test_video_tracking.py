"""Faces keep their numbers from frame to frame, and their landmarks do not tremble."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("av", reason="pip install 'lafr[video]'")

import films
from lafr.choice import FoundFace
from lafr.video.tracking import Tracker


def finder(detector: films.Detector):
    return lambda image: [FoundFace(face.box, face.landmarks, face.score) for face in detector.detect(image)]


def noisy(frame: int) -> np.ndarray:
    noise = np.random.default_rng(frame).normal(0, 6, (200, 240, 3))
    return np.clip(films.picture(frame) + noise, 0, 255).astype(np.uint8)


def trembling(landmarks: list[np.ndarray]) -> float:
    """RMS of how the error of the mean landmark changes from frame to frame, pixels."""
    truth = [films.landmarks(frame) for frame in range(len(landmarks))]
    errors = np.array([(found - true).mean(axis=0) for found, true in zip(landmarks, truth, strict=True)])
    return float(np.sqrt(np.square(np.diff(errors, axis=0)).mean()))


def test_landmarks_follow_and_do_not_tremble() -> None:
    detector, found = films.Detector(trembling=1.5), []
    tracker = Tracker(finder(detector))
    tracked = []
    for frame in range(16):
        (track,) = tracker.step(noisy(frame))
        tracked.append(track.landmarks)
        found.append(detector.detect(films.picture(frame))[0].landmarks)
    assert track.number == 0
    assert trembling(tracked) < 0.35 * trembling(found)
    off = [np.abs(points - films.landmarks(frame)).max() for frame, points in enumerate(tracked)]
    assert max(off) < 5  # the first finding is as wrong as any


def test_a_first_finding_that_is_wrong_is_mended() -> None:
    tracker = Tracker(finder(films.Detector(astray=6)))
    off = [tracker.step(films.picture(frame))[0].landmarks - films.landmarks(frame) for frame in range(20)]
    assert np.abs(off[0]).mean() == pytest.approx(6, abs=0.1)
    assert np.abs(off[-1]).mean() < 3
    steps = np.abs(np.diff([points.mean() for points in off]))
    assert steps.max() < 1  # not at once, which would be seen


def test_detectors_look_now_and_then() -> None:
    detector = films.Detector()
    tracker = Tracker(finder(detector), every=4)
    for frame in range(9):
        tracker.step(films.picture(frame))
    assert len(detector.seen) == 3


def test_a_cut_begins_anew() -> None:
    tracker = Tracker(finder(films.Detector()))
    assert [t.number for t in tracker.step(films.picture(0))] == [0]
    assert tracker.cut
    assert [t.number for t in tracker.step(films.picture(1))] == [0]
    assert not tracker.cut
    assert tracker.step(np.full((200, 240, 3), (200, 30, 30), np.uint8)) == []
    assert tracker.cut
    assert [t.number for t in tracker.step(films.picture(2))] == [1]


def test_a_face_that_is_not_found_for_once_stays() -> None:
    detector, calls = films.Detector(), []

    def find(image: np.ndarray) -> list[FoundFace]:
        calls.append(1)
        return [] if len(calls) == 2 else finder(detector)(image)

    tracker = Tracker(find, every=3)
    numbers = [[track.number for track in tracker.step(films.picture(frame))] for frame in range(12)]
    assert numbers == [[0]] * 12


def test_a_face_that_goes_is_not_kept() -> None:
    tracker = Tracker(finder(films.Detector()), every=3)
    hidden = films.picture(0)
    for frame in range(4):
        tracker.step(films.picture(frame))
    low, high = films.landmarks(3).min(axis=0) - 40, films.landmarks(3).max(axis=0) + 40
    hidden = films.picture(3)
    (x0, y0), (x1, y1) = np.maximum(low, 0).astype(int), high.astype(int)
    hidden[y0:y1, x0:x1] = hidden[y0:y1, x0:x1].mean()
    assert [tracker.step(hidden) for _ in range(9)][-1] == []


def test_a_face_that_comes_is_new() -> None:
    left = FoundFace(np.array([10.0, 10, 50, 50]), films.LANDMARKS - 160, 0.9)
    right = FoundFace(np.array([110.0, 10, 150, 50]), films.LANDMARKS - (60, 160), 0.9)
    faces = [left]
    image = films.picture(0)
    tracker = Tracker(lambda _: list(faces), every=1)
    tracker.step(image)
    assert tracker.came
    tracker.step(image)
    assert not tracker.came
    faces.append(right)
    assert [track.number for track in tracker.step(image)] == [0, 1]
    assert tracker.came
