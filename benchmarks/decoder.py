"""A distilled decoder against the VAE's own: speed of both in one process, and what it changes in restored faces.

    python benchmarks/decoder.py speed --scale full --out decoder_speed_full.json
    python benchmarks/decoder.py speed --scale mini --model experiments/mini_decoder/deployed --out speed.json
    python benchmarks/decoder.py quality FACES --model experiments/mini_decoder/deployed --out quality.json

`speed` decodes the same latent with both, plain and by LAFRNet.for_inference, in turn (plain in every second
repeat). At `full` it is Stable Diffusion's decoder and options/lafr_decoder.yml's, both with random weights, so that
nothing is said of quality; at `mini` whole faces are restored too. `ratio` is the median of the new decoder over that
of the VAE's, both fast.
`quality` restores every face of a folder with both networks, from the same LQ face. FACES are FFHQ-aligned faces that
neither was trained on. The VAE's own decoder is that of the bundled mini; the same metrics of LQ and HQ come from
quality.py.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent))

from inference import flop_counter  # noqa: E402 - the scripts beside this one
from machine import machine  # noqa: E402
from quality import METRICS  # noqa: E402
from random_networks import configurations, fill, random_vae  # noqa: E402

import lafr  # noqa: E402
from lafr.networks import MODELS  # noqa: E402
from lafr_arch.lafr_arch import LAFRNet  # noqa: E402
from lafr_arch.sizes import count  # noqa: E402
from lafr_models.options import load_yaml  # noqa: E402

OPTIONS = Path(__file__).resolve().parents[1] / "options"
NARROW = {"type": "SmallDecoder", "widths": [16, 16, 16], "blocks": [1, 1, 1]}


def decoder_alone(scale: str) -> LAFRNet:
    """Stable Diffusion's VAE (`full`) or a narrow one (`tiny`), with random weights and nothing else."""
    configs = configurations(scale)
    vae = random_vae(configs)
    size = 8 * configs.unet["sample_size"]
    net = LAFRNet(vae, None, None, prediction_type="epsilon", alpha_cumprod=0.5, image_size=size)
    return net.eval().requires_grad_(False)


def with_decoder(net: LAFRNet, decoder: dict[str, Any]) -> LAFRNet:
    """A VAE's network with another decoder, its weights drawn at random."""
    other = copy.deepcopy(net)
    other.set_decoder(decoder)
    fill(other.decoder)  # type: ignore[arg-type]
    return other


def networks(scale: str, model: str | None) -> dict[str, LAFRNet]:
    """The network with the VAE's own decoder and that with the small one."""
    if scale == "mini":
        return {"own": LAFRNet.from_pretrained(MODELS["mini"]), "small": LAFRNet.from_pretrained(str(model))}
    own = decoder_alone(scale)
    decoder = load_yaml(OPTIONS / "lafr_decoder.yml")["network_g"] if scale == "full" else NARROW
    return {"own": own, "small": with_decoder(own, decoder)}


def own_decoder(net: LAFRNet) -> nn.Module:
    """What decodes: the VAE's decoder, or what has taken its place."""
    return net.vae.decoder if net.decoder is None else net.decoder


