"""Engines on a CPU, one table: the same weights and the same face, in fresh processes that take turns.

    python benchmarks/engines.py --scale mini --size 256 512 --faces FACES --repeat 5 --out engines_mini.json
    python benchmarks/engines.py --scale full --repeat 5 --out engines_full.json

Rows: what runs the network, and in which arithmetic:
  torch fp32        PyTorch's layers, as they are
  compiled fp32     the same through torch.compile, by its default backend; minutes before the first face
  onnxruntime fp32  the exported graph in ONNX Runtime
  onnxruntime int8  the graph with convolutions and products in 8 bits, quantised after training on --faces (mini)
  openvino fp32     the same graph as onnxruntime's
  openvino bf16     where the processor multiplies it
  openvino int8     the same graph as onnxruntime's (mini)
  kernels fp32      LAFRNet.for_inference: this project's kernels
  kernels bf16      the same with the decoder in bf16, where the processor multiplies it; what else must stay in fp32
`mini` is the bundled network, or the folder that --model names, at each of --size (its layers take any size); `full`
Stable Diffusion 2.1 with random weights (random_networks.py), `tiny` a narrow one, for tests.

Each measurement is a process of its own that loads the network's folder, makes the engine ready, restores a face
(start: the seconds until then, from the process's start), then times passes of the whole and of the parts alone.
Engines take turns, --repeat times; figures are medians. Memory is the most that the engine and its passes took beyond
what the imports hold, disk what the engine reads. Errors are those of the restored faces from `torch fp32`, in 8-bit
levels: mean, and the largest. With --faces, FFHQ-aligned faces that the network was not trained on, faces are degraded
copies of them (celeba_x4, seed 0), and PSNR and identity (the bundled net's cosine) to the originals are told as well;
otherwise the face is noise.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent))
from machine import Memory, machine  # noqa: E402 - the script beside this one

from lafr.networks import MODELS  # noqa: E402
from lafr_arch.graph_engines import GRAPH_ENGINES, GraphRunner  # noqa: E402
from lafr_arch.lafr_arch import LAFRNet  # noqa: E402
from lafr_base import processor  # noqa: E402

ENGINES = ("torch", "compiled", "onnxruntime", "openvino", "kernels")
ROWS = (
    ("torch", "fp32"),
    ("compiled", "fp32"),
    ("onnxruntime", "fp32"),
    ("onnxruntime", "int8"),
    ("openvino", "fp32"),
    ("openvino", "bf16"),
    ("openvino", "int8"),
    ("kernels", "fp32"),
    ("kernels", "bf16"),
)
PARTS = ("encode", "align", "denoise", "decode")
INPUTS = {"whole": ["lq"], "encode": ["image"], "align": ["latent"], "denoise": ["latent"], "decode": ["latent"]}
ENOUGH = 2.0
"""Seconds in which a part is timed, again and again; at least once, at most :data:`MOST` times."""
MOST = 20


class Step(nn.Module):
    """One part of a network as a module, for export."""

    def __init__(self, net: LAFRNet, part: str) -> None:
        super().__init__()
        self.net, self.part = net, part

    def forward(self, x: Tensor, coarse: Tensor | None = None, fine: Tensor | None = None) -> Tensor:
        """The part's result; of the decoder, with the encoder's two maps where there is a fidelity path."""
        if self.part == "whole":
            return self.net(x)
        if self.part == "decode":
            return self.net.decode(x, [maps for maps in (coarse, fine) if maps is not None])
        return getattr(self.net, self.part)(x)


@torch.inference_mode()
def inputs_of(net: LAFRNet, image: Tensor) -> dict[str, tuple[Tensor, ...]]:
    """What each part is given on the way of faces through the network."""
    latent, maps = net.encode_with_maps(image)
    aligned = net.align(latent)
    restored = net.denoise(aligned)
    given = {"whole": (image,), "encode": (image,), "align": (latent,), "denoise": (aligned,)}
    return {**given, "decode": (restored, *maps)}


def write_graphs(net: LAFRNet, size: int, folder: Path) -> float:
    """Export the network and its parts; return the seconds that the network's own graph took."""
    from lafr_arch.onnx_export import export_graph

    examples = {k: tuple(x.clone() for x in v) for k, v in inputs_of(net, torch.rand(2, 3, size, size)).items()}
    seconds = 0.0
    for part, example in examples.items():
        start = time.perf_counter()
        names = [*INPUTS[part], *(f"map{index}" for index in range(len(example) - 1))]
        module = net if part == "whole" else Step(net, part)
        export_graph(module.eval(), example, folder / f"{part}.onnx", names, "result")
        seconds = seconds or time.perf_counter() - start
    return seconds


