"""The metrics by name: what each is, in which variant, which way is better, and what it needs.

Two papers' numbers can be compared only where the variants agree, so each entry spells its own out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class MetricSpec:
    """One metric.

    Attributes:
        name: what options, commands and reports call it.
        title: what tables call it.
        better: ``higher`` or ``lower``.
        reference: it compares with a reference image, or with a folder of them.
        kind: ``image``: a value for each image; ``set``: one value for a whole set.
        variant: everything that would change the number.
        library: what computes it.
        weights: names of :mod:`lafr_base.weight_list` it needs.
        extra: extra of this distribution that brings its library; None where nothing more is needed.
        aligned: the images must be FFHQ-aligned square faces.
    """

    name: str
    title: str
    better: str
    reference: bool
    kind: str
    variant: str
    library: str
    weights: tuple[str, ...] = ()
    extra: str | None = None
    aligned: bool = False


PYIQA = "pyiqa"
"""Package that serves the metrics of the extra ``metrics``."""

_SSIM = (
    "11 x 11 Gaussian window of sigma 1.5, K1 0.01, K2 0.03, range 255, biased covariances, valid positions only, "
    "no downsampling"
)
_Y = "Y of BT.601 in 16..235 (MATLAB's rgb2ycbcr), not rounded"
_IQA = "pyiqa 0.1.16"
_FID = (
    "Inception of TensorFlow 2015-12-05, 2048 features, images resized to 299 x 299 by PIL's bicubic filter in float "
    "(clean-fid)"
)

_SPECS = (
    MetricSpec(
        "psnr", "PSNR (RGB)", "higher", True, "image", "dB, range 255, one mean over R, G and B", "BasicSR 1.4.2"
    ),
    MetricSpec("psnr_y", "PSNR (Y)", "higher", True, "image", f"dB, range 255, {_Y}", "BasicSR 1.4.2"),
    MetricSpec("ssim", "SSIM (RGB)", "higher", True, "image", f"{_SSIM}; mean of R, G and B", "BasicSR 1.4.2"),
    MetricSpec("ssim_y", "SSIM (Y)", "higher", True, "image", f"{_SSIM}; {_Y}", "BasicSR 1.4.2"),
    MetricSpec(
        "lpips_alex", "LPIPS (alex)", "lower", True, "image", "v0.1, AlexNet, full size", "lpips 0.1", ("alexnet",)
    ),
    MetricSpec("lpips_vgg", "LPIPS (vgg)", "lower", True, "image", "v0.1, VGG-16, full size", "lpips 0.1", ("vgg16",)),
    MetricSpec("dists", "DISTS", "lower", True, "image", "VGG-16, full size", "own, as DISTS", ("dists", "vgg16")),
    MetricSpec(
        "deg",
        "Deg",
        "lower",
        True,
        "image",
        "degrees between ArcFace ResNet-18 (IRBlock, no SE) embeddings, gray as OpenCV reads PNG files, bilinear to "
        "128 x 128 without antialiasing; angles under 1 degree are kept in the mean (VQFR drops them)",
        "own, as VQFR",
        ("arcface-resnet18",),
        aligned=True,
    ),
    MetricSpec(
        "lmd",
        "LMD",
        "lower",
        True,
        "image",
        "mean L2 distance of 98 landmarks in pixels of 512, AWing with 4 hourglasses, bilinear to 256 x 256, not "
        "normalised",
        "facexlib 0.3.0, as VQFR",
        ("awing",),
        aligned=True,
    ),
    MetricSpec(
        "landmarks_3ddfa",
        "LMD (3DDFA-V2)",
        "lower",
        True,
        "image",
        "mean L2 distance of 68 landmarks in pixels of 512, 3DDFA-V2 MobileNetV1 x0.5, fixed crop of aligned faces",
        "own, as 3DDFA-V2",
        ("3ddfa-v2", "3ddfa-v2-basis"),
        aligned=True,
    ),
    MetricSpec(
        "identity",
        "Identity",
        "higher",
        True,
        "image",
        "cosine of MobileFaceNet embeddings, 112 x 96 crop of aligned faces",
        "own, as MobileFaceNet_Pytorch",
        ("mobilefacenet",),
        aligned=True,
    ),
    MetricSpec(
        "niqe",
        "NIQE",
        "lower",
        False,
        "image",
        f"blocks of 96 x 96, official parameters, {_Y.split(',')[0]}, rounded",
        "BasicSR 1.4.2",
    ),
    MetricSpec(
        "musiq",
        "MUSIQ",
        "higher",
        False,
        "image",
        "musiq: KonIQ-10k, full size and longer sides 384 and 224",
        _IQA,
        ("musiq-koniq",),
        "metrics",
    ),
    MetricSpec(
        "clipiqa",
        "CLIP-IQA",
        "higher",
        False,
        "image",
        "clipiqa: CLIP RN50, mean of 5 prompt pairs, no position embedding",
        _IQA,
        ("clip-rn50",),
        "metrics",
    ),
    MetricSpec(
        "maniqa",
        "MANIQA",
        "higher",
        False,
        "image",
        "maniqa: KonIQ-10k, 20 crops of 224 x 224",
        _IQA,
        ("maniqa-koniq",),
        "metrics",
    ),
    MetricSpec(
        "maniqa_pipal",
        "MANIQA (PIPAL)",
        "higher",
        False,
        "image",
        "maniqa-pipal: PIPAL, 20 crops of 224 x 224",
        _IQA,
        ("maniqa-pipal",),
        "metrics",
    ),
    MetricSpec(
        "fid",
        "FID (reference folder)",
        "lower",
        True,
        "set",
        f"{_FID}; against all images of the reference folder",
        "own, as clean-fid and pyiqa",
        ("fid-inception",),
    ),
    MetricSpec(
        "fid_ffhq",
        "FID (FFHQ)",
        "lower",
        False,
        "set",
        f"{_FID}; against the statistics of FFHQ's 70,000 images at 512 x 512",
        "own, as clean-fid and pyiqa",
        ("fid-inception", "fid-ffhq"),
    ),
)

METRICS: Mapping[str, MetricSpec] = {spec.name: spec for spec in _SPECS}
"""All metrics, in the order of tables."""


def get_spec(name: str) -> MetricSpec:
    """Return the metric called ``name``.

    Raises:
        ValueError: there is none; the message lists the names.
    """
    if name not in METRICS:
        raise ValueError(f"no metric is called {name!r}; known: {', '.join(METRICS)}")
    return METRICS[name]
