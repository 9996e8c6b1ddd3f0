"""t-SNE, and pictures by matplotlib without a display."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lafr_base.files import whole
from lafr_studies.figures.figure_inputs import FigureError
from lafr_studies.figures.point_statistics import Points

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#d1495b", "#2e6f95", "#3a9d5d", "#8d6a9f")
"""Told apart by the colour-blind, too."""

PERPLEXITY = 30.0
"""t-SNE's usual number of neighbours; fewer where there are few points."""


def tsne(points: Points, seed: int) -> Points:
    """Embed points (N, D) in the plane (N, 2) by t-SNE (van der Maaten, Hinton, 2008); the same for the same seed.

    Raises:
        FigureError: scikit-learn is missing, or there are fewer than four points.
    """
    try:
        from sklearn.manifold import TSNE
    except ImportError as error:
        raise FigureError(f"t-SNE needs scikit-learn ({error}): pip install 'lafr[figures]'") from error
    if len(points) < 4:
        raise FigureError(f"t-SNE needs four points at least; got {len(points)}")
    perplexity = min(PERPLEXITY, (len(points) - 1) / 3)
    method = TSNE(perplexity=perplexity, init="pca", random_state=seed)
    return method.fit_transform(points.astype(np.float32)).astype(np.float64)


def new_figure(width: float, height: float, columns: int = 1, rows: int = 1) -> tuple[Any, list[Axes]]:
    """A figure of so many inches and its axes, row by row."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for ax in axes.flat:
        ax.spines[["top", "right"]].set_visible(False)
    return figure, list(axes.flat)


def scatter(ax: Axes, groups: Mapping[str, Points]) -> None:
    """Draw embedded points (N, 2) by label. Axes of t-SNE have no unit, so none is shown."""
    most = max(map(len, groups.values()))
    for (label, points), colour in zip(groups.items(), COLOURS, strict=False):
        ax.scatter(
            points[:, 0], points[:, 1], s=14 if most < 300 else 5, color=colour, alpha=0.7, linewidths=0, label=label
        )
    ax.set(xticks=[], yticks=[], aspect="equal")
    ax.spines[:].set_visible(False)
    ax.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, 0), ncols=len(groups), markerscale=1.5)


def save(figure: Any, path: Path) -> None:
    """Write a PNG file whole or not at all; missing folders are made."""
    with whole(path) as part:
        figure.savefig(part, format="png", dpi=120)
