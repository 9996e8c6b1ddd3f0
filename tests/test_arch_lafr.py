"""LAFRNet and its parts, from a tiny Stable Diffusion and a tiny mini prior, through files and back."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from base_models import (
    MINI_IMAGE_SIZE,
    SCHEDULER,
    SD_IMAGE_SIZE,
    TOKENS,
    assert_close_in_range,
    write_mini_prior,
    write_stable_diffusion,
)
from lafr_arch.autoencoder_arch import MiniAutoencoder
from lafr_arch.base_model import BaseModelError, load_base_model
from lafr_arch.lafr_arch import LAFRNet, predict_sample
from lafr_arch.network_g_arch import build_lafr
from lafr_arch.prior_arch import LatentPrior
from lafr_arch.static_unet import StaticUNet

ADAPTER = {"type": "LatentAlignmentAdapter", "hidden": 16, "n_codes": 8, "blocks": 1}


@pytest.fixture(scope="module")
def sd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_stable_diffusion(tmp_path_factory.mktemp("sd"))


@pytest.fixture(scope="module")
def mini(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mini_prior(tmp_path_factory.mktemp("mini"))


def mini_net(mini: Path, **options: Any) -> LAFRNet:
    torch.manual_seed(2)
    return build_lafr(str(mini), prompt=None, timestep=250, **options)


def randomise(net: nn.Module, part: str) -> None:
    """Give the parameters whose name holds ``part`` random values."""
    for name, parameter in net.named_parameters():
        if part in name:
            parameter.data.normal_(std=0.1)


# ---- prediction ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("t", [0, 250, 999])
def test_predict_sample_inverts_the_forward_process(kind: str, t: int):
    scheduler = DDPMScheduler(**SCHEDULER, prediction_type=kind)
    clean, noise = torch.randn(2, 4, 3, 3).double(), torch.randn(2, 4, 3, 3).double()
    steps = torch.tensor([t, t])
    noisy = scheduler.add_noise(clean, noise, steps)
    velocity = scheduler.get_velocity(clean, noise, steps)
    prediction = {"epsilon": noise, "v_prediction": velocity, "sample": clean}[kind]
    result = predict_sample(noisy, prediction, float(scheduler.alphas_cumprod[t].double()), kind)
    # x0 = 14.6 z - 14.6 eps at t = 999 magnifies the float32 of diffusers' table of betas.
    torch.testing.assert_close(result, clean, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_predict_sample_equals_ddpm_step(kind: str):
    scheduler = DDPMScheduler(**SCHEDULER, prediction_type=kind)
    scheduler.set_timesteps(1000)  # set_timesteps(1) and step(., 999) fail in diffusers 0.42
    latent, prediction = torch.randn(1, 4, 3, 3), torch.randn(1, 4, 3, 3)
    expected = scheduler.step(prediction, 999, latent).pred_original_sample
    result = predict_sample(latent, prediction, float(scheduler.alphas_cumprod[999]), kind)
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-4)


def test_unknown_prediction_types_are_refused():
    with pytest.raises(ValueError, match="'flow' is unknown"):
        predict_sample(torch.zeros(1), torch.zeros(1), 0.5, "flow")


# ---- Stable Diffusion ---------------------------------------------------------------------------------------------


def test_stable_diffusion_step_by_step(sd: Path):
    """The net against the paper's five steps written with diffusers' and transformers' own classes."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    net = build_lafr(str(sd), prompt="face, high quality", timestep=999).eval()
    assert net.image_size == SD_IMAGE_SIZE
    image = torch.rand(2, 3, SD_IMAGE_SIZE, SD_IMAGE_SIZE)
    tokenizer = CLIPTokenizer.from_pretrained(sd / "tokenizer")
    ids = tokenizer("face, high quality", padding="max_length", max_length=TOKENS, return_tensors="pt").input_ids
    start, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    assert ids[0, 0] == start
    assert (ids[0] == end).sum() == 1
    vae = AutoencoderKL.from_pretrained(sd / "vae")
    unet = UNet2DConditionModel.from_pretrained(sd / "unet")
    scheduler = DDPMScheduler.from_pretrained(sd / "scheduler")
    with torch.no_grad():
        text = CLIPTextModel.from_pretrained(sd / "text_encoder")(ids).last_hidden_state
        latent = vae.encode(2 * image - 1).latent_dist.mode() * 0.18215
        noise = unet(latent, 999, encoder_hidden_states=text.expand(2, -1, -1)).sample
        alpha = scheduler.alphas_cumprod[999]
        clean = (latent - (1 - alpha).sqrt() * noise) / alpha.sqrt()
        expected = vae.decode(clean / 0.18215).sample / 2 + 0.5
        assert_close_in_range(net(image, output="restored"), clean)
        assert_close_in_range(net.train()(image), expected)
        assert_close_in_range(net.eval()(image), expected.clamp(0, 1))


