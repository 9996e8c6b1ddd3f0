"""Fixtures shared by all tests: a fixed seed, two threads, a face that ships with scikit-image, the shared folder."""

from __future__ import annotations

import os
import random
import sys
import types
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from pathlib import Path

import numpy as np
import pytest
import torch

from lafr_base import compat
from lafr_models import launcher

ROOT = Path(__file__).resolve().parent.parent


class SkipWithoutBasicSR(MetaPathFinder):
    """Where BasicSR is not installed, a test that imports it or registers for it is skipped."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: types.ModuleType | None = None
    ) -> None:
        if fullname.startswith("basicsr."):
            self.skip()

    @staticmethod
    def skip() -> None:
        raise pytest.skip.Exception(compat.MISSING, allow_module_level=True)


if not compat.has_basicsr():
    sys.meta_path.append(SkipWithoutBasicSR())
    launcher.require_basicsr = SkipWithoutBasicSR.skip


def pytest_configure() -> None:
    """Leave cores to others, since the tensors are too small for more than two threads; and stay offline.

    huggingface_hub reads its variable when it is imported, before any fixture runs.
    """
    os.environ["HF_HUB_OFFLINE"] = "1"
    torch.set_num_threads(min(2, torch.get_num_threads()))


@pytest.fixture(autouse=True)
def seed() -> None:
    """Start every test from the same random state."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - BasicSR and its degradations draw from the global generator
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def no_downloads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests run offline: libraries that could fetch weights must not try."""
    monkeypatch.setenv("LAFR_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of real faces and small nets: the variable LAFR_SHARED, or ``shared`` beside the repository."""
    folder = Path(os.environ.get("LAFR_SHARED") or ROOT.parent / "shared")
    if not folder.is_dir():
        pytest.skip(f"{folder} does not exist; LAFR_SHARED names the folder with real faces and nets")
    return folder


@pytest.fixture(scope="session")
def astronaut() -> np.ndarray:
    """Photo with one frontal face (NASA, public domain; ships inside scikit-image), (512, 512, 3) RGB uint8."""
    from skimage import data

    image = data.astronaut()
    image.flags.writeable = False
    return image


@pytest.fixture
def face_image(astronaut: np.ndarray) -> torch.Tensor:
    """The face of :func:`astronaut`, (1, 3, 256, 256) RGB float32 in [0, 1]."""
    crop = torch.from_numpy(astronaut[0:220, 115:335].copy()).permute(2, 0, 1)[None].float() / 255
    image = torch.nn.functional.interpolate(crop, size=(256, 256), mode="bicubic", antialias=True, align_corners=False)
    return image.clamp(0, 1)
