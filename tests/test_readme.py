"""Every command line of README.md, run in order, with and without LAFR_ROOT."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import ROOT
from lafr_base.compat import has_basicsr
from lafr_base.files import read_json


@pytest.mark.skipif(not has_basicsr(), reason="training needs BasicSR")
def test_every_line_runs_in_order_with_and_without_lafr_root(tmp_path: Path):
    copy = tmp_path / "lafr"
    copy.mkdir()
    # The copy is imported, not this checkout; what neither is given is not found.
    paths = os.pathsep.join(map(str, (copy, ROOT / "tests")))
    environment = os.environ | {"PYTHONPATH": paths, "LAFR_WEIGHTS": str(copy / "weights"), "OMP_NUM_THREADS": "1"}
    environment |= {"HF_HOME": str(tmp_path / "none"), "TORCH_HOME": str(tmp_path / "none")}
    environment.pop("LAFR_ROOT", None)
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests/readme_worker.py"), str(copy)],
        cwd=copy, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert len(lines) > 30, done.stdout
    assert all(line.startswith("0 ") for line in lines), done.stdout
    # Both times each run found what the one before it had written, and wrote where it should.
    for experiments in (copy / "experiments_without", copy / "root/experiments"):
        runs = {path.parent.name for path in experiments.glob("*/training.json")}
        assert runs >= {"lafr_align", "lafr_unet", "mini_autoencoder", "mini_prior", "mini_align", "mini_unet"}
        assert (experiments / "lafr_unet/deployed/model.safetensors").is_file()
    assert not (copy / "experiments").exists()
    assert read_json(copy / "restorer/config.json")["image_size"] == 64
    for results in (copy / "results", copy / "root/results"):
        assert len(list(results.glob("lafr_test/visualization/celeba_x4/*.png"))) == 2