def test_the_prompt_counts(sd: Path):
    embeds = [load_base_model(str(sd), prompt, 999).prompt_embeds for prompt in ("face, high quality", "")]
    assert embeds[0].shape == (1, TOKENS, 16)
    assert not torch.allclose(*embeds)


@pytest.mark.parametrize("kind", ["epsilon", "sample"])
def test_pruning_and_deploying_change_nothing(sd: Path, tmp_path: Path, kind: str):
    base = shutil.copytree(sd, tmp_path / "base")
    DDPMScheduler(**SCHEDULER, prediction_type=kind).save_pretrained(base / "scheduler")
    lora = {"rank": 2, "targets": "conv"}
    nets = []
    for prune in (True, False):
        torch.manual_seed(3)
        nets.append(build_lafr(str(base), prune=prune, timestep=400, alignment=ADAPTER, lora=lora).eval())
    full, pruned = nets[1], nets[0]
    randomise(pruned, "lora_")
    randomise(pruned, "alignment")
    state = {name.replace("unet.", "unet.unet.", 1): value for name, value in pruned.state_dict().items()}
    wanted = {name: value for name, value in state.items() if "lora_" in name} | {
        name: value for name, value in pruned.state_dict().items() if "alignment" in name
    }
    assert not full.load_state_dict(wanted, strict=False).unexpected_keys
    image = torch.rand(1, 3, SD_IMAGE_SIZE, SD_IMAGE_SIZE)
    with torch.no_grad():
        expected = full(image, output="restored")
        assert_close_in_range(pruned(image, output="restored"), expected)
        for name, net in (("pruned", pruned), ("full", full)):
            net.save_pretrained(tmp_path / name)
            assert_close_in_range(net(image, output="restored"), expected)  # the net itself stays as it is
            loaded = LAFRNet.from_pretrained(tmp_path / name)
            assert isinstance(loaded.unet, StaticUNet)
            assert_close_in_range(loaded(image, output="restored"), expected)
    assert any("lora_" in name for name in full.state_dict())


# ---- the mini prior -----------------------------------------------------------------------------------------------


def test_shapes_and_clamp(mini: Path):
    net = mini_net(mini, alignment=ADAPTER)
    assert net.image_size == MINI_IMAGE_SIZE
    lq = 3 * torch.rand(2, 3, 32, 48)  # overexposed, so that the output leaves [0, 1]
    assert net(lq, output="aligned").shape == net(lq, output="restored").shape == (2, 8, 4, 6)
    trained = net.train()(lq)
    assert trained.shape == lq.shape
    net.vae.decoder[-2].bias.data.fill_(3)
    trained, restored = net(lq), net.eval()(lq)
    assert trained.max() > 1
    assert restored.max() == 1
    torch.testing.assert_close(restored, net.train()(lq).clamp(0, 1), rtol=0, atol=1e-5)


def test_latents_are_sampled_in_training_only(mini: Path):
    lq = torch.rand(1, 3, 32, 32)
    net = mini_net(mini, with_unet=False, sample_latent=True).train()
    assert not torch.equal(net.encode(lq), net.encode(lq))
    net.eval()
    assert torch.equal(net.encode(lq), net.encode(lq))
    net = mini_net(mini, with_unet=False).train()
    assert torch.equal(net.encode(lq), net.encode(lq))


def test_without_unet(mini: Path):
    net = mini_net(mini, with_unet=False).eval()
    lq = torch.rand(1, 3, 32, 32)
    latent = net.encode(lq)
    assert torch.equal(net(lq, output="restored"), latent)
    torch.testing.assert_close(net(lq), net.decode(latent).clamp(0, 1))
    with pytest.raises(ValueError, match="cannot be deployed"):
        net.deploy()
    with pytest.raises(ValueError, match="leaves nothing for lora"):
        mini_net(mini, with_unet=False, lora={"rank": 2})


@pytest.mark.parametrize("targets", ["conv", "attention", "all"])
def test_only_lora_trains(mini: Path, targets: str):
    net = mini_net(mini, alignment=ADAPTER, lora={"rank": 2, "targets": targets}, gradient_checkpointing=True)
    assert net.alignment is not None
    net.alignment.requires_grad_(False)
    assert all("lora_" in name for name, p in net.named_parameters() if p.requires_grad)
    net.train()(torch.rand(1, 3, 32, 32)).mean().backward()
    # The prompt is one zero token: attention to it gives zero, whatever the query.
    up = [p for name, p in net.named_parameters() if "lora_B" in name and "attn2" not in name]
    assert up
    assert all(p.grad is not None and p.grad.any() for p in up)


