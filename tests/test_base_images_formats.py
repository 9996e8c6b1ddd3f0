"""Formats that people have, told by content; limits that hold before anything is decoded."""

from __future__ import annotations

import io
import logging
import os
import struct
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lafr_base.images import ImageError, decode_image, is_image, read_image
from lafr_base.images.budget import FORMATS, check_file_size

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 20, 3), dtype=np.uint8)
SMOOTH = np.broadcast_to(np.arange(0, 240, 4, dtype=np.uint8)[:, None, None], (60, 48, 3)).copy()


def encoded(pixels: np.ndarray, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels[..., ::-1])).save(buffer, kind, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def heic(pixels: np.ndarray, **options: object) -> bytes:
    writer = pytest.importorskip("pillow_heif", reason="pillow-heif writes the HEIC files of these tests")
    buffer = io.BytesIO()
    writer.from_pillow(Image.fromarray(np.ascontiguousarray(pixels[..., ::-1]))).save(buffer, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["BMP", "DDS", "JPEG2000", "PCX", "PNG", "PPM", "QOI", "SGI", "TGA", "TIFF"])
def test_formats_without_loss_are_read_under_any_name(tmp_path: Path, kind: str):
    path = tmp_path / ("photo.tga" if kind == "TGA" else "photo")
    path.write_bytes(encoded(PIXELS, kind))
    photo = read_image(path)
    np.testing.assert_array_equal(photo.bgr, PIXELS)
    assert photo.format == kind
    assert kind == "TGA" or is_image(path)


@pytest.mark.parametrize("kind", ["JPEG", "MPO", "WEBP", "AVIF", "HEIF", "GIF"])
def test_formats_with_loss_are_read_under_any_name(kind: str):
    data = heic(SMOOTH) if kind == "HEIF" else encoded(SMOOTH, kind)
    photo = decode_image(data, "photo.png")
    assert photo.format == ("JPEG" if kind == "MPO" else kind)
    assert np.abs(photo.bgr.astype(int) - SMOOTH).max() <= 12


def test_a_phones_mpo_gives_its_first_picture_without_a_word(caplog: pytest.LogCaptureFixture):
    second = Image.fromarray(PIXELS)
    data = encoded(SMOOTH, "MPO", save_all=True, append_images=[second])
    with caplog.at_level(logging.WARNING):
        photo = decode_image(data, "photo.jpg")
    assert photo.format == "MPO"
    assert photo.bgr.shape == SMOOTH.shape
    assert not caplog.text


def test_a_heic_of_a_phone_is_turned_upright_once():
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010F] = "Phone"
    photo = decode_image(heic(SMOOTH, exif=exif.tobytes()), "photo.heic")
    assert photo.bgr.shape == (48, 60, 3)
    turned = np.rot90(SMOOTH, -1)
    assert np.abs(photo.bgr.astype(int) - turned).max() <= 12
    stored = Image.Exif()
    stored.load(photo.exif or b"")
    assert (stored[0x0112], stored[0x010F]) == (1, "Phone")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["TIFF", "AVIF", "WEBP"])
def test_each_orientation_is_applied_once(kind: str, orientation: int):
    exif = Image.Exif()
    exif[0x0112] = orientation
    corner = np.zeros((40, 60, 3), np.uint8)
    corner[:20, :30] = 240
    photo = decode_image(encoded(corner, kind, exif=exif), "photo")
    tall = orientation in (5, 6, 7, 8)
    assert photo.bgr.shape[:2] == ((60, 40) if tall else (40, 60))
    bright = photo.bgr[..., 1] > 120
    place = ("left" if bright[:, 0].any() else "right", "top" if bright[0].any() else "bottom")
    expected = {1: "left top", 2: "right top", 3: "right bottom", 4: "left bottom"}
    expected |= {5: "left top", 6: "right top", 7: "right bottom", 8: "left bottom"}
    assert " ".join(place) == expected[orientation]


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF", "AVIF"])
def test_of_several_frames_the_first_is_read_with_a_notice(kind: str, caplog: pytest.LogCaptureFixture):
    frames = [Image.fromarray(np.full_like(PIXELS, value)) for value in (0, 90, 180)]
    buffer = io.BytesIO()
    frames[0].save(buffer, kind, save_all=True, append_images=frames[1:])
    with caplog.at_level(logging.WARNING):
        photo = decode_image(buffer.getvalue(), "moving")
    assert photo.bgr.max() <= 3
    assert caplog.text.count("moving: holds several frames, only the first is read") == 1


