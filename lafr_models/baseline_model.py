"""BaselineModel: published restorers under this project's tests, to be compared and not trained."""

from __future__ import annotations

from torch import Tensor

from lafr_base.registry import MODEL_REGISTRY
from lafr_models.build import build_network
from lafr_models.training import TrainingModel


@MODEL_REGISTRY.register()
class BaselineModel(TrainingModel):
    """Run ``network_g``, any network from (B, 3, S, S) RGB in [0, 1] to the same, for ``basicsr/test.py``.

    Raises:
        ValueError: it was given to ``basicsr/train.py``.
    """

    def build(self) -> None:
        if self.is_train:
            raise ValueError("model_type: BaselineModel restores and is not trained; use it with basicsr/test.py")
        self.net_g = build_network(self.opt["network_g"]).to(self.device)

    def restore(self, lq: Tensor) -> Tensor:
        return self.bare_g(lq).clamp(0, 1)
