"""OSEDiff: its distillation is the published formula, it trains what it should, resumes exactly and is deployed."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from torch import Tensor

import lafr
from base_models import SD_IMAGE_SIZE, assert_close_in_range, write_mini_prior, write_stable_diffusion
from lafr_arch.network_g_arch import build_lafr

lafr.register()

from lafr.networks import load_network  # noqa: E402 - after BasicSR can be imported
from lafr_arch.base_configs import base_configs  # noqa: E402
from lafr_arch.base_model import VAE_CLASSES, encode_prompt  # noqa: E402
from lafr_arch.lafr_arch import LAFRNet  # noqa: E402
from lafr_arch.lora import add_encoder_lora, add_lora, merge_lora  # noqa: E402
from lafr_arch.sizes import network_sizes  # noqa: E402
from lafr_arch.vsd_arch import ScoreDistillation  # noqa: E402
from lafr_models.image_losses import ImageLosses  # noqa: E402
from lafr_models.options import load_yaml  # noqa: E402
from lafr_models.startup import required_weights  # noqa: E402
from stage_options import Loader, batch, build, changed, options, snapshot, step  # noqa: E402
from tiny_weights import write_3ddfa  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
LORA = {"rank": 2, "targets": "all"}


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Tiny Stable Diffusions, by prediction type, and a tiny mini prior."""
    folder = tmp_path_factory.mktemp("bases")
    kinds = ("epsilon", "v_prediction")
    return {
        **{kind: str(write_stable_diffusion(folder / kind, kind)) for kind in kinds},
        "mini": str(write_mini_prior(folder / "mini")),
    }


def distillation(base: str, **arguments: Any) -> ScoreDistillation:
    """A ScoreDistillation whose second model differs from the first."""
    net = ScoreDistillation(base, lora=LORA, **arguments)
    torch.manual_seed(5)
    for name, parameter in net.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.2)
    return net


def latents(base: str) -> Tensor:
    config = UNet2DConditionModel.load_config(base, subfolder="unet")
    generator = torch.Generator().manual_seed(2)
    return torch.randn(3, config["in_channels"], config["sample_size"], config["sample_size"], generator=generator)


@torch.no_grad()
def clean(unet: Any, base: str, noisy: Tensor, steps: Tensor, prompts: dict[str | None, float]) -> Tensor:
    """Clean latents by diffusers' own scheduler, from the sum of predictions for prompts, each with its factor."""
    scheduler = DDPMScheduler.from_pretrained(base, subfolder="scheduler")
    width = unet.config.cross_attention_dim
    prediction = torch.zeros_like(noisy)
    for prompt, factor in prompts.items():
        text = encode_prompt(base, prompt, width).expand(len(noisy), -1, -1)
        prediction += factor * unet(noisy, steps, encoder_hidden_states=text).sample
    parts = [
        scheduler.step(prediction[i : i + 1], int(t), noisy[i : i + 1]).pred_original_sample
        for i, t in enumerate(steps)
    ]
    return torch.cat(parts)


