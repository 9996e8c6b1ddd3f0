"""FaceRunner: memory that runs out, results that are not finite, compiled networks."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lafr.batching import FaceRunner

CPU = torch.device("cpu")


class Doubling(nn.Module):
    """Doubles faces and remembers the sizes of its batches."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.sizes.append(len(x))
        return 2 * x


class Fails(Doubling):
    """Runs out of memory above `limit` faces."""

    def __init__(self, limit: int, message: str) -> None:
        super().__init__()
        self.limit, self.message = limit, message

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) > self.limit:
            raise RuntimeError(self.message)
        return super().forward(x)


def test_batches_shrink_when_memory_runs_out(caplog: pytest.LogCaptureFixture):
    faces = list(np.random.default_rng(0).random((7, 8, 8, 3), dtype=np.float32))
    model = Fails(2, "[enforce fail at alloc_cpu.cpp:114] DefaultCPUAllocator: not enough memory: you tried")
    runner = FaceRunner(model, CPU, batch_size=7)
    with caplog.at_level(logging.WARNING):
        results = runner(faces)
    for face, result in zip(faces, results, strict=True):
        np.testing.assert_allclose(result, 2 * face)
    assert model.sizes == [1] * 7  # 7, 3, 1: halved for good
    assert "out of memory with 7 faces" in caplog.text
    with pytest.raises(RuntimeError, match="out of memory"):
        FaceRunner(Fails(0, "CUDA out of memory"), CPU)(faces[:1])
    with pytest.raises(RuntimeError, match="shape"):  # other errors are not retried
        FaceRunner(Fails(2, "shape mismatch"), CPU)(faces)


class Overflows(Doubling):
    """Gives infinities in bfloat16 for dark faces."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.sizes.append(len(x))
        if not torch.is_autocast_enabled("cpu"):
            return 2 * x
        return torch.where(x.mean(dim=(1, 2, 3), keepdim=True) < 0.5, torch.inf, 2 * x)


def test_a_face_that_is_not_finite_is_repeated_in_fp32(caplog: pytest.LogCaptureFixture):
    faces = [np.full((8, 8, 3), value, np.float32) for value in (0.9, 0.1, 0.8)]
    model = Overflows()
    results = FaceRunner(model, CPU, precision="bf16")(faces)
    assert model.sizes == [3, 1]
    np.testing.assert_allclose(results[1], np.float32(0.2))
    assert "repeated in fp32" in caplog.text


def test_compiled_batches_are_filled_up(monkeypatch: pytest.MonkeyPatch):
    asked: list[dict[str, Any]] = []

    def compiler(network: nn.Module, **options: Any) -> nn.Module:
        asked.append(options)
        return network

    monkeypatch.setattr(torch, "compile", compiler)
    faces = list(np.random.default_rng(0).random((7, 8, 8, 3), dtype=np.float32))
    network = Doubling()
    results = FaceRunner(network, CPU, batch_size=4, compiled=True)(faces)
    assert asked == [{"mode": "default", "dynamic": False}]
    assert network.sizes == [4, 4], "the last batch has one face too few"
    assert len(results) == 7
    for face, result in zip(faces, results, strict=True):
        np.testing.assert_array_equal(result, 2 * face)


def test_compiled_network_gives_the_same_faces():
    from lafr.networks import load_network

    network: Any = load_network("mini", CPU).to(memory_format=torch.channels_last)
    faces = torch.rand(1, 3, 256, 256)
    with torch.inference_mode():
        # Without breaks in the graph; the default backend would build C++ for a minute.
        result = torch.compile(network, backend="eager", dynamic=False, fullgraph=True)(faces)
        torch.testing.assert_close(result, network(faces), atol=1e-3, rtol=0)


def test_what_cannot_be_compiled_runs_as_it_is(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    def broken(graph: Any, inputs: Any) -> Any:
        raise FileNotFoundError("no compiler was found")

    compiler = torch.compile
    monkeypatch.setattr(torch, "compile", lambda net, **_: compiler(net, backend=broken))
    faces = list(np.random.default_rng(0).random((3, 8, 8, 3), dtype=np.float32))
    network = nn.Conv2d(3, 3, 1)
    runner = FaceRunner(network, CPU, batch_size=2, compiled=True)
    expected = FaceRunner(network, CPU, batch_size=2)(faces)
    np.testing.assert_allclose(runner(faces), expected)
    assert not runner.compiled
    assert caplog.text.count("cannot be compiled here") == 1
    assert "no compiler was found" in caplog.text


def test_on_a_cpu_lafr_is_not_compiled(caplog: pytest.LogCaptureFixture):
    from lafr.networks import load_network

    runner = FaceRunner(load_network("mini", CPU), CPU, compiled=True)
    assert not runner.compiled
    assert runner.network.inference_plan
    assert "this network's own kernels are faster" in caplog.text


class Lowered(nn.Module):
    """Has an inference form like LAFRNet's, whose faces are `error` off in a lower precision."""

    image_size = 8
    weight_means = "tones"
    half_precision = True
    own_kernels = False

    def __init__(self, error: float, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.error, self.dtype = error, dtype
        self.batches = 0

    def for_inference(self, dtype: torch.dtype | None = None, kernels: bool = True) -> Lowered:
        return Lowered(self.error, dtype)

    def forward(self, x: Tensor) -> Tensor:
        assert not torch.is_autocast_enabled("cpu")
        self.batches += 1
        return x + (self.error if self.dtype is not None else 0)


@pytest.mark.parametrize(("levels", "kept"), [(1.9, True), (2.1, False), (float("inf"), False)])
def test_auto_keeps_fp32_where_faces_would_change(
    levels: float, kept: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr("lafr_arch.engines.fast_precision", lambda device: "bf16")
    faces = list(np.random.default_rng(0).random((3, 8, 8, 3), dtype=np.float32))
    runner = FaceRunner(Lowered(levels / 255), CPU, batch_size=2, precision="auto")
    first, second = runner(faces), runner(faces)
    assert runner.precision == ("bf16" if kept else "fp32")
    expected = np.stack(faces) + (levels / 255 if kept else 0)
    np.testing.assert_allclose(first, expected, atol=1e-6)
    np.testing.assert_allclose(second, expected, atol=1e-6)
    assert ("using fp32" in caplog.text) is not kept
    exact: Any = runner._copy("fp32")
    assert exact.batches == (1 if kept else 1 + 2 + 2), "compared once"


def test_auto_is_fp32_where_nothing_is_faster(monkeypatch: pytest.MonkeyPatch):
    from lafr_arch.engines import fast_precision

    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert FaceRunner(Lowered(0), CPU, precision="auto").precision == "fp32"
    assert fast_precision(torch.device("cuda")) == "fp16"
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    assert FaceRunner(Lowered(0), CPU, precision="auto").precision == "bf16"
    assert FaceRunner(nn.Identity(), CPU, precision="auto").precision == "fp32"  # others keep what was published


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("fp16", torch.float16)])
def test_lafr_runs_in_the_precision_asked_for(precision: str, dtype: torch.dtype):
    from lafr.networks import load_network

    network: Any = FaceRunner(load_network("mini", CPU), CPU, precision=precision).network
    parts = {"unet": network.unet, "encoder": network.vae.encoder, "decoder": network.vae.decoder}
    assert {name: next(part.parameters()).dtype for name, part in parts.items()} == dict.fromkeys(parts, dtype)
    assert next(network.alignment.parameters()).dtype == torch.float32


