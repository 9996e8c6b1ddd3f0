"""LAFRer keeps GFPGANer's interface, batches faces over photos, and survives what goes wrong."""

from __future__ import annotations

import contextlib
import inspect
import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from lafr import pipeline
from lafr.networks import load_network, pick_device
from lafr.restorer import LAFRer
from lafr_base.geometry import FFHQ_POINTS

SIZE = 64
CPU = torch.device("cpu")


class Invert(nn.Module):
    """Turns a face into its negative; counts how many faces came at once."""

    image_size = SIZE

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert x.shape[1:] == (3, SIZE, SIZE)
        assert x.min() >= 0
        assert x.max() <= 1
        self.batches.append(len(x))
        return 1 - x


@dataclass
class Found:
    box: np.ndarray
    landmarks: np.ndarray
    score: float = 0.9


def found(x: float, y: float, side: float = 60) -> Found:
    points = (FFHQ_POINTS - 255.5) * (side / 512) + [x, y]
    return Found(np.array([x - side / 3, y - side / 3, x + side / 3, y + side / 3]), points)


class FixedDetector:
    """Finds the same faces in every photo that is not black."""

    name = "fixed"

    def __init__(self, *faces: Found) -> None:
        self.faces = list(faces)

    def detect(self, image: np.ndarray) -> list[Found]:
        assert image.dtype == np.uint8
        assert image.ndim == 3
        return list(self.faces) if image.any() else []


def build(*faces: Found, **options: object) -> LAFRer:
    # Whatever a stand-in for a network does to a photo must show; what is kept of photos is test_lafr_keep.py's.
    options = {"model": Invert(), "device": "cpu", "upscale": 1, "keep_intact": False} | options
    return LAFRer(detection_model=FixedDetector(*faces), **options)  # type: ignore[arg-type]


def photo(value: int = 60, height: int = 120, width: int = 160) -> np.ndarray:
    ramp = np.linspace(0, 60, width).astype(np.uint8)[None, :, None]
    return np.tile(ramp, (height, 1, 3)) + np.array([value, value + 40, value + 80], np.uint8)


def test_signature_is_that_of_gfpganer():
    names = list(inspect.signature(LAFRer.__init__).parameters)[1:7]
    assert names == ["model_path", "upscale", "arch", "channel_multiplier", "bg_upsampler", "device"]
    parameters = inspect.signature(LAFRer.enhance).parameters.values()
    assert [(p.name, p.default) for p in parameters][2:] == [
        ("has_aligned", False),
        ("only_center_face", False),
        ("paste_back", True),
        ("weight", 0.5),
    ]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"arch": "clean"}, "arch='clean'"),
        ({"channel_multiplier": 2}, "channel_multiplier"),
        ({"upscale": 0}, "upscale"),
        ({"model_path": "a", "model": "b"}, "twice"),
        ({"batch_size": 0}, "batch_size"),
        ({"precision": "fp8"}, "precision"),
        ({"device": "no such"}, "unknown"),
        ({"model": nn.Identity()}, "image_size"),
    ],
)
def test_arguments_without_a_meaning_are_refused(options: dict, said: str):
    with pytest.raises(ValueError, match=said):
        build(**options)


def test_a_missing_network_is_named():
    with pytest.raises(FileNotFoundError, match="config.json does not exist; pass one of mini"):
        load_network("no/such/folder", CPU)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is present")
def test_device_choice_without_a_gpu():
    assert pick_device("auto") == pick_device(None) == CPU
    with pytest.raises(ValueError, match="sees no CUDA GPU"):
        pick_device("cuda")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_faces_are_restored_and_pasted(dtype: type):
    image = photo().astype(dtype) * (257 if dtype == np.uint16 else 1)
    network = build(found(50, 60), found(115, 60), upscale=2)
    before = image.copy()
    cropped, restored, whole = network.enhance(image, weight=0)
    top = np.iinfo(dtype).max
    assert len(cropped) == len(restored) == 2
    assert whole is not None
    assert whole.dtype == restored[0].dtype == dtype
    assert whole.shape == (240, 320, 3)
    np.testing.assert_array_equal(image, before)
    np.testing.assert_array_equal(restored[0], top - cropped[0])
    expected = top - image[60, 50].astype(float)
    np.testing.assert_allclose(whole[120, 100], expected, atol=top / 60)
    lanczos = cv2.resize(image, (320, 240), interpolation=cv2.INTER_LANCZOS4)
    np.testing.assert_array_equal(whole[:40], lanczos[:40])


