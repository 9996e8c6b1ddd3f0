"""FaceDetectionModel: trains the face detection net."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import torch
from basicsr.utils import get_root_logger
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from lafr_arch.detector_arch import RADII, STRIDE, cell_centres, peaks
from lafr_base.option_keys import REQUIRED, Key
from lafr_base.registry import MODEL_REGISTRY
from lafr_models.build import build_network
from lafr_models.training import TrainingModel

IGNORED = (0.6, 1.5)
"""Faces beyond `RADII` by factors up to these are neither asked for nor held against the net."""
NEAR = 0.6
"""Distance from a face's centre, in its radii, up to which cells learn its points, and up to which it is found."""


def radii(points: Tensor) -> Tensor:
    """RMS distances (...) of points (..., 5, 2) from their mean, in pixels."""
    return (points - points.mean(dim=-2, keepdim=True)).square().sum(dim=-1).mean(dim=-1).sqrt()


def targets(points: Tensor, rows: int, columns: int) -> dict[str, Tensor]:
    """What the net should say of scenes.

    Args:
        points: (B, K, 5, 2) pixels; faces that a scene lacks are zero throughout.
        rows: of the output.
        columns: of the output.

    Returns:
        heat (B, rows, columns): 1 in the cell nearest to a face's centre, falling as a Gaussian around it.
        weight (B, rows, columns): 0 where faces lie that are too small or too large to count.
        face (B, rows, columns): index of the nearest face that counts.
        near (B, rows, columns): whether it is near enough to learn its points here.
    """
    centre, radius = points.mean(dim=-2), radii(points)
    low, high = RADII
    counts = (radius >= low) & (radius <= high)
    ignored = ~counts & (radius >= low * IGNORED[0]) & (radius <= high * IGNORED[1])
    cells = cell_centres(rows, columns, points.device)
    nearest = ((centre + 0.5) / STRIDE).floor().clamp(min=0) * STRIDE + (STRIDE - 1) / 2
    inside = (centre + 0.5 < torch.tensor([columns, rows], device=centre.device) * STRIDE).all(-1)
    inside &= (centre > -0.5).all(-1)
    # (B, K, rows, columns)
    distance = (cells - nearest[:, :, None, None]).norm(dim=-1)
    sigma = (0.3 * radius).clamp(min=0.5 * STRIDE)[..., None, None]
    heat = torch.exp(-distance.square() / (2 * sigma.square())) * (counts & inside)[..., None, None]
    relative = (cells - centre[:, :, None, None]).norm(dim=-1) / radius.clamp(min=1e-3)[..., None, None]
    weight = 1 - ((relative < 1.5) & ignored[..., None, None]).any(dim=1).float()
    relative = relative.masked_fill(~counts[..., None, None], torch.inf)
    least, face = relative.min(dim=1)
    heat = heat.amax(dim=1)
    return {
        "heat": heat,
        "weight": torch.maximum(weight, (heat > 0.99).float()),
        "face": face,
        "near": (least < NEAR) | (heat > 0.99),
    }


