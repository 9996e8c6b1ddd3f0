"""report.json and report.csv: what they say, and that they are whole whatever happens."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from lafr.choice import FaceChoice
from lafr.commands import restore
from lafr.identity import Calibration
from lafr.report import COLUMNS, Report, photo_entry, to_csv, verdict
from lafr.restorer import LAFRer
from lafr.results import RestoredPhoto
from test_lafr_choice import watched
from test_lafr_restorer import found, photo


def entries(network: LAFRer, path: Path, **options: object) -> list[dict]:
    results = network.enhance_many([path], **options)  # type: ignore[arg-type]
    return [photo_entry(path, result, network.composer) for result in results]


@pytest.fixture
def measured() -> LAFRer:
    network = watched(found(30, 60), found(130, 60))
    network.composer.meter.calibration = Calibration((0, 0.5, 1), (-1, 0, 1), 0.9)  # type: ignore[union-attr]
    return network


def test_every_face_found_is_listed(tmp_path: Path, measured: LAFRer):
    cv2.imwrite(str(tmp_path / "a.png"), photo(0))
    (entry,) = entries(measured, tmp_path / "a.png", choice=FaceChoice(numbers=frozenset({1})), weight=0)
    assert (entry["status"], entry["width"], entry["height"]) == ("restored", 160, 120)
    left, right = entry["faces"]
    assert left == {"face": 0, "restored": False, "box": [10.0, 40.0, 50.0, 80.0], "score": 0.9}
    assert (right["restored"], right["weight"], right["verdict"]) == (True, 0, "changed")
    assert right["same_above"] == pytest.approx(1 - right["identity"], abs=1e-3)
    assert right["different_above"] == pytest.approx((1 - right["identity"]) / 2, abs=1e-3)
    (kept,) = entries(measured, tmp_path / "a.png", weight=0, keep_identity=True)
    assert {face["verdict"] for face in kept["faces"]} == {"eased"}
    assert all(face["eased_to"] > face["weight"] for face in kept["faces"])


def test_photos_that_fail_have_a_reason(tmp_path: Path, measured: LAFRer):
    (tmp_path / "a.png").write_bytes(b"nothing")
    (entry,) = entries(measured, tmp_path / "a.png")
    assert entry["status"] == "failed"
    assert "a.png" in entry["reason"]
    assert entry["faces"] == []


def test_verdicts():
    assert [verdict(*values) for values in ((0.7, 0.6, None), (0.5, 0.6, None), (0.7, 0.6, 0.8), (1, 0.6, 1))] == [
        "same",
        "changed",
        "eased",
        "left",
    ]


def test_calibration_counts_pairs_above_a_figure():
    calibration = Calibration(tuple(np.linspace(0.5, 1, 101)), tuple(np.linspace(-0.2, 0.8, 101)), 0.79)
    assert calibration.share_of_same(0.75) == pytest.approx(0.5)
    assert (calibration.share_of_same(0.4), calibration.share_of_same(1.1)) == (1, 0)
    assert calibration.share_of_different(0.79) == pytest.approx(0.01)


def test_csv_has_a_line_a_face_and_no_formulas(tmp_path: Path):
    photos = [
        {"input": "=1+1.png", "status": "restored", "faces": [{"face": 0, "box": [1, 2, 3, 4]}, {"face": 1}]},
        {"input": 'b,"c".png', "status": "failed", "reason": "damaged\nfile", "faces": []},
    ]
    rows = list(csv.DictReader(to_csv(photos).splitlines(keepends=True)))
    assert tuple(rows[0]) == COLUMNS
    assert [row["face"] for row in rows] == ["0", "1", ""]
    assert rows[0]["input"] == "'=1+1.png"
    assert [rows[0][key] for key in ("x0", "y0", "x1", "y1")] == ["1", "2", "3", "4"]
    assert (rows[2]["input"], rows[2]["reason"]) == ('b,"c".png', "damaged\nfile")


def test_what_is_known_of_other_photos_is_kept(tmp_path: Path):
    Report(tmp_path, {"model": "mini"}).note({"input": "a.png", "faces": []})
    before = (tmp_path / "report.json").stat().st_mtime_ns
    Report(tmp_path, {"model": "mini"}).write()
    assert (tmp_path / "report.json").stat().st_mtime_ns == before, "nothing new, nothing written"
    again = Report(tmp_path, {"model": "gfpgan"})
    again.note({"input": "b.png", "faces": []})
    again.write()
    stored = json.loads((tmp_path / "report.json").read_text())
    assert [entry["input"] for entry in stored["photos"]] == ["a.png", "b.png"]
    assert stored["model"] == "gfpgan"
    (tmp_path / "report.json").write_text("{damaged")
    Report(tmp_path, {}).note({"input": "c.png", "faces": []})
    assert len(json.loads((tmp_path / "report.json").read_text())["photos"]) == 1


def run(*arguments: str) -> int:
    import argparse

    parser = argparse.ArgumentParser()
    restore.add_arguments(parser)
    return restore.run(parser.parse_args(arguments))


def test_the_command_reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    network = watched(found(30, 60), found(130, 60), upscale=2)
    monkeypatch.setattr(restore, "build_restorer", lambda args: network)
    folder = tmp_path / "in"
    folder.mkdir()
    cv2.imwrite(str(folder / "a.png"), photo(0))
    cv2.imwrite(str(folder / "b.png"), photo() * 0)
    (folder / "c.png").write_bytes(b"nothing")
    network.composer.meter.calibration = Calibration((0, 0.5, 1), (-1, 0, 1), 0.6)  # type: ignore[union-attr]
    assert run("-i", str(folder), "-o", str(tmp_path / "out"), "-w", "0", "--faces", "0") == 1
    printed = capsys.readouterr()
    assert "1 faces may no longer show the same person" in printed.out
    photos = {Path(p["input"]).name: p for p in json.loads((tmp_path / "out/report.json").read_text())["photos"]}
    assert {name: p["status"] for name, p in photos.items()} == {
        "a.png": "restored",
        "b.png": "faceless",
        "c.png": "failed",
    }
    assert photos["a.png"]["output"] == str(tmp_path / "out/restored_imgs/a.png")
    assert Path(photos["b.png"]["output"]).is_file()
    assert len((tmp_path / "out/report.csv").read_text().splitlines()) == 5
    assert run("-i", str(folder / "a.png"), "-o", str(tmp_path / "out"), "--faces", "7", "--overwrite") == 1
    assert "none of 2 faces was chosen" in capsys.readouterr().err
    like = str(folder / "b.png")
    assert run("-i", str(folder / "a.png"), "-o", str(tmp_path / "out"), "--like", like, "--overwrite") == 2
    assert "no face was found to compare" in capsys.readouterr().err


def test_an_aligned_face_is_listed_without_a_box(tmp_path: Path, measured: LAFRer):
    cv2.imwrite(str(tmp_path / "a.png"), photo(height=64, width=64))
    (entry,) = entries(measured, tmp_path / "a.png", has_aligned=True)
    (face,) = entry["faces"]
    assert face["face"] == 0
    assert face["restored"]
    assert "box" not in face


def test_a_photo_without_identity_has_no_verdict(tmp_path: Path):
    network = watched(found(30, 60))
    object.__setattr__(network.composer, "meter", None)
    cv2.imwrite(str(tmp_path / "a.png"), photo())
    (entry,) = entries(network, tmp_path / "a.png")
    assert "identity" not in entry["faces"][0]
    assert isinstance(RestoredPhoto(1, 8).identities, list)