def test_helper_holds_what_gfpgan_users_read():
    network = build(found(115, 60), found(50, 60))
    image = photo()
    network.enhance(image)
    helper = network.face_helper
    assert [box[0] for box in helper.det_faces] == [30, 95]  # from left to right
    assert helper.det_faces[0].shape == (5,)
    np.testing.assert_allclose(helper.all_landmarks_5[0].mean(axis=0), found(50, 60).landmarks.mean(axis=0))
    assert helper.affine_matrices[0].shape == (2, 3)
    assert len(helper.cropped_faces) == len(helper.restored_faces) == 2
    assert helper.input_img is image or (helper.input_img == image).all()


def test_center_face_and_small_faces():
    far, near, tiny = found(30, 60), found(90, 60), found(80, 60, side=15)
    cropped, *_ = build(far, near, tiny).enhance(photo(), only_center_face=True)
    assert len(cropped) == 1
    network = build(far, near, tiny)
    network.enhance(photo())
    assert len(network.face_helper.det_faces) == 2  # eyes of `tiny` are 3.7 px apart
    assert len(build(far, near, tiny, eye_dist_threshold=3).enhance(photo())[0]) == 3


def test_a_face_larger_than_the_network_is_reported(caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING):
        build(found(80, 60, side=100)).enhance(photo())
        assert not caplog.text
        build(found(80, 60, side=150)).enhance(photo())
    assert "a face of 150 px is restored at 64 px" in caplog.text


def test_aligned_faces_and_paste_back():
    network = build()
    face = photo(height=128, width=128)
    cropped, restored, whole = network.enhance(face, has_aligned=True)
    assert whole is None
    assert cropped[0].shape == restored[0].shape == (SIZE, SIZE, 3)
    np.testing.assert_array_equal(cropped[0], cv2.resize(face, (SIZE, SIZE), interpolation=cv2.INTER_AREA))
    with pytest.raises(ValueError, match="square"):
        network.enhance(photo(), has_aligned=True)
    assert build(found(80, 60)).enhance(photo(), paste_back=False)[2] is None


def test_weight_is_a_path_from_the_network_to_the_photo():
    image = photo()
    network = build(found(80, 60))
    distances = []
    for weight in (0, 0.3, 0.5, 0.8, 1):
        cropped, restored, _ = network.enhance(image, weight=weight)
        distances.append(np.abs(cropped[0].astype(int) - restored[0]).mean())
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] == 0
    assert distances[0] > distances[1] > distances[2]
    with pytest.raises(ValueError, match="weight must be within"):
        network.enhance(image, weight=1.5)


def test_a_photo_without_a_face_is_enlarged():
    image = np.zeros((30, 41, 3), np.uint8)
    cropped, restored, whole = build(upscale=1.5).enhance(image)
    assert cropped == restored == []
    assert whole is not None
    assert whole.shape == (45, 62, 3)


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 9, 3), (300, 2, 3)])
def test_tiny_photos_have_no_face(shape: tuple[int, int, int]):
    whole = build(found(1, 1), upscale=2).enhance(np.full(shape, 9, np.uint8))[2]
    assert whole is not None
    np.testing.assert_array_equal(whole, np.full((shape[0] * 2, shape[1] * 2, 3), 9))


def test_gray_photos_stay_gray_and_alpha_is_kept():
    class Tint(Invert):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) * torch.tensor([1.0, 0.5, 0.2])[:, None, None]

    image = photo()
    for gray in (image[..., 0], image[..., :1].repeat(3, axis=2)):
        _, restored, whole = build(found(80, 60), model=Tint()).enhance(gray)
        assert whole is not None
        for picture in (*restored, whole):
            assert (picture[..., 0] == picture[..., 1]).all()
            assert (picture[..., 1] == picture[..., 2]).all()
    alpha = np.random.default_rng(0).integers(0, 256, (120, 160), dtype=np.uint8)
    whole = build(found(80, 60)).enhance(np.dstack((image, alpha)))[2]
    assert whole is not None
    np.testing.assert_array_equal(whole[..., 3], alpha)


@pytest.mark.parametrize(
    "bad", [None, np.zeros((4, 4, 3)), np.zeros((4, 4, 2), np.uint8), np.zeros((0, 4, 3), np.uint8)]
)
def test_useless_arrays_are_refused(bad: np.ndarray):
    with pytest.raises(ValueError, match="img must be"):
        build().enhance(bad)


def test_faces_of_several_photos_share_batches_and_order_is_kept(tmp_path: Path):
    model = Invert()
    network = build(found(50, 60), found(115, 60), model=model, batch_size=4)
    (tmp_path / "bad.png").write_bytes(b"")
    cv2.imwrite(str(tmp_path / "good.png"), photo(90))
    items = [photo(60), np.zeros((20, 20, 3), np.uint8), tmp_path / "bad.png", photo(70), str(tmp_path / "good.png")]
    results = list(network.enhance_many(items))
    assert model.batches == [4, 2]
    assert [len(result.restored_faces) for result in results] == [2, 0, 0, 2, 2]
    assert [result.error is None for result in results] == [True, True, False, True, True]
    assert "bad.png" in str(results[2].error)
    alone = [build(found(50, 60), found(115, 60)).enhance(items[i])[2] for i in (0, 3)]  # type: ignore[arg-type]
    np.testing.assert_array_equal(results[0].restored_img, alone[0])
    np.testing.assert_array_equal(results[3].restored_img, alone[1])


