"""DamageModel: trains the net that tells how far a face photo is from its original."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lafr_arch.damage_arch import FLOOR, log_error
from lafr_base.registry import MODEL_REGISTRY
from lafr_models.net_training import NetTrainingModel


@MODEL_REGISTRY.register()
class DamageModel(NetTrainingModel):
    """Train a DamageNet (``network_g``) on DamageDataset.

    The loss is the mean absolute error of the predicted log10 errors: unlike a square, it lets the net say "intact" as
    soon as that is likelier than not. Validation logs, in dB, ``error``, the mean absolute error, and ``intact`` and
    ``damaged``, the mean PSNR predicted where the photo is its own original, and where its true PSNR is below 35 dB.
    At the end the averaged network is written to ``experiments/NAME/damage``.
    """

    FOLDER = "damage"

    def losses(self, data: dict[str, Any], current_iter: int) -> dict[str, Tensor]:
        """Loss of the predicted errors."""
        return {"l_log": (self.net_g(data["lq"]) - log_error(data["lq"], data["gt"])).abs().mean()}

    def measure(self, dataloader: Any) -> dict[str, float]:  # noqa: ANN401
        """What the class describes, of a set."""
        predicted, true = [], []
        for output in self.outputs(dataloader):
            predicted.append(-10 * output.flatten())
            true.append(-10 * log_error(self.data["lq"], self.data["gt"]).flatten())
        found, truth = torch.cat(predicted), torch.cat(true)
        intact, damaged = truth >= -10 * torch.tensor(FLOOR).log10() - 0.01, truth < 35
        return {
            "error": (found - truth).abs().mean().item(),
            "intact": found[intact].mean().item(),
            "damaged": found[damaged].mean().item(),
        }
