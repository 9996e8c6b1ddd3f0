"""Kernels are compiled when the wheel is built, for each level of processors, and found later without a compiler."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import ROOT
from lafr_arch import fast_kernels, kernel_build
from lafr_base import processor


def build(folder: Path, **environment: str) -> list[str]:
    """Build the kernels as a wheel's build does; names of what was made."""
    command = [sys.executable, "setup.py", "-q", "build_ext", "--build-lib", str(folder), "--build-temp", str(folder)]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return sorted(path.name for path in folder.rglob("*.so"))


@pytest.mark.skipif(kernel_build.find_compiler() is None, reason="no C++ compiler")
@pytest.mark.skipif(processor.level() is None, reason="kernels are built for no level of this processor")
def test_what_a_wheel_holds_is_loaded_without_a_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("setuptools")
    made = build(tmp_path)
    assert made == sorted(kernel_build.built_library(level).name for level in kernel_build.levels())
    for name in ("fast_kernels.cpp", "kernel_build.py"):
        shutil.copy(ROOT / "lafr_arch" / name, tmp_path / "lafr_arch")
    monkeypatch.setattr(kernel_build, "SOURCE", tmp_path / "lafr_arch" / "fast_kernels.cpp")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    loaded = fast_kernels.load_kernels.__wrapped__()
    assert loaded is not None
    assert loaded.panel > 0
    with (tmp_path / "lafr_arch" / "fast_kernels.cpp").open("a") as source:
        source.write("// changed\n")
    assert fast_kernels._built() is None, "what was built of another source is not loaded"


def test_a_compiler_that_fails_does_not_stop_the_install(tmp_path: Path):
    pytest.importorskip("setuptools")
    if not hasattr(os, "geteuid"):
        pytest.skip("a program of POSIX")
    assert build(tmp_path, CXX="/bin/false") == []


def test_levels(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(processor.platform, "machine", lambda: "x86_64")
    for flags, level in (
        ("sse2", None),
        ("avx2 bmi1 bmi2 f16c fma abm movbe", "x86-64-v3"),
        ("avx2 bmi1 bmi2 f16c fma abm movbe avx512f avx512bw avx512cd avx512dq avx512vl", "x86-64-v4"),
    ):
        monkeypatch.setattr(processor, "features", lambda flags=flags: frozenset(flags.split()))
        assert processor.level() == level
    monkeypatch.setattr(processor.platform, "machine", lambda: "aarch64")
    assert processor.level() == "arm64"
    assert {"x86-64-v3", "x86-64-v4"} == {*kernel_build.LEVELS["x86_64"]}
