"""Which faces are restored, how strongly each, and that the others keep their pixels to the bit."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import cv2
import numpy as np
import pytest
from torch import Tensor, nn

from lafr.choice import EVERY_FACE, FaceChoice, FoundFace
from lafr.commands import restore
from lafr.composing import LEFT
from lafr.face_options import OPTIONS, face_options
from lafr.identity import Calibration
from lafr.restorer import LAFRer
from lafr.results import RestoredPhoto, ResultFolder
from lafr_arch.restoring import RunsAsItIs
from test_lafr_restorer import SIZE, Invert, build, found, photo


def face(x: float, side: float = 20, score: float = 0.9, likeness: float | None = None) -> FoundFace:
    box = np.array([x - side / 2, 50 - side / 2, x + side / 2, 50 + side / 2])
    return FoundFace(box, np.zeros((5, 2)), score, likeness)


FACES = [face(20), face(50, side=40), face(80, score=0.6), face(110, side=30), face(140)]


@pytest.mark.parametrize(
    ("choice", "picked"),
    [
        (FaceChoice(), [0, 1, 2, 3, 4]),
        (FaceChoice(numbers=frozenset({3, 0, 9})), [0, 3]),
        (FaceChoice(largest=2), [1, 3]),
        (FaceChoice(min_size=25), [1, 3]),
        (FaceChoice(box=(15, 45, 60, 60)), [0, 1]),
        (FaceChoice(min_score=0.8), [0, 1, 3, 4]),
        (FaceChoice(center=True), [2]),
        (FaceChoice(min_score=0.8, center=True), [1]),
        (FaceChoice(largest=1, numbers=frozenset({0, 3, 4})), [3]),
        (FaceChoice(min_size=99), []),
    ],
)
def test_conditions(choice: FaceChoice, picked: list[int]):
    assert choice.pick(FACES, 150, 100) == picked


def test_likeness_decides_only_with_a_reference():
    faces = [face(20, likeness=0.2), face(50, likeness=0.7)]
    assert FaceChoice(like="grandmother.jpg", min_likeness=0.5).pick(faces, 150, 100) == [1]
    assert FaceChoice(min_likeness=0.5).pick(faces, 150, 100) == [0, 1]
    assert not FaceChoice(like="grandmother.jpg").everything
    assert FaceChoice().everything


@pytest.mark.parametrize(
    ("condition", "said"),
    [
        ({"numbers": frozenset({-1})}, "count from 0"),
        ({"largest": 0}, "largest"),
        ({"box": (5, 5, 5, 9)}, "box"),
        ({"min_score": 2}, "min_score"),
    ],
)
def test_conditions_without_a_meaning_are_refused(condition: dict, said: str):
    with pytest.raises(ValueError, match=said):
        FaceChoice(**condition)


@pytest.mark.parametrize("upscale", [1, 1.5])
def test_faces_not_chosen_keep_their_pixels_to_the_bit(upscale: float):
    network = build(found(30, 60), found(72, 60), found(130, 60), upscale=upscale)
    image = photo()
    (nobody,) = network.enhance_many([image], choice=FaceChoice(min_size=1000))
    (result,) = network.enhance_many([image], choice=FaceChoice(numbers=frozenset({1})), weight=0)
    assert (result.numbers, len(result.found), len(result.restored_faces)) == ([1], 3, 1)
    assert nobody.restored_img is not None
    assert result.restored_img is not None
    changed = (result.restored_img != nobody.restored_img).any(axis=2)
    ys, xs = np.nonzero(changed)
    centres = (xs + 0.5) / upscale - 0.5
    assert changed.any()
    # The border between faces 0 and 1, whose regions overlap, lies in the middle between them.
    assert centres.min() > 51
    assert centres.max() < 101
    assert not changed[:, int(110 * upscale) :].any()
    assert ys.min() > 0


def test_each_face_has_its_own_weight():
    network = build(found(30, 60), found(130, 60))
    (result,) = network.enhance_many([photo()], weight=0, weights={1: 1.0})
    (plain,) = network.enhance_many([photo()], weight=0)
    np.testing.assert_array_equal(result.restored_faces[0], plain.restored_faces[0])
    np.testing.assert_array_equal(result.restored_faces[1], result.cropped_faces[1])
    assert result.tones == [0, LEFT]
    assert result.restored_img is not None
    np.testing.assert_array_equal(result.restored_img[:, 90:], photo()[:, 90:])  # not even resampled
    with pytest.raises(ValueError, match="weight must be within"):
        network.enhance_many([photo()], weights={0: 2})


def test_a_network_with_a_knob_of_its_own_gets_one_weight_a_batch():
    class Knob(RunsAsItIs, Invert):
        weight_means = "network"

        def __init__(self) -> None:
            super().__init__()
            self.weights: list[float] = []

        def forward(self, x: Tensor, weight: float = 0.5) -> Tensor:
            self.weights.append(weight)
            return x * 0 + weight

    knob: nn.Module = Knob()
    network = build(found(30, 60), found(80, 60), found(130, 60), model=knob)
    (result,) = network.enhance_many([photo()], weight=0.25, weights={1: 0.75})
    assert [int(restored.max()) for restored in result.restored_faces] == [64, 191, 64]
    assert sorted(set(knob.weights)) == [0.25, 0.75]


def test_a_network_that_says_half_of_what_it_is_is_refused():
    class Half(Invert):
        weight_means = "network"

    with pytest.raises(ValueError, match=r"Half lacks half_precision, own_kernels, for_inference: derive it from"):
        build(found(30, 60), model=Half())


def test_an_aligned_photo_has_no_choice():
    with pytest.raises(ValueError, match="one face"):
        build().enhance_many([photo(height=64, width=64)], has_aligned=True, choice=FaceChoice(largest=1))


def test_likeness_needs_the_identity_net():
    with pytest.raises(ValueError, match="identity"):
        build(identity=False).enhance_many([photo()], choice=FaceChoice(like=photo()))


class Meter:
    """Says of a face how dark its middle is: 1 for black, 0 for white."""

    calibration = Calibration((0, 0.5, 1), (-1, 0, 1), 0.6)

    def embed(self, faces: list[np.ndarray]) -> np.ndarray:
        return np.array([[1 - f[16:48, 16:48].mean() / 255, 0] for f in faces], np.float32)

    def compare(self, before: list[np.ndarray], after: list[np.ndarray]) -> list[float]:
        return [1 - np.abs(b.astype(float) - a)[16:48, 16:48].mean() / 255 for b, a in zip(before, after, strict=True)]


def watched(*faces: object, **options: object) -> LAFRer:
    network = build(*faces, **options)  # type: ignore[arg-type]
    object.__setattr__(network.composer, "meter", Meter())
    return network


def test_faces_that_changed_are_named(caplog: pytest.LogCaptureFixture, tmp_path: Path):
    cv2.imwrite(str(tmp_path / "a.png"), photo(0))
    with caplog.at_level(logging.WARNING):
        (result,) = watched(found(30, 60), found(130, 60)).enhance_many([tmp_path / "a.png"], weight=0)
    assert len(result.identities) == 2
    assert f"{tmp_path / 'a.png'}: face 0 may no longer show the same person: identity" in caplog.text
    assert result.eased == [False, False]
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        (result,) = watched(found(80, 60)).enhance_many([photo(0)], weight=1)
    assert result.identities == [1]
    assert not caplog.text


def test_identity_is_kept_by_easing_the_weight():
    network = watched(found(80, 60))
    (result,) = network.enhance_many([photo(0)], weight=0, keep_identity=True)
    assert result.identities[0] >= 0.6
    assert result.eased == [True]
    assert 0 < result.tones[0] < LEFT
    np.testing.assert_array_less(0, np.abs(result.restored_faces[0].astype(int) - result.cropped_faces[0]).max())


def test_a_face_that_never_passes_stays_as_it_was():
    network = watched(found(80, 60), identity_threshold=0.9999)
    (result,) = network.enhance_many([photo(0)], weight=0, keep_identity=True)
    assert (result.tones, result.identities, result.eased) == ([LEFT], [1.0], [True])
    np.testing.assert_array_equal(result.restored_img, photo(0))


def test_a_reference_photo_chooses():
    network = watched(found(30, 60), found(130, 60))
    image = photo()
    image[:, :80] = 0
    reference = np.zeros((120, 160, 3), np.uint8)
    reference[:, 100:] = 5
    (result,) = network.enhance_many([image], choice=FaceChoice(like=reference, min_likeness=0.9))
    assert result.numbers == [0]
    assert result.found[0].likeness == pytest.approx(1, abs=0.02)
    black = np.zeros((120, 160, 3), np.uint8)
    with pytest.raises(ValueError, match="no face was found"):
        network.enhance_many([image], choice=FaceChoice(like=black))


def test_results_are_named_by_the_faces_numbers(tmp_path: Path):
    network = build(found(30, 60), found(80, 60), found(130, 60))
    cv2.imwrite(str(tmp_path / "in.png"), photo())
    (result,) = network.enhance_many([tmp_path / "in.png"], choice=FaceChoice(numbers=frozenset({0, 2})))
    files = ResultFolder(tmp_path / "out", draw_box=True)
    before = result.restored_img.copy() if result.restored_img is not None else None
    files.write(tmp_path / "in.png", "in", result)
    names = sorted(path.name for path in (tmp_path / "out" / "restored_faces").iterdir())
    assert names == ["in_00.png", "in_02.png"]
    assert files.count_faces("in") == 2
    drawn = cv2.imread(str(tmp_path / "out" / "restored_imgs" / "in.png"))
    green = (drawn == (0, 255, 0)).all(axis=2)
    gray = (drawn == 127).all(axis=2)
    assert green[:, :60].any()
    assert gray[:, 55:105].any()
    assert green[:, 100:].any()
    assert before is not None


def parsed(*flags: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    restore.add_arguments(parser)
    return parser.parse_args(["-i", "x", *flags])


def test_flags_say_what_the_api_takes():
    assert face_options(parsed())["choice"] == EVERY_FACE
    args = parsed(
        *["--faces", "0,2-3", "--largest", "2", "--min_face", "40", "--face_box", "1,2,30.5,40", "--min_score", "0.5"],
        *["--like", "ref.png", "--min_likeness", "0.4", "--face_weights", "0=0.3,3=.9", "--keep-identity", "-w", "0.2"],
    )
    options = face_options(args)
    assert options["choice"] == FaceChoice(frozenset({0, 2, 3}), 2, 40, (1, 2, 30.5, 40), 0.5, "ref.png", 0.4)
    assert options["choice"].like == "ref.png"
    assert options["weights"] == {0: 0.3, 3: 0.9}
    assert options["keep_identity"]
    assert options["weight"] == 0.2
    assert set(OPTIONS) <= set(vars(args))


@pytest.mark.parametrize(
    "flags", [["--faces", "a"], ["--faces", "-1"], ["--face_box", "1,2,3"], ["--face_weights", "0"]]
)
def test_flags_that_cannot_be_read_are_refused(flags: list[str], capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit):
        parsed(*flags)
    assert flags[0] in capsys.readouterr().err


def test_values_out_of_range_are_named(capsys: pytest.CaptureFixture, tmp_path: Path):
    cv2.imwrite(str(tmp_path / "x.png"), photo())
    for flags, said in ((["--face_weights", "0=2"], "--face_weights"), (["--largest", "0"], "largest")):
        args = parsed(*flags)
        args.input = tmp_path / "x.png"
        assert restore.run(args) == 2
        assert said in capsys.readouterr().err


def test_a_run_is_known_by_every_flag():
    assert set(OPTIONS) <= set(restore.RESULT_OPTIONS)


def test_a_result_without_an_error_is_returned_by_or_raise():
    result = RestoredPhoto(1, SIZE)
    assert result.or_raise() is result
    result.error = ValueError("unreadable")
    with pytest.raises(ValueError, match="unreadable"):
        result.or_raise()
