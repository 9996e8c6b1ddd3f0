"""Identity similarity and bootstrap intervals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from lafr_arch.mobilefacenet_arch import MobileFaceNet
from lafr_arch.recognition import _CROP, recognition_crop
from lafr_base.geometry import FFHQ_POINTS, similarity
from lafr_base.weights import MissingWeightsError
from lafr_metrics.face_metric import IdentitySimilarity
from lafr_metrics.statistics import bootstrap_mean


def test_similarity_transform_agrees_with_a_complex_line():
    # A similarity is z -> a z + b in the complex plane: a straight line fitted to five points.
    plane = [points[:, 0] + 1j * points[:, 1] for points in (FFHQ_POINTS, _CROP)]
    (a, b), *_ = np.linalg.lstsq(np.stack([plane[0], np.ones(5)], axis=1), plane[1], rcond=None)
    expected = [[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]]
    np.testing.assert_allclose(similarity(FFHQ_POINTS, _CROP), expected, atol=1e-9)


@pytest.mark.parametrize("size", [256, 512])
def test_crop_puts_points_where_the_transform_says(size: int):
    # Coordinates are their own picture: each pixel of the crop holds where in the 512 px face it was taken from.
    y, x = torch.meshgrid(*[(torch.arange(size) + 0.5) * 512 / size - 0.5] * 2, indexing="ij")
    crop = recognition_crop(torch.stack([x, y, x])[None])[0]
    assert crop.shape == (3, 112, 96)
    matrix = similarity(FFHQ_POINTS, _CROP)
    back = matrix @ np.array([crop[0, 60, 40].item(), crop[1, 60, 40].item(), 1])
    np.testing.assert_allclose(back, [40, 60], atol=0.1)  # the antialiased resize bends a ramp by up to 0.04 px


def test_missing_weights_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LAFR_WEIGHTS", str(tmp_path))
    with pytest.raises(MissingWeightsError, match="mobilefacenet_068"):
        IdentitySimilarity()


def test_checkpoint_of_another_net_is_refused(tmp_path: Path):
    path = tmp_path / "other.ckpt"
    torch.save({"net_state_dict": {"conv1.conv.weight": torch.zeros(1)}}, path)
    with pytest.raises(ValueError, match="not a MobileFaceNet"):
        MobileFaceNet.from_checkpoint(path)


def test_same_person_is_more_alike_than_others(shared: Path):
    from lafr_data.validation_dataset import ValidationFaceDataset

    metric = IdentitySimilarity(str(shared / "models" / "mobilefacenet_068.ckpt"))
    options = {"name": "val", "dataroot_gt": str(shared / "faces" / "val"), "image_size": 256, "n_images": 6}
    items = [ValidationFaceDataset(options)[i] for i in range(6)]
    lq, hq = (metric.embed(torch.stack([item[key] for item in items])) for key in ("lq", "gt"))
    table = lq @ hq.T
    assert table.diagonal().mean() > 0.5
    assert table[~torch.eye(6, dtype=torch.bool)].mean() < 0.15


def test_bootstrap_interval_agrees_with_the_normal_one():
    values = np.random.default_rng(1).normal(3, 2, 400)
    result = bootstrap_mean(values.tolist())
    half = 1.96 * values.std(ddof=1) / 20
    assert result["mean"] == pytest.approx(values.mean())
    assert result["low"] == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert result["high"] == pytest.approx(values.mean() + half, abs=0.1 * half)
    assert result["count"] == 400


def test_bootstrap_of_nothing_is_an_error():
    with pytest.raises(ValueError, match="at least one"):
        bootstrap_mean([])
