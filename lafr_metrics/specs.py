"""What a metric is: its variant, which way is better, what it needs, and how it is built.

A module ``*_metric.py`` of this package calls :func:`add_metric` for each metric that it has; nothing else has to know
of it. Two papers' numbers can be compared only where the variants agree, so each metric spells its own out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from lafr_base.compat import MissingPackageError
from lafr_base.registry import Registry
from lafr_metrics.images import ImagePair

ImageMetric = Callable[[ImagePair], float]
"""A metric of kind ``image``, ready to measure. Raises MetricError where it is not defined for the images."""

Progress = Callable[[Sequence[Path], str], Iterable[Path]]
"""Wraps files while they are read, given them and a title."""

SetMetric = Callable[[Sequence[Path], "Sequence[Path] | None", "dict[str, str] | None", "Progress | None"], float]
"""A metric of kind ``set``, ready to measure: restored files, reference files, a dictionary that takes files that
cannot be read and why, a progress."""

Y_CHANNEL = "Y of BT.601 in 16..235 (MATLAB's rgb2ycbcr)"


@dataclass(frozen=True, kw_only=True)
class MetricSpec:
    """One metric.

    Attributes:
        name: what options, commands and reports call it.
        title: what tables call it.
        better: ``higher`` or ``lower``.
        variant: everything that would change the number.
        library: what computes it.
        build: makes it for a device: an :data:`ImageMetric`, or a :data:`SetMetric`. Raises
            lafr_base.weights.WeightsError, MissingPackageError, ValueError or OSError where that cannot be done.
        kind: ``image``: a value for each image; ``set``: one value for a whole set.
        reference: it compares with a reference image, or with a folder of them.
        weights: what it needs, as :func:`lafr_base.weights.require` takes it.
        package: module that must be installed, beside what this project needs anyway.
        install: how to install it.
        aligned: the images must be FFHQ-aligned square faces.
    """

    name: str
    title: str
    better: str
    variant: str
    library: str
    build: Callable[[torch.device], Any]
    kind: str = "image"
    reference: bool = False
    weights: tuple[str, ...] = ()
    package: str | None = None
    install: str = ""
    aligned: bool = False

    def describe(self) -> dict[str, Any]:
        """What reports say of it."""
        return {
            "title": self.title,
            "better": self.better,
            "kind": self.kind,
            "reference": self.reference,
            "variant": self.variant,
            "library": self.library,
            "weights": list(self.weights),
        }

    def require_package(self) -> None:
        """Check that its library is installed.

        Raises:
            MissingPackageError: it is not.
        """
        if self.package is not None and find_spec(self.package) is None:
            raise MissingPackageError(f"{self.package} is not installed: {self.install}")


class _Metrics(Registry):
    """Metrics in the order of tables: that of the paper, then what else there is."""

    FIRST = (
        "psnr", "psnr_y", "ssim", "ssim_y", "lpips_alex", "lpips_vgg", "dists", "deg", "lmd", "landmarks_3ddfa",
        "identity", "features_lite0", "niqe", "musiq", "clipiqa", "maniqa", "maniqa_pipal", "fid", "fid_ffhq",
        "frechet_lite0",
    )  # fmt: skip

    def __iter__(self) -> Iterator[str]:
        rank = {name: place for place, name in enumerate(self.FIRST)}
        return iter(sorted(super().__iter__(), key=lambda name: rank.get(name, len(rank))))


METRICS = _Metrics("metric", "lafr_metrics", "_metric")
"""All metrics, by name: :class:`MetricSpec`."""


def add_metric(spec: MetricSpec) -> None:
    """Make a metric known.

    Raises:
        ValueError: another has its name.
    """
    METRICS.register(spec.name)(spec)
