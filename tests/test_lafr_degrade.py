"""`lafr degrade` writes what the validation dataset of option files gives."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from lafr.cli import main
from lafr_data.validation_dataset import ValidationFaceDataset


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    folder = tmp_path / "faces"
    for name in ("a.png", "sub/b.c.jpg"):
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        noise = np.random.default_rng(len(name)).integers(0, 256, (9, 9, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / name), cv2.resize(noise, (64, 64), interpolation=cv2.INTER_CUBIC))
    return folder


def test_pairs_are_those_of_validation(faces: Path, tmp_path: Path):
    out = tmp_path / "out"
    assert main(["degrade", str(faces), "-o", str(out), "--size", "32", "--seed", "5"]) == 0
    options = {"dataroot_gt": str(faces), "image_size": 32, "degradation": "celeba_x4", "seed": 5}
    dataset = ValidationFaceDataset(options)
    assert dataset.names() == ["a", "sub/b.c"]
    for index, name in enumerate(dataset.names()):
        for folder, key in (("lq", "lq"), ("hq", "gt")):
            written = cv2.imread(str(out / folder / f"{name}.png"))[..., ::-1].astype(np.float32) / 255
            expected = dataset[index][key].permute(1, 2, 0).numpy()
            assert np.abs(written - expected).max() <= 0.5 / 255 + 1e-6
    assert (cv2.imread(str(out / "lq/a.png")) != cv2.imread(str(out / "hq/a.png"))).any()


def test_nothing_is_overwritten_and_bad_files_are_named(
    faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "out"
    arguments = ["degrade", str(faces), "-o", str(out), "--size", "32"]
    (out / "lq").mkdir(parents=True)
    (out / "hq").mkdir()
    for folder in ("lq", "hq"):
        (out / folder / "a.png").write_text("mine")
    (faces / "broken.png").write_bytes(b"no image")
    assert main(arguments) == 1
    said = capsys.readouterr()
    assert "broken.png" in said.err
    assert "1 faces written, 1 were there, 1 failed" in said.out
    assert (out / "lq/a.png").read_text() == "mine"
    (faces / "broken.png").unlink()
    assert main([*arguments, "--overwrite"]) == 0
    assert cv2.imread(str(out / "lq/a.png")).shape == (32, 32, 3)

    shutil.copy(faces / "a.png", faces / "a.jpg")
    assert main(arguments) == 2
    assert "a is the name of several files" in capsys.readouterr().err
    assert main(["degrade", str(tmp_path / "none"), "-o", str(out)]) == 2
    assert main([*arguments, "--degradation", "strong"]) == 2
    assert "celeba_x4" in capsys.readouterr().err
