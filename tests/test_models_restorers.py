"""GFPGAN, CodeFormer and RestoreFormer trained here: what trains, their losses, exact resuming, their folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("spandrel")

from lafr.networks import load_network
from lafr_arch.codeformer_arch import CodeFormerRestorer
from lafr_arch.component_arch import FaceComponentCritics, gram
from lafr_arch.gfpgan_arch import GFPGANRestorer
from lafr_arch.restoreformer_arch import RestoreFormerRestorer
from lafr_arch.restorer_base import load_restorer, load_start
from lafr_arch.vq_autoencoder_arch import Quantizer, VQAutoencoder
from lafr_base.geometry import FFHQ_POINTS
from stage_options import PIXEL, batch, build, changed, options, snapshot, step

CODES = {"image_size": 32, "ch": 32, "ch_mult": [1, 2], "num_res_blocks": 1, "codes": 8, "code_dim": 8, "heads": 2}
FORMER = {**CODES, "layers": 1, "width": 16}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def vq_weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A trained stage 1, as its run leaves it."""
    root = tmp_path_factory.mktemp("vq")
    model = build(run_options(root, {"type": "VQAutoencoder", **CODES}))
    step(model, 1)
    model.save(-1, -1)
    return str(root / "models/net_g_latest.pth")


def run_options(root: Path, network: dict[str, Any], components: bool = False, **train: Any) -> dict[str, Any]:
    critics = {"optim_d": {"type": "Adam", "lr": 1e-3}, "gan_opt": {"type": "PatchAdversarialLoss"}}
    opt = options(root, "RestorerModel", network, **{"pixel_opt": PIXEL, **critics, **train})
    opt["network_d"] = {"type": "PatchDiscriminator", "width": 4}
    if components:
        opt["network_components"] = {"type": "FaceComponentCritics", "width": 4}
        opt["train"]["optim_components"] = {"type": "Adam", "lr": 1e-3}
    return opt


def kinds(vq_weights: str) -> dict[str, dict[str, Any]]:
    gfpgan = {"image_size": 32, "narrow": 1 / 32, "channel_multiplier": 1, "num_style_feat": 8, "num_mlp": 1}
    return {
        "GFPGANRestorer": gfpgan,
        "VQAutoencoder": CODES,
        "CodeFormerRestorer": {**FORMER, "vq_weights": vq_weights, "fuse_sizes": [32]},
        "RestoreFormerRestorer": {**CODES, "vq_weights": vq_weights},
    }


OWN = {
    "GFPGANRestorer": {"l_pyramid"},
    "VQAutoencoder": {"l_codes", "l_commitment"},
    "CodeFormerRestorer": {"l_code", "l_feature_code"},
    "RestoreFormerRestorer": {"l_commitment"},
}


def resumed(opt: dict[str, Any], current_iter: int) -> Any:
    """A model that goes on from a saved state, as the launcher does it."""
    models = Path(opt["path"]["models"])
    names = [key.removeprefix("network_") for key in opt if key.startswith("network_")]
    pretrained = {f"pretrain_network_{n}": str(models / f"net_{n}_{current_iter}.pth") for n in names}
    model = build(opt | {"path": opt["path"] | pretrained})
    model.resume_training(torch.load(models.parent / f"training_states/{current_iter}.state", weights_only=True))
    return model


@pytest.mark.parametrize("kind", list(OWN))
def test_what_trains_resumes_exactly_and_stands_in_a_comparison(tmp_path: Path, vq_weights: str, kind: str):
    network = {"type": kind, **kinds(vq_weights)[kind]}
    opt = run_options(tmp_path, network, components=kind == "RestoreFormerRestorer", ema_decay=0.5, r1_weight=1.0)
    opt["train"]["r1_every"] = 2
    model = build(opt)
    start = snapshot(model.net_g)
    assert OWN[kind] | {"l_pixel", "l_gan", "l_discriminator"} <= set(step(model, 1))
    assert "l_r1" in step(model, 2)
    moved = changed(model.net_g, start)
    assert moved
    if kind in ("CodeFormerRestorer", "RestoreFormerRestorer"):  # the dictionary stays, and CodeFormer's decoder
        kept = ("quantize", "teacher", "vq.decoder", "vq.post_quant_conv")
        assert not [name for name in moved if name.removeprefix("model.").startswith((*kept, "vq.quantize"))]
    model.save(0, 2)
    expected = step(model, 3)
    again = resumed(opt, 2)
    assert step(again, 3) == expected
    for name in ("net_g", "net_d", "net_components"):
        if getattr(model, name) is not None:
            state = getattr(again, name).state_dict()
            assert all(torch.equal(state[k], v) for k, v in getattr(model, name).state_dict().items()), name

    model.save(-1, -1)
    with model.averaged(), torch.no_grad():
        restored = model.bare_g.eval()(batch()["lq"])
    for net in (load_restorer(tmp_path / "deployed"), load_network(str(tmp_path / "deployed"), CPU)):
        assert net.image_size == 32
        torch.testing.assert_close(net(batch()["lq"]), restored)


