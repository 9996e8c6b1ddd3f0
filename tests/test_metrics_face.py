"""Deg, LMD and 3DDFA landmarks: agreement with the published formulas, written independently here."""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from lafr_metrics.face_metric import LMD, Deg, angle, landmark_distance, peaks
from lafr_metrics.images import ImagePair
from lafr_metrics.suite import MetricError, Suite
from tiny_weights import write_3ddfa, write_3ddfa_basis, write_arcface

CPU = torch.device("cpu")


@pytest.fixture
def faces(astronaut: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A face (512, 512, 3) BGR uint8, blurred and as it is."""
    crop = np.ascontiguousarray(astronaut[0:220, 115:335, ::-1])
    face = cv2.resize(crop, (512, 512), interpolation=cv2.INTER_CUBIC)
    return cv2.GaussianBlur(face, (0, 0), 5), face


def write_awing(path: Path) -> Path:
    """``alignment_WFLW_4HG.pth`` with one hourglass instead of four."""
    from facexlib.alignment.awing_arch import FAN

    net = FAN(num_modules=1, num_landmarks=98, device="cpu")
    torch.save({"state_dict": net.state_dict(), "epoch": 1}, path)
    return path


def test_deg_is_the_angle_of_vqfrs_script(tmp_path: Path, faces: tuple[np.ndarray, np.ndarray]):
    metric = Deg(CPU, str(write_arcface(tmp_path / "arcface_resnet18.pth")))

    def embedding(face: np.ndarray) -> np.ndarray:
        assert cv2.imwrite(str(tmp_path / "face.png"), face)
        gray = cv2.imread(str(tmp_path / "face.png"), cv2.IMREAD_GRAYSCALE)
        # Bilinear to a quarter: the mean of the middle four of 16 pixels.
        small = sum(gray[y::4, x::4].astype(np.float64) for y in (1, 2) for x in (1, 2)) / 4
        x = (np.floor(small + 0.5).astype(np.float32) - 127.5) / 127.5
        with torch.no_grad():
            return metric.net(torch.from_numpy(x)[None, None])[0].numpy()

    a, b = (embedding(face) for face in faces)
    cosine = np.dot(a, b) / (np.linalg.norm(a) * np.linalg.norm(b))
    expected = math.acos(cosine) / math.pi * 180
    with torch.no_grad():
        value = metric(ImagePair(*faces, CPU))
    assert expected > 1
    assert value == pytest.approx(expected, abs=5e-3)


def test_angle():
    assert angle(np.array([2.0, 0]), np.array([0, 0.5])) == pytest.approx(90)
    assert angle(np.array([1.0, 1]), np.array([-1.0, 0])) == pytest.approx(135)
    vector = np.array([0.1, 0.7, 0.3])
    assert angle(vector, 3 * vector) == pytest.approx(0, abs=1e-5), "rounding above 1 is no error"


def test_landmark_distance_is_the_mean_of_lengths():
    a = np.array([[0.0, 0], [10, 10]])
    b = np.array([[3.0, 4], [10, 9]])
    assert landmark_distance(a, b) == pytest.approx((5 + 1) / 2)


def test_peaks_agree_with_facexlib(monkeypatch: pytest.MonkeyPatch):
    from facexlib.alignment import awing_arch

    monkeypatch.setattr(np, "float", np.float64, raising=False)  # which facexlib still asks NumPy for
    heatmaps = np.random.default_rng(0).random((1, 98, 64, 64)).astype(np.float32)
    heatmaps[..., [0, -1], :] = 0
    heatmaps[..., [0, -1]] = 0
    np.testing.assert_array_equal(peaks(heatmaps[0]), awing_arch.calculate_points(heatmaps)[0])


def test_peaks_at_the_border_stay_there():
    heatmaps = np.zeros((2, 64, 64), np.float32)
    heatmaps[0, 0, 63] = heatmaps[1, 63, 0] = 1
    heatmaps[0, 1, 0] = 0.9  # the next cell in memory, at the other side of the map
    (x0, y0), (x1, y1) = peaks(heatmaps)
    assert 63.25 <= x0 <= 64
    assert 0 <= y0 <= 0.75
    assert 0 <= x1 <= 0.75
    assert 63.25 <= y1 <= 64


def test_lmd_agrees_with_facexlibs_landmarks(
    tmp_path: Path, faces: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
):
    path = write_awing(tmp_path / "alignment_WFLW_4HG.pth")
    from facexlib.alignment import awing_arch

    net = awing_arch.FAN(num_modules=1, num_landmarks=98, device="cpu")
    net.load_state_dict(torch.load(path, weights_only=True)["state_dict"])
    monkeypatch.setattr(awing_arch, "calculate_points", lambda maps: peaks(maps[0])[None])
    face = faces[1][:256, :256].copy()
    with torch.no_grad():
        expected = net.eval().get_landmarks(face) * 2  # pixels of 512
        found = LMD(CPU, str(path)).landmarks(face)
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_suite_measures_faces(tmp_path: Path, faces: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LAFR_WEIGHTS", str(tmp_path))
    write_arcface(tmp_path / "arcface_resnet18.pth")
    write_3ddfa(tmp_path / "any.pth").rename(tmp_path / "net.pth")
    write_3ddfa_basis(tmp_path / "3ddfa_68_basis.npz")
    suite = Suite(["deg", "landmarks_3ddfa"])
    assert suite.names == ["deg"], "a file of another size is not 3DDFA-V2's"
    assert suite.measure(*faces)["deg"] > 0
    assert suite.measure(faces[1], faces[1])["deg"] == pytest.approx(0, abs=1e-3)
    with pytest.raises(MetricError, match="square faces, not 512 x 500"):
        suite.measure(*(face[:500] for face in faces))


def test_3ddfa_landmarks_follow_a_shift_of_the_face(shared: Path, monkeypatch: pytest.MonkeyPatch):
    from lafr_base.images import list_images, read_image

    monkeypatch.setenv("LAFR_WEIGHTS", str(shared / "models"))
    suite = Suite(["landmarks_3ddfa", "identity"])
    assert not suite.missing
    face = read_image(list_images(shared / "faces" / "val")[0]).bgr
    shift = round(4 * face.shape[0] / 512)
    moved = np.roll(face, shift, axis=1)
    values = suite.measure(moved, face)
    # 4 of 512 pixels to the right.
    assert values["landmarks_3ddfa"] == pytest.approx(4, abs=0.8)
    assert values["identity"] > 0.8
    small, large = (cv2.resize(f, (512, 512), interpolation=cv2.INTER_CUBIC) for f in (moved, face))
    assert suite.measure(small, large)["landmarks_3ddfa"] == pytest.approx(values["landmarks_3ddfa"], abs=0.4)
