"""What enlarges the photo around the faces."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from lafr.background import RealESRGANBackground
from test_lafr_restorer import CPU, build, found, photo


class Doubler(nn.Module):
    """A stand-in for Real-ESRGAN that sees one pixel to each side."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert x.shape[-1] % 2 == x.shape[-2] % 2 == 0
        x = nn.functional.avg_pool2d(nn.functional.pad(x, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
        return nn.functional.interpolate(x, scale_factor=2, mode="nearest")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_background_tiles_leave_no_trace(dtype: type):
    image = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (45, 62, 3)).astype(dtype)
    whole = RealESRGANBackground(Doubler(), CPU, tile=0).enhance(image)[0]
    tiled = RealESRGANBackground(Doubler(), CPU, tile=16).enhance(image)[0]
    np.testing.assert_array_equal(tiled[:88], whole[:88])  # the last row of an odd photo is padded
    assert whole.shape == (90, 124, 3)
    mean = image[9:12, 19:22].reshape(9, 3).mean(axis=0)
    np.testing.assert_allclose(whole[20, 40], mean, atol=0.51)
    assert RealESRGANBackground(Doubler(), CPU).enhance(image, outscale=3.5)[0].shape == (158, 217, 3)
    with pytest.raises(ValueError, match="bg_tile"):
        RealESRGANBackground(Doubler(), CPU, tile=-2)


def test_the_background_network_agrees_with_basicsrs(tmp_path: Path):
    rrdbnet = pytest.importorskip("basicsr.archs.rrdbnet_arch", reason="BasicSR is not installed")
    torch.manual_seed(0)
    peers = {scale: rrdbnet.RRDBNet(3, 3, scale, num_feat=16, num_block=2) for scale in (2, 4)}
    for scale, peer in peers.items():
        torch.save({"params_ema": peer.state_dict()}, tmp_path / f"x{scale}.pth")
    image = torch.rand(1, 3, 12, 10)
    with torch.no_grad():
        mine = RealESRGANBackground.from_file(tmp_path / "x2.pth", CPU).network(image)
        torch.testing.assert_close(mine, peers[2](image))
    with pytest.raises(ValueError, match=r"x4\.pth: not the weights .* by 4"):
        RealESRGANBackground.from_file(tmp_path / "x4.pth", CPU)


def test_background_upsampler_is_used_and_faces_go_on_top():
    class Flat:
        def enhance(self, img: np.ndarray, outscale: float | None = None) -> tuple[np.ndarray, None]:
            return np.full((int(img.shape[0] * 4), int(img.shape[1] * 4), 3), 7, np.uint8), None

    whole = build(found(80, 60), bg_upsampler=Flat(), upscale=2).enhance(photo(), weight=0)[2]
    assert whole is not None
    assert whole.shape == (240, 320, 3)
    assert (whole[:20] == 7).all()
    np.testing.assert_allclose(whole[120, 160], 255 - photo()[60, 80].astype(float), atol=3)


def test_realesrgan_weights_of_another_network_are_refused(tmp_path: Path):
    torch.save({"params_ema": {"a": torch.zeros(1)}}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match="not the weights of RealESRGAN_x2plus"):
        RealESRGANBackground.from_file(tmp_path / "x.pth", CPU)
