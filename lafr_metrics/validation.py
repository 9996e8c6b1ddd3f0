"""Image metrics in METRIC_REGISTRY as ``calculate_lafr_NAME``, for ``val: metrics:`` of option files.

    val:
      metrics:
        deg: {type: calculate_lafr_deg, better: lower}
        musiq: {type: calculate_lafr_musiq, device: cuda}

They are the metrics of :mod:`lafr_metrics.suite`, so that validation and ``lafr evaluate`` give the same numbers.
Metrics of whole sets (FID) are had by :class:`SetMeasurement`; BasicSR's own models, which average images, lack them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from lafr_base.images import write_image
from lafr_base.registry import METRIC_REGISTRY
from lafr_metrics.specs import METRICS, MetricSpec
from lafr_metrics.suite import MetricError, Suite

PREFIX = "calculate_lafr_"


@cache
def _suite(name: str, device: str) -> Suite:
    return Suite([name], device)


def _metric(name: str) -> Callable[..., float]:
    def calculate(
        img: np.ndarray, img2: np.ndarray | None = None, device: str = "cpu", better: str | None = None
    ) -> float:
        suite = _suite(name, device)
        if name in suite.missing:
            raise MetricError(f"{PREFIX}{name}: {suite.missing[name]}")
        return suite.measure(img, img2)[name]

    calculate.__name__ = calculate.__qualname__ = f"{PREFIX}{name}"
    calculate.__doc__ = f"""{METRICS[name].title}: {METRICS[name].variant}.

    Args:
        img: restored image, (H, W, 3) BGR uint8.
        img2: reference, the same; needed by metrics that compare.
        device: where the net runs.
        better: read by BasicSR.

    Raises:
        MetricError: weights or a library are missing, or the metric cannot be had of these images.
    """
    return calculate


def _set_metric(name: str) -> Callable[..., float]:
    def calculate(device: str = "cpu", better: str | None = None) -> float:  # noqa: ARG001 - what options may say
        raise MetricError(f"{PREFIX}{name} is of a whole set of images, which this model's validation cannot have")

    calculate.__name__ = calculate.__qualname__ = f"{PREFIX}{name}"
    return calculate


for _spec in METRICS.values():
    METRIC_REGISTRY.register()((_metric if _spec.kind == "image" else _set_metric)(_spec.name))


class SetMeasurement:
    """A metric of a whole set, from images as they come; a context, which keeps them in a temporary folder.

    Args:
        options: the metric's YAML options, of which :func:`is_of_sets` holds.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._name = str(options["type"]).removeprefix(PREFIX)
        self._device = str(options.get("device", "cpu"))
        self._files: tuple[list[Path], list[Path]] = ([], [])

    def __enter__(self) -> SetMeasurement:
        self._folder = TemporaryDirectory(prefix="lafr_validation_")
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()

    def add(self, restored: np.ndarray, reference: np.ndarray | None) -> None:
        """Take in an image and its original, (H, W, 3) BGR uint8."""
        for kind, image, files in zip(("restored", "reference"), (restored, reference), self._files, strict=True):
            if image is not None:
                path = Path(self._folder.name) / kind / f"{len(files):06d}.png"
                write_image(path, image)
                files.append(path)

    def value(self) -> float:
        """The metric of the images so far.

        Raises:
            MetricError: weights are missing, there are fewer than two images, or no originals where some are needed.
        """
        suite = _suite(self._name, self._device)
        if self._name in suite.missing:
            raise MetricError(f"{PREFIX}{self._name}: {suite.missing[self._name]}")
        restored, references = self._files
        return suite.measure_set(restored, references or None)[self._name]


def is_of_sets(options: Mapping[str, Any]) -> bool:
    """Whether a metric's YAML options ask for one of a whole set."""
    spec = _spec_of(options)
    return spec is not None and spec.kind == "set"


def _spec_of(options: Mapping[str, Any]) -> MetricSpec | None:
    return METRICS.get(str(options.get("type")).removeprefix(PREFIX)) if _is_ours(options) else None


def _is_ours(options: Mapping[str, Any]) -> bool:
    return str(options.get("type")).startswith(PREFIX)


def required_weights(options: Mapping[str, Any]) -> list[str]:
    """Weights that a metric needs, from its YAML options; BasicSR's own metrics need none."""
    spec = _spec_of(options)
    return [] if spec is None else list(spec.weights)


def option_faults(label: str, options: Mapping[str, Any]) -> list[str]:
    """What is wrong with a metric's YAML options, to be said before a run starts.

    Args:
        label: key of the options, for the messages.
        options: the options; other libraries' metrics have no faults here.
    """
    if not _is_ours(options):
        return []
    spec = _spec_of(options)
    if spec is None:
        return [f"{label}: type: {options['type']} is unknown; known: {', '.join(METRIC_REGISTRY)}"]
    faults = []
    better = options.get("better", "higher")  # BasicSR's default
    if better != spec.better:
        faults.append(
            f"{label}: better: {better} would keep the worst value as the best; write `better: {spec.better}`"
        )
    try:
        spec.require_package()
    except ImportError as error:
        faults.append(f"{label}: {error}")
    return faults
