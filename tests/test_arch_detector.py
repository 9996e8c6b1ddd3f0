"""The face detection net, its training scenes and its training model."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from lafr_arch.detector_arch import RADII, STRIDE, FaceDetectionNet, cell_centres, peaks
from lafr_base.geometry import FFHQ_POINTS, centre_and_radius, tilt
from lafr_data.scene_dataset import FaceSceneDataset
from lafr_models.detector_model import FaceDetectionModel, radii, targets
from stage_options import learn

CHANNELS, BLOCKS = [4, 6, 8, 8], [1, 1, 1]
DEGRADATION = {"preset": "gfpgan", "downsample_range": [0.8, 2]}
COLOURS = np.array([[255, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255], [0, 0, 255]])  # eyes, nose, mouth: BGR


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three photos of 256 x 256 with a disc on each point of a face."""
    photo = np.full((256, 256, 3), 128, np.uint8)
    for point, colour in zip((FFHQ_POINTS + 0.5) / 2 - 0.5, COLOURS, strict=True):
        cv2.circle(photo, point.round().astype(int).tolist(), 12, colour.tolist(), -1)
    for name in ("a.png", "b.png", "c.png"):
        cv2.imwrite(str(tmp_path / name), photo)
    return tmp_path


def dataset(folder: Path, **changes: object) -> FaceSceneDataset:
    return FaceSceneDataset({"name": "t", "dataroot_gt": str(folder), "degradation": DEGRADATION, **changes})


def points_at(x: float, y: float, radius: float) -> torch.Tensor:
    centre, own = centre_and_radius(FFHQ_POINTS)
    return torch.from_numpy((FFHQ_POINTS - centre) * radius / own + (x, y)).float()


def test_net_output_lies_over_the_photo():
    net = FaceDetectionNet(CHANNELS, BLOCKS).eval()
    with torch.no_grad():
        net.head[1].weight.zero_()
        net.head[1].bias.zero_()
        logits, points = net(torch.rand(2, 3, 32, 48))
    assert logits.shape == (2, 8, 12)
    # Points without an offset are the centres of their cells, which are 4 pixels wide: 1.5 of pixels 0 to 3.
    assert points.shape == (2, 8, 12, 5, 2)
    assert torch.allclose(points[0, 2, 5], torch.tensor([5 * 4 + 1.5, 2 * 4 + 1.5]).expand(5, 2))


def test_net_saves_and_loads(tmp_path: Path):
    net = FaceDetectionNet(CHANNELS, BLOCKS)
    net(torch.rand(4, 3, 32, 32))  # batch norm's statistics move
    net.save_pretrained(tmp_path)
    loaded, x = FaceDetectionNet.from_pretrained(tmp_path), torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        for ours, theirs in zip(net.eval()(x), loaded(x), strict=True):
            assert torch.allclose(ours, theirs, atol=2e-2)  # stored as fp16
    with pytest.raises(ValueError, match="channels"):
        FaceDetectionNet([4, 6, 8], BLOCKS)  # type: ignore[arg-type]


def test_peaks_are_the_highest_of_nine_cells():
    logits = torch.full((2, 6, 6), -9.0)
    logits[0, 2, 3], logits[0, 2, 4], logits[1, 5, 0] = 3.0, 2.0, 1.0
    assert [tuple(int(v) for v in place) for place in zip(*peaks(logits, 0.0), strict=True)] == [(0, 2, 3), (1, 5, 0)]


