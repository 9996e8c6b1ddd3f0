import dataclasses
import math

import cv2
import numpy as np
import pytest
import skimage.data
import torch
from torchvision.transforms import functional

from lafr_data.degradations import (
    PRESETS,
    adjust_color,
    anisotropic_kernel,
    build_degradation,
    compress_jpeg,
    degrade,
    random_blur,
)


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return cv2.resize(skimage.data.astronaut(), (128, 128), interpolation=cv2.INTER_AREA).astype(np.float32) / 255


def only(step: str, value: float) -> dict:
    """Options that switch every step off but one, which gets a fixed value."""
    off = {
        "preset": "celeba_x4",
        "blur_sigma": [0.001, 0.001],
        "downsample_range": [1, 1],
        "noise_range": None,
        "jpeg_range": None,
    }
    return {**off, step: [value, value]}


def test_kernel_is_basicsr_kernel():
    from basicsr.data.degradations import bivariate_Gaussian

    for size, sigma_x, sigma_y, rotation in [(41, 9.0, 2.0, 0.7), (21, 0.3, 5.0, -2.5), (9, 1.0, 1.0, 0.0)]:
        expected = bivariate_Gaussian(size, sigma_x, sigma_y, rotation, isotropic=False)
        np.testing.assert_allclose(anisotropic_kernel(size, sigma_x, sigma_y, rotation), expected, atol=1e-7)


def test_blur_is_basicsr_filter(photo: np.ndarray):
    """With the same sigmas and angle as BasicSR draws, filter2D with its kernel gives the same picture."""
    from basicsr.data.degradations import random_mixed_kernels

    for kind, isotropic_prob in (("iso", 1.0), ("aniso", 0.0)):
        config = dataclasses.replace(PRESETS["gfpgan"], isotropic_prob=isotropic_prob)
        blurred = random_blur(photo, config, np.random.default_rng(3))
        draws = np.random.default_rng(3)
        draws.random()  # the choice of the kind
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(np.random, "uniform", draws.uniform)
            kernel = random_mixed_kernels([kind], [1], 41, (0.1, 10), (0.1, 10), (-math.pi, math.pi))
        np.testing.assert_allclose(blurred, cv2.filter2D(photo, -1, kernel.astype(np.float32)), atol=2e-6)


@pytest.mark.parametrize("preset", PRESETS)
def test_pair_is_function_of_image_and_generator(photo: np.ndarray, preset: str):
    config = build_degradation(preset, 128)
    before = photo.copy()
    lq, gt = degrade(photo, config, np.random.default_rng(5))
    again, _ = degrade(photo, config, np.random.default_rng(5))
    other, _ = degrade(photo, config, np.random.default_rng(6))
    assert np.array_equal(photo, before)
    assert gt is photo
    assert lq.shape == photo.shape
    assert lq.dtype == np.float32
    assert lq.min() >= 0
    assert lq.max() <= 1
    assert np.array_equal(lq, again)
    assert not np.array_equal(lq, other)
    np.testing.assert_allclose(lq * 255, np.round(lq * 255), atol=1e-4)  # as if read from a file


def test_presets_keep_their_order_of_severity(photo: np.ndarray):
    def mean_error(preset: str) -> float:
        config = build_degradation(preset, 128)
        rng = np.random.default_rng(0)
        return float(np.mean([np.mean((degrade(photo, config, rng)[0] - photo) ** 2) for _ in range(40)]))

    assert mean_error("codeformer3") < mean_error("osediff_face") < mean_error("codeformer2")


def test_noise_level():
    gray = np.full((128, 128, 3), 0.5, np.float32)
    lq, _ = degrade(gray, build_degradation(only("noise_range", 10), 128), np.random.default_rng(0))
    assert (lq - gray).std() * 255 == pytest.approx(10, rel=0.02)


def test_downsampling_is_bilinear_there_and_back(photo: np.ndarray):
    lq, _ = degrade(photo, build_degradation(only("downsample_range", 4), 128), np.random.default_rng(0))
    expected = cv2.resize(cv2.resize(photo, (32, 32)), (128, 128))
    np.testing.assert_allclose(lq, expected, atol=0.5 / 255 + 1e-6)


def test_jpeg_quality_keeps_channels_and_costs_detail(photo: np.ndarray):
    errors = [float(np.abs(compress_jpeg(photo, quality) - photo).mean()) for quality in (30, 60, 100)]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.01  # swapped channels would cost far more
    lq, _ = degrade(photo, build_degradation(only("jpeg_range", 60), 128), np.random.default_rng(0))
    assert float(np.abs(lq - photo).mean()) == pytest.approx(errors[1], abs=2e-4)


