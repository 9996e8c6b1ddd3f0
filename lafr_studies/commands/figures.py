"""Draw one of the paper's figures that are statistics, from a network, faces or reports of one's own.

latents (figure 7): t-SNE of the latents of LQ faces, of what the alignment module makes of them and of the HQ faces,
with the distances. compactness (figure 10): t-SNE of features of faces and of natural images, with the distances
within both and the silhouette. trend (figures 6 and 9): metrics over the number of training images, from the reports of
`lafr ablate 11` and `lafr ablate 12`. DIR gets NAME.png and, with all numbers, NAME.json. t-SNE needs scikit-learn:
pip install 'lafr[figures]'.

Exit status: 0; 2, it could not be drawn, with the reason.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

HELP = "draw the paper's figures: latents (7), compactness (10), trend (6, 9)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the figures, a subcommand each."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    figures = parser.add_subparsers(dest="figure", metavar="NAME", required=True)
    latents = figures.add_parser("latents", help="figure 7: LQ, aligned and HQ latents")
    _add_source(latents)
    latents.add_argument(
        "--points",
        choices=("position", "face"),
        default="position",
        help="of the t-SNE: ten positions of each latent (default), or whole latents, which lie by face",
    )
    compactness = figures.add_parser("compactness", help="figure 10: faces against natural images")
    _add_source(compactness)
    compactness.add_argument("--natural", required=True, metavar="DIR", help="folder of natural images")
    compactness.add_argument(
        "--features",
        choices=("resnet50", "latent"),
        default="resnet50",
        help="resnet50 (default, the paper's; `lafr weights --fetch resnet50`), or latent: of MODEL's encoder",
    )
    trend = figures.add_parser("trend", help="figures 6 and 9: metrics over the number of training images")
    trend.add_argument("reports", type=Path, nargs="+", metavar="REPORT.json", help="of `lafr ablate` 11, 12 or both")
    trend.add_argument("--paper", action="store_true", help="draw the paper's figures too, with an axis of their own")
    for figure in (latents, compactness, trend):
        figure.add_argument(
            "-o",
            "--out",
            type=Path,
            default=Path("results") / "figures",
            metavar="DIR",
            help="default: results/figures",
        )


def _add_source(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--model", default="mini", help="mini (default), a folder with config.json, or an option file of either stage")
    add("--weights", metavar="CHECKPOINT", help="net_g_*.pth of stage 1, where an option file does not name it")
    add("--faces", metavar="DIR", help="HQ faces, folder or LMDB (default: an option file's validation set)")
    add("--degradation", metavar="PRESET", help="of the LQ copies (default: the option file's, or celeba_x4)")
    add("--seed", type=int, metavar="N", help="of LQ copies, subset and t-SNE (default: the option file's, or 0)")
    add("--count", type=int, metavar="N", help="images of a folder, drawn with the seed (default: all)")
    add("--device", default="auto", help="auto (default), cpu, cuda, ...")


def run(args: argparse.Namespace) -> int:
    """Draw, write, print; return the exit status."""
    result, text = _draw(args)
    print(text)
    print(f"{args.out / result['figure']}.png, {args.out / result['figure']}.json")
    return 0


def _draw(args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    if args.figure == "trend":
        from lafr_studies.figures import trend

        result = trend.make(args.reports, args.out, args.paper)
        return result, trend.text(result)
    from lafr.networks import pick_device
    from lafr_studies.figures import compactness, latents
    from lafr_studies.figures.figure_inputs import FigureError, Source

    for flag in ("seed", "count"):
        if getattr(args, flag) is not None and getattr(args, flag) < 0:
            raise FigureError(f"--{flag} must not be negative; got {getattr(args, flag)}")
    try:
        device = pick_device(args.device)
    except ValueError as error:
        raise FigureError(f"--device: {error}") from error
    source = Source(args.model, args.weights, args.faces, args.degradation, args.seed, args.count)
    if args.figure == "latents":
        result = latents.make(source, args.points, args.out, device)
        return result, latents.text(result)
    result = compactness.make(source, args.natural, args.features, args.out, device)
    return result, compactness.text(result)
