from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import skimage.data

from lafr_data.degradation_dataset import FaceDegradationDataset
from lafr_data.degradation_steps import compress_webp, disk_kernel, motion_kernel
from lafr_data.degradations import build_degradation, degrade
from lafr_data.samplers import Draw

NOTHING: dict[str, Any] = {
    "preset": "world",
    "intact_prob": 0,
    "blur_prob": 0,
    "downsample_range": [1, 1],
    "noise_prob": 0,
    "grain_prob": 0,
    "halo_prob": 0,
    "jpeg_range": [100, 100],
    "webp_prob": 0,
    "second_prob": 0,
    "gray_prob": 0,
    "tint_prob": 0,
}


@pytest.fixture(scope="module")
def face() -> np.ndarray:
    return skimage.data.astronaut()[:256, 100:356].astype(np.float32) / 255


def draws(face: np.ndarray, options: Any, count: int = 12) -> list[tuple[np.ndarray, np.ndarray]]:
    config = build_degradation(options, face.shape[0])
    return [degrade(face, config, np.random.default_rng(seed)) for seed in range(count)]


def sharpness(image: np.ndarray) -> float:
    gray = cv2.cvtColor(np.round(image * 255).astype(np.uint8), cv2.COLOR_RGB2GRAY)
    return float(cv2.Laplacian(gray, cv2.CV_64F).var())


def test_pairs_are_functions_of_the_seed_and_like_a_file(face: np.ndarray):
    first, again = (draws(face, "world") for _ in range(2))
    for (lq, gt), (lq2, gt2) in zip(first, again, strict=True):
        np.testing.assert_array_equal(lq, lq2)
        np.testing.assert_array_equal(gt, gt2)
        assert lq.shape == gt.shape == face.shape
        assert lq.dtype == gt.dtype == np.float32
        np.testing.assert_allclose(lq * 255, np.round(lq * 255), atol=1e-3)
    assert len({lq.tobytes() for lq, _ in first}) > 6


def test_switched_off_it_does_next_to_nothing(face: np.ndarray):
    for lq, gt in draws(face, NOTHING, 4):
        assert np.abs(lq - gt).mean() < 0.01
        np.testing.assert_array_equal(gt, face)


def test_intact_share(face: np.ndarray):
    same = sum(np.array_equal(lq, gt) for lq, gt in draws(face, {"preset": "world", "intact_prob": 1}, 60))
    assert 8 <= same <= 28  # 0.3 of them are not even compressed


@pytest.mark.parametrize("kind", ["gauss", "lens", "motion"])
def test_blur_of_every_kind_scales_with_the_face(face: np.ndarray, kind: str):
    options = {**NOTHING, "blur_prob": 1, "blur_sigma": [4, 4], "lens_prob": 0, "motion_prob": 0}
    if kind != "gauss":
        options[f"{kind}_prob"] = 1
    small = sharpness(draws(face, options, 1)[0][0])
    weaker = sharpness(draws(face, {**options, "blur_sigma": [1, 1]}, 1)[0][0])
    assert small < weaker < sharpness(face)
    assert build_degradation(options, 256).scaled(128).face_size == 128


def test_noise_grows_with_brightness_where_it_is_shot_noise():
    ramp = np.repeat(np.linspace(0.1, 0.9, 256, dtype=np.float32)[None, :, None], 256, 0).repeat(3, 2)
    options = {**NOTHING, "noise_prob": 1, "noise_range": [12, 12], "shot_prob": 1}
    lq, gt = draws(ramp, options, 1)[0]
    error = lq - gt
    assert error[:, 200:].std() > 1.5 * error[:, :56].std()


def test_halo_overshoots(face: np.ndarray):
    (lq, _) = draws(face, {**NOTHING, "halo_prob": 1}, 1)[0]
    assert sharpness(lq) > 1.2 * sharpness(face)


def test_colour_is_kept_as_it_is(face: np.ndarray):
    for lq, gt in draws(face, {**NOTHING, "gray_prob": 1}, 3):
        assert np.ptp(gt, axis=2).max() == 0
        assert np.ptp(lq, axis=2).max() < 0.02
    for lq, gt in draws(face, {**NOTHING, "tint_prob": 1}, 3):
        assert np.abs(lq.mean((0, 1)) - gt.mean((0, 1))).max() < 0.01
        assert not np.array_equal(gt, face)


