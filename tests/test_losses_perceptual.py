from __future__ import annotations

from pathlib import Path

import lpips
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from lafr_base.weights import MissingWeightsError
from lafr_losses.backbones import alexnet_features, backbone, vgg16_features
from lafr_losses.dists_loss import DISTSLoss, l2_pool, sobel_magnitude
from lafr_losses.lpips_loss import LPIPSLoss


def pair(size: int, batch: int = 2) -> tuple[Tensor, Tensor]:
    return torch.rand(batch, 3, size, size), torch.rand(batch, 3, size, size)


def check_slope(loss: nn.Module, size: int) -> None:
    """Compare the gradient of a float64 loss with a central difference along it."""
    target, pred = pair(size, 1)
    target, pred = target.double(), pred.double().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(pred, target), pred)
    direction, step = gradient / gradient.norm(), 1e-6
    with torch.no_grad():
        slope = (loss(pred + step * direction, target) - loss(pred - step * direction, target)) / (2 * step)
    assert slope.item() == pytest.approx((gradient * direction).sum().item(), rel=1e-4)


def test_backbones_have_torchvisions_names_and_shapes():
    from torchvision.models import alexnet, vgg16

    for ours, theirs in ((vgg16_features, vgg16), (alexnet_features, alexnet)):
        with torch.device("meta"):
            expected, found = theirs().features.state_dict(), ours().state_dict()
        assert {k: v.shape for k, v in found.items()} == {k: v.shape for k, v in expected.items()}


@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_lpips_equals_the_package(net: str, monkeypatch: pytest.MonkeyPatch):
    ours = LPIPSLoss(net=net, random_backbone=True)

    class Slices(nn.Module):
        """The package's backbone: five outputs, here of our features."""

        def __init__(self, **_: object) -> None:
            super().__init__()
            self.features = ours.features

        def forward(self, x: Tensor) -> list[Tensor]:
            maps = []
            for layer in self.features:
                x = layer(x)
                maps.append(x)
            return [maps[i] for i in ours.stages]

    monkeypatch.setattr(lpips.pn, "vgg16" if net == "vgg" else "alexnet", Slices)
    package = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
    pred, target = pair(64)
    assert ours(pred, target).item() == pytest.approx(package(pred, target, normalize=True).mean().item(), rel=1e-4)


def test_lpips_stages_are_the_packages(monkeypatch: pytest.MonkeyPatch):
    from torchvision.models import alexnet

    with torch.device("meta"):
        features = alexnet().features
    monkeypatch.setattr(lpips.pretrained_networks.tv, "alexnet", lambda **_: nn.Module())
    slices = nn.Module()
    slices.features = features
    monkeypatch.setattr(lpips.pretrained_networks.tv, "alexnet", lambda **_: slices)
    net = lpips.pretrained_networks.alexnet()
    last = [int(list(getattr(net, f"slice{i}")._modules)[-1]) for i in range(1, 6)]
    assert LPIPSLoss(net="alex", random_backbone=True).stages == tuple(last)


def test_lpips_options(tmp_path: Path):
    pred, target = pair(48)
    base = LPIPSLoss(net="alex", random_backbone=True)(pred, target)
    assert LPIPSLoss(net="alex", random_backbone=True, loss_weight=2.0)(pred, target).item() == 2 * base.item()
    torch.manual_seed(7)
    other = {f"features.{k}": v for k, v in alexnet_features().state_dict().items()}
    torch.save({**other, "classifier.1.weight": torch.zeros(1)}, tmp_path / "alexnet.pth")
    loaded = LPIPSLoss(net="alex", backbone_path=str(tmp_path / "alexnet.pth"))
    torch.testing.assert_close(loaded.features[0].weight, other["features.0.weight"], rtol=0, atol=0)
    assert loaded(pred, target).item() != pytest.approx(base.item(), rel=1e-4)


def test_lpips_gradient():
    check_slope(LPIPSLoss(net="alex", random_backbone=True).double(), 48)
    black = torch.zeros(1, 3, 48, 48, requires_grad=True)
    loss = LPIPSLoss(net="alex", random_backbone=True)
    for p in loss.features.parameters():
        p.zero_()  # all channels zero: the package's gradient is not a number here
    loss(black, torch.rand(1, 3, 48, 48)).backward()
    assert torch.isfinite(black.grad).all()


def test_frozen_and_full_precision():
    loss = LPIPSLoss(net="alex", random_backbone=True).train()
    assert not any(p.requires_grad for p in loss.parameters())
    pred, target = pair(48)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert loss(pred, target).item() == loss(pred, target).item()
    assert loss(pred.bfloat16(), target).dtype == torch.float32


