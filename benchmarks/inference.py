"""Seconds a face, part by part: LAFR against OSEDiff's own way of running the same weights, in one process.

    python benchmarks/inference.py --scale full --repeat 5 --out inference.json
    python benchmarks/inference.py --device cuda --batch 1 4 8 16 --repeat 30 --out inference_gpu.json

Networks, run in turn; all in every repeat, but on a CPU those that `ratio` does not need in every second:
  peer       OSEDiff's way: full UNet with the LoRA merged, the prompt encoded for every face, eager, NCHW, in fp32 on a
             CPU and fp16 on a GPU. It has no adapter. (Its tagger, which finds the prompt, is left out, as in its own
             timing script.)
  plain      LAFR as deployed: pruned and merged, eager, NCHW, fp32
  fast       the same, by LAFRNet.for_inference: what LAFRer and the commands run. On a GPU in fp16, as `--precision
             auto` has it.
  fast_bf16  (CPU, if named by --networks) the same with VAE and UNet in bf16: `--precision bf16`
  compiled   (GPU) fast, through torch.compile and CUDA graphs: `--compile`; as a whole only, not part by part
`full` is Stable Diffusion 2.1 with random weights, drawn so that activations keep their scale; `mini` the bundled
weights, whose UNet is pruned as it comes and which therefore have no peer but `plain`; `tiny` is for tests. `ratio` is
the median of `deployed` (`fast`, on a GPU `compiled`) over that of the peer, for the first batch size. Differences are
those from `plain`, which always runs. Achieved FLOP/s count the work of plain convolutions, whatever was done instead,
and so may exceed the measured peak of matrix products, which is of the peer's dtype. --check compares the networks with
the same one, its LoRA unmerged and its UNet unpruned.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

sys.path.insert(0, str(Path(__file__).resolve().parent))

from machine import Memory, machine, matmul_peak, synchronize  # noqa: E402 - the scripts beside this one
from random_networks import random_networks  # noqa: E402

from lafr.batching import CompiledNetwork  # noqa: E402
from lafr.networks import MODELS, pick_device  # noqa: E402
from lafr_arch.fast_kernels import load_kernels  # noqa: E402
from lafr_arch.lafr_arch import LAFRNet  # noqa: E402

NETWORKS = ("peer", "plain", "fast", "compiled", "fast_bf16")
DEPLOYED = ("compiled", "fast", "fast_bf16", "plain")
PARTS = ("encode", "align", "denoise", "decode")
WARM_UP = 3


def is_gpu(device: torch.device) -> bool:
    """Whether networks run as on a GPU."""
    return device.type == "cuda"


def run(net: LAFRNet, image: Tensor, note: Callable[[str, float], None] = lambda part, seconds: None) -> Tensor:
    """One forward pass, step by step; the image in [0, 1]. `note` is told the seconds of each part and of all."""
    value, total, maps = image, 0.0, []

    def encode(face: Tensor) -> Tensor:
        nonlocal maps
        latent, maps = net.encode_with_maps(face)
        return latent

    def decode(latent: Tensor) -> Tensor:
        return net.decode(latent, maps)

    for part, step in zip(PARTS, (encode, net.align, net.denoise, decode), strict=True):
        synchronize(image.device)
        start = time.perf_counter()
        value = step(value)
        synchronize(image.device)
        elapsed = time.perf_counter() - start
        total += elapsed
        note(part, elapsed)
    note("total", total)
    return value.clamp(0, 1).float()


def run_whole(net: nn.Module, image: Tensor, note: Callable[[str, float], None]) -> Tensor:
    """One forward pass as the commands run it. `note` is told the seconds of it as `total`."""
    synchronize(image.device)
    start = time.perf_counter()
    value: Tensor = net(image)
    synchronize(image.device)
    note("total", time.perf_counter() - start)
    return value.float()


def timed_run(net: nn.Module, image: Tensor, note: Callable[[str, float], None]) -> None:
    """Time the parts and the whole: on a CPU in one pass; on a GPU, where waiting for each part costs, in two."""
    if not is_gpu(image.device):
        run(net, image, note)  # type: ignore[arg-type]
        return
    if isinstance(net, LAFRNet):
        run(net, image, lambda part, seconds: None if part == "total" else note(part, seconds))
    run_whole(net, image, note)


def _attention_flops(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    """Work of attention from the shapes of its inputs; torch's counter knows the GPUs' kernels only."""
    return int(sdpa_flop_count(query, key, value))


def flop_counter() -> FlopCounterMode:
    """A context that counts floating-point operations: 2 for each multiplication."""
    attention = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops}
    return FlopCounterMode(display=False, custom_mapping=attention)


def counted_run(net: LAFRNet, image: Tensor) -> tuple[Tensor, dict[str, float]]:
    """The image, with the floating-point operations of each part and of all."""
    counts: dict[str, float] = {}
    with flop_counter() as counter:
        before = [0]

        def note(part: str, seconds: float) -> None:
            now = counter.get_total_flops()
            counts[part] = float(now if part == "total" else now - before[0])
            before[0] = now

        return run(net, image, note), counts


@torch.inference_mode()
def measure(
    networks: dict[str, nn.Module], always: set[str], image: Tensor, repeat: int, memory: Memory
) -> dict[str, Any]:
    """Median seconds of every network and part, and how far the images differ from the plain network's."""
    expected, flops = counted_run(networks["plain"], image)  # type: ignore[arg-type]
    seconds: dict[str, dict[str, list[float]]] = {name: defaultdict(list) for name in networks}
    rows: dict[str, dict[str, Any]] = {name: {} for name in networks}
    for name, net in networks.items():
        for _ in range(WARM_UP if is_gpu(image.device) else 1):
            image_of_net = net(image).clamp(0, 1).float()
        if name != "plain":
            difference = (image_of_net - expected).abs()
            rows[name]["mean_difference_in_levels"] = float(255 * difference.mean())
            rows[name]["largest_difference"] = float(difference.max())
    for index in range(repeat):
        for name, net in networks.items():
            if name in always or index % 2 == 0:
                memory.restart()
                timed_run(net, image, lambda part, elapsed, name=name: seconds[name][part].append(elapsed))  # type: ignore[misc]
                rows[name]["working_memory_gb"] = memory.since()
    for name, noted in seconds.items():
        total = median(noted["total"])
        rows[name] |= {
            "seconds": {part: median(noted[part]) for part in (*PARTS, "total") if part in noted},
            "all_totals": noted["total"],
            "faces_per_second": len(image) / total,
            "seconds_per_face": total / len(image),
            "flops_per_second": flops["total"] / total,
        }
    # The peak is the whole process's, which holds the weights of all the networks.
    return {"batch": len(image), "flops": flops, "networks": rows, "peak_memory_gb": memory.peak}


