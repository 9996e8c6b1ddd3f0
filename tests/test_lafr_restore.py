"""lafr restore: a result belongs to a photo and to options; names, lists, folders and streams of any kind."""

from __future__ import annotations

import errno
import io
import os
import stat
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from lafr.cli import main
from lafr.commands import batch, restore
from lafr.results import output_names
from lafr_base.images import read_image
from scale_worker import Whole, read_manifests


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Photos become their negatives, with one face each, by a network of no weights."""
    for command in (restore, batch):
        monkeypatch.setattr(command, "build_restorer", lambda args: Whole(weight=args.weight))


def photo(path: Path, value: int = 40) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((8, 8, 3), value, np.uint8))
    return path


def run(*arguments: object) -> int:
    return main(["restore", *map(str, arguments)])


def images(out: Path) -> dict[str, int]:
    """Return the whole photos in a folder of results, with the value of their first pixel."""
    folder = out / "restored_imgs"
    return {p.relative_to(folder).as_posix(): int(read_image(p).bgr[0, 0, 0]) for p in folder.rglob("*.*g")}


def test_a_result_belongs_to_its_photo(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "out"
    one, two = photo(tmp_path / "a" / "IMG_0001.png", 40), photo(tmp_path / "b" / "IMG_0001.png", 90)
    assert run("-i", one, "-o", out) == 0
    assert run("-i", one, "-o", out) == 0
    assert "skipped, its result exists" in capsys.readouterr().out
    assert run("-i", two, "-o", out) == 1
    said = capsys.readouterr()
    assert f"{two}: not done: its result was made from {one}; --overwrite replaces it" in said.err
    assert "1 not done (other results are there)" in said.out
    assert images(out) == {"IMG_0001.png": 215}
    assert run("-i", two, "-o", out, "--overwrite") == 0
    assert images(out) == {"IMG_0001.png": 165}
    assert run("-i", one, "-o", out) == 1  # the newest counts
    assert run("-i", two, "-o", out) == 0


def test_a_result_belongs_to_its_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    source, out = photo(tmp_path / "in" / "x.png"), tmp_path / "out"
    assert run("-i", source, "-o", out) == 0
    capsys.readouterr()
    assert run("-i", source, "-o", out, "-w", 0.25) == 1
    assert "its result was made with weight 0.5 (now 0.25); --overwrite replaces it" in capsys.readouterr().err
    assert run("-i", source, "-o", out, "-w", 0.25, "--overwrite") == 0
    assert run("-i", source, "-o", out, "-w", 0.25) == 0
    assert run("-i", source, "-o", out) == 1


def test_a_copy_of_a_photo_is_the_same_photo(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    source, out = photo(tmp_path / "in" / "x.png"), tmp_path / "out"
    assert run("-i", source, "-o", out) == 0
    os.utime(source, (1, 1))
    assert run("-i", source, "-o", out) == 0
    assert "skipped" in capsys.readouterr().out
    photo(source, 90)
    os.utime(source, (1, 1))
    assert run("-i", source, "-o", out) == 1
    assert "another state of the photo" in capsys.readouterr().err


def test_results_of_something_unknown_are_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    source, out = photo(tmp_path / "in" / "x.png"), tmp_path / "out"
    foreign = photo(out / "restored_imgs" / "x.png", 1)
    assert run("-i", source, "-o", out) == 1
    assert "nothing says what it was made from" in capsys.readouterr().err
    assert read_image(foreign).bgr[0, 0, 0] == 1
    assert run("-i", source, "-o", out, "--overwrite") == 0
    assert images(out) == {"x.png": 215}


def test_fewer_faces_leave_none_of_the_old_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    source, out = photo(tmp_path / "in" / "x.png"), tmp_path / "out"
    monkeypatch.setattr(restore, "build_restorer", lambda args: Whole(faces=3))
    assert run("-i", source, "-o", out) == 0
    assert len(list((out / "restored_faces").iterdir())) == 3
    monkeypatch.setattr(restore, "build_restorer", lambda args: Whole(faces=1))
    assert run("-i", source, "-o", out, "-w", 0, "--overwrite") == 0
    for folder in ("restored_faces", "cropped_faces", "cmp"):
        assert [path.name for path in (out / folder).iterdir()] == ["x_00.png"]


def test_a_result_that_was_removed_is_made_again(tmp_path: Path):
    source, out = photo(tmp_path / "in" / "x.png"), tmp_path / "out"
    assert run("-i", source, "-o", out) == 0
    (out / "restored_imgs" / "x.png").unlink()
    assert run("-i", source, "-o", out) == 0
    assert images(out) == {"x.png": 215}


def test_a_result_cannot_be_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    source, out = photo(tmp_path / "in" / "x.png"), tmp_path / "out"
    (out / "restored_imgs" / "x.png").mkdir(parents=True)
    assert run("-i", source, "-o", out) == 1
    assert "cannot be written (Is a directory)" in capsys.readouterr().err


def test_every_file_of_a_folder_is_accounted_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    source, out = tmp_path / "in", tmp_path / "out"
    photo(source / "a.png")
    (source / "without_suffix").write_bytes((source / "a.png").read_bytes())
    (source / "wrong.txt").write_bytes((source / "a.png").read_bytes())
    (source / "notes.txt").write_text("no photo")
    (source / "film.mov").write_bytes(b"\0\0\0\x14ftypqt  ")
    (source / ".hidden.png").write_bytes(b"x")
    (source / "torn.jpg").write_bytes(b"\xff\xd8\xff")
    (source / "nowhere.png").symlink_to("absent.png")
    (source / "loop.png").symlink_to("loop.png")
    os.mkfifo(source / "pipe.png")
    photo(source / "sub" / "b.png")
    (source / "sub" / "up").symlink_to("..")
    assert run("-i", source, "-o", out) == 1
    said = capsys.readouterr()
    assert sorted(images(out)) == ["a.png", "without_suffix.png", "wrong.png"]
    assert f"{source / 'torn.jpg'}: " in said.err
    left_out = "left out: 1 hidden, 2 links that lead nowhere, 2 not photos (.mov, .txt), 1 pipes, sockets or devices, "
    assert left_out + "1 sub-folders (-r searches them)" in said.out
    assert run("-i", source, "-o", out, "-r") == 1
    assert "1 links to folders" in capsys.readouterr().out
    assert sorted(images(out)) == ["a.png", "sub/b.png", "without_suffix.png", "wrong.png"]


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is closed to root")
def test_a_closed_folder_ends_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    photo(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "closed").mkdir(mode=0)
    assert run("-i", tmp_path / "in", "-o", tmp_path / "out", "-r") == 1
    assert "closed/: cannot be searched (Permission denied)" in capsys.readouterr().err
    assert sorted(images(tmp_path / "out")) == ["a.png"]


def test_a_folder_that_cannot_be_searched_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    photo(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "closed").mkdir()
    scandir = os.scandir

    def closed(path: str) -> Any:
        if str(path).endswith("closed/"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    for command in (["restore", "-r", "-i"], ["batch"]):
        assert main([*command, str(tmp_path / "in"), "-o", str(tmp_path / command[0])]) == 1
        assert "closed/: cannot be searched (Permission denied)" in capsys.readouterr().err
        assert len(images(tmp_path / command[0])) == 1


@pytest.mark.parametrize("out", ["in", "in/results", "results"])
@pytest.mark.parametrize("command", [["restore", "-r", "-i"], ["batch"]])
def test_results_are_not_restored(tmp_path: Path, command: list[str], out: str):
    """Whether they go into the folder of photos, below it, or lie there from before."""
    photo(tmp_path / "in" / "a.png")
    photo(tmp_path / "in" / "older" / "restored_imgs" / "b.png")
    for _ in range(3):
        assert main([*command, str(tmp_path / "in"), "-o", str(tmp_path / out)]) == 0
    assert len(images(tmp_path / out)) == 1


def test_a_tree_keeps_its_folders(tmp_path: Path):
    for name in ("x.png", "a/x.png", "a/x.jpg", "b/y.png"):
        photo(tmp_path / "in" / name)
    assert run("-i", tmp_path / "in", "-o", tmp_path / "out", "-r") == 0
    assert sorted(images(tmp_path / "out")) == ["a/x_jpg.jpg", "a/x_png.png", "b/y.png", "x.png"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_list_of_photos(tmp_path: Path, encoding: str, capsys: pytest.CaptureFixture[str]):
    for name in ("ä.png", "a/x.png", "b/x.png"):
        photo(tmp_path / "in" / name)
    listed = tmp_path / "in" / "photos.txt"
    entries = ["ä.png", "a/x.png", "b/x.png", "./a//x.png", "a/", "a/x.png/", "absent.png", "../far.png", ".", ".."]
    listed.write_text("\n".join([*entries, "y" * 20_000]), encoding)
    assert run("-i", listed, "-o", tmp_path / "out") == 1
    assert sorted(images(tmp_path / "out")) == ["a/x.png", "b/x.png", "ä.png"]
    said = capsys.readouterr()
    assert "3 photos written" in said.out
    for cause in ("a: a folder", "absent.png: no such file", "far.png: the photo is not below", "File name too long"):
        assert said.err.count(cause) == 1, said.err


def test_an_image_is_no_list_and_a_list_no_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    source = photo(tmp_path / "in" / "x.png").rename(tmp_path / "in" / "photo")
    for command in (["restore", "-i"], ["batch"]):
        assert main([*command, str(source), "-o", str(tmp_path / command[0])]) == 0
        assert len(images(tmp_path / command[0])) == 1
    (tmp_path / "junk.bin").write_bytes(b"\0\1\2\n" * 100)
    for command in (["restore", "-i"], ["batch"]):
        assert main([*command, str(tmp_path / "junk.bin"), "-o", str(tmp_path / "no")]) == 2
        assert "neither a photo nor a list" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


def test_names_that_are_no_text_are_done_twice_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    name = os.fsdecode(b"caf\xe9 \x1b[2J\n.png")
    try:
        photo(tmp_path / "x.png").rename(tmp_path / name)
    except OSError:
        pytest.skip("the file system has no such names")
    (tmp_path / "out").mkdir()
    for expected in ("1 photos written", "1 skipped"):
        assert run("-i", tmp_path, "-o", tmp_path / "out") == 0
        said = capsys.readouterr()
        assert expected in said.out
        said.out.encode("utf-8")
        assert "\x1b[2J" not in said.out + said.err
    assert "caf\\xe9 \\x1b[2J\\x0a.png: skipped" in said.out


@pytest.mark.parametrize("suffix", ["../../x", "a/b", "a\\b", "a\nb", "\0"])
def test_a_suffix_stays_in_the_folder(tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]):
    source = photo(tmp_path / "in" / "x.png")
    for command in (["restore", "-i"], ["batch"]):
        assert main([*command, str(source), "-o", str(tmp_path / "out"), "--suffix", suffix]) == 2
        assert "--suffix must be a part of a file's name" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_names_keep_folders_only_where_asked():
    paths = [Path("a/x.png"), Path("b/x.jpg"), Path("b/x.png")]
    assert list(output_names(paths, keep_folders=True).values()) == ["a/x", "b/x_jpg", "b/x_png"]
    assert list(output_names(paths).values()) == ["x_png", "x_jpg", "x_png_2"]


class Disk:
    """A disk that is full, or cannot be written, from some write on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, code: int, after: int) -> None:
        self.left = after
        replace = os.replace

        def refuse(source: Any, target: Any) -> None:
            self.left -= 1
            if self.left < 0:
                raise OSError(code, os.strerror(code))
            replace(source, target)

        monkeypatch.setattr(os, "replace", refuse)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
