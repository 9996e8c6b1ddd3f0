"""`lafr video`: what is not restored stays as it was, and a film that is stopped goes on."""

from __future__ import annotations

import json
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("av", reason="pip install 'lafr[video]'")

import av

import films
import lafr.video.film as film_module
from lafr import cli
from lafr.choice import FaceChoice
from lafr.commands import video
from lafr.detectors import Face
from lafr.video.film import FilmJob, restore_film
from lafr.video.frames import FilmError, Turn
from lafr.video.restoring import FilmRestorer, FilmWishes

SIZE = (160, 128)
FRAMES = 14


def pictures(count: int = FRAMES) -> list[np.ndarray]:
    return [films.picture(frame, SIZE) for frame in range(count)]


def run(source: Path, target: Path, **options: object) -> dict:
    wishes = FilmWishes(**{"weight": 0, **options})
    return restore_film(FilmJob(source, target, wishes, {}, piece=6), films.restorer)


def greener(before: np.ndarray, after: np.ndarray, frame: int) -> float:
    """By how many levels the middle of the face was made greener."""
    x, y = films.landmarks(frame).mean(axis=0).round().astype(int)
    part = slice(y - 5, y + 5), slice(x - 5, x + 5)
    return float((after[part].astype(float) - before[part])[..., 1].mean())


