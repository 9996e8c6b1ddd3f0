"""Face detectors: the embedded one on real photos, the others where their weights are."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from lafr import cli
from lafr.demo import PORTRAITS
from lafr.detectors import DETECTORS, build_detector
from lafr.detectors.face import Face, rescale, resize_to, suppress, turn
from lafr_base.geometry import transform
from lafr_base.weights import OfflineError

if TYPE_CHECKING:
    from lafr.detectors import Detector

# Eyes, nose and mouth corners of scikit-image's astronaut, read off the picture by hand to a few pixels.
ASTRONAUT = np.array([[207, 104], [243, 102], [228, 126], [210, 141], [245, 139]])
EYES = 36.0


@pytest.fixture(scope="module")
def builtin() -> Detector:
    return build_detector("builtin")


@pytest.fixture(scope="module")
def photo(astronaut: np.ndarray) -> np.ndarray:
    """The upper left of the astronaut's photo, BGR."""
    return np.ascontiguousarray(astronaut[0:260, 80:380, ::-1])


@pytest.fixture
def weights_folder(shared: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = shared / "models"
    monkeypatch.setenv("LAFR_WEIGHTS", str(folder))
    return folder


def assert_is_astronaut(faces: list[Face], expected: np.ndarray, tolerance: float) -> None:
    assert len(faces) == 1
    face = faces[0]
    assert 0.5 <= face.score <= 1
    assert np.linalg.norm(face.landmarks - expected, axis=1).mean() < tolerance
    assert (face.landmarks > face.box[:2]).all()
    assert (face.landmarks < face.box[2:]).all()


def test_builtin_finds_the_astronaut(builtin: Detector, photo: np.ndarray):
    assert_is_astronaut(builtin.detect(photo), ASTRONAUT - (80, 0), 0.15 * EYES)


def test_builtin_finds_a_gray_face(builtin: Detector, photo: np.ndarray):
    gray = cv2.cvtColor(cv2.cvtColor(photo, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    assert_is_astronaut(builtin.detect(gray), ASTRONAUT - (80, 0), 0.15 * EYES)


def test_builtin_points_do_not_depend_on_the_photos_size(builtin: Detector, photo: np.ndarray):
    large = cv2.resize(photo, None, fx=5, fy=5, interpolation=cv2.INTER_CUBIC)
    expected = (ASTRONAUT - (80, 0) + 0.5) * 5 - 0.5
    assert_is_astronaut(builtin.detect(large), expected, 0.15 * EYES * 5)


def test_builtin_finds_a_tilted_face(builtin: Detector, photo: np.ndarray):
    matrix = cv2.getRotationMatrix2D((146, 125), -32, 1.0)  # clockwise
    turned = cv2.warpAffine(photo, matrix, (300, 260), borderMode=cv2.BORDER_REFLECT)
    expected = (ASTRONAUT - (80, 0)) @ matrix[:, :2].T + matrix[:, 2]
    assert_is_astronaut(builtin.detect(turned), expected, 0.15 * EYES)


@pytest.mark.parametrize(
    ("name", "angle"),
    [
        *(("builtin", angle) for angle in (45, 90, 180, -135)),
        *(("yunet", angle) for angle in (45, 90, 180, -135)),
        *(("retinaface_mobile0.25", angle) for angle in (-45, -90)),
    ],
)
def test_faces_are_found_at_any_angle(request: pytest.FixtureRequest, name: str, angle: int):
    if name == "builtin":
        detector = request.getfixturevalue("builtin")
    else:
        request.getfixturevalue("weights_folder")
        detector = build_detector(name)
    turned, matrix = turn(request.getfixturevalue("photo"), angle)
    (face,) = detector.detect(turned)
    expected = transform(matrix, ASTRONAUT - (80, 0))
    assert np.linalg.norm(face.landmarks - expected, axis=1).mean() < 0.25 * EYES


def test_builtin_finds_a_portrait_however_it_is_coded(builtin: Detector, astronaut: np.ndarray):
    portrait = np.ascontiguousarray(astronaut[40:200, 140:320, ::-1])
    for quality in range(10, 98, 2):
        _, code = cv2.imencode(".jpg", portrait, [cv2.IMWRITE_JPEG_QUALITY, quality])
        assert_is_astronaut(builtin.detect(cv2.imdecode(code, cv2.IMREAD_COLOR)), ASTRONAUT - (140, 40), 0.2 * EYES)


@pytest.mark.parametrize("name", list(PORTRAITS))
def test_builtin_takes_no_badge_and_no_model_for_a_face(builtin: Detector, name: str):
    """The portraits show flags, a shuttle, patches, a helmet, medals; and one face."""
    (face,) = builtin.detect(np.ascontiguousarray(PORTRAITS[name]()))
    assert face.score > 0.5


@pytest.mark.parametrize("side", ["left", "right", "bottom"])
def test_builtin_never_takes_what_lies_beside_a_face_that_is_cut(builtin: Detector, astronaut: np.ndarray, side: str):
    picture = astronaut[..., ::-1]
    found = 0
    for kept in (1.3, 0.9, 0.6, 0.3):  # of half the face, in distances between the eyes
        x0, x1, y1 = 80, 380, 260
        x0 = round(226 - kept * EYES) if side == "left" else x0
        x1 = round(226 + kept * EYES) if side == "right" else x1
        y1 = round(122 + kept * EYES) if side == "bottom" else y1
        faces = builtin.detect(np.ascontiguousarray(picture[0:y1, x0:x1]))
        for face in faces:
            assert np.linalg.norm(face.landmarks - (ASTRONAUT - (x0, 0)), axis=1).mean() < 0.35 * EYES
            assert (face.landmarks > -0.3 * EYES).all()
            assert (face.landmarks < np.array([x1 - x0, y1]) + 0.3 * EYES).all()
        found += len(faces)
    assert 1 <= found < 4  # the widest is a face, the narrowest is none


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 4000, 3), (16, 16, 3), (40, 3000, 3)])
def test_builtin_finds_nothing_in_empty_photos(builtin: Detector, shape: tuple[int, int, int]):
    assert builtin.detect(np.full(shape, 90, np.uint8)) == []


