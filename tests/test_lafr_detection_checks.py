"""Faces at any angle, at the photo's edge, and how sure of one the detector must be."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from lafr.cli import main
from lafr.detectors import build_detector
from lafr.detectors.checks import MISFIT, is_sound, misfit
from lafr.detectors.face import TURNS, Face, find_turned, turn
from lafr.restorer import LAFRer
from lafr_base.geometry import FFHQ_POINTS, crop_matrix, tilt, transform
from test_lafr_restorer import FixedDetector, Invert

SWAPPED = [1, 0, 2, 4, 3]


def squeezed(share: float, nose: float) -> np.ndarray:
    """The points of a face that looks to the side: narrower, the nose ahead; in widths of the frontal face's eyes."""
    points = FFHQ_POINTS.copy()
    points[:, 0] = 256 + share * (points[:, 0] - 256)
    points[2, 0] += nose * 126
    return points


def box_of(points: np.ndarray, grow: float = 0.8) -> np.ndarray:
    low, high = points.min(axis=0), points.max(axis=0)
    middle, half = (low + high) / 2, (high - low).max() * grow
    return np.concatenate([middle - half, middle + half])


def test_misfit_knows_neither_place_size_nor_angle():
    moved = transform(crop_matrix(np.array([30.0, 800.0]), 900, 137, 64), FFHQ_POINTS)
    assert misfit(FFHQ_POINTS) == pytest.approx(0, abs=1e-9)
    assert misfit(moved) == pytest.approx(0, abs=1e-9)
    stretched = FFHQ_POINTS * (1, 1.3)
    turned = transform(crop_matrix(np.zeros(2), 512, 60, 512), stretched)
    assert misfit(turned) == pytest.approx(misfit(stretched))
    assert misfit(np.ones((5, 2))) == np.inf


def test_points_of_any_pose_fit_and_those_of_no_face_do_not():
    assert misfit(squeezed(0.4, 0.25)) < MISFIT  # half profile
    assert misfit(FFHQ_POINTS[SWAPPED]) > MISFIT
    random = np.random.default_rng(0).normal(size=(1000, 5, 2))
    assert np.mean([misfit(points) > MISFIT for points in random]) > 0.9


def test_a_box_must_fit_its_points():
    points = FFHQ_POINTS
    assert is_sound(box_of(points), points, 512, 512)
    assert not is_sound(box_of(points) + (300, 0, 300, 0), points, 900, 512)
    assert not is_sound(box_of(points, 6), points, 512, 512)
    assert not is_sound(np.full(4, np.nan), points, 512, 512)


@pytest.mark.parametrize("cut", ["left", "right", "top", "bottom"])
def test_a_face_cut_by_the_edge_is_taken_only_with_all_its_points(cut: str):
    points = FFHQ_POINTS
    box = box_of(points)
    edge = {"left": points[0, 0], "right": points[1, 0], "top": points[0, 1], "bottom": points[3, 1]}[cut]
    for inside, taken in ((5, True), (-60, False)):  # pixels of the outermost point from the edge
        shift, width, height = np.zeros(2), 900, 900
        if cut in ("left", "top"):
            shift[int(cut == "top")] = inside - edge
        else:
            size = round(edge + inside)
            width, height = (size, 900) if cut == "right" else (900, size)
        assert is_sound(box + np.tile(shift, 2), points + shift, width, height) == taken


@pytest.mark.parametrize("angle", [0, 45, 90, 135, 180, -90])
def test_a_turned_photo_is_whole_and_its_matrix_says_where_pixels_went(angle: int):
    picture = np.zeros((70, 110, 3), np.uint8)
    cv2.circle(picture, (88, 21), 4, (255, 255, 255), -1)
    turned, matrix = turn(picture, angle)
    centre = np.argwhere(turned[..., 0] > 99).mean(axis=0)[::-1]
    assert np.allclose(transform(matrix, np.array([88, 21])), centre, atol=0.5)
    corners = transform(matrix, np.array([[0, 0], [109, 0], [0, 69], [109, 69]]))
    assert (corners > -1).all()
    assert (corners < turned.shape[1::-1]).all()
    if angle == -90:  # counterclockwise
        assert np.array_equal(turned, np.rot90(picture))


