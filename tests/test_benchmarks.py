"""Benchmarks run as a user would run them, on networks too small to measure anything."""

from __future__ import annotations

import functools
import importlib.util
import json
import sys
from pathlib import Path
from statistics import median
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent


def load(name: str) -> ModuleType:
    """The script benchmarks/NAME.py as a module."""
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", ROOT / "benchmarks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_inference(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    script = load("inference")
    monkeypatch.setattr(script, "matmul_peak", functools.partial(script.matmul_peak, size=256))
    out = tmp_path / "inference.json"
    arguments = ["--scale", "tiny", "--batch", "2", "1", "--repeat", "3", "--check", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["inference.py", *arguments])
    assert script.main() == 0
    report = json.loads(out.read_text())
    first = report["batches"][0]
    assert [batch["batch"] for batch in report["batches"]] == [2, 1]
    assert first["flops"]["decode"] == 2 * report["batches"][1]["flops"]["decode"]
    networks = first["networks"]
    assert [len(networks[name]["all_totals"]) for name in ("peer", "plain", "fast", "fast_bf16")] == [3, 2, 3, 2]
    totals = {name: median(figures["all_totals"]) for name, figures in networks.items()}
    assert report["ratio"] == pytest.approx(totals["fast"] / totals["peer"])
    assert report["ratio_fast_bf16_to_plain"] == pytest.approx(totals["fast_bf16"] / totals["plain"])
    assert report["share_of_peak"]["fast"] == pytest.approx(
        first["flops"]["total"] / totals["fast"] / report["peak_flops_per_second"]
    )
    assert networks["fast"]["largest_difference"] < 1e-3
    assert 0 < networks["fast_bf16"]["mean_difference_in_levels"] < 3
    assert all(figures["latent_difference_over_range"] < 1e-4 for figures in report["equality"].values())
    assert f"fast / peer: {report['ratio']:.3f}" in capsys.readouterr().out


def test_inference_refuses_what_it_cannot_check(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "argv", ["inference.py", "--scale", "mini", "--check"])
    with pytest.raises(SystemExit, match="2"):
        load("inference").main()
