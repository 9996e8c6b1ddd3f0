"""What runs a network: PyTorch's layers, this project's kernels, OpenVINO or ONNX Runtime; and which is fastest where.

All take the same weights and give the same faces, to rounding, in fp32. OpenVINO and ONNX Runtime run one graph, which
is exported once on a machine (:mod:`lafr_arch.onnx_export`).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from lafr_arch.fast_kernels import load_kernels
from lafr_arch.graph_engines import GRAPH_ENGINES, EngineError, GraphNetwork, obstacle
from lafr_base.dtypes import DTYPES

logger = logging.getLogger(__name__)

ENGINES = ("auto", "torch", "kernels", *GRAPH_ENGINES)
"""Names of what runs a network; ``auto`` picks by :data:`FASTEST`."""

SMALL = 100_000_000
"""A network with fewer parameters is small: its weights stay in a processor's caches."""


@dataclass(frozen=True)
class Rule:
    """Where an engine is the fastest; what is None does not matter.

    Attributes:
        engine: one of :data:`ENGINES`.
        precision: the arithmetic in which it is; it must be allowed.
        small: whether the network is, see :data:`SMALL`.
        kernels: whether this project's kernels run here.
    """

    engine: str
    precision: str | None = None
    small: bool | None = None
    kernels: bool | None = None


FASTEST = (
    Rule("openvino", "bf16", small=True),
    Rule("kernels", kernels=True),
    Rule("openvino", kernels=False),
)
"""For networks of ``own_kernels`` on a CPU, by benchmarks/engines.py: the first rule that holds, and whose engine and
arithmetic are there, is what ``auto`` takes; ``torch`` where none does. Other networks run in ``torch``."""


def pick(engine: str, network: Any, device: torch.device, precision: str = "auto") -> tuple[str, str]:
    """What runs a network, and in which arithmetic; says in one line where it is not what was asked for.

    Args:
        engine: one of :data:`ENGINES`.
        network: under :class:`lafr_arch.restoring.RestoringNetwork`.
        device: where it is to run.
        precision: ``auto`` or one of :data:`lafr_base.dtypes.DTYPES`. What it names is kept to, whatever the engine.

    Returns:
        The engine, never ``auto``, and the arithmetic. Where that was left to ``auto`` and is lower than fp32, its
        faces are yet to be compared with fp32's.

    Raises:
        ValueError: an unknown engine.
    """
    if engine not in ENGINES:
        raise ValueError(f"engine must be one of {', '.join(ENGINES)}; got {engine!r}")
    chosen, why = _fastest(network, device, precision) if engine == "auto" else (engine, None)
    if chosen in GRAPH_ENGINES:
        arithmetic = _graph_precision(chosen, network, precision)
        why = why or _graph_obstacle(chosen, arithmetic, network, device)
        if why is None:
            return chosen, arithmetic
        chosen = "kernels"
    if chosen == "kernels" and not (device.type == "cpu" and network.own_kernels and load_kernels() is not None):
        why = why or (None if network.own_kernels and device.type == "cpu" else "there are kernels for LAFR's on CPUs")
        chosen = "torch"
    if engine not in ("auto", chosen):
        logger.warning("engine %s: left out, %s runs: %s", engine, chosen, why or "the kernels cannot be loaded")
    return chosen, _layers_precision(network, device, precision)


def _fastest(network: Any, device: torch.device, precision: str) -> tuple[str, str | None]:
    if device.type != "cpu" or not network.own_kernels:
        return "torch", None
    kernels = load_kernels() is not None
    small = sum(parameter.numel() for parameter in network.parameters()) < SMALL
    for rule in FASTEST:
        if rule.small not in (None, small) or rule.kernels not in (None, kernels):
            continue
        if rule.engine in GRAPH_ENGINES:
            arithmetic = _graph_precision(rule.engine, network, precision)
            if rule.precision not in (None, arithmetic) or _graph_obstacle(rule.engine, arithmetic, network, device):
                continue
        return rule.engine, None
    return "torch", None


def _graph_precision(engine: str, network: Any, precision: str) -> str:
    if precision != "auto":
        return precision
    lower = network.half_precision and obstacle(engine, "bf16") is None
    return "bf16" if lower else "fp32"


def _graph_obstacle(engine: str, precision: str, network: Any, device: torch.device) -> str | None:
    if device.type != "cpu":
        return "it is for CPUs here"
    if network.weight_means == "network":
        return "this network takes a weight beside the face, which its graph has not"
    return obstacle(engine, precision)


def _layers_precision(network: Any, device: torch.device, precision: str) -> str:
    if precision != "auto":
        return precision
    return (fast_precision(device) if network.half_precision else None) or "fp32"


def fast_precision(device: torch.device) -> str | None:
    """The lower precision in which torch's layers are several times faster than in fp32; None for none."""
    if device.type == "cuda":
        return "fp16"  # as fast as bf16, and nearer to fp32: 0.02 against 0.15 levels with mini
    return "bf16" if device.type == "cpu" and torch.cpu._is_amx_tile_supported() else None


def build(network: Any, engine: str, precision: str) -> nn.Module:
    """A network in the form in which an engine runs it; it stays as it is.

    Args:
        network: under :class:`lafr_arch.restoring.RestoringNetwork`, in eval mode, on its device.
        engine: from :func:`pick`.
        precision: one of :data:`lafr_base.dtypes.DTYPES`.

    Raises:
        EngineError: the engine's graph cannot be made or opened.
    """
    if engine in GRAPH_ENGINES:
        return GraphNetwork(network, engine, precision)
    dtype = None if precision == "fp32" else DTYPES[precision]
    if engine == "torch" and network.own_kernels:
        return network.for_inference(dtype, kernels=False)
    return network.for_inference(dtype)


__all__ = ["ENGINES", "FASTEST", "EngineError", "Rule", "build", "fast_precision", "pick"]
