"""``lafr figures``: statistics against formulas and scikit-learn, the same by seed, what is missing is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from base_models import write_mini_prior  # noqa: E402
from lafr.cli import main  # noqa: E402
from lafr_arch.lafr_arch import LAFRNet  # noqa: E402
from lafr_arch.network_g_arch import build_lafr
from lafr_studies.ablations.paper_tables import read_ablations  # noqa: E402
from lafr_studies.ablations.row_report import build_report  # noqa: E402
from lafr_studies.figures import compactness, latents, trend  # noqa: E402
from lafr_studies.figures.drawing import tsne  # noqa: E402
from lafr_studies.figures.figure_inputs import FigureError, Source  # noqa: E402
from lafr_studies.figures.point_statistics import (  # noqa: E402
    centroid_distance,
    mean_pairwise_distance,
    paired_distances,
    silhouettes,
)
from stage_options import batch  # noqa: E402

CPU = torch.device("cpu")
SIDE = 32
ADAPTER = {"type": "LatentAlignmentAdapter", "hidden": 16, "n_codes": 8, "blocks": 1}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``faces`` and ``natural`` (six images each), a base model ``mini``, ``deployed``, and ``plain``: no alignment."""
    root = tmp_path_factory.mktemp("figures")
    generator = np.random.default_rng(0)
    for name in ("faces", "natural"):
        (root / name).mkdir()
        for i, image in enumerate(batch(6, SIDE)["gt"]):
            pixels = (255 * image).byte().permute(1, 2, 0).numpy()[..., ::-1]
            noise = generator.integers(0, 256, pixels.shape) if name == "natural" else 8 * i
            cv2.imwrite(str(root / name / f"{i}.png"), (pixels // 2 + noise // 2).astype(np.uint8))
    write_mini_prior(root / "mini")
    for name, alignment in (("deployed", ADAPTER), ("plain", None)):
        torch.manual_seed(0)
        build_lafr(str(root / "mini"), prompt=None, timestep=250, alignment=alignment).save_pretrained(root / name)
    return root


def source(root: Path, **changes: Any) -> Source:
    return Source(**{"model": str(root / "deployed"), "faces": str(root / "faces"), **changes})


# ---- statistics ---------------------------------------------------------------------------------------------------


def test_distances_by_hand():
    points = np.array([[0.0, 0.0], [3.0, 4.0], [0.0, 8.0]])
    assert mean_pairwise_distance(points) == pytest.approx((5 + 8 + 5) / 3)
    centre = np.array([1.0, 4.0])
    expected = np.mean([np.hypot(*(p - centre)) for p in points])
    assert centroid_distance(points) == pytest.approx(expected)
    assert paired_distances(points, points[::-1]).tolist() == [8.0, 0.0, 8.0]
    with pytest.raises(ValueError, match="two points"):
        mean_pairwise_distance(points[:1])


def test_silhouettes_by_hand():
    pytest.importorskip("sklearn")
    points = np.array([[0.0], [1.0], [4.0], [6.0], [20.0]])
    labels = np.array([0, 0, 1, 1, 2])
    # Of the first: 1 to its own class, 5 to the second and 20 to the third; a class of one has 0.
    expected = [(5 - 1) / 5, (4 - 1) / 4, (3.5 - 2) / 3.5, (5.5 - 2) / 5.5, 0]
    assert silhouettes(points, labels).tolist() == pytest.approx(expected)
    with pytest.raises(ValueError, match="two classes"):
        silhouettes(points, np.zeros(5, dtype=np.int64))
    assert silhouettes(np.zeros((4, 2)), np.array([0, 0, 1, 1])).tolist() == [0, 0, 0, 0]


def test_silhouettes_equal_scikit_learns():
    metrics = pytest.importorskip("sklearn.metrics")
    generator = np.random.default_rng(1)
    points = generator.normal(size=(40, 7)) + np.repeat(np.eye(7)[:4], 10, 0)
    labels = np.repeat(np.arange(4), [13, 7, 19, 1])
    np.testing.assert_allclose(silhouettes(points, labels), metrics.silhouette_samples(points, labels), atol=1e-9)
    found = compactness.numbers(points[:25], points[25:])
    labels = np.repeat([0, 1], [25, 15])
    assert found["silhouette"]["all"] == pytest.approx(metrics.silhouette_score(points, labels))
    pairwise = metrics.pairwise_distances(points[:25])
    assert found["intra_class"]["faces"]["pairwise"] == pytest.approx(pairwise[np.triu_indices(25, 1)].mean())


# ---- latents ------------------------------------------------------------------------------------------------------


def test_latents(root: Path, tmp_path: Path):
    pytest.importorskip("sklearn")
    result = latents.make(source(root), "position", tmp_path / "a", CPU)
    again = latents.make(source(root), "position", tmp_path / "b", CPU)
    other = latents.make(source(root, seed=1), "face", tmp_path / "c", CPU)
    assert (tmp_path / "a/latents.json").read_text() == (tmp_path / "b/latents.json").read_text()
    assert json.loads((tmp_path / "a/latents.json").read_text()) == result == again
    assert cv2.imread(str(tmp_path / "a/latents.png")) is not None
    assert other["paired_l2"] != result["paired_l2"]
    assert {kind: len(points) for kind, points in result["tsne"].items()} == {"LQ": 60, "aligned": 60, "HQ": 60}
    assert {len(points) for points in other["tsne"].values()} == {6}

    # Against the network's own steps.
    from lafr_data.validation_dataset import ValidationFaceDataset

    net = LAFRNet.from_pretrained(root / "deployed")
    options = {"dataroot_gt": str(root / "faces"), "image_size": SIDE, "degradation": "celeba_x4", "seed": 0}
    items = [ValidationFaceDataset(options)[i] for i in range(6)]
    lq, hq = (net.encode(torch.stack([item[key] for item in items])) for key in ("lq", "gt"))
    for kind, latent in (("lq", lq), ("aligned", net.align(lq))):
        distance = (latent - hq).flatten(1).norm(dim=1).mean().item()
        assert result["paired_l2"][kind]["mean"] == pytest.approx(distance, rel=1e-4)
        assert result[f"l1_{kind}"] == pytest.approx((latent - hq).abs().mean().item(), rel=1e-4)
        centre = (latent.mean(0) - hq.mean(0)).norm().item()
        assert result["centroid_l2"][kind] == pytest.approx(centre, rel=1e-4)


def test_points_are_vectors_of_the_same_positions():
    rows = [np.arange(2 * 3 * 20, dtype=np.float64).reshape(2, 60) + 1000 * i for i in range(3)]
    sets = latents.Latents(*rows, channels=3, distances={}, names=["a", "b"]).points("position", 5)
    assert [points.shape for points in sets] == [(20, 3)] * 3
    np.testing.assert_array_equal(sets[1] - sets[0], 1000)
    np.testing.assert_array_equal(np.diff(sets[0], axis=1), 20)  # channels lie 20 positions apart
    assert len({tuple(point) for point in sets[0]}) == 20


def test_latents_of_an_option_file(root: Path, tmp_path: Path):
    pytest.importorskip("sklearn")
    torch.manual_seed(3)
    net = build_lafr(str(root / "mini"), prompt=None, alignment=ADAPTER, with_unet=False)
    state = {name: value for name, value in net.state_dict().items() if name.startswith("alignment.")}
    torch.save({"params": state}, tmp_path / "net_g.pth")
    text = f"""
network_g: {{type: LAFRNet, base_model: {root / "mini"}, prompt: ~, with_unet: false, alignment: {json.dumps(ADAPTER)}}}
datasets: {{val: {{type: ValidationFaceDataset, dataroot_gt: {root / "faces"}, degradation: gfpgan, seed: 4}}}}
"""
    (tmp_path / "align.yml").write_text(text)
    chosen = Source(str(tmp_path / "align.yml"), count=4)
    with pytest.raises(FigureError, match="nothing is trained yet: give --weights"):
        latents.make(chosen, "face", tmp_path, CPU)
    chosen = Source(str(tmp_path / "align.yml"), str(tmp_path / "net_g.pth"), count=4)
    result = latents.make(chosen, "face", tmp_path, CPU)
    assert (result["degradation"], result["seed"], result["faces"]) == ("gfpgan", 4, 4)


# ---- compactness --------------------------------------------------------------------------------------------------


def test_compactness(root: Path, tmp_path: Path):
    pytest.importorskip("sklearn")
    arguments = (source(root), str(root / "natural"), "latent")
    result = compactness.make(*arguments, tmp_path / "a", CPU)
    assert result == compactness.make(*arguments, tmp_path / "b", CPU)
    assert (tmp_path / "a/compactness.png").read_bytes() == (tmp_path / "b/compactness.png").read_bytes()
    assert result["count"] == {"faces": 6, "natural": 6}
    # The noise of the natural images scatters them.
    within = result["intra_class"]
    assert within["faces"]["pairwise"] < within["natural"]["pairwise"]
    swapped = compactness.make(source(root, faces=str(root / "natural")), str(root / "faces"), "latent", tmp_path, CPU)
    assert swapped["intra_class"]["natural"] == within["faces"]
    assert swapped["silhouette"]["all"] == pytest.approx(result["silhouette"]["all"])


def test_resnet_features(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The values before torchvision's classifier, of images normalised as it says."""
    from torchvision.models import ResNet50_Weights, resnet50
    from torchvision.transforms.functional import normalize

    monkeypatch.setenv("LAFR_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "none"))
    assert main(["figures", "compactness", "--faces", str(root / "faces"), "--natural", str(root / "natural")]) == 2
    net = resnet50().eval()
    torch.save(net.state_dict(), tmp_path / "resnet50-0676ba61.pth")
    features = compactness.ResNet50Features()
    image = torch.rand(1, 3, 224, 224)
    transform = ResNet50_Weights.IMAGENET1K_V1.transforms()
    with torch.no_grad():
        logits = features(image) @ net.fc.weight.T + net.fc.bias
        expected = net(normalize(image, transform.mean, transform.std))
    torch.testing.assert_close(logits, expected, rtol=1e-3, atol=1e-4)


# ---- trend --------------------------------------------------------------------------------------------------------


def reports(folder: Path) -> list[Path]:
    """Reports of tables 11 and 12 with invented measures: PSNR 20 + log10(images) + seed / 10, less one for OSEDiff."""
    paths = []
    for less, name in enumerate(("11", "12")):
        table = read_ablations().table(name)
        rows = [row for row in table.rows if "mini" in row.scales]
        measures = {
            row.name: {
                seed: {"faces": {"a": {"psnr": 20 - less + np.log10(int(row.name)) + seed / 10}}, "set": {}}
                for seed in (0, 1, 2)
            }
            for row in rows
            if row.name != "300"
        }
        metrics = list(table.columns.values())
        report = build_report(table, rows, metrics, measures, scale="mini", seeds=[0, 1, 2])
        paths.append(folder / f"table_{name}_mini.json")
        paths[-1].write_text(json.dumps(report))
    return paths


def test_trend(tmp_path: Path):
    paths = reports(tmp_path)
    result = trend.make(paths, tmp_path / "out", paper=True)
    assert result["metrics"] == {"PSNR": "psnr"}
    assert list(result["series"]) == ["LAFR", "OSEDiff"]
    points = {point["images"]: point for point in result["series"]["OSEDiff"]["PSNR"]}
    assert list(points) == [100 * i for i in range(1, 10)]
    assert points[100]["mean"] == pytest.approx(21.1)
    assert points[100]["sd"] == pytest.approx(0.1)
    half = 4.302653 * 0.1 / np.sqrt(3)
    assert (points[100]["low"], points[100]["high"]) == pytest.approx((21.1 - half, 21.1 + half))
    assert points[100]["paper"] == 25.95
    assert "mean" not in points[300]
    assert json.loads((tmp_path / "out/trend.json").read_text()) == result
    assert cv2.imread(str(tmp_path / "out/trend.png")) is not None
    assert list(trend.make(paths[:1], tmp_path / "out")["series"]) == ["LAFR"]
    assert "PSNR   LAFR     22.1 with 100 -> 23.05 with 900" in trend.text(result)


# ---- command and errors -------------------------------------------------------------------------------------------


def test_command(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    paths = reports(tmp_path)
    assert main(["figures", "trend", str(paths[0]), "-o", str(tmp_path / "out")]) == 0
    assert "trend.png" in capsys.readouterr().out
    broken = tmp_path / "broken.json"
    broken.write_text("{}")
    faces, deployed = ["--faces", str(root / "faces")], ["--model", str(root / "deployed")]
    for arguments, message in (
        (["trend", str(tmp_path / "none.json")], "none.json does not exist"),
        (["trend", str(broken)], "is no report of `lafr ablate 11`"),
        (["trend", str(paths[0]), str(paths[0])], "two reports are of the same method"),
        (["latents", *deployed], "--faces is missing"),
        (["latents", *deployed, "--faces", str(tmp_path / "none")], "none"),
        (["latents", "--model", str(tmp_path / "none"), *faces], "none"),
        (["latents", "--model", "bicubic", *faces], "bicubic is no LAFR network"),
        (["latents", "--model", str(root / "plain"), *faces], "has no alignment module"),
        (["latents", *deployed, *faces, "--degradation", "nothing"], "nothing"),
        (["latents", *deployed, *faces, "--seed", "-1"], "--seed must not be negative"),
        (["latents", *deployed, *faces, "--device", "abacus"], "--device"),
        (["compactness", *deployed, *faces, "--features", "latent", "--natural", str(tmp_path / "none")], "none"),
        (["compactness", *deployed, *faces, "--count", "1", "--features", "latent", "--natural", faces[1]], "two are"),
    ):
        assert main(["figures", *arguments, "-o", str(tmp_path / "no")]) == 2, arguments
        assert message in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


def test_tsne_without_scikit_learn(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "sklearn.manifold", None)
    with pytest.raises(FigureError, match=r"pip install 'lafr\[figures\]'"):
        tsne(np.zeros((5, 2)), 0)
