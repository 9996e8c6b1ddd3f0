"""ONNX export of a deployed network, compared with torch through onnxruntime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

# Share of the output's range [0, 1] by which ONNX may differ from torch.
TOLERANCE = 1e-3


class OnnxExportError(ValueError):
    """The exported file does not do what the network does."""


def export_onnx(net: nn.Module, path: Path) -> float:
    """Write ``net`` as ONNX: input ``lq`` and output ``image``, (1, 3, S, S) float32 RGB in [0, 1].

    Weights over 2 GB in all go to a file beside it, as ONNX demands.

    Returns:
        The largest difference between onnxruntime's and torch's output on a random image.

    Raises:
        OnnxExportError: a package is missing, or the difference is above :data:`TOLERANCE`.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401 - torch's exporter imports it, and says less where it is missing
    except ImportError as error:
        raise OnnxExportError(f"{error}; pip install 'lafr[onnx]'") from error
    size: Any = net.image_size
    image = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    net = net.eval()
    with torch.no_grad():
        expected = net(image)
        torch.onnx.export(
            net,
            (image,),
            str(path),
            input_names=["lq"],
            output_names=["image"],
            dynamo=True,
            external_data=sum(p.numel() * p.element_size() for p in net.parameters()) > 1.9e9,
        )
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (actual,) = session.run(None, {"lq": image.numpy()})
    difference = float((torch.from_numpy(actual) - expected).abs().max())
    if difference > TOLERANCE:
        raise OnnxExportError(f"{path}: differs from torch by {difference:.1e} of the range, over {TOLERANCE}")
    return difference