def test_builtin_refuses_what_is_no_photo(builtin: Detector):
    with pytest.raises(ValueError, match=r"float32 \(8, 8, 3\)"):
        builtin.detect(np.zeros((8, 8, 3), np.float32))
    with pytest.raises(ValueError, match=r"uint8 \(8, 8\)"):
        builtin.detect(np.zeros((8, 8), np.uint8))


def test_names_and_spellings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    monkeypatch.setenv("LAFR_WEIGHTS", str(tmp_path))
    monkeypatch.setattr("lafr_base.weights.find", lambda name: None)
    with caplog.at_level(logging.INFO, "lafr.detectors"):
        assert build_detector("auto").name == "builtin"
    assert "builtin" in caplog.text
    with pytest.raises(ValueError, match="YOLOv5l is not offered.*retinaface_resnet50"):
        build_detector("YOLOv5l")
    for name in set(DETECTORS) - {"auto", "builtin"}:
        with pytest.raises(OfflineError):
            build_detector(name.upper())


@pytest.mark.parametrize("name", ["yunet", "retinaface_mobile0.25"])
def test_other_detectors_agree_with_the_hand_labels(weights_folder: Path, photo: np.ndarray, name: str):
    detector = build_detector(name)
    assert detector.name == name
    assert_is_astronaut(detector.detect(photo), ASTRONAUT - (80, 0), 0.15 * EYES)
    large = cv2.resize(photo, None, fx=6, fy=6, interpolation=cv2.INTER_CUBIC)
    assert_is_astronaut(detector.detect(large), (ASTRONAUT - (80, 0) + 0.5) * 6 - 0.5, 0.25 * EYES * 6)
    assert detector.detect(photo[:1, :1]) == []


def test_auto_prefers_yunet_to_the_mobile_retinaface(weights_folder: Path):
    assert build_detector("auto").name == "yunet"


def test_damaged_weights_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from lafr.detectors.yunet_detector import YuNetDetector

    file = tmp_path / "yunet.onnx"
    file.write_bytes(b"not an onnx file")
    with pytest.raises(ValueError, match=r"yunet\.onnx is not a YuNet"):
        YuNetDetector(file)


def test_anchors_are_those_of_facexlib():
    pytest.importorskip("facexlib")
    from facexlib.detection.retinaface import generate_config
    from facexlib.detection.retinaface_utils import PriorBox

    import lafr_base.compat  # noqa: F401 - facexlib needs it
    from lafr.detectors.retinaface_detector import make_anchors

    height, width = 70, 121
    centres, sides = make_anchors(height, width)
    prior = PriorBox(generate_config("mobile0.25"), image_size=(height, width)).forward().numpy()
    assert np.allclose(centres.numpy(), prior[:, :2] * (width, height), atol=1e-3)
    assert np.allclose(np.repeat(sides.numpy(), 2, axis=1), prior[:, 2:] * (width, height), atol=1e-3)


def test_resize_keeps_the_pixel_budget_and_positions():
    panorama = np.zeros((300, 9000, 3), np.uint8)
    small = resize_to(panorama, 300_000)
    assert 0.95 * 300_000 < small.shape[0] * small.shape[1] < 1.05 * 300_000
    corner = np.array([small.shape[1] - 0.5, small.shape[0] - 0.5])  # the far edge of the last pixel
    assert np.allclose(rescale(corner, small, panorama), [8999.5, 299.5])
    assert resize_to(panorama, 10**9) is panorama
    assert resize_to(np.zeros((20, 40, 3), np.uint8), 10**9, 1.5).shape == (30, 60, 3)


def test_suppress_drops_boxes_inside_better_ones():
    points = np.zeros((5, 2), np.float32)
    outer = Face(np.array([0, 0, 10, 10], np.float32), points, 0.9)
    inner = Face(np.array([2, 2, 5, 5], np.float32), points, 0.8)
    beside = Face(np.array([9, 0, 19, 10], np.float32), points, 0.7)
    assert [face.score for face in suppress([beside, inner, outer], 0.5)] == [0.9, 0.7]


def test_landmarks_command(tmp_path: Path, photo: np.ndarray, capsys: pytest.CaptureFixture[str]):
    folder = tmp_path / "faces"
    folder.mkdir()
    matrix, _ = cv2.estimateAffinePartial2D(
        (ASTRONAUT - (80, 0)).astype(np.float32), np.array([[96, 120], [159, 120], [128, 157], [100, 186], [156, 186]])
    )
    aligned = cv2.warpAffine(photo, matrix, (256, 256), borderMode=cv2.BORDER_REFLECT)
    cv2.imwrite(str(folder / "a.png"), aligned)
    (folder / "broken.png").write_bytes(b"")
    output = tmp_path / "landmarks.json"
    command = ["landmarks", "-i", str(folder), "-o", str(output), "--detection_model"]
    assert cli.main([*command, "builtin"]) == 1  # one of the two cannot be read
    assert "broken.png" in capsys.readouterr().err
    points = np.array(json.loads(output.read_text())["a"]) * 256
    assert np.abs(points[:2] - [[96, 120], [159, 120]]).max() < 10
    assert cli.main([*command, "dlib"]) == 2
    assert "dlib is not offered" in capsys.readouterr().err
