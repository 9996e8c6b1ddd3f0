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


def test_compiled_network_gives_the_same_faces(monkeypatch: pytest.MonkeyPatch):
    from lafr.networks import load_network

    compiler = torch.compile  # the default backend would build C++ for a minute
    monkeypatch.setattr(torch, "compile", lambda net, **_: compiler(net, backend="eager", dynamic=False))
    network = load_network("mini", CPU)
    faces = list(np.random.default_rng(0).random((1, 256, 256, 3), dtype=np.float32))
    (expected,), (result,) = FaceRunner(network, CPU, 1)(faces), FaceRunner(network, CPU, 1, compiled=True)(faces)
    np.testing.assert_allclose(result, expected, atol=1e-3)


def test_the_flag_reaches_the_runner(monkeypatch: pytest.MonkeyPatch):
    from lafr import cli
    from lafr.commands.restore import build_restorer

    monkeypatch.setattr(torch, "compile", lambda net, **_: net)
    parser = cli.build_parser()
    for flags, compiled in (([], False), (["--compile"], True)):
        args = parser.parse_args(
            ["restore", "-i", "photo.png", "--device", "cpu", "--detection_model", "builtin", *flags]
        )
        assert build_restorer(args)._runner.compiled is compiled