def quantise(folder: Path, faces: Tensor) -> None:
    """Write the network's graph in 8 bits: weights by channel, activations by their range on faces (N, 3, S, S)."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Faces(CalibrationDataReader):  # type: ignore[misc]
        """Faces one by one."""

        def __init__(self) -> None:
            self.left = iter(faces)

        def get_next(self) -> dict[str, Any] | None:
            """The next, or None."""
            face = next(self.left, None)
            return None if face is None else {"lq": face[None].numpy()}

    quant_pre_process(str(folder / "whole.onnx"), str(folder / "prepared.onnx"), skip_symbolic_shape=True)
    quantize_static(
        str(folder / "prepared.onnx"),
        str(folder / "int8.onnx"),
        Faces(),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=["Conv", "MatMul", "Gemm"],
        per_channel=True,
    )


def runners(engine: str, precision: str, model: Path, graphs: Path) -> Iterator[tuple[str, Callable[..., Tensor]]]:
    """The engine's function for the whole network, then for the parts that it can run alone."""
    if engine in GRAPH_ENGINES:
        for part in ("whole",) if precision == "int8" else ("whole", *PARTS):
            file = graphs / ("int8.onnx" if precision == "int8" else f"{part}.onnx")
            yield part, GRAPH_ENGINES[engine](file, "fp32" if precision == "int8" else precision)
        return
    net = LAFRNet.from_pretrained(model)
    if engine == "kernels":
        net = net.for_inference(decoder_dtype=torch.bfloat16 if precision == "bf16" else None)
    if engine == "compiled":
        yield "whole", torch.compile(net.to(memory_format=torch.channels_last), dynamic=False)  # type: ignore[misc]
        return
    for part in ("whole", *PARTS):
        yield part, Step(net, part)


@torch.inference_mode()
def child(engine: str, precision: str, folder: Path, born: float) -> dict[str, Any]:
    """What one process measures; see the module."""
    given = {part: tuple(torch.load(folder / f"{part}.pt")) for part in INPUTS}
    faces: Tensor = torch.load(folder / "faces.pt")
    memory = Memory(torch.device("cpu"))
    memory.restart()
    start = time.perf_counter()
    found = runners(engine, precision, folder / "model", folder)
    _, whole = next(found)
    whole(*given["whole"])
    report: dict[str, Any] = {"ready_and_first_face": time.perf_counter() - start, "start": time.time() - born}
    report["seconds"] = {"whole": _seconds(whole, given["whole"])}
    report["memory_gb"] = memory.since()
    output = folder / f"{engine}_{precision}.npy"
    if not output.exists():
        np.save(output, torch.cat([whole(face[None]).clamp(0, 1) for face in faces]).float().numpy())
    for part, run in found:
        run(*given[part])
        report["seconds"][part] = _seconds(run, given[part])
    return report


def _seconds(run: Callable[..., Tensor] | GraphRunner, given: tuple[Tensor, ...]) -> float:
    times: list[float] = []
    while not times or (sum(times) < ENOUGH and len(times) < MOST):
        start = time.perf_counter()
        run(*given)
        times.append(time.perf_counter() - start)
    return median(times)