@pytest.mark.parametrize(("kind", "guidance"), [("epsilon", 7.5), ("v_prediction", 7.5), ("mini", 1.0)])
def test_gradient_of_the_distillation(bases: dict[str, str], kind: str, guidance: float):
    base = bases[kind]
    prompt, negative = ("a face", "painting") if guidance != 1 else (None, None)
    net = distillation(base, prompt=prompt, negative_prompt=negative, guidance=guidance)
    latent = latents(base).requires_grad_()
    torch.manual_seed(3)
    net.distillation_loss(latent).backward()

    torch.manual_seed(3)
    steps = torch.randint(20, 980, (3,))
    scheduler = DDPMScheduler.from_pretrained(base, subfolder="scheduler")
    noisy = scheduler.add_noise(latent.detach(), torch.randn_like(latent), steps)
    natural_unet = UNet2DConditionModel.from_pretrained(base, subfolder="unet")
    guided = {prompt: guidance, negative: 1 - guidance} if guidance != 1 else {prompt: 1.0}
    natural = clean(natural_unet, base, noisy, steps, guided)
    merge_lora(net.restored)
    restored = clean(net.restored, base, noisy, steps, {prompt: 1.0})
    weight = (latent.detach() - natural).abs().mean(dim=(1, 2, 3), keepdim=True)
    expected = 2 * (restored - natural) / weight / latent.numel()
    assert expected.abs().max() > 1e-5
    assert_close_in_range(latent.grad, expected, 1e-3)
    assert all(p.grad is None for p in net.parameters())


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_the_second_models_own_loss(bases: dict[str, str], kind: str):
    base = bases[kind]
    net = distillation(base, prompt="a face")
    latent = latents(base).requires_grad_()
    torch.manual_seed(4)
    loss = net(latent)
    loss.backward()
    assert latent.grad is None
    assert {name for name, p in net.named_parameters() if p.grad is not None} == {
        name for name, p in net.named_parameters() if p.requires_grad
    }
    torch.manual_seed(4)
    steps = torch.randint(0, 1000, (3,))
    noise = torch.randn_like(latent)
    scheduler = DDPMScheduler.from_pretrained(base, subfolder="scheduler")
    noisy = scheduler.add_noise(latent.detach(), noise, steps)
    target = noise if kind == "epsilon" else scheduler.get_velocity(latent.detach(), noise, steps)
    text = encode_prompt(base, "a face", 16).expand(3, -1, -1)
    with torch.no_grad():
        prediction = net.restored(noisy, steps, encoder_hidden_states=text).sample
    torch.testing.assert_close(loss.detach(), ((prediction - target) ** 2).mean(), rtol=1e-4, atol=0)


def test_both_models_share_the_frozen_weights(bases: dict[str, str]):
    net = ScoreDistillation(bases["epsilon"], "a face", lora=LORA)
    natural = {id(p) for p in net.natural.parameters()}
    own = [p for p in net.restored.parameters() if id(p) not in natural]
    assert own == [p for p in net.parameters() if p.requires_grad]
    assert len(natural) + len(own) == len(list(net.restored.parameters()))
    # Before training the two agree: without guidance there is nothing to distil.
    assert net.distillation_loss(latents(bases["epsilon"])).item() == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"guidance": 7.5}, "guidance: 7.5 needs a negative_prompt"),
        ({"min_timestep": 980, "max_timestep": 20}, "not in 0..1000"),
        ({"max_timestep": 1001}, "not in 0..1000"),
    ],
)
def test_options_that_cannot_be_used(bases: dict[str, str], arguments: dict[str, Any], said: str):
    with pytest.raises(ValueError, match=said):
        ScoreDistillation(bases["epsilon"], **arguments)


# ---- sizes --------------------------------------------------------------------------------------------------------


