"""The one way to measure images here: ``lafr evaluate``, ``lafr compare`` and validation in YAML all use a Suite.

suite = Suite(["psnr", "ssim", "niqe"])
rows = {"a.png": suite.measure(restored, reference)}     # BGR uint8 (H, W, 3)
suite.missing                                            # {name: why it cannot be measured here}
summarise(rows)                                          # {name: {"mean": ..., "low": ..., "high": ..., "count": ...}}
"""

from __future__ import annotations

import math
import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lafr_base import weights
from lafr_base.compat import MissingPackageError
from lafr_metrics.images import ImagePair, MetricError
from lafr_metrics.specs import METRICS, ImageMetric, MetricSpec, Progress
from lafr_metrics.statistics import bootstrap_mean

__all__ = ["METRICS", "MetricError", "MetricSpec", "Suite", "protocol", "summarise"]

# What can change a value.
_PACKAGES = (
    "lafr", "torch", "torchvision", "numpy", "scipy", "opencv-python", "pillow", "basicsr", "facexlib", "lpips",
    "pyiqa",
)  # fmt: skip


@contextmanager
def _noting(errors: dict[str, str] | None, *names: str) -> Iterator[None]:
    """Note a MetricError as these metrics' error and go on; raise it where there is nowhere to note it."""
    try:
        yield
    except MetricError as error:
        if errors is None:
            raise
        errors.update(dict.fromkeys(names, str(error)))


class Suite:
    """Metrics ready to measure.

    Attributes:
        names: metrics that can be measured, in the order asked for.
        missing: metrics that cannot, each with the reason: which file or package to get, or that there is no reference.

    Args:
        names: metrics, by the names of :data:`METRICS`; None for all.
        device: where the nets run.
        reference: whether there are reference images.

    Raises:
        ValueError: a name is unknown.
    """

    def __init__(
        self, names: Iterable[str] | None = None, device: str | torch.device = "cpu", reference: bool = True
    ) -> None:
        self.device = torch.device(device)
        self.names: list[str] = []
        self.missing: dict[str, str] = {}
        self._metrics: dict[str, Any] = {}
        for spec in [METRICS[name] for name in dict.fromkeys(METRICS if names is None else names)]:
            reason = self._build(spec, reference)
            if reason is None:
                self.names.append(spec.name)
            else:
                self.missing[spec.name] = reason

    def _build(self, spec: MetricSpec, reference: bool) -> str | None:
        """Build one metric; return why it could not be."""
        if spec.reference and not reference:
            return "it compares with reference images, and none were given"
        try:
            _require(spec)
            self._metrics[spec.name] = spec.build(self.device)
        except (weights.WeightsError, MissingPackageError, ValueError, OSError) as error:
            return str(error)
        return None

    def measure(
        self, restored: np.ndarray, reference: np.ndarray | None = None, errors: dict[str, str] | None = None
    ) -> dict[str, float]:
        """Measure one image by all image metrics.

        Args:
            restored: (H, W, 3) BGR uint8.
            reference: the same; None only where no metric of the suite needs it.
            errors: takes why a metric cannot be had of this image (the others are still measured); without it the
                first such metric is an error.

        Returns:
            Value of each image metric, by name; PSNR of equal images is infinite.

        Raises:
            MetricError: the images are not of that type or differ in size, a reference lacks, or a metric cannot be
                had of them.
        """
        pair = ImagePair(restored, reference, self.device)
        values: dict[str, float] = {}
        for spec in self._of("image"):
            with _noting(errors, spec.name):
                values[spec.name] = _measure(spec, self._metrics[spec.name], pair)
        return values

    def measure_set(
        self,
        restored_paths: Sequence[str | Path],
        reference_paths: Sequence[str | Path] | None = None,
        errors: dict[str, str] | None = None,
        progress: Progress | None = None,
    ) -> dict[str, float]:
        """Measure a set of images by all set metrics; files are read one by one.

        Args:
            restored_paths: image files.
            reference_paths: image files; None only where no metric of the suite needs them. They need not be pairs.
            errors: takes why a metric cannot be had, by name, or why a file cannot be read (it is left out), by path;
                without it the first such fault is an error.
            progress: wraps the files while they are read, given them and a title (as tqdm does).

        Raises:
            MetricError: there are fewer than two images, or a reference lacks.
            lafr_base.images.ImageError: a file cannot be read.
        """
        restored = [Path(path) for path in restored_paths]
        references = None if reference_paths is None else [Path(path) for path in reference_paths]
        values: dict[str, float] = {}
        for spec in self._of("set"):
            with _noting(errors, spec.name):
                values[spec.name] = self._metrics[spec.name](restored, references, errors, progress)
        return values

    def _of(self, kind: str) -> list[MetricSpec]:
        return [METRICS[name] for name in self.names if METRICS[name].kind == kind]


def _measure(spec: MetricSpec, metric: ImageMetric, pair: ImagePair) -> float:
    height, width = pair.restored.shape[:2]
    if spec.aligned and height != width:
        raise MetricError(f"{spec.name} needs FFHQ-aligned square faces, not {width} x {height} pixels")
    with torch.no_grad():
        value = float(metric(pair))
    if math.isnan(value):
        raise MetricError(f"{spec.name} is not defined for this image")
    return value


def _require(spec: MetricSpec) -> None:
    """Check that a metric's files and library are there, before anything is loaded.

    Raises:
        lafr_base.weights.MissingWeightsError: files are missing.
        MissingPackageError: the library is, and perhaps files too.
    """
    try:
        weights.require_all(spec.weights)
    except weights.MissingWeightsError as error:
        try:
            spec.require_package()
        except MissingPackageError as package:
            raise MissingPackageError(f"{package}\n{error}") from error
        raise
    spec.require_package()


def summarise(rows: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, Any]]:
    """Mean of each metric over the images, with a 95 % bootstrap interval.

    Args:
        rows: values by image and metric; an image may lack a metric.

    Returns:
        For each metric ``mean``, ``low``, ``high``, ``count`` (images in the mean) and ``left_out`` (images whose value
        is not finite: PSNR of equal images). Where no value is finite the first three are None.
    """
    result: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(name for row in rows.values() for name in row):
        values = [row[name] for row in rows.values() if name in row]
        finite = [value for value in values if math.isfinite(value)]
        summary: dict[str, Any] = {"mean": None, "low": None, "high": None, "count": 0}
        if finite:
            summary = dict(bootstrap_mean(finite))
        result[name] = {**summary, "left_out": len(values) - len(finite)}
    return result


def protocol(names: Iterable[str] | None = None) -> dict[str, Any]:
    """What must agree for two reports to be comparable: versions of the libraries, and each metric's definition.

    Args:
        names: metrics; None for all.
    """
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "versions": versions,
        "interval": "95 % percentile bootstrap over images, 2000 resamplings, fixed seed",
        "metrics": {name: METRICS[name].describe() for name in (METRICS if names is None else names)},
    }