def test_codeformers_stages(tmp_path: Path, vq_weights: str):
    second = {"type": "CodeFormerRestorer", **FORMER, "stage": 2, "vq_weights": vq_weights}
    opt = options(tmp_path, "RestorerModel", second)
    model = build(opt)
    assert set(step(model, 1)) == {"l_code", "l_feature_code"}
    model.save(-1, -1)
    with pytest.raises(ValueError, match="pixel_opt: stage 2 of CodeFormer makes no images"):
        build(options(tmp_path, "RestorerModel", second, pixel_opt=PIXEL))
    start = str(tmp_path / "models/net_g_latest.pth")
    net = CodeFormerRestorer(**FORMER, stage=3, vq_weights=vq_weights, start=start, fuse_sizes=[32])
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in model.checkpoint()["params"].items())
    vq = VQAutoencoder(**CODES)
    load_start(vq, vq_weights, "vq_weights")
    assert all(torch.equal(a, b) for a, b in zip(vq.encoder.parameters(), net.teacher[0].parameters(), strict=True))
    # The weight is CodeFormer's: at 0 the encoder's maps have no part.
    lq = batch()["lq"]
    with torch.no_grad():
        zero, one = net.eval()(lq, weight=0.0), net(lq, weight=1.0)
        for transformation in net.fuse.values():
            torch.nn.init.zeros_(transformation.scale.weight)
            torch.nn.init.zeros_(transformation.shift.weight)
            torch.nn.init.zeros_(transformation.scale.bias)
            torch.nn.init.zeros_(transformation.shift.bias)
        torch.testing.assert_close(net(lq, weight=1.0), zero)
    assert not torch.equal(zero, one)


def test_the_codes_of_the_original_cost_nothing(vq_weights: str):
    net = CodeFormerRestorer(**FORMER, stage=2, vq_weights=vq_weights).eval()
    gt = batch()["gt"]
    with torch.no_grad():
        features, _ = net.vq.encode(gt)
        indices = net.vq.quantize.nearest(features)
        logits = 100 * torch.nn.functional.one_hot(indices.flatten(1), CODES["codes"]).float()
        losses = net._code_losses(net.vq.quantize.codes_of(indices), logits, gt)
    assert losses["l_code"].item() == pytest.approx(0, abs=1e-6)
    assert losses["l_feature_code"].item() == pytest.approx(0, abs=1e-10)


def test_nearest_codes_and_their_gradients():
    quantizer = Quantizer(5, 3).eval()
    z = torch.randn(2, 3, 4, 4, requires_grad=True)
    codes, of_codes, of_vectors = quantizer(z)
    distances = (z.permute(0, 2, 3, 1)[..., None, :] - quantizer.codes).norm(dim=-1)
    torch.testing.assert_close(codes, quantizer.codes[distances.argmin(-1)].permute(0, 3, 1, 2))
    assert of_codes.item() == pytest.approx(of_vectors.item())
    (gradient,) = torch.autograd.grad(codes.sum(), z, retain_graph=True)
    torch.testing.assert_close(gradient, torch.ones_like(z))  # straight through
    assert torch.autograd.grad(of_codes, z, allow_unused=True, retain_graph=True) == (None,)
    assert torch.autograd.grad(of_vectors, quantizer.codes, allow_unused=True) == (None,)


def test_idle_codes_move_onto_the_batch():
    quantizer = Quantizer(16, 2, patience=3).train()
    z = torch.randn(4, 2, 8, 8)
    quantizer(z)  # they start there
    assert len(quantizer.nearest(z).unique()) > 8
    with torch.no_grad():
        quantizer.codes[3:] = 1e3
    for _ in range(3):
        quantizer(z)
        assert len(quantizer.nearest(z).unique()) <= 3
    quantizer(z)
    assert len(quantizer.nearest(z).unique()) > 8


def test_restoreformer_starts_as_its_dictionary(vq_weights: str):
    net, vq = RestoreFormerRestorer(**CODES, vq_weights=vq_weights), VQAutoencoder(**CODES)
    load_start(vq, vq_weights, "vq_weights")
    assert torch.equal(net.model.quantize.embedding.weight, vq.quantize.codes)
    assert torch.equal(net.model.encoder.conv_in.weight, vq.encoder.conv_in.weight)
    with pytest.raises(ValueError, match=r"vq_weights: .* does not fit VQAutoencoder: "):
        RestoreFormerRestorer(**{**CODES, "codes": 9}, vq_weights=vq_weights)


def test_gfpgans_pyramid():
    net = GFPGANRestorer(image_size=32, narrow=1 / 32, channel_multiplier=1, num_style_feat=8, num_mlp=1)
    gt = batch()["gt"]
    sizes = [8, 16, 32]
    perfect = [
        2 * torch.nn.functional.interpolate(gt, size=size, mode="bilinear", antialias=True) - 1 for size in sizes
    ]
    assert net._pyramid_loss(perfect, gt)["l_pyramid"].item() == pytest.approx(0, abs=1e-6)
    assert net._pyramid_loss([rgb + 0.2 for rgb in perfect], gt)["l_pyramid"].item() == pytest.approx(0.3, rel=1e-4)
    with pytest.raises(ValueError, match="image_size: 48 must be a power of 2"):
        GFPGANRestorer(image_size=48)


def test_eyes_and_mouth_are_cut_at_their_places():
    image = torch.zeros(1, 3, 512, 512)
    marks = [FFHQ_POINTS[0], FFHQ_POINTS[1], (FFHQ_POINTS[3] + FFHQ_POINTS[4]) / 2]
    for x, y in marks:
        image[..., round(float(y)), round(float(x))] = 1
    parts = FaceComponentCritics.cut(image)
    for part, side in zip(parts.values(), (112, 112, 120), strict=True):
        assert part.shape[-2:] == (side, side)
        y, x = (part[0, 0] == 1).nonzero()[0].tolist()
        assert max(abs(y - side / 2), abs(x - side / 2)) <= 1
    maps = torch.randn(2, 3, 4, 5)
    expected = torch.einsum("bchw,bdhw->bcd", maps, maps) / (3 * 4 * 5)
    torch.testing.assert_close(gram(maps), expected)
