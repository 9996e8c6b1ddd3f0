"""Memory of large maps on a CPU, used again and again.

What the system hands out afresh it clears page by page when it is first written, which takes as long as a convolution.
"""

from __future__ import annotations

import ctypes
import math
import threading
import weakref

import numpy as np
import torch
from torch import Tensor

SMALL = 2**20
"""Bytes below which the allocator of torch serves as well."""

_ALIGNMENT = 64


class MapMemory:
    """Hands out tensors whose memory comes back when the last of them that shares it is gone.

    Blocks that are free and have not been asked for while `patience` others were are given back to the system.
    """

    def __init__(self, patience: int = 200) -> None:
        self.patience = patience
        self._free: list[tuple[int, np.ndarray]] = []  # when it came back, and the block
        self._clock = 0
        # Tensors may end in any thread, and in the middle of a call of the same one.
        self._lock = threading.RLock()

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """A contiguous tensor on the CPU, not initialised."""
        size = math.prod(shape) * dtype.itemsize
        if size < SMALL:
            return torch.empty(shape, dtype=dtype)
        block = self._take(size)
        start = -block.ctypes.data % _ALIGNMENT
        # torch holds this view as long as a tensor shares its memory.
        view = (ctypes.c_char * size).from_buffer(block, start)  # type: ignore[arg-type]
        weakref.finalize(view, self._give, block).atexit = False
        return torch.frombuffer(view, dtype=dtype).view(shape)

    @property
    def free_bytes(self) -> int:
        """What is held and not in use."""
        return sum(block.nbytes for _, block in self._free)

    def _take(self, size: int) -> np.ndarray:
        with self._lock:
            self._clock += 1
            self._free = [entry for entry in self._free if entry[0] > self._clock - self.patience]
            fitting = [entry for entry in self._free if size <= entry[1].nbytes - _ALIGNMENT <= 2 * size]
            if fitting:
                best = min(fitting, key=lambda entry: entry[1].nbytes)
                self._free = [entry for entry in self._free if entry is not best]
                return best[1]
        return np.empty(size + _ALIGNMENT, np.uint8)

    def _give(self, block: np.ndarray) -> None:
        with self._lock:
            self._free.append((self._clock, block))
