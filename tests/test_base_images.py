"""Photos keep their pixels, alpha, depth and metadata through reading and writing; bad files are named."""

from __future__ import annotations

import errno
import io
import logging
import os
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms

from lafr_base import images
from lafr_base.images import ImageError, list_images, read_image, write_image

RNG = np.random.default_rng(0)
BGR8 = RNG.integers(0, 256, (9, 14, 3), dtype=np.uint8)
BGR16 = RNG.integers(0, 65536, (9, 14, 3), dtype=np.uint16)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def pil(bgr: np.ndarray) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(bgr[..., ::-1]))


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".ppm"])
def test_lossless_colour_is_read_as_bgr(tmp_path: Path, suffix: str):
    path = tmp_path / f"a{suffix}"
    pil(BGR8).save(path)
    photo = read_image(path)
    np.testing.assert_array_equal(photo.bgr, BGR8)
    assert photo.alpha is None
    assert not photo.gray


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_16_bit_is_read_whole(tmp_path: Path, suffix: str, channels: int):
    pixels = RNG.integers(0, 65536, (9, 14, 4), dtype=np.uint16)
    stored = pixels[..., 0] if channels == 1 else pixels[..., :channels]
    cv2.imwrite(str(tmp_path / f"a{suffix}"), stored)
    photo = read_image(tmp_path / f"a{suffix}")
    assert photo.bgr.dtype == np.uint16
    np.testing.assert_array_equal(photo.bgr, pixels[..., [0, 0, 0] if channels == 1 else [0, 1, 2]])
    assert photo.gray == (channels == 1)
    if channels == 4:
        np.testing.assert_array_equal(photo.alpha, pixels[..., 3])


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
def test_every_mode_gives_the_same_picture_as_pillow(tmp_path: Path, mode: str):
    image = pil(BGR8).convert("RGBA" if mode.endswith("A") else "RGB").convert(mode)
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    image.save(path)
    photo = read_image(path)
    np.testing.assert_array_equal(photo.bgr[..., ::-1], np.asarray(image.convert("RGB")))
    assert photo.gray == (mode in ("1", "L", "LA"))
    assert (photo.alpha is not None) == (mode in ("LA", "RGBA"))


def test_palette_transparency_becomes_alpha(tmp_path: Path):
    image = pil(BGR8).quantize(16)
    image.save(tmp_path / "a.png", transparency=3)
    alpha = read_image(tmp_path / "a.png").alpha
    assert alpha is not None
    np.testing.assert_array_equal(alpha == 0, np.asarray(image) == 3)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_turns_the_photo_upright(tmp_path: Path, orientation: int):
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    pil(BGR8).save(tmp_path / "a.png", exif=exif)
    photo = read_image(tmp_path / "a.png")
    upright = ImageOps.exif_transpose(Image.open(tmp_path / "a.png"))
    np.testing.assert_array_equal(photo.bgr[..., ::-1], np.asarray(upright))
    written = write_image(tmp_path / "b.png", photo.bgr, exif=photo.exif)
    assert Image.open(written).getexif()[0x0112] == 1  # not turned a second time by the viewer


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_orientation_of_a_16_bit_tiff(tmp_path: Path, orientation: int):
    tifffile = pytest.importorskip("tifffile")
    tag = [(0x0112, "H", 1, orientation, True)]
    tifffile.imwrite(tmp_path / "a.tif", BGR16[..., ::-1].copy(), photometric="rgb", extratags=tag)
    turned = {1: BGR16, 3: BGR16[::-1, ::-1], 6: np.rot90(BGR16, -1)}[orientation]
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").bgr, turned)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_profile_and_exif_survive(tmp_path: Path, suffix: str):
    exif = Image.Exif()
    exif[0x010F] = "Kodak"
    exif.get_ifd(0x8769)[0xA002] = 14
    source, target = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
    pil(BGR8).save(source, exif=exif, icc_profile=SRGB)
    photo = read_image(source)
    write_image(target, photo.bgr, exif=photo.exif, icc_profile=photo.icc_profile)
    image = Image.open(target)
    assert image.info["icc_profile"] == SRGB
    assert image.getexif()[0x010F] == "Kodak"
    assert 0xA002 not in image.getexif().get_ifd(0x8769)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("with_alpha", [False, True])
def test_png_round_trip_is_exact(tmp_path: Path, dtype: type, with_alpha: bool):
    bgr = BGR8 if dtype == np.uint8 else BGR16
    alpha = bgr[..., 1].copy() if with_alpha else None
    write_image(tmp_path / "new" / "a.png", bgr, alpha=alpha, icc_profile=SRGB)
    photo = read_image(tmp_path / "new" / "a.png")
    np.testing.assert_array_equal(photo.bgr, bgr)
    if with_alpha:
        np.testing.assert_array_equal(photo.alpha, alpha)
    assert photo.icc_profile == SRGB


