"""ONNX: one graph of a network, for every engine that reads it, compared with torch; and where graphs are kept."""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lafr_base.private_cache import cache_folder, is_whole, make_private, seal

logger = logging.getLogger(__name__)

TOLERANCE = 1e-3
"""Share of the output's range [0, 1] by which ONNX may differ from torch."""

INPUT, OUTPUT = "lq", "image"
"""Names in the graph of a network."""

_LARGEST_FILE = 1.9e9  # ONNX holds 2 GB at most in one file


class OnnxExportError(ValueError):
    """The exported file does not do what the network does, or cannot be made."""


def export_graph(net: nn.Module, example: Sequence[Tensor], path: Path, inputs: Sequence[str], output: str) -> None:
    """Write a module as ONNX, for any size of batch below 64. Weights over 2 GB in all go to ``path``'s name + .data.

    Args:
        net: in eval mode, on the CPU.
        example: its arguments, for two images.
        path: of the file.
        inputs: their names in the graph.
        output: the result's.

    Raises:
        OnnxExportError: a package is missing, or the network has something that ONNX has not.
    """
    try:
        import onnxscript  # noqa: F401 - torch's exporter imports it, and says less where it is missing
    except ImportError as error:
        raise OnnxExportError(f"{error}; pip install 'lafr[onnx]'") from error
    weights = sum(p.numel() * p.element_size() for p in (*net.parameters(), *net.buffers()))
    batch = torch.export.Dim("batch", min=1, max=63)  # diffusers' Upsample2D does other things from 64
    try:
        with torch.no_grad():
            torch.onnx.export(
                net,
                tuple(example),
                str(path),
                input_names=list(inputs),
                output_names=[output],
                dynamic_shapes=tuple({0: batch} for _ in example),
                dynamo=True,
                verbose=False,
                external_data=weights > _LARGEST_FILE,
            )
    except (RuntimeError, TypeError, ValueError) as error:  # torch.onnx.OnnxExporterError is a RuntimeError
        raise OnnxExportError(f"{type(net).__name__} cannot be written as ONNX: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    """Of the message of what the exporter met, not of the exporter's own, which is a page of advice."""
    error = error.__cause__ or error
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)


def export_onnx(net: nn.Module, path: Path) -> float:
    """Write ``net`` as ONNX: input ``lq`` and output ``image``, (B, 3, S, S) float32 RGB in [0, 1].

    Returns:
        The largest difference between onnxruntime's and torch's output on a random image.

    Raises:
        OnnxExportError: a package is missing, or the difference is above :data:`TOLERANCE`.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise OnnxExportError(f"{error}; pip install 'lafr[onnx]'") from error
    image = _random_images(net.eval(), 2)
    export_graph(net, (image,), path, (INPUT,), OUTPUT)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    with torch.no_grad():
        expected = net(image[:1])
    (actual,) = session.run(None, {INPUT: image[:1].numpy()})
    difference = float((torch.from_numpy(actual) - expected).abs().max())
    if difference > TOLERANCE:
        raise OnnxExportError(f"{path}: differs from torch by {difference:.1e} of the range, over {TOLERANCE}")
    return difference


def _random_images(net: nn.Module, count: int) -> Tensor:
    size: Any = net.image_size
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def cached_graph(net: nn.Module, load: Callable[[Path], Callable[[Tensor], Tensor]]) -> Path:
    """The file of a network's graph; made once on a machine for the same weights, code and versions.

    Graphs lie in ``~/.cache/lafr/graphs`` under the rules of :mod:`lafr_base.private_cache`.

    Args:
        net: in eval mode and fp32, on the CPU; maps (B, 3, S, S) RGB in [0, 1] to the same.
        load: opens a graph in an engine, to compare what was made.

    Raises:
        OnnxExportError: the graph cannot be made, or differs from torch.
        lafr_base.private_cache.CacheError, OSError: the folder cannot be used.
    """
    folder = cache_folder("graphs")
    make_private(folder)
    path = folder / f"lafr_{_key(net)}.onnx"
    data = path.with_name(f"{path.name}.data")
    if is_whole(path) and (not data.exists() or is_whole(data)):
        return path
    logger.info("Writing the network's graph for the engine, once on this machine: seconds to minutes")
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        part = Path(temporary) / path.name  # by its name it finds its data
        faces = _random_images(net, 2)
        export_graph(net, (faces,), part, (INPUT,), OUTPUT)
        _compare(net, load(part), faces)
        for made, kept in ((part.with_name(data.name), data), (part, path)):
            if made.exists():
                os.replace(made, kept)
                seal(kept)
    return path


def _compare(net: nn.Module, run: Callable[[Tensor], Tensor], faces: Tensor) -> None:
    """Hold a graph against torch, for one face and for two; on average, since rounding may take another code."""
    with torch.no_grad():
        expected = net(faces)
        differences = [float((run(faces[:count]) - expected[:count]).abs().mean()) for count in (1, 2)]
    for difference in differences:
        if not difference <= TOLERANCE:
            raise OnnxExportError(f"the graph differs from torch by {difference:.1e} of the range, over {TOLERANCE}")


def _key(net: nn.Module) -> str:
    """What the graph depends on: weights, structure, settings, the code of the networks, the exporter."""
    total = hashlib.sha256()
    for name, value in sorted(net.state_dict().items()):
        total.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        total.update(value.detach().contiguous().cpu().reshape(-1).view(torch.uint8).numpy().data)
    for name, module in net.named_modules():
        settings = sorted((k, v) for k, v in vars(module).items() if isinstance(v, bool | int | float | str))
        total.update(f"{name} {type(module)} {settings} {getattr(module, 'config', None)}\n".encode())
    total.update(f"{net!r}\n{torch.__version__}\n".encode())
    for source in sorted(Path(__file__).parent.glob("*.py")):
        total.update(source.read_bytes())
    return total.hexdigest()[:24]
