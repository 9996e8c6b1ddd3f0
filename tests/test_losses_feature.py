from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from lafr_arch.autoencoder_arch import MiniAutoencoder
from lafr_arch.mobilenetv1_arch import MobileNetV1
from lafr_base.weights import MissingWeightsError
from lafr_losses.feature_loss import FeatureLoss


class Pyramid(nn.Module):
    """Two random feature maps; smooth, so that finite differences are exact to second order."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 4, 3)
        self.b = nn.Conv2d(4, 6, 3, stride=2)
        self.dropout = nn.Dropout(0.5)

    def features(self, x: Tensor) -> list[Tensor]:
        first = torch.tanh(self.a(x))
        return [first, self.dropout(torch.tanh(self.b(first)))]


@pytest.fixture
def images() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(2, 3, 16, 16, generator=generator), torch.rand(2, 3, 16, 16, generator=generator)


@pytest.fixture
def pyramid() -> Pyramid:
    torch.manual_seed(0)
    return Pyramid()


def test_value_against_an_independent_computation(images: tuple[Tensor, Tensor], pyramid: Pyramid):
    loss = FeatureLoss(network=pyramid, layers=[-1], layer_weights=[3.0], loss_weight=0.5)
    maps = [pyramid.features(2 * x - 1)[1].permute(0, 2, 3, 1).reshape(-1, 6).double() for x in images]
    cos = nn.functional.cosine_similarity(*maps, dim=1)
    assert loss(*images).item() == pytest.approx(0.5 * 3 * (2 - 2 * cos).mean().item(), rel=1e-5)


def test_distance_l1(images: tuple[Tensor, Tensor], pyramid: Pyramid):
    loss = FeatureLoss(network=pyramid, layers=[0], distance="l1")
    a, b = (nn.functional.normalize(pyramid.features(2 * x - 1)[0], dim=1) for x in images)
    assert loss(*images).item() == pytest.approx(2 * (a - b).abs().mean().item(), rel=1e-5)


def test_layers_default_to_all(images: tuple[Tensor, Tensor], pyramid: Pyramid):
    both = FeatureLoss(network=pyramid)(*images)
    single = [FeatureLoss(network=pyramid, layers=[i])(*images) for i in (0, 1)]
    assert both.item() == pytest.approx(sum(single).item(), rel=1e-6)


def test_input_size_resizes_first(images: tuple[Tensor, Tensor], pyramid: Pyramid):
    small = [nn.functional.interpolate(x, size=8, mode="bicubic", antialias=True) for x in images]
    resized = FeatureLoss(network=pyramid, input_size=8)(*images)
    assert resized.item() == pytest.approx(FeatureLoss(network=pyramid)(*small).item(), rel=1e-6)


def test_gradient_against_finite_differences(pyramid: Pyramid):
    loss = FeatureLoss(network=pyramid.double(), layer_weights=[1.0, 2.0], input_size=7)
    pred = torch.rand(1, 3, 9, 9, dtype=torch.float64, requires_grad=True)
    target = torch.rand(1, 3, 9, 9, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: loss(x, target), pred, atol=1e-6, fast_mode=True)


def test_net_is_frozen_even_in_train_mode(images: tuple[Tensor, Tensor], pyramid: Pyramid):
    loss = FeatureLoss(network=pyramid).train()
    assert not pyramid.dropout.training
    assert all(not p.requires_grad for p in loss.parameters())
    assert loss(*images).item() == loss(*images).item()


def test_distance_is_taken_in_full_precision_under_autocast(images: tuple[Tensor, Tensor], pyramid: Pyramid):
    loss = FeatureLoss(network=pyramid)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = loss(*images)
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(loss(*images).item(), rel=0.05)


def test_zero_features_give_a_finite_gradient(pyramid: Pyramid):
    for p in pyramid.parameters():
        p.data.zero_()
    pred = torch.rand(1, 3, 16, 16, requires_grad=True)
    FeatureLoss(network=pyramid)(pred, torch.rand(1, 3, 16, 16)).backward()
    assert torch.isfinite(pred.grad).all()


def test_autoencoder_backend_reads_a_folder(tmp_path: Path, images: tuple[Tensor, Tensor]):
    net = MiniAutoencoder(latent_channels=2, encoder_widths=(4, 8))
    net.save_pretrained(tmp_path)
    from_folder = FeatureLoss(backend="autoencoder", path=str(tmp_path))
    assert from_folder(*images).item() == pytest.approx(FeatureLoss(network=net)(*images).item(), rel=1e-6)
    assert from_folder(*images) > 0


def test_3ddfa_backend_reads_the_published_layout(tmp_path: Path, images: tuple[Tensor, Tensor]):
    torch.manual_seed(0)
    net = MobileNetV1(widen_factor=0.125).eval()
    file = tmp_path / "mb05_120x120.pth"
    torch.save({"epoch": 1, "state_dict": {f"module.{k}": v for k, v in net.state_dict().items()}}, file)
    loss = FeatureLoss(backend="3ddfa_v2", path=str(file), layers=[1])
    # 3DDFA-V2 wants BGR in (255 x - 127.5) / 128
    maps = [net.features((255 * x[:, [2, 1, 0]] - 127.5) / 128)[1] for x in images]
    a, b = (nn.functional.normalize(m, dim=1) for m in maps)
    assert loss(*images).item() == pytest.approx((a - b).square().sum(1).mean().item(), rel=5e-3)


def test_errors_name_option_and_file(tmp_path: Path, images: tuple[Tensor, Tensor], pyramid: Pyramid):
    with pytest.raises(MissingWeightsError, match="nowhere.pth"):
        FeatureLoss(backend="3ddfa_v2", path=str(tmp_path / "nowhere.pth"))
    with pytest.raises(FileNotFoundError, match="config.json"):
        FeatureLoss(backend="autoencoder", path=str(tmp_path))
    (tmp_path / "config.json").write_text('{"_class_name": "AutoencoderKL"}')
    with pytest.raises(ValueError, match="AutoencoderKL"):
        FeatureLoss(backend="autoencoder", path=str(tmp_path))
    torch.save({"state_dict": {"conv1.weight": torch.zeros(1)}}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="other.pth is not a MobileNetV1"):
        FeatureLoss(backend="3ddfa_v2", path=str(tmp_path / "other.pth"))
    with pytest.raises(ValueError, match="backend: 'vgg'"):
        FeatureLoss(backend="vgg")
    with pytest.raises(ValueError, match="2 feature maps"):
        FeatureLoss(network=pyramid, layers=[2])(*images)
    with pytest.raises(ValueError, match="layer_weights: 1 for 2 layers"):
        FeatureLoss(network=pyramid, layer_weights=[1.0])(*images)
