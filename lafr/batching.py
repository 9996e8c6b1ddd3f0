"""Run a face network over many faces: in batches that shrink when memory runs out, with a check of the result."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lafr_arch import engines
from lafr_arch.engines import EngineError
from lafr_arch.restoring import as_restoring
from lafr_base.dtypes import DTYPES

logger = logging.getLogger(__name__)

PRECISIONS = ("auto", *DTYPES)
"""Names of the arithmetic a network can run in."""

MAX_LEVELS = 2.0
"""With precision "auto", lower precision may change the faces by at most this many of 255 levels on average."""

_OUT_OF_MEMORY = ("out of memory", "not enough memory", "DefaultCPUAllocator")


class FaceRunner:
    """Applies a network to faces of one size.

    Args:
        network: under `lafr_arch.restoring.RestoringNetwork`, or any module that maps (B, 3, S, S) RGB in [0, 1] to the
            same; used in eval mode, moved to `device`.
        device: where to run.
        batch_size: most faces at once. Halved for good whenever memory runs out.
        precision: one of `PRECISIONS`. LAFRNet lowers the parts that can bear it; other networks run under autocast. A
            face whose result is not finite is repeated in fp32. "auto" is fp32, but for a network of `half_precision`
            on a GPU fp16, on a CPU with AMX bf16, and in OpenVINO bf16 where the processor multiplies it, unless the
            first batch differs by more than `MAX_LEVELS`.
        compiled: run the network through `torch.compile`, which takes minutes before the first batch; on a GPU as CUDA
            graphs. Shapes are static: a batch that is not full is filled up with copies of its last face. Where it
            cannot be compiled, and where another engine than `torch` runs, a warning says so and it runs as it is.
        engine: one of `lafr_arch.engines.ENGINES`; what cannot run here is replaced, and a warning says by what.

    Raises:
        ValueError: `batch_size` below 1, an unknown precision or engine.
    """

    def __init__(
        self,
        network: nn.Module,
        device: torch.device,
        batch_size: int = 8,
        precision: str = "fp32",
        compiled: bool = False,
        engine: str = "auto",
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1; got {batch_size}")
        if precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}; got {precision!r}")
        self.device = device
        self.batch_size = batch_size
        network = network.to(device).eval()
        self._network = as_restoring(network, image_size=0)  # the faces say their size themselves
        self.engine, self.precision = engines.pick(engine, self._network, device, precision)
        self._copies: dict[str, nn.Module] = {}
        try:
            self.network: nn.Module = self._copy(self.precision)
        except EngineError as error:
            self.engine, self.precision = engines.pick("kernels", self._network, device, precision)
            logger.warning("engine left out, %s runs: %s", self.engine, error)
            self.network = self._copy(self.precision)
        self._settled = precision != "auto" or self.precision == "fp32"
        self.compiled = compiled and self.engine == "torch"
        if self.compiled:
            self.network = CompiledNetwork(self.network, device)
        elif compiled and self.engine == "kernels":
            logger.warning("compile: left out; on a CPU this network's own kernels are faster")
        elif compiled:
            logger.warning("compile: left out; it is for PyTorch's layers, and %s runs", self.engine)

    def _copy(self, precision: str) -> nn.Module:
        """The network as it runs in a precision, not compiled."""
        if precision not in self._copies:
            self._copies[precision] = engines.build(self._network, self.engine, precision)
        return self._copies[precision]

    def __call__(self, faces: Sequence[np.ndarray], **options: Any) -> list[np.ndarray | None]:
        """Restore (S, S, 3) float32 RGB faces in [0, 1]; None stands for one that is not finite even in fp32.

        Args:
            faces: any number of them.
            options: keyword arguments of the network's forward.

        Raises:
            torch.OutOfMemoryError, RuntimeError: memory does not suffice for a single face.
        """
        if not self._settled:
            self._settle(faces[: self.batch_size], options)
        return self._run(faces, self.precision, options)

    def _settle(self, faces: Sequence[np.ndarray], options: dict[str, Any]) -> None:
        """Keep the lower precision of "auto" if it gives about the faces that fp32 gives."""
        lower = self._run(faces, self.precision, options, repeat=False)
        exact = self._run(faces, "fp32", options)
        pairs = [(a, b) for a, b in zip(lower, exact, strict=True) if b is not None]
        levels = max((float("inf") if a is None else 255 * float(np.abs(a - b).mean()) for a, b in pairs), default=0.0)
        self._settled = True
        if levels <= MAX_LEVELS:
            logger.info("%s changes the first faces by at most %.3f of 255 levels on average", self.precision, levels)
            return
        logger.warning("%s would change faces by %.1f of 255 levels on average: using fp32", self.precision, levels)
        del self._copies[self.precision]
        self.precision, self.network = "fp32", self._copy("fp32")
        if self.compiled:
            self.network = CompiledNetwork(self.network, self.device)

    def _run(
        self, faces: Sequence[np.ndarray], precision: str, options: dict[str, Any], repeat: bool = True
    ) -> list[np.ndarray | None]:
        results: list[np.ndarray | None] = []
        while len(results) < len(faces):
            batch = faces[len(results) : len(results) + self.batch_size]
            done = self._try(batch, precision, options, repeat)
            if done is None:  # outside the handler, so that the failed attempt's tensors are free by now
                self.batch_size = max(1, len(batch) // 2)
                logger.warning("out of memory with %d faces at once, going on with %d", len(batch), self.batch_size)
                if self.device.type == "cuda":
                    torch.cuda.empty_cache()
                continue
            results += done
        return results

    def _try(
        self, batch: Sequence[np.ndarray], precision: str, options: dict[str, Any], repeat: bool
    ) -> list[np.ndarray | None] | None:
        try:
            outputs = self._forward(batch, precision, options)
            for index, output in enumerate(outputs):
                if repeat and precision != "fp32" and not np.isfinite(output).all():
                    logger.warning("a face is not finite in %s and is repeated in fp32", precision)
                    outputs[index] = self._forward([batch[index]], "fp32", options)[0]
            return [output if np.isfinite(output).all() else None for output in outputs]
        except RuntimeError as error:  # torch.OutOfMemoryError is one
            if self.compiled and _is_compilers(error):
                self.compiled, self.network = False, self._copy(self.precision)
                logger.warning("the network cannot be compiled here and runs as it is: %s", error)
                return self._try(batch, precision, options, repeat)
            is_memory = isinstance(error, torch.OutOfMemoryError) or any(s in str(error) for s in _OUT_OF_MEMORY)
            if not is_memory or len(batch) == 1:
                raise
            return None

    @torch.inference_mode()
    def _forward(self, batch: Sequence[np.ndarray], precision: str, options: dict[str, Any]) -> list[np.ndarray]:
        count = len(batch)
        network = self.network if precision == self.precision else self._copy(precision)
        if self.compiled and network is self.network:
            batch = [*batch, *[batch[-1]] * (self.batch_size - count)]
        stacked = np.ascontiguousarray(np.stack(batch).transpose(0, 3, 1, 2))
        output = network(torch.from_numpy(stacked).to(self.device), **options)
        return list(output[:count].float().permute(0, 2, 3, 1).cpu().numpy())


class CompiledNetwork(nn.Module):
    """A network compiled for batches of one size, at its first call; on a GPU as CUDA graphs.

    Args:
        network: brought into channels_last.
        device: where it is.
    """

    def __init__(self, network: nn.Module, device: torch.device) -> None:
        super().__init__()
        if all(parameter.dim() < 5 for parameter in network.parameters()):  # GFPGAN's modulated weights are not
            network = network.to(memory_format=torch.channels_last)
        mode = "reduce-overhead" if device.type == "cuda" else "default"
        self.network: nn.Module = torch.compile(network, mode=mode, dynamic=False)  # type: ignore[assignment]

    def forward(self, faces: Tensor, **options: Any) -> Tensor:
        """As the network's."""
        # cuDNN tries its algorithms while the graphs are recorded. Left on, it would do so for every size of photo that
        # a detector sees.
        before, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, True
        try:
            result: Tensor = self.network(faces, **options)
            return result
        finally:
            torch.backends.cudnn.benchmark = before


def _is_compilers(error: RuntimeError) -> bool:
    from torch._dynamo.exc import TorchDynamoException  # a slow import

    return isinstance(error, TorchDynamoException) and not isinstance(error.__cause__, torch.OutOfMemoryError)