def test_photos_are_read_as_results_are_taken(monkeypatch: pytest.MonkeyPatch):
    taken = 0

    def endless() -> Iterator[np.ndarray]:
        nonlocal taken
        while True:
            taken += 1
            yield photo()

    results = build(found(80, 60), batch_size=3).enhance_many(endless())
    for _ in range(5):
        next(results)
    assert taken <= 10
    monkeypatch.setattr(pipeline, "HELD_PIXELS", 2 * 120 * 160)
    taken = 0
    next(build(found(80, 60), batch_size=100).enhance_many(endless()))
    # Large photos do not wait until a hundred faces are there; one is searched meanwhile, and one read.
    assert taken == 5


def test_the_next_photo_is_searched_and_the_last_pasted_while_the_network_runs(monkeypatch: pytest.MonkeyPatch):
    searched, finished, seen = [threading.Event() for _ in range(3)], [threading.Event() for _ in range(3)], []

    class Watched(FixedDetector):
        def detect(self, image: np.ndarray) -> list[Found]:
            searched[image[0, 0, 0]].set()
            return super().detect(image)

    class Waits(Invert):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            index = len(self.batches)
            seen.append(index == 2 or searched[index + 1].wait(10))
            seen.append(index == 0 or finished[index - 1].wait(10))
            return super().forward(x)

    network = LAFRer(model=Waits(), detection_model=Watched(found(80, 60)), device="cpu", upscale=1, batch_size=1)
    finish = network.steps.finish

    def watched_finish(*arguments: Any) -> Any:
        result = finish(*arguments)
        finished[result.input_img[0, 0, 0]].set()
        return result

    monkeypatch.setattr(network.steps, "finish", watched_finish)
    results = list(network.enhance_many(photo(value) for value in range(3)))
    assert seen == [True] * 6
    assert [result.input_img[0, 0, 0] for result in results if result.input_img is not None] == [0, 1, 2]


def test_with_more_threads_photos_are_read_and_pasted_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    paths = [tmp_path / f"{index}.png" for index in range(8)]
    for index, path in enumerate(paths):
        cv2.imwrite(str(path), photo(60 + index))
    network = build(found(80, 60), batch_size=2)
    assert network.threads == 1, "on a CPU the network needs the cores"
    expected = [result.restored_img for result in network.enhance_many(paths)]
    network.threads = 3
    side_by_side: dict[str, int] = {}
    together = {"read": threading.Barrier(3), "finish": threading.Barrier(3)}

    def meet(name: str, function: Any) -> Any:
        def met(*args: Any, **options: Any) -> Any:
            with contextlib.suppress(threading.BrokenBarrierError):  # the last two photos wait in vain
                together[name].wait(1)
                side_by_side[name] = side_by_side.get(name, 0) + 1
            return function(*args, **options)

        return met

    monkeypatch.setattr(network.steps, "read", meet("read", network.steps.read))
    monkeypatch.setattr(network.steps, "finish", meet("finish", network.steps.finish))
    results = [result.restored_img for result in network.enhance_many(paths)]
    np.testing.assert_array_equal(results, expected)
    assert side_by_side["read"] >= 6
    assert side_by_side["finish"] >= 3


def test_a_network_that_fails_on_one_photo_leaves_the_others():
    class Nan(Invert):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.where(x.mean(dim=(1, 2, 3), keepdim=True) > 0.6, torch.nan, 1 - x)

    network = build(found(50, 60), found(115, 60), model=Nan(), batch_size=1)
    results = list(network.enhance_many([photo(10), photo(110), photo(20)]))
    assert [type(result.error) for result in results] == [type(None), FloatingPointError, type(None)]
    assert len(results[2].restored_faces) == 2
    assert results[1].restored_img is None


def test_a_weight_of_mini_ties_its_faces_to_the_photo():
    face = np.full((512, 512, 3), (40, 90, 160), np.uint8)
    restorer = LAFRer(device="cpu")
    alone, tied, copied = (
        restorer.enhance(face, has_aligned=True, weight=weight)[1][0].astype(float) for weight in (0, 0.5, 1)
    )
    assert np.array_equal(copied, face)
    off = [float(np.abs(cv2.GaussianBlur(x - face, (0, 0), 20)).mean()) for x in (alone, tied)]
    assert off[1] < 0.8 * off[0]  # tones are the photo's, more than without
    assert np.abs((tied - face).mean((0, 1))).max() < 0.1 < np.abs((alone - face).mean((0, 1))).max()
