"""FaceRunner with a compiled network: static shapes, the same faces."""

from __future__ import annotations

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
