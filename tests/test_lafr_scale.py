"""lafr batch: shares that meet nowhere, kills that lose and repeat nothing, folders and lists of any kind."""

from __future__ import annotations

import functools
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from lafr.cli import main
from lafr.commands import batch
from lafr.networks import MODELS
from lafr.restorer import LAFRer
from lafr.results import RestoredPhoto, ResultFolder
from lafr.scale import ledger as ledgers
from lafr.scale import work
from lafr.scale.ledger import DigestSet
from lafr.scale.manifest import FAILED, Manifest, Record, rank_file
from lafr.scale.photos import Photos
from lafr.scale.run import RunError, claim
from lafr.scale.work import Job, WorkError, run_share
from lafr_base.images import ImageError, read_image
from scale_worker import Negative, job, read_manifests

WORKER = Path(__file__).with_name("scale_worker.py")


def write_photos(folder: Path, count: int = 40) -> dict[str, int]:
    """Write gray squares into three sub-folders, of which a .jpg and a .png share each stem; return key and value."""
    photos = {}
    for index in range(count):
        key = f"{'abc'[index % 3]}/{index // 6}.{'png' if index % 2 else 'jpg'}"
        (folder / key).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / key), np.full((8, 8, 3), 5 * index, np.uint8))
        photos[key] = 5 * index
    return photos


def lines(out: Path) -> list[Record]:
    return list(read_manifests(out))


def check_all_done(out: Path, photos: dict[str, int]) -> None:
    """Each photo has one line and the right result, and no other file is there."""
    assert Counter(record.photo for record in lines(out)) == Counter(dict.fromkeys(photos, 1))
    for key, value in photos.items():
        assert np.abs(read_image(out / "restored_faces" / f"{key}_00.png").bgr.astype(int) - (255 - value)).max() <= 1
    assert len([path for path in out.rglob("*.png") if not path.name.startswith(".")]) == len(photos)


def test_ten_kills_lose_and_repeat_nothing(tmp_path: Path):
    photos, out = write_photos(tmp_path / "in"), tmp_path / "out"
    out.mkdir()
    generator = random.Random(0)
    kills: list[list[int]] = [[], []]
    for _ in range(10):
        kills[generator.randrange(2)].append(generator.randint(1, 900))
    assert min(map(len, kills)) >= 2

    def keep_alive(rank: int) -> None:
        for after in (*kills[rank], 0):
            command = [sys.executable, str(WORKER), str(tmp_path / "in"), str(out), str(rank), "2", str(after)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == (-signal.SIGKILL if after else 0), done.stderr

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(keep_alive, range(2)))
    check_all_done(out, photos)
    writes = Counter((out / "writes.log").read_text().split())
    recovered = {record.photo for record in lines(out) if record.recovered}
    assert set(writes.values()) == {1}
    # A process may be killed between a picture and its line in the log.
    assert writes.keys() | {f"{key}_00.png" for key in recovered} == {f"{key}_00.png" for key in photos}


@pytest.mark.parametrize("torn", [0, 1, 30, None])
def test_a_kill_between_the_files_and_the_end_of_the_line(tmp_path: Path, torn: int | None):
    photos, out = write_photos(tmp_path / "in", 6), tmp_path / "out"
    run_share(job(tmp_path / "in", out))
    path = out / "manifest" / f"{rank_file(0, 1)}.jsonl"
    whole = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(whole[:-1]) + whole[-1][: -1 if torn is None else torn])
    before = {file: file.stat().st_mtime_ns for file in out.rglob("*.png")}
    ledger = run_share(job(tmp_path / "in", out))
    assert (len(ledger), ledger.count("restored"), ledger.faces) == (6, 6, 6)
    check_all_done(out, photos)
    assert sum(record.recovered for record in lines(out)) == (torn is not None)  # None: only the line's end was missing
    assert {file: file.stat().st_mtime_ns for file in out.rglob("*.png")} == before


@pytest.mark.parametrize("worlds", [(2, 3, 1), (4, 2), (1, 5)])
def test_the_number_of_processes_may_change(tmp_path: Path, worlds: tuple[int, ...]):
    photos, out = write_photos(tmp_path / "in"), tmp_path / "out"
    for world in worlds:
        for rank in range(world if world == worlds[-1] else world - 1):  # all but the last time, one is not started
            run_share(job(tmp_path / "in", out), rank, world)
    check_all_done(out, photos)
    assert not any(record.recovered for record in lines(out))


