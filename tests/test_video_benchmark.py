"""benchmarks/video.py measures what it says, on a method too simple to matter."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("av", reason="pip install 'lafr[video]'")

import films
from test_benchmarks import load


def test_the_ruler() -> None:
    script = load("video")
    frames, points = script.truth(films.portrait(), films.LANDMARKS, 5)
    ruler = script.Ruler(frames, points)
    truth = ruler.measure(frames)
    assert truth["psnr"] is None
    rng = np.random.default_rng(0)
    noisy = ruler.measure([np.clip(f + rng.normal(0, 5, f.shape), 0, 255).astype(np.uint8) for f in frames])
    # Noise of 5 levels in each of two frames: its absolute difference is 5 * sqrt(2) * sqrt(2 / pi), less where it is
    # carried between pixels.
    assert truth["flicker"] + 3.5 < noisy["flicker"] < truth["flicker"] + 5.7
    assert noisy["psnr"] == pytest.approx(20 * np.log10(255 / 5), abs=0.5)
    soft = ruler.measure([cv2.GaussianBlur(frame, (0, 0), 1.5) for frame in frames])
    assert soft["sharpness"] < 0.5 * truth["sharpness"]
    frames[2] = np.zeros_like(frames[2])
    assert ruler.measure(frames, [2])["psnr"] is None  # what is left out does not count
    assert ruler.measure(frames)["flicker"] > 10
    still = ruler.measure([frames[0]] * 5)  # does not move along, which counts as flicker
    assert still["flicker"] > 2 * truth["flicker"]


def test_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script, out = load("video"), tmp_path / "video.json"
    arguments = ["--model", "bicubic", "--frames", "3", "--portraits", "astronaut", "--no_memory", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["video.py", *arguments])
    assert script.main() == 0
    report = json.loads(out.read_text())
    figures = report["clips"]["astronaut"]
    rows = {"truth", "input", "frames", "followed", "film"}
    assert set(figures) == {*rows, "missed", "flicker_ratio", "sharpness_ratio"}
    assert figures["input"]["sharpness"] < figures["truth"]["sharpness"]
    assert figures["flicker_ratio"] == pytest.approx(
        figures["film"]["flicker"] / figures["frames"]["flicker"], abs=1e-3
    )
    assert figures["film"]["seconds"] > 0
