"""Means of per-image values with bootstrap confidence intervals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def bootstrap_mean(values: Sequence[float], samples: int = 2000, level: float = 0.95) -> dict[str, float]:
    """Mean and percentile bootstrap interval (Efron, 1979) over independent images; the same at every call.

    Args:
        values: one finite number for each image.
        samples: resamplings.
        level: coverage of the interval.

    Returns:
        ``mean``, ``low``, ``high``, ``count``.

    Raises:
        ValueError: no values.
    """
    data = np.asarray(values, dtype=np.float64)
    if data.size == 0:
        raise ValueError("bootstrap_mean needs at least one value")
    generator = np.random.default_rng(0)
    means = [data[generator.integers(0, data.size, data.size)].mean() for _ in range(samples)]
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return {"mean": float(data.mean()), "low": float(low), "high": float(high), "count": int(data.size)}
