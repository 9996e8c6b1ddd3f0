"""Validation of a training stage: restored pictures, their metrics, and the best of them so far."""

from __future__ import annotations

from abc import abstractmethod
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import torch
from basicsr.metrics import calculate_metric
from basicsr.models.base_model import BaseModel
from basicsr.utils import get_root_logger, imwrite, tensor2img
from torch import Tensor
from tqdm import tqdm

from lafr_metrics.validation import SetMeasurement, is_of_sets
from lafr_models.training_time import Stopwatch

_PICTURES = 4


class ValidatingModel(BaseModel):
    """A BasicSR model that restores the faces of a set and measures them."""

    net_g: Any
    data: dict[str, Any]
    output: Tensor
    stopwatch: Stopwatch
    best_metric_results: dict[str, dict[str, dict[str, Any]]]

    @abstractmethod
    def restore(self, lq: Tensor) -> Tensor:
        """(B, 3, H, W) RGB in [0, 1] -> the same size and range, for validation."""

    @abstractmethod
    def averaged(self) -> AbstractContextManager[Any]:
        """Context in which ``net_g`` has the averaged parameters, where there are any."""

    @torch.no_grad()
    def test(self) -> None:
        """Restore ``self.data['lq']`` with the averaged parameters, if there are any, into ``self.output``."""
        training = self.net_g.training
        self.net_g.eval()
        with self.averaged():
            self.output = self.restore(self.data["lq"])
        self.net_g.train(training)

    def validation(self, dataloader: Any, current_iter: Any, tb_logger: Any, save_img: bool = False) -> None:
        """Validate on a set; BasicSR counts past the last iteration before it validates at the end."""
        if self.is_train:
            current_iter = min(current_iter, int(self.opt["train"]["total_iter"]))
            self.stopwatch.stop()
        super().validation(dataloader, current_iter, tb_logger, save_img)

    def dist_validation(self, dataloader: Any, current_iter: int, tb_logger: Any, save_img: bool) -> None:
        """Validate on the first process; the others wait."""
        if self.opt["rank"] == 0:
            self.nondist_validation(dataloader, current_iter, tb_logger, save_img)
        torch.distributed.barrier()

    def nondist_validation(self, dataloader: Any, current_iter: int, tb_logger: Any, save_img: bool) -> None:
        """Restore a set image by image; log the mean of each metric, save pictures, show some in TensorBoard."""
        name = dataloader.dataset.opt["name"]
        metrics = self.opt["val"].get("metrics") or {}
        if metrics:
            self._initialize_best_metric_results(name)
        of_images = {metric: options for metric, options in metrics.items() if not is_of_sets(options)}
        sums = dict.fromkeys(of_images, 0.0)
        of_sets = {metric: SetMeasurement(options) for metric, options in metrics.items() if is_of_sets(options)}
        with ExitStack() as stack:
            for measurement in of_sets.values():
                stack.enter_context(measurement)
            shown = self._restore_all(dataloader, current_iter, of_images, sums, list(of_sets.values()), save_img)
            whole = {metric: measurement.value() for metric, measurement in of_sets.items()}
        means = {metric: float(value / len(dataloader)) for metric, value in sums.items()}
        self.metric_results = {metric: {**means, **whole}[metric] for metric in metrics}
        for metric, value in self.metric_results.items():
            self._update_best_metric_result(name, metric, value, current_iter)
        self._log_validation(name, current_iter, tb_logger)
        if tb_logger and shown:
            tb_logger.add_image(f"pictures/{name}", torch.cat(shown, dim=2)[0], current_iter)

    def _restore_all(
        self,
        dataloader: Any,
        current_iter: int,
        metrics: dict[str, Any],
        sums: dict[str, float],
        of_sets: list[SetMeasurement],
        save_img: bool,
    ) -> list[Tensor]:
        """Restore every image, adding its metrics to ``sums`` and itself to ``of_sets``; return rows of pictures."""
        name = dataloader.dataset.opt["name"]
        shown: list[Tensor] = []
        for data in tqdm(dataloader, desc=f"Validate {name}", unit="image", leave=False, disable=None):
            self.feed_data(data)
            self.test()
            images = {"img": tensor2img([self.output.cpu()])}
            if "gt" in data:
                images["img2"] = tensor2img([data["gt"]])
            for metric, options in metrics.items():
                sums[metric] += calculate_metric(images, options)
            for measurement in of_sets:
                measurement.add(images["img"], images.get("img2"))
            stem = Path(data["lq_path"][0]).stem
            if save_img:
                imwrite(images["img"], str(self._picture_path(name, stem, current_iter)))
            if len(shown) < _PICTURES:
                row = [data["lq"], self.output.cpu(), *([data["gt"]] if "gt" in data else [])]
                shown.append(torch.cat([image.clamp(0, 1) for image in row], dim=3))
        return shown

    def _picture_path(self, dataset: str, stem: str, current_iter: int) -> Path:
        root = Path(self.opt["path"]["visualization"])
        if self.opt["is_train"]:
            return root / stem / f"{stem}_{current_iter}.png"
        return root / dataset / f"{stem}_{self.opt['val'].get('suffix') or self.opt['name']}.png"

    def _log_validation(self, dataset: str, current_iter: int, tb_logger: Any) -> None:
        if not self.metric_results:
            return
        lines = [f"Validation {dataset}"]
        for metric, value in self.metric_results.items():
            best = self.best_metric_results[dataset][metric]
            lines.append(f"\t # {metric}: {value:.4f}\tBest: {best['val']:.4f} @ {best['iter']} iter")
            if tb_logger:
                tb_logger.add_scalar(f"metrics/{dataset}/{metric}", value, current_iter)
        get_root_logger().info("\n".join(lines))

    def get_current_visuals(self) -> dict[str, Tensor]:
        """Pictures of the last validated image, on the CPU: ``lq``, ``result`` and perhaps ``gt``."""
        pictures = {"lq": self.data["lq"], "result": self.output}
        if "gt" in self.data:
            pictures["gt"] = self.data["gt"]
        return {name: value.detach().cpu() for name, value in pictures.items()}
