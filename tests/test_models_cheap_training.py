"""What makes training cheap changes memory or work as named, and nothing else."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from base_models import SD_IMAGE_SIZE, write_mini_prior, write_stable_diffusion
from lafr_arch.lafr_arch import LAFRNet
from lafr_arch.network_g_arch import build_lafr
from stage_options import ADAPTER, batch, build, options, step

MINI: dict[str, Any] = {"prompt": None, "timestep": 250}


def saved_bytes(net: LAFRNet, image: torch.Tensor) -> tuple[int, torch.Tensor]:
    """Bytes of distinct tensors that a step's forward keeps for its backward, and a LoRA gradient."""
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = net(image).square().mean()
    total = sum(kept.values())
    loss.backward()
    return total, next(p.grad for p in net.parameters() if p.grad is not None and p.grad.any())


@pytest.mark.parametrize("kind", ["mini", "sd"])
def test_checkpointing_keeps_less_and_gives_the_same_gradients(tmp_path: Path, kind: str):
    base = str((write_mini_prior if kind == "mini" else write_stable_diffusion)(tmp_path / "base"))
    results = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        arguments = MINI if kind == "mini" else {}
        net = build_lafr(base, lora={"rank": 2}, gradient_checkpointing=checkpointing, **arguments).train()
        results.append(saved_bytes(net, batch(1, SD_IMAGE_SIZE)["lq"]))
    assert results[1][0] < 0.7 * results[0][0]
    torch.testing.assert_close(results[1][1], results[0][1])


def test_decoder_in_half_precision(tmp_path: Path):
    base = str(write_stable_diffusion(tmp_path / "sd"))
    image = batch(1, SD_IMAGE_SIZE)["lq"]
    nets = [build_lafr(base, decoder_dtype=dtype).eval() for dtype in ("fp32", "bf16")]
    assert {p.dtype for p in nets[1].vae.decoder.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in (*nets[1].vae.encoder.parameters(), *nets[1].unet.parameters())} == {torch.float32}
    with torch.no_grad():
        assert torch.equal(nets[0](image, output="restored"), nets[1](image, output="restored"))
        difference = (nets[0](image) - nets[1](image)).abs().max()
    assert 0 < difference < 0.05
    with pytest.raises(ValueError, match="decoder_dtype: int8 is unknown"):
        build_lafr(base, decoder_dtype="int8")


def align(root: Path, base: Path, **train: Any) -> dict[str, Any]:
    network = {"type": "LAFRNet", "base_model": str(base), **MINI, "with_unet": False, "alignment": ADAPTER}
    return options(root, "LAFRAlignModel", network, **train)


def test_cached_latents_give_the_same_losses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    base, folder = write_mini_prior(tmp_path / "base"), tmp_path / "latents"
    data = batch()
    flipped = data | {"lq": data["lq"].flip(-1), "gt": data["gt"].flip(-1)}

    def losses(**train: Any) -> tuple[list[dict[str, float]], int]:
        model = build(align(tmp_path, base, **train))
        encoded = [0]
        encode = LAFRNet.encode

        def counting(self: LAFRNet, image: torch.Tensor) -> torch.Tensor:
            encoded[0] += len(image)
            return encode(self, image)

        with monkeypatch.context() as patch:
            patch.setattr(LAFRNet, "encode", counting)
            return [step(model, i + 1, item) for i, item in enumerate((data, flipped, data))], encoded[0]

    plain, plain_count = losses()
    first, first_count = losses(latent_cache=str(folder))
    again, again_count = losses(latent_cache=str(folder))
    assert plain == first == again
    assert len(list(folder.glob("*/*.npy"))) == 8  # four faces, two orientations
    # LQ latents are made anew each step: 12. Of HQ latents, 16 (with the codebook's start), 8 or none.
    assert (plain_count, first_count, again_count) == (28, 20, 12)


def test_lq_latents_are_kept_where_pairs_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    opt = align(tmp_path, write_mini_prior(tmp_path / "base"))
    plain = build(copy.deepcopy(opt))
    opt["train"]["latent_cache"] = str(tmp_path / "latents")
    opt["datasets"] = {"train": {"n_draws": 2}}
    cached, encoded = build(opt), [0]
    encode = LAFRNet.encode

    def counting(self: LAFRNet, image: torch.Tensor) -> torch.Tensor:
        encoded[0] += len(image) * (self is cached.bare_g)
        return encode(self, image)

    monkeypatch.setattr(LAFRNet, "encode", counting)
    flipped = {key: value.flip(-1) for key, value in batch().items() if key in ("lq", "gt")}
    for number, item in enumerate((batch(), flipped, batch(), flipped), start=1):
        logs = []
        for model in (plain, cached):
            torch.manual_seed(0)  # the codebook starts from random features
            logs.append(step(model, number, item))
        assert logs[0] == logs[1]
    assert encoded[0] == 16, "two batches of four pairs, each image once"


def test_another_encoder_has_other_entries(tmp_path: Path):
    base, folder = write_mini_prior(tmp_path / "base"), tmp_path / "latents"
    for change in (False, True):
        model = build(align(tmp_path, base, latent_cache=str(folder)))
        if change:
            with torch.no_grad():
                model.bare_g.vae.encoder[1].weight.add_(0.1)
            from lafr_models.latent_cache import LatentCache

            model.latent_cache = LatentCache(folder, model.bare_g)
        target = model._hq_latents(batch()["gt"])
        torch.testing.assert_close(target, model.bare_g.encode(batch()["gt"]))
    assert len(list(folder.iterdir())) == 2


def test_latents_that_cannot_be_kept_are_refused(tmp_path: Path):
    base = write_mini_prior(tmp_path / "base")
    opt = align(tmp_path, base, latent_cache=str(tmp_path / "latents"))
    opt["datasets"] = {"train": {"crop_size": 16}}
    with pytest.raises(ValueError, match="latent_cache: latents of random crops"):
        build(opt)
