"""The bundled identity net on the sample portraits: the same person through damage, and two persons."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from lafr.demo import PORTRAITS
from lafr.detectors import build_detector
from lafr.identity import FOLDER, Calibration, IdentityMeter
from lafr_base.geometry import align_matrix, warp_face
from lafr_data.degradations import build_degradation, degrade


@pytest.fixture(scope="module")
def faces() -> list[np.ndarray]:
    """The aligned faces of both portraits, (512, 512, 3) BGR uint8."""
    detector = build_detector("builtin")
    crops = []
    for load in PORTRAITS.values():
        image = np.ascontiguousarray(load())
        crops.append(warp_face(image, align_matrix(detector.detect(image)[0].landmarks, 512), 512))
    return crops


def damaged(face: np.ndarray, preset: str) -> np.ndarray:
    lq, _ = degrade(face[..., ::-1].astype(np.float32) / 255, build_degradation(preset, 512), np.random.default_rng(0))
    return np.rint(lq[..., ::-1] * 255).astype(np.uint8)


def test_it_is_small_and_calibrated():
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 2_000_000
    calibration = Calibration.load()
    for percentiles in (calibration.same, calibration.different):
        assert len(percentiles) == 101
        assert list(percentiles) == sorted(percentiles)
    assert calibration.share_of_different(calibration.threshold) == pytest.approx(0.01, abs=0.002)
    assert calibration.share_of_same(calibration.threshold) > 0.95


@pytest.mark.parametrize("preset", ["gfpgan", "codeformer2", "codeformer3", "osediff_face"])
def test_a_person_is_known_through_damage(faces: list[np.ndarray], preset: str):
    meter = IdentityMeter()
    copies = [damaged(face, preset) for face in faces]
    assert min(meter.compare(faces, copies)) > meter.calibration.threshold
    assert max(meter.compare(faces, copies[::-1])) < meter.calibration.threshold


def test_type_and_size_of_faces_do_not_matter(faces: list[np.ndarray]):
    meter = IdentityMeter()
    deep = faces[0].astype(np.uint16) * 257
    small = cv2.resize(faces[0], (160, 160), interpolation=cv2.INTER_AREA)
    assert meter.compare([faces[0]] * 2, [deep, small]) == pytest.approx([1, 1], abs=0.02)
    assert meter.embed([]).shape == (0, 128)
    many = meter.embed([faces[0]] * 35)  # more than a batch
    np.testing.assert_allclose(many, np.tile(many[:1], (35, 1)), atol=1e-5)


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="config.json"):
        IdentityMeter(folder=tmp_path)
