"""The alignment net, its training data and its training model."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from lafr_arch.aligner_arch import FacePointNet
from lafr_base.geometry import FFHQ_POINTS, centre_and_radius, crop_matrix, invert, tilt, transform, warp_face
from lafr_data.aligner_dataset import MIRROR, FacePointDataset, load_landmarks
from lafr_models.aligner_model import FacePointModel, point_error
from stage_options import learn

DEGRADATION = {"preset": "gfpgan", "downsample_range": [0.8, 6]}


@pytest.fixture
def folder(tmp_path: Path, face_image: torch.Tensor) -> Path:
    """Three photos of 256 x 256: one face three times, so that only the draw differs."""
    photo = (face_image[0].permute(1, 2, 0).numpy()[:, :, ::-1] * 255).round().astype(np.uint8)
    for name in ("a.png", "b.png", "c.png"):
        cv2.imwrite(str(tmp_path / name), photo)
    return tmp_path


def dataset(folder: Path, **changes: object) -> FacePointDataset:
    return FacePointDataset({"name": "t", "dataroot_gt": str(folder), "degradation": DEGRADATION, **changes})


def test_net_points_follow_a_shift_of_the_heat_map():
    net = FacePointNet(32, (4, 4, 4, 4)).eval()
    with torch.no_grad():
        net.heat.weight.zero_()
        net.heat.bias.zero_()
        points, logits = net(torch.rand(2, 3, 32, 32))
    # A flat heat map's centre of mass is the crop's centre: 15.5 of pixels 0 to 31.
    assert torch.allclose(points * 32, torch.full((2, 5, 2), 15.5), atol=1e-4)
    assert logits.shape == (2,)


def test_net_tells_x_from_y():
    net = FacePointNet(32, (4, 4, 4, 4)).eval()
    heat = torch.full((1, 5, 8, 8), -50.0)
    heat[:, :, 2, 5] = 50  # row 2, column 5
    net.heat.register_forward_hook(lambda *_: heat)
    points, _ = net(torch.rand(1, 3, 32, 32))
    assert torch.allclose(points[0] * 32, torch.tensor([5 * 4 + 1.5, 2 * 4 + 1.5]).expand(5, 2), atol=1e-4)


def test_net_saves_and_loads(tmp_path: Path):
    net = FacePointNet(32, (4, 6, 8, 10))
    net(torch.rand(4, 3, 32, 32))  # batch norm's statistics move
    net.save_pretrained(tmp_path)
    loaded = FacePointNet.from_pretrained(tmp_path)
    x = torch.rand(2, 3, 32, 32)
    for ours, theirs in zip(net.eval()(x), loaded(x), strict=True):
        assert torch.allclose(ours, theirs, atol=5e-3)  # stored as fp16
    assert next(loaded.parameters()).dtype == torch.float32
    assert not loaded.training
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors"):
        FacePointNet.from_pretrained(tmp_path)


def test_net_refuses_odd_sizes():
    with pytest.raises(ValueError, match="image_size: 50"):
        FacePointNet(50)
    with pytest.raises(ValueError, match="four widths"):
        FacePointNet(64, (8, 8, 8))  # type: ignore[arg-type]


@pytest.mark.parametrize("angle", [0.0, 25.0, -130.0])
def test_crop_matrix_stands_a_tilted_face_upright(angle: float):
    radians = np.deg2rad(angle)
    clockwise = np.array([[np.cos(radians), -np.sin(radians)], [np.sin(radians), np.cos(radians)]])  # y points down
    points = FFHQ_POINTS @ clockwise.T * 0.3 + (40, 900)
    assert tilt(points) == pytest.approx(angle, abs=1e-6)
    centre, radius = centre_and_radius(points)
    matrix = crop_matrix(centre, 5 * radius, tilt(points), 64)
    cropped = transform(matrix, points)
    assert tilt(cropped) == pytest.approx(0, abs=1e-6)
    assert np.allclose(cropped.mean(axis=0), 31.5)
    assert centre_and_radius(cropped)[1] == pytest.approx(64 / 5)
    assert np.allclose(transform(invert(matrix), cropped), points)


@pytest.mark.parametrize("scale", [0.2, 1.0, 3.7])
def test_warp_crop_keeps_positions_at_any_scale(scale: float):
    height, width = 300, 400
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    ramp = np.stack([x * 0.5, y * 0.5, np.zeros_like(x)], axis=-1).round().astype(np.uint8)
    matrix = crop_matrix(np.array([210.0, 140.0]), 64 / scale / 1.2, 10, 64)
    crop = warp_face(ramp, matrix, 64).astype(float)
    inside = transform(invert(matrix), np.array([[20.0, 25.0], [40.0, 31.0], [33.0, 45.0]]))
    found = np.array([crop[25, 20, :2], crop[31, 40, :2], crop[45, 33, :2]]) * 2
    assert np.abs(found - inside).max() < 1.6  # half a gray level is one pixel


def test_warp_crop_reaches_beyond_the_photo():
    photo = np.full((5, 9, 3), 77, np.uint8)
    crop = warp_face(photo, crop_matrix(np.array([-30.0, 50.0]), 20, 0, 16), 16)
    assert crop.shape == (16, 16, 3)
    assert (crop == 77).all()


def test_dataset_is_a_function_of_seed_index_and_draw(folder: Path):
    first, second, other = dataset(folder), dataset(folder), dataset(folder, seed=1)
    assert len(first) == 3
    assert torch.equal(first[1]["lq"], second[1]["lq"])
    assert not torch.equal(first[1]["lq"], other[1]["lq"])
    assert not torch.equal(first[1]["lq"], first[2]["lq"])


def test_dataset_labels_mark_the_same_spots_of_the_face(tmp_path: Path):
    """Warps and flips move picture and points alike: a disc drawn at each point is found under its label."""
    photo = np.full((256, 256, 3), 128, np.uint8)
    colours = np.array([[255, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255], [0, 0, 255]])  # eyes, nose, mouth: BGR
    for point, colour in zip((FFHQ_POINTS + 0.5) / 2 - 0.5, colours, strict=True):
        cv2.circle(photo, point.round().astype(int).tolist(), 9, colour.tolist(), -1)
    cv2.imwrite(str(tmp_path / "discs.png"), photo)
    faces = dataset(tmp_path, face_ratio=1.0, degraded_ratio=0.0, items_per_photo=40)
    hits = []
    for index in range(len(faces)):
        item = faces[index]
        points = item["points"].double().numpy() * 64
        assert points[0, 0] < points[1, 0]  # image-left eye first, also after a flip
        assert abs(tilt(points)) <= 35.01
        centre, radius = centre_and_radius(points)
        assert 64 / 5 / 1.41 <= radius <= 64 / 5 * 1.41
        assert np.abs(centre - 31.5).max() <= 0.151 * 64
        x, y = points.round().astype(int).T
        found = item["lq"].permute(1, 2, 0).numpy()[y, x, ::-1] * 255
        hits.append(np.abs(found - colours).max(axis=1) < 60)
    assert np.mean(hits) > 0.9  # the rest lies under the blocks that cover part of some faces


def test_dataset_flip_swaps_sides():
    mirrored = (np.array([511, 0]) + FFHQ_POINTS * (-1, 1))[MIRROR]
    assert np.abs(mirrored - FFHQ_POINTS).max() < 4  # the template is nearly symmetric


def test_dataset_negatives_have_no_points(folder: Path):
    negatives = dataset(folder, face_ratio=0.0, items_per_photo=10)
    for index in range(len(negatives)):
        item = negatives[index]
        assert item["face"] == 0
        assert not item["points"].any()
        assert torch.isfinite(item["lq"]).all()


def test_dataset_reads_landmarks(folder: Path, tmp_path: Path):
    labels = tmp_path / "landmarks.json"
    moved = (FFHQ_POINTS + (10, 0)) / 512
    labels.write_text(json.dumps({"b": moved.tolist()}))
    options = {"face_ratio": 1.0, "max_shift": 0.0, "max_angle": 0.0, "max_zoom": 1.0, "degraded_ratio": 0.0}
    plain, labelled = dataset(folder, **options), dataset(folder, landmarks=str(labels), **options)
    assert torch.equal(plain[0]["lq"], labelled[0]["lq"])
    assert not torch.equal(plain[1]["lq"], labelled[1]["lq"])
    labels.write_text(json.dumps({"b": [[1, 2]]}))
    with pytest.raises(ValueError, match="b is not five points"):
        load_landmarks(labels)
    with pytest.raises(ValueError, match="lafr landmarks"):
        load_landmarks(tmp_path / "absent.json")


def test_point_error_is_relative_to_the_eyes():
    target = torch.tensor(FFHQ_POINTS)[None].float()
    eyes = float(np.linalg.norm(FFHQ_POINTS[0] - FFHQ_POINTS[1]))
    assert point_error(target + torch.tensor([3.0, 4.0]), target).item() == pytest.approx(5 / eyes, rel=1e-4)


def model_options(tmp_path: Path) -> dict:
    return {
        "name": "t",
        "num_gpu": 0,
        "is_train": True,
        "dist": False,
        "rank": 0,
        "world_size": 1,
        "model_type": "FacePointModel",
        "manual_seed": 0,
        "network_g": {"type": "FacePointNet", "image_size": 32, "channels": [4, 6, 8, 8]},
        "path": {"experiments_root": str(tmp_path), "models": str(tmp_path), "training_states": str(tmp_path)},
        "train": {
            "total_iter": 10,
            "optim_g": {"type": "Adam", "lr": 1e-2},
            "points_weight": 10,
            "face_weight": 1,
        },
    }


def test_model_learns_and_exports(tmp_path: Path, folder: Path):
    model = FacePointModel(model_options(tmp_path))
    samples = dataset(folder, image_size=32, items_per_photo=4)
    batch = torch.utils.data.default_collate([samples[i] for i in range(len(samples))])
    history = learn(model, batch, 12)
    assert history[-1] < 0.8 * history[0]
    model.nondist_validation(torch.utils.data.DataLoader(samples), 12, None, False)
    assert 0 < model.metric_results["nme"] < 1
    assert 0 <= model.metric_results["accuracy"] <= 1
    model.save(0, -1)
    exported = FacePointNet.from_pretrained(tmp_path / "aligner")
    assert torch.allclose(exported(batch["lq"])[0], model.bare_g.eval()(batch["lq"])[0], atol=5e-3)


def test_losses_ignore_the_points_of_negatives(tmp_path: Path):
    model = FacePointModel(model_options(tmp_path))
    batch = {"lq": torch.rand(4, 3, 32, 32), "points": torch.rand(4, 5, 2), "face": torch.tensor([1.0, 0, 0, 1])}
    first = model.losses(batch, 1)["l_points"]
    points = batch["points"].clone()
    points[1:3] = 9
    assert torch.allclose(model.losses({**batch, "points": points}, 1)["l_points"], first)