@pytest.mark.parametrize(("precision", "share"), [("fp32", 1e-3), ("bf16", 0.2)])
def test_a_face_hardly_depends_on_its_batch(precision: str, share: float, face_image: torch.Tensor):
    """docs/scale.md says how far results may differ: in fp32 by one level of 255, in few values."""
    from lafr.networks import load_network

    runner = FaceRunner(load_network("mini", CPU), CPU, 8, precision)
    face = face_image[0].permute(1, 2, 0).numpy()
    noise = np.random.default_rng(0).normal(0, 0.1, (5, *face.shape))
    faces = [np.clip(face + step * noise[step], 0, 1).astype(np.float32) for step in range(5)]
    alone = [np.rint(255 * result) for face in faces for result in runner([face]) if result is not None]
    for count in (2, 5):
        for one, other in zip(alone, runner(faces[:count]), strict=False):
            assert other is not None
            difference = np.abs(one - np.rint(255 * other))
            assert difference.max() <= (1 if precision == "fp32" else 4)
            assert (difference > 0).mean() <= share


def test_the_flags_reach_the_runner(monkeypatch: pytest.MonkeyPatch):
    from lafr import cli
    from lafr.commands import restore

    asked: list[dict[str, Any]] = []
    monkeypatch.setattr("lafr.restorer.LAFRer", lambda **options: asked.append(options))
    parser = cli.build_parser()
    for flags in ([], ["--compile", "--precision", "bf16"]):
        restore.build_restorer(parser.parse_args(["restore", "-i", "photo.png", "--device", "cpu", *flags]))
    assert [(options["compiled"], options["precision"]) for options in asked] == [(False, "auto"), (True, "bf16")]
