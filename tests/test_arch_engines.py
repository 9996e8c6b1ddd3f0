"""Engines: which one is picked, what is said where it cannot run, and that all give the same faces."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from base_models import assert_close_in_range, write_mini_prior
from lafr.batching import FaceRunner
from lafr_arch import engines, graph_engines, onnx_export
from lafr_arch.engines import pick
from lafr_arch.lafr_arch import LAFRNet
from lafr_arch.network_g_arch import build_deployed_lafr, build_lafr
from lafr_base import private_cache, processor

CPU = torch.device("cpu")


class Net(nn.Module):
    """What of a network the choice depends on."""

    image_size = 8
    own_kernels = True
    half_precision = True
    weight_means = "tones"

    def __init__(self, **attributes: Any) -> None:
        super().__init__()
        for name, value in attributes.items():
            setattr(self, name, value)

    def for_inference(self, dtype: torch.dtype | None = None, kernels: bool = True) -> Net:
        return self

    def forward(self, lq: Tensor) -> Tensor:
        return lq


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes this a machine with what is said."""

    def make(packages: tuple[str, ...] = (), bf16: bool = False, kernels: bool = True, small: bool = True) -> None:
        monkeypatch.setattr(graph_engines, "find_spec", lambda name: name if name in packages else None)
        monkeypatch.setattr(processor, "multiplies_bf16", lambda: bf16)
        monkeypatch.setattr(engines, "load_kernels", lambda: "kernels" if kernels else None)
        monkeypatch.setattr(engines, "SMALL", 1 if small else 0)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)

    return make


OPENVINO = ("openvino", "onnxscript")


@pytest.mark.parametrize(
    ("about", "precision", "expected"),
    [
        ({}, "auto", ("kernels", "fp32")),
        ({"packages": OPENVINO}, "auto", ("kernels", "fp32")),
        ({"packages": OPENVINO, "bf16": True}, "auto", ("openvino", "bf16")),
        ({"packages": OPENVINO, "bf16": True}, "bf16", ("openvino", "bf16")),
        ({"packages": OPENVINO, "bf16": True}, "fp32", ("kernels", "fp32")),
        ({"packages": ("openvino",), "bf16": True}, "auto", ("kernels", "fp32")),
        ({"packages": OPENVINO, "bf16": True, "small": False}, "auto", ("kernels", "fp32")),
        ({"packages": OPENVINO, "kernels": False, "small": False}, "auto", ("openvino", "fp32")),
        ({"packages": OPENVINO, "kernels": False}, "fp16", ("torch", "fp16")),
        ({"kernels": False}, "auto", ("torch", "fp32")),
    ],
)
def test_auto(machine: Any, about: dict[str, Any], precision: str, expected: tuple[str, str]):
    machine(**about)
    assert pick("auto", Net(), CPU, precision) == expected


def test_auto_leaves_other_networks_and_gpus_to_torch(machine: Any, caplog: pytest.LogCaptureFixture):
    machine(OPENVINO, bf16=True)
    assert pick("auto", Net(own_kernels=False), CPU) == ("torch", "fp32")
    assert pick("auto", Net(), torch.device("cuda")) == ("torch", "fp16")
    assert not caplog.text


@pytest.mark.parametrize(
    ("engine", "about", "network", "precision", "expected", "line"),
    [
        ("openvino", {}, {}, "auto", ("kernels", "fp32"), "openvino and onnxscript not installed; pip install"),
        ("onnxruntime", {"kernels": False}, {}, "auto", ("torch", "fp32"), "pip install 'lafr[onnxruntime]'"),
        ("onnxruntime", {"packages": ("onnxruntime", "onnxscript")}, {}, "bf16", ("kernels", "bf16"), "no bf16"),
        ("openvino", {"packages": OPENVINO}, {}, "bf16", ("kernels", "bf16"), "no instructions for bf16"),
        ("openvino", {"packages": OPENVINO}, {"weight_means": "network"}, "auto", ("kernels", "fp32"), "a weight"),
        ("kernels", {"kernels": False}, {}, "fp32", ("torch", "fp32"), "cannot be loaded"),
        ("kernels", {}, {"own_kernels": False}, "fp32", ("torch", "fp32"), "kernels for LAFR's"),
    ],
)
def test_what_cannot_run_is_replaced_with_one_line(
    machine: Any,
    caplog: pytest.LogCaptureFixture,
    engine: str,
    about: dict[str, Any],
    network: dict[str, Any],
    precision: str,
    expected: tuple[str, str],
    line: str,
):
    machine(**about)
    assert pick(engine, Net(**network), CPU, precision) == expected
    assert caplog.text.count("\n") == 1
    assert f"engine {engine}: left out, {expected[0]} runs" in caplog.text
    assert line in caplog.text


def test_unknown():
    with pytest.raises(ValueError, match="engine must be one of auto, torch, kernels, openvino, onnxruntime"):
        pick("tensorrt", Net(), CPU)


