"""Image metrics in METRIC_REGISTRY as ``calculate_lafr_NAME``, for ``val: metrics:`` of option files.

    val:
      metrics:
        deg: {type: calculate_lafr_deg, better: lower}
        musiq: {type: calculate_lafr_musiq, device: cuda}

They are the metrics of :mod:`lafr_metrics.suite`, so that validation and ``lafr evaluate`` give the same numbers.
Metrics of whole sets (FID) have no place in BasicSR's validation, which averages images; ``lafr evaluate`` has them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np

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


for _spec in METRICS.values():
    if _spec.kind == "image":
        METRIC_REGISTRY.register()(_metric(_spec.name))


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
    if spec.kind == "set":
        return [f"{label}: {spec.name} is of a whole set of images: validation cannot have it, `lafr evaluate` can"]
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
