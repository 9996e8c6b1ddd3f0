"""Run a face network over many faces: in batches that shrink when memory runs out, with a check of the result."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

logger = logging.getLogger(__name__)

PRECISIONS = {"fp32": None, "fp16": torch.float16, "bf16": torch.bfloat16}
"""Names of the arithmetic a network can run in; all but fp32 by autocast."""

_OUT_OF_MEMORY = ("out of memory", "not enough memory", "DefaultCPUAllocator")


class FaceRunner:
    """Applies a network to faces of one size.

    Args:
        network: maps (B, 3, S, S) RGB in [0, 1] to the same; used in eval mode, moved to `device`. Of one that has a
            method `for_inference` (LAFRNet), the faster copy that it returns is used.
        device: where to run.
        batch_size: most faces at once. Halved for good whenever memory runs out.
        precision: one of `PRECISIONS`. A face whose result is not finite is repeated in fp32.
        compiled: run the network through `torch.compile` instead, which takes minutes before the first batch; on a
            GPU as CUDA graphs. Shapes are static: a batch that is not full is filled up with copies of its last face.

    Raises:
        ValueError: `batch_size` below 1 or an unknown precision.
    """

    def __init__(
        self,
        network: nn.Module,
        device: torch.device,
        batch_size: int = 8,
        precision: str = "fp32",
        compiled: bool = False,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1; got {batch_size}")
        if precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}; got {precision!r}")
        network = network.to(device).eval()
        for_inference = getattr(network, "for_inference", None)
        self.network: nn.Module = network
        if compiled:
            mode = "reduce-overhead" if device.type == "cuda" else "default"
            if all(parameter.dim() < 5 for parameter in network.parameters()):  # GFPGAN's modulated weights are not
                network = network.to(memory_format=torch.channels_last)
            self.network = torch.compile(network, mode=mode, dynamic=False)  # type: ignore[assignment]
        elif for_inference is not None:
            self.network = for_inference()
        self.compiled = compiled
        self.device = device
        self.batch_size = batch_size
        self.precision = precision

    def __call__(self, faces: Sequence[np.ndarray], **options: Any) -> list[np.ndarray | None]:
        """Restore (S, S, 3) float32 RGB faces in [0, 1]; None stands for one that is not finite even in fp32.

        Args:
            faces: any number of them.
            options: keyword arguments of the network's forward.

        Raises:
            torch.OutOfMemoryError, RuntimeError: memory does not suffice for a single face.
        """
        results: list[np.ndarray | None] = []
        while len(results) < len(faces):
            batch = faces[len(results) : len(results) + self.batch_size]
            done = self._try(batch, options)
            if done is None:  # outside the handler, so that the failed attempt's tensors are free by now
                self.batch_size = max(1, len(batch) // 2)
                logger.warning("out of memory with %d faces at once, going on with %d", len(batch), self.batch_size)
                if self.device.type == "cuda":
                    torch.cuda.empty_cache()
                continue
            results += done
        return results

    def _try(self, batch: Sequence[np.ndarray], options: dict[str, Any]) -> list[np.ndarray | None] | None:
        try:
            outputs = self._forward(batch, self.precision, options)
            for index, output in enumerate(outputs):
                if np.isfinite(output).all():
                    continue
                if self.precision != "fp32":
                    logger.warning("a face is not finite in %s and is repeated in fp32", self.precision)
                    outputs[index] = self._forward([batch[index]], "fp32", options)[0]
            return [output if np.isfinite(output).all() else None for output in outputs]
        except RuntimeError as error:  # torch.OutOfMemoryError is one
            is_memory = isinstance(error, torch.OutOfMemoryError) or any(s in str(error) for s in _OUT_OF_MEMORY)
            if not is_memory or len(batch) == 1:
                raise
            return None

    @torch.inference_mode()
    def _forward(self, batch: Sequence[np.ndarray], precision: str, options: dict[str, Any]) -> list[np.ndarray]:
        count = len(batch)
        if self.compiled:
            batch = [*batch, *[batch[-1]] * (self.batch_size - count)]
        stacked = np.ascontiguousarray(np.stack(batch).transpose(0, 3, 1, 2))
        dtype = PRECISIONS[precision]
        autocast = contextlib.nullcontext() if dtype is None else torch.autocast(self.device.type, dtype=dtype)
        with autocast:
            output = self.network(torch.from_numpy(stacked).to(self.device), **options)
        return list(output[:count].float().permute(0, 2, 3, 1).cpu().numpy())