def test_pages_are_not_counted(caplog: pytest.LogCaptureFixture):
    page = struct.pack("<H", 8)
    for tag, kind, value in (
        (256, 4, 8),
        (257, 4, 8),
        (258, 3, 8),
        (259, 3, 1),
        (262, 3, 1),
        (273, 4, 0),
        (277, 3, 1),
        (279, 4, 64),
    ):
        page += struct.pack("<HHII", tag, kind, 1, value)
    size = len(page) + 4
    data = b"II*\0" + struct.pack("<I", 8)
    data += b"".join(page + struct.pack("<I", 8 + (index + 1) * size) for index in range(20_000))
    data += page + bytes(4)
    start = time.perf_counter()
    with caplog.at_level(logging.WARNING):
        assert decode_image(data, "pages.tif").bgr.shape == (8, 8, 3)
    assert time.perf_counter() - start < 1  # counting them takes six
    assert "holds several frames" in caplog.text


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("top", [65535, 1023])
def test_deep_netpbm_files_are_read_as_16_bit(binary: bool, channels: int, top: int):
    values = np.random.default_rng(1).integers(0, top + 1, (7, 5, channels), dtype=np.uint16)
    kind = {(True, 1): "P5", (True, 3): "P6", (False, 1): "P2", (False, 3): "P3"}[binary, channels]
    body = values.astype(">u2").tobytes() if binary else " ".join(map(str, values.ravel())).encode()
    data = f"{kind} # a comment\n5 7\n{top}\n".encode() + body
    photo = decode_image(data, "photo.ppm")
    assert photo.bgr.dtype == np.uint16
    assert photo.gray == (channels == 1)
    expected = np.rint(values / top * 65535).astype(np.uint16)[..., ::-1]
    np.testing.assert_array_equal(photo.bgr, np.broadcast_to(expected, (7, 5, 3)))
    short = decode_image(data[: -len(body) // 2], "photo.ppm")
    assert "rows of pixels are missing" in (short.damage or "")
    for length in (len(data) - len(body), len(data) - len(body) - 1):
        with pytest.raises(ImageError, match="no row of pixels is there"):
            decode_image(data[:length], "photo.ppm")


def gif(width: int, height: int) -> bytes:
    size = struct.pack("<HH", width, height)
    frame = b"," + bytes(4) + size + b"\0" + b"\x02\x02\x4c\x01\0;"
    return b"GIF89a" + size + b"\x80\0\0" + bytes(6) + frame


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (gif(17_000, 17_000), "more than the 200,000,000 pixels"),
        (gif(14_000, 14_000), "bytes cannot hold 14000 x 14000 px"),
        (b"P6 20000 20000 65535\n" + bytes(99), "more than the 100,000,000 pixels of 16 bit"),
        (b"P5 20000 9000 255\n" + bytes(99), "too little of the picture is there"),
        (encoded(PIXELS, "PNG").replace(struct.pack(">II", 20, 12), struct.pack(">II", 20_000, 12_000)), "damaged"),
    ],
)
def test_what_is_too_large_is_refused_at_once(data: bytes, said: str):
    start = time.perf_counter()
    with pytest.raises(ImageError, match=said):
        decode_image(data, "photo")
    assert time.perf_counter() - start < 0.5


def test_files_that_are_too_long_are_refused():
    with pytest.raises(ImageError, match="1,000,000,001 bytes are more than"):
        check_file_size("photo", 1_000_000_001)


def test_pillows_limit_is_not_ours(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert decode_image(encoded(PIXELS, "TIFF"), "photo").bgr.shape == PIXELS.shape


def test_nothing_is_executed(monkeypatch: pytest.MonkeyPatch):
    """Pillow would run Ghostscript on an EPS file, whatever it is called."""

    def run(*_: object, **__: object) -> None:
        raise AssertionError("a program was started")

    monkeypatch.setattr(subprocess, "check_call", run)
    monkeypatch.setattr(subprocess, "Popen", run)
    data = encoded(PIXELS, "EPS")
    with pytest.raises(ImageError, match=r"photo\.png: not an image, or of a format that is not supported"):
        decode_image(data, "photo.png")
    assert "EPS" not in FORMATS


def test_a_cameras_raw_file_is_not_taken_for_its_preview():
    data = encoded(PIXELS, "TIFF", tiffinfo={254: 1})
    with pytest.raises(ImageError, match="a camera's raw file, or a preview"):
        decode_image(data, "photo.nef")


def test_what_is_no_file_is_told(tmp_path: Path):
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "link.png").symlink_to("nowhere.png")
    os.mkfifo(tmp_path / "pipe.png")
    for name, said in {
        "folder.png": "a folder",
        "link.png": "no such file .the link leads nowhere.",
        "pipe.png": "no regular file",
        "folder.png/x.png": "no such file",
        "a\0b.png": "no path",
        "x" * 300 + ".png": "cannot be read",
    }.items():
        with pytest.raises(ImageError, match=said):
            read_image(tmp_path / name)


def test_names_are_shown_on_one_line(tmp_path: Path):
    name = os.fsdecode(b"a\n\x1b[31m\xe9.png")
    with pytest.raises(ImageError) as error:
        read_image(tmp_path / name)
    assert str(error.value) == f"{tmp_path}/a\\x0a\\x1b[31m\\xe9.png: no such file; check the path"
