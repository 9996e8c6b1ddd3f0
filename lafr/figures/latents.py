"""Figure 7: LQ, aligned and HQ latents by t-SNE, and how far the first two lie from the third."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from lafr.comparison.files import write_json
from lafr.figures.drawing import COLOURS, new_figure, save, scatter, tsne
from lafr.figures.inputs import FigureError, Source, face_pairs, load_model
from lafr.figures.statistics import Points, paired_distances
from lafr_arch.lafr_arch import LAFRNet
from lafr_metrics.statistics import bootstrap_mean
from lafr_models.latent_distance import LatentDistances

KINDS = ("LQ", "aligned", "HQ")


@dataclass(frozen=True)
class Latents:
    """The scaled latents of the same faces, each flattened to a row.

    Attributes:
        lq: of the LQ faces, (N, D).
        aligned: what the alignment module makes of them.
        hq: of the HQ faces.
        distances: mean L1 and Frechet distance to the HQ latents, as stage 1's validation reports them.
        names: the faces' files.
    """

    lq: Points
    aligned: Points
    hq: Points
    distances: dict[str, float]
    names: list[str]


@torch.no_grad()
def collect(net: LAFRNet, dataset: Any, device: torch.device) -> Latents:
    """Encode and align every pair of a dataset (``lq`` and ``gt``), one by one."""
    rows: dict[str, list[np.ndarray]] = {kind: [] for kind in KINDS}
    distances, names = LatentDistances(), []
    for index in tqdm(range(len(dataset)), desc="Encoding", unit="face", disable=None):
        item = dataset[index]
        lq, hq = (net.encode(item[key][None].to(device)) for key in ("lq", "gt"))
        latents = (lq, net.align(lq), hq)
        distances.add(*latents)
        for kind, latent in zip(KINDS, latents, strict=True):
            rows[kind].append(latent.flatten().double().cpu().numpy())
        names.append(Path(item["gt_path"]).name)
    lq_rows, aligned, hq_rows = (np.stack(rows[kind]) for kind in KINDS)
    return Latents(lq_rows, aligned, hq_rows, distances.values(), names)


def numbers(latents: Latents) -> dict[str, Any]:
    """Distances in latent space: paired (each face to itself), of the sets' centres, and of their distributions.

    Returns:
        ``paired_l2``: Euclidean distance of a face's latent to its HQ latent, of LQ and aligned, mean and 95 %
        bootstrap interval over the faces; ``paired_l2_reduction``: the relative change of each face's;
        ``centroid_l2``: of the sets' means; ``l1_*``, ``frechet_*``: as :class:`LatentDistances`.
    """
    paired = {kind: paired_distances(x, latents.hq) for kind, x in (("lq", latents.lq), ("aligned", latents.aligned))}
    centre = latents.hq.mean(0)
    return {
        "faces": len(latents.names),
        "paired_l2": {kind: bootstrap_mean(values.tolist()) for kind, values in paired.items()},
        "paired_l2_reduction": bootstrap_mean((1 - paired["aligned"] / paired["lq"]).tolist()),
        "centroid_l2": {
            kind: float(np.linalg.norm(x.mean(0) - centre))
            for kind, x in (("lq", latents.lq), ("aligned", latents.aligned))
        },
        **latents.distances,
    }


def make(source: Source, out: Path, device: torch.device) -> dict[str, Any]:
    """Write ``latents.png`` and ``latents.json``; return the latter's content.

    Raises:
        FigureError: the network has no alignment module, there are fewer than two faces, or scikit-learn is missing.
    """
    net = load_model(source, device)
    if net.alignment is None:
        raise FigureError(f"--model: {source.model} has no alignment module, so there are no aligned latents")
    dataset, settings = face_pairs(source, net.image_size)
    if len(dataset) < 2:  # type: ignore[arg-type]
        raise FigureError(f"--faces: {settings['dataroot_gt']} has one face; two are needed")
    latents = collect(net, dataset, device)
    count = len(latents.names)
    plane = tsne(np.concatenate([latents.lq, latents.aligned, latents.hq]), settings["seed"])
    result = {
        "figure": "latents",
        "model": source.model,
        "degradation": settings["degradation"],
        "seed": settings["seed"],
        **numbers(latents),
        "names": latents.names,
        "tsne": {kind: plane[i * count : (i + 1) * count].round(4).tolist() for i, kind in enumerate(KINDS)},
    }
    _draw(latents, plane, result, out / "latents.png")
    write_json(out / "latents.json", result)
    return result


def _draw(latents: Latents, plane: Points, result: dict[str, Any], path: Path) -> None:
    count = len(latents.names)
    figure, (left, right) = new_figure(9, 4.2, columns=2)
    scatter(left, plane, {kind: range(i * count, (i + 1) * count) for i, kind in enumerate(KINDS)})
    left.set_title("t-SNE of the latents", fontsize=10)
    values = [paired_distances(x, latents.hq) for x in (latents.lq, latents.aligned)]
    edges = np.histogram_bin_edges(np.concatenate(values), bins=24).tolist()
    for kind, distances, colour in zip(("lq", "aligned"), values, COLOURS, strict=False):
        mean = result["paired_l2"][kind]["mean"]
        label = f"{'LQ' if kind == 'lq' else kind}: mean {mean:.1f}"
        right.hist(distances, edges, color=colour, alpha=0.65, label=label)
    right.set_title("distance of each latent to its HQ latent", fontsize=10)
    right.set(xlabel="Euclidean distance", ylabel="faces")
    right.legend(frameon=False)
    save(figure, path)


def text(result: dict[str, Any]) -> str:
    """What the figure says, in lines."""
    paired, centre = result["paired_l2"], result["centroid_l2"]
    change = result["paired_l2_reduction"]
    lines = [f"{result['faces']} faces, {result['degradation']}, seed {result['seed']}; distance to HQ latents"]
    for kind in ("lq", "aligned"):
        value = paired[kind]
        lines.append(
            f"{kind:<8} Euclidean {value['mean']:.2f} [{value['low']:.2f}, {value['high']:.2f}], of centres "
            f"{centre[kind]:.2f}, L1 {result[f'l1_{kind}']:.4f}, Frechet {result[f'frechet_{kind}']:.4f}"
        )
    interval = f"[{change['low']:.1%}, {change['high']:.1%}]"
    return "\n".join([*lines, f"alignment takes away {change['mean']:.1%} {interval} of a face's Euclidean distance"])