@MODEL_REGISTRY.register()
class FaceDetectionModel(TrainingModel):
    """Train a FaceDetectionNet (``network_g``) on FaceSceneDataset.

    Losses: ``heat_weight`` times the focal loss of the centres (Law and Deng 2018, "CornerNet"), over the number of
    faces, and ``points_weight`` times the mean absolute error of the points in radii of their face. Validation logs
    ``found``, the share of faces found at logit 0 with their centre right, ``false``, other places a scene that are
    taken for a face, and ``nme``, the found faces' mean point error over the distance between the eyes. At the end the
    averaged network is written to ``experiments/NAME/detector``.
    """

    TRAIN_KEYS: ClassVar[tuple[Key, ...]] = (
        Key("heat_weight", float, REQUIRED, "weight of the focal loss of the centres"),
        Key("points_weight", float, REQUIRED, "weight of the points' mean absolute error, in radii of their face"),
    )

    def build(self) -> None:
        """Create the net and read the losses' weights."""
        self.net_g = self.model_to_device(build_network(self.opt["network_g"]))
        if self.is_train:
            self.heat_weight, self.points_weight = self.option("heat_weight"), self.option("points_weight")

    def losses(self, data: dict[str, Any], current_iter: int) -> dict[str, Tensor]:
        """Losses of the heat map and of the points."""
        logits, points = self.net_g(data["lq"])
        with torch.autocast(self.device.type, enabled=False):
            truth = data["points"]
            wanted = targets(truth, *logits.shape[1:])
            heat, share = wanted["heat"], logits.sigmoid()
            peak = (heat > 0.99).float()
            hit = F.softplus(-logits) * (1 - share).square() * peak
            miss = F.softplus(logits) * share.square() * (1 - heat).pow(4) * (1 - peak)
            loss_heat = ((hit + miss) * wanted["weight"]).sum() / peak.sum().clamp(min=1)
            batch, row, column = wanted["near"].nonzero(as_tuple=True)
            target = truth[batch, wanted["face"][batch, row, column]]
            error = (points[batch, row, column] - target).abs().mean(dim=(1, 2)) / radii(target).clamp(min=1)
            loss_points = error.sum() / max(len(error), 1)
        return {"l_heat": self.heat_weight * loss_heat, "l_points": self.points_weight * loss_points}

    def restore(self, lq: Tensor) -> Tensor:
        """The net's output (B, H / 4, W / 4, 11): the logit of each cell, then five points x, y in pixels."""
        logits, points = self.bare_g(lq)
        return torch.cat([logits[..., None], points.flatten(-2)], dim=-1)

    def nondist_validation(self, dataloader: Any, current_iter: int, tb_logger: Any, save_img: bool) -> None:  # noqa: ANN401
        """Log the figures over a set, also as ``self.metric_results``; there are no pictures to save."""
        name = dataloader.dataset.opt["name"]
        faces = found = false = scenes = 0
        errors: list[Tensor] = []
        for data in dataloader:
            self.feed_data(data)
            self.test()
            truth = self.data["points"]
            wanted = targets(truth, *self.output.shape[1:3])
            batch, row, column = peaks(self.output[..., 0], 0.0)
            predicted = self.output[batch, row, column, 1:].unflatten(-1, (5, 2))
            own = truth[batch]  # (N, K, 5, 2)
            distance = (own.mean(-2) - predicted.mean(-2)[:, None]).norm(dim=-1) / radii(own).clamp(min=1e-3)
            size = radii(own)
            distance = distance.masked_fill((size < RADII[0]) | (size > RADII[1]), torch.inf)
            least, face = distance.min(dim=1)
            right = least < NEAR
            false += int((~right & (wanted["weight"][batch, row, column] > 0)).sum())
            found += len({(int(b), int(f)) for b, f in zip(batch[right], face[right], strict=True)})
            size = radii(truth)
            faces += int(((size >= RADII[0]) & (size <= RADII[1])).sum())
            scenes += len(truth)
            matched = truth[batch[right], face[right]]
            error = (predicted[right] - matched).norm(dim=-1).mean(dim=-1)
            errors.append(error / (matched[:, 0] - matched[:, 1]).norm(dim=-1).clamp(min=1e-3))
        every = torch.cat(errors)
        self.metric_results = {
            "found": found / max(faces, 1),
            "false": false / max(scenes, 1),
            "nme": every.mean().item() if len(every) else float("nan"),
        }
        values = ", ".join(f"{key} {value:.4f}" for key, value in self.metric_results.items())
        get_root_logger().info(f"Validation {name}, iteration {current_iter}: {values}")
        if tb_logger:
            for key, value in self.metric_results.items():
                tb_logger.add_scalar(f"metrics/{name}/{key}", value, current_iter)

    def write_result(self, folder: Path) -> str:
        self.bare_g.save_pretrained(folder / "detector")
        return "detector"
