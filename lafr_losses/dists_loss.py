"""DISTSLoss: deep image structure and texture similarity."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from lafr_base.checkpoints import read_state
from lafr_base.registry import LOSS_REGISTRY
from lafr_base.weights import require
from lafr_losses.backbones import backbone, imagenet_normalise
from lafr_losses.common import FrozenLoss, full_precision

_CHANNELS = (3, 64, 128, 256, 512, 512)
_STAGES = (3, 8, 15, 22, 29)
_C1 = _C2 = 1e-6


def l2_pool(x: Tensor) -> Tensor:
    """Halve the size by a 3x3 Hanning window over the squares and the root (Henaff and Simoncelli, 2015)."""
    window = x.new_tensor([0.25, 0.5, 0.25])
    kernel = (window[:, None] * window).expand(x.shape[1], 1, 3, 3)
    return (F.conv2d(x.square(), kernel, stride=2, padding=1, groups=x.shape[1]) + 1e-12).sqrt()


def sobel_magnitude(x: Tensor) -> Tensor:
    """Edge strength of the mean of the channels, (B, 3, H, W) -> (B, 1, H, W)."""
    slope = x.new_tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]])
    kernels = torch.stack([slope, slope.T]).unsqueeze(1)
    edges = F.conv2d(x.mean(dim=1, keepdim=True), kernels, padding=1)
    return (edges.square().sum(dim=1, keepdim=True) + 1e-6).sqrt()


@LOSS_REGISTRY.register()
class DISTSLoss(FrozenLoss):
    """DISTS (Ding et al., TPAMI 2020): means and covariances of VGG-16 features, weighted by channel.

    ``type: DISTSLoss`` in YAML::

        perceptual_opt:
          type: DISTSLoss
          edge_aware: true
          loss_weight: 1.0

    Args:
        weights_path: file with the channel weights ``alpha`` and ``beta``, of DISTS or pyiqa, or a name of
            ``lafr weights``; ``dists`` by default.
        backbone_path: torchvision's VGG-16 file, or a name of ``lafr weights``; ``vgg16`` by default.
        edge_aware: add the DISTS of the images' Sobel edges, as OSDFace (Wang et al., CVPR 2025) does.
        random_backbone: draw VGG's weights from a fixed seed and weight all channels alike, reading no file. For
            tests: the result is no DISTS.
        loss_weight: multiplies the result.

    Raises:
        lafr_base.weights.MissingWeightsError: a file is not there.
        ValueError: a file holds other weights.
    """

    alpha: Tensor
    beta: Tensor

    def __init__(
        self,
        weights_path: str | None = None,
        backbone_path: str | None = None,
        edge_aware: bool = False,
        random_backbone: bool = False,
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__()
        names = self.required_weights(weights_path, backbone_path, random_backbone)
        alpha = beta = torch.ones(1, sum(_CHANNELS), 1, 1)
        if names:
            file = require(names[0])
            state = read_state(file)
            if any(name not in state or state[name].shape != alpha.shape for name in ("alpha", "beta")):
                raise ValueError(f"{file} has no alpha and beta of shape {tuple(alpha.shape)}: not DISTS's weights")
            alpha, beta = state["alpha"], state["beta"]
        total = alpha.sum() + beta.sum()
        self.register_buffer("alpha", (alpha / total).detach())
        self.register_buffer("beta", (beta / total).detach())
        self.features = backbone("vgg", require(names[1]) if names else None)
        self.edge_aware = edge_aware
        self.loss_weight = loss_weight

    @classmethod
    def required_weights(
        cls,
        weights_path: str | None = None,
        backbone_path: str | None = None,
        random_backbone: bool = False,
        **_: object,
    ) -> list[str]:
        """Weights these options need; see :meth:`FrozenLoss.required_weights`."""
        return [] if random_backbone else [weights_path or "dists", backbone_path or "vgg16"]

    def _maps(self, x: Tensor) -> Iterator[Tensor]:
        yield x
        x = imagenet_normalise(x)
        for i, layer in enumerate(self.features):
            x = l2_pool(x) if isinstance(layer, nn.MaxPool2d) else layer(x)
            if i in _STAGES:
                yield x
            if i == _STAGES[-1]:
                return

    def _dists(self, pred: Tensor, target: Tensor) -> Tensor:
        similarity = pred.new_zeros(pred.shape[0])
        alpha, beta = self.alpha.split(_CHANNELS, dim=1), self.beta.split(_CHANNELS, dim=1)
        for x, y, a, b in zip(self._maps(pred), self._maps(target), alpha, beta, strict=True):
            x_mean, y_mean = x.mean((2, 3), keepdim=True), y.mean((2, 3), keepdim=True)
            x_var, y_var = (x - x_mean).square().mean((2, 3)), (y - y_mean).square().mean((2, 3))
            covariance = (x * y).mean((2, 3)) - (x_mean * y_mean)[:, :, 0, 0]
            texture = (2 * x_mean * y_mean + _C1) / (x_mean.square() + y_mean.square() + _C1)
            structure = (2 * covariance + _C2) / (x_var + y_var + _C2)
            similarity = similarity + (a * texture).sum((1, 2, 3)) + (b[:, :, 0, 0] * structure).sum(1)
        return (1 - similarity).mean()

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """Images (B, 3, H, W) RGB in [0, 1] to a scalar: mean over the batch. The target takes no gradient."""
        with torch.autocast(pred.device.type, enabled=False):
            pred, target = full_precision(pred), full_precision(target.detach())
            loss = self._dists(pred, target)
            if self.edge_aware:
                edges = (sobel_magnitude(x).expand(-1, 3, -1, -1) for x in (pred, target))
                loss = loss + self._dists(*edges)
            return self.loss_weight * loss
