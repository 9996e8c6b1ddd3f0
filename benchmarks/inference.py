"""Seconds a face, part by part: LAFR against OSEDiff's own way of running the same weights, in one process, on a CPU.

    python benchmarks/inference.py --scale full --repeat 5 --out inference.json

Networks, run in turn; peer and fast in every repeat, the other two in every second:
  peer       OSEDiff's way: full UNet with the LoRA merged, the prompt encoded for every face, eager, NCHW, fp32. It has
             no adapter. (Its tagger, which finds the prompt, is left out, as in its own timing script.)
  plain      LAFR as deployed: pruned and merged, eager, NCHW, fp32
  fast       the same, by LAFRNet.for_inference, which is what LAFRer and the commands run
  fast_bf16  the same with the decoder in bf16
`full` is Stable Diffusion 2.1 with random weights, drawn so that activations keep their scale; `mini` the bundled
weights, whose UNet is pruned as it comes and which therefore have no peer but `plain`; `tiny` is for tests. `ratio` is
the median of `fast` over that of the peer. Achieved FLOP/s count the work of plain convolutions, whatever was done
instead, and so may exceed the measured peak of matrix products. --check compares `fast` with the same network, its LoRA
unmerged and its UNet unpruned.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import math
import platform
import resource
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

import lafr

lafr.register()

from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel  # noqa: E402 - after BasicSR can be imported
from transformers import CLIPTextConfig, CLIPTextModel  # noqa: E402

from lafr.networks import MODELS  # noqa: E402
from lafr_arch.base_configs import KNOWN, BaseConfigs  # noqa: E402
from lafr_arch.fast_kernels import load_kernels  # noqa: E402
from lafr_arch.lafr_arch import LAFRNet, predict_sample  # noqa: E402
from lafr_arch.lora import add_lora, lora_layers, merge_lora  # noqa: E402
from lafr_arch.static_unet import StaticUNet  # noqa: E402

TIMESTEP = 999
PARTS = ("encode", "align", "denoise", "decode")
ADAPTER = {"type": "LatentAlignmentAdapter"}


class Peer(LAFRNet):
    """OSEDiff's forward: the text encoder at every call and the UNet as diffusers has it."""

    def __init__(self, vae: nn.Module, unet: nn.Module, text_encoder: nn.Module, tokens: Tensor, alpha: float) -> None:
        nn.Module.__init__(self)
        self._set(vae, unet, None, "epsilon", alpha, 8 * unet.config.sample_size)  # type: ignore[union-attr, arg-type]
        self.text_encoder = text_encoder
        self.tokens = tokens

    def denoise(self, latent: Tensor) -> Tensor:
        """Latents -> restored latents."""
        text = self.text_encoder(self.tokens)[0].expand(len(latent), -1, -1)
        noise = self.unet(latent, TIMESTEP, encoder_hidden_states=text).sample
        return predict_sample(latent, noise, self.alpha_cumprod, self.prediction_type)


def configurations(scale: str) -> BaseConfigs:
    """Stable Diffusion 2.1's, or for `tiny` a narrow one of the same form."""
    configs = KNOWN["sd21-base"]
    if scale == "full":
        return configs
    narrow = {"sample_size": 8, "block_out_channels": [32, 32, 64, 64], "attention_head_dim": [2, 2, 4, 4]}
    text = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    return replace(
        configs,
        unet={**configs.unet, **narrow, "cross_attention_dim": 32, "norm_num_groups": 8},
        vae={**configs.vae, "block_out_channels": [16, 32, 32, 32], "norm_num_groups": 8, "sample_size": 64},
        text_encoder={**(configs.text_encoder or {}), **text, "num_attention_heads": 4},
    )


@torch.no_grad()
def fill(module: nn.Module) -> None:
    """Draw weights by the number of a layer's inputs, so that activations keep their scale."""
    # One block of random numbers, used again and again from places that differ: drawing 1.3e9 takes a minute.
    block = torch.randn(2**24 + 12345)
    start = 0
    for name, value in (*module.named_parameters(), *module.named_buffers()):
        if not value.is_floating_point():
            value.copy_(torch.arange(value.numel()).view(value.shape))  # the text encoder's positions
        elif value.dim() > 1:
            flat = value.view(-1)
            for part in flat.split(2**24):
                start = (start + 7919) % 12345
                torch.mul(block[start : start + len(part)], 1 / math.sqrt(value[0].numel()), out=part)
        else:
            value.fill_(float("norm" in name and name.endswith("weight") or name.endswith("scale")))


def random_part(build: Callable[[], nn.Module]) -> nn.Module:
    """A part of the base model with random weights, without its constructor's slow initialisation."""
    with torch.device("meta"):
        part = build()
    part = part.to_empty(device="cpu").eval().requires_grad_(False)
    fill(part)
    return part


