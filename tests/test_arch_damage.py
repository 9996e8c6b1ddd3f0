"""The net that tells how far a face is from its original, its training data and its training model."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import lafr_base.compat  # noqa: F401 - BasicSR imports with any torchvision
from lafr_arch.damage_arch import CELL, FLOOR, DamageNet, log_error
from lafr_data.damage_dataset import DamageDataset
from lafr_models.damage_model import DamageModel

INTACT = {"preset": "world", "intact_prob": 1, "intact_quality": [100, 100], "gray_prob": 0, "tint_prob": 0}


@pytest.fixture
def folder(tmp_path: Path, face_image: torch.Tensor) -> Path:
    """One portrait three times, so that only the draw differs."""
    photo = (face_image[0].permute(1, 2, 0).numpy()[:, :, ::-1] * 255).round().astype(np.uint8)
    for name in ("a.png", "b.png", "c.png"):
        cv2.imwrite(str(tmp_path / name), photo)
    return tmp_path


def dataset(folder: Path, **changes: object) -> DamageDataset:
    options: dict = {"photo_size": 128, "face_size": [48, 128], "window": 64, "degradation": "world"}
    return DamageDataset({"name": "t", "dataroot_gt": str(folder), **options, **changes})


def test_log_error_is_that_of_each_square():
    first, second = torch.zeros(1, 3, 32, 48), torch.zeros(1, 3, 32, 48)
    second[0, :, 16:, 32:] = 0.1
    second[0, 0, :16, :16] = 0.3
    expected = torch.full((2, 3), FLOOR)
    expected[1, 2], expected[0, 0] = 0.01, 0.03
    assert torch.allclose(log_error(first, second)[0, 0], expected.log10(), atol=1e-5)


def test_net_has_a_number_for_each_square_and_saves(tmp_path: Path):
    net = DamageNet((4, 6, 8, 10))
    net(torch.rand(4, 3, 64, 64))  # batch norm's statistics move
    net.save_pretrained(tmp_path)
    loaded = DamageNet.from_pretrained(tmp_path)
    x = torch.rand(2, 3, 64, 96)
    assert loaded(x).shape == (2, 1, 64 // CELL, 96 // CELL)
    assert torch.allclose(net.eval()(x), loaded(x), atol=5e-2)  # stored as fp16
    with pytest.raises(ValueError, match="four widths"):
        DamageNet((8, 8, 8))  # type: ignore[arg-type]


def test_dataset_is_a_function_of_seed_index_and_draw(folder: Path):
    first, second, other = dataset(folder), dataset(folder), dataset(folder, seed=1)
    assert len(first) == 3
    for key in ("lq", "gt"):
        assert first[1][key].shape == (3, 64, 64)
        assert torch.equal(first[1][key], second[1][key])
        assert not torch.equal(first[1][key], other[1][key])
        assert not torch.equal(first[1][key], first[2][key])
    levels = first[1]["lq"] * 255
    assert torch.allclose(levels, levels.round(), atol=1e-4)


def test_an_intact_pair_is_the_same_twice_and_shows_the_face_at_its_size(folder: Path):
    pairs = dataset(folder, degradation=INTACT, face_size=[48, 48], items_per_photo=8)
    photo = cv2.imread(str(folder / "a.png"))[..., ::-1] / 255
    small = cv2.resize(photo, (48, 48), interpolation=cv2.INTER_AREA)
    for index in range(len(pairs)):
        item = pairs[index]
        assert (item["lq"] - item["gt"]).square().mean() < 1e-4  # at most one JPEG of the best quality
        # The window is larger than the face: somewhere in it lies the whole face, the rest is its reflection.
        window = item["gt"].permute(1, 2, 0).numpy()
        found = [
            np.abs(window[y : y + 48, x : x + 48] - face).mean()
            for face in (small, small[:, ::-1])
            for y in range(17)
            for x in range(17)
        ]
        assert min(found) < 0.03


def test_dataset_refuses_what_cannot_be(folder: Path):
    for changes, said in (
        ({"face_size": [48, 300]}, r"face_size: \[48, 300\] must lie within 32 to photo_size: 128"),
        ({"window": 50}, "window: 50 is not a multiple"),
        ({"degradation": "none"}, "preset: 'none' is unknown"),
    ):
        with pytest.raises(ValueError, match=said):
            dataset(folder, **changes)


def test_model_learns_validates_and_exports(tmp_path: Path, folder: Path):
    options = {
        "name": "t",
        "num_gpu": 0,
        "is_train": True,
        "dist": False,
        "rank": 0,
        "world_size": 1,
        "model_type": "DamageModel",
        "manual_seed": 0,
        "network_g": {"type": "DamageNet", "channels": [8, 8, 8, 8]},
        "path": {"experiments_root": str(tmp_path), "models": str(tmp_path), "training_states": str(tmp_path)},
        "train": {"total_iter": 10, "optim_g": {"type": "Adam", "lr": 5e-3}},
    }
    model = DamageModel(options)
    mix = {"mix": [INTACT, {"preset": "celeba_x4"}]}
    pairs = dataset(folder, degradation=mix, items_per_photo=4)
    batch = torch.utils.data.default_collate([pairs[i] for i in range(len(pairs))])
    history = []
    for iteration in range(1, 25):
        model.feed_data(batch)
        model.optimize_parameters(iteration)
        history.append(sum(model.log_dict.values()))
    assert history[-1] < 0.6 * history[0]
    model.nondist_validation(torch.utils.data.DataLoader(pairs), 24, None, False)
    assert set(model.metric_results) == {"error", "intact", "damaged"}
    assert 0 < model.metric_results["error"] < 30
    model.save(0, -1)
    exported = DamageNet.from_pretrained(tmp_path / "damage")
    assert torch.allclose(exported(batch["lq"]), model.bare_g.eval()(batch["lq"]), atol=5e-2)