def test_turned_faces_come_back_in_pixels_of_the_photo():
    """A detector that finds one upright mark finds it however the photo lies, enlarged beyond the search's size."""
    photo = np.zeros((900, 1400, 3), np.uint8)
    cv2.circle(photo, (1100, 300), 40, (255, 255, 255), -1)

    def search(picture: np.ndarray) -> list[Face]:
        assert picture.shape[0] * picture.shape[1] < 900_000
        y, x = np.argwhere(picture[..., 0] > 127).mean(axis=0)
        points = np.array([x, y]) + (FFHQ_POINTS - FFHQ_POINTS.mean(axis=0)) / 20
        return [Face(np.array([x - 9, y - 9, x + 9, y + 9]), points.astype(np.float32), 0.8)]

    found = find_turned(photo, search, 0.5, [], 50_000)
    assert len(found) == len(TURNS)  # each by the larger copy alone
    for face, angle in zip(found, TURNS, strict=True):
        assert np.allclose(face.landmarks.mean(axis=0), [1100, 300], atol=2)
        assert np.allclose(face.box.reshape(2, 2).mean(axis=0), [1100, 300], atol=2)
        sides, first_sides = (np.diff(each.box.reshape(2, 2), axis=0) for each in (face, found[0]))
        assert sides == pytest.approx(first_sides, abs=0.01)
        askew = tilt(face.landmarks.astype(np.float64)) + angle  # the face stood upright after it was turned by this
        assert (askew + 180) % 360 - 180 == pytest.approx(0, abs=0.1)
    assert find_turned(photo, search, 0.79, [], 50_000) == []  # surer than of upright faces
    standing = FFHQ_POINTS / 20 - FFHQ_POINTS.mean(axis=0) / 20 + (1100, 300)
    known = Face(found[0].box, standing.astype(np.float32), 0.8)
    assert find_turned(photo, search, 0.5, [known], 50_000) == [known]
    worse = Face(known.box, known.landmarks, 0.7)
    assert len(find_turned(photo, search, 0.5, [worse], 50_000)) == 1 + len(TURNS)
    elsewhere = Face(known.box - 300, known.landmarks - 300, 0.9)
    assert len(find_turned(photo, search, 0.5, [elsewhere], 50_000)) == 1 + len(TURNS)
    askew = Face(known.box, found[1].landmarks, 0.9)  # on its side
    assert len(find_turned(photo, search, 0.5, [askew], 50_000)) == len(TURNS)


def test_a_threshold_reaches_the_detector(astronaut: np.ndarray):
    photo = np.ascontiguousarray(astronaut[0:260, 80:380, ::-1])
    restorer = LAFRer(model=Invert(), detection_model="builtin", detection_threshold=0.25, identity=False, device="cpu")
    assert restorer.steps.detector.min_score == 0.25  # type: ignore[attr-defined]
    (face,) = build_detector("builtin").detect(photo)
    assert build_detector("builtin", min_score=(1 + face.score) / 2).detect(photo) == []


def test_thresholds_that_mean_nothing_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(ValueError, match=r"threshold must be within 0 to 1; got 1.5"):
        build_detector("builtin", min_score=1.5)
    with pytest.raises(ValueError, match="in the detector that is passed"):
        LAFRer(model=Invert(), detection_model=FixedDetector(), detection_threshold=0.5, device="cpu")
    assert main(["restore", "--demo", "-o", str(tmp_path), "--detection_threshold", "-1"]) == 2
    assert "within 0 to 1; got -1" in capsys.readouterr().err