@torch.no_grad()
def random_networks(scale: str, check: bool) -> tuple[Peer, LAFRNet, Tensor | None, Tensor]:
    """The peer and LAFR's deployed network on the same random weights; for the check a latent and what it becomes.

    Returns:
        Peer, network, the result of the UNet with prompt, timestep and unmerged LoRA (None without `check`), and the
        latent that it was made from.
    """
    configs = configurations(scale)
    n_tokens, size = configs.n_tokens, configs.unet["sample_size"]
    vae = random_part(lambda: AutoencoderKL.from_config({k: v for k, v in configs.vae.items() if k != "_class_name"}))
    unet: Any = random_part(lambda: UNet2DConditionModel.from_config(configs.unet))
    text_config = CLIPTextConfig(**(configs.text_encoder or {}))
    text_encoder = random_part(lambda: CLIPTextModel(text_config))
    tokens = torch.randint(text_config.vocab_size, (1, n_tokens))
    alpha = float(DDPMScheduler(**configs.scheduler).alphas_cumprod[TIMESTEP])
    peer = Peer(vae, unet, text_encoder, tokens, alpha)
    add_lora(unet, rank=4, targets="conv")
    for name in lora_layers(unet):
        up: Any = unet.get_submodule(name).lora_B["default"]
        up.weight.normal_(std=0.1)
    latent = torch.randn(1, 4, size, size)
    expected = peer.denoise(latent) if check else None
    merge_lora(unet)

    net = LAFRNet.__new__(LAFRNet)
    nn.Module.__init__(net)
    pruned = StaticUNet.from_unet(copy.deepcopy(unet), text_encoder(tokens)[0], TIMESTEP)
    net._set(vae, pruned, ADAPTER, "epsilon", alpha, 8 * size)
    fill(net.alignment)  # type: ignore[arg-type]
    return peer, net.eval().requires_grad_(False), expected, latent


def run(net: LAFRNet, image: Tensor, note: Callable[[str, float], None] = lambda part, seconds: None) -> Tensor:
    """One forward pass, step by step; the image in [0, 1]. `note` is told the seconds of each part and of all."""
    value, total = image, 0.0
    for part, step in zip(PARTS, (net.encode, net.align, net.denoise, net.decode), strict=True):
        start = time.perf_counter()
        value = step(value)
        elapsed = time.perf_counter() - start
        total += elapsed
        note(part, elapsed)
    note("total", total)
    return value.clamp(0, 1)


def _attention_flops(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    """Work of attention from the shapes of its inputs; torch's counter knows the GPUs' kernels only."""
    return int(sdpa_flop_count(query, key, value))


def flop_counter() -> FlopCounterMode:
    """A context that counts floating-point operations: 2 for each multiplication."""
    attention = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops}
    return FlopCounterMode(display=False, custom_mapping=attention)


def counted_run(net: LAFRNet, image: Tensor) -> tuple[Tensor, dict[str, float]]:
    """The same, with the floating-point operations of each part and of all."""
    counts: dict[str, float] = {}
    with flop_counter() as counter:
        before = [0]

        def note(part: str, seconds: float) -> None:
            now = counter.get_total_flops()
            counts[part] = float(now if part == "total" else now - before[0])
            before[0] = now

        return run(net, image, note), counts


def matmul_peak(size: int = 4096, repeat: int = 5) -> float:
    """Best FLOP/s of a square fp32 matrix product."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    times = []
    for _ in range(repeat + 1):
        start = time.perf_counter()
        a @ b
        times.append(time.perf_counter() - start)
    return 2 * size**3 / min(times)


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    flags = next((line.split() for line in lines if line.startswith("flags")), [])
    return {
        "cpu": names[0] if names else platform.processor() or platform.machine(),
        "cpu_extensions": [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags],
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "kernels": load_kernels() is not None,
    }


def _status(key: str) -> float:
    """A figure of /proc/self/status in GB; 0 where there is no such file."""
    path = Path("/proc/self/status")
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return next((int(line.split()[1]) / 1e6 for line in lines if line.startswith(key)), 0.0)


def restart_memory_peak() -> float:
    """The process's largest memory in GB so far; it counts from here again, where the system allows it."""
    peak = max(_status("VmHWM"), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return peak


@torch.inference_mode()
def measure(networks: dict[str, LAFRNet], batch: int, repeat: int) -> dict[str, Any]:
    """Median seconds of every network and part, and how far the images differ from the plain network's."""
    size = networks["plain"].image_size
    image = torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(1))
    expected, flops = counted_run(networks["plain"], image)
    seconds: dict[str, dict[str, list[float]]] = {name: defaultdict(list) for name in networks}
    rows: dict[str, dict[str, Any]] = {name: {} for name in networks}
    peak = 0.0
    for name, net in networks.items():
        if name != "plain":  # that has run already, to warm up
            difference = (run(net, image) - expected).abs()
            rows[name]["mean_difference_in_levels"] = float(255 * difference.mean())
            rows[name]["largest_difference"] = float(difference.max())
    for index in range(repeat):
        for name, net in networks.items():
            if name in ("peer", "fast") or index % 2 == 0:
                peak = max(peak, restart_memory_peak())
                held = _status("VmRSS")
                run(net, image, lambda part, elapsed, name=name: seconds[name][part].append(elapsed))  # type: ignore[misc]
                rows[name]["working_memory_gb"] = _status("VmHWM") - held
    for name, noted in seconds.items():
        times = {part: median(noted[part]) for part in (*PARTS, "total")}
        rows[name] |= {
            "seconds": times,
            "all_totals": noted["total"],
            "faces_per_second": batch / times["total"],
            "flops_per_second": flops["total"] / times["total"],
        }
    # The peak is the whole process's, which holds the weights of all the networks.
    return {"batch": batch, "flops": flops, "networks": rows, "peak_memory_gb": max(peak, restart_memory_peak())}


