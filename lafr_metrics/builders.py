"""Metrics by name, built with their weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from basicsr.metrics import calculate_niqe, calculate_psnr, calculate_ssim

from lafr_metrics.images import ImageMetric, ImagePair, MetricError

# Two blocks are the fewest that have a covariance.
_NIQE_BLOCK = 96


def _psnr(y: bool) -> ImageMetric:
    return lambda pair: calculate_psnr(*pair.arrays, 0, test_y_channel=y)


def _ssim(y: bool) -> ImageMetric:
    def ssim(pair: ImagePair) -> float:
        if min(pair.restored.shape[:2]) < 11:
            raise MetricError("SSIM needs images of at least 11 x 11 pixels")
        return float(calculate_ssim(*pair.arrays, 0, test_y_channel=y))

    return ssim


def _niqe(pair: ImagePair) -> float:
    height, width = pair.restored.shape[:2]
    if (height // _NIQE_BLOCK) * (width // _NIQE_BLOCK) < 2:
        raise MetricError(f"NIQE needs two blocks of 96 x 96 pixels, and the image is {width} x {height}")
    try:
        return float(calculate_niqe(pair.restored, 0))
    except Exception as error:
        raise MetricError(f"NIQE is not defined for this image: {error}") from error


def _loss(build: Callable[[], Any]) -> Callable[[torch.device], ImageMetric]:
    """A loss module of (restored, reference) as a metric."""

    def on(device: torch.device) -> ImageMetric:
        module = build().to(device).eval()
        return lambda pair: module(*pair.tensors).item()

    return on


def _lpips(net: str) -> Any:
    from lafr_losses.lpips_loss import LPIPSLoss

    return LPIPSLoss(net=net)


def _dists() -> Any:
    from lafr_losses.dists_loss import DISTSLoss

    return DISTSLoss()


def _identity(device: torch.device) -> ImageMetric:
    from lafr_metrics.identity import IdentitySimilarity

    metric = IdentitySimilarity()
    metric.face.to(device)
    return lambda pair: metric(*pair.tensors).item()


def _deg(device: torch.device) -> ImageMetric:
    from lafr_metrics.face import Deg

    return Deg(device)


def _lmd(device: torch.device) -> ImageMetric:
    from lafr_metrics.face import LMD

    return LMD(device)


def _landmarks_3ddfa(device: torch.device) -> ImageMetric:
    from lafr_metrics.face import Landmarks3DDFA

    return Landmarks3DDFA(device)


def _pyiqa(name: str) -> Callable[[torch.device], ImageMetric]:
    def on(device: torch.device) -> ImageMetric:
        from lafr_metrics.iqa import PyIQA

        return PyIQA(name, device)

    return on


_IMAGE: dict[str, Callable[[torch.device], ImageMetric]] = {
    "psnr": lambda _: _psnr(False),
    "psnr_y": lambda _: _psnr(True),
    "ssim": lambda _: _ssim(False),
    "ssim_y": lambda _: _ssim(True),
    "lpips_alex": _loss(lambda: _lpips("alex")),
    "lpips_vgg": _loss(lambda: _lpips("vgg")),
    "dists": _loss(_dists),
    "deg": _deg,
    "lmd": _lmd,
    "landmarks_3ddfa": _landmarks_3ddfa,
    "identity": _identity,
    "niqe": lambda _: _niqe,
    **{name: _pyiqa(name) for name in ("musiq", "clipiqa", "maniqa", "maniqa_pipal")},
}


def build_image_metric(name: str, device: torch.device) -> ImageMetric:
    """Build an image metric; its net and weights are loaded.

    Raises:
        lafr_base.weights.MissingWeightsError: weights are missing.
        MissingPackageError: its library is not installed.
        ValueError: a file holds other weights.
    """
    return _IMAGE[name](device)