def test_targets_are_where_the_faces_are():
    faces = torch.zeros(1, 4, 5, 2)
    faces[0, 0], faces[0, 1] = points_at(41, 22, 6), points_at(90, 90, 7)
    faces[0, 2] = points_at(20, 90, RADII[1] * 1.2)  # too large to count, too near that size to be held against it
    wanted = targets(faces, 32, 32)
    assert {(int(y), int(x)) for y, x in (wanted["heat"][0] > 0.99).nonzero()} == {
        (22 // 4, 41 // 4),
        (90 // 4, 90 // 4),
    }
    assert wanted["weight"][0, 90 // 4, 20 // 4] == 0
    assert wanted["weight"][0, 22 // 4, 41 // 4] == 1
    assert wanted["near"][0, 5, 10]
    assert wanted["face"][0, 5, 10] == 0
    assert wanted["face"][0, 22, 22] == 1
    assert not wanted["near"][0, 90 // 4, 20 // 4]
    distance = (cell_centres(32, 32) - faces[0, 0].mean(0)).norm(dim=-1)
    assert distance[wanted["near"][0] & (wanted["face"][0] == 0)].max() < 6


def test_a_face_beyond_the_scene_is_not_asked_for():
    faces = torch.zeros(1, 2, 5, 2)
    faces[0, 0], faces[0, 1] = points_at(-3, 60, 6), points_at(2, 20, 6)
    heat = targets(faces, 32, 32)["heat"][0]
    assert (heat > 0.99).nonzero().tolist() == [[5, 0]]


def test_scenes_are_a_function_of_seed_index_and_draw(folder: Path):
    first, second, other = dataset(folder), dataset(folder), dataset(folder, seed=1)
    assert torch.equal(first[1]["lq"], second[1]["lq"])
    assert torch.equal(first[1]["points"], second[1]["points"])
    assert not torch.equal(first[1]["lq"], other[1]["lq"])
    assert first[0]["lq"].shape == (3, 128, 128)


def test_scenes_labels_mark_the_same_spots_of_the_faces(folder: Path):
    """Turned, mirrored and scaled, a disc drawn at each point of a face is found under its label."""
    scenes = dataset(folder, degraded_ratio=0, empty_ratio=0, items_per_photo=20, face_radius=[8, 14])
    hits, angles = [], []
    for index in range(len(scenes)):
        item = scenes[index]
        picture = item["lq"].permute(1, 2, 0).numpy()[..., ::-1]
        for points in item["points"].double().numpy():
            if not points.any():
                continue
            angles.append(tilt(points))
            x, y = points.round().astype(int).T
            inside = (x > 1) & (x < 126) & (y > 1) & (y < 126)
            seen = picture[y.clip(0, 127), x.clip(0, 127)]
            # Light changes colours: the channel that is strongest stays, unless all are grey.
            hits += list((seen.argmax(axis=1) == COLOURS.argmax(axis=1))[inside & (np.ptp(seen, axis=1) > 0.1)])
    assert len(hits) > 100
    assert np.mean(hits) > 0.85  # the rest is covered by other faces, parts and blocks
    assert np.ptp(angles) > 300  # at any angle


def test_empty_scenes_have_no_points(folder: Path):
    scenes = dataset(folder, empty_ratio=1, items_per_photo=4)
    assert not any(scenes[index]["points"].any() for index in range(len(scenes)))
    assert all(torch.isfinite(scenes[index]["lq"]).all() for index in range(len(scenes)))


def test_backgrounds_and_sizes_that_cannot_be_are_named(folder: Path, tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="backgrounds: .*absent is not a folder"):
        dataset(folder, backgrounds=str(tmp_path / "absent"))
    with pytest.raises(ValueError, match="image_size: 100 must be a multiple of 16"):
        dataset(folder, image_size=100)
    assert len(dataset(folder, backgrounds=str(folder))._grounds) == len(dataset(folder)._grounds) + 3


def test_model_learns_and_exports(tmp_path: Path, folder: Path):
    model = FaceDetectionModel(
        {
            "name": "t",
            "num_gpu": 0,
            "is_train": True,
            "dist": False,
            "rank": 0,
            "world_size": 1,
            "model_type": "FaceDetectionModel",
            "manual_seed": 0,
            "network_g": {"type": "FaceDetectionNet", "channels": CHANNELS, "blocks": BLOCKS},
            "path": {"experiments_root": str(tmp_path), "models": str(tmp_path), "training_states": str(tmp_path)},
            "train": {
                "total_iter": 20,
                "optim_g": {"type": "Adam", "lr": 1e-2},
                "heat_weight": 1,
                "points_weight": 1,
            },
        }
    )
    scenes = dataset(folder, image_size=64, empty_ratio=0, face_radius=[4, 8])
    batch = torch.utils.data.default_collate([scenes[i] for i in range(3)])
    history = learn(model, batch, 20)
    assert history[-1] < 0.7 * history[0]
    model.nondist_validation(torch.utils.data.DataLoader(scenes), 20, None, False)
    assert set(model.metric_results) == {"found", "false", "nme"}
    model.save(0, -1)
    exported = FaceDetectionNet.from_pretrained(tmp_path / "detector")
    with torch.no_grad():
        assert torch.allclose(exported(batch["lq"])[0], model.bare_g.eval()(batch["lq"])[0], atol=5e-2)


def test_a_perfect_answer_costs_little_and_empty_scenes_no_points(tmp_path: Path):
    faces = torch.zeros(1, 2, 5, 2)
    faces[0, 0] = points_at(41, 22, 6)
    wanted = targets(faces, 16, 16)
    assert radii(faces)[0].tolist() == pytest.approx([6, 0], abs=1e-3)
    model = object.__new__(FaceDetectionModel)
    model.heat_weight, model.points_weight, model.device = 1.0, 1.0, torch.device("cpu")
    logits = torch.where(wanted["heat"] > 0.99, 9.0, -9.0)
    points = faces[:, :1, None].expand(1, 16, 16, 5, 2)
    answer = {"lq": torch.zeros(1, 3, 64, 64), "points": faces}
    model.net_g = lambda lq: (logits, points)
    right = model.losses(answer, 1)
    assert right["l_heat"] < 1e-3
    assert right["l_points"] < 1e-5
    model.net_g = lambda lq: (-logits, points + STRIDE)
    wrong = model.losses(answer, 1)
    assert wrong["l_heat"] > 10
    assert wrong["l_points"] == pytest.approx(STRIDE / 6, rel=1e-3)
    assert model.losses({**answer, "points": torch.zeros_like(faces)}, 1)["l_points"] == 0
