"""RestoreFormer++ and OSDFace, read from synthetic files of the published names: against plain computations of both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor, nn

from base_models import write_stable_diffusion
from lafr.methods import MethodSpec, parse_method
from lafr.networks import load_network
from lafr_arch import osdface_baseline_arch as osdface
from lafr_arch import restoreformer_pp_baseline_arch as plus_plus
from lafr_arch.base_model import load_vae

rival = pytest.importorskip("spandrel.architectures.RestoreFormer.__arch.restoreformer_arch")
CPU = torch.device("cpu")
SIDE = 64  # of 512: sizes below are a quarter as many, too


def filled(net: nn.Module) -> nn.Module:
    """Numbers for every parameter, so that attention and codes do something."""
    torch.manual_seed(2)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.15 if parameter.dim() > 1 else 0.5)
    return net.eval()


# ---- RestoreFormer++ ----------------------------------------------------------------------------------------------


def form(side: int = SIDE) -> dict[str, Any]:
    sizes = {"ch": 32, "ch_mult": (1, 1, 1, 2), "num_res_blocks": 1, "codes": 8, "code_dim": 16, "z_channels": 16}
    return {"image_size": side, "heads": plus_plus.HEADS, **sizes}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Faces of 64 pixels: their sizes are not in the files."""
    read = plus_plus.form_of
    monkeypatch.setattr(plus_plus, "form_of", lambda state: read(state, SIDE))
    monkeypatch.setattr(osdface.OSDFaceBaseline, "image_size", SIDE)


def plain(net: Any, x: Tensor) -> Tensor:
    """The published decoder's way, step by step: attention at the two smallest sizes, each to the encoder's map."""
    maps = net.encoder(x)
    h = net.decoder.conv_in(net.post_quant_conv(net.quantize(net.quant_conv(maps["out"]))[0]))
    h = net.decoder.mid.block_1(h, None)
    h = net.decoder.mid.attn_1(h, maps["mid_atten"])
    h = net.decoder.mid.block_2(h, None)
    for level in (3, 2, 1, 0):
        up = net.decoder.up[level]
        for index, block in enumerate(up.block):
            h = block(h, None)
            if level == 3:
                h = up.attn[index](h, maps["block_3_atten"])
            elif level == 2:
                h = up.attn[index](h, maps["block_2"])
        if level:
            h = up.upsample(h)
    return net.decoder.conv_out(rival.nonlinearity(net.decoder.norm_out(h)))


@pytest.mark.usefixtures("small")
def test_restoreformer_plus_plus(tmp_path: Path):
    net = filled(plus_plus.MultiScaleRestoreFormer(form()))
    path = tmp_path / "RestoreFormer++.ckpt"
    state = {f"vqvae.{name}": value for name, value in net.state_dict().items()}
    torch.save({"state_dict": {**state, "loss.discriminator.main.0.weight": torch.zeros(1)}, "epoch": 1}, path)
    assert parse_method(f"restoreformer++:{path}") == MethodSpec("restoreformer++", "restoreformer++", path)
    loaded = load_network(f"restoreformer++:{path}", CPU)
    lq = torch.rand(2, 3, SIDE, SIDE)
    with torch.no_grad():
        expected = ((plain(net, 2 * lq - 1) + 1) / 2).clamp(0, 1)
        torch.testing.assert_close(loaded(lq), expected, rtol=0, atol=1e-5)
    assert expected.std() > 0.01
    assert not any(p.requires_grad for p in loaded.parameters())


def test_restoreformer_plus_plus_has_the_published_names(tmp_path: Path):
    """Counts of https://github.com/wzhouxiff/RestoreFormerPlusPlus at its sizes: attention at 32 x 32, three more."""
    sizes = {**form(512), "ch": 64, "ch_mult": (1, 2, 2, 4, 4, 8), "num_res_blocks": 2, "codes": 1024}
    with torch.device("meta"):
        net = plus_plus.MultiScaleRestoreFormer({**sizes, "code_dim": 256, "z_channels": 256})
        without = rival.RestoreFormer()
    own, other = set(net.state_dict()), set(without.state_dict())
    assert other < own
    layers = ("norm1", "norm2", "q", "k", "v", "proj_out")
    added = {f"decoder.up.4.attn.{i}.{n}.{p}" for i in range(3) for n in layers for p in ("weight", "bias")}
    assert own - other == added
    assert plus_plus.form_of(net.state_dict()) == {**sizes, "code_dim": 256, "z_channels": 256}


@pytest.mark.usefixtures("small")
def test_other_files_are_refused(tmp_path: Path):
    other = rival.RestoreFormer(n_embed=8, embed_dim=16, z_channels=16, ch=32, ch_mult=(1, 1, 1, 2), num_res_blocks=1)
    torch.save(other.state_dict(), tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"x.pth is no checkpoint of RestoreFormer\+\+: KeyError: .decoder.up.2.attn"):
        load_network(f"restoreformer++:{tmp_path / 'x.pth'}", CPU)


# ---- OSDFace ------------------------------------------------------------------------------------------------------