@pytest.mark.parametrize("command", [["restore", "-i"], ["batch"]])
def test_a_full_disk_stops_the_run_which_goes_on_later(
    tmp_path: Path, command: list[str], code: int, capsys: pytest.CaptureFixture[str]
):
    for name in "abcd":
        photo(tmp_path / "in" / f"{name}.png")
    arguments = [*command, str(tmp_path / "in"), "-o", str(tmp_path / "out")]
    with pytest.MonkeyPatch.context() as patch:
        Disk(patch, code, after=6)
        assert main(arguments) == 2
    assert os.strerror(code) in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.part"))
    assert main(arguments) == 0
    assert len(images(tmp_path / "out")) == 4
    photos = [record.photo for record in read_manifests(tmp_path / "out")]
    assert sorted(photos) == sorted(set(photos))


@pytest.mark.parametrize("command", [["restore", "-i"], ["batch"]])
def test_outputs_are_checked_before_the_network_is_loaded(
    tmp_path: Path, command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    source = photo(tmp_path / "in" / "x.png")
    for module in (restore, batch):
        monkeypatch.setattr(module, "build_restorer", lambda args: pytest.fail("the network was loaded"))
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to("absent")
    for out in ("file", "file/out", "link"):
        assert main([*command, str(source), "-o", str(tmp_path / out)]) == 2
        assert "cannot be written" in capsys.readouterr().err

    def full(*_: Any, **__: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("lafr.scale.run.tempfile.TemporaryFile", full)
    assert main([*command, str(source), "-o", str(tmp_path / "out")]) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", [["restore", "-i"], ["batch"]])
def test_a_start_that_fails_claims_nothing(tmp_path: Path, command: list[str], capsys: pytest.CaptureFixture[str]):
    source = photo(tmp_path / "in" / "x.png")
    arguments = [*command, str(source), "-o", str(tmp_path / "out")]
    assert main([*arguments, "--model", "absent"]) == 2
    assert not (tmp_path / "out").exists()
    if command == ["batch"]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(sys.modules, "ray", None)
            patch.delitem(sys.modules, "lafr.scale.ray_engine", raising=False)
            assert main([*arguments, "--workers", "2"]) == 2
        assert "needs Ray Data" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main(arguments) == 0


def test_one_folder_one_program(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    source = photo(tmp_path / "in" / "x.png")
    assert main(["batch", str(source), "-o", str(tmp_path / "out")]) == 0
    assert run("-i", source, "-o", tmp_path / "out") == 2
    assert "belongs to `lafr batch`" in capsys.readouterr().err


def test_files_of_killed_runs_are_removed(tmp_path: Path):
    source, out = photo(tmp_path / "in" / "x.png"), tmp_path / "out"
    for name in ("restore", "rank-00003-of-00004"):
        (out / ".unfinished" / name).mkdir(parents=True)
        (out / ".unfinished" / name / "left.part").write_bytes(b"x")
    assert run("-i", source, "-o", out) == 0
    assert not (out / ".unfinished").exists()


def test_damaged_photos_are_restored_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    source = photo(tmp_path / "in" / "x.bmp")
    source.write_bytes(source.read_bytes()[:-30])
    for command in (["restore", "-i"], ["batch"]):
        assert main([*command, str(source), "-o", str(tmp_path / command[0])]) == 1
        said = capsys.readouterr()
        assert "1 damaged" in said.out
        (record,) = read_manifests(tmp_path / command[0])
        assert record.damage == "cut short; 2 of 8 rows of pixels are missing"


class Streams:
    def __init__(self, data: bytes) -> None:
        self.stdin, self.stdout = io.TextIOWrapper(io.BytesIO(data)), io.TextIOWrapper(io.BytesIO())


def test_from_standard_input_to_standard_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    data = photo(tmp_path / "x.jpg").read_bytes()
    streams = Streams(data)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdin", streams.stdin)
        patch.setattr(sys, "stdout", streams.stdout)
        assert run("-i", "-", "-o", "-") == 0
    written = streams.stdout.buffer.getvalue()  # type: ignore[attr-defined]
    with Image.open(io.BytesIO(written)) as image:
        assert image.format == "JPEG"  # the input's
        assert abs(image.getpixel((0, 0))[0] - 215) <= 2  # type: ignore[index]
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdin", Streams(data).stdin)
        assert run("-i", "-", "-o", tmp_path / "out", "--ext", "png") == 0
    assert list(images(tmp_path / "out")) == ["stdin.png"]


@pytest.mark.parametrize("data", [b"", b"no photo"])
def test_a_bad_standard_input_writes_nothing(
    data: bytes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    streams = Streams(data)
    monkeypatch.setattr(sys, "stdin", streams.stdin)
    monkeypatch.setattr(sys, "stdout", streams.stdout)
    assert run("-i", "-", "-o", "-") in (1, 2)
    assert streams.stdout.buffer.getvalue() == b""  # type: ignore[attr-defined]
    assert "stdin" in (said := capsys.readouterr().err) or "standard input" in said


def test_results_can_be_read_by_others(tmp_path: Path):
    source, out = photo(tmp_path / "in" / "x.png"), tmp_path / "out"
    before = os.umask(0o022)
    try:
        assert run("-i", source, "-o", out) == 0
    finally:
        os.umask(before)
    assert stat.S_IMODE((out / "restored_imgs" / "x.png").stat().st_mode) == 0o644
