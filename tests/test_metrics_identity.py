"""Identity similarity: the crop and, with the real net, that it tells persons apart."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lafr_arch.mobilefacenet_arch import MobileFaceNet
from lafr_data.validation_dataset import ValidationFaceDataset
from lafr_metrics.identity import IdentitySimilarity


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "net.ckpt"
    torch.save({"epoch": 1, "net_state_dict": MobileFaceNet().state_dict()}, path)
    return path


def test_crop_puts_the_points_where_the_net_wants_them(checkpoint: Path):
    grid = (IdentitySimilarity(checkpoint).grid[0] + 1) / 2 * 512
    assert torch.dist(grid[52, 30], torch.tensor([192.98, 239.95])) < 9  # the left eye
    assert torch.dist(grid[92, 63], torch.tensor([313.09, 371.15])) < 9  # the right corner of the mouth


def test_same_image_is_one_and_missing_file_is_named(checkpoint: Path, face_image: torch.Tensor):
    measure = IdentitySimilarity(checkpoint)
    assert measure(face_image, face_image).item() == pytest.approx(1, abs=1e-5)
    assert measure(face_image, face_image.flip(3)).item() < 1 - 1e-6
    with pytest.raises(FileNotFoundError, match="nothing.ckpt"):
        IdentitySimilarity(checkpoint.with_name("nothing.ckpt"))


def test_real_net_tells_persons_apart(shared: Path):
    measure = IdentitySimilarity(shared / "models" / "mobilefacenet_068.ckpt")
    options = {"dataroot_gt": str(shared / "faces" / "val"), "image_size": 256, "n_images": 12}
    pairs = [ValidationFaceDataset(options)[i] for i in range(12)]
    lq, gt = (torch.stack([pair[key] for pair in pairs]) for key in ("lq", "gt"))
    same, others = measure(lq, gt), measure(gt, gt.roll(1, 0))
    assert same.mean() > 0.5 > 0.3 > others.mean()
