"""Damaged photos: what is wrong with pixels is told, rows that are there are kept, metadata cost no pixel."""

from __future__ import annotations

import io
import logging
import random
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from lafr_base.images import ImageError, Photo, decode_image, jpeg, read_image
from lafr_base.images.png import SIGNATURE, chunk


@pytest.fixture(scope="module")
def picture(astronaut: np.ndarray) -> Image.Image:
    return Image.fromarray(astronaut).resize((200, 160))


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def read(data: bytes, name: str = "photo.x") -> Photo:
    return decode_image(data, name)


def check_never_wrong(data: bytes, mutate: Callable[[bytearray, random.Random], None], count: int) -> int:
    """Each mutated file is refused, or told to be damaged, or is the same picture; return how many are refused."""
    whole, refused = read(data).bgr, 0
    for seed in range(count):
        mutated = bytearray(data)
        mutate(mutated, random.Random(seed))
        try:
            photo = read(bytes(mutated))
        except ImageError:
            refused += 1
            continue
        assert photo.damage is not None or np.array_equal(photo.bgr, whole), seed
    return refused


def flip(data: bytearray, generator: random.Random) -> None:
    data[generator.randrange(len(data))] ^= 1 << generator.randrange(8)


def zero(data: bytearray, generator: random.Random) -> None:
    start = generator.randrange(len(data) - 64)
    data[start : start + 64] = bytes(64)


def lose(data: bytearray, generator: random.Random) -> None:
    start = generator.randrange(len(data))
    del data[start : start + generator.randrange(1, 200)]


@pytest.mark.parametrize("mutate", [flip, zero, lose])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "16"])
def test_no_damaged_png_passes_as_whole(
    picture: Image.Image, mode: str, mutate: Callable[[bytearray, random.Random], None]
):
    if mode == "16":
        data = cv2.imencode(".png", np.asarray(picture).astype(np.uint16) * 257)[1].tobytes()
    else:
        data = encoded(picture.convert(mode), "PNG")
    assert check_never_wrong(data, mutate, 60) > 40


def test_no_flipped_bit_in_a_deflated_tiff_passes(picture: Image.Image):
    data = encoded(picture, "TIFF", compression="tiff_adobe_deflate")
    with Image.open(io.BytesIO(data)) as image:
        offsets, lengths = image.tag_v2[273], image.tag_v2[279]
    generator = random.Random(0)
    for offset, length in zip(offsets, lengths, strict=True):
        mutated = bytearray(data)
        mutated[offset + generator.randrange(length)] ^= 16
        with pytest.raises(ImageError, match=r"photo\.x: damaged"):
            read(bytes(mutated))


def test_a_wrong_checksum_alone_is_told(picture: Image.Image):
    data = bytearray(encoded(picture, "PNG"))
    data[data.rindex(b"IEND") - 5] ^= 1  # the last byte of the last IDAT's checksum
    with pytest.raises(ImageError, match="IDAT at byte .* differs from its checksum"):
        read(bytes(data))


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 4}])
def test_a_jpeg_without_its_last_bytes_loses_nothing(picture: Image.Image, options: dict[str, object]):
    data = encoded(picture, "JPEG", **options)
    for lost in (1, 2):
        photo = read(data[:-lost])
        assert photo.damage is None
        np.testing.assert_array_equal(photo.bgr, read(data).bgr)


@pytest.mark.parametrize("share", [0.3, 0.5, 0.9])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_that_is_cut_short_keeps_its_rows(picture: Image.Image, mode: str, share: float):
    data = encoded(picture.convert(mode), "JPEG")
    whole, photo = read(data), read(data[: int(share * len(data))])
    assert photo.damage is not None
    count = int(photo.damage.removeprefix("cut short; ").split(" of 160 rows of pixels are missing")[0])
    assert 0 < count < 160
    # The row above the first that is missing may be touched by the smooth upsampling of colour.
    np.testing.assert_array_equal(photo.bgr[: 158 - count], whole.bgr[: 158 - count])
    assert (photo.bgr[160 - count : 168 - count] != whole.bgr[160 - count : 168 - count]).any()


def test_a_progressive_jpeg_that_is_cut_short_says_what_it_lacks(picture: Image.Image):
    data = encoded(picture, "JPEG", progressive=True)
    scans = [index for index in range(len(data)) if data[index : index + 2] == b"\xff\xda"]
    in_first, after_third = (scans[0] + scans[1]) // 2, scans[3]
    assert "rows of pixels have not all their detail" in (read(data[:in_first]).damage or "")
    assert read(data[:after_third]).damage == "cut short; the picture lacks a part of its detail"


