"""Engines that run a network's ONNX graph on a CPU: OpenVINO and ONNX Runtime."""

from __future__ import annotations

import logging
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lafr_arch.onnx_export import cached_graph
from lafr_base import processor

logger = logging.getLogger(__name__)

GraphRunner = Callable[..., Tensor]
"""A graph as a function of its inputs, in the graph's order."""

_OPENVINO_TYPES = {"fp32": "f32", "bf16": "bf16"}


class EngineError(RuntimeError):
    """An engine cannot be used; the message says what is missing."""


def openvino_graph(path: Path, precision: str = "fp32") -> GraphRunner:
    """Open a graph in OpenVINO, on as many threads as torch has.

    Args:
        path: of the ONNX file.
        precision: of the arithmetic: ``fp32`` or ``bf16``. OpenVINO's own choice would be bf16 where there is any.
    """
    import openvino

    options: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": _OPENVINO_TYPES[precision],
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",  # one stream, which has all threads
    }
    core = openvino.Core()
    request = core.compile_model(core.read_model(path), "CPU", options).create_infer_request()

    def run(*inputs: Tensor) -> Tensor:
        arrays = [x.detach().contiguous().numpy() for x in inputs]
        return torch.from_numpy(request.infer(dict(enumerate(arrays)))[0])

    return run


def onnxruntime_graph(path: Path, precision: str = "fp32") -> GraphRunner:  # noqa: ARG001 - as openvino_graph's
    """Open a graph in ONNX Runtime, on as many threads as torch has; its CPU kernels know fp32 alone."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [node.name for node in session.get_inputs()]

    def run(*inputs: Tensor) -> Tensor:
        arrays = (x.detach().contiguous().numpy() for x in inputs)
        return torch.from_numpy(session.run(None, dict(zip(names, arrays, strict=True)))[0])

    return run


GRAPH_ENGINES: dict[str, Callable[[Path, str], GraphRunner]] = {
    "openvino": openvino_graph,
    "onnxruntime": onnxruntime_graph,
}
"""By name, what opens a graph."""


def obstacle(engine: str, precision: str) -> str | None:
    """What keeps a graph engine from running here in a precision; None for nothing."""
    missing = [name for name in (engine, "onnxscript") if find_spec(name) is None]
    if missing:
        return f"{' and '.join(missing)} not installed; pip install 'lafr[{engine}]'"
    if precision == "fp32":
        return None
    if engine == "openvino" and precision in _OPENVINO_TYPES:
        return None if processor.multiplies_bf16() else f"this processor has no instructions for {precision}"
    return f"it has no {precision} on a CPU"


class GraphNetwork(nn.Module):
    """A network's graph in an engine, for inference on the CPU.

    Args:
        network: under :class:`lafr_arch.restoring.RestoringNetwork`; stays as it is.
        engine: one of :data:`GRAPH_ENGINES`.
        precision: ``fp32``, or ``bf16`` where :func:`obstacle` has nothing against it.

    Raises:
        EngineError: the graph cannot be made or opened.
    """

    def __init__(self, network: nn.Module, engine: str, precision: str = "fp32") -> None:
        super().__init__()
        self.engine, self.precision = engine, precision
        self.image_size: Any = network.image_size
        try:
            plain = network.for_inference(kernels=False)  # type: ignore[operator]
            path = cached_graph(plain.eval(), lambda path: GRAPH_ENGINES[engine](path, "fp32"))
            self._run = GRAPH_ENGINES[engine](path, precision)
        except Exception as error:  # of packages that are broken in as many ways as there are
            raise EngineError(f"{engine}: {error}") from error

    def forward(self, lq: Tensor) -> Tensor:
        """(B, 3, S, S) -> the same."""
        return self._run(lq.float())
