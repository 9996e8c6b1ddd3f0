"""Compile fast_kernels.cpp, for a level of processors when this project is built or installed, else for this machine.

Needs nothing but the standard library: setup.py runs it before anything is installed.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

SOURCE = Path(__file__).with_name("fast_kernels.cpp")
FLAGS = ("-std=c++17", "-O3", "-fno-math-errno", "-fno-trapping-math", "-fopenmp", "-fPIC")
NATIVE = "-march=native"
_X86 = {"x86-64-v4": "-march=x86-64-v4", "x86-64-v3": "-march=x86-64-v3"}
_ARM = {"arm64": "-march=armv8-a"}
LEVELS = {"x86_64": _X86, "amd64": _X86, "aarch64": _ARM, "arm64": _ARM}
"""For each kind of processor, levels that kernels are built for, and the compiler's flag: v4 has AVX-512, v3 AVX2."""


class KernelError(RuntimeError):
    """The kernels cannot be compiled here."""


def levels() -> dict[str, str]:
    """The levels of this kind of processor, with the compiler's flags."""
    return LEVELS.get(platform.machine().lower(), {})


def built_library(level: str) -> Path:
    """Where the library for a level lies once it is built; its name has the source's digest, so that none is old."""
    return SOURCE.with_name(f"kernels_{level}_{hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:8]}.so")


def find_compiler() -> str | None:
    """The C++ compiler that the variable CXX names, else g++ or clang++; None where there is none."""
    return shutil.which(os.environ.get("CXX", "")) or shutil.which("g++") or shutil.which("clang++")


def compile_kernels(target: Path, march: str) -> None:
    """Write the library.

    Args:
        target: where to.
        march: the compiler's flag for the processor.

    Raises:
        KernelError: there is no compiler, or it fails.
    """
    compiler = find_compiler()
    if compiler is None:
        raise KernelError(
            "no C++ compiler was found; install g++, or name one in the variable CXX, or pip install 'lafr[openvino]'"
        )
    with tempfile.TemporaryDirectory() as temporary:
        compiled = Path(temporary) / "kernels.o"
        # Linked without -fopenmp: the OpenMP runtime is torch's, already in the process. A second one would bring
        # threads of its own, which compete with torch's for the cores.
        for command in (
            [*FLAGS, march, "-c", str(SOURCE), "-o", str(compiled)],
            ["-shared", str(compiled), "-o", str(target)],
        ):
            done = subprocess.run([compiler, *command], capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise KernelError(f"{compiler} failed on {SOURCE.name}: {done.stderr.strip()[-500:]}")
