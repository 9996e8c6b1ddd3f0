"""FeatureLoss: a perceptual distance in the features of a frozen net that needs no download."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from torch import Tensor, nn

from lafr_base.registry import ARCH_REGISTRY, LOSS_REGISTRY
from lafr_base.weights import require
from lafr_losses.common import (
    FrozenLoss,
    check_choice,
    freeze,
    full_precision,
    load_net,
    normalise_channels,
    read_class_name,
    resize,
)


def _autoencoder(path: str) -> nn.Module:
    from lafr_arch.deployed import is_deployed
    from lafr_arch.lafr_arch import LAFRNet

    folder = require(path)
    if is_deployed(folder):
        autoencoder = LAFRNet.from_pretrained(folder).vae
        name = type(autoencoder).__name__
    else:
        name = read_class_name(folder)
        autoencoder = ARCH_REGISTRY[name].from_pretrained(folder) if name in ARCH_REGISTRY else None
    if not hasattr(autoencoder, "features"):
        raise ValueError(f"FeatureLoss: path: {folder} holds a {name}, which gives no feature maps")
    return autoencoder


def _mobilenet(path: str) -> nn.Module:
    from lafr_arch.mobilenetv1_arch import MobileNetV1

    return load_net(MobileNetV1, require(path))


def _efficientnet(path: str) -> nn.Module:
    from lafr_arch.efficientnet_arch import EfficientNetLite0

    return EfficientNetLite0.from_checkpoint(require(path))


# By backend: how its net is made of a weight's name, that name where no path is given, and the net's input for RGB in
# [0, 1]. 3DDFA-V2 was trained on BGR (255 x - 127.5) / 128, the autoencoder on RGB in [-1, 1].
_BACKENDS: dict[str, tuple[Callable[[str], nn.Module], str | None, Callable[[Tensor], Tensor]]] = {
    "autoencoder": (_autoencoder, None, lambda x: 2 * x - 1),
    "3ddfa_v2": (_mobilenet, "3ddfa-v2", lambda x: (255 * x.flip(1) - 127.5) / 128),
    "efficientnet_lite0": (_efficientnet, "efficientnet-lite0", lambda x: x),
}


@LOSS_REGISTRY.register()
class FeatureLoss(FrozenLoss):
    """Distance between channel-normalised feature maps: LPIPS (Zhang et al., 2018) without learned weights.

    ``type: FeatureLoss`` in YAML::

        perceptual_opt:
          type: FeatureLoss
          backend: 3ddfa_v2            # or autoencoder, efficientnet_lite0
          path: weights/mb05_120x120.pth
          layers: [0, 1, 2, 3]
          layer_weights: [1.0, 1.0, 0.5, 0.5]
          distance: l2
          loss_weight: 1.0

    Args:
        backend: ``autoencoder``: the encoder of a MiniAutoencoder; ``3ddfa_v2``: MobileNetV1 of 3DDFA-V2,
            trained on faces; ``efficientnet_lite0``: EfficientNet-Lite0, trained on ImageNet.
        path: folder of the autoencoder, or of a deployed network that has one; or the file of the others' weights (by
            default ``3ddfa-v2`` and ``efficientnet-lite0`` of ``lafr weights``).
        layers: which of the net's feature maps, by index; negative from the end; all of them by default. The
            MobileNetV1 has five (1/2 to 1/32 of the size), EfficientNet-Lite0 four (1/2 to 1/16).
        layer_weights: one weight a layer; 1 each by default.
        distance: per position, over the normalised channels: ``l2`` sum of squared differences, ``l1`` mean
            absolute difference times the root of the number of channels (both are then of order 1).
        input_size: resize the images to this many pixels a side first; by default they keep their size.
        loss_weight: multiplies the result.
        network: a net instead of ``backend`` and ``path``, from Python: ``network.features(x)`` takes RGB
            in [-1, 1] and returns a list of maps (B, C, H, W).

    Raises:
        ValueError: an option has no valid value.
        lafr_base.weights.MissingWeightsError: there is nothing at ``path``.
    """

    def __init__(
        self,
        backend: str = "autoencoder",
        path: str | None = None,
        layers: Sequence[int] | None = None,
        layer_weights: Sequence[float] | None = None,
        distance: Literal["l1", "l2"] = "l2",
        input_size: int | None = None,
        loss_weight: float = 1.0,
        network: nn.Module | None = None,
    ) -> None:
        super().__init__()
        check_choice("FeatureLoss", "distance", distance, ("l1", "l2"))
        if network is None:
            (name,) = self.required_weights(backend=backend, path=path)
            network = _BACKENDS[backend][0](name)
        else:
            backend = "autoencoder"
        self.network = freeze(network)
        self.backend = backend
        self.layers = None if layers is None else list(layers)
        self.layer_weights = None if layer_weights is None else list(layer_weights)
        self.distance = distance
        self.input_size = input_size
        self.loss_weight = loss_weight

    @classmethod
    def required_weights(cls, backend: str = "autoencoder", path: str | None = None, **_: object) -> list[str]:
        """Weights these options need; see :meth:`FrozenLoss.required_weights`."""
        check_choice("FeatureLoss", "backend", backend, tuple(_BACKENDS))
        name = path or _BACKENDS[backend][1]
        if name is None:
            raise ValueError("FeatureLoss: path: backend autoencoder needs the folder of an autoencoder")
        return [name]

    def _features(self, x: Tensor) -> list[Tensor]:
        x = full_precision(x)
        if self.input_size is not None:
            x = resize(x, self.input_size)
        maps: list[Tensor] = self.network.features(_BACKENDS[self.backend][2](x))  # type: ignore[operator]
        if self.layers is None:
            return maps
        if any(not -len(maps) <= index < len(maps) for index in self.layers):
            raise ValueError(f"FeatureLoss: layers: {self.layers}, but the net has {len(maps)} feature maps")
        return [maps[index] for index in self.layers]

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """Images (B, 3, H, W) RGB in [0, 1] to a scalar: mean over positions and images.

        The target takes no gradient. Under autocast the net runs in half precision, the distance does not.
        """
        pred_maps, target_maps = self._features(pred), self._features(target.detach())
        weights = self.layer_weights or [1.0] * len(pred_maps)
        if len(weights) != len(pred_maps):
            raise ValueError(f"FeatureLoss: layer_weights: {len(weights)} for {len(pred_maps)} layers")
        total = full_precision(pred).new_zeros(())
        for a, b, weight in zip(pred_maps, target_maps, weights, strict=True):
            difference = normalise_channels(full_precision(a)) - normalise_channels(full_precision(b))
            if self.distance == "l2":
                value = difference.square().sum(dim=1).mean()
            else:
                value = difference.abs().mean() * difference.shape[1] ** 0.5
            total = total + weight * value
        return self.loss_weight * total
