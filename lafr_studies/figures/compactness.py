"""Figure 10: how close faces lie to each other, beside natural images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from lafr_base import weights
from lafr_base.checkpoints import read_state
from lafr_base.files import write_json
from lafr_studies.figures.drawing import new_figure, save, scatter, tsne
from lafr_studies.figures.figure_inputs import FigureError, Source, face_pairs, images, load_model
from lafr_studies.figures.point_statistics import Points, centroid_distance, mean_pairwise_distance, silhouettes

PAPER = {"intra_class": {"faces": 13.28, "natural": 24.13}, "silhouette": 0.18}
"""ResNet-50 features of CelebA and ImageNet (LAFR, 2.1); which distance within a class it is, the paper doesn't say."""

FEATURES = ("resnet50", "latent")
_SIDE = 224
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's


class ResNet50Features(nn.Module):
    """The 2048 values before the classifier of torchvision's ResNet-50, trained on ImageNet.

    Raises:
        lafr_base.weights.MissingWeightsError: ``resnet50`` of ``lafr weights`` is not there.
        FigureError: the file holds another net.
    """

    def __init__(self) -> None:
        from torchvision.models import resnet50

        super().__init__()
        path = weights.require("resnet50")
        net = resnet50()
        try:
            net.load_state_dict(read_state(path))
        except RuntimeError as error:
            raise FigureError(f"{path} is not torchvision's ResNet-50: {error}") from error
        net.fc = nn.Identity()
        self.net = net.eval().requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, 3, H, W) RGB in [0, 1], resized to 224 x 224 -> (B, 2048)."""
        x = nn.functional.interpolate(x, size=(_SIDE, _SIDE), mode="bilinear", antialias=True, align_corners=False)
        mean, std = (x.new_tensor(values).view(1, 3, 1, 1) for values in (_MEAN, _STD))
        return self.net((x - mean) / std)


def numbers(faces: Points, natural: Points) -> dict[str, Any]:
    """Distances within both classes and silhouettes of features (N, D) and (M, D).

    Returns:
        ``intra_class``: by class, ``centroid`` (mean distance to the class's mean) and ``pairwise`` (mean distance of
        two of its images); ``silhouette``: mean over all images and over those of each class.
    """
    points = np.concatenate([faces, natural])
    labels = np.repeat([0, 1], [len(faces), len(natural)])
    values = silhouettes(points, labels)
    classes = {"faces": faces, "natural": natural}
    return {
        "count": {name: len(x) for name, x in classes.items()},
        "intra_class": {
            name: {"centroid": centroid_distance(x), "pairwise": mean_pairwise_distance(x)}
            for name, x in classes.items()
        },
        "silhouette": {
            "all": float(values.mean()),
            "faces": float(values[labels == 0].mean()),
            "natural": float(values[labels == 1].mean()),
        },
    }


def make(source: Source, natural: str, features: str, out: Path, device: torch.device) -> dict[str, Any]:
    """Write ``compactness.png`` and ``compactness.json``; return the latter's content.

    Args:
        source: the faces; its network gives ``latent`` features.
        natural: folder of natural images.
        features: ``resnet50``, as in the paper, or ``latent``: what the network's encoder makes of an image.
        out: folder to write to.
        device: where nets run.

    Raises:
        FigureError: a class has fewer than two images, or scikit-learn is missing.
        lafr_base.weights.MissingWeightsError: ``resnet50`` is not there.
    """
    if features == "latent":
        net = load_model(source, device)
        size, encode = net.image_size, net.encode
    else:
        size, encode = _SIDE, ResNet50Features().to(device)
    dataset, settings = face_pairs(source, size)
    others = images(natural, size, source.count, settings["seed"], "--natural")
    sets = {"faces": (dataset, settings["dataroot_gt"]), "natural": (others, natural)}
    for name, (data, folder) in sets.items():
        if len(data) < 2:  # type: ignore[arg-type]
            raise FigureError(f"--{name}: {folder} has one image; two are needed")
    found = {name: _features(data, encode, device, name) for name, (data, _) in sets.items()}
    plane = tsne(np.concatenate(list(found.values())), settings["seed"])
    count = len(found["faces"])
    result = {
        "figure": "compactness",
        "features": features if features == "resnet50" else f"latents of {source.model}",
        "seed": settings["seed"],
        **numbers(found["faces"], found["natural"]),
        "paper": PAPER,
        "tsne": {"faces": plane[:count].round(4).tolist(), "natural": plane[count:].round(4).tolist()},
    }
    figure, (ax,) = new_figure(5.2, 4.6)
    scatter(ax, {"faces": plane[:count], "natural images": plane[count:]})
    within, silhouette = result["intra_class"], result["silhouette"]["all"]
    ax.set_title(
        f"distance to the class's centre {within['faces']['centroid']:.1f} and {within['natural']['centroid']:.1f}, "
        f"silhouette {silhouette:.2f}",
        fontsize=9,
    )
    save(figure, out / "compactness.png")
    write_json(out / "compactness.json", result)
    return result


@torch.no_grad()
def _features(dataset: Any, encode: Callable[[Tensor], Tensor], device: torch.device, name: str) -> Points:
    progress = tqdm(range(len(dataset)), desc=f"Features of {name}", unit="image", disable=None)
    rows = [encode(dataset[index]["gt"][None].to(device)).flatten().double().cpu().numpy() for index in progress]
    return np.stack(rows)


def text(result: dict[str, Any]) -> str:
    """What the figure says, in lines."""
    lines = [f"features: {result['features']}"]
    for name, value in result["intra_class"].items():
        lines.append(
            f"{name:<8} {result['count'][name]} images; distance to the class's centre {value['centroid']:.2f}, of two "
            f"images {value['pairwise']:.2f}; silhouette {result['silhouette'][name]:.3f}"
        )
    paper = result["paper"]
    return "\n".join(
        [
            *lines,
            f"silhouette of all {result['silhouette']['all']:.3f}",
            f"the paper, ResNet-50: {paper['intra_class']['faces']} and {paper['intra_class']['natural']}, silhouette "
            f"{paper['silhouette']}",
        ]
    )