def test_a_graph_that_cannot_be_made(machine: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    def broken(*_: Any) -> None:
        raise OSError("the disk is full")

    machine(OPENVINO)
    monkeypatch.setattr(graph_engines, "cached_graph", broken)
    runner = FaceRunner(Net(), CPU, engine="openvino")
    assert runner.engine == "kernels"
    assert "kernels runs: openvino: the disk is full" in caplog.text
    face = np.random.default_rng(0).random((8, 8, 3), dtype=np.float32)
    np.testing.assert_array_equal(runner([face])[0], face)


def test_bf16_of_an_engine_is_compared_first(machine: Any, monkeypatch: pytest.MonkeyPatch):
    machine(OPENVINO, bf16=True)
    asked: list[str] = []

    def build(network: Any, engine: str, precision: str) -> nn.Module:
        asked.append(f"{engine} {precision}")
        return nn.Identity() if precision == "fp32" else nn.Hardtanh(0, 0.5)

    monkeypatch.setattr(engines, "build", build)
    runner = FaceRunner(Net(), CPU, precision="auto")
    face = np.random.default_rng(0).random((8, 8, 3), dtype=np.float32)
    np.testing.assert_array_equal(runner([face])[0], face)
    assert (runner.engine, runner.precision) == ("openvino", "fp32")
    assert asked == ["openvino bf16", "openvino fp32"]


def form_of_mini_512(folder: Path) -> LAFRNet:
    """A small network of the form of options/mini/unet512.yml, with random weights."""
    build_lafr(str(write_mini_prior(folder / "prior")), prompt=None, timestep=250).eval().save_pretrained(folder / "a")
    more: dict[str, Any] = {"fidelity": {"widths": [16, 16]}, "grow_decoder": 32, "image_size": 64}
    net = build_deployed_lafr(str(folder / "a"), **more).eval()
    for name, parameter in net.named_parameters():
        if name.startswith(("fidelity", "vae.decoder")) and parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.05)
    return net


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_one_graph_serves_both_engines(engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip(engine)
    pytest.importorskip("onnxscript")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    net = form_of_mini_512(tmp_path)
    faces = torch.rand(3, 3, 64, 64)
    run = graph_engines.GraphNetwork(net, engine)
    with torch.inference_mode():
        assert_close_in_range(run(faces), net(faces))
        assert_close_in_range(run(faces[:1]), net(faces[:1]))
    (graph,) = (tmp_path / "cache/lafr/graphs").glob("*.onnx")
    made = graph.stat().st_mtime_ns
    monkeypatch.setattr(onnx_export, "export_graph", lambda *_: pytest.fail("made again"))
    graph_engines.GraphNetwork(net, engine)
    assert graph.stat().st_mtime_ns == made


def test_graphs_are_kept_under_the_cache_rules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Other weights or settings are another graph; a damaged one is made again; one that differs is not kept."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made: list[Path] = []

    def write(net: nn.Module, example: Any, path: Path, *_: Any) -> None:
        made.append(path)
        path.write_bytes(b"graph")

    monkeypatch.setattr(onnx_export, "export_graph", write)
    net = nn.Conv2d(3, 3, 1)
    net.image_size = 8  # type: ignore[assignment]

    def graph(error: float = 0) -> Path:
        return onnx_export.cached_graph(net, lambda path: lambda faces: net(faces) + error)

    path = graph()
    assert graph() == path
    assert path.parent == private_cache.cache_folder("graphs")
    assert path.parent.stat().st_mode & 0o077 == 0
    assert [file.suffix for file in sorted(path.parent.iterdir())] == [".onnx", ".sha256"]
    path.write_bytes(b"grape")
    assert graph().read_bytes() == b"graph"
    assert len(made) == 2
    net.padding_value = 1.0  # type: ignore[assignment]
    assert graph() != path
    nn.init.zeros_(net.weight)
    with pytest.raises(onnx_export.OnnxExportError, match="differs from torch"):
        graph(0.01)
    assert len(list(path.parent.glob("*.onnx"))) == 2
    assert len(made) == 4


def test_torch_runs_plain_layers(tmp_path: Path):
    net = form_of_mini_512(tmp_path)
    runner = FaceRunner(net, CPU, engine="torch")
    assert runner.engine == "torch"
    assert runner.network.inference_plan == {}
    faces = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        assert_close_in_range(runner.network(faces), net(faces))


def test_the_flag_reaches_the_runner(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    from lafr import cli
    from lafr.commands import restore

    asked: list[Any] = []
    monkeypatch.setattr("lafr.restorer.LAFRer", lambda **options: asked.append(options["engine"]))
    for command in (["restore", "-i", "x.png"], ["batch", "x.png", "-o", "out"]):
        for flags in ([], ["--engine", "onnxruntime"]):
            restore.build_restorer(cli.build_parser().parse_args([*command, "--device", "cpu", *flags]))
    assert asked == ["auto", "onnxruntime"] * 2
    with caplog.at_level(logging.CRITICAL), pytest.raises(SystemExit):
        cli.build_parser().parse_args(["ui", "--engine", "tensorrt"])
