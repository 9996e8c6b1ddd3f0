"""The image losses of an option file: every ``*_opt`` under ``train:``, and the adversarial one with its critic."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lafr_losses.adversarial_loss import PatchAdversarialLoss
from lafr_models.build import build_loss


class ImageLosses(nn.Module):
    """Losses between images, named by their option key.

    ``pixel_opt: {type: MSELoss}`` gives ``l_pixel``. ``gan_opt`` of type PatchAdversarialLoss also takes
    ``start_iter``: before it neither the generator's nor the discriminator's adversarial loss is computed.

    Args:
        train_opt: the option file's ``train:`` mapping.

    Raises:
        ValueError: there is no ``*_opt`` at all.
    """

    def __init__(self, train_opt: dict[str, Any]) -> None:
        super().__init__()
        self.terms = nn.ModuleDict()
        self.adversarial: PatchAdversarialLoss | None = None
        self.adversarial_start = 0
        for key, options in train_opt.items():
            if not key.endswith("_opt") or options is None:
                continue
            if key == "gan_opt":
                options = dict(options)
                self.adversarial_start = int(options.pop("start_iter", 0))
                self.adversarial = build_loss(options)
            else:
                self.terms[key.removesuffix("_opt")] = build_loss(options)
        if not self.terms:
            raise ValueError("train: has no loss between images; add for instance pixel_opt: {type: MSELoss}")

    def forward(
        self, pred: Tensor, target: Tensor, whole_face: bool | None = None, only: str | None = None
    ) -> dict[str, Tensor]:
        """Weighted losses of (B, 3, H, W) RGB in [0, 1] against the same, by name.

        ``whole_face``: True for those losses alone that only make sense on a whole face, False for the others, None
        for all. ``only``: the loss of this name alone.
        """
        chosen = [name for name in self.terms if whole_face in (None, name in self.whole_face)]
        return {f"l_{name}": self.terms[name](pred, target) for name in (chosen if only is None else [only])}

    @property
    def whole_face(self) -> list[str]:
        """Names of the losses that only make sense on a whole face (``whole_face = True`` on their class)."""
        return [name for name, term in self.terms.items() if getattr(term, "whole_face", False)]

    def adversarial_active(self, current_iter: int) -> bool:
        """Whether the adversarial losses count at this iteration."""
        return self.adversarial is not None and current_iter >= self.adversarial_start

    def generator(self, net_d: nn.Module, pred: Tensor, losses: dict[str, Tensor]) -> Tensor:
        """Adversarial loss of the generator; ``losses`` are its other ones, for the adaptive weight."""
        assert self.adversarial is not None  # noqa: S101 - callers ask adversarial_active first
        if not self.adversarial.adaptive:
            return self.adversarial.generator(net_d(pred))
        return self.adversarial.generator(net_d(pred), torch.stack(list(losses.values())).sum(), pred)

    def discriminator(self, net_d: nn.Module, pred: Tensor, target: Tensor) -> Tensor:
        """Loss of the discriminator on real and made images."""
        assert self.adversarial is not None  # noqa: S101 - callers ask adversarial_active first
        return self.adversarial.discriminator(net_d(target), net_d(pred.detach()))
