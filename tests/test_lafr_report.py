"""report.json and report.csv: what they say, and that they are whole whatever happens."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from lafr.choice import FaceChoice
from lafr.cli import main
from lafr.commands import batch as batch_command
from lafr.commands import restore
from lafr.identity import Calibration
from lafr.report import COLUMNS, photo_entry, verdict, write_report
from lafr.restorer import LAFRer
from lafr.results import RestoredPhoto
from lafr.scale.entries import read_entries
from lafr.scale.manifest import BEGUN, FAILED, RESTORED, Manifest, Record
from lafr.scale.photos import Photos
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
    write_report(tmp_path, {}, photos)
    rows = list(csv.DictReader((tmp_path / "report.csv").read_text().splitlines(keepends=True)))
    assert tuple(rows[0]) == COLUMNS
    assert [row["face"] for row in rows] == ["0", "1", ""]
    assert rows[0]["input"] == "'=1+1.png"
    assert [rows[0][key] for key in ("x0", "y0", "x1", "y1")] == ["1", "2", "3", "4"]
    assert (rows[2]["input"], rows[2]["reason"]) == ('b,"c".png', "damaged\nfile")


def test_the_report_is_written_where_something_is_new(tmp_path: Path):
    write_report(tmp_path, {"model": "mini"}, [{"input": "a.png", "faces": []}])
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    write_report(tmp_path, {"model": "mini"}, iter([{"input": "a.png", "faces": []}]))
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_report(tmp_path, {}, [{"input": "a.png", "faces": [{"identity": float("nan")}]}])
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before, "whole, or as it was"
    write_report(tmp_path, {}, [])
    assert set(json.loads((tmp_path / "report.json").read_text())) == {"lafr", "photos"}


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
    (tmp_path / "out/report.json").write_text("{damaged")
    (folder / "b.png").rename(tmp_path / "b.png")
    assert run("-i", str(folder), "-o", str(tmp_path / "out"), "-w", "0", "--faces", "0") == 1
    again = json.loads((tmp_path / "out/report.json").read_text())
    assert again["identity_threshold"] == Calibration.load().threshold
    assert again["photos"] == list(photos.values()), "what is known of other photos is kept"
    assert run("-i", str(folder / "a.png"), "-o", str(tmp_path / "out"), "--faces", "7", "--overwrite") == 1
    assert "none of 2 faces was chosen" in capsys.readouterr().err
    like = str(tmp_path / "b.png")
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


def batch(*arguments: object) -> int:
    return main(["batch", *map(str, arguments), "--upscale", "1", "--weight", "0"])


def test_lafr_batch_writes_the_same_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, measured: LAFRer):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    for command in (restore, batch_command):
        monkeypatch.setattr(command, "build_restorer", lambda args: measured)
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for index in range(5):
        cv2.imwrite(str(folder / f"{index}.png"), photo(index))
    (folder / "bad.png").write_bytes(b"nothing")
    run("-i", str(folder), "-o", str(tmp_path / "plain"), "-w", "0", "-s", "1")
    expected = {p["input"]: p for p in json.loads((tmp_path / "plain/report.json").read_text())["photos"]}
    with Manifest(out, "rank-00001-of-00002"):
        batch(folder, "-o", out, "--rank", 0, "--world_size", 2)
        assert not (out / "report.json").exists(), "the other process ends later, and writes it"
    with Manifest(out, "ray-0f3c-77ab"):  # an actor's, which outlives its work
        batch(folder, "-o", out, "--rank", 1, "--world_size", 2)
    stored = json.loads((out / "report.json").read_text())
    assert {p["input"]: {**p, "output": None} for p in stored["photos"]} == {
        path: {**p, "output": None} for path, p in expected.items()
    }
    assert all(p["output"] == f"{out}/restored_imgs/{Path(p['input']).name}.png" for p in stored["photos"][:5])
    assert stored["model"] == "mini"
    assert len((out / "report.csv").read_text().splitlines()) == 1 + 5 * 2 + 1


def test_the_report_outlives_kills_and_repetitions(tmp_path: Path):
    """Of several lines the newest counts; of a photo whose line a kill prevented, what it was begun with is known."""
    seen = {"width": 3, "height": 2, "faces": [{"face": 0, "restored": True, "score": np.float32(0.5)}]}
    begun = Record("a.png", BEGUN, digest="d", options="o", report=seen)
    done = Record("a.png", RESTORED, 1, digest="d", options="o", output="restored_imgs/a.png.png", at=2)
    with Manifest(tmp_path, "rank-00000-of-00002") as killed:
        killed.append(begun)
        killed.append(Record("b.png", FAILED, reason="unreadable"))
        killed.append(Record("begun only.png", BEGUN, report=seen))
    with killed.path.open("ab") as file:
        file.write(done.to_line()[:30])
    with Manifest(tmp_path, "rank-00000-of-00003") as later:
        later.append(Record("b.png", FAILED, reason="still unreadable"))
        later.append(replace(done, recovered=True))
        later.append(replace(done, faces=7, at=1))
    photos = Photos(tmp_path)
    failed, restored = read_entries(tmp_path, photos)
    assert (failed["input"], failed["reason"]) == (str(tmp_path / "b.png"), "still unreadable")
    assert restored == {
        "input": str(tmp_path / "a.png"),
        "output": str(tmp_path / "restored_imgs/a.png.png"),
        "status": "restored",
        "reason": None,
        **seen,
    }
    with Manifest(tmp_path, "rank-00000-of-00003") as later:
        later.append(replace(done, options="other", at=3))
    assert [entry["faces"] for entry in read_entries(tmp_path, photos)] == [[], []], "begun with other options"
