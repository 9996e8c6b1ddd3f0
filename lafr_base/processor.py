"""What the processor can do, as far as the system tells."""

from __future__ import annotations

import functools
import platform
from pathlib import Path

X86_64 = ("x86_64", "AMD64")
"""What :func:`platform.machine` calls that processor."""

# The levels of the x86-64 psABI, by Linux' names of their instructions.
_V3 = frozenset(("avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe"))
_V4 = _V3 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}


@functools.cache
def features() -> frozenset[str]:
    """Linux' names of the processor's instruction sets, like ``avx2``; none where the system does not tell."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    return frozenset(word for line in lines if line.startswith(("flags", "Features")) for word in line.split()[2:])


def level() -> str | None:
    """The processor's level: ``x86-64-v4``, ``x86-64-v3`` or ``arm64``; None for a lower or an unknown one."""
    if platform.machine() in ("aarch64", "arm64"):
        return "arm64"
    if platform.machine() not in X86_64:
        return None
    return next((name for name, needs in (("x86-64-v4", _V4), ("x86-64-v3", _V3)) if needs <= features()), None)


def multiplies_bf16() -> bool:
    """Whether the processor has instructions for products in bfloat16."""
    return bool({"avx512_bf16", "amx_bf16", "bf16"} & features())
