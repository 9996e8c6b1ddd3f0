"""Benchmarks run as a user would run them, on networks too small to measure anything."""

from __future__ import annotations

import functools
import importlib.util
import json
import sys
from pathlib import Path
from statistics import median
from types import ModuleType

import numpy as np
import pytest
import torch
from skimage import data as photos
from skimage import io

from lafr_arch.lafr_arch import LAFRNet

ROOT = Path(__file__).resolve().parent.parent


def load(name: str) -> ModuleType:
    """The script benchmarks/NAME.py as a module."""
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", ROOT / "benchmarks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_inference(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    script = load("inference")
    monkeypatch.setattr(script, "matmul_peak", functools.partial(script.matmul_peak, size=256))
    out = tmp_path / "inference.json"
    arguments = ["--scale", "tiny", "--batch", "2", "1", "--repeat", "3", "--check", "--out", str(out)]
    arguments += ["--networks", "peer", "plain", "fast", "fast_bf16"]
    monkeypatch.setattr(sys, "argv", ["inference.py", *arguments])
    assert script.main() == 0
    report = json.loads(out.read_text())
    first = report["batches"][0]
    assert [batch["batch"] for batch in report["batches"]] == [2, 1]
    assert first["flops"]["decode"] == 2 * report["batches"][1]["flops"]["decode"]
    networks = first["networks"]
    assert [len(networks[name]["all_totals"]) for name in ("peer", "plain", "fast", "fast_bf16")] == [3, 2, 3, 2]
    totals = {name: median(figures["all_totals"]) for name, figures in networks.items()}
    assert (report["peer"], report["deployed"]) == ("peer", "fast")
    assert report["ratio"] == pytest.approx(totals["fast"] / totals["peer"])
    assert report["ratios"]["fast_bf16"] == pytest.approx(totals["fast_bf16"] / totals["peer"])
    assert networks["fast"]["seconds_per_face"] == pytest.approx(totals["fast"] / 2)
    assert report["share_of_peak"]["fast"] == pytest.approx(
        first["flops"]["total"] / totals["fast"] / report["peak_flops_per_second"]
    )
    assert networks["fast"]["largest_difference"] < 1e-3
    # Of random weights bf16 changes much: it takes other codes.
    levels = {name: figures.get("mean_difference_in_levels") for name, figures in networks.items()}
    assert levels["fast"] < 0.01 < levels["fast_bf16"]
    assert report["equality"].pop("fast_bf16")["latent_difference_over_range"] > 1e-4
    assert all(figures["latent_difference_over_range"] < 1e-4 for figures in report["equality"].values())
    assert f"fast {report['ratio']:.3f}" in capsys.readouterr().out


def test_inference_as_on_a_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """The GPU's networks in its precisions, on a CPU."""
    script = load("inference")
    compiled: list[object] = []

    def compiler(network: torch.nn.Module, device: torch.device) -> torch.nn.Module:
        compiled.append(network)
        return torch.compile(network, backend="eager", dynamic=False)  # type: ignore[return-value]

    monkeypatch.setattr(script, "is_gpu", lambda device: True)
    monkeypatch.setattr(script, "CompiledNetwork", compiler)
    monkeypatch.setattr(script, "matmul_peak", functools.partial(script.matmul_peak, size=256))
    out = tmp_path / "inference.json"
    arguments = ["--scale", "tiny", "--device", "cpu", "--batch", "1", "3", "--repeat", "2", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["inference.py", *arguments])
    assert script.main() == 0
    report = json.loads(out.read_text())
    assert (report["peer"], report["deployed"]) == ("peer", "compiled")
    assert [network.dtype for network in compiled] == [torch.float16]
    for batch, parts in zip(report["batches"], (1, 3), strict=True):
        networks = batch["networks"]
        assert set(networks) == {"peer", "plain", "fast", "compiled"}, "the default"
        assert {len(figures["all_totals"]) for figures in networks.values()} == {2}
        assert set(networks["compiled"]["seconds"]) == {"total"}
        assert set(networks["fast"]["seconds"]) == {"encode", "align", "denoise", "decode", "total"}
        assert networks["compiled"]["seconds_per_face"] == networks["compiled"]["seconds"]["total"] / parts
        assert 0 < networks["compiled"]["mean_difference_in_levels"] < 1, "fp16"
    totals = {name: figures["seconds"]["total"] for name, figures in report["batches"][0]["networks"].items()}
    assert report["ratio"] == pytest.approx(totals["compiled"] / totals["peer"])


def test_inference_refuses_what_it_cannot_check(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "argv", ["inference.py", "--scale", "mini", "--check"])
    with pytest.raises(SystemExit, match="2"):
        load("inference").main()


def test_engines(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    script = load("engines")
    monkeypatch.setattr(script, "ROWS", (("torch", "fp32"), ("kernels", "fp32"), ("kernels", "int4")))
    monkeypatch.setattr(script, "obstacle", lambda _, precision, __: "not here" if precision == "int4" else None)
    (tmp_path / "faces").mkdir()
    io.imsave(tmp_path / "faces/0.png", photos.astronaut()[:256, 80:336], check_contrast=False)
    out = tmp_path / "engines.json"
    arguments = ["--size", "64", "--faces", str(tmp_path / "faces"), "--repeat", "1", "--out", str(out)]
    arguments += ["--n_faces", "1"]
    monkeypatch.setattr(sys, "argv", ["engines.py", *arguments])
    assert script.main() == 0
    (measured,) = json.loads(out.read_text())["sizes"]
    assert (measured["size"], measured["faces"]) == (64, 1)
    assert measured["left_out"] == {"kernels int4": "not here"}
    plain, fast = (measured["rows"][f"{engine} fp32"] for engine in ("torch", "kernels"))
    for row in (plain, fast):
        assert set(row["seconds"]) == {"whole", "encode", "align", "denoise", "decode"}
        assert 0 < row["ready_and_first_face"] < row["start"]
        assert row["disk_mb"] > 20
    assert plain["largest_levels"] == 0 < fast["largest_levels"] < 1
    assert fast["psnr"] == pytest.approx(plain["psnr"], abs=0.01)
    assert str(tmp_path) not in out.read_text()
    assert "kernels int4: left out, not here" in capsys.readouterr().out


def test_startup(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    out = tmp_path / "startup.json"
    monkeypatch.setattr(sys, "argv", ["startup.py", "--engine", "torch", "--repeat", "1", "--out", str(out)])
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    assert load("startup").main() == 0
    figures = json.loads(out.read_text())["engines"]["torch"]
    assert figures["engine"] == "torch"
    for which in ("first", "again"):
        assert sum(figures[which]["seconds"].values()) < figures[which]["wall"]
        assert figures[which]["cpu"] > 0


def test_decoder_speed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    script = load("decoder")
    out = tmp_path / "decoder.json"
    arguments = ["speed", "--scale", "tiny", "--batch", "1", "2", "--repeat", "3", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["decoder.py", *arguments])
    assert script.main() == 0
    report = json.loads(out.read_text())
    one, two = report["batches"]
    medians = {name: median(row["all"]) for name, row in one["seconds"]["decode"].items()}
    assert set(medians) == {"own_plain", "small_plain", "own_fast", "small_fast"}
    assert report["ratio"] == pytest.approx(medians["small_fast"] / medians["own_fast"])
    assert two["decode_flops"]["small"] == 2 * one["decode_flops"]["small"] < 2 * one["decode_flops"]["own"]
    assert max(one["fast_to_plain_largest_difference_over_range"].values()) < 1e-4
    assert f"{report['ratio']:.3f}" in capsys.readouterr().out


def test_decoder_quality(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    script = load("decoder")
    net = script.networks("mini", script.MODELS["mini"])["own"]
    script.with_decoder(net, {"type": "SmallDecoder", "widths": [16], "blocks": [0]}).save_pretrained(tmp_path / "net")
    (tmp_path / "faces").mkdir()
    io.imsave(tmp_path / "faces/0.png", photos.astronaut()[:256, 80:336], check_contrast=False)
    out = tmp_path / "quality.json"
    arguments = ["quality", str(tmp_path / "faces"), "--model", str(tmp_path / "net"), "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["decoder.py", *arguments])
    assert script.main() == 0
    report = json.loads(out.read_text())
    psnr = {column: value["mean"] for column, value in report["metrics"]["psnr"].items()}
    assert psnr["small"] < 15 < psnr["own"] < psnr["own_of_hq_latent"]  # the small one's weights are random
    assert set(report["metrics"]["niqe"]) == {"small", "own", "small_minus_own"}
    assert psnr["small_minus_own"] == pytest.approx(psnr["small"] - psnr["own"])
    assert report["decoder"]["widths"] == [16]


@pytest.mark.parametrize("arguments", [["--scale", "mini"], ["--model", "somewhere"], ["--repeat", "0"]])
def test_decoder_speed_refuses(monkeypatch: pytest.MonkeyPatch, arguments: list[str]):
    monkeypatch.setattr(sys, "argv", ["decoder.py", "speed", *arguments])
    with pytest.raises(SystemExit, match="2"):
        load("decoder").main()


def test_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    out = tmp_path / "folder.json"
    arguments = ["--parts", "processes", "--faces", "4", "--repeat", "1", "--folder", str(tmp_path), "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["folder.py", *arguments])
    out.write_text(json.dumps({"memory": [{"photos": 7}]}))
    assert load("folder").main() in (0, None)
    report = json.loads(out.read_text())
    assert report["memory"] == [{"photos": 7}], "parts that were measured before are kept"
    (one,), (two,) = report["processes"]["one"], report["processes"]["two"]
    assert one["shares"] == [4]
    assert len(two["shares"]) == 2
    assert sum(two["shares"]) == 4
    assert report["ratio"] == pytest.approx(two["faces_per_second"] / one["faces_per_second"])
    assert str(tmp_path) not in out.read_text()


@pytest.mark.parametrize(("degradation", "size"), [("unseen_x4", 512), ("none", 256)])
def test_quality(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, degradation: str, size: int):
    (tmp_path / "faces").mkdir()
    io.imsave(tmp_path / "faces/0.png", photos.astronaut()[:256, 80:336], check_contrast=False)
    out = tmp_path / "quality.json"
    arguments = ["--degradation", degradation, "--size", str(size), "--seeds", "0", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["quality.py", str(tmp_path / "faces"), *arguments])
    assert load("quality").main() == 0
    report = json.loads(out.read_text())
    assert report["set"]["image_size"] == size
    psnr = report["metrics"]["psnr"]
    sharpness = report["metrics"]["sharpness"]["median"]
    if degradation == "none":
        assert psnr["lq"]["mean"] == 100  # where there is no error
        assert sharpness["lq"] == sharpness["hq"]
    else:
        assert psnr["lq"]["mean"] < 32
        assert sharpness["lq"] < 0.6 * sharpness["hq"]


def test_unseen_degradation_is_a_function_of_its_generator(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    script = importlib.import_module("unseen_degradation")
    face = photos.astronaut()[:128, 100:228].astype(np.float32) / 255
    first, again, other = (script.UnseenDegradation(4, 128).apply(face, np.random.default_rng(s)) for s in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert first.shape == face.shape
    assert not np.array_equal(first, other)
    assert np.abs(first - face).mean() < 0.15


def test_every_path_of_a_shaking_hand_fits_its_kernel(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    script = importlib.import_module("unseen_degradation")
    for seed in range(300):
        rng = np.random.default_rng(seed)
        assert script.shake_kernel(rng.uniform(1, 16), rng).sum() == pytest.approx(1, abs=1e-5)


def test_parts_timed_alone_give_the_whole_with_a_fidelity_path(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    script = importlib.import_module("inference")
    net = LAFRNet.from_pretrained(ROOT / "lafr/pretrained/mini")
    assert net.fidelity is not None
    face = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(script.run(net, face), net(face).clamp(0, 1))
