"""Stage 2 on parts of faces: which part is decoded, which losses count, and what a fidelity path adds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from base_models import write_mini_prior
from lafr_models.image_training import random_corner
from stage_options import ADAPTER, PIXEL, batch, build, changed, options, snapshot, step


@pytest.fixture(scope="module")
def mini(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_mini_prior(tmp_path_factory.mktemp("mini")))


def lafr_net(base: str, **arguments: Any) -> dict[str, Any]:
    return {"type": "LAFRNet", "base_model": base, "prompt": None, "timestep": 250, **arguments}


def run(model: Any, steps: int) -> None:
    for i in range(steps):
        step(model, i + 1)


def test_losses_on_whole_faces_count_in_every_nth_step(tmp_path: Path, mini: str, monkeypatch: pytest.MonkeyPatch):
    from basicsr.losses.basic_loss import L1Loss, MSELoss

    seen: dict[str, Any] = {}
    for name, loss in (("l1", L1Loss), ("mse", MSELoss)):
        monkeypatch.setattr(loss, "forward", recording(loss.forward, name, seen))
    monkeypatch.setattr(L1Loss, "whole_face", True, raising=False)
    network = lafr_net(mini, train_unet=True)
    losses = {"pixel_opt": PIXEL, "rough_opt": {"type": "MSELoss"}}
    opt = options(tmp_path, "LAFRUNetModel", network, decode_crop=3, whole_face_every=3, **losses)
    model = build(opt)
    for i in range(1, 7):
        seen.clear()
        assert ("l_pixel" in step(model, i)) == (i % 3 == 0)
        assert seen == {"mse": (16, 16), **({"l1": (32, 32)} if i % 3 == 0 else {})}
        assert tuple(model.output.shape[2:]) == (16, 16)


def recording(forward: Any, name: str, seen: dict[str, Any]) -> Any:
    """``forward`` of a loss, which also notes the size of what it was given."""

    def record(loss: Any, pred: torch.Tensor, target: torch.Tensor, **kwargs: Any) -> Any:
        seen[name] = tuple(pred.shape[2:])
        return forward(loss, pred, target, **kwargs)

    return record


def test_fidelity_path_and_decoder_train_and_see_the_cropped_face(
    tmp_path: Path, mini: str, monkeypatch: pytest.MonkeyPatch
):
    network = lafr_net(mini, train_unet=True, fidelity={"widths": [8, 8]}, train_decoder=True, alignment=ADAPTER)
    model = build(options(tmp_path, "LAFRUNetModel", network, pixel_opt=PIXEL, decode_crop=3, ema_decay=0.9))
    before = snapshot(model.net_g)
    run(model, 3)
    moved = {name.split(".")[0] for name in changed(model.net_g, before)}
    assert moved == {"vae", "unet", "fidelity"}
    assert not any(name.startswith("vae.encoder") for name in changed(model.net_g, before))
    data = batch(2, 64)
    with torch.no_grad():
        latent, maps = model.net_g.encode_with_maps(data["lq"])
        torch.nn.init.normal_(model.net_g.fidelity.fusions[1].correction.weight, std=0.1)
        model.decode_crop = 5
        whole = model.net_g.decode(latent, maps)
        for corner, rows, columns in (
            ((2, 1), slice(24, 48), slice(16, 40)),
            ((0, 3), slice(0, 32), slice(32, 64)),  # at the face's own edge nothing is left out
        ):
            monkeypatch.setattr("lafr_models.lafr_unet_model.random_corner", lambda *_, at=corner: at)
            model._decode(latent, maps, data["gt"], 1)
            assert torch.equal(model.target, data["gt"][..., rows, columns])
            part = whole[..., rows, columns]
            assert model.output.shape == part.shape
            inner = slice(10, 14)
            torch.testing.assert_close(model.output[..., inner, inner], part[..., inner, inner], rtol=0.05, atol=0.05)
            if corner[0] == 0:
                torch.testing.assert_close(model.output[..., :4, -4:], part[..., :4, -4:], rtol=0.05, atol=0.05)


def test_alignment_trains_through_the_unet_where_asked(tmp_path: Path, mini: str):
    for asked in (False, True):
        network = lafr_net(mini, train_unet=True, alignment=ADAPTER)
        opt = options(tmp_path, "LAFRUNetModel", network, pixel_opt=PIXEL, train_alignment=asked)
        model = build(opt)
        before = snapshot(model.net_g)
        run(model, 2)
        assert any(name.startswith("alignment.mapping") for name in changed(model.net_g, before)) == asked


def test_corners_fall_on_eyes_and_mouth_as_often_as_asked():
    latent = torch.zeros(1, 8, 64, 64)
    assert random_corner(latent, None) is None
    assert random_corner(latent, 64) is None
    torch.manual_seed(0)
    corners = [random_corner(latent, 12, focus=1.0) for _ in range(60)]
    eyes_and_mouth = [(24, 30), (40, 30), (25, 46), (39, 46)]  # x, y in latent positions
    for top, left in corners:
        assert any(left <= x < left + 12 and top <= y < top + 12 for x, y in eyes_and_mouth)
    anywhere = [random_corner(latent, 12) for _ in range(200)]
    assert 0.02 < sum(top == 0 for top, _ in anywhere) / 200 < 0.12
    assert max(top for top, _ in anywhere) > 46
