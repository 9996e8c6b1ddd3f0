"""How close points lie: to each other, to their class's centre, and to the other class."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import pdist

from lafr_base.compat import MissingPackageError

Points = NDArray[np.float64]
"""(N, D)."""


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
    if len(points) < 2:
        raise ValueError(f"a distance within a class needs two points at least; got {len(points)}")
    return float(pdist(points).mean())


def silhouettes(points: Points, labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Silhouette of each point (Rousseeuw, 1987), in [-1, 1], by scikit-learn; 0 where the class has one point.

    Args:
        points: (N, D).
        labels: class of each point, (N,); two classes at least.

    Raises:
        ValueError: there are fewer than two classes.
        MissingPackageError: scikit-learn is not installed.
    """
    try:
        from sklearn.metrics import silhouette_samples
    except ImportError as error:
        raise MissingPackageError(f"silhouettes need scikit-learn ({error}): pip install 'lafr[figures]'") from error
    if len(np.unique(labels)) < 2:
        raise ValueError("silhouettes need two classes at least")
    return np.nan_to_num(silhouette_samples(points, labels))