def test_colour_changes_follow_their_probabilities():
    gray = np.full((16, 16, 3), 0.5, np.float32)
    options = {**only("noise_range", 0), "color_jitter_prob": 0.3, "color_jitter_shift": 20}
    config = build_degradation(options, 16)
    rng = np.random.default_rng(0)
    shifts = np.array([(degrade(gray, config, rng)[0] - gray)[0, 0] * 255 for _ in range(600)])
    shifted = np.abs(shifts).max(axis=1) > 0.6  # 0.5 is not a multiple of 1/255
    assert shifted.mean() == pytest.approx(0.3, abs=0.06)
    assert 15 < np.abs(shifts).max() <= 20.6


def test_gray_and_gt_gray(photo: np.ndarray):
    for gt_gray in (False, True):
        options = {"preset": "gfpgan", "gray_prob": 1, "color_jitter_pt_prob": 0, "gt_gray": gt_gray}
        lq, gt = degrade(photo, build_degradation(options, 128), np.random.default_rng(0))
        assert np.ptp(lq, axis=2).max() == 0
        assert (np.ptp(gt, axis=2).max() == 0) == gt_gray


@pytest.mark.parametrize(
    ("operation", "amount"),
    [("brightness", 1.4), ("contrast", 0.6), ("contrast", 1.5), ("saturation", 0.2), ("hue", -0.08), ("hue", 0.1)],
)
def test_colour_operations_are_torchvisions(photo: np.ndarray, operation: str, amount: float):
    tensor = torch.from_numpy(photo).permute(2, 0, 1)
    expected = getattr(functional, f"adjust_{operation}")(tensor, amount).permute(1, 2, 0).numpy()
    np.testing.assert_allclose(adjust_color(photo, operation, amount), expected, atol=1e-3)


def test_scaling_with_face_size():
    full = build_degradation("gfpgan", 512)
    half = build_degradation("gfpgan", 256)
    assert full == PRESETS["gfpgan"]
    assert half.blur_sigma == (0.05, 5)
    assert half.blur_kernel_size == 21
    assert (half.downsample_range, half.noise_range, half.jpeg_range) == ((0.8, 8), (0, 20), (60, 100))
    assert all(build_degradation("gfpgan", size).blur_kernel_size % 2 == 1 for size in range(16, 1100, 37))


def test_overrides_are_in_pixels_of_512():
    options = {
        "preset": "codeformer3",
        "blur_sigma": [2, 4],
        "downsample_range": [1, 2],
        "noise_range": [0, 1],
        "jpeg_range": [90, 95],
        "blur_kernel_size": 13,
    }
    config = build_degradation(options, 256)
    assert (config.blur_sigma, config.blur_kernel_size) == ((1, 2), 7)
    assert (config.downsample_range, config.noise_range, config.jpeg_range) == ((1, 2), (0, 1), (90, 95))
    assert options["preset"] == "codeformer3"  # the caller's mapping is left alone


@pytest.mark.parametrize(
    ("option", "named"),
    [
        ("gfpgan2", "gfpgan2"),
        ({"blur_sigma": [1, 2]}, "preset"),
        ({"preset": "gfpgan", "sigma": [1, 2]}, "sigma"),
        ({"preset": "gfpgan", "blur_sigma": [3, 2]}, "blur_sigma"),
        ({"preset": "gfpgan", "blur_sigma": 3}, "blur_sigma"),
        ({"preset": "gfpgan", "blur_sigma": None}, "blur_sigma"),
        ({"preset": "gfpgan", "jpeg_range": [60.5, 100]}, "jpeg_range"),
        ({"preset": "gfpgan", "jpeg_range": [60, 101]}, "jpeg_range"),
        ({"preset": "gfpgan", "blur_kernel_size": 40}, "blur_kernel_size"),
        ({"preset": "gfpgan", "gray_prob": 2}, "gray_prob"),
        ({"preset": "gfpgan", "gt_gray": 1}, "gt_gray"),
        ({"preset": "gfpgan", "noise_range": ["a", "b"]}, "noise_range"),
    ],
)
def test_bad_options_are_named(option: object, named: str):
    with pytest.raises(ValueError, match=named):
        build_degradation(option, 256)
