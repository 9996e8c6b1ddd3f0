"""The worked examples of CONTRIBUTING.md: each is one file, and works by being there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import ROOT

PACKAGES = {
    "lafr_arch": "lafr_arch",
    "lafr_losses": "lafr_losses",
    "lafr_metrics": "lafr_metrics",
    "data": "lafr_data",
    "lafr/detectors": "lafr.detectors",
}
"""Folders of the examples, and how the packages are imported."""

USES = """
import numpy as np, torch, cv2
from lafr.detectors import build_detector
from lafr.networks import load_network
from lafr_arch.restoring import RestoringNetwork
from lafr_base.geometry import FFHQ_POINTS
from lafr_base.registry import ARCH_REGISTRY, DATASET_REGISTRY, LOSS_REGISTRY, METRIC_REGISTRY
from lafr_metrics.suite import Suite

latent = torch.rand(2, 4, 8, 8)
alignment = ARCH_REGISTRY.build({"type": "ChannelAlignment"}, latent_channels=4)
assert torch.equal(alignment(latent), latent)

pred = torch.rand(1, 3, 16, 16, requires_grad=True)
loss = LOSS_REGISTRY.build({"type": "EdgeLoss", "loss_weight": 0.5})
assert loss(pred, pred.detach() + 0.3) < 1e-6, "a shift has no edges"
loss(pred, torch.rand(1, 3, 16, 16)).backward()
assert pred.grad.abs().sum() > 0

black, gray = np.zeros((32, 32, 3), np.uint8), np.full((32, 32, 3), 100, np.uint8)
assert Suite(["mae", "psnr"]).measure(black, gray)["mae"] == 100
assert METRIC_REGISTRY["calculate_lafr_mae"](black, gray) == 100

cv2.imwrite("face.png", np.dstack([gray[..., 0], black[..., 0], black[..., 0]]))
faces = DATASET_REGISTRY["GrayFaceDataset"]({"dataroot_gt": ".", "image_size": 32})
assert len(faces) == 1
torch.testing.assert_close(faces[0]["lq"], torch.full((3, 32, 32), 100 / 3 / 255))

(face,) = build_detector("portrait").detect(np.zeros((512, 512, 3), np.uint8))
np.testing.assert_allclose(face.landmarks, FFHQ_POINTS, rtol=1e-5)

network = load_network("sharpen,amount=2", torch.device("cpu"))
assert isinstance(network, RestoringNetwork)
flat = torch.full((1, 3, 512, 512), 0.5)
torch.testing.assert_close(network(flat), flat)
print("used")
"""


def examples() -> dict[str, str]:
    """Files of the page's code fences, by the path that their first line names."""
    fences = re.findall(r"```python\n# (\S+)\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text("utf-8"), re.DOTALL)
    return dict(fences)


def test_an_example_for_each_kind() -> None:
    assert {str(Path(path).parent) for path in examples()} == PACKAGES.keys()
    assert len(examples()) == 6


def test_examples_work_by_being_there(tmp_path: Path) -> None:
    for path, text in examples().items():
        assert not (ROOT / path).exists(), f"{path}: an example must not have a real file's name"
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text, encoding="utf-8")
    places = "".join(
        f"import {package}; {package}.__path__.append({str(tmp_path / folder)!r})\n"
        for folder, package in PACKAGES.items()
    )
    (tmp_path / "work").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", places + USES],
        cwd=tmp_path / "work",
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == "used", done.stderr


@pytest.mark.parametrize("tool", [("ruff", "check"), ("ruff", "format", "--check")])
def test_examples_are_clean(tmp_path: Path, tool: tuple[str, ...]) -> None:
    pytest.importorskip("ruff")
    for path, text in examples().items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", *tool, "--config", str(ROOT / "pyproject.toml"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_links_of_the_pages_lead_somewhere() -> None:
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "lafr" / "pretrained").rglob("*.md")]
    assert len(pages) > 8
    broken = [
        f"{page.relative_to(ROOT)}: {link}"
        for page in pages
        for link in re.findall(r"\]\(([^)#\s]+)", page.read_text("utf-8"))
        if not link.startswith(("http", "mailto")) and not (page.parent / link).exists()
    ]
    assert broken == []


def test_paths_that_the_architecture_names_are_there() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    paths = re.findall(r"(?:lafr\w*|data|basicsr|tests)/[\w/]+(?:\.py|/)", text)
    assert len(paths) > 20
    assert [path for path in paths if not (ROOT / path).exists()] == []
