"""Compare face restorers on the same photos: results, one table and one page of pictures.

Every method gets the same faces, found once, and its results are pasted back the same way; with --aligned the inputs
are FFHQ-aligned faces and go straight through. DIR holds index.html (open it in a browser; it needs nothing beside
it), table.md, table.csv, faces.csv, report.json, and each method's results in DIR/NAME. Results that are there are not
made again: an interrupted comparison is continued by the same command, and a changed input or method is done anew.

methods: mini; a folder of a deployed network; bicubic; gfpgan:PATH, codeformer:PATH[,w=0.5], restoreformer:PATH,
restoreformer++:PATH, osdface:FOLDER; osediff:FOLDER; NAME=FOLDER for results of any other program; NAME=METHOD to
rename. The first is what the others are compared with. Exit status: 0, all there; 1, something failed (the page says
what); 2, nothing could be done.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

HELP = "compare restorers on the same photos: table and page of pictures"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``lafr compare``."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("inputs", type=Path, nargs="+", metavar="INPUTS", help="photos, or folders of photos")
    add("-m", "--methods", nargs="+", required=True, metavar="METHOD", help="what to compare, see above")
    add("--reference", type=Path, metavar="DIR", help="the same photos undegraded, by name")
    add("--metrics", nargs="+", metavar="NAME", help="default: all that can be had; DIR/table.md lists the rest")
    add("-o", "--out", type=Path, required=True, metavar="DIR", help="where to write")
    add("--aligned", "--has_aligned", action="store_true", help="the inputs are FFHQ-aligned faces")
    add("--size", type=int, metavar="PX", help="side at which faces are measured (default: the references', or 512)")
    add("-s", "--upscale", type=float, default=2, metavar="X", help="enlargement of whole photos (default: 2)")
    add(
        "-w",
        "--weight",
        type=float,
        metavar="W",
        help="0 to 1, how closely faces follow the photo (default: 0, networks alone; CodeFormer 0.5)",
    )
    add("--detection_model", default="auto", metavar="NAME", help="face detector (default: auto, the best there is)")
    add("--device", default="auto", help="auto (default), cpu, cuda, cuda:1, ...")
    add("--precision", choices=("fp32", "fp16", "bf16"), default="fp32", help="arithmetic of the networks")
    add("--quality", type=int, default=85, metavar="Q", help="of the page's WebP pictures, 1 to 100 (default: 85)")


def run(args: argparse.Namespace) -> int:
    """Compare; return the exit status: 0, 1 (something failed) or 2 (nothing could be done)."""
    for name, value, low, high in (("weight", args.weight, 0, 1), ("quality", args.quality, 1, 100)):
        if value is not None and not low <= value <= high:
            return _stop(f"--{name} must be within {low} to {high}; got {value:g}")
    if args.size is not None and args.size < 16:
        return _stop(f"--size must be at least 16 pixels; got {args.size}")
    if not args.upscale > 0:
        return _stop(f"--upscale must be above 0; got {args.upscale:g}")

    from lafr.results import output_names
    from lafr_base.images import list_images
    from lafr_studies.comparison.page import Pictures
    from lafr_studies.comparison.run import Request, compare
    from lafr_studies.comparison.running import read_methods
    from lafr_studies.comparison.tables import faults

    try:
        paths = list(dict.fromkeys(path for given in args.inputs for path in list_images(given)))
        request = Request(
            inputs=output_names(paths),
            methods=read_methods(args.methods),
            out=args.out,
            reference=args.reference,
            metrics=args.metrics,
            aligned=args.aligned,
            size=args.size,
            upscale=args.upscale,
            weight=args.weight,
            detector=args.detection_model,
            device=args.device,
            precision=args.precision,
            pictures=Pictures(args.quality),
        )
        with logging_redirect_tqdm():
            report = compare(request, progress_bar)
    except ValueError as error:
        return _stop(str(error))
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    _print(report, args.out)
    asked = bool(args.metrics and report["missing"])
    return 1 if asked or report["notes"] or faults(report) else 0


@contextmanager
def progress_bar(title: str, total: int) -> Iterator[Callable[[], None]]:
    """Show a bar of ``total`` steps; what it gives is called once a step."""
    with tqdm(total=total, desc=title, disable=None) as progress:

        def step() -> None:
            progress.update()

        yield step


def _print(report: dict[str, Any], out: Path) -> None:
    """Print the means, what failed and what is missing."""
    from lafr_studies.comparison.tables import digits, duration, faults, means

    metrics = {name: (about["title"], means(report, name)) for name, about in report["metrics"].items()}
    for place, column in enumerate(report["columns"]):
        seconds = column.get("seconds")
        cells = [f"{column['title']:<16} {column['faces']:>4} faces"]
        cells += ["" if seconds is None else f"{duration(seconds['median'])} s per face"]
        for title, found in metrics.values():
            mean = found[place]
            if mean is not None:
                cells.append(f"{title} {mean:.{digits(found)}f}" if isinstance(mean, float) else f"{title} {mean}")
        print("  ".join(cell for cell in cells if cell))
    for line in [*report["notes"], *faults(report)]:
        print(line, file=sys.stderr)
    if report["missing"]:
        print(f"not measured: {', '.join(report['missing'])} (table.md says why)", file=sys.stderr)
    print(f"{out / 'index.html'}: pictures; table.md, table.csv, faces.csv, report.json: figures")


def _stop(message: str) -> int:
    print(f"lafr compare: {message}", file=sys.stderr)
    return 2
