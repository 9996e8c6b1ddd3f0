"""LPIPSLoss: learned perceptual image patch similarity."""

from __future__ import annotations

from importlib.resources import as_file, files

import torch
from torch import Tensor, nn

from lafr_base.checkpoints import read_state
from lafr_base.registry import LOSS_REGISTRY
from lafr_base.weights import require
from lafr_losses.backbones import WEIGHT_NAMES, backbone
from lafr_losses.common import FrozenLoss, check_choice, full_precision, normalise_channels

# Last layer of each stage (after its ReLU), by index of the backbone's Sequential.
_STAGES = {"vgg": (3, 8, 15, 22, 29), "alex": (1, 4, 7, 9, 11)}
# The input scaling of lpips 0.1, for images in [-1, 1].
_SHIFT = (-0.030, -0.088, -0.188)
_SCALE = (0.458, 0.448, 0.450)


@LOSS_REGISTRY.register()
class LPIPSLoss(FrozenLoss):
    """LPIPS 0.1 (Zhang et al., CVPR 2018), equal to the ``lpips`` package's, whose learned linear layers it reads.

    Unlike the package it fetches nothing, computes no graph for the target and has a finite gradient where a ReLU
    leaves all channels zero.

    ``type: LPIPSLoss`` in YAML::

        perceptual_opt:
          type: LPIPSLoss
          net: vgg
          loss_weight: 2.0

    Args:
        net: backbone, ``vgg`` or ``alex``.
        backbone_path: torchvision's file of the backbone's weights, or a name of ``lafr weights``; ``vgg16`` or
            ``alexnet`` from the weights folder by default.
        random_backbone: draw the backbone's weights from a fixed seed instead. For tests: the result is no LPIPS.
        loss_weight: multiplies the result.

    Raises:
        lafr_base.weights.MissingWeightsError: the backbone's file is not there.
        ValueError: an option has no valid value, or the file holds other weights.
    """

    shift: Tensor
    scale: Tensor

    def __init__(
        self,
        net: str = "vgg",
        backbone_path: str | None = None,
        random_backbone: bool = False,
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__()
        names = self.required_weights(net=net, backbone_path=backbone_path, random_backbone=random_backbone)
        self.features = backbone(net, require(names[0]) if names else None)
        self.stages = _STAGES[net]
        with as_file(files("lpips") / "weights" / "v0.1" / f"{net}.pth") as path:
            linear = read_state(path)
        self.linear = nn.ParameterList(linear[f"lin{i}.model.1.weight"] for i in range(len(self.stages)))
        self.linear.requires_grad_(False)
        self.register_buffer("shift", torch.tensor(_SHIFT).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(_SCALE).view(1, 3, 1, 1), persistent=False)
        self.loss_weight = loss_weight

    @classmethod
    def required_weights(
        cls, net: str = "vgg", backbone_path: str | None = None, random_backbone: bool = False, **_: object
    ) -> list[str]:
        """Weights these options need; see :meth:`FrozenLoss.required_weights`."""
        check_choice("LPIPSLoss", "net", net, tuple(_STAGES))
        return [] if random_backbone else [backbone_path or WEIGHT_NAMES[net]]

    def _maps(self, x: Tensor) -> list[Tensor]:
        x = (2 * full_precision(x) - 1 - self.shift) / self.scale
        maps = []
        for i, layer in enumerate(self.features):
            x = layer(x)
            if i in self.stages:
                maps.append(normalise_channels(x))
            if i == self.stages[-1]:
                break
        return maps

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """Images (B, 3, H, W) RGB in [0, 1] to a scalar: mean over the batch. The target takes no gradient."""
        with torch.autocast(pred.device.type, enabled=False):
            pairs = zip(self._maps(pred), self._maps(target.detach()), self.linear, strict=True)
            stages = [(weight * (a - b).square()).sum(dim=1).mean() for a, b, weight in pairs]
            return self.loss_weight * torch.stack(stages).sum()
