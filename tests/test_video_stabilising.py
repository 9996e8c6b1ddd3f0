"""Stabilised faces do not flicker, are not softer, and follow what changes."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from lafr.video.stabilising import Stabiliser

SIZE = 128


@pytest.fixture
def face(astronaut: np.ndarray) -> np.ndarray:
    return cv2.resize(astronaut[0:220, 115:335, ::-1], (SIZE, SIZE), interpolation=cv2.INTER_AREA)


def flickering(face: np.ndarray, count: int, levels: float = 8) -> list[np.ndarray]:
    """The face with detail of its own in each frame."""
    rng = np.random.default_rng(0)
    detail = (cv2.GaussianBlur(rng.normal(0, 1, face.shape), (0, 0), 1.0) for _ in range(count))
    return [np.clip(face + levels * d / d.std(), 0, 255).astype(np.uint8) for d in detail]


def flicker(faces: list[np.ndarray]) -> float:
    return float(np.mean([np.abs(a.astype(float) - b).mean() for a, b in zip(faces, faces[1:], strict=False)]))


def sharpness(face: np.ndarray) -> float:
    return float(cv2.Laplacian(face.astype(np.float32), cv2.CV_32F)[20:-20, 20:-20].std())


def test_flicker_falls_and_sharpness_stays(face: np.ndarray) -> None:
    restored = flickering(face, 16)
    stabiliser = Stabiliser()
    steady = [stabiliser.step(face, one) for one in restored]
    assert (steady[0] == restored[0]).all()
    assert flicker(steady[6:]) < 0.4 * flicker(restored[6:])
    assert sharpness(steady[-1]) == pytest.approx(sharpness(restored[-1]), rel=0.1)


def test_what_moves_is_followed(face: np.ndarray) -> None:
    stabiliser = Stabiliser()
    for step in range(8):
        moved = np.roll(face, 2 * step, axis=1)
        steady = stabiliser.step(moved, moved)
    error = np.abs(steady.astype(float) - moved)[20:-20, 30:-20].mean()
    lagging = np.abs(np.roll(face, 12, axis=1).astype(float) - moved)[20:-20, 30:-20].mean()
    assert error < 0.25 * lagging


def test_what_comes_in_front_is_there_at_once(face: np.ndarray) -> None:
    stabiliser = Stabiliser()
    for one in flickering(face, 6, 2):
        stabiliser.step(one, one)
    hidden = face.copy()
    hidden[50:90, 40:80] = (20, 200, 240)
    steady = stabiliser.step(hidden, hidden)
    assert np.abs(steady.astype(float) - hidden)[55:85, 45:75].mean() < 3


def test_without_memory_nothing_changes(face: np.ndarray) -> None:
    stabiliser = Stabiliser(memory=0)
    for one in flickering(face, 3):
        assert (stabiliser.step(face, one) == one).all()


def test_deep_colour_stays_deep(face: np.ndarray) -> None:
    deep = face.astype(np.uint16) * 257
    stabiliser = Stabiliser()
    stabiliser.step(deep, deep)
    steady = stabiliser.step(deep, deep)
    assert steady.dtype == np.uint16
    assert np.abs(steady.astype(int) - deep)[20:-20, 20:-20].max() < 2 * 257
