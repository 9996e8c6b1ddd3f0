"""What all stages share: EMA, what a checkpoint holds, accumulation, clipping, precision, resuming, validation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from base_models import write_mini_prior
from lafr_arch.codebook import Codebook
from lafr_models.ema import ExponentialMovingAverage, trained_state
from lafr_models.latent_distance import LatentDistances, frechet_distance
from lafr_models.training import save_whole
from stage_options import ADAPTER, PIXEL, Loader, batch, build, options, snapshot, step


@pytest.fixture(scope="module")
def mini(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_mini_prior(tmp_path_factory.mktemp("mini")))


def unet_options(root: Path, mini: str, **train: Any) -> dict[str, Any]:
    network = {"type": "LAFRNet", "base_model": mini, "prompt": None, "timestep": 250, "lora": {"rank": 2}}
    return options(root, "LAFRUNetModel", network, **{"pixel_opt": PIXEL} | train)


def autoencoder_options(root: Path, **train: Any) -> dict[str, Any]:
    network = {
        "type": "MiniAutoencoder",
        "encoder_widths": (8, 8),
        "decoder_widths": (8, 8),
        "encoder_blocks": 1,
        "decoder_blocks": 1,
    }
    return options(root, "AutoencoderModel", network, **{"pixel_opt": PIXEL} | train)


# ---- averages -----------------------------------------------------------------------------------------------------


def test_ema_formula():
    net = nn.Linear(2, 1, bias=False)
    frozen = nn.Parameter(torch.ones(1), requires_grad=False)
    net.register_parameter("frozen", frozen)
    average = ExponentialMovingAverage(net, 0.3)
    assert set(average.average) == {"weight"}
    expected = net.weight.detach().clone()
    for k in range(1, 6):
        net.weight.data.normal_()
        average.update()
        decay = min(0.3, (1 + k) / (10 + k))  # 2/11, 3/12, then 0.3
        expected = decay * expected + (1 - decay) * net.weight.detach()
    torch.testing.assert_close(average.average["weight"], expected)
    own = net.weight.detach().clone()
    with average.applied():
        assert torch.equal(net.weight, average.average["weight"])
    assert torch.equal(net.weight, own)


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_ema_decay_is_checked(decay: float):
    with pytest.raises(ValueError, match="ema_decay"):
        ExponentialMovingAverage(nn.Linear(1, 1), decay)


def test_ema_state_round_trip():
    net = nn.Sequential(nn.Conv2d(1, 2, 1), Codebook(4, 2))
    average = ExponentialMovingAverage(net, 0.9)
    net[0].weight.data.add_(1)
    average.update()
    state = average.state()
    assert not torch.equal(state["0.weight"], net[0].weight)
    other = ExponentialMovingAverage(nn.Sequential(nn.Conv2d(1, 2, 1), Codebook(4, 2)), 0.9)
    other.load(state, steps=1)
    assert other.steps == 1
    assert all(torch.equal(other.average[name], value) for name, value in average.average.items())


def test_trained_state_holds_what_training_changes():
    net = nn.ModuleDict(
        {
            "frozen": nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1)),
            "layer": nn.Conv2d(1, 1, 1),
            "codebook": Codebook(4, 2),
        }
    )
    net["frozen"].requires_grad_(False)
    net["layer"].bias.requires_grad_(False)
    assert set(trained_state(net)) == {"layer.weight", "codebook.codes", "codebook.usage", "codebook.scale"}


def test_saving_leaves_no_half_file(tmp_path: Path):
    path = tmp_path / "state.pth"
    save_whole({"a": torch.ones(1)}, path)
    with pytest.raises(Exception, match="pickle"):
        save_whole({"a": lambda: None}, path)
    assert [p.name for p in tmp_path.iterdir()] == ["state.pth"]
    assert torch.load(path, weights_only=True)["a"] == 1


# ---- steps --------------------------------------------------------------------------------------------------------


def parameters_after(opt: dict[str, Any], data: dict[str, Any], steps: int = 2) -> tuple[torch.Tensor, Any]:
    model = build(opt)
    for i in range(steps):
        step(model, i + 1, data)
    return torch.cat([p.detach().flatten() for p in model.bare_g.parameters() if p.requires_grad]), model


@pytest.mark.parametrize(("accumulate", "size"), [(2, 4), (2, 3), (4, 2)])
def test_accumulation_equals_the_whole_batch(tmp_path: Path, mini: str, accumulate: int, size: int):
    sgd = {"type": "SGD", "lr": 10.0}
    data = batch(size)
    whole, model = parameters_after(unet_options(tmp_path, mini, optim_g=sgd), data)
    parts, accumulated = parameters_after(unet_options(tmp_path, mini, optim_g=sgd, accumulate=accumulate), data)
    start, _ = parameters_after(unet_options(tmp_path, mini, optim_g=sgd), data, steps=0)
    assert (whole - start).abs().max() > 1e-4
    torch.testing.assert_close(parts - start, whole - start, rtol=1e-3, atol=1e-6)
    assert accumulated.log_dict["l_pixel"] == pytest.approx(model.log_dict["l_pixel"], rel=1e-4)


def test_gradients_are_clipped(tmp_path: Path, mini: str):
    sgd = {"type": "SGD", "lr": 1.0}
    start, _ = parameters_after(unet_options(tmp_path, mini, optim_g=sgd), batch(), steps=0)
    free, _ = parameters_after(unet_options(tmp_path, mini, optim_g=sgd), batch(), steps=1)
    bound = 0.5 * (free - start).norm().item()
    clipped, _ = parameters_after(unet_options(tmp_path, mini, optim_g=sgd, clip_grad_norm=bound), batch(), steps=1)
    assert (clipped - start).norm().item() == pytest.approx(bound, rel=1e-3)
    torch.testing.assert_close(2 * (clipped - start), free - start, rtol=1e-3, atol=1e-7)


def test_bf16_trains_close_to_fp32(tmp_path: Path, mini: str):
    losses = {}
    for amp in (None, "bf16"):
        model = build(unet_options(tmp_path, mini, amp=amp))
        losses[amp] = step(model, 1)["l_pixel"]
        assert {p.dtype for p in model.bare_g.parameters()} == {torch.float32}
    assert losses["bf16"] == pytest.approx(losses[None], rel=0.05)
    assert losses["bf16"] != losses[None]


def test_randomness_depends_on_seed_and_iteration_alone(tmp_path: Path):
    opt = autoencoder_options(tmp_path, latent_noise=0.5, optim_g={"type": "SGD", "lr": 0.0})
    model = build(opt)
    first = step(model, 3)
    torch.rand(17)
    assert step(model, 3) == first
    assert step(model, 4) != first
    model.opt["manual_seed"] = 1
    assert step(model, 3) != first


def test_constant_learning_rate_and_warm_up(tmp_path: Path):
    model = build(autoencoder_options(tmp_path))
    step(model, 1)
    assert model.get_current_learning_rate() == [1e-2]
    scheduler = {"type": "CosineAnnealingRestartLR", "periods": [8], "restart_weights": [1], "eta_min": 0}
    model = build(autoencoder_options(tmp_path, scheduler=scheduler))
    model.update_learning_rate(1, warmup_iter=4)
    assert model.get_current_learning_rate() == [pytest.approx(1e-2 / 4)]


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({"optim_g": {"type": "Adamski", "lr": 1e-3}}, "Adamski is not an optimizer"),
        ({"optim_g": {"type": "lr_scheduler", "lr": 1e-3}}, "lr_scheduler is not an optimizer"),
        ({"optim_g": {"lr": 1e-3}}, "optim_g: needs `type` and `lr`"),
        ({"optim_g": None}, "optim_g: needs `type` and `lr`"),
        ({"amp": "fp8"}, "amp: fp8 is unknown; use bf16, fp16"),
        ({"pixel_opt": None}, "has no loss between images"),
        ({"ema_decay": 1.5}, "ema_decay: 1.5 is not in"),
        ({"warmup_iter": 10}, "warmup_iter: .* needs a `scheduler`"),
        ({"accumulate": 0}, "accumulate: 0"),
    ],
)
def test_faulty_options_are_refused(tmp_path: Path, train: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        build(autoencoder_options(tmp_path, **train))


def test_nothing_to_train_is_refused(tmp_path: Path, mini: str):
    opt = unet_options(tmp_path, mini)
    opt["network_g"]["lora"] = None
    with pytest.raises(ValueError, match="has no parameter to train"):
        build(opt)


# ---- checkpoints --------------------------------------------------------------------------------------------------


def test_checkpoints_hold_trained_parts_only(tmp_path: Path, mini: str):
    model = build(unet_options(tmp_path, mini, ema_decay=0.5))
    step(model, 1)
    model.save(0, 1)
    stored = torch.load(tmp_path / "models/net_g_1.pth", weights_only=True)
    assert set(stored) == {"params", "params_ema"}
    assert stored["params"].keys() == stored["params_ema"].keys()
    assert all("lora_" in name for name in stored["params"])
    assert any(not torch.equal(stored["params"][name], stored["params_ema"][name]) for name in stored["params"])


def resumed(opt: dict[str, Any], current_iter: int) -> Any:
    """A model that goes on from a saved state, as the launcher does it."""
    models = Path(opt["path"]["models"])
    opt = opt | {"path": opt["path"] | {"pretrain_network_g": str(models / f"net_g_{current_iter}.pth")}}
    model = build(opt)
    state = torch.load(Path(opt["path"]["training_states"]) / f"{current_iter}.state", weights_only=True)
    model.resume_training(state)
    return model


def test_resuming_goes_on_exactly(tmp_path: Path):
    opt = autoencoder_options(
        tmp_path,
        ema_decay=0.9,
        latent_noise=0.1,
        kl_weight=1e-3,
        scheduler={"type": "MultiStepLR", "milestones": [3, 4], "gamma": 0.5},
        optim_d={"type": "AdamW", "lr": 1e-3},
        gan_opt={"type": "PatchAdversarialLoss", "start_iter": 2, "adaptive": True},
    )
    opt["network_d"] = {"type": "PatchDiscriminator", "width": 4}
    model = build(opt)
    for i in (1, 2):
        step(model, i)
    model.nondist_validation(Loader(), 2, None, False)
    step(model, 3)
    model.save(0, 3)
    expected = [step(model, i) for i in (4, 5)]
    again = resumed(opt, 3)
    assert again.best_metric_results == model.best_metric_results
    assert [step(again, i) for i in (4, 5)] == expected
    assert again.get_current_learning_rate() == model.get_current_learning_rate()
    for net in ("net_g", "net_d"):
        state = getattr(again, net).state_dict()
        assert all(torch.equal(state[name], value) for name, value in getattr(model, net).state_dict().items())
    assert all(torch.equal(again.ema.average[name], value) for name, value in model.ema.average.items())


def test_files_that_do_not_fit_are_refused(tmp_path: Path, mini: str):
    opt = unet_options(tmp_path, mini)
    path = tmp_path / "net_g.pth"
    with pytest.raises(FileNotFoundError, match="does not exist"):
        build(opt | {"path": opt["path"] | {"pretrain_network_g": str(path)}})
    model = build(opt)
    params = model.checkpoint()["params"]
    name, value = params.popitem()
    torch.save({"params": params | {"extra": value}}, path)
    opt = opt | {"path": opt["path"] | {"pretrain_network_g": str(path)}}
    with pytest.raises(ValueError, match="net_g.pth does not fit LAFRNet: lacks .*has unknown .*extra"):
        build(opt)
    opt["path"]["strict_load_g"] = False
    loaded = build(opt).checkpoint()["params"]
    assert all(torch.equal(loaded[k], v) for k, v in params.items())
    assert name in loaded


# ---- validation ---------------------------------------------------------------------------------------------------


def test_validation_measures_the_averaged_network(tmp_path: Path):
    opt = autoencoder_options(tmp_path, ema_decay=0.9)
    opt["val"]["metrics"]["niqe_like"] = {"type": "calculate_psnr", "crop_border": 4, "better": "lower"}
    model = build(opt)
    step(model, 1)
    before = snapshot(model.net_g)
    loader = Loader(2)
    model.nondist_validation(loader, 1, None, save_img=True)
    assert model.net_g.training
    assert all(torch.equal(value, before[name]) for name, value in model.net_g.state_dict().items())
    values = []
    with model.averaged(), torch.no_grad():
        for data in loader:
            pred = (model.restore(data["lq"]) * 255).round().numpy()
            error = ((pred - (data["gt"] * 255).round().numpy()) ** 2).mean()
            values.append(10 * np.log10(255**2 / error))
    assert model.metric_results["psnr"] == pytest.approx(np.mean(values), rel=1e-4)
    pictures = sorted(p.relative_to(tmp_path).as_posix() for p in (tmp_path / "visualization").rglob("*.png"))
    assert pictures == ["visualization/0/0_1.png", "visualization/1/1_1.png"]
    assert {k: v.shape for k, v in model.get_current_visuals().items()} == dict.fromkeys(
        ("lq", "result", "gt"), (1, 3, 32, 32)
    )
    best = model.best_metric_results["faces_val"]
    best["psnr"]["val"], best["niqe_like"]["val"] = 100.0, -100.0
    model.nondist_validation(loader, 2, None, save_img=False)
    assert (best["psnr"]["iter"], best["niqe_like"]["iter"]) == (1, 1)
    best["psnr"]["val"], best["niqe_like"]["val"] = 0.0, 100.0
    model.nondist_validation(loader, 3, None, save_img=False)
    assert (best["psnr"]["iter"], best["niqe_like"]["iter"]) == (3, 3)


def test_the_last_validation_is_at_the_last_iteration(tmp_path: Path):
    model = build(autoencoder_options(tmp_path))
    model.validation(Loader(), 10, None)  # BasicSR's count after the 8 of the run
    assert model.best_metric_results["faces_val"]["psnr"]["iter"] == 8


def test_frechet_distance_of_gaussians():
    # For diagonal covariances: |m_a - m_b|^2 + sum (s_a - s_b)^2.
    mean_a, mean_b = np.array([1.0, 2.0]), np.array([0.0, 4.0])
    value = frechet_distance(mean_a, np.diag([4.0, 9.0]), mean_b, np.diag([1.0, 25.0]))
    assert value == pytest.approx(5 + 1 + 4)


def test_latent_distances():
    lq, hq = torch.randn(6, 3, 4, 4), torch.randn(6, 3, 4, 4)
    distances = LatentDistances()
    for i in range(0, 6, 2):
        distances.add(lq[i : i + 2], lq[i : i + 2] / 2 + hq[i : i + 2] / 2, hq[i : i + 2])
    values = distances.values()
    assert values["l1_lq"] == pytest.approx((lq - hq).abs().mean().item(), rel=1e-5)
    assert values["l1_reduction"] == pytest.approx(0.5, rel=1e-5)
    shifted = LatentDistances()
    shifted.add(hq + 2, hq, hq)
    assert shifted.values()["frechet_lq"] == pytest.approx(3 * 4, rel=1e-4)
    assert shifted.values()["frechet_aligned"] == pytest.approx(0, abs=1e-4)


def test_adapter_in_a_checkpoint_brings_its_codebook(tmp_path: Path, mini: str):
    network = {"type": "LAFRNet", "base_model": mini, "prompt": None, "with_unet": False, "alignment": ADAPTER}
    model = build(options(tmp_path, "LAFRAlignModel", network))
    step(model, 1)
    assert {"alignment.codebook.usage", "alignment.codebook.scale"} < set(model.checkpoint()["params"])
