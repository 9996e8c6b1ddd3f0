"""The identity net, its training data and its training model."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from lafr_arch.identity_arch import FaceIdentityNet, flip_invariant
from lafr_arch.mobilefacenet_arch import MobileFaceNet
from lafr_data.identity_dataset import FaceIdentityDataset
from lafr_metrics.face_metric import separation
from lafr_models.identity_model import FaceIdentityModel
from stage_options import learn

CHANNELS, BLOCKS = [4, 6, 8, 8], [0, 1, 1]


@pytest.fixture
def folder(tmp_path: Path, face_image: torch.Tensor) -> Path:
    """Four different pictures of 256 x 256 made of one face."""
    photo = (face_image[0].permute(1, 2, 0).numpy()[:, :, ::-1] * 255).round().astype(np.uint8)
    for name, picture in {"a": photo, "b": 255 - photo, "c": photo[::-1], "d": photo.swapaxes(0, 1)}.items():
        cv2.imwrite(str(tmp_path / f"{name}.png"), picture)
    return tmp_path


def dataset(folder: Path, **changes: object) -> FaceIdentityDataset:
    options = {"name": "t", "dataroot_gt": str(folder), "image_size": 64, "degradations": ["gfpgan"]}
    return FaceIdentityDataset(options | changes)


def test_embeddings_have_length_1_whatever_the_size(face_image: torch.Tensor):
    net = FaceIdentityNet(CHANNELS, BLOCKS).eval()
    small = F.interpolate(face_image, size=(128, 128), mode="bilinear", antialias=True)
    with torch.no_grad():
        large, little = net(face_image), net(small)
    assert large.shape == (1, 128)
    assert large.norm().item() == pytest.approx(1, abs=1e-5)
    assert (large * little).sum().item() > 0.98


def test_a_face_and_its_mirror_image_have_one_embedding(face_image: torch.Tensor):
    net = FaceIdentityNet(CHANNELS, BLOCKS).eval()
    assert torch.allclose(flip_invariant(net, face_image), flip_invariant(net, face_image.flip(-1)), atol=1e-5)


def test_wrong_widths_are_named():
    with pytest.raises(ValueError, match="channels"):
        FaceIdentityNet([4, 6, 8], BLOCKS)


def test_net_saves_and_loads(tmp_path: Path, face_image: torch.Tensor):
    net = FaceIdentityNet(CHANNELS, BLOCKS)
    net(torch.rand(4, 3, 144, 144))  # batch norm's statistics move
    net.save_pretrained(tmp_path)
    loaded = FaceIdentityNet.from_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.allclose(loaded(face_image), net.eval()(face_image), atol=5e-3)


def test_items_are_a_function_of_seed_and_index(folder: Path):
    first, again, other = dataset(folder)[1], dataset(folder)[1], dataset(folder, seed=1)[1]
    assert torch.equal(first["lq"], again["lq"])
    assert not torch.equal(first["lq"], other["lq"])
    assert torch.equal(first["gt"], other["gt"])
    assert first["lq"].shape == first["gt"].shape == (3, 64, 64)


def test_copies_are_moved_by_no_more_than_asked(folder: Path):
    still = dataset(folder, degraded_ratio=0, max_angle=0, max_shift=0, max_zoom=1)
    gt, lq = still[0]["gt"], still[0]["lq"]
    assert min((lq - gt).abs().max(), (lq.flip(-1) - gt).abs().max()) < 1e-5
    moved = dataset(folder, degraded_ratio=0, max_angle=0, max_shift=0.25, max_zoom=1)
    assert (moved[0]["lq"] - gt).abs().max() > 0.1


def test_unknown_presets_are_named(folder: Path):
    with pytest.raises(ValueError, match="degradations"):
        dataset(folder, degradations="gfpgan")
    with pytest.raises(ValueError, match="nothing_known"):
        dataset(folder, degradations=["nothing_known"])


def test_separation_counts_pairs_above_the_threshold():
    different = torch.linspace(0, 1, 101)
    threshold, found = separation(torch.tensor([0.5, 0.985, 0.995, 2.0]), different, allowed=0.01)
    assert threshold == pytest.approx(0.99)
    assert found == 0.5


def test_model_learns_what_its_teacher_says_and_exports(tmp_path: Path, folder: Path):
    torch.save(MobileFaceNet().state_dict(), tmp_path / "teacher.ckpt")
    model = FaceIdentityModel(
        {
            "name": "t",
            "num_gpu": 0,
            "is_train": True,
            "dist": False,
            "rank": 0,
            "world_size": 1,
            "model_type": "FaceIdentityModel",
            "manual_seed": 0,
            "network_g": {"type": "FaceIdentityNet", "channels": CHANNELS, "blocks": BLOCKS},
            "network_teacher": {"type": "MobileFaceNetFace", "path": str(tmp_path / "teacher.ckpt")},
            "path": {"experiments_root": str(tmp_path), "models": str(tmp_path), "training_states": str(tmp_path)},
            "train": {
                "total_iter": 10,
                "optim_g": {"type": "Adam", "lr": 1e-2},
                "embedding_weight": 1,
                "relation_weight": 0.2,
                "temperature": 0.1,
            },
        }
    )
    samples = dataset(folder, image_size=144)
    batch = torch.utils.data.default_collate([samples[i] for i in range(4)])
    first = model.targets(batch)
    calls = []
    model.teacher.register_forward_hook(lambda *_: calls.append(1))
    assert torch.equal(model.targets(batch), first)
    assert not calls, "each face is shown to the teacher once"
    history = learn(model, batch, 12)
    assert history[-1] < 0.7 * history[0]
    model.nondist_validation(torch.utils.data.DataLoader(samples), 12, None, False)
    assert set(model.metric_results) == {"same", "different", "found"}
    model.save(0, -1)
    exported = FaceIdentityNet.from_pretrained(tmp_path / "identity")
    with torch.no_grad():
        assert torch.allclose(exported(batch["gt"]), model.bare_g.eval()(batch["gt"]), atol=1e-2)
