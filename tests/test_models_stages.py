"""Each stage trains at tiny size: what should change changes, what is frozen stays bit for bit."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from base_models import SD_IMAGE_SIZE, TINY_MINI_UNET, write_mini_prior, write_mini_vae, write_stable_diffusion
from lafr_arch.autoencoder_arch import MiniAutoencoder
from lafr_arch.base_model import load_base_model
from lafr_arch.codebook import Codebook
from lafr_arch.lafr_arch import LAFRNet
from lafr_arch.network_g_arch import build_lafr
from stage_options import ADAPTER, PIXEL, Loader, batch, build, changed, options, snapshot, step

SCHEDULER = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "clip_sample": False}
CRITIC = {"type": "PatchDiscriminator", "width": 4}
GAN = {"type": "PatchAdversarialLoss", "start_iter": 2, "loss_weight": 0.1}


@pytest.fixture(scope="module")
def mini(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_mini_prior(tmp_path_factory.mktemp("mini")))


def lafr_net(base: str, **arguments: Any) -> dict[str, Any]:
    return {"type": "LAFRNet", "base_model": base, "prompt": None, "timestep": 250, **arguments}


def run(model: Any, steps: int) -> list[dict[str, float]]:
    logs = [step(model, i + 1) for i in range(steps)]
    assert all(math.isfinite(value) for log in logs for value in log.values())
    return logs


# ---- autoencoder --------------------------------------------------------------------------------------------------


def test_autoencoder_stage(tmp_path: Path):
    network = {"type": "MiniAutoencoder", "encoder_widths": (8, 8), "decoder_widths": (8, 8)}
    opt = options(
        tmp_path,
        "AutoencoderModel",
        network,
        pixel_opt=PIXEL,
        kl_weight=0.01,
        latent_noise=0.1,
        gan_opt=GAN,
        optim_d={"type": "Adam", "lr": 1e-3},
        ema_decay=0.9,
    )
    opt["network_d"] = CRITIC
    model = build(opt)
    before, before_d = snapshot(model.net_g), snapshot(model.net_d)
    first = step(model, 1)
    assert set(first) == {"l_pixel", "l_kl"}
    assert not changed(model.net_d, before_d)  # the critic waits for its start
    assert changed(model.net_g, before) == set(before)
    second = step(model, 2)
    assert set(second) == {"l_pixel", "l_kl", "l_gan", "l_discriminator"}
    assert "layers.0.parametrizations.weight.original" in changed(model.net_d, before_d)
    assert all(p.requires_grad for p in model.net_d.parameters())
    # The KL term is that of a unit Gaussian, per latent element: 0.5 (mean^2 + var - 1 - log var).
    data = batch()
    torch.manual_seed(0)
    losses = model.losses(data, 1)
    posterior = model.net_g.encode(2 * data["gt"] - 1).latent_dist
    kl = 0.5 * (posterior.mean**2 + posterior.var - 1 - posterior.logvar).mean()
    torch.testing.assert_close(losses["l_kl"], 0.01 * kl)
    model.save(-1, -1)
    vae = MiniAutoencoder.from_pretrained(tmp_path / "vae")
    assert torch.equal(vae.decoder[0].weight, model.ema.average["decoder.0.weight"])


def test_scaled_latents_have_unit_variance(tmp_path: Path):
    network = {"type": "MiniAutoencoder", "encoder_widths": (8, 8), "decoder_widths": (8, 8)}
    opt = options(tmp_path, "AutoencoderModel", network, pixel_opt=PIXEL, optim_g={"type": "SGD", "lr": 0.0})
    model = build(opt)
    run(model, 2)
    model.save(-1, -1)
    vae = MiniAutoencoder.from_pretrained(tmp_path / "vae")
    latent = vae.encode(2 * batch()["gt"] - 1).latent_dist.mean * vae.config.scaling_factor
    assert latent.square().mean().item() == pytest.approx(1, rel=1e-4)


# ---- prior --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_prior_loss_is_min_snr_of_the_prediction(tmp_path: Path, kind: str):
    network = {
        "type": "LatentPrior",
        "vae": str(write_mini_vae(tmp_path / "vae")),
        "unet": TINY_MINI_UNET,
        "scheduler": {**SCHEDULER, "prediction_type": kind},
    }
    model = build(options(tmp_path, "LatentPriorModel", network, min_snr_gamma=2.0))
    data = batch(3)
    torch.manual_seed(4)
    loss = model.losses(data, 1)["l_denoise"]
    # All three are the same loss: min(SNR, gamma) times the squared error of the clean latent.
    torch.manual_seed(4)
    prior = model.bare_g
    latent = prior.encode(data["gt"])
    steps = torch.randint(1000, (3,))
    noise = torch.randn_like(latent)
    noisy = prior.scheduler.add_noise(latent, noise, steps)
    alpha = prior.scheduler.alphas_cumprod[steps].view(-1, 1, 1, 1)
    with torch.no_grad():
        prediction = prior(noisy, steps)
    clean = {
        "epsilon": (noisy - (1 - alpha).sqrt() * prediction) / alpha.sqrt(),
        "v_prediction": alpha.sqrt() * noisy - (1 - alpha).sqrt() * prediction,
        "sample": prediction,
    }[kind]
    weights = (alpha / (1 - alpha)).clamp(max=2.0)
    torch.testing.assert_close(loss.detach(), (weights * (clean - latent) ** 2).mean(), rtol=1e-3, atol=1e-6)


def test_prior_stage(tmp_path: Path):
    network = {
        "type": "LatentPrior",
        "vae": str(write_mini_vae(tmp_path / "vae")),
        "unet": TINY_MINI_UNET,
        "scheduler": {**SCHEDULER, "prediction_type": "v_prediction"},
    }
    opt = options(tmp_path, "LatentPriorModel", network, ema_decay=0.9)
    opt["val"] |= {"n_samples": 2, "sample_steps": 2}
    model = build(opt)
    before = snapshot(model.net_g)
    run(model, 2)
    assert all(name.startswith("unet.") for name in changed(model.net_g, before))
    assert "unet.conv_in.weight" in changed(model.net_g, before)
    model.nondist_validation(Loader(1), 2, None, save_img=False)
    assert (tmp_path / "visualization/samples/2.png").is_file()
    assert model.net_g.training
    model.save(-1, -1)
    base = load_base_model(str(tmp_path / "base_model"), None, 250)
    assert torch.equal(base.unet.conv_in.weight, model.ema.average["unet.conv_in.weight"])
    assert base.prediction_type == "v_prediction"


# ---- alignment ----------------------------------------------------------------------------------------------------


def align_options(root: Path, mini: str, **train: Any) -> dict[str, Any]:
    network = lafr_net(mini, with_unet=False, alignment=ADAPTER)
    return options(root, "LAFRAlignModel", network, **train)


def test_align_stage(tmp_path: Path, mini: str):
    model = build(align_options(tmp_path, mini, total_iter=30, ema_decay=0.5))
    before = snapshot(model.net_g)
    logs = run(model, 12)
    assert {name.split(".")[0] for name in changed(model.net_g, before)} == {"alignment"}
    assert all(name in changed(model.net_g, before) for name, p in model.net_g.named_parameters() if p.requires_grad)
    assert logs[-1]["l_align"] < 0.9 * logs[0]["l_align"]
    assert {"l_align", "codebook_perplexity", "codebook_used"} == set(logs[0])
    data = batch()
    model.feed_data(data)
    with torch.no_grad():
        expected = (model.net_g(data["lq"], output="aligned") - model.net_g.encode(data["gt"])).abs().mean()
    torch.testing.assert_close(model.losses(data, 12)["l_align"].detach(), expected)


def test_first_step_sets_the_codebook_to_features_of_good_faces(
    tmp_path: Path, mini: str, monkeypatch: pytest.MonkeyPatch
):
    seen: list[Tensor] = []
    original = Codebook.initialise

    def initialise(self: Codebook, features: Tensor, iterations: int = 10) -> None:
        seen.append(features)
        original(self, features, iterations)

    monkeypatch.setattr(Codebook, "initialise", initialise)
    model = build(align_options(tmp_path, mini, accumulate=2))
    adapter = model.net_g.alignment
    with torch.no_grad():
        expected = adapter.extractor(model.net_g.encode(batch()["gt"]))
    run(model, 2)
    assert len(seen) == 1  # once, on the whole batch, though it is cut in two
    torch.testing.assert_close(seen[0], expected)
    path = tmp_path / "net_g.pth"
    torch.save(model.checkpoint(), path)
    opt = align_options(tmp_path, mini)
    opt["path"]["pretrain_network_g"] = str(path)
    run(build(opt), 1)
    assert len(seen) == 1  # a codebook that was loaded is kept


def test_dead_codes_are_reseeded_on_time(tmp_path: Path, mini: str):
    model = build(align_options(tmp_path, mini, reseed_every=3, reseed_until=5, optim_g={"type": "SGD", "lr": 0.0}))
    codebook = model.codebooks[0]
    moved = []
    for i in range(1, 7):
        codebook.usage[0, 2] = 0
        before = codebook.codes.detach().clone()
        step(model, i)
        if i > 1:  # the first step sets all of them
            moved.append((i, (codebook.codes != before).any(-1).nonzero()[:, 1].tolist()))
    assert moved == [(2, []), (3, [2]), (4, []), (5, []), (6, [])]


def test_align_validation_reports_distances(tmp_path: Path, mini: str):
    class Board:
        def __init__(self) -> None:
            self.scalars: dict[str, float] = {}
            self.images: dict[str, Tensor] = {}

        def add_scalar(self, name: str, value: float, _: int) -> None:
            self.scalars[name] = value

        def add_image(self, name: str, value: Tensor, _: int) -> None:
            self.images[name] = value

    model = build(align_options(tmp_path, mini))
    run(model, 1)
    board, loader = Board(), Loader(3)
    model.nondist_validation(loader, 1, board, save_img=False)
    whole = {key: torch.cat([data[key] for data in loader]) for key in ("lq", "gt")}
    net = model.net_g.eval()
    with torch.no_grad():
        lq, hq = net.encode(whole["lq"]), net.encode(whole["gt"])
        expected = {"l1_lq": (lq - hq).abs().mean(), "l1_aligned": (net.align(lq) - hq).abs().mean()}
    for name, value in expected.items():
        assert board.scalars[f"latents/faces_val/{name}"] == pytest.approx(value.item(), rel=1e-4)
    assert {"latents/faces_val/frechet_aligned", "metrics/faces_val/psnr"} < set(board.scalars)
    # Three rows of LQ, result, GT.
    assert board.images["pictures/faces_val"].shape == (3, 3 * 32, 3 * 32)
    assert model.distances is None


def test_align_stage_needs_an_alignment_module(tmp_path: Path, mini: str):
    with pytest.raises(ValueError, match="alignment: stage 1 needs"):
        build(options(tmp_path, "LAFRAlignModel", lafr_net(mini, with_unet=False)))


# ---- UNet ---------------------------------------------------------------------------------------------------------


def unet_options(root: Path, mini: str, **train: Any) -> dict[str, Any]:
    network = lafr_net(mini, alignment=ADAPTER, lora={"rank": 2, "targets": "conv"})
    return options(root, "LAFRUNetModel", network, **{"pixel_opt": PIXEL} | train)


def test_unet_stage(tmp_path: Path, mini: str):
    opt = unet_options(
        tmp_path,
        mini,
        latent_weight=0.1,
        ema_decay=0.5,
        gan_opt=GAN | {"adaptive": True},
        optim_d={"type": "AdamW", "lr": 1e-3},
    )
    opt["network_d"] = CRITIC
    model = build(opt)
    before, before_d = snapshot(model.net_g), snapshot(model.net_d)
    logs = run(model, 3)
    assert set(logs[0]) == {"l_pixel", "l_latent"}
    assert set(logs[1]) == {"l_pixel", "l_latent", "l_gan", "l_discriminator"}
    after = changed(model.net_g, before)
    assert after
    assert all("lora_" in name for name in after)  # adapter, codebook, encoder, decoder stay bit for bit
    assert after == {name for name, p in model.net_g.named_parameters() if p.requires_grad}
    assert changed(model.net_d, before_d)
    assert logs[2]["l_pixel"] < logs[0]["l_pixel"]
    model.save(-1, -1)
    deployed = LAFRNet.from_pretrained(tmp_path / "deployed")
    lq = batch(1)["lq"]
    model.feed_data({"lq": lq})
    model.test()
    torch.testing.assert_close(deployed(lq), model.output, rtol=0, atol=1e-4)
    assert any("lora_" in name for name in model.net_g.state_dict())  # training could go on


def test_whole_unet_stage(tmp_path: Path, mini: str):
    opt = options(tmp_path, "LAFRUNetModel", lafr_net(mini, train_unet=True), pixel_opt=PIXEL)
    model = build(opt)
    before = snapshot(model.net_g)
    run(model, 2)
    assert "unet.conv_in.weight" in changed(model.net_g, before)
    assert all(name.startswith("unet.") for name in changed(model.net_g, before))


def test_unet_stage_goes_on_from_a_deployed_network(tmp_path: Path, mini: str):
    torch.manual_seed(0)
    build_lafr(mini, prompt=None, timestep=250, alignment=ADAPTER).save_pretrained(tmp_path / "before")
    network = {"type": "DeployedLAFRNet", "folder": str(tmp_path / "before"), "lora": {"rank": 2, "targets": "conv"}}
    feature = {"type": "FeatureLoss", "backend": "autoencoder", "path": str(tmp_path / "before"), "loss_weight": 0.1}
    model = build(options(tmp_path, "LAFRUNetModel", network, pixel_opt=PIXEL, feature_opt=feature))
    before = snapshot(model.net_g)
    logs = run(model, 3)
    assert set(logs[0]) == {"l_pixel", "l_feature"}
    assert logs[2]["l_pixel"] < logs[0]["l_pixel"]
    assert changed(model.net_g, before) == {name for name in before if "lora_" in name}
    model.save(-1, -1)
    lq = batch(1)["lq"]
    model.feed_data({"lq": lq})
    model.test()
    torch.testing.assert_close(LAFRNet.from_pretrained(tmp_path / "deployed")(lq), model.output, rtol=0, atol=1e-4)


def test_unet_stage_on_stable_diffusion(tmp_path: Path):
    """The unpruned net with LoRA on everything, checkpointed: OSEDiff's form, deployed as a pruned one."""
    base = str(write_stable_diffusion(tmp_path / "sd"))
    network = {
        "type": "LAFRNet",
        "base_model": base,
        "prune": False,
        "lora": {"rank": 2, "targets": "all"},
        "gradient_checkpointing": True,
    }
    model = build(options(tmp_path, "LAFRUNetModel", network, pixel_opt=PIXEL, optim_g={"type": "AdamW", "lr": 1e-4}))
    before = snapshot(model.net_g)
    data = batch(1, SD_IMAGE_SIZE)
    for i in (1, 2):
        assert math.isfinite(step(model, i, data)["l_pixel"])
    assert all("lora_" in name for name in changed(model.net_g, before))
    model.save(-1, -1)
    deployed = LAFRNet.from_pretrained(tmp_path / "deployed")
    model.feed_data(data)
    model.test()
    torch.testing.assert_close(deployed(data["lq"]), model.output, rtol=0, atol=2e-3)


