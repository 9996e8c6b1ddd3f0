"""An intact face is kept, a damaged one comes from the network, and none gets colour that its photo lacks."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from lafr import intact, keep
from lafr.demo import PORTRAITS
from lafr.faces import paste_face
from lafr.report import photo_entry
from lafr.restorer import LAFRer
from lafr.video.restoring import FilmFace, _averaged
from lafr_base.geometry import FFHQ_POINTS, align_matrix, warp_face

SIZE = 192

# Eyes, nose tip and mouth corners in lafr.demo's portraits, in pixels, and how many a face fills.
POINTS = {
    "grace_hopper": np.array([[224, 194], [304, 188], [265, 238], [232, 272], [301, 267]], np.float64),
    "astronaut": np.array([[204.5, 99.9], [246.2, 103.4], [224.2, 126.4], [205.3, 140.8], [240.6, 143.2]]),
}
HOPPER_POINTS = POINTS["grace_hopper"]


@pytest.fixture(scope="module")
def hopper() -> np.ndarray:
    """Grace Hopper's portrait, (600, 512, 3) BGR uint8; her face fills about 310 px."""
    return PORTRAITS["grace_hopper"]()


@dataclass
class Found:
    landmarks: np.ndarray
    box: np.ndarray
    score: float = 0.9


class Knows:
    """A detector that knows where the face is."""

    name = "knows"

    def __init__(self, scale: float, points: np.ndarray) -> None:
        self.points = (points + 0.5) * scale - 0.5

    def detect(self, image: np.ndarray) -> list[Found]:
        return [Found(self.points, np.concatenate((self.points.min(axis=0), self.points.max(axis=0))))]


class Smooths(nn.Module):
    """Does to a face what weak networks do: loses its detail; and makes it a little blue."""

    image_size = SIZE

    def __init__(self, blue: float = 0.0) -> None:
        super().__init__()
        self.blue = torch.tensor([0, 0, blue])[:, None, None]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        small = nn.functional.interpolate(x, scale_factor=0.25, mode="area")
        return (nn.functional.interpolate(small, scale_factor=4, mode="bicubic") + self.blue).clamp(0, 1)


def build(
    scale: float = 1.0, model: nn.Module | None = None, points: np.ndarray = HOPPER_POINTS, **options: object
) -> LAFRer:
    model = Smooths() if model is None else model
    detector = Knows(scale, points)
    return LAFRer(
        model=model,
        device="cpu",
        detection_model=detector,
        identity=False,
        **({"upscale": 1} | options),  # type: ignore[arg-type]
    )


def resized(image: np.ndarray, scale: float) -> np.ndarray:
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return cv2.resize(image, None, fx=scale, fy=scale, interpolation=how)


