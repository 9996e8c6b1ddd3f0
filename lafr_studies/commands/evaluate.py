"""Measure a folder of restored images, against a folder of references or alone.

Files are matched by name without suffix; NAME_00, NAME_lafr and NAME_00_lafr match the reference NAME. With --out
report.json the values of every image, the means with 95 % intervals, what is missing and why, and the protocol are
written to report.json and report.csv. Exit status: 0; 1 where an image or a metric asked for by name could not be
measured, each named; 2 where nothing could be.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lafr_metrics.suite import Suite

HELP = "measure restored images: PSNR, SSIM, LPIPS, FID, identity, ..."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``lafr evaluate``."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("restored", type=Path, metavar="RESTORED", help="folder of restored images")
    add("--reference", type=Path, metavar="DIR", help="folder of the images they should be")
    add(
        "--metrics",
        nargs="+",
        metavar="NAME",
        help="which (default: all whose weights are there); docs/metrics.md lists them",
    )
    add("--out", type=Path, metavar="FILE.json", help="write the report, and the same as .csv")
    add("--device", default="auto", help="auto (default), cpu, cuda, cuda:1, ...")


def run(args: argparse.Namespace) -> int:
    """Measure, print, write; return the exit status."""
    from lafr.networks import pick_device
    from lafr_base.images import ImageError, list_images
    from lafr_metrics.suite import METRICS, Suite
    from lafr_studies.evaluation import match, table, write_reports

    if args.out is not None and args.out.suffix != ".json":
        return _stop(f"--out: {args.out} should end in .json; the CSV file gets the same name")
    try:
        restored = list_images(args.restored)
        references = None if args.reference is None else list_images(args.reference)
        suite = Suite(args.metrics, pick_device(args.device), references is not None)
    except (ImageError, ValueError) as error:
        return _stop(str(error))
    if not suite.names:
        return _stop("no metric can be measured:\n" + _reasons(suite.missing))
    pairs, errors = match(restored, references)
    for name, reason in errors.items():
        print(f"{name}: {reason}", file=sys.stderr)
    report = _measure(suite, pairs, references, errors)
    if not report["images"]:
        return _stop("no image could be measured")
    report |= {"restored": str(args.restored), "reference": None if args.reference is None else str(args.reference)}
    if args.out is not None:
        write_reports(report, args.out)
    print(table(report))
    if suite.missing:
        print(f"missing:\n{_reasons(suite.missing)}")
    asked = [name for name in suite.missing if args.metrics is not None]
    complete = all(name in report["set"] for name in suite.names if METRICS[name].kind == "set")
    return 0 if not errors and not asked and complete else 1


def _measure(
    suite: Suite, pairs: dict[str, tuple[Path, Path | None]], references: list[Path] | None, errors: dict[str, str]
) -> dict[str, Any]:
    """The report; faults are added to ``errors`` and told as they come."""
    from tqdm import tqdm

    from lafr_studies.evaluation import Evaluation

    evaluation = Evaluation(suite, errors)
    with tqdm(total=len(pairs), desc="Measuring", unit="image", disable=None) as progress:
        for name, (restored, reference) in pairs.items():
            for fault in evaluation.add(name, restored, reference):
                progress.write(f"{name}: {fault}", file=sys.stderr)
            progress.update()
    for fault in evaluation.finish(references, lambda paths, title: tqdm(paths, title, unit="image", disable=None)):
        print(fault, file=sys.stderr)
    return evaluation.report()


def _reasons(missing: dict[str, str]) -> str:
    return "\n".join(f"  {name}: {reason}" for name, reason in missing.items())


def _stop(message: str) -> int:
    print(f"lafr evaluate: {message}", file=sys.stderr)
    return 2
