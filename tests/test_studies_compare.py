"""Comparisons: the same faces for all methods, right figures, runs that continue, failures that stay where they are."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio
from torch import nn

from lafr.cli import main
from lafr.detectors import Face
from lafr.methods import MethodError, MethodSpec
from lafr_arch.restoring import RunsAsItIs
from lafr_base.files import digest
from lafr_base.geometry import FFHQ_POINTS, align_matrix
from lafr_metrics.suite import Suite
from lafr_studies.comparison import run, worker
from lafr_studies.comparison import running as method_runner
from lafr_studies.comparison.inputs import Input, Settings, cut_faces
from lafr_studies.comparison.running import Method, read_methods, run_method
from lafr_studies.comparison.store import Store

SIZE = 48


def texture(seed: int, size: int = SIZE) -> np.ndarray:
    small = np.random.default_rng(seed).integers(0, 256, (size // 4, size // 4, 3)).astype(np.uint8)
    return cv2.resize(small, (size, size), interpolation=cv2.INTER_CUBIC)


def noisy(image: np.ndarray, strength: float, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, strength, image.shape)
    return np.clip(np.rint(image + noise), 0, 255).astype(np.uint8)


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Folders lq, gt, good and bad with three aligned faces each, under names that need no escaping."""
    for index in range(3):
        truth = texture(index)
        pictures = {"gt": truth, "lq": noisy(truth, 30), "good": noisy(truth, 4 + index), "bad": noisy(truth, 20)}
        for folder, image in pictures.items():
            (tmp_path / folder).mkdir(exist_ok=True)
            cv2.imwrite(str(tmp_path / folder / f"f{index}.png"), image)
    return tmp_path


def compare(folder: Path, *more: str, methods: tuple[str, ...] = ()) -> tuple[int, dict[str, Any]]:
    chosen = methods or (f"good={folder / 'good'}", f"bad={folder / 'bad'}")
    arguments = ["compare", str(folder / "lq"), "--aligned", "--methods", *chosen, "--reference", str(folder / "gt")]
    code = main([*arguments, "--metrics", "psnr", "--out", str(folder / "out"), *more])
    return code, json.loads((folder / "out" / "report.json").read_text())


def column(report: dict[str, Any], name: str) -> dict[str, Any]:
    return next(found for found in report["columns"] if found["name"] == name)


def test_figures_are_those_of_an_independent_computation(folders: Path) -> None:
    code, report = compare(folders)
    assert code == 0
    expected = {
        name: [
            peak_signal_noise_ratio(cv2.imread(str(folders / "gt" / f)), cv2.imread(str(folders / name / f)))
            for f in ("f0.png", "f1.png", "f2.png")
        ]
        for name in ("lq", "good", "bad")
    }
    for name, values in expected.items():
        assert [row["values"][name]["psnr"] for row in report["faces"]] == pytest.approx(values)
        assert column(report, name)["summary"]["psnr"]["mean"] == pytest.approx(np.mean(values))
    change = column(report, "bad")["difference"]["psnr"]
    each = np.subtract(expected["bad"], expected["good"])
    assert change["mean"] == pytest.approx(each.mean())
    assert each.min() <= change["low"] <= change["mean"] <= change["high"] <= each.max()
    assert "difference" not in column(report, "good")
    assert column(report, "hq")["summary"] == {}, "nothing to compare the reference with"
    with (folders / "out" / "faces.csv").open() as file:
        rows = {(row["face"], row["method"]): row for row in csv.DictReader(file)}
    assert float(rows["f1_00", "bad"]["psnr"]) == pytest.approx(expected["bad"][1])
    with (folders / "out" / "table.csv").open() as file:
        table = {row["method"]: row for row in csv.DictReader(file)}
    assert float(table["bad"]["psnr_difference"]) == pytest.approx(each.mean())
    assert f"**{np.mean(expected['good']):.2f}**" in (folders / "out" / "table.md").read_text()