def official_dists(loss: DISTSLoss, x: Tensor, y: Tensor) -> Tensor:
    """DISTS by the formulas of its paper (eqs. 5 to 7), channel by channel in float64, one image."""
    window = np.hanning(5)[1:-1]
    kernel = torch.from_numpy(np.outer(window, window) / np.outer(window, window).sum())

    def maps(image: Tensor) -> list[Tensor]:
        result = [image]
        h = (image - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / torch.tensor([0.229, 0.224, 0.225])[
            :, None, None
        ]
        for i, layer in enumerate(loss.features[:30]):
            if i in (4, 9, 16, 23):
                channels = [F.conv2d(c[None, None] ** 2, kernel[None, None], stride=2, padding=1)[0, 0] for c in h]
                h = (torch.stack(channels) + 1e-12).sqrt()
            else:
                h = layer(h[None])[0]
            if i in (3, 8, 15, 22, 29):
                result.append(h)
        return result

    total, k = torch.zeros((), dtype=torch.float64), 0
    for a, b in zip(maps(x), maps(y), strict=True):
        for p, q in zip(a, b, strict=True):
            texture = (2 * p.mean() * q.mean() + 1e-6) / (p.mean() ** 2 + q.mean() ** 2 + 1e-6)
            covariance = ((p - p.mean()) * (q - q.mean())).mean()
            structure = (2 * covariance + 1e-6) / (p.var(correction=0) + q.var(correction=0) + 1e-6)
            total += loss.alpha[0, k, 0, 0] * texture + loss.beta[0, k, 0, 0] * structure
            k += 1
    return 1 - total


@pytest.fixture
def dists_files(tmp_path: Path) -> dict[str, str]:
    state = {"alpha": torch.rand(1, 1475, 1, 1), "beta": torch.rand(1, 1475, 1, 1)}
    torch.save(state, tmp_path / "weights.pt")
    vgg = backbone("vgg", None)
    torch.save({f"features.{k}": v for k, v in vgg.state_dict().items()}, tmp_path / "vgg16.pth")
    return {"weights_path": str(tmp_path / "weights.pt"), "backbone_path": str(tmp_path / "vgg16.pth")}


def test_dists_against_its_formulas(dists_files: dict[str, str]):
    loss = DISTSLoss(**dists_files).double()
    assert loss.alpha.sum() + loss.beta.sum() == pytest.approx(1)
    pred, target = (x.double() for x in pair(24))
    with torch.no_grad():
        expected = torch.stack([official_dists(loss, a, b) for a, b in zip(pred, target, strict=True)]).mean()
        assert loss(pred, target).item() == pytest.approx(expected.item(), rel=1e-5)
    assert loss(pred, pred).item() == pytest.approx(0, abs=1e-6)


def test_dists_options(dists_files: dict[str, str]):
    pred, target = pair(32)
    read = DISTSLoss(**dists_files)(pred, target)
    uniform = DISTSLoss(random_backbone=True)(pred, target)
    assert read.item() != pytest.approx(uniform.item(), rel=1e-3)  # same backbone, other channel weights
    weighted = DISTSLoss(random_backbone=True, loss_weight=0.5)
    assert weighted(pred, target).item() == pytest.approx(0.5 * uniform.item())
    edges = (sobel_magnitude(x).expand(-1, 3, -1, -1) for x in (pred, target))
    expected = uniform + DISTSLoss(random_backbone=True)(*edges)
    aware = DISTSLoss(random_backbone=True, edge_aware=True)(pred, target)
    assert aware.item() == pytest.approx(expected.item(), rel=1e-5)


def test_sobel_and_l2_pool_by_hand():
    ramp = torch.arange(6.0).expand(1, 3, 6, 6)
    torch.testing.assert_close(sobel_magnitude(ramp)[0, 0, 1:-1, 1:-1], torch.full((4, 4), 8.0))
    torch.testing.assert_close(l2_pool(torch.full((1, 2, 8, 8), 3.0))[0, :, 1:, 1:], torch.full((2, 3, 3), 3.0))


def test_dists_gradient():
    check_slope(DISTSLoss(random_backbone=True, edge_aware=True).double(), 16)


def test_missing_and_wrong_files_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LAFR_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(MissingWeightsError, match="vgg16-397923af.pth"):
        LPIPSLoss()
    with pytest.raises(MissingWeightsError, match="DISTS_weights"):
        DISTSLoss()
    torch.save({"features.0.weight": torch.zeros(1)}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match="x.pth is not a Sequential"):
        LPIPSLoss(backbone_path=str(tmp_path / "x.pth"))
    with pytest.raises(ValueError, match="no alpha and beta"):
        DISTSLoss(weights_path=str(tmp_path / "x.pth"), backbone_path=str(tmp_path / "x.pth"))
    with pytest.raises(ValueError, match="net: 'squeeze' is not one of vgg, alex"):
        LPIPSLoss(net="squeeze")
