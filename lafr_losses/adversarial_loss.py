"""PatchAdversarialLoss: the adversarial objective of a patch discriminator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from lafr_base.registry import LOSS_REGISTRY
from lafr_losses.common import check_choice, full_precision

Logits = Tensor | Sequence[Tensor]


def _mean_over_heads(penalty: Callable[[Tensor], Tensor], logits: Logits, weights: Sequence[float]) -> Tensor:
    heads = [logits] if isinstance(logits, Tensor) else logits
    weights = weights or [1.0] * len(heads)
    if len(weights) != len(heads):
        raise ValueError(f"PatchAdversarialLoss: {len(weights)} head_weights for a critic of {len(heads)} heads")
    penalties = [w * penalty(full_precision(head)).mean() for w, head in zip(weights, heads, strict=True)]
    return torch.stack(penalties).mean()


@LOSS_REGISTRY.register()
class PatchAdversarialLoss(nn.Module):
    """Hinge or logistic objective for a generator and a discriminator.

    Logits may have any shape; of a discriminator with several heads it takes a list, and each head counts alike unless
    ``head_weights`` says otherwise.

    ``type: PatchAdversarialLoss`` in YAML::

        gan_opt:
          type: PatchAdversarialLoss
          objective: hinge
          loss_weight: 0.1
          adaptive: true

    Args:
        loss_weight: multiplies the generator's loss; the discriminator's is never weighted.
        objective: ``hinge`` (Lim and Ye, 2017) or ``logistic`` (non-saturating, Goodfellow et al., 2014).
        adaptive: also multiply the generator's loss by the ratio of the gradients that the other losses and
            this one send to the last layer, at most ``max_ratio`` (VQGAN, Esser et al., 2021, eq. 7): the two
            then pull equally hard. :meth:`generator` must be given ``other_loss`` and ``last_layer``.
        max_ratio: bound of that ratio.
        head_weights: of each head of the critic, in the generator's loss (the heads' own training is not weighted).
    """

    def __init__(
        self,
        loss_weight: float = 1.0,
        objective: Literal["hinge", "logistic"] = "hinge",
        adaptive: bool = False,
        max_ratio: float = 1e4,
        head_weights: Sequence[float] = (),
    ) -> None:
        super().__init__()
        check_choice(type(self).__name__, "objective", objective, ("hinge", "logistic"))
        self.loss_weight = loss_weight
        self.objective = objective
        self.adaptive = adaptive
        self.max_ratio = max_ratio
        self.head_weights = tuple(head_weights)

    def generator(
        self, fake_logits: Logits, other_loss: Tensor | None = None, last_layer: Tensor | None = None
    ) -> Tensor:
        """Loss of the generator: low where the discriminator takes its images for real.

        Args:
            fake_logits: discriminator's output for generated images, with their graph.
            other_loss: sum of the generator's other losses, with its graph (``adaptive`` only).
            last_layer: weight of the generator's last layer, or its output (``adaptive`` only).

        Raises:
            ValueError: ``adaptive`` is on and one of its arguments is missing.
        """
        loss = _mean_over_heads(
            lambda x: -x if self.objective == "hinge" else F.softplus(-x), fake_logits, self.head_weights
        )
        weight: float | Tensor = self.loss_weight
        if self.adaptive:
            if other_loss is None or last_layer is None:
                raise ValueError("PatchAdversarialLoss: adaptive: true needs other_loss and last_layer")
            weight = weight * self._gradient_ratio(other_loss, loss, last_layer)
        return weight * loss

    def discriminator(self, real_logits: Logits, fake_logits: Logits) -> Tensor:
        """Loss of the discriminator, half on real and half on generated images; pass the latter detached."""
        penalty = F.softplus if self.objective == "logistic" else lambda x: F.relu(1 + x)
        real = _mean_over_heads(lambda x: penalty(-x), real_logits, ())
        return 0.5 * (real + _mean_over_heads(penalty, fake_logits, ()))

    def _gradient_ratio(self, other_loss: Tensor, loss: Tensor, last_layer: Tensor) -> Tensor:
        other = torch.autograd.grad(other_loss, last_layer, retain_graph=True)[0].norm()
        own = torch.autograd.grad(loss, last_layer, retain_graph=True)[0].norm()
        return (other / (own + 1e-6)).clamp(max=self.max_ratio).detach()