def test_sizes_of_stable_diffusion_2_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("LAFR_WEIGHTS", "HF_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    network = load_yaml(ROOT / "options/osediff.yml")["network_g"]
    sizes = network_sizes(network)
    assert (sizes["lora"], sizes["vae_lora"], sizes["adapter"]) == (4_055_712, 369_356, 0)
    conv_in = 320 * 4 * 3 * 3 + 320
    assert sizes["trainable"] == 4_055_712 + 369_356 + conv_in
    configs = base_configs(network["base_model"])
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(configs.unet)
        vae = VAE_CLASSES["AutoencoderKL"].from_config({k: v for k, v in configs.vae.items() if k != "_class_name"})
        assert add_lora(unet, **network["lora"]) == 258
        assert add_encoder_lora(vae, **network["vae_lora"]) == 32
    assert sum(p.numel() for p in unet.parameters() if p.requires_grad) == 4_055_712 + conv_in
    trained = [name for name, p in vae.named_parameters() if p.requires_grad]
    assert {name.split(".")[0] for name in trained} == {"encoder", "quant_conv"}


# ---- training -----------------------------------------------------------------------------------------------------


def opt_of(root: Path, option_file: str, base: str, **train: Any) -> dict[str, Any]:
    """An option file's run, on a tiny base model, without LPIPS (whose net is not small)."""
    given = load_yaml(ROOT / "options" / option_file)
    opt = options(root, given["model_type"], {**given["network_g"], "base_model": base})
    opt["network_g"].pop("image_size", None)
    opt["network_vsd"] = given["network_vsd"]
    opt["train"] = {**given["train"], "perceptual_opt": None, "total_iter": 8, **train}
    return opt


FAST = {"optim_g": {"type": "AdamW", "lr": 1e-2}, "optim_vsd": {"type": "AdamW", "lr": 1e-2}}


def resumed(opt: dict[str, Any], current_iter: int) -> Any:
    """A model that goes on from a saved state, as the launcher does it."""
    models = Path(opt["path"]["models"])
    pretrained = {f"pretrain_network_{n}": str(models / f"net_{n}_{current_iter}.pth") for n in ("g", "vsd")}
    model = build(opt | {"path": opt["path"] | pretrained})
    state = torch.load(Path(opt["path"]["training_states"]) / f"{current_iter}.state", weights_only=True)
    model.resume_training(state)
    return model


def test_what_trains_resumes_and_is_deployed(tmp_path: Path, bases: dict[str, str]):
    opt = opt_of(tmp_path, "osediff.yml", bases["epsilon"], **FAST)
    model = build(opt)
    nets = {"g": model.net_g, "vsd": model.net_vsd}
    before = {name: snapshot(net) for name, net in nets.items()}
    data = batch(2, SD_IMAGE_SIZE)
    logs = [step(model, i, data) for i in (1, 2)]
    assert set(logs[0]) == {"l_pixel", "l_vsd", "l_vsd_lora"}
    assert all(math.isfinite(value) for log in logs for value in log.values())
    for name, net in nets.items():
        trained = {key for key, p in net.named_parameters() if p.requires_grad}
        # The smallest map has one position, so that its self-attention's weights are 1 whatever query and key are.
        idle = {key for key in trained if "mid_block" in key and ("attn1.to_q" in key or "attn1.to_k" in key)}
        assert idle < trained
        assert trained - idle <= changed(net, before[name]) <= trained
    trained = {key for key, p in model.net_g.named_parameters() if p.requires_grad}
    own = {key for key in trained if "lora_" not in key}
    assert own == {"unet.unet.conv_in.base_layer.weight", "unet.unet.conv_in.base_layer.bias"}
    assert any(key.startswith("vae.encoder.") for key in trained)
    assert not any(key.startswith(("vae.decoder.", "vae.post_quant_conv.")) for key in trained)
    assert all("lora_" in key for key, p in model.net_vsd.named_parameters() if p.requires_grad)

    model.save(0, 2)
    expected = step(model, 3, data)
    again = resumed(opt, 2)
    assert step(again, 3, data) == expected
    for name, net in nets.items():
        state = getattr(again, f"net_{name}").state_dict()
        assert all(torch.equal(state[key], value) for key, value in net.state_dict().items())

    model.save(-1, -1)
    files = {p.name for p in (tmp_path / "models").iterdir()}
    assert files == {"net_g_2.pth", "net_vsd_2.pth", "net_g_latest.pth", "net_vsd_latest.pth"}
    deployed = LAFRNet.from_pretrained(tmp_path / "deployed")
    assert not any("lora" in name for name in deployed.state_dict())
    with torch.no_grad():
        restored = model.net_g.eval()(data["lq"])
        assert_close_in_range(deployed(data["lq"]), restored)
        baseline = load_network(f"osediff:{tmp_path / 'deployed'}", torch.device("cpu"))
        assert_close_in_range(baseline(data["lq"]), restored)
    assert baseline.weight_means == "none"  # nothing is mixed into a baseline's result


def test_neither_losses_reach_the_others_parameters(tmp_path: Path, bases: dict[str, str]):
    model = build(opt_of(tmp_path, "osediff.yml", bases["epsilon"], **FAST))
    for module in (model.net_g, model.net_vsd):
        for name, p in module.named_parameters():
            if "lora_B" in name:
                p.data.normal_(0, 0.1)
    data = batch(2, SD_IMAGE_SIZE)
    losses = model.losses(data, 1)

    def reached(*names: str) -> set[str]:
        for net in (model.net_g, model.net_vsd):
            net.zero_grad(set_to_none=True)
        torch.stack([losses[name] for name in names]).sum().backward(retain_graph=True)
        parts = {"g": model.net_g, "vsd": model.net_vsd}
        return {n for n, net in parts.items() if any(p.grad is not None for p in net.parameters())}

    assert reached("l_pixel", "l_vsd") == {"g"}
    assert all(p.grad is not None for p in model.net_g.parameters() if p.requires_grad)
    assert reached("l_vsd_lora") == {"vsd"}


def test_weights_of_the_losses(tmp_path: Path, bases: dict[str, str]):
    data = batch(2, SD_IMAGE_SIZE)
    model = build(opt_of(tmp_path, "osediff.yml", bases["epsilon"], vsd_weight=3, vsd_lora_weight=2))
    torch.manual_seed(6)
    losses = model.losses(data, 1)
    torch.manual_seed(6)
    latent = model.net_g(data["lq"], output="restored")
    torch.testing.assert_close(losses["l_vsd"], 3 * model.net_vsd.distillation_loss(latent))
    torch.testing.assert_close(losses["l_vsd_lora"], 2 * model.net_vsd(latent))
    # The original's MSE is of images in [-1, 1].
    error = (2 * model.output - 2 * data["gt"]).square().mean()
    torch.testing.assert_close(losses["l_pixel"], error)


def test_mini_option_file(tmp_path: Path, bases: dict[str, str]):
    opt = opt_of(tmp_path, "mini/osediff.yml", bases["mini"])
    opt["train"]["feature_opt"] = {**opt["train"]["feature_opt"], "path": str(write_3ddfa(tmp_path / "3ddfa.pth"))}
    opt["network_g"] = {**opt["network_g"], "lora": {**opt["network_g"]["lora"], "rank": 2}, "vae_lora": {"rank": 2}}
    model = build(opt)
    logs = [step(model, i) for i in (1, 2)]
    assert set(logs[0]) == {"l_pixel", "l_feature", "l_vsd", "l_vsd_lora"}
    assert logs[0]["l_vsd"] == pytest.approx(0, abs=1e-6)  # there is no guidance, so the two models still agree
    assert logs[1]["l_vsd"] > 1e-8
    model.nondist_validation(Loader(), 2, None, False)
    assert math.isfinite(model.metric_results["psnr"])
    model.save(-1, -1)
    assert LAFRNet.from_pretrained(tmp_path / "deployed").alignment is None


def test_the_papers_settings():
    opt = load_yaml(ROOT / "options/osediff.yml")
    train, vsd = opt["train"], opt["network_vsd"]
    for key in ("optim_g", "optim_vsd"):
        assert (train[key]["type"], train[key]["lr"]) == ("AdamW", 5e-5)
    assert opt["datasets"]["train"]["batch_size_per_gpu"] == 4
    assert (vsd["guidance"], vsd["min_timestep"], vsd["max_timestep"]) == (7.5, 20, 980)
    assert (train["perceptual_opt"]["net"], train["perceptual_opt"]["loss_weight"]) == ("vgg", 2)
    assert required_weights(opt)[:2] == [opt["network_g"]["base_model"], "vgg16"]


def test_lafr_and_osediff_weigh_the_same_pair_alike():
    """Both weigh OSEDiff's MSE, on images in [-1, 1], by 1 and LPIPS by 2; LPIPS runs here on a random backbone."""
    data = batch()
    expected = torch.nn.functional.mse_loss(2 * data["lq"] - 1, 2 * data["gt"] - 1)
    values = []
    for name in ("lafr_unet", "osediff"):
        train = load_yaml(ROOT / f"options/{name}.yml")["train"]
        terms = {key: train[key] for key in ("pixel_opt", "perceptual_opt")}
        terms["perceptual_opt"] = terms["perceptual_opt"] | {"random_backbone": True}
        torch.manual_seed(0)
        values.append(ImageLosses(terms)(data["lq"], data["gt"]))
        torch.testing.assert_close(values[-1]["l_pixel"], expected)
    assert values[0] == values[1]


def test_what_is_missing_is_said(tmp_path: Path, bases: dict[str, str]):
    opt = opt_of(tmp_path, "osediff.yml", bases["epsilon"])
    with pytest.raises(ValueError, match="network_vsd: is missing"):
        build(opt | {"network_vsd": None})
    adapter = {"type": "LatentAlignmentAdapter", "hidden": 16, "n_codes": 8, "blocks": 1}
    with pytest.raises(ValueError, match="OSEDiff has none"):
        build(opt | {"network_g": {**opt["network_g"], "alignment": adapter}})
    with pytest.raises(ValueError, match="lora: train: no layer is called nothing"):
        build_lafr(bases["epsilon"], lora={**LORA, "train": ["nothing"]})
