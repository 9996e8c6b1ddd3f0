"""What the benchmarks share about the machine: its name, its limits, its memory."""

from __future__ import annotations

import contextlib
import os
import platform
import resource
import time
from pathlib import Path
from typing import Any

import torch

from lafr_base import processor

CPU = torch.device("cpu")


def _lines(path: str) -> list[str]:
    """Lines of a file of the system; none where there is no such file."""
    file = Path(path)
    return file.read_text(encoding="utf-8").splitlines() if file.is_file() else []


def machine(device: torch.device = CPU) -> dict[str, Any]:
    """What figures depend on."""
    lines = _lines("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    flags = processor.features()
    about = {
        "cpu": names[0] if names else platform.processor() or platform.machine(),
        "cpu_extensions": [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags],
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    if device.type == "cuda":
        about |= {"gpu": torch.cuda.get_device_name(device), "cuda": torch.version.cuda}
    return about


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def matmul_peak(device: torch.device = CPU, dtype: torch.dtype = torch.float32, size: int | None = None) -> float:
    """Best FLOP/s of a square matrix product: of 4096 x 4096 on a CPU, 8192 x 8192 on a GPU by default."""
    size = size or (4096 if device.type == "cpu" else 8192)
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    times = []
    for _ in range(6 if device.type == "cpu" else 30):
        synchronize(device)
        start = time.perf_counter()
        a @ b
        synchronize(device)
        times.append(time.perf_counter() - start)
    return 2 * size**3 / min(times)


def process_memory(key: str) -> float:
    """A figure of /proc/self/status in GB; 0 where there is no such file."""
    return next((int(line.split()[1]) / 1e6 for line in _lines("/proc/self/status") if line.startswith(key)), 0.0)


class Memory:
    """The memory of a device: on a CPU the process's, where the system tells, on a GPU that of its tensors.

    Args:
        device: whose.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.peak = 0.0
        """Largest in GB so far, as seen by :meth:`restart` and :meth:`since`."""
        self._held = 0.0

    def restart(self) -> None:
        """Measure from here."""
        self._note()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            self._held = torch.cuda.memory_allocated(self.device) / 1e9
            return
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        self._held = process_memory("VmRSS")

    def since(self) -> float:
        """Most GB that were held since :meth:`restart`, beyond what was held then."""
        return self._note() - self._held

    def _note(self) -> float:
        if self.device.type == "cuda":
            now = torch.cuda.max_memory_allocated(self.device) / 1e9
        else:
            now = process_memory("VmHWM")
            self.peak = max(self.peak, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6)
        self.peak = max(self.peak, now)
        return now
