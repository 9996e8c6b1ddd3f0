from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from base_models import assert_close_in_range, write_mini_prior, write_stable_diffusion
from lafr_arch.autoencoder_arch import MiniAutoencoder
from lafr_arch.fidelity_arch import FidelityPath
from lafr_arch.lafr_arch import LAFRNet
from lafr_arch.network_g_arch import build_deployed_lafr, build_lafr
from lafr_arch.sizes import network_sizes


@pytest.fixture(scope="module")
def mini(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_mini_prior(tmp_path_factory.mktemp("mini")))


def options(mini: str, **more: Any) -> dict[str, Any]:
    return {"base_model": mini, "prompt": None, "timestep": 250, "fidelity": {"widths": [16, 16]}, **more}


def stir(net: LAFRNet) -> LAFRNet:
    """Give the path weights that do something."""
    assert net.fidelity is not None
    for parameter in net.fidelity.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return net


@pytest.fixture
def faces() -> Tensor:
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_an_untrained_path_changes_nothing(mini: str, faces: Tensor):
    net = build_lafr(**options(mini)).eval()
    with torch.no_grad():
        latent, maps = net.encode_with_maps(faces)
        torch.testing.assert_close(latent, net.encode(faces))
        torch.testing.assert_close(net.decode(latent, maps), net.decode(latent))
    assert [tuple(x.shape[2:]) for x in maps] == [(4, 4), (8, 8)]


def test_a_path_sees_the_face_at_both_sizes(mini: str, faces: Tensor):
    net = stir(build_lafr(**options(mini)).eval())
    with torch.no_grad():
        encoded, maps = net.encode_with_maps(faces)
        latent = net.denoise(encoded)
        whole = net.decode(latent, maps)
        for index in range(2):
            changed = [x + (position == index) for position, x in enumerate(maps)]
            assert float((net.decode(latent, changed) - whole).abs().max()) > 1e-3
        torch.testing.assert_close(net(faces), whole.clamp(0, 1))
        # A latent at hand does not stand for the maps.
        torch.testing.assert_close(net(faces, latent=encoded), whole.clamp(0, 1))


def test_path_and_decoder_train_and_the_rest_is_frozen(mini: str, faces: Tensor):
    net = build_lafr(**options(mini, lora={"rank": 2, "targets": "conv"}, train_decoder=True)).train()
    net(faces).square().mean().backward()
    trained = {name.split(".")[0] for name, p in net.named_parameters() if p.requires_grad}
    assert trained == {"vae", "unet", "fidelity"}
    assert all(p.grad is not None for name, p in net.named_parameters() if p.requires_grad and "correction" in name)
    assert not any(p.requires_grad for p in net.vae.encoder.parameters())


def test_deployed_folder_keeps_the_path(mini: str, faces: Tensor, tmp_path: Path):
    net = stir(build_lafr(**options(mini)).eval())
    net.save_pretrained(tmp_path / "deployed")
    again = LAFRNet.from_pretrained(tmp_path / "deployed")
    with torch.no_grad():
        assert_close_in_range(again(faces), net(faces))
        assert_close_in_range(again.for_inference()(faces), net(faces))


def test_sizes_count_the_path(mini: str):
    with_path, without = (network_sizes(options(mini, **more)) for more in ({}, {"fidelity": None}))
    net = build_lafr(**options(mini))
    assert with_path["fidelity"] == sum(p.numel() for p in net.fidelity.parameters())
    assert with_path["inference"] - without["inference"] == with_path["fidelity"]
    assert network_sizes(options(mini, train_decoder=True))["trainable"] > with_path["trainable"]


def test_what_does_not_fit_is_said(mini: str, tmp_path: Path):
    with pytest.raises(ValueError, match="widths"):
        FidelityPath((16, 8), (24, 12), widths=[16])
    decoder = {"decoder": {"type": "SmallDecoder"}, "decoder_weights": "x"}
    with pytest.raises(ValueError, match="takes the place"):
        build_lafr(**options(mini, **decoder))
    base = write_stable_diffusion(tmp_path / "sd")
    with pytest.raises(ValueError, match="offers no maps"):
        build_lafr(str(base), fidelity={"widths": [16, 16]})


def test_a_decoder_grows_without_a_change(faces: Tensor):
    torch.manual_seed(0)
    small = MiniAutoencoder(encoder_widths=(8, 8), decoder_widths=(16, 16), decoder_blocks=1)
    for parameter in small.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    grown = small.grown(24)
    with torch.no_grad():
        latent = small.encode(faces).latent_dist.mean
        assert_close_in_range(grown.decode(latent).sample, small.decode(latent).sample, 1e-5)
        torch.testing.assert_close(grown.encode(faces).latent_dist.mean, latent)
    with pytest.raises(ValueError, match="cannot grow by 16"):
        small.grown(16)
    with pytest.raises(ValueError, match="needs two widths"):
        grown.grown(24)


def test_stage_2_goes_on_from_a_deployed_folder_at_another_size(mini: str, faces: Tensor, tmp_path: Path):
    before = build_lafr(**options(mini, fidelity=None)).eval()
    before.save_pretrained(tmp_path / "before")
    more = {"fidelity": {"widths": [16, 16]}, "grow_decoder": 32, "image_size": 64, "train_decoder": True}
    net = build_deployed_lafr(str(tmp_path / "before"), train_unet=True, **more)
    trained = {name.split(".")[0] for name, p in net.named_parameters() if p.requires_grad}
    assert trained == {"vae", "unet", "fidelity"}
    assert net.image_size == 64
    net.eval()
    with torch.no_grad():
        assert_close_in_range(net(faces), before(faces))
    net.train()(faces).square().mean().backward()
    stir(net).eval().save_pretrained(tmp_path / "after")
    again = build_deployed_lafr(str(tmp_path / "after"))
    assert again.image_size == 64
    assert not any(p.requires_grad for p in again.parameters())
    with torch.no_grad():
        assert_close_in_range(again(faces), net(faces))
    with pytest.raises(ValueError, match="already"):
        build_deployed_lafr(str(tmp_path / "after"), fidelity={"widths": [16, 16]})
    with pytest.raises(ValueError, match="exclude"):
        build_deployed_lafr(str(tmp_path / "after"), lora={"rank": 2, "targets": "conv"}, train_unet=True)
