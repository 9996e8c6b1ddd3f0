"""Metrics that pyiqa serves, built from local files: pyiqa itself would download what it does not find."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lafr_base.checkpoints import read_state
from lafr_base.compat import MissingPackageError
from lafr_base.weights import require
from lafr_losses.common import freeze, load_strict
from lafr_metrics.images import ImagePair
from lafr_metrics.specs import METRICS, MetricSpec, add_metric


class PyIQA:
    """A no-reference metric of pyiqa, equal to ``pyiqa.create_metric``'s.

    Args:
        name: ``musiq``, ``clipiqa``, ``maniqa`` or ``maniqa_pipal``.
        device: where the net runs.

    Raises:
        lafr_base.weights.MissingWeightsError: its file is not there.
        MissingPackageError: pyiqa, or something it needs, is not installed.
        ValueError: the file holds another net.
    """

    def __init__(self, name: str, device: torch.device) -> None:
        (weight,) = METRICS[name].weights
        path = require(weight)
        try:
            self.net = freeze(_build(name, path)).to(device)
        except ImportError as error:
            raise MissingPackageError(f"{error}: pip install 'lafr[metrics]' brings pyiqa and what it needs") from error

    def __call__(self, pair: ImagePair) -> float:
        """Score of the restored image."""
        return self.net(pair.restored_tensor).item()


def _build(name: str, path: Path) -> nn.Module:
    """The net with pyiqa's options for that metric (its default_model_configs.py)."""
    net: nn.Module
    if name == "clipiqa":
        with _packaging_in_pkg_resources():
            from pyiqa.archs.clipiqa_arch import CLIPIQA

        return CLIPIQA(backbone=str(path))
    if name == "musiq":
        from pyiqa.archs.musiq_arch import MUSIQ

        net = MUSIQ(pretrained=False)
    else:
        from pyiqa.archs import maniqa_arch

        options: dict[str, dict[str, Any]] = {
            "maniqa": {"train_dataset": "koniq", "scale": 0.8},
            "maniqa_pipal": {"train_dataset": "pipal"},
        }
        with _without_pretraining(maniqa_arch.timm):
            net = maniqa_arch.MANIQA(pretrained=False, **options[name])
    load_strict(net, read_state(path), path)
    return net


@contextmanager
def _packaging_in_pkg_resources() -> Iterator[None]:
    """Let openai-clip 1.0.1 import ``packaging`` from pkg_resources, which setuptools 82 no longer has."""
    name = "pkg_resources"
    if find_spec(name) is not None:
        yield
        return
    import packaging.version

    module = types.ModuleType(name)
    module.packaging = packaging  # type: ignore[attr-defined]
    sys.modules[name] = module
    try:
        yield
    finally:
        del sys.modules[name]


@contextmanager
def _without_pretraining(timm: Any) -> Iterator[None]:
    """Let ``timm.create_model`` load no weights: MANIQA asks for a download that its own file then replaces."""
    original = timm.create_model
    timm.create_model = lambda name, **options: original(name, **{**options, "pretrained": False})
    try:
        yield
    finally:
        timm.create_model = original


def _add(name: str, title: str, variant: str, weight: str) -> None:
    add_metric(
        MetricSpec(
            name=name,
            title=title,
            better="higher",
            variant=variant,
            library="pyiqa 0.1.16",
            build=lambda device: PyIQA(name, device),
            weights=(weight,),
            package="pyiqa",
            install="pip install 'lafr[metrics]'",
        )
    )


_add("musiq", "MUSIQ", "musiq: KonIQ-10k, full size and longer sides 384 and 224", "musiq-koniq")
_add("clipiqa", "CLIP-IQA", "clipiqa: CLIP RN50, mean of 5 prompt pairs, no position embedding", "clip-rn50")
_add("maniqa", "MANIQA", "maniqa: KonIQ-10k, 20 crops of 224 x 224", "maniqa-koniq")
_add("maniqa_pipal", "MANIQA (PIPAL)", "maniqa-pipal: PIPAL, 20 crops of 224 x 224", "maniqa-pipal")