def test_whole_unet_trains_on_request(mini: Path):
    net = mini_net(mini, train_unet=True)
    assert all(p.requires_grad for p in net.unet.parameters())
    assert not any(p.requires_grad for p in net.vae.parameters())
    with pytest.raises(ValueError, match="exclude each other"):
        mini_net(mini, train_unet=True, lora={"rank": 2})


def test_stored_in_half_precision(mini: Path, tmp_path: Path):
    net = mini_net(mini, alignment=ADAPTER | {"skip": True}).eval()
    randomise(net, "alignment")
    net.save_pretrained(tmp_path, dtype=torch.float16)
    stored = load_file(tmp_path / "model.safetensors")
    assert {v.dtype for name, v in stored.items() if "codebook" not in name} == {torch.float16}
    assert torch.equal(stored["alignment.codebook.codes"], net.alignment.codebook.codes)
    loaded = LAFRNet.from_pretrained(tmp_path)
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    assert not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())
    lq = torch.rand(2, 3, 32, 32)
    assert_close_in_range(loaded(lq, output="restored"), net(lq, output="restored"), share=5e-3)
    assert (loaded.image_size, loaded.prediction_type) == (net.image_size, net.prediction_type)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


def test_faulty_deployed_folders_are_refused(mini: Path, tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"config\.json does not exist"):
        LAFRNet.from_pretrained(tmp_path / "nothing")
    mini_net(mini).save_pretrained(tmp_path / "net")
    weights = tmp_path / "net" / "model.safetensors"
    state = load_file(weights)
    state.pop("unet.conv_in.weight")
    save_file(state, weights)
    with pytest.raises(ValueError, match=r"model\.safetensors does not fit its config\.json"):
        LAFRNet.from_pretrained(tmp_path / "net")
    weights.unlink()
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors does not exist"):
        LAFRNet.from_pretrained(tmp_path / "net")
    shutil.copytree(mini / "vae", tmp_path / "vae")
    (tmp_path / "vae" / "model.safetensors").touch()
    with pytest.raises(ValueError, match="is not a deployed LAFR network"):
        LAFRNet.from_pretrained(tmp_path / "vae")


# ---- alignment weights --------------------------------------------------------------------------------------------


def prefixed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"alignment.{name}": value for name, value in state.items()}


def test_alignment_weights(mini: Path, tmp_path: Path):
    source = mini_net(mini, with_unet=False, alignment=ADAPTER).alignment
    assert source is not None
    averaged = {name: value + 1 for name, value in source.state_dict().items()}
    path = tmp_path / "net_g_latest.pth"
    torch.save({"params": prefixed(source.state_dict())}, path)
    torch.manual_seed(9)
    net = build_lafr(str(mini), None, with_unet=False, alignment=ADAPTER, alignment_weights=str(path))
    assert net.alignment is not None
    assert all(torch.equal(v, source.state_dict()[k]) for k, v in net.alignment.state_dict().items())
    torch.save({"params": prefixed(source.state_dict()), "params_ema": prefixed(averaged)}, path)
    net = build_lafr(str(mini), None, with_unet=False, alignment=ADAPTER, alignment_weights=str(path))
    assert net.alignment is not None
    assert all(torch.equal(v, averaged[k]) for k, v in net.alignment.state_dict().items())


def test_alignment_weights_that_do_not_fit(mini: Path, tmp_path: Path):
    options = {"with_unet": False, "alignment": ADAPTER}
    path = tmp_path / "net_g_latest.pth"
    with pytest.raises(FileNotFoundError, match="alignment_weights: .* does not exist"):
        mini_net(mini, **options, alignment_weights=str(path))
    torch.save({"params": {"conv.weight": torch.zeros(1)}}, path)
    with pytest.raises(ValueError, match="does not fit `alignment`"):
        mini_net(mini, **options, alignment_weights=str(path))
    wider = mini_net(mini, with_unet=False, alignment=ADAPTER | {"n_codes": 9}).alignment
    assert wider is not None
    torch.save({"params": prefixed(wider.state_dict())}, path)
    with pytest.raises(ValueError, match="does not fit `alignment`"):
        mini_net(mini, **options, alignment_weights=str(path))
    with pytest.raises(ValueError, match="but alignment is not"):
        mini_net(mini, with_unet=False, alignment_weights=str(path))


# ---- faulty base models -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/nowhere/base", "./nowhere", "experiments/mini_prior/base_model"])
def test_missing_base_model(path: str):
    with pytest.raises(BaseModelError, match=f"base_model: .*{path.removeprefix('./')}"):
        build_lafr(path, prompt=None)


def test_hub_names_that_are_not_cached(monkeypatch: pytest.MonkeyPatch):
    # The hub's client reads HF_HUB_OFFLINE once, when it is imported.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(BaseModelError, match="base_model: nobody/nothing"):
        build_lafr("nobody/nothing")


