"""Faces are cut out and put back to a fraction of a pixel; nothing outside the mask changes."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from lafr import faces
from lafr.faces import is_gray, keep_tones, paste_face, to_gray
from lafr_base.geometry import FFHQ_POINTS, align_matrix, warp_face

SIZE = 256
HEIGHT, WIDTH = 300, 340


def smooth_photo(dtype: type = np.uint8) -> np.ndarray:
    noise = np.random.default_rng(0).random((HEIGHT, WIDTH, 3)).astype(np.float32)
    picture = cv2.GaussianBlur(noise, (0, 0), 4)
    picture = (picture - picture.min()) / (picture.max() - picture.min())
    return np.rint(picture * np.iinfo(dtype).max).astype(dtype)


def landmarks(side: float, degrees: float = 0.0, center: tuple[float, float] = (170, 150)) -> np.ndarray:
    """Return the landmarks of a face whose crop is `side` photo pixels wide, turned about its centre."""
    angle = np.deg2rad(degrees)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return (FFHQ_POINTS - 255.5) * (side / 512) @ rotation.T + center


def shift(reference: np.ndarray, moved: np.ndarray) -> np.ndarray:
    """Return how far `moved` lies from `reference` in x and y, by least squares over the gradient."""
    a, b = reference.astype(float).mean(axis=2), moved.astype(float).mean(axis=2)
    gy, gx = np.gradient(a)
    system = np.stack([gx.ravel(), gy.ravel()], axis=1)
    return -np.linalg.lstsq(system, (b - a).ravel(), rcond=None)[0]


def resize(photo: np.ndarray, scale: float) -> np.ndarray:
    size = (int(WIDTH * scale), int(HEIGHT * scale))
    return cv2.resize(photo, size, interpolation=cv2.INTER_LANCZOS4) if scale != 1 else photo.copy()


def test_the_shift_measure_measures():
    photo = smooth_photo()
    moved = cv2.warpAffine(photo, np.float64([[1, 0, 0.5], [0, 1, -0.25]]), (WIDTH, HEIGHT))
    np.testing.assert_allclose(shift(photo[9:-9, 9:-9], moved[9:-9, 9:-9]), [0.5, -0.25], atol=0.05)


def test_alignment_inverts_a_known_similarity():
    angle, scale, move = 0.4, 0.37, np.array([30.0, -12.0])
    rotation = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    placed = FFHQ_POINTS @ rotation.T + move
    back = align_matrix(placed, 512)
    np.testing.assert_allclose(placed @ back[:, :2].T + back[:, 2], FFHQ_POINTS, atol=1e-9)


def test_a_crop_of_half_the_size_is_the_shrunk_crop():
    photo = smooth_photo().astype(np.float32)
    points = landmarks(256)
    large = warp_face(photo, align_matrix(points, 256), 256)
    half = warp_face(photo, align_matrix(points, 128), 128)
    difference = half - cv2.resize(large, (128, 128), interpolation=cv2.INTER_AREA)
    assert np.abs(difference[5:-5, 5:-5]).max() < 1.5


@pytest.mark.parametrize("points", [np.zeros((5, 2)), np.full((5, 2), np.nan), np.zeros((4, 2))])
def test_useless_landmarks_are_an_error(points: np.ndarray):
    with pytest.raises(ValueError, match="landmarks"):
        align_matrix(points, SIZE)


def test_shrinking_a_large_face_does_not_alias():
    rows, columns = np.indices((1200, 1200))
    checks = np.where((rows + columns) % 2, 255, 0).astype(np.uint8)[..., None].repeat(3, axis=2)
    crop = warp_face(checks, align_matrix(landmarks(1100, 7.0, (600, 600)), SIZE), SIZE)
    assert np.abs(crop[20:-20, 20:-20].astype(int) - 127).max() < 25  # sampled without averaging: 127


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("scale", [1.0, 1.5, 2.0, 3.0])
@pytest.mark.parametrize(("side", "degrees"), [(70, 0.0), (200, 25.0), (290, -10.0)])
def test_an_identity_restorer_changes_nothing(dtype: type, scale: float, side: float, degrees: float):
    photo = smooth_photo(dtype)
    matrix = align_matrix(landmarks(side, degrees), SIZE)
    background = resize(photo, scale)
    canvas = background.copy()
    height, width = canvas.shape[:2]
    paste_face(canvas, warp_face(photo, matrix, SIZE), matrix, (width / WIDTH, height / HEIGHT))
    assert canvas.dtype == dtype
    reach = side * 0.25 * scale
    x, y = int(170 * scale), int(150 * scale)
    inside = np.s_[int(y - reach) : int(y + reach), int(x - reach) : int(x + reach)]
    assert np.abs(shift(background[inside], canvas[inside])).max() < 0.05
    error = (background[inside].astype(float) - canvas[inside]) / np.iinfo(dtype).max
    assert -10 * np.log10(np.mean(error**2)) > 45


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_pixels_outside_the_crop_keep_their_bits_and_the_face_is_replaced(scale: float):
    photo = smooth_photo()
    matrix = align_matrix(landmarks(120, 15.0), SIZE)
    background = resize(photo, scale)
    canvas = background.copy()
    paste_face(canvas, np.zeros((SIZE, SIZE, 3), np.uint8), matrix, (scale, scale))
    corners = np.array([[0, 0], [SIZE - 1, 0], [SIZE - 1, SIZE - 1], [0, SIZE - 1]])
    inverse = cv2.invertAffineTransform(matrix)
    placed = (corners @ inverse[:, :2].T + inverse[:, 2] + 0.5) * scale - 0.5
    crop = cv2.fillConvexPoly(np.zeros(canvas.shape[:2], np.uint8), np.rint(placed).astype(int), 1)
    np.testing.assert_array_equal(canvas[crop == 0], background[crop == 0])
    assert canvas[int(150 * scale), int(170 * scale)].max() == 0


def test_the_mask_has_no_edge():
    canvas = np.full((400, 400, 3), 200, np.uint8)
    black = np.zeros((SIZE, SIZE, 3), np.uint8)
    paste_face(canvas, black, align_matrix(landmarks(300, 10.0, (200, 200)), SIZE))
    steps = [np.abs(np.diff(canvas[..., 0].astype(int), axis=axis)).max() for axis in (0, 1)]
    assert max(steps) <= 10  # 200 levels over the 52 px of the feather, at most twice the mean slope
    edge = faces._mask(np.eye(2, 3), SIZE, [], 0, 0, SIZE, SIZE)
    assert max(edge[0].max(), edge[-1].max(), edge[:, 0].max(), edge[:, -1].max()) == 0


def test_a_face_over_the_border_of_the_photo_is_pasted_in_part():
    photo = smooth_photo()
    matrix = align_matrix(landmarks(200, 0.0, (0, 0)), SIZE)
    canvas = photo.copy()
    paste_face(canvas, warp_face(photo, matrix, SIZE), matrix)
    assert np.abs(canvas.astype(int) - photo).max() <= 8
    paste_face(canvas, np.zeros((SIZE, SIZE, 3), np.uint8), matrix)
    assert canvas[:40, :40].max() == 0
    np.testing.assert_array_equal(canvas[120:, 120:], photo[120:, 120:])


def test_blocks_leave_no_trace(monkeypatch: pytest.MonkeyPatch):
    photo = smooth_photo()
    matrix = align_matrix(landmarks(280, 12.0), SIZE)
    face = np.random.default_rng(1).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    whole, pieces = photo.copy(), photo.copy()
    paste_face(whole, face, matrix)
    monkeypatch.setattr(faces, "_BLOCK", 50)
    paste_face(pieces, face, matrix)
    assert np.abs(whole.astype(int) - pieces).max() <= 12  # OpenCV rounds coordinates to 1/32 px


def test_neighbours_keep_their_own_side():
    canvas = np.full((200, 400, 3), 128, np.uint8)
    left, right = (align_matrix(landmarks(200, 0.0, (x, 100)), SIZE) for x in (140, 240))
    paste_face(canvas, np.zeros((SIZE, SIZE, 3), np.uint8), left, neighbours=[right])
    paste_face(canvas, np.full((SIZE, SIZE, 3), 255, np.uint8), right, neighbours=[left])
    assert canvas[100, 140].max() == 0
    assert canvas[100, 240].min() == 255
    assert np.abs(np.diff(canvas[100, 140:240, 0].astype(int))).max() < 40


def test_a_small_face_is_pasted_within_a_huge_photo_in_bounded_memory():
    import tracemalloc

    canvas = np.zeros((3000, 20_000, 3), np.uint8)
    matrix = align_matrix(landmarks(300, 0.0, (15_000, 1500)), SIZE)
    tracemalloc.start()
    paste_face(canvas, np.full((SIZE, SIZE, 3), 255, np.uint8), matrix)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert canvas[1500, 15_000].min() == 255
    assert peak < 30e6  # the canvas alone has 180 MB


def test_tones_follow_the_crop_and_detail_the_restorer():
    rng = np.random.default_rng(2)
    detail = rng.standard_normal((SIZE, SIZE, 3)).astype(np.float32) * 20
    crop = np.full((SIZE, SIZE, 3), 100, np.float32)
    restored = detail + [60, 120, 150]
    tied = keep_tones(restored.astype(np.float32), crop, 0.5)
    np.testing.assert_allclose(tied.mean(axis=(0, 1)), 100, atol=0.5)
    np.testing.assert_allclose(tied.std(axis=(0, 1)), detail.std(axis=(0, 1)), rtol=0.05)


def test_weight_moves_from_the_restorer_to_the_crop():
    rng = np.random.default_rng(3)
    restored, crop = rng.random((2, SIZE, SIZE, 3)).astype(np.float32)
    distances = [np.abs(keep_tones(restored, crop, w) - crop).mean() for w in (0, 0.5, 0.9, 0.97, 0.99, 1)]
    assert distances == sorted(distances, reverse=True)
    assert distances[0] == np.abs(restored - crop).mean()
    assert distances[-1] == 0
    sigma = faces.TONE_SIGMA * SIZE * (1 - 0.6) / 0.6
    low = cv2.GaussianBlur(crop - restored, (0, 0), sigma, borderType=cv2.BORDER_REFLECT)
    assert np.abs(keep_tones(restored, crop, 0.6) - restored - low).max() < 0.002


def test_gray_is_told_from_colour():
    gray = smooth_photo()[..., :1].repeat(3, axis=2)
    assert is_gray(gray)
    assert is_gray(gray.astype(np.uint16) * 257)
    jpeg = cv2.imdecode(cv2.imencode(".jpg", gray, [cv2.IMWRITE_JPEG_QUALITY, 60])[1], cv2.IMREAD_COLOR)
    assert is_gray(jpeg)
    assert not is_gray(smooth_photo())
    sepia = np.clip(gray * [0.8, 0.95, 1.0], 0, 255).astype(np.uint8)
    assert not is_gray(sepia)
    flat = to_gray(smooth_photo())
    assert (flat[..., 0] == flat[..., 1]).all()
    assert (flat[..., 1] == flat[..., 2]).all()


def test_boxes_are_drawn_on_deep_photos_as_on_others():
    matrix = align_matrix(FFHQ_POINTS / 4 + 20, 128)
    plain, deep = np.zeros((180, 180, 3), np.uint8), np.zeros((180, 180, 3), np.uint16)
    for canvas in (plain, deep):
        faces.draw_box(canvas, matrix, 128, (1, 1), 7)
    assert ((plain > 0) == (deep > 0)).all()
    assert (plain.max(), deep.max()) == (255, 65535)
    inside = plain[23:38, 23:36, 1] > 0
    assert 0 < inside.sum() < inside.size  # the number