@torch.inference_mode()
def speed(scale: str, model: str | None, batches: list[int], repeat: int) -> dict[str, Any]:
    """Median seconds of both decoders, taking turns; at mini scale of whole faces too."""
    torch.manual_seed(0)
    plain = networks(scale, model)
    fast = {name: net.for_inference() for name, net in plain.items()}
    runs = {f"{name}_plain": net for name, net in plain.items()} | {f"{name}_fast": net for name, net in fast.items()}
    size = plain["own"].image_size
    report: dict[str, Any] = {"scale": scale, "image_size": size, "machine": machine(), "repeat": repeat}
    report["decoders"] = {
        name: {"parameters": count(own_decoder(net)), "config": net.configs.get("decoder")}
        for name, net in plain.items()
    }
    report["batches"] = []
    for batch in batches:
        latent = torch.randn(batch, plain["own"].vae.config.latent_channels, size // 8, size // 8)
        face = torch.rand(batch, 3, size, size)
        flops: dict[str, float] = {}
        difference: dict[str, float] = {}
        for name, net in plain.items():
            with flop_counter() as counter:
                expected = net.decode(latent)
            flops[name] = float(counter.get_total_flops())
            error = (fast[name].decode(latent) - expected).abs().max()
            difference[name] = float(error / (expected.max() - expected.min()))
            for each in (net, fast[name]):  # warm up
                if each.unet is not None:
                    each(face)
        seconds: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        for index in range(repeat):
            turn = {name: net for name, net in runs.items() if name.endswith("fast") or index % 2 == 0}
            for name, net in turn.items():
                start = time.perf_counter()
                net.decode(latent)
                seconds["decode"][name].append(time.perf_counter() - start)
            for name, net in turn.items():
                if net.unet is None:
                    continue
                start = time.perf_counter()
                net(face)
                seconds["face"][name].append(time.perf_counter() - start)
        report["batches"].append(
            {
                "batch": batch,
                "decode_flops": flops,
                "fast_to_plain_largest_difference_over_range": difference,
                "seconds": {
                    part: {name: {"median": median(times), "all": times} for name, times in rows.items()}
                    for part, rows in seconds.items()
                },
                "ratio": {
                    part: median(rows["small_fast"]) / median(rows["own_fast"]) for part, rows in seconds.items()
                },
            }
        )
    report["ratio"] = report["batches"][0]["ratio"]["decode"]
    return report


@torch.inference_mode()
def quality(model: str, faces: str, preset: str, seed: int, n_images: int | None) -> dict[str, Any]:
    """Metrics of both restorations, and PSNR of the small decoder's images to the own decoder's."""
    from lafr_data.validation_dataset import ValidationFaceDataset
    from lafr_metrics.images import to_image
    from lafr_metrics.psnr_ssim_metric import psnr
    from lafr_metrics.statistics import bootstrap_mean
    from lafr_metrics.suite import Suite

    nets = {name: net.for_inference() for name, net in networks("mini", model).items()}
    size = nets["own"].image_size
    options = {"name": "decoder", "dataroot_gt": faces, "image_size": size, "degradation": preset, "seed": seed}
    dataset = ValidationFaceDataset(options if n_images is None else {**options, "n_images": n_images})
    suite = Suite(METRICS)
    rows: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))

    def compare(column: str, image: Tensor, reference: Tensor) -> None:
        rows["psnr"][column].append(psnr(to_image(image), to_image(reference)))

    for index in tqdm(range(len(dataset)), unit="face", disable=None):
        item = dataset[index]
        lq, hq = item["lq"][None], item["gt"][None]
        latent = nets["own"](lq, output="restored")
        images = {name: net.decode(latent).clamp(0, 1) for name, net in nets.items()}
        for column, image in images.items():
            for name, value in suite.measure(to_image(image), to_image(hq)).items():
                rows[name][column].append(value)
        compare("small_to_own", images["small"], images["own"])
        # What both decoders make of the good face's own latent: the most that they can show.
        best = nets["own"].encode(hq)
        for column, net in nets.items():
            compare(f"{column}_of_hq_latent", net.decode(best).clamp(0, 1), hq)
    metrics: dict[str, Any] = {}
    for metric, columns in rows.items():
        metrics[metric] = {column: bootstrap_mean(values) for column, values in columns.items()}
        pairs = zip(columns["small"], columns["own"], strict=True)
        metrics[metric]["small_minus_own"] = bootstrap_mean([small - own for small, own in pairs])
    return {
        "set": {"faces": len(dataset), "seed": seed, "degradation": preset, "image_size": size},
        "decoder": nets["small"].configs["decoder"],
        "metrics": metrics,
        "missing": sorted(suite.missing),
        "versions": {"lafr": lafr.__version__, "torch": torch.__version__},
    }


def speed_table(report: dict[str, Any]) -> str:
    """The report as lines of text."""
    lines = []
    for batch in report["batches"]:
        work = ", ".join(f"{name} {value / 1e9:.1f}" for name, value in batch["decode_flops"].items())
        lines.append(f"batch {batch['batch']}; GFLOP of decoding: {work}; median of {report['repeat']}, ms")
        for part, rows in batch["seconds"].items():
            cells = "  ".join(f"{name} {1000 * row['median']:.1f}" for name, row in rows.items())
            lines.append(f"  {part:<8}{cells}  small / own, fast: {batch['ratio'][part]:.3f}")
    return "\n".join(lines)


def quality_table(report: dict[str, Any]) -> str:
    """The report as lines of text."""
    lines = []
    for metric, columns in report["metrics"].items():
        lines.append(metric)
        lines += [
            f"  {column:<20}{value['mean']:>9.4f} [{value['low']:.4f}, {value['high']:.4f}]"
            for column, value in columns.items()
        ]
    return "\n".join(lines + [f"missing: {name}" for name in report["missing"]])


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    timing = commands.add_parser("speed", help="both decoders in turn")
    timing.add_argument("--scale", choices=("full", "mini", "tiny"), default="full")
    timing.add_argument("--model", help="deployed folder with the small decoder; needed for mini")
    timing.add_argument("--batch", type=int, nargs="+", default=[1], help="`ratio` is of the first")
    timing.add_argument("--repeat", type=int, default=5)
    looks = commands.add_parser("quality", help="metrics of restored faces")
    looks.add_argument("faces", help="folder of FFHQ-aligned faces")
    looks.add_argument("--model", required=True, help="deployed folder with the small decoder")
    looks.add_argument("--degradation", default="celeba_x4", help="preset (default %(default)s)")
    looks.add_argument("--seed", type=int, default=0)
    looks.add_argument("--n_images", type=int, help="only this many faces")
    for command in (timing, looks):
        command.add_argument("--out", type=Path, help="write the report as JSON")
    args = parser.parse_args()
    if args.command == "speed":
        if min(*args.batch, args.repeat) < 1:
            parser.error("--batch and --repeat must be at least 1")
        if (args.scale == "mini") != (args.model is not None):
            parser.error("--model goes with --scale mini, and that needs it")
        report = speed(args.scale, args.model, args.batch, args.repeat)
        print(speed_table(report))
    else:
        report = quality(args.model, args.faces, args.degradation, args.seed, args.n_images)
        print(quality_table(report))
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
