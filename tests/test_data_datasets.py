import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage.data
import torch
from torch.utils.data import DataLoader

from lafr_base.registry import DATASET_REGISTRY
from lafr_data.degradation_dataset import FaceDegradationDataset
from lafr_data.paired_dataset import PairedFaceDataset
from lafr_data.samplers import Draw, ResumableSampler
from lafr_data.sources import FaceDataset, choose
from lafr_data.validation_dataset import ValidationFaceDataset

SHARED = Path(os.environ.get("LAFR_SHARED", Path(__file__).resolve().parents[2] / "shared"))


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight 64 x 64 crops of one photo, in two folders, with a file beside them that is no image."""
    root = tmp_path_factory.mktemp("faces")
    (root / "more").mkdir()
    photo = cv2.cvtColor(skimage.data.astronaut(), cv2.COLOR_RGB2BGR)
    for number in range(8):
        folder = root / "more" if number > 5 else root
        cv2.imwrite(str(folder / f"face {number}.png"), photo[20 * number :, 30 * number :][:64, :64])
    (root / "notes.txt").write_text("not an image")
    return root


@pytest.fixture(scope="module")
def faces_lmdb(faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from basicsr.utils.lmdb_util import make_lmdb_from_imgs

    files = sorted(path.relative_to(faces).as_posix() for path in faces.rglob("*.png"))
    root = tmp_path_factory.mktemp("lmdb") / "faces.lmdb"
    make_lmdb_from_imgs(str(faces), str(root), files, [name.removesuffix(".png") for name in files], map_size=2**24)
    return root


def training(root: Path, **options: object) -> FaceDegradationDataset:
    return FaceDegradationDataset({"dataroot_gt": str(root), "image_size": 64, "degradation": "gfpgan", **options})


def validation(root: Path, **options: object) -> ValidationFaceDataset:
    return ValidationFaceDataset({"dataroot_gt": str(root), "image_size": 64, **options})


def test_item(faces: Path):
    item = training(faces, use_hflip=False)[3]
    assert Path(item["gt_path"]).name == "face 3.png"
    expected = cv2.cvtColor(cv2.imread(item["gt_path"]), cv2.COLOR_BGR2RGB).transpose(2, 0, 1)
    np.testing.assert_array_equal(item["gt"].numpy(), expected.astype(np.float32) / 255)
    assert item["lq"].shape == (3, 64, 64)
    assert item["lq"].dtype == torch.float32
    assert not torch.equal(item["lq"], item["gt"])


def test_same_data_with_any_number_of_workers(faces: Path):
    batches = []
    for workers in (0, 2):
        dataset = training(faces, cache=workers == 0)
        sampler = ResumableSampler(dataset, ratio=2)
        sampler.set_epoch(3)
        loader = DataLoader(dataset, batch_size=4, sampler=sampler, num_workers=workers)
        batches.append(torch.stack([torch.stack([batch["lq"], batch["gt"]]) for batch in loader]))
    assert torch.equal(*batches)


def test_draws_of_one_face_differ(faces: Path):
    dataset = training(faces, use_hflip=False)
    assert not torch.equal(dataset[Draw(0, 1)]["lq"], dataset[Draw(0, 2)]["lq"])
    assert torch.equal(dataset[Draw(0, 1)]["gt"], dataset[Draw(0, 2)]["gt"])
    assert not torch.equal(dataset[0]["lq"], training(faces, use_hflip=False, seed=1)[0]["lq"])


def test_n_draws_pairs_come_back(faces: Path):
    dataset = training(faces, n_draws=3)
    pairs = [dataset[Draw(1, draw)]["lq"] for draw in range(6)]
    assert all(torch.equal(first, again) for first, again in zip(pairs[:3], pairs[3:], strict=True))
    assert len({pair.sum().item() for pair in pairs}) == 3
    with pytest.raises(ValueError, match="n_draws"):
        training(faces, n_draws=0)


def test_flip_is_the_only_augmentation(faces: Path):
    dataset = training(faces, degradation=None, gt_only=True)
    plain = training(faces, degradation=None, gt_only=True, use_hflip=False)[0]["gt"]
    flipped = 0
    for draw in range(60):
        item = dataset[Draw(0, draw)]
        assert torch.equal(item["lq"], item["gt"])
        if not torch.equal(item["gt"], plain):
            assert torch.equal(item["gt"], plain.flip(2))
            flipped += 1
    assert 18 <= flipped <= 42


def test_crop_cuts_both_images_alike(faces: Path):
    mild = {
        "preset": "celeba_x4",
        "blur_sigma": [0.001, 0.001],
        "downsample_range": [1, 1],
        "noise_range": None,
        "jpeg_range": None,
    }
    dataset = training(faces, degradation=mild, crop_size=24)
    items = [dataset[Draw(1, draw)] for draw in range(6)]
    assert all(item["gt"].shape == (3, 24, 24) for item in items)
    assert all((item["lq"] - item["gt"]).abs().max() < 1e-6 for item in items)
    assert len({item["gt"].numpy().tobytes() for item in items}) > 1


def test_other_sizes_are_squared_and_resized(tmp_path: Path):
    photo = skimage.data.astronaut()[:384]  # 384 rows, 512 columns
    cv2.imwrite(str(tmp_path / "wide.png"), photo[..., ::-1])
    gt = training(tmp_path, use_hflip=False)[0]["gt"]
    expected = cv2.resize(photo[:, 64:448], (64, 64), interpolation=cv2.INTER_AREA)
    np.testing.assert_allclose(gt.permute(1, 2, 0).numpy() * 255, expected, atol=1e-3)
    assert training(tmp_path, image_size=512)[0]["gt"].shape == (3, 512, 512)


def test_subset_depends_on_names_and_seed_only(faces: Path):
    def names(**options: object) -> list[str]:
        dataset = training(faces, **options)
        return [dataset[index]["gt_path"] for index in range(len(dataset))]

    assert len(names()) == 8
    assert names(n_images=3) == names(n_images=3, seed=5)
    assert set(names(n_images=3)) < set(names(n_images=6))
    assert len({tuple(names(n_images=3, n_images_seed=seed)) for seed in range(6)}) > 1
    keys = [f"{number:05d}" for number in range(1000)]
    chosen = choose(keys, 600, 0)
    assert len(chosen) == 600
    assert 450 < np.mean(chosen) < 550
    with pytest.raises(ValueError, match="n_images"):
        training(faces, n_images=9)


def test_lmdb_equals_disk(faces: Path, faces_lmdb: Path):
    for build in (training, validation):
        disk = build(faces, n_images=6)
        lmdb = build(faces_lmdb, n_images=6, io_backend={"type": "lmdb"})
        for index in range(6):
            assert torch.equal(disk[index]["lq"], lmdb[index]["lq"])
        assert lmdb[2]["gt_path"].startswith(str(faces_lmdb))
    loader = DataLoader(lmdb, num_workers=2)
    assert torch.equal(torch.cat([batch["gt"] for batch in loader])[1], disk[1]["gt"])


def test_validation_pair_is_function_of_name_and_seed(faces: Path, tmp_path: Path):
    item = validation(faces)[4]
    shutil.copy(faces / "face 4.png", tmp_path / "face 4.png")
    alone = validation(tmp_path)[0]
    assert torch.equal(item["lq"], alone["lq"])
    assert torch.equal(item["gt"], alone["gt"])
    shutil.move(tmp_path / "face 4.png", tmp_path / "face 5.png")
    assert not torch.equal(validation(tmp_path)[0]["lq"], item["lq"])
    assert not torch.equal(validation(faces, seed=1)[4]["lq"], item["lq"])


def test_validation_generator_is_fixed_for_all_time():
    from lafr_data.validation_dataset import name_generator

    assert name_generator("ffhq_01000", 0).integers(10**6) == 773585


def test_pairs_match_by_name(faces: Path, faces_lmdb: Path, tmp_path: Path):
    lq = shutil.copytree(faces, tmp_path / "lq")
    image = cv2.imread(str(lq / "face 2.png"))
    (lq / "face 2.png").unlink()
    cv2.imwrite(str(lq / "face 2.jpg"), 255 - image)
    dataset = PairedFaceDataset({"dataroot_lq": str(lq), "dataroot_gt": str(faces), "n_images": 7})
    for index in range(7):
        item = dataset[index]
        assert Path(item["lq_path"]).stem == Path(item["gt_path"]).stem
        distance = (item["lq"] - item["gt"]).abs().mean()
        assert (distance > 0.1) == ("face 2" in item["lq_path"])
    flipped = PairedFaceDataset({"dataroot_lq": str(faces), "dataroot_gt": str(faces), "use_hflip": True})
    items = [flipped[Draw(0, draw)] for draw in range(20)]
    assert all(torch.equal(item["lq"], item["gt"]) for item in items)
    assert len({item["gt"].numpy().tobytes() for item in items}) == 2


def test_unmatched_pairs_are_named(faces: Path, tmp_path: Path):
    lq = shutil.copytree(faces, tmp_path / "lq")
    (lq / "face 0.png").unlink()
    shutil.copy(lq / "face 1.png", lq / "extra.png")
    with pytest.raises(ValueError, match=r"dataroot_lq has no partner for extra; dataroot_gt .* face 0"):
        PairedFaceDataset({"dataroot_lq": str(lq), "dataroot_gt": str(faces)})
    (lq / "extra.png").rename(lq / "face 0.png")
    shutil.copy(lq / "face 1.png", lq / "face 1.jpg")
    with pytest.raises(ValueError, match="more than one file named face 1"):
        PairedFaceDataset({"dataroot_lq": str(lq), "dataroot_gt": str(faces)})


def test_pairs_of_two_sizes_need_image_size(faces: Path, tmp_path: Path):
    for file in faces.glob("*.png"):
        cv2.imwrite(str(tmp_path / file.name), cv2.resize(cv2.imread(str(file)), (16, 16)))
    gt = tmp_path / "gt"
    gt.mkdir()
    for file in faces.glob("*.png"):
        shutil.copy(file, gt)
    lq = shutil.copytree(tmp_path, tmp_path / "lq", ignore=shutil.ignore_patterns("gt", "lq"))
    options = {"dataroot_lq": str(lq), "dataroot_gt": str(gt)}
    with pytest.raises(ValueError, match=r"16x16 and 64x64.*image_size"):
        PairedFaceDataset(options)[0]
    assert PairedFaceDataset({**options, "image_size": 64})[0]["lq"].shape == (3, 64, 64)


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n broken"])
def test_broken_image_is_named(faces: Path, tmp_path: Path, content: bytes):
    root = shutil.copytree(faces, tmp_path / "faces")
    (root / "face 1.png").write_bytes(content)
    with pytest.raises(ValueError, match=r"face 1\.png"):
        training(root)[1]
    with pytest.raises(ValueError, match=r"face 1\.png"):
        training(root, cache=True)


def test_missing_or_empty_folder_is_named(tmp_path: Path):
    for root in (tmp_path, tmp_path / "nowhere", tmp_path / "gone.lmdb"):
        with pytest.raises(FileNotFoundError, match=f"dataroot_gt: {root}"):
            training(root)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"use_flip": True}, "use_flip"),
        ({"image_size": None}, "image_size"),
        ({"image_size": 64.5}, "image_size"),
        ({"degradation": None}, "gt_only"),
        ({"gt_only": True}, "degradation"),
        ({"crop_size": 65}, "crop_size"),
        ({"use_hflip": "yes"}, "use_hflip"),
        ({"io_backend": {"type": "memcached"}}, "memcached"),
        ({"io_backend": {"type": "lmdb"}}, r"\.lmdb"),
        ({"n_images": 0}, "n_images"),
    ],
)
def test_bad_options_are_named(faces: Path, options: dict, named: str):
    with pytest.raises(ValueError, match=named):
        training(faces, **options)


def test_loader_options_are_known(faces: Path):
    """What BasicSR's launcher puts into the same mapping is no fault."""
    assert len(training(faces, name="FFHQ", type="FaceDegradationDataset", phase="train", batch_size_per_gpu=4)) == 8


