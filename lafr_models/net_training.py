"""What the stages share that train a small net which comes with the package, and gives no pictures."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import torch
from basicsr.utils import get_root_logger
from torch import Tensor

from lafr_models.build import build_network
from lafr_models.training import TrainingModel


class NetTrainingModel(TrainingModel):
    """Train ``network_g``, a `lafr_arch.bundled.BundledNet`.

    Validation logs what :meth:`measure` returns. At the end the averaged network is written to
    ``experiments/NAME/FOLDER``.
    """

    FOLDER: ClassVar[str]

    def build(self) -> None:
        """Create the net."""
        self.net_g = self.model_to_device(build_network(self.opt["network_g"]))

    def restore(self, lq: Tensor) -> Tensor:
        """The net's output."""
        output: Tensor = self.bare_g(lq)
        return output

    @abstractmethod
    def measure(self, dataloader: Any) -> dict[str, float]:  # noqa: ANN401
        """Return figures of a set, by name."""

    def outputs(self, dataloader: Any) -> Iterator[Tensor]:  # noqa: ANN401
        """Yield the net's output of each batch, which is then in ``self.data``."""
        for data in dataloader:
            self.feed_data(data)
            self.test()
            yield self.output

    @torch.no_grad()
    def nondist_validation(self, dataloader: Any, current_iter: int, tb_logger: Any, save_img: bool) -> None:  # noqa: ANN401
        """Log the figures of a set, also as ``self.metric_results``; there are no pictures to save."""
        name = dataloader.dataset.opt["name"]
        self.metric_results = self.measure(dataloader)
        values = ", ".join(f"{key} {value:.4f}" for key, value in self.metric_results.items())
        get_root_logger().info(f"Validation {name}, iteration {current_iter}: {values}")
        if tb_logger:
            for key, value in self.metric_results.items():
                tb_logger.add_scalar(f"metrics/{name}/{key}", value, current_iter)

    def write_result(self, folder: Path) -> str:
        """Write the net."""
        self.bare_g.save_pretrained(folder / self.FOLDER)
        return self.FOLDER
