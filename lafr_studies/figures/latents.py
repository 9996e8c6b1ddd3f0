"""Figure 7: LQ, aligned and HQ latents by t-SNE, and how far the first two lie from the third."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from lafr_arch.lafr_arch import LAFRNet
from lafr_base.files import write_json
from lafr_metrics.statistics import bootstrap_mean
from lafr_models.latent_distance import LatentDistances
from lafr_studies.figures.drawing import COLOURS, new_figure, save, scatter, tsne
from lafr_studies.figures.figure_inputs import FigureError, Source, face_pairs, load_model
from lafr_studies.figures.point_statistics import Points, paired_distances

KINDS = ("LQ", "aligned", "HQ")

POINTS = ("position", "face")
"""What a point of the t-SNE is: the vector of one position of a latent, or a whole latent."""

_POSITIONS = 10


@dataclass(frozen=True)
class Latents:
    """The scaled latents of the same faces, each flattened to a row.

    Attributes:
        lq: of the LQ faces, (N, D).
        aligned: what the alignment module makes of them.
        hq: of the HQ faces.
        channels: of the latents; D is channels x height x width.
        distances: mean L1 and Frechet distance to the HQ latents, as stage 1's validation reports them.
        names: the faces' files.
    """

    lq: Points
    aligned: Points
    hq: Points
    channels: int
    distances: dict[str, float]
    names: list[str]

    def points(self, kind: str, seed: int) -> list[Points]:
        """What t-SNE is to embed: LQ, aligned and HQ points.

        Args:
            kind: ``face``: the rows themselves; ``position``: of each face the vectors (of length ``channels``) of ten
                positions, drawn with the seed and the same for all three.
            seed: any.
        """
        sets = [self.lq, self.aligned, self.hq]
        if kind == "face":
            return sets
        count, size = self.hq.shape[0], self.hq.shape[1] // self.channels
        generator = np.random.default_rng(seed)
        drawn = np.stack([generator.permutation(size)[:_POSITIONS] for _ in range(count)])
        vectors = [rows.reshape(count, self.channels, size).transpose(0, 2, 1) for rows in sets]
        return [np.take_along_axis(v, drawn[..., None], axis=1).reshape(-1, self.channels) for v in vectors]


@torch.no_grad()
def collect(net: LAFRNet, dataset: Any, device: torch.device) -> Latents:
    """Encode and align every pair of a dataset (``lq`` and ``gt``), one by one."""
    rows: dict[str, list[np.ndarray]] = {kind: [] for kind in KINDS}
    distances, names, channels = LatentDistances(), [], 0
    for index in tqdm(range(len(dataset)), desc="Encoding", unit="face", disable=None):
        item = dataset[index]
        lq, hq = (net.encode(item[key][None].to(device)) for key in ("lq", "gt"))
        latents = (lq, net.align(lq), hq)
        distances.add(*latents)
        channels = hq.shape[1]
        for kind, latent in zip(KINDS, latents, strict=True):
            rows[kind].append(latent.flatten().double().cpu().numpy())
        names.append(Path(item["gt_path"]).name)
    lq_rows, aligned, hq_rows = (np.stack(rows[kind]) for kind in KINDS)
    return Latents(lq_rows, aligned, hq_rows, channels, distances.values(), names)


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


def make(source: Source, points: str, out: Path, device: torch.device) -> dict[str, Any]:
    """Write ``latents.png`` and ``latents.json``; return the latter's content.

    Args:
        source: network and faces.
        points: what a point of the t-SNE is, one of :data:`POINTS`.
        out: folder to write to.
        device: where the network runs.

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
    embedded = np.concatenate(latents.points(points, settings["seed"]))
    plane = np.split(tsne(embedded, settings["seed"]), len(KINDS))
    result = {
        "figure": "latents",
        "model": source.model,
        "degradation": settings["degradation"],
        "seed": settings["seed"],
        **numbers(latents),
        "names": latents.names,
        "points": points,
        "tsne": {kind: values.round(4).tolist() for kind, values in zip(KINDS, plane, strict=True)},
    }
    _draw(latents, plane, result, out / "latents.png")
    write_json(out / "latents.json", result)
    return result


def _draw(latents: Latents, plane: Sequence[Points], result: dict[str, Any], path: Path) -> None:
    figure, (left, right) = new_figure(9, 4.4, columns=2)
    if result["points"] == "face":  # a line from each LQ latent to its HQ latent
        left.plot(*np.stack([plane[0], plane[2]]).transpose(2, 0, 1), color="#cccccc", linewidth=0.8, zorder=0)
    scatter(left, dict(zip(KINDS, plane, strict=True)))
    what = "whole latents" if result["points"] == "face" else "vectors of single positions"
    left.set_title(f"t-SNE of {what}", fontsize=10)
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
