"""The compiled kernels' cache: a damaged library is never loaded, nor one that others may have put there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lafr_arch import fast_kernels
from lafr_base import private_cache


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache, and a compiler that only notes that it ran."""
    compiler = tmp_path / "compiler"
    compiler.write_text(
        f'#!{sys.executable}\nimport pathlib, sys\nif "-o" in sys.argv:\n'
        f'    pathlib.Path(sys.argv[-1]).write_bytes(b"code")\n    open({str(tmp_path / "ran")!r}, "a").write("x")\n'
    )
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    return tmp_path / "cache"


def runs(folder: Path) -> int:
    return len((folder.parent / "ran").read_text()) // 2  # compiled and linked


def test_a_whole_library_is_used_again(folder: Path):
    library = fast_kernels._compile(folder)
    assert fast_kernels._compile(folder) == library
    assert runs(folder) == 1
    assert sorted(path.suffix for path in folder.iterdir()) == [".sha256", ".so"]
    assert folder.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("damage", [b"", b"cod", b"codf"])
def test_a_damaged_library_is_built_again(folder: Path, damage: bytes):
    library = fast_kernels._compile(folder)
    library.write_bytes(damage)
    assert fast_kernels._compile(folder).read_bytes() == b"code"
    library.with_suffix(".sha256").unlink()
    fast_kernels._compile(folder)
    assert runs(folder) == 3


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="folders have no owners here")
def test_a_folder_that_others_could_write_is_emptied_and_closed(folder: Path):
    library = fast_kernels._compile(folder)
    folder.chmod(0o777)
    library.write_bytes(b"evil")
    library.with_suffix(".sha256").write_bytes(private_cache.sha256(library))
    assert fast_kernels._compile(folder).read_bytes() == b"code"
    assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="folders have no owners here")
def test_another_users_folder_is_not_used(folder: Path, monkeypatch: pytest.MonkeyPatch):
    fast_kernels._compile(folder)
    link = folder.parent / "link"
    link.symlink_to(folder)
    with pytest.raises(private_cache.CacheError, match="another user's, or a link"):
        fast_kernels._compile(link)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(private_cache.CacheError, match="another user's"):
        fast_kernels._compile(folder)


def test_a_truncated_library_does_not_end_the_process(tmp_path: Path):
    """As a user meets it: without the check, loading it ends the process by SIGBUS."""
    try:
        fast_kernels._compile(private_cache.cache_folder("kernels"))
    except fast_kernels.KernelError:
        pytest.skip("the kernels cannot be compiled here")
    folder = tmp_path / "lafr" / "kernels"
    shutil.copytree(private_cache.cache_folder("kernels"), folder)
    for library in folder.glob("*.so"):
        os.truncate(library, library.stat().st_size // 2)
    code = (
        "from lafr_arch import fast_kernels; fast_kernels._built = lambda: None; "
        "assert fast_kernels.load_kernels() is not None; print('loaded')"
    )
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.stdout == "loaded\n", done.stderr
