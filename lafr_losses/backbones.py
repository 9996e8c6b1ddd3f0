"""ImageNet feature extractors of LPIPS and DISTS, without their classifiers (which are most of the parameters)."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from lafr_base.checkpoints import read_state
from lafr_losses.common import freeze, load_strict

# Channel means and deviations of ImageNet, as torchvision's nets expect them, for images in [0, 1].
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# Weights in lafr_base.weights, by backbone.
WEIGHT_NAMES = {"vgg": "vgg16", "alex": "alexnet"}


def vgg16_features() -> nn.Sequential:
    """Convolutions of VGG-16 (Simonyan and Zisserman, 2014), numbered as torchvision's ``vgg16().features``."""
    layers: list[nn.Module] = []
    channels = 3
    for width, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(count):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
            channels = width
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers)


def alexnet_features() -> nn.Sequential:
    """Convolutions of AlexNet (Krizhevsky, 2014), numbered as torchvision's ``alexnet().features``."""
    return nn.Sequential(
        nn.Conv2d(3, 64, 11, stride=4, padding=2), nn.ReLU(), nn.MaxPool2d(3, stride=2),
        nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, stride=2),
        nn.Conv2d(192, 384, 3, padding=1), nn.ReLU(),
        nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(),
        nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(),
    )  # fmt: skip


def backbone(net: str, path: Path | None) -> nn.Sequential:
    """Frozen features of ``vgg`` or ``alex``.

    Args:
        net: which.
        path: torchvision's file of weights, classifier and all; None for weights drawn from a fixed seed, for tests.

    Raises:
        ValueError: the file holds other weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        features = vgg16_features() if net == "vgg" else alexnet_features()
    if path is not None:
        state = read_state(path)
        prefix = "features."
        convolutions = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        load_strict(features, convolutions, path)
    return freeze(features)


def imagenet_normalise(x: Tensor) -> Tensor:
    """[0, 1] to ImageNet's zero mean and unit deviation, (B, 3, H, W)."""
    mean, std = (x.new_tensor(v).view(1, 3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    return (x - mean) / std