def test_gray_file_stays_gray_and_drops_a_colour_profile(tmp_path: Path):
    gray = np.repeat(BGR8[..., :1], 3, axis=2)
    for suffix in (".png", ".jpg"):
        path = write_image(tmp_path / f"a{suffix}", gray, gray=True, icc_profile=SRGB)
        assert Image.open(path).mode == "L"
        assert "icc_profile" not in Image.open(path).info
    assert Image.open(write_image(tmp_path / "b.png", BGR8, gray=True)).mode == "RGB"


def test_jpeg_says_what_it_drops(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING):
        write_image(tmp_path / "a.jpg", BGR16, alpha=BGR16[..., 0])
    assert "8 bit only" in caplog.text
    assert "transparency is dropped" in caplog.text
    assert read_image(tmp_path / "a.jpg").bgr.dtype == np.uint8


def test_webp_keeps_alpha(tmp_path: Path):
    alpha = np.full(BGR8.shape[:2], 77, np.uint8)
    write_image(tmp_path / "a.webp", BGR8, alpha=alpha)
    np.testing.assert_array_equal(read_image(tmp_path / "a.webp").alpha, alpha)


def test_to_uint8_inverts_the_usual_widening():
    wide = np.arange(256, dtype=np.uint16)[None] * 257
    np.testing.assert_array_equal(images.to_uint8(wide)[0], np.arange(256))


def _bomb() -> bytes:
    """Return a PNG of 300 bytes that claims 40,000 x 40,000 pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(b"\0" * 300)
    chunks = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (header, data)]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _half(suffix: str, bgr: np.ndarray) -> bytes:
    big = np.tile(bgr, (40, 40, 1))
    buffer = io.BytesIO()
    pil(big).save(buffer, suffix[1:])
    return buffer.getvalue()[: buffer.tell() // 2]


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("zero.png", b"", "empty (0 bytes)"),
        ("text.jpg", b"not a picture", "not an image"),
        ("half.webp", _half(".webp", BGR8), "truncated"),
        ("bomb.png", _bomb(), "more than the 200,000,000 pixels"),
    ],
)
def test_bad_files_are_named_with_the_cause(tmp_path: Path, name: str, data: bytes, said: str):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ImageError) as error:
        read_image(tmp_path / name)
    assert name in str(error.value)
    assert said in str(error.value)


def test_float_pixels_and_missing_files_are_refused(tmp_path: Path):
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(ImageError, match="32-bit"):
        read_image(tmp_path / "a.tif")
    with pytest.raises(ImageError, match="no such file"):
        read_image(tmp_path / "b.png")


def test_pillows_own_limit_is_lifted_only_while_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)  # reading 126 pixels would raise DecompressionBombError
    cv2.imwrite(str(tmp_path / "a.png"), BGR8)
    assert read_image(tmp_path / "a.png").bgr.shape == BGR8.shape
    assert Image.MAX_IMAGE_PIXELS == 10


def test_listing(tmp_path: Path):
    for name in ("b.PNG", "a.jpg", "notes.txt", ".hidden.png"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "folder.png").mkdir()
    assert [p.name for p in list_images(tmp_path)] == ["a.jpg", "b.PNG"]
    assert list_images(tmp_path / "notes.txt") == [tmp_path / "notes.txt"]
    with pytest.raises(ImageError, match="no such file or folder"):
        list_images(tmp_path / "absent")
    with pytest.raises(ImageError, match="holds no photo"):
        list_images(tmp_path / "folder.png")


def test_a_failed_write_leaves_the_old_file_and_no_partial_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = write_image(tmp_path / "a.png", BGR8)
    before = path.read_bytes()

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_image(path, np.zeros_like(BGR8))
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]
    assert path.read_bytes() == before


def test_a_folder_on_another_disk_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    replace = os.replace

    def refuse(source: Path, target: Path) -> None:
        if Path(source).parent != Path(target).parent:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        replace(source, target)

    monkeypatch.setattr(os, "replace", refuse)
    path = write_image(tmp_path / "out" / "a.png", BGR8, unfinished=tmp_path / "unfinished")
    np.testing.assert_array_equal(read_image(path).bgr, BGR8)
    assert not list((tmp_path / "unfinished").iterdir())


def test_what_a_format_cannot_hold_is_an_error(tmp_path: Path):
    with pytest.raises(ImageError, match="too large for .webp"):
        write_image(tmp_path / "a.webp", np.zeros((1, 16_384, 3), np.uint8))
    with pytest.raises(ImageError, match="cannot write '.tif'"):
        write_image(tmp_path / "a.tif", BGR8)
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(ImageError, match="cannot be written"):
        write_image(tmp_path / "file" / "a.png", BGR8)