def damaged(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    blurred = cv2.GaussianBlur(image, (0, 0), 3).astype(float) + rng.normal(0, 8, image.shape)
    code = cv2.imencode(".jpg", np.clip(blurred, 0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 50])[1]
    return np.asarray(cv2.imdecode(code, cv2.IMREAD_COLOR))


def psnr(first: np.ndarray, second: np.ndarray) -> float:
    return 10 * np.log10(255**2 / max(1e-9, np.mean((first.astype(float) - second) ** 2)))


def aligned(image: np.ndarray, size: int) -> np.ndarray:
    return warp_face(image, align_matrix(HOPPER_POINTS, size), size)


def luma_of(scale_of_noise: float = 0.0) -> np.ndarray:
    """Smooth shades with a few edges, (160, 160), and noise everywhere."""
    y, x = np.mgrid[:160, :160]
    shades = 128 + 60 * np.sin(x / 23) * np.cos(y / 31) + 40 * ((x // 40 + y // 40) % 2)
    return np.asarray(shades + np.random.default_rng(0).normal(0, scale_of_noise, (160, 160)), np.float32)


def test_wavelets_keep_the_energy_and_tell_noise_from_detail():
    luma = luma_of(8)
    low, *bands = intact.haar(luma)
    energy = 4 * (low**2).sum() + sum((band**2).sum() for band in bands)
    assert energy == pytest.approx((luma**2).sum(), rel=1e-5)
    for deviation in (4, 8):  # the median of a normal deviate's magnitude is 0.6745 sigma; the edges do not count
        diagonal = intact.haar(luma_of(deviation))[3]
        assert np.median(np.abs(diagonal)) == pytest.approx(0.6745 * deviation, rel=0.1)


def test_figures_see_blur_noise_and_blocks(hopper: np.ndarray):
    face = aligned(hopper, 256)
    names = list(intact.FIGURES)
    plain = intact.figures(face)
    assert plain.shape == (len(names),) == (intact.WEIGHTS.shape[1] - 1,)
    rng = np.random.default_rng(0)
    noisy = np.clip(face + rng.normal(0, 8, face.shape), 0, 255).astype(np.uint8)
    blocky = cv2.imdecode(cv2.imencode(".jpg", face, [cv2.IMWRITE_JPEG_QUALITY, 40])[1], cv2.IMREAD_COLOR)
    blurred = cv2.GaussianBlur(face, (0, 0), 2)
    gain = {k: intact.figures(v) - plain for k, v in {"n": noisy, "j": blocky, "b": blurred}.items()}
    assert gain["n"][names.index("diagonal_median")] > math.log(2)
    assert gain["j"][names.index("blocks")] > math.log(2)
    assert gain["j"][names.index("diagonal_median")] < 0
    assert gain["b"][names.index("diagonal_98")] < -math.log(2)
    worst = [int(np.argmin(intact.log_odds(intact.figures(picture)))) for picture in (blurred, noisy, blocky)]
    assert [intact.QUESTIONS[place] for place in worst] == ["sharp", "without noise", "without compression"]
    # JPEG's blocks begin anywhere in a crop.
    shifted = intact.figures(blocky[3:, 5:])[names.index("blocks")]
    assert shifted == pytest.approx(intact.figures(blocky)[names.index("blocks")], abs=0.2)


@pytest.mark.parametrize("name", POINTS)
@pytest.mark.parametrize("damage", [0, 1, 2, 3])
def test_portraits_are_intact_until_they_are_damaged(name: str, damage: int):
    photo = PORTRAITS[name]()
    matrix = align_matrix(POINTS[name], 256)
    assert keep.kept_share(photo, matrix, 256) == 1
    assert keep.kept_share(photo.astype(np.uint16) * 257, matrix, 256) == 1
    rng = np.random.default_rng(0)
    small = cv2.resize(photo, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)
    damaged_photo = (
        cv2.resize(small, photo.shape[1::-1], interpolation=cv2.INTER_CUBIC),
        cv2.GaussianBlur(photo, (0, 0), 2),
        np.clip(photo + rng.normal(0, 12, photo.shape), 0, 255).astype(np.uint8),
        cv2.imdecode(cv2.imencode(".jpg", photo, [cv2.IMWRITE_JPEG_QUALITY, 30])[1], cv2.IMREAD_COLOR),
    )[damage]
    assert keep.kept_share(damaged_photo, matrix, 256) == 0


def test_a_face_that_lies_outside_or_is_small_is_not_judged(hopper: np.ndarray):
    assert keep.kept_share(resized(hopper, 0.25), align_matrix(HOPPER_POINTS * 0.25, 256), 256) is None
    assert keep.kept_share(hopper, align_matrix(HOPPER_POINTS + 600, 256), 256) is None


def test_a_face_that_is_enlarged_much_is_the_networks(hopper: np.ndarray):
    """A clean face of 157 px, for a network of 512."""
    photo, matrix = resized(hopper, 0.5), align_matrix(HOPPER_POINTS * 0.5, 512)
    assert keep.kept_share(photo, matrix, 512) == 1
    assert keep.kept_share(photo, matrix, 512, enlarged=True) == 0
    assert keep.kept_share(photo, matrix * 0.5, 256, enlarged=True) == 1


@pytest.mark.parametrize("noise", [0, 25])
def test_noise_that_the_network_does_not_see_counts_too(hopper: np.ndarray, noise: float):
    """A face of 780 px in a network of 256: nine photo pixels are averaged into one."""
    large = resized(hopper, 2.5)
    photo = np.clip(large + np.random.default_rng(0).normal(0, noise, large.shape), 0, 255).astype(np.uint8)
    share = keep.kept_share(photo, align_matrix((HOPPER_POINTS + 0.5) * 2.5 - 0.5, 256), 256)
    assert share == (0 if noise else 1)


@pytest.mark.parametrize("side", [64, 48, 32])
def test_a_mix_has_the_photo_in_what_the_photo_can_show(side: int):
    rng = np.random.default_rng(0)
    restored, photo = (rng.random((n, n, 3)).astype(np.float32) for n in (64, side))
    np.testing.assert_allclose(keep.blend(restored, photo, 0), restored, atol=1e-6)
    kept = keep.blend(restored, photo, 1)
    shrunk = cv2.resize(kept, (side, side), interpolation=cv2.INTER_AREA)
    assert np.abs(shrunk - photo).mean() < (0.04 if side < 64 else 1e-6)  # of white noise, 0.29 apart at first
    if side < 64:  # what is finer than the photo's pixels stays the network's
        up = cv2.resize(photo, (64, 64), interpolation=cv2.INTER_CUBIC)
        assert np.corrcoef((kept - up).ravel(), restored.ravel())[0, 1] > 0.5


def ycc(image: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(image.astype(np.float32), cv2.COLOR_BGR2YCrCb)


def with_blue_eyes(face: np.ndarray) -> np.ndarray:
    """Paint discs of strong blue where the eyes are."""
    painted = face.copy()
    for x, y in (FFHQ_POINTS[:2] + 0.5) * face.shape[0] / 512 - 0.5:
        cv2.circle(painted, (round(x), round(y)), face.shape[0] // 40, (0.9, 0.3, 0.1), -1)
    return painted


def test_a_sepia_photo_keeps_its_tint(hopper: np.ndarray):
    face = keep.to_unit(aligned(hopper, SIZE))
    gray = cv2.cvtColor(face, cv2.COLOR_BGR2GRAY)[..., None]
    sepia = np.clip((0.9 * gray + 0.1) * np.float32([0.75, 0.95, 1.05]), 0, 1)
    noisy = np.clip(sepia + np.random.default_rng(0).normal(0, 6 / 255, sepia.shape), 0, 1).astype(np.float32)
    result = keep.limit_chroma(with_blue_eyes(sepia), noisy)
    expected = ycc(np.clip((0.9 * 0.5 + 0.1) * np.float32([[[0.75, 0.95, 1.05]]]), 0, 1))[0, 0]
    luma = ycc(result)[..., 0]
    middle = ycc(result)[np.abs(luma - expected[0]) < 0.02]
    assert np.abs(middle[:, 1:] - expected[1:]).max() < 3 / 255


def test_no_blue_eyes_on_a_nearly_gray_photo(hopper: np.ndarray):
    face = keep.to_unit(aligned(hopper, SIZE))
    gray = cv2.cvtColor(cv2.cvtColor(face, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    pale = 0.7 * gray + 0.3 * face
    pale = (pale * 255).round() / 255
    assert keep.tint_of(ycc(pale)) is None, "some colour is left"
    result = keep.limit_chroma(with_blue_eyes(pale), pale.astype(np.float32))
    most = np.abs(ycc(pale)[..., 1:] - 0.5).max()
    assert np.abs(ycc(with_blue_eyes(pale))[..., 1:] - 0.5).max() > 3 * most
    assert np.abs(ycc(result)[..., 1:] - 0.5).max() < most + 2 * keep.CHROMA_MARGIN
    np.testing.assert_allclose(ycc(result)[..., 0], ycc(with_blue_eyes(pale))[..., 0], atol=0.01)


def test_a_face_of_the_photos_own_colours_keeps_them(hopper: np.ndarray):
    face = keep.to_unit(aligned(hopper, SIZE))
    assert np.abs(keep.limit_chroma(face, face) - face).mean() < 0.5 / 255


def test_the_share_of_a_pasted_face_is_the_canvas_own():
    rng = np.random.default_rng(0)
    photo = rng.integers(0, 256, (300, 300, 3), dtype=np.uint8)
    matrix = align_matrix((FFHQ_POINTS - 255.5) * (200 / 512) + 150, 64)
    black = np.zeros((64, 64, 3), np.uint8)
    wholly, half = photo.copy(), photo.copy()
    paste_face(wholly, black, matrix, share=1)
    paste_face(half, black, matrix, share=0.5)
    np.testing.assert_array_equal(wholly, photo)
    np.testing.assert_allclose(half[145:155, 145:155], photo[145:155, 145:155] / 2, atol=1)


@pytest.mark.parametrize(
    ("name", "side"), [("grace_hopper", 256), *((name, side) for name in POINTS for side in (512, 1024))]
)
def test_an_intact_photo_comes_back_as_it_was(name: str, side: int):
    """Faces of 134 to 536 px, with a network of 192 px that takes three quarters of the detail."""
    original = PORTRAITS[name]()
    scale = side / max(original.shape)
    image, points = resized(original, scale), POINTS[name]
    _, _, plain = build(scale, points=points, keep_intact=False).enhance(image)
    restorer = build(scale, points=points)
    _, _, kept = restorer.enhance(image)
    assert plain is not None
    assert kept is not None
    assert restorer.face_helper.kept == [1]
    x, y = (points.min(axis=0) * scale).astype(int)
    right, bottom = (points.max(axis=0) * scale).astype(int)
    window = slice(y, bottom), slice(x, right)
    before, after = psnr(plain[window], image[window]), psnr(kept[window], image[window])
    assert after > max(35, before + 5)
    sharpness = [cv2.Laplacian(p[window], cv2.CV_64F).var() for p in (kept, image)]
    assert sharpness[0] > 0.9 * sharpness[1]


@pytest.mark.parametrize("size", [256, 314])
def test_an_enlarged_intact_photo_keeps_its_face(hopper: np.ndarray, size: int):
    """With twice the pixels, a face larger than the network's and one smaller: shrunk, the result is the photo."""
    model = Smooths()
    model.image_size = 256 if size == 256 else 384
    restorer = build(size / 314, model, upscale=2)
    image = resized(hopper, size / 314)
    _, _, large = restorer.enhance(image)
    assert large is not None
    assert restorer.face_helper.kept == [1]
    shrunk = cv2.resize(large, image.shape[1::-1], interpolation=cv2.INTER_AREA)
    assert psnr(shrunk, image) > 35


def test_a_damaged_photo_is_restored_as_without(hopper: np.ndarray):
    image = damaged(hopper, np.random.default_rng(0))
    restorer, plain = build(), build(keep_intact=False)
    _, (kept,), _ = restorer.enhance(image, weight=0)
    _, (restored,), _ = plain.enhance(image, weight=0)
    (share,) = restorer.face_helper.kept
    assert share == 0
    assert psnr(kept, restored) > 40
    assert plain.face_helper.kept == [None]


def test_a_small_intact_photo_gets_what_its_pixels_cannot_show(hopper: np.ndarray):
    """A face of 128 px in a network of 192: shrunk, the result is the photo."""
    face = aligned(hopper, 128)
    _, (kept,), _ = build().enhance(face, has_aligned=True)
    _, (restored,), _ = build(keep_intact=False).enhance(face, has_aligned=True)
    shrunk = [cv2.resize(x, (128, 128), interpolation=cv2.INTER_AREA) for x in (kept, restored)]
    assert psnr(shrunk[0], face) > max(35, psnr(shrunk[1], face) + 5)


@pytest.mark.parametrize("make", [lambda face: face, lambda face: damaged(face, np.random.default_rng(0))])
def test_an_aligned_face_larger_than_the_network_keeps_its_size(
    hopper: np.ndarray, make: Callable[[np.ndarray], np.ndarray]
):
    face = make(aligned(hopper, 320))
    (crop,), (kept,), _ = build().enhance(face, has_aligned=True)
    assert crop.shape == (SIZE, SIZE, 3)
    assert kept.shape == face.shape
    (_, (restored,), _) = build(keep_intact=False).enhance(face, has_aligned=True)
    assert restored.shape == crop.shape


def test_an_intact_aligned_face_is_the_same(hopper: np.ndarray):
    face = aligned(hopper, 320)
    restorer = build()
    _, (kept,), _ = restorer.enhance(face, has_aligned=True)
    np.testing.assert_array_equal(kept, face)
    _, (left,), _ = restorer.enhance(cv2.GaussianBlur(face, (0, 0), 3), has_aligned=True, weight=1)
    np.testing.assert_array_equal(left, cv2.GaussianBlur(face, (0, 0), 3))


@pytest.mark.parametrize("aligned_face", [False, True])
@pytest.mark.parametrize("tint", [(1, 1, 1), (0.7, 0.9, 1)])
def test_gray_and_sepia_photos_get_no_colour(hopper: np.ndarray, aligned_face: bool, tint: tuple[float, ...]):
    photo = damaged(aligned(hopper, 256) if aligned_face else hopper, np.random.default_rng(0))
    image = (cv2.cvtColor(photo, cv2.COLOR_BGR2GRAY)[..., None] * np.array(tint)).astype(np.uint8)
    restorer = build(model=Smooths(blue=0.4))
    _, (restored,), whole = restorer.enhance(image, has_aligned=aligned_face, weight=0)
    assert restorer.face_helper.kept == [0]
    for picture in [restored] if whole is None else [restored, whole]:
        share = picture.astype(float).reshape(-1, 3).mean(axis=0)
        np.testing.assert_allclose(share / share[2], tint, atol=0.02)


def test_sixteen_bits_and_weights_still_work(hopper: np.ndarray):
    image = hopper.astype(np.uint16) * 257
    restorer = build()
    (crop,), (kept,), whole = restorer.enhance(image, weight=1)
    np.testing.assert_array_equal(crop, kept)
    np.testing.assert_array_equal(whole, image)
    _, (kept,), whole = restorer.enhance(image)
    assert kept.dtype == np.uint16
    assert whole is not None
    assert psnr(whole / 257, image / 257) > 35


def test_the_report_says_what_is_kept(hopper: np.ndarray, tmp_path: Path):
    restorer = build()
    for image, kept in ((hopper, 1), (cv2.GaussianBlur(hopper, (0, 0), 4), 0)):
        restorer.enhance(image)
        (face,) = photo_entry(tmp_path / "a.png", restorer.face_helper, restorer.composer)["faces"]
        assert face["kept"] == kept


def test_real_sharp_faces_are_kept_and_damaged_ones_are_not(shared: Path):
    for path in sorted((shared / "faces" / "val512").glob("*"))[::12]:
        photo = cv2.imread(str(path))
        assert photo is not None
        face = cv2.resize(photo, (256, 256), interpolation=cv2.INTER_AREA)
        for size in (256, 512):
            assert keep.kept_share(photo, None, size) == 1
            assert keep.kept_share(face, None, size) == 1
        assert keep.kept_share(damaged(face, np.random.default_rng(0)), None, 256) == 0


def test_what_is_kept_of_a_film_does_not_flicker():
    face = FilmFace(0, 0.5, 0.5, (0, 0, 1, 1), 0)
    shares = [_averaged(face, share) for share in (1.0, 0.0, None, *[0.0] * 60)]
    assert shares[0] == 1
    assert shares[1] == shares[2] == pytest.approx(0.9)
    assert shares[-1] == pytest.approx(0, abs=0.01)