def test_a_jpeg_that_libjpeg_complains_of_is_told(picture: Image.Image, caplog: pytest.LogCaptureFixture):
    data = bytearray(encoded(picture, "JPEG"))
    start = data.index(b"\xff\xda") + 500
    data[start : start + 64] = bytes(64)
    with caplog.at_level(logging.WARNING):
        photo = read(bytes(data))
    assert "a part of the picture may be wrong" in (photo.damage or "")
    assert "photo.x: damaged (Corrupt JPEG data" in caplog.text


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "RGBA", "16"])
def test_a_png_that_is_cut_short_keeps_its_rows(picture: Image.Image, mode: str):
    if mode == "16":
        data = cv2.imencode(".png", np.asarray(picture).astype(np.uint16) * 257)[1].tobytes()
    else:
        data = encoded(picture.convert(mode), "PNG")
    whole, photo = read(data), read(data[: len(data) // 2])
    assert photo.damage is not None
    count = int(photo.damage.removeprefix("cut short; ").split(" of 160")[0])
    assert 0 < count < 160
    np.testing.assert_array_equal(photo.bgr[:-count], whole.bgr[:-count])
    assert len(np.unique(photo.bgr[-count:])) == 1
    assert read(data[:-12]).damage is None  # only the end mark is missing
    with pytest.raises(ImageError, match="truncated"):
        read(data[:60])


@pytest.mark.parametrize("kind", ["BMP", "PPM", "TIFF"])
def test_other_files_that_are_cut_short_keep_their_rows(picture: Image.Image, kind: str):
    data = encoded(picture, kind)
    whole, photo = read(data), read(data[: len(data) // 2])
    count = int((photo.damage or "").removeprefix("cut short; ").split(" of 160")[0])
    assert 79 <= count <= 81
    there = slice(count, None) if kind == "BMP" else slice(160 - count)  # a BMP begins with the last row
    np.testing.assert_array_equal(photo.bgr[there], whole.bgr[there])
    with pytest.raises(ImageError, match="truncated"):
        read(data[: len(data) // 10])


@pytest.mark.parametrize("kind", ["BMP", "PPM"])
def test_a_header_that_has_become_too_small_is_told(picture: Image.Image, kind: str):
    data = encoded(picture, kind)
    smaller = data.replace(*((b"200 160", b"196 160") if kind == "PPM" else (b"\xc8\0\0\0\xa0", b"\xc4\0\0\0\xa0")))
    assert "the file is longer than its header says" in (read(smaller).damage or "")
    assert read(data).damage is None


def test_damaged_metadata_costs_no_pixel(picture: Image.Image, caplog: pytest.LogCaptureFixture):
    pixels = np.asarray(picture)[..., ::-1]
    plain = encoded(picture, "PNG")
    huge = b"x\0\0" + zlib.compress(bytes(5_000_000))
    bad = bytearray(chunk(b"eXIf", b"II*\0garbage"))
    bad[-1] ^= 1
    for extra in (chunk(b"zTXt", huge), bytes(bad), chunk(b"eXIf", b"no TIFF"), chunk(b"iCCP", b"x\0\0nonsense")):
        photo = read(plain[:33] + extra + plain[33:])
        np.testing.assert_array_equal(photo.bgr, pixels)
        assert photo.damage is None
    exif = b"Exif\0\0MM\0*" + struct.pack(">IHHHII", 8, 60_000, 0x112, 3, 1, 1 << 30)
    for kind in ("JPEG", "WEBP"):
        with caplog.at_level(logging.WARNING):
            photo = read(encoded(picture, kind, exif=exif, icc_profile=b"nonsense"))
        assert photo.bgr.shape == pixels.shape
        assert photo.damage is None


def test_a_tiff_with_damaged_exif_keeps_its_pixels(picture: Image.Image):
    # An entry of the directory that is not needed becomes a pointer to EXIF data beyond the end of the file.
    data = bytearray(encoded(picture, "TIFF", software="x"))
    entry = data.index(struct.pack("<HHI", 305, 2, 2))
    data[entry : entry + 12] = struct.pack("<HHII", 0x8769, 4, 1, len(data) + 1000)
    np.testing.assert_array_equal(read(bytes(data)).bgr, np.asarray(picture)[..., ::-1])


def test_chunks_that_are_no_chunks_are_told():
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 4, 8, 0, 0, 0, 0))
    for data in (SIGNATURE, SIGNATURE + header, SIGNATURE + b"\0" * 40, SIGNATURE + header[:-1] + b"x" + header):
        with pytest.raises(ImageError, match="photo.x: "):
            read(data)


def test_segments_of_a_jpeg_without_end_are_found(picture: Image.Image):
    assert jpeg._has_all_detail(encoded(picture, "JPEG")[:-2])
    assert not jpeg._has_all_detail(b"\xff\xd8\xff\xda\0")


def test_what_the_system_refuses_is_no_photos_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from lafr_base.images import DiskError, reading

    def refuse(*_: object) -> int:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(reading.os, "open", refuse)
    with pytest.raises(DiskError, match="Input/output error"):
        read_image(tmp_path / "a.png")
