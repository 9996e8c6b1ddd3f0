"""Identity losses: the same person for CLIP (LAFR, section 2.4), ArcFace (OSDFace, GFPGAN) or MobileFaceNet."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from lafr_arch.arcface_arch import ArcFaceResNet18
from lafr_arch.ip_adapter_encoder_arch import CLIPImageEncoder
from lafr_arch.recognition import MobileFaceNetFace
from lafr_base.registry import LOSS_REGISTRY
from lafr_base.weights import require
from lafr_losses.common import (
    FrozenLoss,
    check_choice,
    distance,
    full_precision,
    load_net,
    resize,
)

# Weights of red, green and blue in the gray image, as GFPGAN and VQFR take them (ITU-R 601).
_GRAY = (0.2989, 0.5870, 0.1140)


@LOSS_REGISTRY.register()
class IdentityCLIPLoss(FrozenLoss):
    """Distance between CLIP image embeddings: ``1 - cos(CLIP(pred), CLIP(target))`` (LAFR, eq. 1).

    By :class:`~lafr_arch.ip_adapter_encoder_arch.CLIPImageEncoder`, by default IP-Adapter's (ViT-H/14, 632M
    parameters).

    ``type: IdentityCLIPLoss`` in YAML::

        identity_opt:
          type: IdentityCLIPLoss
          distance: cos
          dtype: bf16
          loss_weight: 1.0

    Args:
        model: folder in transformers layout, hub id (looked up in the local cache) or a name of ``lafr weights``;
            ``clip-image-encoder`` by default.
        distance: ``cos``, or ``l2``: mean squared difference of the embeddings' elements.
        dtype: ``fp32``, ``bf16`` or ``fp16`` for the encoder; the distance itself is taken in float32.
        loss_weight: multiplies the result.

    Raises:
        lafr_base.weights.MissingWeightsError: the encoder is not there.
        ValueError: an option has no valid value.
    """

    whole_face = True

    def __init__(
        self,
        model: str | None = None,
        distance: Literal["cos", "l2"] = "cos",
        dtype: Literal["fp32", "bf16", "fp16", "float32", "bfloat16", "float16"] = "fp32",
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__()
        check_choice("IdentityCLIPLoss", "distance", distance, ("cos", "l2"))
        self.encoder = CLIPImageEncoder(model, dtype)
        self.distance = distance
        self.loss_weight = loss_weight

    @classmethod
    def required_weights(cls, model: str | None = None, **_: object) -> list[str]:
        """Weights these options need; see :meth:`FrozenLoss.required_weights`."""
        return CLIPImageEncoder.required_weights(model)

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """Images (B, 3, H, W) RGB in [0, 1] to a scalar: mean over the batch. The target takes no gradient."""
        with torch.autocast(pred.device.type, enabled=False):
            loss = distance(self.distance, self.encoder(pred), self.encoder(target.detach()))
            return self.loss_weight * loss


@LOSS_REGISTRY.register()
class ArcFaceLoss(FrozenLoss):
    """Distance between ArcFace embeddings of gray 128 x 128 faces, GFPGAN's and VQFR's identity net.

    Faces are resized with an antialiased filter: the plain bilinear one of GFPGAN gives a gradient to one pixel in
    four only.

    ``type: ArcFaceLoss`` in YAML::

        identity_opt:
          type: ArcFaceLoss
          distance: cos
          loss_weight: 0.1

    Args:
        path: ``arcface_resnet18.pth``, or a name of ``lafr weights``; ``arcface-resnet18`` by default.
        distance: ``cos`` (OSDFace), ``l1`` (mean absolute difference of the embeddings, GFPGAN) or ``l2``.
        loss_weight: multiplies the result.

    Raises:
        lafr_base.weights.MissingWeightsError: the file is not there.
        ValueError: an option has no valid value, or the file holds another net.
    """

    whole_face = True
    gray: Tensor

    def __init__(
        self, path: str | None = None, distance: Literal["cos", "l1", "l2"] = "cos", loss_weight: float = 1.0
    ) -> None:
        super().__init__()
        check_choice("ArcFaceLoss", "distance", distance, ("cos", "l1", "l2"))
        (name,) = self.required_weights(path)
        self.network = load_net(ArcFaceResNet18, require(name))
        self.distance = distance
        self.loss_weight = loss_weight
        self.register_buffer("gray", torch.tensor(_GRAY).view(1, 3, 1, 1), persistent=False)

    @classmethod
    def required_weights(cls, path: str | None = None, **_: object) -> list[str]:
        """Weights these options need; see :meth:`FrozenLoss.required_weights`."""
        return [path or "arcface-resnet18"]

    def embed(self, x: Tensor) -> Tensor:
        """Aligned faces (B, 3, H, W) RGB in [0, 1] -> embeddings (B, 512), not normalised."""
        gray = (full_precision(x) * self.gray).sum(dim=1, keepdim=True)
        return self.network(2 * resize(gray, 128) - 1)

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """Images (B, 3, H, W) RGB in [0, 1] to a scalar: mean over the batch. The target takes no gradient."""
        with torch.autocast(pred.device.type, enabled=False):
            loss = distance(self.distance, self.embed(pred), self.embed(target.detach()))
            return self.loss_weight * loss


@LOSS_REGISTRY.register()
class MobileFaceNetLoss(FrozenLoss):
    """Distance between MobileFaceNet embeddings of the faces' recognition crops: a small net (1M parameters) for CPUs.

    ``type: MobileFaceNetLoss`` in YAML::

        identity_opt:
          type: MobileFaceNetLoss
          distance: cos
          loss_weight: 0.1

    Args:
        path: ``068.ckpt`` of MobileFaceNet_Pytorch, or a name of ``lafr weights``; ``mobilefacenet`` by default.
        distance: ``cos`` or ``l2``.
        loss_weight: multiplies the result.

    Raises:
        lafr_base.weights.MissingWeightsError: the file is not there.
        ValueError: an option has no valid value, or the file holds another net.
    """

    whole_face = True

    def __init__(
        self, path: str | None = None, distance: Literal["cos", "l2"] = "cos", loss_weight: float = 1.0
    ) -> None:
        super().__init__()
        check_choice("MobileFaceNetLoss", "distance", distance, ("cos", "l2"))
        (name,) = self.required_weights(path)
        self.face = MobileFaceNetFace(name)
        self.distance = distance
        self.loss_weight = loss_weight

    @classmethod
    def required_weights(cls, path: str | None = None, **_: object) -> list[str]:
        """Weights these options need; see :meth:`FrozenLoss.required_weights`."""
        return [path or "mobilefacenet"]

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """Aligned faces (B, 3, S, S) RGB in [0, 1] to a scalar: mean over the batch. The target takes no gradient."""
        with torch.autocast(pred.device.type, enabled=False):
            loss = distance(self.distance, self.face(full_precision(pred)), self.face(full_precision(target.detach())))
            return self.loss_weight * loss
