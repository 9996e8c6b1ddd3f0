"""FID: the distance against the published formula, the features against pyiqa's or BasicSR's Inception."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from scipy import linalg
from torch import nn

import lafr_metrics.fid_metric
from lafr_metrics.fid_metric import FID, Gaussian, fid_inception, frechet_distance, inception_input
from lafr_metrics.suite import MetricError, Suite

FILE = "pt_inception-2015-12-05-6726825d.pth"


def formula(a: np.ndarray, b: np.ndarray) -> float:
    """Heusel et al., 2017: |m - m'|^2 + tr(C + C' - 2 (C C')^1/2), with the covariances themselves."""
    c, d = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = np.real(linalg.sqrtm(c @ d))
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(c) + np.trace(d) - 2 * np.trace(root))


@pytest.mark.parametrize("counts", [(500, 300), (500, 40)])
def test_distance_agrees_with_the_formula(counts: tuple[int, int]):
    rng = np.random.default_rng(0)
    mix = rng.normal(size=(32, 32))
    a, b = rng.normal(size=(counts[0], 32)) @ mix, 0.8 * rng.normal(size=(counts[1], 32)) + 0.3
    value = frechet_distance(Gaussian.of_features(a), Gaussian.of_features(b))
    assert value == pytest.approx(formula(a, b), rel=1e-8)


def test_fewer_images_than_features_agree_with_the_eigenvalues():
    # The covariances are singular; the eigenvalues of C D, (A A^T) (B B^T) in small, need no matrix root.
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(12, 200)), rng.normal(0.1, 1.3, size=(9, 200))
    x, y = (a - a.mean(0)) / np.sqrt(11), (b - b.mean(0)) / np.sqrt(8)
    roots = np.sqrt(np.linalg.eigvals(x @ y.T @ y @ x.T).real.clip(0)).sum()
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + (x**2).sum() + (y**2).sum() - 2 * roots
    value = frechet_distance(Gaussian.of_features(a), Gaussian.of_features(b))
    assert value == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(Gaussian.of_features(a), Gaussian.of_features(a)) == pytest.approx(0, abs=1e-9)


def test_statistics_of_a_file_are_the_features_own(tmp_path: Path):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(50, 16)), rng.normal(0.2, 1.1, size=(60, 16))
    np.savez(tmp_path / "stats.npz", mu=b.mean(0), sigma=np.cov(b, rowvar=False))
    value = frechet_distance(Gaussian.of_features(a), Gaussian.of_file(tmp_path / "stats.npz"))
    assert value == pytest.approx(formula(a, b), rel=1e-8)
    np.savez(tmp_path / "other.npz", mean=b.mean(0))
    with pytest.raises(ValueError, match=r"other\.npz should hold mu .* has mean"):
        Gaussian.of_file(tmp_path / "other.npz")


def test_one_image_has_no_covariance():
    with pytest.raises(MetricError, match="at least 2 images of each set, and there are 1"):
        Gaussian.of_features(np.zeros((1, 8)))


@pytest.fixture(scope="module")
def weights_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Inception of the published layout, random weights, and statistics of FFHQ's layout."""
    from torchvision.models import Inception3

    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    net = Inception3(num_classes=1008, aux_logits=False, init_weights=False)
    for parameter in net.parameters():
        if parameter.dim() == 4:  # keeps the signal's size through the ReLUs
            torch.nn.init.kaiming_normal_(parameter)
    torch.save(net.state_dict(), folder / FILE)
    rng = np.random.default_rng(0)
    covariance = np.diag(rng.random(2048))
    np.savez(folder / "ffhq_clean_trainval70k_512.npz", mu=rng.normal(size=2048), sigma=covariance)
    return folder


@pytest.fixture
def folders(tmp_path: Path, astronaut: np.ndarray) -> tuple[Path, Path]:
    """Two folders of three and two images."""
    for name, count, sigma in (("restored", 3, 2.0), ("reference", 2, 0.5)):
        (tmp_path / name).mkdir()
        for i in range(count):
            crop = np.ascontiguousarray(astronaut[60 * i : 60 * i + 200, 20 * i : 20 * i + 220, ::-1])
            cv2.imwrite(str(tmp_path / name / f"{i}.png"), cv2.GaussianBlur(crop, (0, 0), sigma))
    return tmp_path / "restored", tmp_path / "reference"


