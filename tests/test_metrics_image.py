"""PSNR, SSIM, NIQE and the suite: agreement with scikit-image and pyiqa, what is missing, what is refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

import lafr
from lafr_base import weights
from lafr_metrics.statistics import bootstrap_mean
from lafr_metrics.suite import METRICS, MetricError, Suite, protocol, summarise
from lafr_metrics.validation import PREFIX, option_faults, required_weights

# Half of the last digit that papers print: PSNR with 2, SSIM with 4, NIQE with 3.
PSNR_DIGIT, SSIM_DIGIT, NIQE_DIGIT = 5e-3, 5e-5, 5e-4


@pytest.fixture(autouse=True)
def no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty weights folder and empty caches."""
    for name in ("LAFR_WEIGHTS", "TORCH_HOME", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
    return tmp_path / "LAFR_WEIGHTS"


@pytest.fixture(scope="module")
def pair(astronaut: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A photo (200, 296, 3) BGR uint8 and the same after 2 x down, up and noise."""
    import cv2

    sharp = np.ascontiguousarray(astronaut[20:220, 60:356, ::-1])
    small = cv2.resize(sharp, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    blurred = cv2.resize(small, sharp.shape[1::-1], interpolation=cv2.INTER_CUBIC).astype(np.float64)
    noise = np.random.default_rng(0).normal(0, 5, sharp.shape)
    return (blurred + noise).round().clip(0, 255).astype(np.uint8), sharp


def luma(bgr: np.ndarray) -> np.ndarray:
    """Y of ITU-R BT.601 for 8-bit video, 16 to 235, from its definition."""
    b, g, r = (bgr[..., i].astype(np.float64) / 255 for i in range(3))
    return 16 + 65.481 * r + 128.553 * g + 24.966 * b


def skimage_ssim(a: np.ndarray, b: np.ndarray) -> float:
    axis = {"channel_axis": 2} if a.ndim == 3 else {}
    return structural_similarity(
        a, b, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, **axis
    )


def test_psnr_and_ssim_agree_with_scikit_image(pair: tuple[np.ndarray, np.ndarray]):
    values = Suite(["psnr", "psnr_y", "ssim", "ssim_y"]).measure(*pair)
    restored, reference = pair
    y = luma(reference), luma(restored)
    expected = {
        "psnr": peak_signal_noise_ratio(reference, restored, data_range=255),
        "psnr_y": peak_signal_noise_ratio(*y, data_range=255),
        "ssim": skimage_ssim(reference, restored),
        "ssim_y": skimage_ssim(*y),
    }
    for name in ("psnr", "psnr_y"):
        assert values[name] == pytest.approx(expected[name], abs=1e-4), name
    for name in ("ssim", "ssim_y"):
        assert values[name] == pytest.approx(expected[name], abs=1e-6), name
    assert values["psnr_y"] - values["psnr"] > 1, "RGB and Y are different numbers"


def test_psnr_ssim_and_niqe_agree_with_basicsr(pair: tuple[np.ndarray, np.ndarray]):
    pytest.importorskip("basicsr.metrics", reason="BasicSR is not installed")
    from basicsr.metrics import calculate_niqe, calculate_psnr, calculate_ssim

    values = Suite(["psnr", "psnr_y", "ssim", "ssim_y", "niqe"]).measure(*pair)
    for suffix, y in (("", False), ("_y", True)):
        assert values[f"psnr{suffix}"] == pytest.approx(calculate_psnr(*pair, 0, test_y_channel=y), abs=1e-6)
        assert values[f"ssim{suffix}"] == pytest.approx(calculate_ssim(*pair, 0, test_y_channel=y), abs=1e-7)
    assert values["niqe"] == pytest.approx(calculate_niqe(pair[0], 0), abs=NIQE_DIGIT)


def test_psnr_ssim_and_niqe_agree_with_pyiqa(pair: tuple[np.ndarray, np.ndarray]):
    pytest.importorskip("pyiqa", reason="pyiqa (extra `metrics`) is not installed")
    import basicsr.metrics.niqe
    from pyiqa.archs.niqe_arch import calculate_niqe
    from pyiqa.archs.psnr_arch import PSNR
    from pyiqa.archs.ssim_arch import SSIM, ssim

    values = Suite(["psnr", "psnr_y", "ssim", "ssim_y", "niqe"]).measure(*pair)
    x, y = (torch.from_numpy(image[..., ::-1].transpose(2, 0, 1).copy())[None].float() / 255 for image in pair)
    assert values["psnr"] == pytest.approx(PSNR()(x, y).item(), abs=PSNR_DIGIT)
    assert values["psnr_y"] == pytest.approx(
        PSNR(test_y_channel=True, color_space="ycbcr")(x, y).item(), abs=PSNR_DIGIT
    )
    assert values["ssim"] == pytest.approx(SSIM(test_y_channel=False)(x, y).item(), abs=SSIM_DIGIT)
    # pyiqa's SSIM class rounds Y first (0.001 lower here), BasicSR does not; its function takes Y as it is.
    y_channels = (torch.from_numpy(luma(image))[None, None] for image in pair)
    assert values["ssim_y"] == pytest.approx(ssim(*y_channels, data_range=255).item(), abs=SSIM_DIGIT)

    folder = Path(basicsr.metrics.niqe.__file__).parent
    parameters = np.load(folder / "niqe_pris_params.npz")
    mean, covariance = (torch.from_numpy(parameters[f"{name}_pris_param"]) for name in ("mu", "cov"))
    expected = calculate_niqe(x, color_space="ycbcr", mu_pris_param=mean, cov_pris_param=covariance).item()
    assert values["niqe"] == pytest.approx(expected, abs=NIQE_DIGIT)


def test_equal_images(pair: tuple[np.ndarray, np.ndarray]):
    values = Suite(["psnr", "psnr_y", "ssim", "ssim_y"]).measure(pair[1], pair[1])
    assert values == {"psnr": math.inf, "psnr_y": math.inf, "ssim": pytest.approx(1), "ssim_y": pytest.approx(1)}


@pytest.mark.parametrize(
    ("restored", "reference", "message"),
    [
        ((20, 30, 3), (20, 31, 3), "restored image is 30 x 20, its reference 31 x 20"),
        ((20, 30), (20, 30), r"should be \(H, W, 3\) BGR uint8, is \(20, 30\)"),
        ((20, 30, 3), None, "a reference image is needed"),
        ((10, 30, 3), (10, 30, 3), "at least 11 x 11"),
    ],
)
def test_unfit_images_are_refused(restored: tuple[int, ...], reference: tuple[int, ...] | None, message: str):
    images = [None if shape is None else np.zeros(shape, np.uint8) for shape in (restored, reference)]
    with pytest.raises(MetricError, match=message):
        Suite(["ssim"]).measure(*images)


def test_floats_are_refused():
    with pytest.raises(MetricError, match="float32"):
        Suite(["niqe"]).measure(np.zeros((200, 200, 3), np.float32))


def test_a_metric_that_fails_is_named_and_the_others_are_measured(pair: tuple[np.ndarray, np.ndarray]):
    small = [np.ascontiguousarray(image[:100, :150]) for image in pair]
    flat = np.full((200, 200, 3), 127, np.uint8)
    suite = Suite(["niqe", "ssim"])
    errors: dict[str, str] = {}
    assert list(suite.measure(*small, errors)) == ["ssim"]
    assert list(errors) == ["niqe"]
    assert "150 x 100" in errors["niqe"]
    with pytest.raises(MetricError, match="two blocks of 96 x 96"):
        suite.measure(*small)
    values = suite.measure(flat, flat, errors := {})
    assert "niqe" in errors, f"NIQE of a flat image is no number, got {values.get('niqe')}"


def test_every_metric_is_usable_or_missing_with_what_to_do():
    suite = Suite()
    carried = ["features_lite0", "frechet_lite0"] if weights.find("efficientnet-lite0") else []  # by its package
    assert [name for name in suite.names if name not in carried] == ["psnr", "psnr_y", "ssim", "ssim_y", "niqe"]
    assert set(carried) <= set(suite.names)
    assert [*suite.names, *suite.missing] != list(METRICS)
    assert {*suite.names, *suite.missing} == set(METRICS)
    for name, reason in suite.missing.items():
        for weight in METRICS[name].weights:
            assert weight in reason, f"{name}: its weights are named"
        assert "lafr weights --fetch" in reason or "cannot be fetched" in reason


def test_a_missing_package_is_named_beside_the_missing_weights(monkeypatch: pytest.MonkeyPatch):
    import lafr_metrics.specs

    monkeypatch.setattr(lafr_metrics.specs, "find_spec", lambda name: None)
    reason = Suite(["musiq"]).missing["musiq"]
    assert "pip install 'lafr[metrics]'" in reason
    assert "musiq_koniq_ckpt" in reason


def test_without_references_comparing_metrics_are_missing(pair: tuple[np.ndarray, np.ndarray]):
    suite = Suite(["psnr", "niqe", "fid"], reference=False)
    assert suite.names == ["niqe"]
    assert "none were given" in suite.missing["psnr"]
    assert "none were given" in suite.missing["fid"]
    assert list(suite.measure(pair[0])) == ["niqe"]


def test_weights_of_another_net_make_a_metric_missing(no_weights: Path):
    no_weights.mkdir()
    torch.save({"conv1.weight": torch.zeros(4, 1, 3, 3)}, no_weights / "arcface_resnet18.pth")
    (no_weights / "alignment_WFLW_4HG.pth").write_bytes(b"damaged")
    suite = Suite(["deg", "lmd", "psnr"])
    assert suite.names == ["psnr"]
    assert "arcface_resnet18.pth is not a ArcFaceResNet18" in suite.missing["deg"]
    assert suite.missing["lmd"]


def test_unknown_metrics_are_refused():
    with pytest.raises(ValueError, match=r"'lpips'; did you mean `lpips_vgg`\?; known: psnr, .*lpips_alex"):
        Suite(["psnr", "lpips"])


def test_summary_is_the_bootstrap_of_the_finite_values():
    rows = {
        "a": {"psnr": 20.0, "niqe": 5.0},
        "b": {"psnr": math.inf, "niqe": 6.0},
        "c": {"psnr": 23.0},
        "d": {"ssim_y": math.inf},
    }
    summary = summarise(rows)
    assert summary["psnr"] == {**bootstrap_mean([20.0, 23.0]), "left_out": 1}
    assert summary["niqe"] == {**bootstrap_mean([5.0, 6.0]), "left_out": 0}
    assert summary["ssim_y"] == {"mean": None, "low": None, "high": None, "count": 0, "left_out": 1}


def test_protocol_tells_versions_and_variants():
    report = protocol(["ssim", "lpips_vgg", "deg"])
    assert report["versions"]["torch"] == torch.__version__.split("+")[0]
    assert report["versions"]["lafr"] == lafr.__version__
    assert list(report["metrics"]) == ["ssim", "lpips_vgg", "deg"]
    assert "sigma 1.5" in report["metrics"]["ssim"]["variant"]
    assert "under 1 degree are kept" in report["metrics"]["deg"]["variant"]
    assert report["metrics"]["lpips_vgg"]["weights"] == ["vgg16"]


def test_image_metrics_are_registered_and_give_the_suites_values(pair: tuple[np.ndarray, np.ndarray]):
    from basicsr.metrics import calculate_metric
    from basicsr.utils.registry import METRIC_REGISTRY

    lafr.register()
    names = [name for name, spec in METRICS.items() if spec.kind == "image"]
    assert all(f"{PREFIX}{name}" in METRIC_REGISTRY for name in names)
    restored, reference = pair
    data: dict[str, Any] = {"img": restored, "img2": reference}
    values = Suite(["psnr_y", "niqe"]).measure(restored, reference)
    assert calculate_metric(data, {"type": "calculate_lafr_psnr_y"}) == values["psnr_y"]
    assert calculate_metric({"img": restored}, {"type": "calculate_lafr_niqe", "better": "lower"}) == values["niqe"]
    with pytest.raises(MetricError, match=r"(?s)calculate_lafr_deg: a weight is missing.*- arcface-resnet18"):
        calculate_metric(data, {"type": "calculate_lafr_deg", "better": "lower"})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"type": "calculate_lafr_niqe"}, "write `better: lower`"),
        ({"type": "calculate_lafr_psnr", "better": "lower"}, "write `better: higher`"),
        ({"type": "calculate_lafr_lpips", "better": "lower"}, "calculate_lafr_lpips_alex"),
        ({"type": "calculate_lafr_fid"}, "write `better: lower`"),
    ],
)
def test_faults_of_yaml_options_are_told_before_a_run(options: dict[str, Any], message: str):
    (fault,) = option_faults("val: metrics: x", options)
    assert fault.startswith("val: metrics: x: ")
    assert message in fault


def test_right_yaml_options_and_other_libraries_have_no_faults():
    assert option_faults("x", {"type": "calculate_lafr_niqe", "better": "lower"}) == []
    assert option_faults("x", {"type": "calculate_niqe", "crop_border": 0}) == []
    assert required_weights({"type": "calculate_lafr_lpips_vgg"}) == ["vgg16"]
    assert required_weights({"type": "calculate_psnr"}) == []


def test_missing_weights_of_a_validation_metric_stop_a_run_with_the_others(tmp_path: Path):
    from lafr_models.startup import MissingFilesError, require_files

    lafr.register()
    opt: dict[str, Any] = {
        "path": {},
        "datasets": {"val": {"dataroot_gt": str(tmp_path / "nowhere")}},
        "val": {
            "metrics": {
                "deg": {"type": "calculate_lafr_deg", "better": "lower"},
                "lmd": {"type": "calculate_lafr_lmd"},
            }
        },
    }
    with pytest.raises(MissingFilesError) as caught:
        require_files(opt)
    message = str(caught.value)
    for part in ("arcface-resnet18", "awing", "val: metrics: lmd: better: higher", "nowhere does not exist"):
        assert part in message
