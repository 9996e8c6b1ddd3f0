"""Figures by EfficientNet-Lite0's features, which come with a package: where LPIPS's and FID's nets cannot be had.

They are neither LPIPS nor FID, and no number of a paper compares with them. Networks whose losses or critics look
through this net are favoured by both.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lafr_arch.efficientnet_arch import POOLED_CHANNELS, EfficientNetLite0
from lafr_base.weights import require
from lafr_losses.feature_loss import FeatureLoss
from lafr_metrics.fid_metric import SetFeatures, against_references
from lafr_metrics.specs import ImageMetric, MetricSpec, SetMetric, add_metric

_WEIGHTS = "efficientnet-lite0"
_SIZE = 224


def lite0_input(image: np.ndarray) -> Tensor:
    """(H, W, 3) RGB uint8 -> (3, 224, 224) in [0, 1], resized by PIL's bicubic filter in float."""
    channels = [
        np.asarray(Image.fromarray(channel).resize((_SIZE, _SIZE), Image.Resampling.BICUBIC))
        for channel in image.astype(np.float32).transpose(2, 0, 1)
    ]
    return torch.from_numpy(np.stack(channels)).clamp(0, 255) / 255


def _frechet(device: torch.device) -> SetMetric:
    net = EfficientNetLite0.from_checkpoint(require(_WEIGHTS))
    return against_references("frechet_lite0", "Lite0", SetFeatures(net, device, lite0_input, POOLED_CHANNELS))


def _features(device: torch.device) -> ImageMetric:
    loss = FeatureLoss(backend="efficientnet_lite0").to(device)
    return lambda pair: loss(*pair.tensors).item()


add_metric(
    MetricSpec(
        name="features_lite0",
        title="Features (Lite0)",
        better="lower",
        reference=True,
        variant="squared distance of EfficientNet-Lite0's maps at 1/2 to 1/16 of the size, channels of norm 1, summed; "
        "no learned weights; not LPIPS",
        library="own",
        build=_features,
        weights=(_WEIGHTS,),
    )
)
add_metric(
    MetricSpec(
        name="frechet_lite0",
        title="Frechet distance (Lite0)",
        better="lower",
        kind="set",
        reference=True,
        variant="EfficientNet-Lite0, 1280 pooled features, images resized to 224 x 224 by PIL's bicubic filter in "
        "float; against all images of the reference folder; not FID",
        library="own",
        build=_frechet,
        weights=(_WEIGHTS,),
    )
)
