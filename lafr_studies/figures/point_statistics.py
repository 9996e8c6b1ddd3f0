"""How close points lie: to each other, to their class's centre, and to the other class."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]
"""(N, D)."""


def pairwise_distances(a: Points, b: Points) -> Points:
    """Euclidean distances (N, M) of two sets of points (N, D) and (M, D)."""
    squares = (a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T
    return np.sqrt(np.maximum(squares, 0))


def paired_distances(a: Points, b: Points) -> NDArray[np.float64]:
    """Euclidean distance of each point of ``a`` to the same one of ``b``; (N,)."""
    return np.linalg.norm(a - b, axis=1)


def centroid_distance(points: Points) -> float:
    """Mean Euclidean distance of points (N, D) to their mean."""
    return float(np.linalg.norm(points - points.mean(0), axis=1).mean())


def mean_pairwise_distance(points: Points) -> float:
    """Mean Euclidean distance of all pairs of different points.

    Raises:
        ValueError: fewer than two points.
    """
    count = len(points)
    if count < 2:
        raise ValueError(f"a distance within a class needs two points at least; got {count}")
    # The diagonal is zero but for rounding, and taken away.
    distances = pairwise_distances(points, points)
    return float((distances.sum() - np.trace(distances)) / (count * (count - 1)))


def silhouettes(points: Points, labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Silhouette of each point (Rousseeuw, 1987): ``(b - a) / max(a, b)``, in [-1, 1].

    ``a`` is the mean distance to the other points of its class, ``b`` the smallest of the mean distances to the points
    of another class; 0 where the class has one point.

    Args:
        points: (N, D).
        labels: class of each point, (N,); two classes at least.

    Raises:
        ValueError: there are fewer than two classes.
    """
    classes = np.unique(labels)
    if len(classes) < 2:
        raise ValueError("silhouettes need two classes at least")
    distances = pairwise_distances(points, points)
    np.fill_diagonal(distances, 0)
    members = np.stack([labels == label for label in classes], 1).astype(np.float64)  # (N, K)
    counts = members.sum(0)
    totals = distances @ members
    own = members.astype(bool)
    size = counts[own.argmax(1)]
    within = totals[own] / np.maximum(size - 1, 1)
    between = np.where(own, np.inf, totals / counts).min(1)
    largest = np.maximum(within, between)
    values = np.where(largest > 0, (between - within) / np.where(largest > 0, largest, 1), 0)
    return np.where(size > 1, values, 0)
