"""lafr table: the paper's comparisons on folders of faces, with the paper's figures and what is missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from lafr.cli import main
from lafr.methods import MethodSpec
from lafr_base.face_sets import get_face_set
from lafr_metrics.specs import METRICS
from lafr_studies.paper_comparisons import best_counts, read_table, training_record


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """CelebA-Test's layout and two folders of results, three faces each."""
    rng = np.random.default_rng(0)
    for i in range(3):
        face = cv2.resize(rng.integers(0, 256, (12, 12, 3)).astype(np.uint8), (48, 48), interpolation=cv2.INTER_CUBIC)
        noise = rng.normal(0, 1, face.shape)
        for folder, strength in (("celeba_test/hq", 0), ("celeba_test/lq", 30), ("good", 4), ("bad", 20)):
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
            image = np.clip(face + strength * noise, 0, 255).astype(np.uint8)
            cv2.imwrite(str(tmp_path / folder / f"{i}.png"), image)
    return tmp_path


def table(data: Path, number: str, *more: str) -> tuple[int, dict[str, Any]]:
    methods = [f"good={data / 'good'}", f"bad={data / 'bad'}"]
    arguments = ["table", number, "--data", str(data), "-o", str(data / "out"), "--methods", *methods]
    status = main([*arguments, "--metrics", "psnr", "ssim", "--device", "cpu", *more])
    path = data / f"out/table_{number}.json"
    return status, json.loads(path.read_text()) if path.is_file() else {}


def test_methods_stand_beside_the_papers(data: Path):
    status, result = table(data, "1")
    assert status == 0
    assert result["sets"] == {"CelebA-Test": 3}
    good, bad = (row["values"][0] for row in result["rows"])
    assert good > bad > 10
    low, high = result["rows"][0]["intervals"][0]
    assert low <= good <= high
    assert result["rows"][0]["values"][2] is None  # LPIPS was not asked for
    assert "the published set has 3,000" in result["notes"][0]
    text = (data / "out/table_1.md").read_text()
    assert f"| good | {good:.2f} [" in text
    assert "| *LAFR, in the paper* | 26.26 | 0.7394 |" in text
    assert (data / "out/celeba_test/index.html").is_file()


def test_costs(data: Path):
    status, result = table(data, "3")
    assert status == 0
    assert [row["values"] for row in result["rows"]] == [[None, None, None, None, 2.0], [None, None, None, None, 1.0]]
    assert "| *LAFR, in the paper* | 0.121 | 7.5 | 411 | 0.6 | 5.5 |" in (data / "out/table_3.md").read_text()


def test_minutes_are_those_of_the_run(tmp_path: Path):
    (tmp_path / "run/deployed").mkdir(parents=True)
    (tmp_path / "run/models").mkdir()
    record = {"seconds": 90, "trainable_parameters": 5, "faces": 600}
    assert training_record(MethodSpec("a", "lafr", tmp_path / "run/deployed")) == {}
    (tmp_path / "run/training.json").write_text(json.dumps(record))
    for path in ("run/deployed", "run/models/net_g_latest.pth"):
        assert training_record(MethodSpec("a", "lafr", tmp_path / path)) == record
    assert training_record(None) == {}


def test_best_and_second_best():
    def report(metric: str, better: str, **values: float) -> dict[str, Any]:
        columns = [{"name": n, "set": {}, "summary": {metric: {"mean": v}}} for n, v in values.items()]
        return {"metrics": {metric: {"better": better}}, "columns": columns}

    reports = [report("psnr", "higher", a=20, b=30, c=25), report("niqe", "lower", a=4, b=5, c=6)]
    assert best_counts(reports, ["psnr", "niqe", "lpips"], ["a", "b", "c"]) == {"a": 1.0, "b": 1.5, "c": 0.5}


def test_what_is_missing_is_said_with_where_to_get_it(data: Path, capsys: pytest.CaptureFixture[str]):
    assert table(data, "2")[0] == 2
    text = capsys.readouterr().err
    for name in ("WIDER-Test", "LFW-Test", "WebPhoto-Test"):
        assert f"{name}: " in text
        assert get_face_set(name).origin in text
    assert table(data, "7")[0] == 2
    assert "table 7 is none of 1, 2, 3, 9, 10; `lafr ablate`" in capsys.readouterr().err
    assert table(data, "1", "--folder", "FFHQ=x")[0] == 2
    assert "expected SET=DIR of CelebA-Test" in capsys.readouterr().err


@pytest.mark.parametrize("number", ["1", "2", "3", "9", "10"])
def test_shipped_tables_are_whole(number: str):
    chosen = read_table(number)
    assert all(metric in METRICS for metric in chosen.columns.values())
    width = len(chosen.costs) or len(chosen.sets) * len(chosen.columns)
    assert {len(figures) for figures in chosen.paper.values()} == {width}
