"""``lafr evaluate``: matching of names, values, what is left out and said, reports in JSON and CSV."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lafr.cli import main
from lafr_base.images import read_image, write_image
from lafr_metrics.statistics import bootstrap_mean
from lafr_metrics.suite import METRICS, Suite
from lafr_studies import evaluation
from lafr_studies.evaluation import match


@pytest.fixture(autouse=True)
def no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LAFR_WEIGHTS", "TORCH_HOME", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "none"))


@pytest.fixture
def folders(tmp_path: Path, astronaut: np.ndarray) -> tuple[Path, Path]:
    """Four restored images, named as GFPGAN and LAFR name them, and their references; 100 x 110."""
    rng = np.random.default_rng(0)
    for i, name in enumerate(["a", "b_00", "c_lafr", "d_00_lafr"]):
        face = astronaut[40 + 5 * i : 140 + 5 * i, 150:260, ::-1]
        write_image(tmp_path / "reference" / f"{name[0]}.png", face)
        noisy = (face + rng.normal(0, 4 + 3 * i, face.shape)).clip(0, 255).astype(np.uint8)
        write_image(tmp_path / "restored" / f"{name}.png", noisy)
    return tmp_path / "restored", tmp_path / "reference"


def evaluate(folders: tuple[Path, Path], *more: str) -> tuple[int, dict[str, Any], list[dict[str, str]]]:
    """Exit status, JSON and CSV of the command."""
    out = folders[0].parent / "out" / "report.json"
    status = main(
        ["evaluate", str(folders[0]), "--reference", str(folders[1]), "--device", "cpu", "--out", str(out), *more]
    )
    with out.with_suffix(".csv").open(newline="") as stream:
        return status, json.loads(out.read_text()), list(csv.DictReader(stream))


def paths(*names: str) -> list[Path]:
    return [Path("folder") / name for name in names]


@pytest.mark.parametrize(
    "restored", ["x_1.png", "x_1_00.png", "x_1_lafr.png", "x_1_00_lafr.jpg", "x_1_GFPGANv1.4.png", "x_1.webp"]
)
def test_names_that_match(restored: str):
    pairs, errors = match(paths(restored), paths("x_1.jpg", "y.png"))
    assert pairs == {restored: (Path("folder") / restored, Path("folder/x_1.jpg"))}
    assert list(errors) == ["reference y.png"]


@pytest.mark.parametrize("restored", ["x_2.png", "x_10.png", "ax_1.png", "x_1-b.png", "x.png", "x_1_007.png"])
def test_names_that_do_not_match(restored: str):
    pairs, errors = match(paths(restored), paths("x_1.png"))
    assert pairs == {}
    assert set(errors) == {restored, "reference x_1.png"}


def test_the_longest_name_matches_and_each_reference_serves_once():
    pairs, errors = match(
        paths("a.png", "a_00.png", "a_b.png", "a_b_00.png", "z.png"), paths("a.png", "a_b.png", "z.png", "z.jpg")
    )
    assert {name: reference.name for name, (_, reference) in pairs.items() if reference} == {
        "a.png": "a.png",
        "a_b.png": "a_b.png",
    }
    assert "already that of a.png" in errors["a_00.png"]
    assert "already that of a_b.png" in errors["a_b_00.png"]
    assert "several references are called z: z.png, z.jpg" in errors["z.png"]


def test_report_has_values_intervals_and_protocol(folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]):
    status, report, rows = evaluate(folders, "--metrics", "psnr", "ssim_y")
    assert status == 0
    images = {"a.png": "a", "b_00.png": "b", "c_lafr.png": "c", "d_00_lafr.png": "d"}
    suite = Suite(["psnr", "ssim_y"])
    expected = {
        name: suite.measure(read_image(folders[0] / name).bgr, read_image(folders[1] / f"{stem}.png").bgr)
        for name, stem in images.items()
    }
    assert {name: image["values"] for name, image in report["images"].items()} == expected
    psnr = [values["psnr"] for values in expected.values()]
    assert report["summary"]["psnr"] == {**bootstrap_mean(psnr), "left_out": 0}
    assert psnr == sorted(psnr, reverse=True), "noise grows from a to d"
    assert report["sizes"] == {"110 x 100": 4}
    assert report["protocol"]["versions"]["basicsr"] == "1.4.2"
    assert set(report["protocol"]["metrics"]) == {"psnr", "ssim_y"}
    assert (report["missing"], report["errors"]) == ({}, {})

    by_name = {row["image"]: row for row in rows}
    assert float(by_name["b_00.png"]["psnr"]) == expected["b_00.png"]["psnr"]
    assert by_name["b_00.png"]["reference"] == "b.png"
    assert float(by_name["[mean]"]["psnr"]) == report["summary"]["psnr"]["mean"]
    assert float(by_name["[high]"]["ssim_y"]) == report["summary"]["ssim_y"]["high"]
    text = capsys.readouterr().out
    assert f"{report['summary']['psnr']['mean']:.4f}  [{report['summary']['psnr']['low']:.4f}, " in text


def test_faults_are_named_and_the_rest_goes_on(folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]):
    restored, reference = folders
    write_image(restored / "b_00.png", np.zeros((50, 60, 3), np.uint8))
    (restored / "c_lafr.png").write_bytes(b"damaged")
    write_image(restored / "extra.png", np.zeros((50, 60, 3), np.uint8))
    write_image(reference / "unmet.png", np.zeros((50, 60, 3), np.uint8))
    status, report, _ = evaluate(folders, "--metrics", "psnr")
    assert status == 1
    assert list(report["images"]) == ["a.png", "d_00_lafr.png"]
    assert report["summary"]["psnr"]["count"] == 2
    assert set(report["errors"]) == {"b_00.png", "c_lafr.png", "extra.png", "reference unmet.png"}
    assert "60 x 50, its reference 110 x 100" in report["errors"]["b_00.png"]
    told = capsys.readouterr().err
    for name in report["errors"]:
        assert name in told


def test_a_metric_that_fails_on_an_image_leaves_the_others(folders: tuple[Path, Path]):
    status, report, rows = evaluate(folders, "--metrics", "psnr", "niqe")
    assert status == 1, "100 x 110 pixels are too few for NIQE"
    assert "niqe" not in report["summary"]
    assert report["summary"]["psnr"]["count"] == 4
    assert "two blocks" in report["errors"]["a.png, niqe"]
    assert rows[0]["niqe"] == ""


def test_missing_metrics_are_reported_with_reasons(folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]):
    status, report, rows = evaluate(folders)
    assert status == 1, "NIQE"
    assert {"deg", "lmd", "lpips_vgg", "fid", "musiq"} <= set(report["missing"])
    assert set(report["protocol"]["metrics"]) == set(METRICS)
    assert "arcface_resnet18.pth" in report["missing"]["deg"]
    assert "arcface_resnet18.pth" in {row["image"]: row for row in rows}["[missing]"]["deg"]
    assert "deg: a weight is missing" in capsys.readouterr().out

    status, report, _ = evaluate(folders, "--metrics", "psnr", "deg")
    assert status == 1, "deg was asked for"
    assert list(report["missing"]) == ["deg"]
    assert report["summary"]["psnr"]["count"] == 4


def test_equal_images_are_infinite_in_valid_json(folders: tuple[Path, Path]):
    write_image(folders[0] / "a.png", read_image(folders[1] / "a.png").bgr)
    status, report, rows = evaluate(folders, "--metrics", "psnr")
    assert status == 0
    assert float(report["images"]["a.png"]["values"]["psnr"]) == math.inf
    assert float(rows[0]["psnr"]) == math.inf
    assert (report["summary"]["psnr"]["count"], report["summary"]["psnr"]["left_out"]) == (3, 1)


def test_without_references(folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str], astronaut: np.ndarray):
    write_image(folders[0] / "large" / "a.png", astronaut[:200, :200, ::-1])
    assert main(["evaluate", str(folders[0] / "large"), "--metrics", "niqe", "--device", "cpu"]) == 0
    assert "NIQE" in capsys.readouterr().out
    assert main(["evaluate", str(folders[0] / "large"), "--metrics", "psnr", "--device", "cpu"]) == 2
    assert "none were given" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere: no such file or folder"),
        (["{restored}", "--metrics", "lpips"], "'lpips'; did you mean `lpips_vgg`?; known: psnr"),
        (["{restored}", "--out", "report.csv"], "should end in .json"),
        (["{restored}", "--reference", "nowhere"], "nowhere: no such file or folder"),
    ],
)
def test_what_cannot_be_done_is_said(
    folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
):
    assert main(["evaluate", *(argument.format(restored=folders[0]) for argument in arguments)]) == 2
    assert message in capsys.readouterr().err


def test_reports_are_written_both_or_not_at_all(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    evaluate(folders, "--metrics", "psnr")
    out = folders[0].parent / "out"
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert set(before) == {"report.json", "report.csv"}

    def full(report: dict[str, Any]) -> str:
        raise OSError("no space left on device")

    monkeypatch.setattr(evaluation, "as_csv", full)
    command = ["evaluate", str(folders[0]), "--metrics", "psnr", "--reference", str(folders[1])]
    assert main([*command, "--out", str(out / "report.json")]) == 2
    assert "no space left" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