def test_decoded_crop_is_the_part_of_the_whole(tmp_path: Path, mini: str):
    data = batch(2, 64)
    model = build(unet_options(tmp_path, mini, decode_crop=6))
    latent = model.net_g.encode(data["gt"])
    model._decode(latent, [], data["gt"], 1)
    image, gt = model.output, model.target
    height, width = gt.shape[-2:]
    assert image.shape == gt.shape
    assert {height, width} <= {32, 40, 48}  # 6 latent positions without the outermost, but at the face's edge
    places = [
        (y, x)
        for y in range(0, 65 - height, 8)
        for x in range(0, 65 - width, 8)
        if torch.equal(data["gt"][..., y : y + height, x : x + width], gt)
    ]
    assert len(places) == 1
    (y, x) = places[0]
    whole = model.net_g.decode(latent)[..., y : y + height, x : x + width]
    # Positions two and more from the crop's edge see nothing of what was cut off but through the widest path.
    inner = slice(12, 20)
    torch.testing.assert_close(image[..., inner, inner], whole[..., inner, inner], rtol=0.05, atol=0.05)


def test_crop_of_the_whole_face_is_no_crop(tmp_path: Path, mini: str):
    losses = [step(build(unet_options(tmp_path, mini, decode_crop=side)), 1) for side in (None, 4, 9)]
    assert losses[0] == losses[1] == losses[2]


def test_crops_move(tmp_path: Path, mini: str):
    model = build(unet_options(tmp_path, mini, decode_crop=3, optim_g={"type": "SGD", "lr": 0.0}))
    assert len({step(model, i)["l_pixel"] for i in range(1, 7)}) > 1


def test_losses_on_whole_faces_refuse_crops(tmp_path: Path, mini: str, monkeypatch: pytest.MonkeyPatch):
    from basicsr.losses.basic_loss import L1Loss

    monkeypatch.setattr(L1Loss, "whole_face", True, raising=False)
    with pytest.raises(ValueError, match="decode_crop: pixel need the whole face"):
        build(unet_options(tmp_path, mini, decode_crop=3))