def test_kernels_spread_as_far_as_they_say():
    disk = disk_kernel(5)
    line = motion_kernel(9, np.pi / 2)
    for kernel in (disk, line):
        assert kernel.sum() == pytest.approx(1, abs=1e-5)
    assert (disk > 0).sum() == pytest.approx(np.pi * 25, rel=0.3)
    rows = np.flatnonzero(line.sum(1) > 1e-6)
    assert rows[-1] - rows[0] == pytest.approx(9, abs=1)
    assert np.flatnonzero(line.sum(0) > 1e-6).size <= 3


def test_webp_is_lossy_and_close(face: np.ndarray):
    error = np.abs(compress_webp(face, 50) - face).mean()
    assert 0.002 < error < 0.05


def test_mix_draws_by_shares(face: np.ndarray):
    sharp = {**NOTHING, "share": 3}
    soft = {**NOTHING, "blur_prob": 1, "blur_sigma": [6, 6], "share": 1}
    values = [sharpness(lq) for lq, _ in draws(face, {"mix": [sharp, soft]}, 80)]
    blurred = sum(value < 0.3 * sharpness(face) for value in values)
    assert 10 <= blurred <= 32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mix": []}, "mix"),
        ({"mix": ["world"], "preset": "world"}, "nothing may stand beside"),
        ({"mix": [{"preset": "world", "share": -1}]}, "shares"),
        ({"mix": ["word"]}, "word"),
        ({"preset": "world", "noise_prob": 2}, "noise_prob"),
        ({"preset": "world", "jpeg_range": [90, 20]}, "jpeg_range"),
        ({"preset": "world", "face_size": 256}, "face_size is unknown"),
        ({"preset": "world", "gray": 1}, "gray is unknown"),
    ],
)
def test_wrong_options_are_named(options: Any, message: str):
    with pytest.raises(ValueError, match=message):
        build_degradation(options, 256)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("faces")
    for index, name in enumerate(("soft_0", "soft_1", "sharp_0", "sharp_1")):
        pixels = cv2.resize(skimage.data.astronaut()[index * 40 :][:256, 100:356], (64, 64))
        cv2.imwrite(str(root / f"{name}.png"), pixels)
    return root


def training(folder: Path, **options: Any) -> FaceDegradationDataset:
    base = {"dataroot_gt": str(folder), "image_size": 64, "gt_only": True, "use_hflip": False}
    return FaceDegradationDataset({**base, **options})


def test_sampling_follows_the_factors(folder: Path):
    data = training(folder, sampling={"soft_*": 0.25})
    names = [Path(data[Draw(draw % 4, draw)]["gt_path"]).stem for draw in range(200)]
    assert 20 <= sum(name.startswith("soft") for name in names) <= 62
    assert names == [Path(data[Draw(draw % 4, draw)]["gt_path"]).stem for draw in range(200)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampling": {"none_*": 1}}, "no file"),
        ({"sampling": {"soft_*": -1}}, "soft_"),
        ({"sampling": {"*": 0}}, "no face"),
        ({"sampling": {"soft_*": 1}, "n_draws": 2}, "n_draws"),
        ({"jitter": {"shift": 0.9}}, "shift"),
        ({"jitter": {"turn": 3}}, "turn is unknown"),
        ({"jitter": {"angle": 3}, "jitter_prob": 2}, "jitter_prob"),
    ],
)
def test_wrong_sampling_and_jitter_are_named(folder: Path, options: Any, message: str):
    with pytest.raises(ValueError, match=message):
        training(folder, **options)


def test_jitter_moves_about_the_share_it_says_and_not_far(folder: Path):
    options = {"jitter": {"shift": 0.03, "zoom": 1.05, "angle": 3}, "jitter_prob": 0.5}
    still, moving = training(folder), training(folder, **options)
    moved = 0
    for draw in range(40):
        a, b = (data[Draw(0, draw)]["gt"] for data in (still, moving))
        moved += int(not np.array_equal(a, b))
        assert float((a - b).abs().mean()) < 0.2
    assert 10 <= moved <= 30
