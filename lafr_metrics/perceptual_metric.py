"""LPIPS and DISTS: the losses of these names as metrics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from lafr_losses.dists_loss import DISTSLoss
from lafr_losses.lpips_loss import LPIPSLoss
from lafr_metrics.specs import ImageMetric, MetricSpec, add_metric


def _of_loss(loss: type[nn.Module], **options: Any) -> Callable[[torch.device], ImageMetric]:
    def build(device: torch.device) -> ImageMetric:
        net = loss(**options).to(device).eval()
        return lambda pair: net(*pair.tensors).item()

    return build


for _net, _weights in (("alex", "alexnet"), ("vgg", "vgg16")):
    add_metric(
        MetricSpec(
            name=f"lpips_{_net}",
            title=f"LPIPS ({_net})",
            better="lower",
            reference=True,
            variant=f"v0.1, {'AlexNet' if _net == 'alex' else 'VGG-16'}, full size",
            library="lpips 0.1",
            build=_of_loss(LPIPSLoss, net=_net),
            weights=(_weights,),
        )
    )
add_metric(
    MetricSpec(
        name="dists",
        title="DISTS",
        better="lower",
        reference=True,
        variant="VGG-16, full size",
        library="own, as DISTS",
        build=_of_loss(DISTSLoss),
        weights=("dists", "vgg16"),
    )
)