def test_manifests_that_cannot_hold_a_share_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_photos(tmp_path / "in")
    for rank in range(4):
        run_share(job(tmp_path / "in", tmp_path / "out"), rank, 4)
    expected = {record.photo for record in read_manifests(tmp_path / "out") if ledgers.share_of(record.photo, 6) == 3}
    for rank in (0, 2):  # even numbers, of which none is 3 modulo 6
        (tmp_path / "out" / "manifest" / f"{rank_file(rank, 4)}.jsonl").write_text("not read")
        (tmp_path / "out" / "manifest" / f"{rank_file(rank, 4)}.jsonl").chmod(0)
    monkeypatch.setattr(Path, "open", functools.partialmethod(_counted, opened := [], Path.open))
    assert {record.photo for record in read_manifests(tmp_path / "out", 3, 6)} == expected
    assert opened == [f"{rank_file(rank, 4)}.jsonl" for rank in (1, 3)]


def _counted(path: Path, opened: list[str], real: functools.partial, *arguments: object) -> object:
    opened.append(path.name)
    return real(path, *arguments)


def test_bad_photos_do_not_stop_the_others_and_are_retried_when_asked(tmp_path: Path):
    source, out = tmp_path / "in", tmp_path / "out"
    photos = write_photos(source, 6)
    (source / "a" / "torn.png").write_bytes((source / "b" / "0.png").read_bytes()[:40])
    for _ in range(2):  # the second time nothing is done
        ledger = run_share(job(source, out))
        assert (len(ledger), ledger.count("restored"), ledger.count(FAILED)) == (7, 6, 1)
    (reason,) = (record.reason for record in lines(out) if record.status == FAILED)
    assert reason is not None
    assert "a/torn.png" in reason
    assert run_share(job(source, out), retry_failed=True).count(FAILED) == 1
    cv2.imwrite(str(source / "a" / "torn.png"), np.full((8, 8, 3), 77, np.uint8))
    assert run_share(job(source, out)).count(FAILED) == 1
    ledger = run_share(job(source, out), retry_failed=True)
    assert (len(ledger), ledger.count("restored"), ledger.count(FAILED)) == (7, 7, 0)
    assert Counter(record.status for record in lines(out)) == {"restored": 7, "failed": 2}
    assert len(list(out.rglob("*.png"))) == len(photos) + 1


def test_what_no_photo_is_to_blame_for_stops_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    photos, out = write_photos(tmp_path / "in", 12), tmp_path / "out"
    monkeypatch.setattr(work, "FAILURES_IN_A_ROW", 3)

    class Broken(Negative):
        def enhance_many(self, images: Iterable[Path], **options: Any) -> Iterator[RestoredPhoto]:
            for result in super().enhance_many(images, **options):
                result.error = RuntimeError("CUDA error")
                yield result

    broken = Job(Photos(tmp_path / "in"), ResultFolder(out, aligned=True), Broken)
    with pytest.raises(WorkError, match="3 photos failed one after the other, the last: CUDA error"):
        run_share(broken)
    assert len(lines(out)) == 2

    def full(*_: object, **__: object) -> None:
        raise ImageError("x.png: cannot be written") from OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("lafr.results.write_image", full)
        with pytest.raises(WorkError, match="cannot be written"):
            run_share(job(tmp_path / "in", out))
    assert len(lines(out)) == 2  # a full disk is no photo's failure
    assert len(run_share(job(tmp_path / "in", out), retry_failed=True)) == len(photos)