@torch.inference_mode()
def check(net: LAFRNet, expected: Tensor, latent: Tensor) -> dict[str, float]:
    """Largest difference of a deployed network's result from the unpruned, unmerged one's, as a share of its range."""
    return {
        "latent_difference_over_range": float(
            (net.denoise(latent) - expected).abs().max() / (expected.max() - expected.min())
        )
    }


def benchmark(
    scale: str, device: torch.device, names: set[str], batches: list[int], repeat: int, with_check: bool
) -> dict[str, Any]:
    """The whole report; see the module."""
    torch.manual_seed(0)
    memory = Memory(device)
    on_gpu = is_gpu(device)
    report: dict[str, Any] = {"scale": scale, "machine": machine(device), "repeat": repeat}
    report["machine"]["kernels"] = not on_gpu and load_kernels() is not None
    networks: dict[str, Any] = {}
    if scale == "mini":
        networks["plain"] = LAFRNet.from_pretrained(MODELS["mini"])
    else:
        networks["peer"], networks["plain"], expected, latent = random_networks(scale, with_check)
    report["peer"] = "peer" if "peer" in networks and "peer" in names else "plain"
    if on_gpu:
        if "peer" in networks:  # which shares weights with `plain`
            networks["peer"] = copy.deepcopy(networks["peer"]).half().to(device)
        networks["plain"].to(device)
        networks["fast"] = networks["plain"].for_inference(torch.float16)
        networks["compiled"] = CompiledNetwork(networks["fast"], device)
    else:
        networks["fast"] = networks["plain"].for_inference()
        networks["fast_bf16"] = networks["fast"].for_inference(torch.bfloat16)
    networks = {name: net for name, net in networks.items() if name in names or name == "plain"}
    if with_check and expected is not None:
        report["equality"] = {name: check(net, expected, latent) for name, net in networks.items()}
    report["deployed"] = next(name for name in DEPLOYED if name in networks)
    report["peak_flops_per_second"] = matmul_peak(device, torch.float16 if on_gpu else torch.float32)
    always = set(networks) if on_gpu else {report["peer"], report["deployed"]}
    size = networks["plain"].image_size
    images = [torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(1)).to(device) for n in batches]
    report["batches"] = [measure(networks, always, image, repeat, memory) for image in images]
    first = report["batches"][0]["networks"]
    totals = {name: figures["seconds"]["total"] for name, figures in first.items()}
    report["ratio"] = totals[report["deployed"]] / totals[report["peer"]]
    report["ratios"] = {name: total / totals[report["peer"]] for name, total in totals.items()}
    peak = report["peak_flops_per_second"]
    report["share_of_peak"] = {name: figures["flops_per_second"] / peak for name, figures in first.items()}
    report["peak_memory_gb"] = memory.peak
    return report