@torch.inference_mode()
def check(net: LAFRNet, expected: Tensor, latent: Tensor) -> dict[str, float]:
    """Largest difference of a deployed network's result from the unpruned, unmerged one's, as a share of its range."""
    return {
        "latent_difference_over_range": float(
            (net.denoise(latent) - expected).abs().max() / (expected.max() - expected.min())
        )
    }


def benchmark(scale: str, batches: list[int], repeat: int, with_check: bool) -> dict[str, Any]:
    """The whole report; see the module."""
    torch.manual_seed(0)
    networks: dict[str, LAFRNet] = {}
    report: dict[str, Any] = {"scale": scale, "machine": machine(), "repeat": repeat}
    if scale == "mini":
        networks["plain"] = LAFRNet.from_pretrained(MODELS["mini"])
    else:
        networks["peer"], networks["plain"], expected, latent = random_networks(scale, with_check)
    networks["fast"] = networks["plain"].for_inference()
    networks["fast_bf16"] = networks["fast"].for_inference(decoder_dtype=torch.bfloat16)  # which shares the weights
    if scale != "mini" and expected is not None:
        report["equality"] = {name: check(networks[name], expected, latent) for name in ("plain", "fast")}
    report["peak_flops_per_second"] = matmul_peak()
    report["batches"] = [measure(networks, batch, repeat) for batch in batches]
    totals = {name: figures["seconds"]["total"] for name, figures in report["batches"][0]["networks"].items()}
    report["peer"] = "peer" if "peer" in totals else "plain"
    report["ratio"] = totals["fast"] / totals[report["peer"]]
    report["ratio_fast_bf16_to_plain"] = totals["fast_bf16"] / totals["plain"]
    report["share_of_peak"] = {
        name: figures["flops_per_second"] / report["peak_flops_per_second"]
        for name, figures in report["batches"][0]["networks"].items()
    }
    report["peak_memory_gb"] = max(batch["peak_memory_gb"] for batch in report["batches"])
    return report


def table(report: dict[str, Any]) -> str:
    """The report as lines of text."""
    about = report["machine"]
    peak = report["peak_flops_per_second"]
    lines = [
        f"{about['cpu']}, {about['threads']} threads, torch {about['torch']}, matrix products {peak / 1e9:.0f} GFLOP/s"
    ]
    for batch in report["batches"]:
        lines.append(
            f"batch {batch['batch']}, {batch['flops']['total'] / 1e9:.0f} GFLOP; seconds, median of {report['repeat']}"
        )
        lines.append(f"{'':<10}" + "".join(f"{part:>10}" for part in (*PARTS, "total")) + "    GFLOP/s   levels")
        for name, figures in batch["networks"].items():
            cells = "".join(f"{figures['seconds'][part]:>10.3f}" for part in (*PARTS, "total"))
            rate, levels = figures["flops_per_second"] / 1e9, figures.get("mean_difference_in_levels", 0)
            lines.append(f"{name:<10}{cells}{rate:>11.0f}{levels:>9.3f}")
    lines += [f"{name}: {figures}" for name, figures in report.get("equality", {}).items()]
    lines.append(
        f"fast / {report['peer']}: {report['ratio']:.3f}; fast_bf16 / plain: {report['ratio_fast_bf16_to_plain']:.3f}"
    )
    return "\n".join(lines)


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", choices=("full", "mini", "tiny"), default="full")
    parser.add_argument("--batch", type=int, nargs="+", default=[1], help="batch sizes; `ratio` is of the first")
    parser.add_argument("--repeat", type=int, default=5, help="passes of each network (default %(default)s)")
    parser.add_argument("--check", action="store_true", help="compare with the unpruned UNet and unmerged LoRA")
    parser.add_argument("--out", type=Path, help="write the report as JSON")
    args = parser.parse_args()
    if min(*args.batch, args.repeat) < 1:
        parser.error("--batch and --repeat must be at least 1")
    if args.check and args.scale == "mini":
        parser.error("--check needs a UNet that is not pruned yet; the bundled mini's is")
    report = benchmark(args.scale, args.batch, args.repeat, args.check)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(table(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
