"""FacePointModel: trains the five-point alignment net."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from lafr_base.option_keys import REQUIRED, Key
from lafr_base.registry import MODEL_REGISTRY
from lafr_models.net_training import NetTrainingModel


def point_error(points: Tensor, target: Tensor) -> Tensor:
    """Mean distance (B,) of ``points`` (B, 5, 2) from ``target``, over the target's distance between the eyes."""
    distance = (points - target).norm(dim=-1).mean(dim=-1)
    return distance / (target[:, 0] - target[:, 1]).norm(dim=-1)


@MODEL_REGISTRY.register()
class FacePointModel(NetTrainingModel):
    """Train a FacePointNet (``network_g``) on FacePointDataset.

    Losses: ``points_weight`` times the mean absolute error of the faces' points, in fractions of the crop's side, and
    ``face_weight`` times the binary cross-entropy of face or not. Validation logs ``nme``, the
    mean point error over the distance between the eyes, and ``accuracy`` of face or not at logit 0. At the end the
    averaged network is written to ``experiments/NAME/aligner``.
    """

    FOLDER = "aligner"
    TRAIN_KEYS: ClassVar[tuple[Key, ...]] = (
        Key("points_weight", float, REQUIRED, "weight of the points' mean absolute error, in fractions of the crop"),
        Key("face_weight", float, REQUIRED, "weight of the cross-entropy of face or not"),
    )

    def build(self) -> None:
        """Create the net and read the losses' weights."""
        super().build()
        if self.is_train:
            self.points_weight, self.face_weight = self.option("points_weight"), self.option("face_weight")

    def losses(self, data: dict[str, Any], current_iter: int) -> dict[str, Tensor]:
        """Losses of the points and of the verdict."""
        points, logits = self.net_g(data["lq"])
        errors = (points - data["points"]).abs().mean(dim=(1, 2))
        loss_points = (errors * data["face"]).sum() / data["face"].sum().clamp(min=1)
        loss_face = F.binary_cross_entropy_with_logits(logits, data["face"])
        return {"l_points": self.points_weight * loss_points, "l_face": self.face_weight * loss_face}

    def restore(self, lq: Tensor) -> Tensor:
        """The net's output (B, 11): five points x, y in fractions of the crop's side, then the face logit."""
        points, logits = self.bare_g(lq)
        return torch.cat([points.flatten(1), logits[:, None]], dim=1)

    def measure(self, dataloader: Any) -> dict[str, float]:  # noqa: ANN401
        """``nme`` and ``accuracy`` of a set."""
        errors, correct = [], []
        for output in self.outputs(dataloader):
            points, logits = output[:, :10].view(-1, 5, 2), output[:, 10]
            face = self.data["face"] > 0.5
            errors.append(point_error(points[face], self.data["points"][face]))
            correct.append((logits > 0) == face)
        return {"nme": torch.cat(errors).mean().item(), "accuracy": torch.cat(correct).float().mean().item()}
