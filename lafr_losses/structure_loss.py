"""FacialStructureLoss: the same 3D face, by shape, expression and pose (LAFR, eq. 2)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from lafr_base.registry import LOSS_REGISTRY
from lafr_base.weights import require
from lafr_losses.common import FrozenLoss, check_choice, distance
from lafr_losses.face_models import FEATURES, D3DFRFace, TDDFAFace

_BACKENDS: dict[str, type[D3DFRFace] | type[TDDFAFace]] = {"d3dfr": D3DFRFace, "3ddfa_v2": TDDFAFace}
# Weights of each backend in lafr_base.weights: regressor, face model.
_WEIGHT_NAMES = {"d3dfr": ("d3dfr", "bfm"), "3ddfa_v2": ("3ddfa-v2", "3ddfa-v2-basis")}


@LOSS_REGISTRY.register()
class FacialStructureLoss(FrozenLoss):
    """Distance between the 3D faces that a frozen regressor sees in two FFHQ-aligned images.

    The paper leaves its extractor open. Here the 68 keypoints of the fitted face are turned by its pose, centred,
    and the mean face is taken away, which is what makes persons differ; ``1 - cos`` of the flattened points is
    taken for each image, in float32, and averaged over the batch.

    The only augmentation this loss tolerates is the horizontal flip: regressors know upright faces.

    ``type: FacialStructureLoss`` in YAML::

        structure_opt:
          type: FacialStructureLoss
          backend: d3dfr               # or 3ddfa_v2
          feature: landmarks68         # or vertices, coeff
          distance: cos                # or l2
          loss_weight: 1.0

    Args:
        backend: ``d3dfr``: Deep3DFaceRecon with the Basel Face Model (which needs a registration); ``3ddfa_v2``:
            3DDFA-V2's small net with its 68 keypoints.
        feature: ``landmarks68``, ``vertices`` (all of the model's, d3dfr only) or ``coeff`` (identity, expression and
            rotation coefficients).
        distance: ``cos``, or ``l2``: mean squared difference, points in units of the mean face's radius.
        net_path: the regressor's file (``epoch_20.pth`` or ``mb05_120x120.pth``), or a name of ``lafr weights``;
            ``d3dfr`` or ``3ddfa-v2`` by default.
        face_model_path: the model's file (``BFM_model_front.mat`` or ``3ddfa_68_basis.npz``), or a name of
            ``lafr weights``; ``bfm`` or ``3ddfa-v2-basis`` by default.
        loss_weight: multiplies the result.

    Raises:
        lafr_base.weights.MissingWeightsError: a file is not there.
        ValueError: an option has no valid value, or a file holds something else.
    """

    whole_face = True

    def __init__(
        self,
        backend: str = "d3dfr",
        feature: str = "landmarks68",
        distance: Literal["cos", "l2"] = "cos",
        net_path: str | None = None,
        face_model_path: str | None = None,
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__()
        names = self.required_weights(backend, feature, net_path, face_model_path)
        check_choice("FacialStructureLoss", "distance", distance, ("cos", "l2"))
        self.face = _BACKENDS[backend](*(require(name) for name in names))
        self.feature = feature
        self.distance = distance
        self.loss_weight = loss_weight

    @classmethod
    def required_weights(
        cls,
        backend: str = "d3dfr",
        feature: str = "landmarks68",
        net_path: str | None = None,
        face_model_path: str | None = None,
        **_: object,
    ) -> list[str]:
        """Weights these options need; see :meth:`FrozenLoss.required_weights`."""
        check_choice("FacialStructureLoss", "backend", backend, tuple(_BACKENDS))
        check_choice("FacialStructureLoss", "feature", feature, FEATURES)
        if backend == "3ddfa_v2" and feature == "vertices":
            raise ValueError(
                "FacialStructureLoss: feature: vertices needs backend d3dfr; 3ddfa_v2's basis has 68 keypoints only"
            )
        net, model = _WEIGHT_NAMES[backend]
        return [net_path or net, face_model_path or model]

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """FFHQ-aligned faces (B, 3, S, S) RGB in [0, 1] to a scalar: mean over the batch.

        The target takes no gradient.

        Raises:
            ValueError: the images are not square.
        """
        with torch.autocast(pred.device.type, enabled=False):
            pair = (self.face.feature(self.face.coefficients(x), self.feature) for x in (pred, target.detach()))
            return self.loss_weight * distance(self.distance, *pair)