def test_incomplete_base_model(mini: Path, tmp_path: Path):
    shutil.copytree(mini, tmp_path / "base")
    shutil.rmtree(tmp_path / "base" / "scheduler")
    with pytest.raises(BaseModelError, match="lacks the folders scheduler"):
        build_lafr(str(tmp_path / "base"), prompt=None)
    shutil.copytree(mini / "scheduler", tmp_path / "base" / "scheduler")
    config = tmp_path / "base" / "vae" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"_class_name": "AutoencoderTiny"}))
    with pytest.raises(BaseModelError, match="the VAE is a AutoencoderTiny; known: AutoencoderKL, MiniAutoencoder"):
        build_lafr(str(tmp_path / "base"), prompt=None)


def test_prompt_and_text_encoder_go_together(mini: Path, sd: Path):
    with pytest.raises(BaseModelError, match="has no text_encoder; leave `prompt: ~`"):
        build_lafr(str(mini), prompt="face")
    with pytest.raises(BaseModelError, match="has a text encoder; give a prompt"):
        build_lafr(str(sd), prompt=None)


@pytest.mark.parametrize("timestep", [-1, 1000])
def test_timestep_out_of_range(mini: Path, timestep: int):
    with pytest.raises(BaseModelError, match=rf"timestep: {timestep} is not in 0\.\.999"):
        build_lafr(str(mini), prompt=None, timestep=timestep)


# ---- autoencoder and prior ----------------------------------------------------------------------------------------


def test_autoencoder_round_trip_and_interface(mini: Path, tmp_path: Path):
    vae = MiniAutoencoder.from_pretrained(mini / "vae")
    assert (vae.config.scaling_factor, vae.config.latent_channels) == (1.5, 8)
    image = 2 * torch.rand(2, 3, 40, 32) - 1
    posterior = vae.encode(image).latent_dist
    assert posterior.mean.shape == (2, 8, 5, 4)
    assert vae.decode(posterior.mean).sample.shape == image.shape
    assert torch.equal(vae.decode(posterior.mean, return_dict=False)[0], vae.decode(posterior.mean).sample)
    assert [tuple(m.shape) for m in vae.features(image)] == [(2, 8, 10, 8), (2, 12, 5, 4)]
    vae.save_pretrained(tmp_path)
    again = MiniAutoencoder.from_pretrained(tmp_path)
    assert torch.equal(again.encode(image).latent_dist.mean, posterior.mean)


def test_autoencoder_samples_in_forward(mini: Path):
    vae = MiniAutoencoder.from_pretrained(mini / "vae")
    image = torch.rand(1, 3, 32, 32)
    torch.manual_seed(5)
    decoded, posterior = vae(image)
    torch.manual_seed(5)
    torch.testing.assert_close(decoded, vae.decode(posterior.sample()).sample)
    torch.manual_seed(5)
    assert not torch.allclose(vae(image, latent_noise=0.5)[0], decoded)


def test_prior_sampling_is_a_function_of_the_seed(mini: Path):
    unet = json.loads((mini / "unet" / "config.json").read_text())
    prior = LatentPrior(str(mini / "vae"), {k: v for k, v in unet.items() if not k.startswith("_")}, SCHEDULER).eval()
    faces = prior.sample(2, steps=3, seed=1)
    assert faces.shape == (2, 3, 32, 32)
    assert faces.min() >= 0
    assert faces.max() <= 1
    assert torch.equal(prior.sample(2, steps=3, seed=1), faces)
    assert not torch.equal(prior.sample(2, steps=3, seed=2), faces)


def test_prior_sampling_follows_ddim(mini: Path):
    """A model that always predicts the right v of one latent leads there in any number of steps."""
    prior = LatentPrior(
        str(mini / "vae"),
        {
            "block_out_channels": [8],
            "norm_num_groups": 4,
            "sample_size": 4,
            "down_block_types": ["DownBlock2D"],
            "up_block_types": ["UpBlock2D"],
            "cross_attention_dim": 8,
            "mid_block_type": None,
            "layers_per_block": 1,
        },
        {**SCHEDULER, "prediction_type": "v_prediction"},
    )
    target = torch.randn(8, 4, 4)

    def perfect(noisy: Tensor, timesteps: Tensor) -> Tensor:
        alpha = prior.scheduler.alphas_cumprod[timesteps].view(-1, 1, 1, 1)
        return (alpha.sqrt() * noisy - target) / (1 - alpha).sqrt()

    prior.forward = perfect
    torch.testing.assert_close(prior.sample(2, steps=4), prior.decode(target[None].expand(2, -1, -1, -1)))


def test_prior_needs_its_vae():
    with pytest.raises(BaseModelError, match="vae: the folder nowhere does not exist"):
        LatentPrior("nowhere", {}, {})