def test_what_is_there_is_not_done_again(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compare(folders)
    measured = []
    measure = Suite.measure

    def counted(self: Suite, *arguments: Any) -> dict[str, float]:
        measured.append(1)
        return measure(self, *arguments)

    monkeypatch.setattr(Suite, "measure", counted)
    _, before = compare(folders)
    assert not measured
    cv2.imwrite(str(folders / "bad" / "f1.png"), noisy(texture(1), 50))
    _, after = compare(folders)
    assert len(measured) == 1, "a changed result is measured again, and nothing else"
    old, new = (report["faces"][1]["values"]["bad"]["psnr"] for report in (before, after))
    assert new < old - 3
    cv2.imwrite(str(folders / "lq" / "f0.png"), noisy(texture(0), 10))
    compare(folders)
    assert len(measured) == 2, "a changed input: its own values; results of the same pixels keep theirs"


def test_a_missing_result_is_an_error_in_its_cell(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folders / "bad" / "f1.png").unlink()
    (folders / "gt" / "f2.png").unlink()
    (folders / "lq" / "f3.png").write_bytes(b"no image")
    code, report = compare(folders)
    assert code == 1
    rows = {row["id"]: row for row in report["faces"]}
    assert "no image is called f1" in rows["f1_00"]["errors"]["bad"]
    assert "bad" not in rows["f1_00"]["values"]
    assert set(rows["f1_00"]["values"]) == {"lq", "good", "hq"}
    assert rows["f2_00"]["values"]["good"] == {}, "no reference, no PSNR"
    assert "not an image" in rows["f3"]["error"]
    assert column(report, "bad")["failed"] == 1
    assert column(report, "bad")["difference"]["psnr"]["count"] == 1, "pairs only"
    said = capsys.readouterr().err
    assert "no reference of the same name for f2.png" in said
    assert said.count("f3.png") == 1


def test_missing_weights_and_metrics_are_said_and_the_rest_goes_on(
    folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LAFR_WEIGHTS", "TORCH_HOME"):
        monkeypatch.setenv(name, str(folders / "none"))
    code, report = compare(
        folders, "--metrics", "psnr", "lpips_alex", methods=(f"good={folders / 'good'}", "gfpgan:nowhere/gfpgan.pth")
    )
    assert code == 1
    assert "nowhere/gfpgan.pth" in column(report, "gfpgan")["unavailable"]
    assert column(report, "good")["summary"]["psnr"]["count"] == 3
    assert set(report["metrics"]) == {"psnr"}
    assert "alexnet" in report["missing"]["lpips_alex"]
    assert "lpips_alex" in (folders / "out" / "table.md").read_text()


def test_equal_pictures_have_an_infinite_psnr_that_is_no_mean(folders: Path) -> None:
    cv2.imwrite(str(folders / "good" / "f0.png"), cv2.imread(str(folders / "gt" / "f0.png")))
    _, report = compare(folders)
    assert report["faces"][0]["values"]["good"]["psnr"] == "inf"
    summary = column(report, "good")["summary"]["psnr"]
    assert (summary["count"], summary["left_out"]) == (2, 1)
    assert compare(folders)[1] == report, "the same from what was kept"


@pytest.mark.parametrize(
    ("methods", "said"),
    [
        (("lq=mini",), "cannot be a method's name"),
        (("mini", "Mini=bicubic"), "several methods"),
        (("bicubic,q=1",), "no option 'q'"),
    ],
)
def test_methods_that_cannot_be(methods: tuple[str, ...], said: str) -> None:
    with pytest.raises(MethodError, match=said):
        read_methods(methods)


def test_wrong_values_end_the_command_before_any_work(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start = ["compare", str(folders / "lq"), "--methods", "mini", "--out", str(folders / "new")]
    for more, said in ((["--weight", "2"], "--weight"), (["--size", "3"], "--size"), (["--metrics", "x"], "'x'")):
        assert main([*start, *more]) == 2
        assert said in capsys.readouterr().err
    assert not (folders / "new" / "report.json").exists()


def settings(**changes: Any) -> Settings:
    values = {"aligned": True, "size": SIZE, "upscale": 2, "weight": None, "detector": "", "device": "cpu"}
    return Settings(**{**values, "precision": "fp32", **changes})


def whole_input(width: int, height: int) -> Input:
    points = FFHQ_POINTS * 0.2 + [31.5, 10.25]
    face = {"box": [30.0, 10.0, 130.0, 110.0], "landmarks": points.tolist(), "score": 1.0}
    return Input("photo", Path("photo.png"), digest=digest("photo"), width=width, height=height, faces=[face])


def test_faces_are_cut_at_the_same_place_at_any_scale() -> None:
    """Red is x and green is y of the photo, so that a crop tells where it was cut."""
    width, height = 160, 120
    item = whole_input(width, height)
    for scale in (1, 2, 1.5):
        size = round(width * scale), round(height * scale)
        x = (np.arange(size[0]) + 0.5) / scale - 0.5
        y = (np.arange(size[1]) + 0.5) / scale - 0.5
        image = np.dstack([np.zeros(size[::-1]), *np.broadcast_arrays(y[:, None], x[None])]).astype(np.float32)
        (crop,) = cut_faces(image, item, settings(aligned=False, size=64))
        matrix = cv2.invertAffineTransform(align_matrix(np.array(item.faces[0]["landmarks"]), 64))
        for u, v in ((20, 20), (32, 40), (50, 25)):
            assert crop[v, u, [2, 1]] == pytest.approx(matrix @ [u, v, 1], abs=0.05), (scale, u, v)
    with pytest.raises(ValueError, match="160 x 160 px do not have the shape of the input, 160 x 120 px"):
        cut_faces(np.zeros((160, 160, 3), np.uint8), item, settings(aligned=False))


class Everywhere:
    """Finds one face in every photo that is not black."""

    name = "everywhere"
    calls = 0

    def detect(self, image: np.ndarray) -> list[Face]:
        type(self).calls += 1
        if not image.any():
            return []
        points = np.array(whole_input(160, 120).faces[0]["landmarks"])
        return [Face(np.array([30.0, 10.0, 130.0, 110.0]), points, 0.9)]


def test_whole_photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    photo = texture(1, 160)[:120]
    for folder in ("lq", "gt", "twice"):
        (tmp_path / folder).mkdir()
    cv2.imwrite(str(tmp_path / "lq" / "a.png"), photo)
    cv2.imwrite(str(tmp_path / "lq" / "black.png"), np.zeros_like(photo))
    for folder in ("gt", "twice"):
        cv2.imwrite(str(tmp_path / folder / "a.png"), cv2.resize(photo, (320, 240), interpolation=cv2.INTER_CUBIC))
    monkeypatch.setattr(run, "build_detector", lambda *_: Everywhere())
    arguments = ["compare", str(tmp_path / "lq"), "--methods", f"twice={tmp_path / 'twice'}", "--metrics", "psnr"]
    arguments += ["--reference", str(tmp_path / "gt"), "--out", str(tmp_path / "out"), "--size", "64"]
    assert main(arguments) == 1
    assert "no face was found in black.png" in capsys.readouterr().err
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    (row,) = report["faces"]
    assert row["values"]["twice"]["psnr"] == "inf", "the same photo, cut at the same places"
    assert row["values"]["lq"]["psnr"] > 25
    assert report["protocol"]["detector"] == "everywhere"
    calls = Everywhere.calls
    main(arguments)
    assert Everywhere.calls == calls, "faces are looked for once"


class Negative(RunsAsItIs, nn.Module):
    """A network of 6 parameters that fails on faces that are dark."""

    weight_means = "tones"
    image_size = SIZE

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.mean() < 0.2:
            raise RuntimeError("too dark")
        return 1 - x


def aligned_input(folder: Path, name: str, image: np.ndarray) -> Input:
    path = folder / f"{name}.png"
    cv2.imwrite(str(path), image)
    return Input(name, path, digest=digest(path), width=SIZE, height=SIZE, faces=[{}])


def test_worker_restores_measures_and_survives_a_face(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "load_network", lambda *_: Negative())
    items = [aligned_input(tmp_path, f"i{n}", texture(n) // (20 if n == 1 else 1)) for n in range(3)]
    job = worker.Job(MethodSpec("n", "lafr", tmp_path), settings(), tmp_path / "out", items, ["k0", "k1", "k2"])
    events: list[dict[str, Any]] = []
    worker.work(worker.Job.from_json(job.to_json()), events.append)
    ends = [(e["event"], e.get("input"), e.get("reason")) for e in events if e["event"] in ("done", "failed")]
    assert ends == [("done", "i0", None), ("failed", "i1", "RuntimeError: too dark"), ("done", "i2", None)]
    footprint = events[-1]
    assert (footprint["parameters"], footprint["face_size"], footprint["weight"]) == (6, SIZE, 0)
    assert footprint["peak_mib"] is None or footprint["peak_mib"] >= footprint["idle_mib"] > 10
    store = Store(tmp_path / "out")
    record = store.record("n", items[0], "k0")
    assert record is not None
    assert len(record["seconds"]) == 1, "the warm-up is not counted"
    assert store.record("n", items[0], "other key") is None
    for path in (store.result_path("n", items[0]), *store.face_paths("n", items[0])):
        assert (cv2.imread(str(path)) == 255 - texture(0)).all()
    assert store.record("n", items[1], "k1") is None
    store.result_path("n", items[2]).unlink()
    assert store.record("n", items[2], "k2") is None, "a record without its file does not count"


def test_worker_says_why_a_network_cannot_be_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> nn.Module:
        raise KeyError("params_ema")

    monkeypatch.setattr(worker, "load_network", broken)
    events: list[dict[str, Any]] = []
    worker.work(worker.Job(MethodSpec("n", "gfpgan", tmp_path), settings(), tmp_path, [], []), events.append)
    assert events == [{"event": "unavailable", "reason": "KeyError: 'params_ema'"}]


_DIES = """
import json, os, signal, sys
job = json.load(sys.stdin)
for item in job["items"]:
    print(json.dumps({"event": "start", "input": item["name"]}), flush=True)
    if item["name"] == "i1":
        print("a last word", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    print(json.dumps({"event": "failed", "input": item["name"], "reason": f"pid {os.getpid()}"}), flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_process_that_dies_costs_one_face(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(method_runner, "WORKER", [sys.executable, "-c", _DIES])
    items = [aligned_input(tmp_path, f"i{n}", texture(n)) for n in range(4)]
    method = Method("bicubic", "bicubic", MethodSpec("bicubic", "bicubic"))
    steps = []
    run_method(method, items, settings(), Store(tmp_path / "out"), lambda: steps.append(1))
    assert len(steps) == 4
    assert set(method.errors) == {"i0", "i1", "i2", "i3"}
    assert "SIGKILL" in method.errors["i1"]
    assert "a last word" in method.errors["i1"]
    assert method.errors["i0"] != method.errors["i2"] == method.errors["i3"], "a second process did the rest"
    assert method.unavailable is None


def test_a_process_that_cannot_start_ends_its_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(method_runner, "WORKER", [sys.executable, "-c", "raise SystemExit('no such module')"])
    method = Method("bicubic", "bicubic", MethodSpec("bicubic", "bicubic"))
    items = [aligned_input(tmp_path, "i0", texture(0))]
    run_method(method, items, settings(), Store(tmp_path / "out"), lambda: None)
    assert method.unavailable == "the process ended with exit status 1: no such module"


def test_a_network_in_its_own_process(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a user runs it; the second time nothing is restored, and times and memory are those of the first."""
    chosen = (f"good={folders / 'good'}", f"bicubic,size={SIZE}")
    code, report = compare(folders, methods=chosen)
    found = column(report, "bicubic")
    assert code == 0, report["columns"]
    assert (found["parameters"], found["face_size"], found["seconds"]["count"]) == (0, SIZE, 3)
    assert [row["values"]["bicubic"]["psnr"] for row in report["faces"]] == pytest.approx(
        [row["values"]["lq"]["psnr"] for row in report["faces"]], abs=0.01
    )

    def forbidden(*_: Any, **__: Any) -> None:
        raise AssertionError("no process is needed")

    monkeypatch.setattr(method_runner.subprocess, "Popen", forbidden)
    assert compare(folders, methods=chosen)[1] == report