def obstacle(engine: str, precision: str, scale: str) -> str | None:
    """Why a row cannot be measured here; None where it can."""
    if engine in GRAPH_ENGINES and not all(map(find_spec, (engine, "onnxscript"))):
        return f"{engine} or onnxscript is not installed"
    if precision == "int8" and (scale != "mini" or not all(map(find_spec, ("onnxruntime", "onnx")))):
        return "quantised for mini alone, by onnxruntime and onnx"
    if precision == "bf16" and not processor.multiplies_bf16():
        return "this processor has no instructions for bf16"
    return None


def faces_of(folder: str | None, size: int, count: int) -> tuple[Tensor, Tensor | None]:
    """LQ faces (N, 3, S, S) and their originals; one of noise, and None, where there is no folder."""
    if folder is None:
        return torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(1)), None
    from lafr_data.validation_dataset import ValidationFaceDataset

    dataset = ValidationFaceDataset({"name": "engines", "dataroot_gt": folder, "image_size": size, "n_images": count})
    items = [dataset[index] for index in range(len(dataset))]
    return torch.stack([item["lq"] for item in items]), torch.stack([item["gt"] for item in items])


def judge(faces: np.ndarray, exact: np.ndarray, originals: Tensor | None) -> dict[str, float]:
    """How far restored faces (N, 3, S, S) are from those in fp32, and from the originals."""
    levels = 255 * np.abs(faces - exact)
    figures = {"mean_levels": float(levels.mean()), "largest_levels": float(levels.max())}
    if originals is None:
        return figures
    from lafr.identity import IdentityMeter

    errors = ((faces - originals.numpy()) ** 2).mean(axis=(1, 2, 3))
    pixels, target = (_pixels(x) for x in (faces, originals.numpy()))
    identity = IdentityMeter().compare(target, pixels)
    return figures | {"psnr": float((-10 * np.log10(errors)).mean()), "identity": float(np.mean(identity))}


def _pixels(faces: np.ndarray) -> list[np.ndarray]:
    return [np.rint(255 * face[::-1].transpose(1, 2, 0)).astype(np.uint8) for face in faces]


def disk(engine: str, precision: str, folder: Path) -> float:
    """Megabytes of the files that an engine reads."""
    if engine in GRAPH_ENGINES:
        names = ["int8.onnx"] if precision == "int8" else ["whole.onnx", "whole.onnx.data"]
        return sum((folder / name).stat().st_size for name in names if (folder / name).exists()) / 1e6
    return (folder / "model" / "model.safetensors").stat().st_size / 1e6


