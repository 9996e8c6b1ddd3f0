"""ComfyUI's nodes keep the contract that its loader and its executor rely on; without its server."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
import types
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("av", reason="pip install 'lafr[video]'")

import films
import lafr
from conftest import ROOT

FOLDER = ROOT / "comfyui"
PRIMITIVES = {"IMAGE", "FLOAT", "INT", "STRING", "BOOLEAN"}


@pytest.fixture(scope="module")
def nodes() -> ModuleType:
    """The folder as ComfyUI's `load_custom_node` imports it: a package of any name, at its path."""
    name = "custom_nodes.lafr_nodes"
    spec = importlib.util.spec_from_file_location(
        name, FOLDER / "__init__.py", submodule_search_locations=[str(FOLDER)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def quick(nodes: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, float]]:
    """Restorers that take no time; which were asked for."""
    asked: list[tuple[str, float]] = []

    def build(model: str, upscale: float) -> lafr.LAFRer:
        asked.append((model, upscale))
        return films.restorer(upscale=upscale, identity=True)

    monkeypatch.setattr(sys.modules[f"{nodes.__name__}.nodes"], "_restorer", build)
    return asked


def picture(frame: int = 0) -> torch.Tensor:
    return torch.from_numpy(films.picture(frame, (160, 128))[..., ::-1].astype(np.float32) / 255)


def run(nodes: ModuleType, image: torch.Tensor, **wishes: Any) -> tuple[torch.Tensor, float, str]:
    """Run the restoring node as the executor does: its function's name, with defaults for what is not given."""
    kind = nodes.NODE_CLASS_MAPPINGS["LAFRRestoreFaces"]
    required = kind.INPUT_TYPES()["required"]
    values = {name: options[0]["default"] for name, (_, *options) in required.items() if name != "image"}
    result: tuple[torch.Tensor, float, str] = getattr(kind(), kind.FUNCTION)(image=image, **{**values, **wishes})
    return result


def test_the_contract(nodes: ModuleType) -> None:
    assert nodes.NODE_CLASS_MAPPINGS.keys() == nodes.NODE_DISPLAY_NAME_MAPPINGS.keys()
    for name, kind in nodes.NODE_CLASS_MAPPINGS.items():
        assert callable(getattr(kind, kind.FUNCTION)), name
        assert set(kind.RETURN_TYPES) <= PRIMITIVES
        assert len(kind.RETURN_TYPES) == len(kind.RETURN_NAMES) == len(kind.OUTPUT_TOOLTIPS)
        assert isinstance(kind.CATEGORY, str)
        inputs = kind.INPUT_TYPES()
        assert set(inputs) <= {"required", "optional", "hidden"}
        for group in inputs.values():
            for declared in group.values():
                assert declared[0] in PRIMITIVES
                assert declared[0] == "IMAGE" or "default" in declared[1]
        parameters = getattr(kind, kind.FUNCTION).__annotations__.keys() - {"return"}
        assert parameters == {key for group in inputs.values() for key in group}


def test_pictures_are_restored(nodes: ModuleType, quick: list[tuple[str, float]]) -> None:
    image = torch.stack([picture(0), picture(2)])
    restored, identity, report = run(nodes, image, weight=0.0)
    assert (restored.dtype, restored.shape) == (torch.float32, image.shape)
    assert 0 <= restored.min() <= restored.max() <= 1
    for place, frame in ((0, 0), (1, 2)):
        x, y = films.landmarks(frame).mean(axis=0).round().astype(int)
        part = (restored - image)[place, y - 5 : y + 5, x - 5 : x + 5].mean(dim=(0, 1))
        assert part.tolist() == pytest.approx([0, 0.1, 0], abs=0.01)  # RGB
    told = json.loads(report)
    assert [[face["restored"] for face in one["faces"]] for one in told] == [[True], [True]]
    assert identity == pytest.approx(min(one["faces"][0]["identity"] for one in told), abs=1e-4)
    assert quick == [("mini", 1.0)]


def test_faces_that_are_not_chosen_stay_to_the_bit(nodes: ModuleType, quick: list[tuple[str, float]]) -> None:
    image = picture()[None] * 0.999 + 0.0003  # between levels
    for wishes in ({"faces": "1"}, {"min_face": 500}, {"like": picture()[None].flip(1), "weight": 1.0}):
        if "like" in wishes:
            with pytest.raises(ValueError, match="no face was found to compare"):
                run(nodes, image, **{**wishes, "like": torch.zeros(1, 64, 64, 3)})
            continue
        restored, identity, report = run(nodes, image, **wishes)
        assert torch.equal(restored, image)
        assert identity == 1
        assert json.loads(report)[0]["faces"][0]["restored"] is False
    restored, *_ = run(nodes, image, like=picture()[None], weight=0.0)
    assert not torch.equal(restored, image)


def test_enlarging(nodes: ModuleType, quick: list[tuple[str, float]]) -> None:
    restored, *_ = run(nodes, picture()[None], upscale=1.5)
    assert restored.shape == (1, 192, 240, 3)


def test_faces_are_numbered(nodes: ModuleType, quick: list[tuple[str, float]]) -> None:
    kind = nodes.NODE_CLASS_MAPPINGS["LAFRShowFaces"]
    image = torch.stack([picture(0), torch.zeros(128, 160, 3)])
    shown, count = getattr(kind(), kind.FUNCTION)(image=image)
    assert (shown.shape, count) == (image.shape, 1)
    assert not torch.equal(shown[0], image[0])
    assert torch.equal(shown[1], image[1])


def test_wrong_texts_are_told_before_a_run(nodes: ModuleType) -> None:
    check = nodes.NODE_CLASS_MAPPINGS["LAFRRestoreFaces"].VALIDATE_INPUTS
    assert check(faces="", model="mini") is True
    assert check(faces="0,2-3", model="bicubic") is True
    assert "is not a list of numbers" in check(faces="left", model="mini")
    assert "does not exist" in check(faces="", model="/no/folder")


def test_progress_and_cancelling(
    nodes: ModuleType, quick: list[tuple[str, float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[tuple[int, int]] = []

    class ProgressBar:
        def __init__(self, total: int) -> None:
            self.total = total

        def update(self, value: int) -> None:
            steps.append((value, self.total))

    class Cancelled(Exception):
        pass

    def interrupted() -> None:
        if len(steps) == 2:
            raise Cancelled

    utils, management = types.ModuleType("comfy.utils"), types.ModuleType("comfy.model_management")
    utils.ProgressBar, management.throw_exception_if_processing_interrupted = ProgressBar, interrupted
    for name, module in (("comfy", types.ModuleType("comfy")), ("comfy.utils", utils)):
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setitem(sys.modules, "comfy.model_management", management)
    with pytest.raises(Cancelled):
        run(nodes, torch.stack([picture()] * 3))
    assert steps == [(1, 3), (1, 3)]


def test_the_registry_s_file() -> None:
    tomllib = pytest.importorskip("tomllib")
    read = tomllib.loads((FOLDER / "pyproject.toml").read_text("utf-8"))
    project, comfy = read["project"], read["tool"]["comfy"]
    assert re.fullmatch(r"[a-z](?:[a-z0-9]|[-_.](?![-_.])){1,98}", project["name"])
    assert "comfyui" not in project["name"].lower()
    assert project["version"] == lafr.__version__
    assert re.fullmatch(r"\d+\.\d+\.\d+", project["version"])
    assert set(project["license"]) == {"text"}
    assert "Repository" in project["urls"]
    assert {"PublisherId", "DisplayName"} <= comfy.keys()
    assert (FOLDER / "requirements.txt").read_text().split() == project["dependencies"] == ["lafr"]
    assert Path(FOLDER / "README.md").is_file()
