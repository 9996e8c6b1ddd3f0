"""Frames of films: turned upright and back, and what was not changed keeps its bits."""

from __future__ import annotations

import itertools
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("av", reason="pip install 'lafr[video]'")

import av

import films
from lafr.video.frames import Film, FilmError, Picture, Turn, replace_pixels, to_bgr


def decoded(image: np.ndarray, pixel_format: str) -> Picture:
    frame = av.VideoFrame.from_ndarray(image, format="bgr24")
    frame = frame.reformat(format=pixel_format, dst_colorspace=1, dst_color_range=1, src_color_range=2)
    frame.pts, frame.time_base, frame.colorspace, frame.color_range = 7, Fraction(1, 25), 1, 1
    return Picture(to_bgr(frame), 7, 1, frame, Turn())


def samples(plane: av.video.plane.VideoPlane) -> np.ndarray:
    """A plane's first bytes of each row, without what pads it."""
    return np.frombuffer(plane, np.uint8).reshape(plane.height, -1)[:, : plane.width]


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv422p", "nv12", "yuv420p10le", "yuv444p"])
def test_only_changed_pixels_change(pixel_format: str) -> None:
    picture = decoded(np.random.default_rng(0).integers(0, 256, (31, 45, 3), dtype=np.uint8), pixel_format)
    deep = pixel_format.endswith("10le")
    assert picture.image.dtype == (np.uint16 if deep else np.uint8)
    image = picture.image.copy()
    image[8:20, 10:30] = np.array([60, 120, 180]) * (257 if deep else 1)
    frame = replace_pixels(picture, image, pixel_format)
    assert (frame.pts, frame.time_base, frame.colorspace, frame.color_range) == (7, Fraction(1, 25), 1, 1)
    outside = np.ones((31, 45), bool)
    outside[8:20, 10:30] = False
    before, after = to_bgr(picture.frame), to_bgr(frame)
    far = outside.copy()
    far[6:22, 8:32] = False  # chroma is read from neighbouring samples
    assert (before[far] == after[far]).all()
    scale = 257 if deep else 1
    assert np.abs(after[12:16, 14:26].astype(int) - image[12:16, 14:26]).max() <= 3 * scale
    same = replace_pixels(picture, picture.image, pixel_format)
    for old, new in zip(picture.frame.planes, same.planes, strict=True):
        assert (samples(old) == samples(new)).all()


def test_frames_are_turned_as_players_do(tmp_path: Path) -> None:
    stored = np.zeros((64, 96, 3), np.uint8)
    stored[:16, :24] = 255
    corners = {}
    one = 1 << 16
    for place, (swap, x, y) in enumerate(itertools.product((False, True), (-one, one), (-one, one))):
        a, b, c, d = (0, x, y, 0) if swap else (x, 0, 0, y)
        matrix = (a, b, 0, c, d, 0, 0, 0, 1 << 30)
        path = films.write_film(tmp_path / f"{place}.mp4", [stored] * 2, sound=False, matrix=matrix)
        picture = next(Film(path).pictures())
        turn = picture.turn
        assert turn.matrix == (None if (a, d) == (one, one) else matrix)
        assert picture.image.shape[:2] == ((96, 64) if swap else (64, 96))
        assert (turn.stored(picture.image) == to_bgr(picture.frame)).all()
        # libavutil/display.h: the stored point (1, 1) goes to (a + c, b + d); the bright corner is opposite to it.
        height, width = picture.image.shape[:2]
        row = 0 if b + d > 0 else height - 1
        column = 0 if a + c > 0 else width - 1
        assert picture.image[row, column].min() > 200, matrix
        corners[(row, column, swap)] = True
    assert len(corners) == 8


def test_what_is_no_film_is_told(tmp_path: Path) -> None:
    with pytest.raises(FilmError, match=r"none\.mp4: there is no such file"):
        Film(tmp_path / "none.mp4")
    (tmp_path / "text.mp4").write_text("no film")
    with pytest.raises(FilmError, match=r"text\.mp4: cannot be read as a film"):
        Film(tmp_path / "text.mp4")
    path = tmp_path / "sound.mka"
    with av.open(str(path), "w", format="matroska") as film:
        tone = film.add_stream("pcm_s16le", rate=8000, layout="mono")
        sample = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        sample.sample_rate = 8000
        film.mux(tone.encode(sample))
    with pytest.raises(FilmError, match=r"sound\.mka: has no pictures"):
        Film(path)


def test_frames_come_from_where_they_are_asked_for(tmp_path: Path) -> None:
    times = [0, 3000, 9000, 10000, 20000, 21000]
    path = films.write_film(tmp_path / "film.mp4", [films.picture(i, (64, 64)) for i in range(6)], times, sound=False)
    film = Film(path)
    ticks = [round(time / 90000 / film.time_base) for time in times]
    assert [picture.pts for picture in film.pictures()] == ticks
    assert [picture.pts for picture in film.pictures(ticks[3])] == ticks[3:]
    assert film.count == 6
