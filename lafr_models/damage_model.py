"""DamageModel: trains the net that tells how far a face photo is from its original."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from basicsr.utils import get_root_logger
from torch import Tensor

from lafr_arch.damage_arch import FLOOR, log_error
from lafr_base.registry import MODEL_REGISTRY
from lafr_models.build import build_network
from lafr_models.training import TrainingModel


@MODEL_REGISTRY.register()
class DamageModel(TrainingModel):
    """Train a DamageNet (``network_g``) on DamageDataset.

    The loss is the mean absolute error of the predicted log10 errors: unlike a square, it lets the net say "intact" as
    soon as that is likelier than not. Validation logs, in dB, ``error``, the mean absolute error, and ``intact`` and
    ``damaged``, the mean PSNR predicted where the photo is its own original, and where its true PSNR is below 35 dB.
    At the end the averaged network is written to ``experiments/NAME/damage``.
    """

    def build(self) -> None:
        """Create the net."""
        self.net_g = self.model_to_device(build_network(self.opt["network_g"]))

    def losses(self, data: dict[str, Any], current_iter: int) -> dict[str, Tensor]:
        """Loss of the predicted errors."""
        return {"l_log": (self.net_g(data["lq"]) - log_error(data["lq"], data["gt"])).abs().mean()}

    def restore(self, lq: Tensor) -> Tensor:
        """The net's output (B, 1, H / 16, W / 16), log10 of the squared error."""
        output: Tensor = self.bare_g(lq)
        return output

    def nondist_validation(self, dataloader: Any, current_iter: int, tb_logger: Any, save_img: bool) -> None:  # noqa: ANN401
        """Log what the class describes over a set, also as ``self.metric_results``; there are no pictures to save."""
        name = dataloader.dataset.opt["name"]
        predicted, true = [], []
        for data in dataloader:
            self.feed_data(data)
            self.test()
            predicted.append(-10 * self.output.flatten())
            true.append(-10 * log_error(self.data["lq"], self.data["gt"]).flatten())
        found, truth = torch.cat(predicted), torch.cat(true)
        intact, damaged = truth >= -10 * torch.tensor(FLOOR).log10() - 0.01, truth < 35
        self.metric_results = {
            "error": (found - truth).abs().mean().item(),
            "intact": found[intact].mean().item(),
            "damaged": found[damaged].mean().item(),
        }
        values = ", ".join(f"{key} {value:.2f} dB" for key, value in self.metric_results.items())
        get_root_logger().info(f"Validation {name}, iteration {current_iter}: {values}")
        if tb_logger:
            for key, value in self.metric_results.items():
                tb_logger.add_scalar(f"metrics/{name}/{key}", value, current_iter)

    def write_result(self, folder: Path) -> str:
        self.bare_g.save_pretrained(folder / "damage")
        return "damage"