CODES, DIM, WIDTH, RANK = 90, 16, 16, 3
SPELLINGS = {"conv_in": (".lora_A.weight", ".lora_B.weight"), "to_q": (".lora.down.weight", ".lora.up.weight")}


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Any, dict[str, Tensor]]:
    """The three files in a folder, a tiny base model found as sd21-base; the encoder and the LoRA's tensors."""
    write_stable_diffusion(tmp_path / "sd21")
    monkeypatch.setattr(osdface.weights, "require", lambda n: tmp_path / "sd21" if n == "sd21-base" else Path(n))
    sizes = {"ch": 32, "ch_mult": (1, 1, 2), "num_res_blocks": 1, "z_channels": DIM, "resolution": SIDE}
    net = nn.Module()
    net.encoder = rival.MultiHeadEncoder(**sizes, out_ch=3, attn_resolutions=(16,), double_z=False, head_size=1)
    net.quant_conv, net.quantize = nn.Conv2d(DIM, DIM, 1), rival.VectorQuantizer(CODES, DIM, beta=0.25)
    filled(net)
    folder = tmp_path / "osdface"
    folder.mkdir()
    state = {f"vqvae_LQ.{name}": value for name, value in net.state_dict().items()}
    others = {"vqvae_LQ.decoder.conv_in.weight": torch.zeros(1), "vqvae_HQ.quant_conv.weight": torch.zeros(1)}
    torch.save({"state_dict": {**state, **others}}, folder / osdface.ENCODER)
    change = filled(nn.ModuleDict({"conv1": nn.Conv1d(DIM, 8, 1), "conv2": nn.Conv1d(8, WIDTH, 1)}))
    torch.save(change.state_dict(), folder / osdface.EMBEDDING)
    unet = UNet2DConditionModel.from_pretrained(tmp_path / "sd21" / "unet")
    lora = {}
    for name, layer in unet.named_modules():
        down, up = SPELLINGS.get(name.rpartition(".")[2], ("", ""))
        if down:
            kernel = tuple(layer.weight.shape[2:])
            lora[f"unet.{name}{down}"] = 0.1 * torch.randn(RANK, layer.weight.shape[1], *kernel)
            lora[f"unet.{name}{up}"] = 0.1 * torch.randn(layer.weight.shape[0], RANK, *(1 for _ in kernel))
    save_file(lora, folder / osdface.LORA)
    net.change = change
    return folder, net, lora


def nearest_codes(net: Any, face: Tensor) -> Tensor:
    """Of one face (1, 3, S, S) in [-1, 1]: a plain search, position by position."""
    table, best = net.quantize.embedding.weight, []
    for vector in net.quant_conv(net.encoder(2 * face - 1)["out"])[0].flatten(1).T:
        distance = ((table - vector) ** 2).sum(1)
        best.append((float(distance.min()), int(distance.argmin())))
    order = list(dict.fromkeys(code for _, code in sorted(best)))[:77]
    return torch.cat([table[order], torch.zeros(77 - len(order), DIM)])


@pytest.mark.usefixtures("small")
@torch.no_grad()
def test_osdface(published: tuple[Path, Any, dict[str, Tensor]]):
    folder, net, lora = published
    loaded = load_network(f"osdface:{folder}", CPU)
    lq = torch.rand(2, 3, SIDE, SIDE)
    sd = folder.parent / "sd21"
    unet, vae = UNet2DConditionModel.from_pretrained(sd / "unet").eval(), load_vae(str(sd), subfolder="vae").eval()
    for name, layer in unet.named_modules():
        down, up = SPELLINGS.get(name.rpartition(".")[2], ("", ""))
        if down:
            a, b = lora[f"unet.{name}{down}"], lora[f"unet.{name}{up}"]
            layer.weight += torch.einsum("or,ri->oi", b.flatten(1), a.flatten(1)).view_as(layer.weight)
    silu = torch.nn.functional.silu
    alpha = DDPMScheduler.from_pretrained(sd / "scheduler").alphas_cumprod[399]
    for face, restored in zip(2 * lq - 1, loaded(lq), strict=True):
        codes = nearest_codes(net, face[None])
        assert 1 < int(codes.any(dim=1).sum()) <= 77
        tokens = silu(net.change["conv2"](silu(net.change["conv1"](codes.T[None])))).transpose(1, 2)
        latent = vae.encode(face[None]).latent_dist.mean * vae.config.scaling_factor
        noise = unet(latent, 399, encoder_hidden_states=tokens).sample
        clean = (latent - (1 - alpha) ** 0.5 * noise) / alpha**0.5
        image = vae.decode(clean / vae.config.scaling_factor).sample[0]
        torch.testing.assert_close(restored, ((image + 1) / 2).clamp(0, 1), rtol=0, atol=1e-4)


@pytest.mark.usefixtures("small")
def test_osdface_without_a_place_for_a_tensor(published: tuple[Path, Any, dict[str, Tensor]]):
    folder, _, lora = published
    save_file({**lora, "unet.conv_out.alpha": torch.ones(1)}, folder / osdface.LORA)
    with pytest.raises(ValueError, match=r"holds no OSDFace: ValueError: LoRA tensors without a place: unet.conv_out"):
        load_network(f"osdface:{folder}", CPU)
    with pytest.raises(FileNotFoundError, match="the folder nowhere does not exist; osdface alone stands for"):
        parse_method("osdface:nowhere")
