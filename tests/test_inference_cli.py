"""inference_lafr.py: the folders and names users know, bad inputs reported one by one, runs that continue."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from lafr.commands import restore
from lafr.demo import PORTRAITS, write_samples
from lafr.networks import MODELS
from lafr.restorer import LAFRer
from lafr.results import ResultFolder, output_names
from lafr_base.images import read_image

ROOT = Path(__file__).resolve().parents[1]


class Negative(nn.Module):
    image_size = 64

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 1 - x


class Everywhere:
    """Finds one face in the middle of every photo that is not black."""

    name = "everywhere"

    def detect(self, image: np.ndarray) -> list:
        from lafr.detectors import Face
        from lafr_base.geometry import FFHQ_POINTS

        if not image.any():
            return []
        height, width = image.shape[:2]
        middle, side = np.array([width, height]) / 2, min(height, width) * 0.7
        points = (FFHQ_POINTS - 255.5) * (side / 512) + middle
        return [Face(np.concatenate((middle - side / 3, middle + side / 3)), points, 0.9)]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Return the script as a module, with a network and a detector that need no weights."""
    spec = importlib.util.spec_from_file_location("inference_lafr", ROOT / "inference_lafr.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def build(args: object) -> LAFRer:
        options = {"upscale": args.upscale, "batch_size": args.batch_size, "keep_intact": False}  # type: ignore[attr-defined]
        return LAFRer(model=Negative(), detection_model=Everywhere(), device="cpu", **options)

    monkeypatch.setattr(restore, "build_restorer", build)
    return module


def color(value: int = 40, height: int = 80, width: int = 100) -> np.ndarray:
    return np.tile(np.array([value, value + 50, value + 90], np.uint8), (height, width, 1))


def files(folder: Path) -> list[str]:
    found = [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()]
    return sorted(name for name in found if not name.startswith("manifest/"))


def test_a_folder_of_every_kind_of_photo(script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    photos, out = tmp_path / "in", tmp_path / "out"
    photos.mkdir()
    save = lambda name, image: cv2.imwrite(str(photos / name), image)  # noqa: E731
    save("a.jpg", color())
    save("a.png", color())
    save("deep.png", color().astype(np.uint16) * 257)
    save("alpha.png", np.dstack((color(), np.full((80, 100), 50, np.uint8))))
    save("gray.png", color()[..., 0])
    save("dot.png", color(height=1, width=1))
    save("nobody.png", color() * 0)
    save("wide.png", color(height=40, width=20_000))
    Image.fromarray(color()).convert("CMYK").save(photos / "cmyk.jpg")
    (photos / "empty.png").write_bytes(b"")
    (photos / "torn.jpg").write_bytes((photos / "a.jpg").read_bytes()[:300])
    (photos / "notes.txt").write_text("not a photo")

    status = script.main(["-i", str(photos), "-o", str(out), "-s", "1", "--suffix", "x"])
    said = capsys.readouterr()
    assert status == 1
    lines = said.err.splitlines()
    for name, cause in {
        "empty.png": "empty (0 bytes)",
        "torn.jpg": "truncated",
        "dot.png": "no face found",
        "nobody.png": "no face found",
    }.items():
        assert sum(str(photos / name) in line and cause in line for line in lines) == 1, (name, said.err)
    assert "9 photos written (7 faces restored, 2 photos without a face), 0 skipped, 2 failed" in said.out

    faces = ["a_jpg", "a_png", "alpha", "cmyk", "deep", "gray", "wide"]
    images = ["a_jpg_x.jpg", "a_png_x.png", "alpha_x.png", "cmyk_x.jpg", "deep_x.png", "dot_x.png", "gray_x.png"]
    assert files(out / "cropped_faces") == files(out / "cmp") == [f"{name}_00.png" for name in faces]
    assert files(out / "restored_faces") == [f"{name}_00_x.png" for name in faces]
    assert files(out / "restored_imgs") == [*images, "nobody_x.png", "wide_x.png"]

    deep, alpha = (read_image(out / "restored_imgs" / f"{name}_x.png") for name in ("deep", "alpha"))
    assert deep.bgr.dtype == np.uint16
    assert alpha.alpha is not None
    assert (alpha.alpha == 50).all()
    assert read_image(out / "restored_imgs" / "gray_x.png").gray
    np.testing.assert_array_equal(deep.bgr[:5], color().astype(np.uint16)[:5] * 257)
    assert read_image(out / "restored_imgs" / "wide_x.png").bgr.shape == (40, 20_000, 3)

    # The same command again does nothing but the failed ones; --overwrite does all.
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*.*g")}
    assert script.main(["-i", str(photos), "-o", str(out), "-s", "1", "--suffix", "x"]) == 1
    assert "9 skipped, 2 failed" in capsys.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*.*g")} == before
    script.main(["-i", str(photos / "a.png"), "-o", str(out), "-s", "1", "--suffix", "x", "--overwrite"])
    assert (out / "restored_imgs" / "a_x.png").exists()  # alone, a.png needs no suffix


def test_both_spellings_and_options_that_change_the_result(script: ModuleType, tmp_path: Path):
    source = tmp_path / "face.webp"
    cv2.imwrite(str(source), color())
    one, two = tmp_path / "one", tmp_path / "two"
    assert script.main(["--input", str(source), "--output", str(one), "--upscale", "3", "--weight", "1"]) == 0
    command = ["--input_path", str(source), "--output_path", str(two), "-s", "1", "--fidelity_weight", "0"]
    assert script.main([*command, "--ext", "png", "--draw_box", "--only_center_face", "--bg_upsampler", "None"]) == 0
    large = read_image(one / "restored_imgs" / "face.webp").bgr
    assert large.shape == (240, 300, 3)
    assert np.abs(large.astype(int) - color()[0, 0]).max() <= 6  # weight 1 changes nothing but by WebP
    boxed = read_image(two / "restored_imgs" / "face.png").bgr
    assert (boxed == [0, 255, 0]).all(axis=2).sum() > 100
    np.testing.assert_allclose(boxed[40, 50], 255 - color()[0, 0].astype(int), atol=6)


@pytest.mark.parametrize("flag", ["--aligned", "--has_aligned"])
def test_aligned_faces(script: ModuleType, tmp_path: Path, flag: str, capsys: pytest.CaptureFixture[str]):
    source = tmp_path / "in" / "f.png"
    source.parent.mkdir()
    cv2.imwrite(str(source), color(height=90, width=90))
    command = ["-i", str(source.parent), "-o", str(tmp_path / "out"), flag]
    assert script.main(command) == 0
    faces = ["cmp/f_00.png", "cropped_faces/f_00.png", "restored_faces/f_00.png"]
    assert files(tmp_path / "out") == sorted([*faces, "report.csv", "report.json"])
    assert read_image(tmp_path / "out" / "cmp" / "f_00.png").bgr.shape == (64, 128, 3)
    assert script.main(command) == 0
    assert "skipped" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-i", "no/such/path"], "no/such/path: no such file or folder"),
        (["-i", str(ROOT / "tests"), "-w", "2"], "--weight must be within 0 to 1"),
        (["-i", str(ROOT / "setup.py"), "--model", "nothing"], "pass one of mini, a folder"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    parser = restore.argparse.ArgumentParser()
    restore.add_arguments(parser)
    assert restore.run(parser.parse_args([*arguments, "-o", str(tmp_path / "out")])) == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_interrupted_runs_leave_whole_files_and_continue(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    for name in ("a.png", "b.png", "c.png"):
        cv2.imwrite(str(tmp_path / name), color())
    write, count = ResultFolder.write, 0

    def interrupted(*arguments: object) -> None:
        nonlocal count
        count += 1
        if count > 1:
            raise KeyboardInterrupt
        write(*arguments)  # type: ignore[arg-type]

    out = tmp_path / "out"
    command = ["-i", str(tmp_path), "-o", str(out), "--batch_size", "1"]
    monkeypatch.setattr(ResultFolder, "write", interrupted)
    assert script.main(command) == 130
    assert files(out / "restored_imgs") == ["a.png"]
    monkeypatch.setattr(ResultFolder, "write", write)
    assert script.main(command) == 0
    assert "2 photos written (2 faces restored, 0 photos without a face), 1 skipped" in capsys.readouterr().out
    assert files(out / "restored_imgs") == ["a.png", "b.png", "c.png"]


def test_names_never_collide():
    paths = [Path(name) for name in ("a.jpg", "A.png", "a_jpg.webp", "b.png", "c.jpg", "c.JPG")]
    names = output_names(paths)
    assert names[Path("b.png")] == "b"
    assert names[Path("a_jpg.webp")] == "a_jpg"
    assert len({name.lower() for name in names.values()}) == len(paths)


def test_samples_are_the_same_every_time_and_worse_than_the_portraits(tmp_path: Path):
    first, second = write_samples(tmp_path / "1"), write_samples(tmp_path / "2")
    assert [sample.path.stem for sample in first] == list(PORTRAITS)
    for one, two in zip(first, second, strict=True):
        assert one.path.read_bytes() == two.path.read_bytes()
        degraded = cv2.resize(read_image(one.path).bgr, one.original.shape[1::-1], interpolation=cv2.INTER_CUBIC)
        psnr = cv2.PSNR(degraded, np.ascontiguousarray(one.original))
        assert 18 < psnr < 30


@pytest.mark.skipif(not (MODELS["mini"] / "config.json").is_file(), reason="the bundled network is not there")
def test_the_demo_as_a_user_runs_it(tmp_path: Path):
    command = [sys.executable, str(ROOT / "inference_lafr.py"), "--demo", "-o", str(tmp_path), "--device", "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert (
        f"2 photos written (2 faces restored, 0 photos without a face), 0 skipped, 0 failed. Results: {tmp_path}"
        in (done.stdout)
    )
    for sample in write_samples(tmp_path / "again"):
        original = np.ascontiguousarray(sample.original)
        assert str(tmp_path / "cmp" / sample.path.name) in done.stdout
        restored = read_image(tmp_path / "restored_imgs" / sample.path.name).bgr
        assert restored.shape == original.shape
        degraded = cv2.resize(read_image(sample.path).bgr, original.shape[1::-1], interpolation=cv2.INTER_LANCZOS4)
        assert cv2.PSNR(restored, original) > cv2.PSNR(degraded, original)
        width = original.shape[1]
        assert read_image(tmp_path / "cmp" / sample.path.name).bgr.shape[1] == 3 * width