@pytest.mark.skipif(not (SHARED / "faces" / "val").is_dir(), reason="no faces/val in LAFR_SHARED")
def test_celeba_x4_on_real_faces():
    """The x4 preset leaves faces of 256 pixels near 24 dB: 23.98 in another implementation's draws."""
    dataset = validation(SHARED / "faces" / "val", image_size=256)
    errors = [float(((item["lq"] - item["gt"]) ** 2).mean()) for item in map(dataset.__getitem__, range(100))]
    assert float(np.mean(-10 * np.log10(errors))) == pytest.approx(24.0, abs=0.35)


def test_broken_images_are_found_before_a_run(tmp_path: Path):
    rng = np.random.default_rng(0)
    for name in ("a.jpg", "b.jpg", "c.png", "d.png"):
        cv2.imwrite(str(tmp_path / name), rng.integers(0, 255, (64, 64, 3), dtype=np.uint8))
    for name in ("b.jpg", "c.png"):  # cut off; OpenCV decodes the first without a word
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    (tmp_path / "e.png").write_bytes(b"no image")
    options = {"dataroot_gt": str(tmp_path), "image_size": 32, "degradation": "gfpgan"}
    broken = FaceDegradationDataset(options).broken_images()
    assert [Path(path).name for path in broken] == ["b.jpg", "c.png", "e.png"]
    assert FaceDegradationDataset({**options, "check_images": False}).broken_images() == []
    assert all(issubclass(DATASET_REGISTRY[name], FaceDataset) for name in DATASET_REGISTRY), (
        "who else has no such look"
    )
