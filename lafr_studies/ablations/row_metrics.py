"""The metrics of a trained network on the option file's validation set, kept on disk.

OUT/measures/NAME_*.json, one for each choice of metrics, has the values of each face and of the set, seconds and
parameters; OUT/results/NAME the restored faces, where a metric of the whole set needs them.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from lafr_arch.lafr_arch import LAFRNet
from lafr_base.files import digest, read_json, write_json
from lafr_base.images import write_image
from lafr_base.registry import DATASET_REGISTRY
from lafr_metrics.images import to_image
from lafr_metrics.suite import METRICS, Suite
from lafr_studies.ablations.deltas import AblationError
from lafr_studies.ablations.runs import Run, fingerprint


def measure(run: Run, out: Path, suite: Suite, device: torch.device) -> dict[str, Any]:
    """Restore the validation set by a finished training's deployed network and measure it; or read what is on disk.

    Args:
        run: its last stage has written ``deployed``.
        out: folder of all trainings.
        suite: what is measured.
        device: where the network runs.

    Returns:
        ``faces``: value by face and metric (None where it is not finite); ``set``: value of each metric of the whole
        set; ``errors``: metrics that could not be had, with the reason; ``seconds``, ``parameters``, ``alignment``.

    Raises:
        AblationError: the training has left no deployed network, or the validation set cannot be had.
    """
    key = digest(dict(run.validation), fingerprint(str(run.validation["dataroot_gt"])), sorted(suite.names))
    path = out / "measures" / f"{run.name}_{key[:8]}.json"
    record = read_json(path)
    if record:
        return record
    folder = run.folder(out) / "deployed"
    if not folder.is_dir():
        raise AblationError(f"{folder} does not exist; stage {run.stage} writes it at its end")
    net = LAFRNet.from_pretrained(folder, device)
    pictures = [METRICS[name].kind == "set" for name in suite.names]
    record = _measure(net, run, out, suite, device, any(pictures))
    write_json(path, record)
    return record


@torch.no_grad()
def _measure(net: LAFRNet, run: Run, out: Path, suite: Suite, device: torch.device, pictures: bool) -> dict[str, Any]:
    options = {**run.validation, "phase": "val"}
    try:
        dataset = DATASET_REGISTRY[options["type"]](options)
    except (ValueError, OSError) as error:
        raise AblationError(f"{run.name}: datasets: val: {error}") from error
    references = out / "results" / f"hq_{digest(dict(run.validation))[:12]}"
    faces: dict[str, dict[str, float | None]] = {}
    errors: dict[str, str] = {}
    seconds: list[float] = []
    files: tuple[list[Path], list[Path]] = ([], [])
    for index in tqdm(range(len(dataset)), desc=f"Measure {run.name}", unit="face", disable=None):
        item = dataset[index]
        lq = item["lq"][None].to(device)
        start = _now(device)
        restored = net(lq)
        seconds.append(_now(device) - start)
        images = [to_image(image) for image in (restored, item["gt"])]
        name = f"{index:05d}_{Path(item['gt_path']).stem}"
        faces[name] = _finite(suite.measure(images[0], images[1], errors))
        if pictures:
            for folder, image, paths in zip((out / "results" / run.name, references), images, files, strict=True):
                paths.append(folder / f"{name}.png")
                write_image(paths[-1], image)
    values = suite.measure_set(*files, errors=errors) if pictures else {}
    return {
        "faces": faces,
        "set": values,
        "errors": errors,
        "seconds": statistics.median(seconds[1:] or seconds),
        "parameters": _millions(net),
        "alignment": _millions(net.alignment),
    }


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _millions(module: nn.Module | None) -> float:
    return 0.0 if module is None else sum(p.numel() for p in module.parameters()) / 1e6


def _finite(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: float(value) if math.isfinite(value) else None for name, value in values.items()}