def test_damaged_photos_in_a_row_stop_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Only failures that say nothing about the photos are counted."""
    monkeypatch.setattr(work, "FAILURES_IN_A_ROW", 3)
    photos = write_photos(tmp_path / "in", 3)
    for index in range(10):
        (tmp_path / "in" / f"{index}.png").write_bytes(b"damaged")
    ledger = run_share(job(tmp_path / "in", tmp_path / "out"))
    assert (ledger.count(FAILED), ledger.count("restored")) == (10, len(photos))


def test_a_rank_runs_once_at_a_time(tmp_path: Path):
    with Manifest(tmp_path, "rank"):
        with pytest.raises(ImageError, match="another process is writing it"):
            Manifest(tmp_path, "rank")
        Manifest(tmp_path, "other").close()
    Manifest(tmp_path, "rank").close()


def test_photos_of_a_folder(tmp_path: Path):
    for name in (
        "x.png",
        "a/x.JPG",
        "a/b/x.webp",
        "a/x.png",
        ".hidden/x.png",
        "a/.x.png",
        "a/notes.txt",
        "out/r/x.png",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "a" / "again").symlink_to(tmp_path)
    photos = Photos(tmp_path, leave_out=tmp_path / "out")
    assert sorted(photos) == ["a/b/x.webp", "a/x.JPG", "a/x.png", "x.png"]
    assert photos.path("a/x.png") == tmp_path / "a" / "x.png"
    shares = [list(photos.share(rank, 3)) for rank in range(3)]
    assert sorted(sum(shares, [])) == sorted(photos)
    with pytest.raises(ImageError, match="--root belongs to a list"):
        Photos(tmp_path, tmp_path)
    with pytest.raises(ImageError, match="no such file or folder"):
        Photos(tmp_path / "absent")


def test_photos_of_a_list(tmp_path: Path):
    listed = tmp_path / "lists" / "photos.txt"
    listed.parent.mkdir()
    listed.write_bytes(b"a/x.png\r\n\n./a//x.png\na/../b y.jpg\n/data/c.png\n" + os.fsencode(tmp_path / "lists/d.png"))
    assert list(Photos(listed)) == [
        "a/x.png",
        "a/x.png",
        "b y.jpg",
        os.path.relpath("/data/c.png", listed.parent),
        "d.png",
    ]
    photos = Photos(listed, root=tmp_path)
    assert list(photos)[:3] == ["lists/a/x.png", "lists/a/x.png", "lists/b y.jpg"]
    assert photos.path("lists/a/x.png") == tmp_path / "lists" / "a" / "x.png"
    listed.write_text("/data/c.png\n/data/e/../c.png\n")
    assert list(Photos(listed)) == ["data/c.png", "data/c.png"]
    assert Photos(listed).path("data/c.png") == Path("/data/c.png")
    listed.write_text("\n")
    with pytest.raises(ImageError, match="names no photo"):
        Photos(listed)


def test_a_list_with_photos_twice_or_outside(tmp_path: Path):
    photos, out = write_photos(tmp_path / "in", 6), tmp_path / "out"
    (tmp_path / "in" / "photos.txt").write_text("".join(f"{key}\n./{key}\n" for key in photos) + "../far.png\n")
    for world in (1, 2):
        for rank in range(world):
            run_share(job(tmp_path / "in" / "photos.txt", out), rank, world)
    (outside,) = (record for record in lines(out) if record.status == FAILED)
    assert outside.photo == "../far.png"
    assert "--root" in (outside.reason or "")
    assert Counter(record.photo for record in lines(out) if record != outside) == Counter(dict.fromkeys(photos, 1))


def test_names_that_are_no_text(tmp_path: Path):
    key = os.fsdecode(b"caf\xe9 \n.png")
    cv2.imwrite(str(tmp_path / "x.png"), np.zeros((8, 8, 3), np.uint8))
    try:
        (tmp_path / "in").mkdir()
        (tmp_path / "x.png").rename(tmp_path / "in" / key)
    except OSError:
        pytest.skip("the file system has no such names")
    for _ in range(2):
        assert run_share(job(tmp_path / "in", tmp_path / "out")).count("restored") == 1
    assert [record.photo for record in lines(tmp_path / "out")] == [key]


def test_a_digest_set_keeps_what_it_is_given(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ledgers, "_MERGE_AT", 50)
    digests = DigestSet()
    for index in range(0, 6000, 2):
        digests.add(f"{index}.png")
    assert [f"{index}.png" in digests for index in range(6000)] == [index % 2 == 0 for index in range(6000)]


def test_a_folder_of_results_is_one_runs(tmp_path: Path):
    claim(tmp_path / "out", {"upscale": 2, "model": "mini"})
    claim(tmp_path / "out", {"model": "mini", "upscale": 2})
    with pytest.raises(RunError, match=r"upscale 2 \(now 4\).*choose another --out"):
        claim(tmp_path / "out", {"upscale": 4, "model": "mini"})
    (tmp_path / "other" / "restored_imgs").mkdir(parents=True)
    with pytest.raises(RunError, match="holds results, but no run.json"):
        claim(tmp_path / "other", {})
    assert not list(tmp_path.rglob("*.part"))


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Return the command for photos in tmp_path/in, with a network of no weights."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(batch, "build_restorer", lambda args: Negative())
    return ["batch", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--aligned"]


def test_the_command(
    tmp_path: Path, command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    photos = write_photos(tmp_path / "in", 12)
    (tmp_path / "in" / "empty.png").touch()
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert main(command) == 0  # torchrun would kill the other process
    assert "in share 1 of 2" in capsys.readouterr().out
    monkeypatch.delenv("TORCHELASTIC_RUN_ID")
    assert main([*command, "--status"]) == 1
    missing = len(photos) + 1 - len(lines(tmp_path / "out"))
    assert 0 < missing < len(photos)
    assert f" {missing} missing" in capsys.readouterr().out
    assert main([*command, "--rank", "0", "--world_size", "1"]) == 1
    expected = "13 photos: 12 restored (12 faces), 0 without a face, 1 failed"
    assert expected in capsys.readouterr().out
    (tmp_path / "in" / "empty.png").unlink()
    assert main([*command, "--status"]) == 1  # what failed is still in the manifest
    assert f"{expected}, 0 missing" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--weight", "2"], "--weight must be"),
        (["--workers", "0"], "--workers must be"),
        (["--rank", "2", "--world_size", "2"], "rank 2 is not one of 2"),
        (["--suffix", "x"], "suffix '' (now 'x')"),
        (["--root", "."], "--root belongs to a list"),
    ],
)
def test_the_command_says_what_is_wrong(
    tmp_path: Path, command: list[str], capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
):
    (tmp_path / "in").mkdir()
    assert main(command) == 2
    assert "no photo was found" in capsys.readouterr().err
    assert not (tmp_path / "out" / "run.json").exists()  # a start that fails does not claim the folder
    write_photos(tmp_path / "in", 1)
    assert main(command) == 0
    assert main([*command, *arguments]) == 2
    assert said in capsys.readouterr().err


def test_whole_photos_keep_their_folders(tmp_path: Path, command: list[str], monkeypatch: pytest.MonkeyPatch):
    """The bundled network, on a photo with a face and on one without, both of the same stem."""
    from lafr.demo import write_samples

    sample = write_samples(tmp_path / "samples")[0].path
    source, out = tmp_path / "in" / "sub", tmp_path / "out"
    source.mkdir(parents=True)
    sample.rename(source / "x.png")
    cv2.imwrite(str(source / "x.jpg"), np.full((40, 50, 3), 90, np.uint8))
    restorer = LAFRer(model=MODELS["mini"], upscale=1, device="cpu", detection_model="builtin")
    monkeypatch.setattr(batch, "build_restorer", lambda args: restorer)
    whole = [*command[:-1], "--upscale", "1", "--save", "cmp", "restored_faces"]
    assert main(whole) == 0
    names = sorted(path.relative_to(out).as_posix() for path in out.rglob("*.*g"))
    images = ["restored_imgs/sub/x.jpg.jpg", "restored_imgs/sub/x.png.png"]
    assert names == ["cmp/sub/x.png_00.png", "restored_faces/sub/x.png_00.png", *images]
    _, (face,), photo = restorer.enhance(read_image(source / "x.png").bgr)
    np.testing.assert_array_equal(read_image(out / "restored_faces" / "sub" / "x.png_00.png").bgr, face)
    np.testing.assert_array_equal(read_image(out / images[1]).bgr, photo)
    expected = {("sub/x.jpg", "faceless", 0), ("sub/x.png", "restored", 1)}
    assert {(record.photo, record.status, record.faces) for record in lines(out)} == expected
    for path in (out / "manifest").glob("*.jsonl"):
        path.unlink()
    assert main(whole) == 0  # both are recognised by their files
    assert {(record.photo, record.status, record.faces) for record in lines(out) if record.recovered} == expected


def test_importing_lafr_imports_neither_ray_nor_torch():
    code = "import sys, lafr.cli, lafr.commands.batch, lafr.scale.work; print({'ray', 'torch'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