def test_features_of_a_folder_agree_with_pyiqa(
    folders: tuple[Path, Path], weights_folder: Path, monkeypatch: pytest.MonkeyPatch
):
    pytest.importorskip("pyiqa", reason="pyiqa (extra `metrics`) is not installed")
    from pyiqa.utils import download_util

    monkeypatch.setenv("LAFR_WEIGHTS", str(weights_folder))
    monkeypatch.setattr(download_util, "DEFAULT_CACHE_DIR", str(weights_folder))  # where pyiqa looks for its download
    from pyiqa.archs import fid_arch

    peer = fid_arch.FID()
    folder = folders[1]
    theirs = fid_arch.get_folder_features(str(folder), peer.model, 0, device=torch.device("cpu"), verbose=False)
    mine = FID(torch.device("cpu")).features(sorted(folder.iterdir()))
    np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=1e-4 * np.abs(theirs).max())


def test_suite_measures_both_fids_and_names_unreadable_files(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # Colours of 16 fields instead of Inception's features.
    fields = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten())
    monkeypatch.setattr(lafr_metrics.fid_metric, "fid_inception", lambda path: fields)
    monkeypatch.setenv("LAFR_WEIGHTS", str(tmp_path))
    (tmp_path / FILE).write_bytes(b"not read")
    np.savez(tmp_path / "ffhq_clean_trainval70k_512.npz", mu=np.full(48, 0.5), sigma=np.eye(48))
    restored, reference = (sorted(folder.iterdir()) for folder in folders)
    damaged = folders[1] / "9.png"
    damaged.write_bytes(b"no image")
    seen: list[str] = []

    def progress(paths: object, title: str) -> object:
        seen.append(title)
        return paths

    suite = Suite(["fid", "fid_ffhq", "psnr"])
    errors: dict[str, str] = {}
    values = suite.measure_set(restored, [*reference, damaged], errors, progress)
    assert list(values) == ["fid", "fid_ffhq"]
    assert list(errors) == [str(damaged)]
    assert seen == ["FID, restored", "FID, reference"]
    assert values["fid"] > 1e-3
    colours = fields(torch.stack([inception_input(cv2.imread(str(path))[..., ::-1]) for path in restored])).numpy()
    spread = colours.var(0, ddof=1).sum()
    # Against the unit covariance the root is that of the covariance itself, of rank 2.
    roots = np.sqrt(np.linalg.eigvalsh(np.cov(colours, rowvar=False).astype(np.float64)).clip(0))
    expected = ((colours.mean(0) - 0.5) ** 2).sum() + spread + 48 - 2 * roots.sum()
    assert values["fid_ffhq"] == pytest.approx(expected, rel=1e-3)
    assert suite.measure_set(restored, restored)["fid"] == pytest.approx(0, abs=1e-6)

    assert suite.measure_set(restored[:1], reference, errors := {}) == {}
    assert set(errors) == {"fid", "fid_ffhq"}
    with pytest.raises(MetricError, match="at least 2"):
        suite.measure_set(restored, reference[:1])


def test_features_agree_with_basicsrs_inception(
    weights_folder: Path, folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
):
    from basicsr.archs import inception

    monkeypatch.setattr(inception, "LOCAL_FID_WEIGHTS", str(weights_folder / FILE))
    peer = inception.InceptionV3([3], resize_input=False, normalize_input=False).eval()
    x = 2 * torch.rand(1, 3, 299, 299) - 1
    with torch.no_grad():
        expected = peer(x)[0].flatten(1)
        torch.testing.assert_close(fid_inception(weights_folder / FILE)(x), expected)


def test_another_net_is_refused(tmp_path: Path):
    torch.save({"fc.weight": torch.zeros(2, 2)}, tmp_path / "net.pth")
    with pytest.raises(ValueError, match=r"net\.pth is not a Inception3"):
        FID(torch.device("cpu"), str(tmp_path / "net.pth"))