def test_all_but_faces_stays(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    times = [900, *(900 + np.cumsum(rng.integers(1000, 8000, FRAMES - 1))).tolist()]
    source = films.write_film(tmp_path / "old.mkv", pictures(), times, subtitles=True, aspect=Fraction(16, 15))
    target = tmp_path / "new.mkv"
    report = run(source, target)
    before, after = films.read_frames(source), films.read_frames(target)
    assert [time for time, _ in after] == [time for time, _ in before]
    for kind in ("audio", "subtitle"):
        assert films.read_packets(target, kind) == films.read_packets(source, kind)
    with av.open(str(target)) as film:
        assert film.metadata["title"] == "A portrait"
        assert film.streams.audio[0].metadata["language"] == "deu"
        context = film.streams.video[0].codec_context
        assert film.streams.video[0].sample_aspect_ratio == Fraction(16, 15)
        assert (context.color_primaries, context.color_trc, context.colorspace, context.color_range) == (1, 1, 1, 1)
    for frame in (0, FRAMES - 1):
        assert greener(before[frame][1], after[frame][1], frame) == pytest.approx(25.5, abs=4)
        assert np.abs(after[frame][1].astype(int) - before[frame][1])[:, :40].mean() < 4  # what encoding costs
    assert report["frames"] == FRAMES
    (face,) = report["faces"]
    assert (face["face"], face["restored"]) == (0, FRAMES)
    assert (face["from"], face["to"]) == (round(before[0][0], 3), round(before[-1][0], 3))
    assert json.loads((tmp_path / "new.mkv.json").read_text()) == report
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new.mkv", "new.mkv.json", "old.mkv"]


def test_a_film_on_its_side_is_found_upright(tmp_path: Path) -> None:
    matrix = (0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    turn = Turn(True, False, True, matrix)
    stored = [turn.stored(image) for image in pictures(4)]
    source = films.write_film(tmp_path / "old.mp4", stored, matrix=matrix)
    target = tmp_path / "new.mp4"
    assert len(run(source, target)["faces"]) == 1
    with av.open(str(target)) as film:
        assert Turn.of(next(film.decode(video=0))) == turn
    (_, before), (_, after) = films.read_frames(source)[2], films.read_frames(target)[2]
    assert greener(turn.upright(before), turn.upright(after), 2) == pytest.approx(25.5, abs=4)


@pytest.mark.parametrize(("warm_up", "levels"), [(24, 0), (4, 0.5)])
def test_a_stopped_film_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warm_up: int, levels: float) -> None:
    monkeypatch.setattr(film_module, "WARM_UP", warm_up)
    source = films.write_film(tmp_path / "old.mkv", pictures(16))

    def job(name: str) -> FilmJob:
        return FilmJob(source, tmp_path / name, FilmWishes(weight=0), {}, codec="ffv1", piece=6)

    def stop(done: int, of: int | None) -> None:
        assert of in (16, 17)  # Matroska tells seconds, not frames
        if done == 15:
            raise KeyboardInterrupt

    whole, stopped = restore_film(job("whole.mkv"), films.restorer), job("new.mkv")
    with pytest.raises(KeyboardInterrupt):
        restore_film(stopped, films.restorer, stop)
    assert not stopped.target.exists()
    left = ["000000.json", "000000.nut", "000001.json", "000001.nut", "job.json"]
    assert sorted(path.name for path in stopped.folder.iterdir()) == left
    told: list[int] = []
    report = restore_film(stopped, films.restorer, lambda done, of: told.append(done))
    assert told == list(range(12, 17))
    assert {**report, "output": ""} == {**whole, "output": ""}
    straight, mended = films.read_frames(tmp_path / "whole.mkv"), films.read_frames(stopped.target)
    assert [time for time, _ in mended] == [time for time, _ in straight]
    for (_, a), (_, b) in zip(straight, mended, strict=True):
        assert np.abs(a.astype(int) - b).mean() <= levels
    assert films.read_packets(stopped.target, "audio") == films.read_packets(source, "audio")


def test_pieces_of_other_wishes_are_not_used(tmp_path: Path) -> None:
    source = films.write_film(tmp_path / "old.mp4", pictures(8))

    def stop(done: int, of: int | None) -> None:
        if done == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        restore_film(FilmJob(source, tmp_path / "new.mp4", FilmWishes(), {"a": 1}, piece=4), films.restorer, stop)
    told: list[int] = []
    job = FilmJob(source, tmp_path / "new.mp4", FilmWishes(), {"a": 2}, piece=4)
    (job.folder / ".killed.part").write_bytes(b"a part of a piece")
    restore_film(job, films.restorer, lambda done, of: told.append(done))
    assert told == list(range(1, 9))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new.mp4", "new.mp4.json", "old.mp4"]


def test_a_film_that_cannot_be_joined_leaves_no_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = films.write_film(tmp_path / "old.mp4", pictures(4)), tmp_path / "new.mp4"
    seen: list[list[str]] = []

    def stop(*args: object) -> None:
        seen.append(sorted(path.name for path in tmp_path.iterdir()))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("lafr.video.segments._merged", stop)
        with pytest.raises(KeyboardInterrupt):
            run(source, target)
    # While it was written, and afterwards: nothing but the folder of what is not finished.
    assert seen[0] == sorted(path.name for path in tmp_path.iterdir()) == ["new.mp4.unfinished", "old.mp4"]
    run(source, target)
    assert len(films.read_frames(target)) == 4


def test_faces_not_chosen_keep_their_bits() -> None:
    frames = list(enumerate(pictures(6)))
    for wishes in (FilmWishes(choice=FaceChoice(numbers=frozenset({1}))), FilmWishes(weights={0: 1.0})):
        restored = list(FilmRestorer(films.restorer(), wishes).restore(frames))
        assert [key for key, _ in restored] == list(range(6))
        assert all((image == frames[key][1]).all() for key, image in restored)
    (_, one), *_ = FilmRestorer(films.restorer(), FilmWishes(weight=0)).restore(frames)
    assert not (one == frames[0][1]).all()


class LateDetector(films.Detector):
    """Finds nothing on two frames."""

    def detect(self, img: np.ndarray) -> list[Face]:
        found = super().detect(img)
        return found if len(self.seen) > 2 else []


def test_a_face_comes_softly() -> None:
    images = pictures(10)
    film = FilmRestorer(films.restorer(detection_model=LateDetector()), FilmWishes(weight=0, detect_every=1))
    found = [greener(images[frame], image, frame) / 25.5 for frame, image in film.restore(enumerate(images))]
    assert found[:2] == [0, 0]
    assert found[2] == pytest.approx(0.2, abs=0.1)
    assert found[3] == pytest.approx(0.4, abs=0.1)
    assert found[8] == pytest.approx(1, abs=0.1)


def test_a_face_goes_softly() -> None:
    images = pictures(14)
    for frame in range(10, 14):  # something comes in front, and the detector finds no face
        x, y = films.landmarks(frame).mean(axis=0).round().astype(int)
        cv2.circle(images[frame], (int(x), int(y)), 40, (90, 90, 90), -1)
    film = FilmRestorer(films.restorer(), FilmWishes(weight=0, detect_every=3, stabilise=0))
    found = [greener(images[frame], image, frame) / 25.5 for frame, image in film.restore(enumerate(images))]
    assert found[5] == pytest.approx(1, abs=0.1)
    assert found[9] == pytest.approx(0.2, abs=0.1)
    assert found[8] == pytest.approx(0.4, abs=0.1)
    assert found[10:] == [0] * 4


def test_stabilised_films_flicker_less() -> None:
    def flicker(share: float) -> float:
        film = FilmRestorer(films.restorer(films.Brighter(flicker=0.05)), FilmWishes(weight=0, stabilise=share))
        images = [image for _, image in film.restore(enumerate([films.picture(0, SIZE)] * 10))]
        return float(
            np.mean([np.abs(a.astype(float) - b).mean() for a, b in zip(images[4:], images[5:], strict=False)])
        )

    assert flicker(0.85) < 0.5 * flicker(0)


def test_the_command(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(video, "build_restorer", lambda args: films.restorer(upscale=args.upscale))
    source, target = films.write_film(tmp_path / "old.mp4", pictures(3)), tmp_path / "new.webm"
    assert cli.main(["video", str(source), "-o", str(target), "-s", "1.5", "--crf", "30", "-w", "0"]) == 0
    assert "new.webm: 3 frames, 1 faces, 1 restored" in capsys.readouterr().out
    assert "cannot hold audio stream 1 (aac), which is left out" in caplog.text  # before the work begins
    with av.open(str(target)) as film:
        stream = film.streams.video[0]
        assert (stream.codec_context.name, stream.width, stream.height) == ("vp9", 240, 192)
    report = json.loads((tmp_path / "new.webm.json").read_text())
    assert (report["model"], report["upscale"], report["left_out"]) == ("mini", 1.5, ["audio stream 1 (aac)"])
    for arguments, message in {
        ("-o", str(target)): "new.webm: is there already; --overwrite replaces it",
        ("-o", str(source), "--overwrite"): "must have another name",
        ("-o", str(tmp_path / "new.txt")): "must end with one of .mp4",
        ("-o", str(tmp_path / "x.mp4"), "--codec", "nothing"): "FFmpeg has no encoder 'nothing'",
    }.items():
        assert cli.main(["video", str(source), *arguments]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "x.mp4.unfinished").exists()


def test_wishes_that_cannot_be_are_told() -> None:
    with pytest.raises(ValueError, match=r"stabilise must be at least 0 and below 1; got 1"):
        FilmWishes(stabilise=1)
    with pytest.raises(ValueError, match=r"weight must be within 0"):
        FilmWishes(weights={2: 1.5})
    with pytest.raises(ValueError, match=r"need the identity net"):
        FilmRestorer(films.restorer(), FilmWishes(keep_identity=True))


def test_faces_that_change_are_eased(monkeypatch: pytest.MonkeyPatch) -> None:
    restorer = films.restorer(identity=True)
    figures = iter([0.1, 0.2, 0.9])
    monkeypatch.setattr(type(restorer.composer.meter), "compare", lambda self, before, after: [next(figures)])
    film = FilmRestorer(restorer, FilmWishes(keep_identity=True))
    list(film.restore(enumerate(pictures(3))))
    face = film.faces[0]
    assert (face.tone, face.eased, face.identities) == (0.7, True, [0.9])


def test_without_pyav_one_line_says_so() -> None:
    code = (
        "import sys; sys.modules['av'] = None; from lafr.cli import main; sys.exit(main(['video', 'a', '-o', 'b.mp4']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("lafr video needs PyAV")
    assert done.stderr.endswith("pip install 'lafr[video]'\n")
    assert done.stderr.count("\n") == 1


def test_a_damaged_film_is_restored_as_far_as_it_goes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = films.write_film(tmp_path / "old.mov", pictures(6), codec="png", pixel_format="rgb24", sound=False)
    data = bytearray(source.read_bytes())
    middle = data.find(b"\x89PNG", len(data) // 2)  # a picture begins here
    data[middle : middle + 8] = bytes(8)
    source.write_bytes(data)
    report = run(source, tmp_path / "new.mkv")
    assert report["frames"] in (4, 5)  # decoders that work ahead lose one more
    assert caplog.text.count("old.mov: is damaged; what can be decoded is restored") == 1


def test_faces_are_numbered_in_the_film() -> None:
    frames = list(enumerate(pictures(2)))
    wishes = FilmWishes(choice=FaceChoice(numbers=frozenset()), draw_box=True)
    (_, image), _ = FilmRestorer(films.restorer(), wishes).restore(frames)
    changed = image[(image != frames[0][1]).any(axis=2)]
    assert len(changed) > 50
    assert {tuple(pixel) for pixel in changed} <= {(127, 127, 127), (0, 0, 0)}  # gray: not chosen


def test_a_film_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(FilmError, match=r"no\.mp4: there is no such file"):
        run(tmp_path / "no.mp4", tmp_path / "new.mp4")