def measure(net: LAFRNet, size: int, args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All rows for one network and size of face."""
    faces, originals = faces_of(args.faces, size, args.n_faces)
    reasons = {row: obstacle(*row, args.scale) for row in ROWS if row[0] in args.engines}
    rows = [row for row, reason in reasons.items() if reason is None]
    net.save_pretrained(folder / "model")
    for part, given in inputs_of(net, faces[:1]).items():
        torch.save(given, folder / f"{part}.pt")
    torch.save(faces, folder / "faces.pt")
    export = write_graphs(net, size, folder) if any(engine in GRAPH_ENGINES for engine, _ in rows) else None
    if any(precision == "int8" for _, precision in rows):
        quantise(folder, faces[: args.n_calibration])
    noted: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for turn in range(args.repeat):
        for row in rows:
            command = [sys.executable, __file__, "--child", *row, str(folder), str(time.time())]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise RuntimeError(f"{' '.join(row)}: {done.stderr[-2000:]}")
            noted[row].append(json.loads(done.stdout.splitlines()[-1]))
            print(f"turn {turn + 1}, {' '.join(row)}: {noted[row][-1]['seconds']['whole']:.4f} s", file=sys.stderr)
    exact = np.load(folder / "torch_fp32.npy")
    report: dict[str, Any] = {"size": size, "export_seconds": export, "faces": len(faces), "rows": {}}
    for row, all_ in noted.items():
        figures = {key: median(one[key] for one in all_) for key in ("start", "ready_and_first_face", "memory_gb")}
        seconds = {part: median(one["seconds"][part] for one in all_) for part in all_[0]["seconds"]}
        result = np.load(folder / f"{row[0]}_{row[1]}.npy")
        about = {"seconds": seconds, "all_whole": [one["seconds"]["whole"] for one in all_], **figures}
        report["rows"][" ".join(row)] = {**about, "disk_mb": disk(*row, folder), **judge(result, exact, originals)}
    report["left_out"] = {" ".join(row): reason for row, reason in reasons.items() if reason is not None}
    return report


def networks(args: argparse.Namespace) -> Iterator[tuple[LAFRNet, int]]:
    """Networks with the side of their faces."""
    if args.scale == "mini":
        for size in args.size or [256]:
            net = LAFRNet.from_pretrained(args.model)
            net.image_size = size
            yield net, size
        return
    from random_networks import random_networks

    torch.manual_seed(0)
    net = random_networks(args.scale, check=False)[1]
    yield net, net.image_size


def table(report: dict[str, Any]) -> str:
    """The report as lines of text."""
    about = report["machine"]
    lines = [f"{about['cpu']}, {about['threads']} threads, torch {about['torch']}; medians of {report['repeat']}"]
    heads = ("whole", *PARTS)
    for measured in report["sizes"]:
        lines.append(f"{report['scale']}, one face of {measured['size']} px: seconds; start, s; memory, GB; disk, MB")
        lines.append(f"{'':<18}" + "".join(f"{x:>9}" for x in (*heads, "start", "memory", "disk", "levels", "largest")))
        for name, row in measured["rows"].items():
            cells = [f"{row['seconds'][part]:.4f}" if part in row["seconds"] else "" for part in heads]
            cells += [f"{row['start']:.1f}", f"{row['memory_gb']:.2f}", f"{row['disk_mb']:.0f}"]
            cells += [f"{row['mean_levels']:.3f}", f"{row['largest_levels']:.1f}"]
            more = f"  {row['psnr']:.3f} dB, identity {row['identity']:.4f}" if "psnr" in row else ""
            lines.append(f"{name:<18}" + "".join(f"{cell:>9}" for cell in cells) + more)
        lines += [f"{name}: left out, {reason}" for name, reason in measured["left_out"].items()]
    return "\n".join(lines)


def main() -> int:
    """Measure, print, write."""
    if sys.argv[1:2] == ["--child"]:
        engine, precision, folder, born = sys.argv[2:]
        print(json.dumps(child(engine, precision, Path(folder), float(born))))
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", choices=("full", "mini", "tiny"), default="mini")
    parser.add_argument("--model", default=str(MODELS["mini"]), help="folder of a network, for mini (default: bundled)")
    parser.add_argument("--size", type=int, nargs="+", help="sides of faces, for mini (default: 256)")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES), help="those to run, and torch")
    parser.add_argument("--faces", help="folder of FFHQ-aligned faces, for mini")
    parser.add_argument("--n_faces", type=int, default=20, help="of them that errors are told of (default %(default)s)")
    parser.add_argument("--n_calibration", type=int, default=8, help="of those that int8 sees (default %(default)s)")
    parser.add_argument("--repeat", type=int, default=5, help="turns (default %(default)s)")
    parser.add_argument("--folder", type=Path, help="where the networks' files are put meanwhile; 30 GB for full")
    parser.add_argument("--out", type=Path, help="write the report as JSON")
    args = parser.parse_args()
    if args.repeat < 1 or (args.scale != "mini" and (args.size or args.faces)):
        parser.error("--repeat must be at least 1; --size and --faces are for mini")
    args.engines = ["torch", *args.engines]
    report: dict[str, Any] = {"scale": args.scale, "machine": machine(), "repeat": args.repeat, "sizes": []}
    report["versions"] = {name: _version(name) for name in ("onnxruntime", "openvino", "onnxscript")}
    for net, size in networks(args):
        with tempfile.TemporaryDirectory(dir=args.folder, prefix="engines_") as folder:
            report["sizes"].append(measure(net, size, args, Path(folder)))
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(table(report))
    return 0


def _version(package: str) -> str | None:
    from importlib import metadata

    return metadata.version(package) if find_spec(package) else None


if __name__ == "__main__":
    sys.exit(main())