def table(report: dict[str, Any]) -> str:
    """The report as lines of text."""
    about = report["machine"]
    peak = report["peak_flops_per_second"]
    where = about.get("gpu") or f"{about['cpu']}, {about['threads']} threads"
    lines = [f"{where}, torch {about['torch']}, matrix products {peak / 1e9:.0f} GFLOP/s"]
    for batch in report["batches"]:
        lines.append(
            f"batch {batch['batch']}, {batch['flops']['total'] / 1e9:.0f} GFLOP; seconds, median of {report['repeat']}"
        )
        heads = (*PARTS, "total", "a face")
        lines.append(f"{'':<13}" + "".join(f"{part:>10}" for part in heads) + "    GFLOP/s   levels")
        for name, figures in batch["networks"].items():
            values = {**figures["seconds"], "a face": figures["seconds_per_face"]}
            cells = "".join(f"{values[part]:>10.4f}" if part in values else f"{'':>10}" for part in heads)
            rate, levels = figures["flops_per_second"] / 1e9, figures.get("mean_difference_in_levels", 0)
            lines.append(f"{name:<13}{cells}{rate:>11.0f}{levels:>9.3f}")
    lines += [f"{name}: {figures}" for name, figures in report.get("equality", {}).items()]
    lines.append(
        "seconds over those of "
        + report["peer"]
        + ": "
        + ", ".join(f"{name} {ratio:.3f}" for name, ratio in report["ratios"].items())
    )
    return "\n".join(lines)


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", choices=("full", "mini", "tiny"), default="full")
    parser.add_argument("--device", default="auto", help="auto (default: a GPU where there is one), cpu, cuda, ...")
    parser.add_argument(
        "--networks", nargs="+", choices=NETWORKS, default=NETWORKS[:4], help="those to run, and plain (default: four)"
    )
    parser.add_argument("--batch", type=int, nargs="+", default=[1], help="batch sizes; `ratio` is of the first")
    parser.add_argument("--repeat", type=int, default=5, help="passes of each network (default %(default)s)")
    parser.add_argument("--check", action="store_true", help="compare with the unpruned UNet and unmerged LoRA")
    parser.add_argument("--out", type=Path, help="write the report as JSON")
    args = parser.parse_args()
    if min(*args.batch, args.repeat) < 1:
        parser.error("--batch and --repeat must be at least 1")
    if args.check and args.scale == "mini":
        parser.error("--check needs a UNet that is not pruned yet; the bundled mini's is")
    device = pick_device(args.device)
    if args.check and device.type != "cpu":
        parser.error("--check compares on a CPU: add --device cpu")
    report = benchmark(args.scale, device, set(args.networks), args.batch, args.repeat, args.check)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(table(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
