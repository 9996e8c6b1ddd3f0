"""List the weights that options can use: what for, licence, origin, size, SHA-256, where looked for, whether there.

The weights folder is LAFR_WEIGHTS (default ~/.cache/lafr). The exit status is 1 if a named weight is missing, could
not be fetched or is not intact.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import Any

from lafr_base import weights
from lafr_base.weight_list import WEIGHTS, Weight

HELP = "list the weights that options can use, and fetch them"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to its parser."""
    parser.add_argument("names", nargs="*", metavar="NAME", help="list these only, and fail if one is missing")
    parser.add_argument("--fetch", nargs="+", metavar="NAME", default=[], help="download these")
    parser.add_argument("--verify", action="store_true", help="check the listed files that are there (reads them)")
    parser.add_argument("--offline", action="store_true", help="use no network, as LAFR_OFFLINE=1")
    parser.add_argument("--json", action="store_true", help="write JSON")


def run(args: argparse.Namespace) -> int:
    """Fetch, then list; return the exit status."""
    if args.offline:
        os.environ["LAFR_OFFLINE"] = "1"
    named = [weights.get(name) for name in [*args.names, *args.fetch]]
    failed = False
    for name in args.fetch:
        try:
            weights.fetch(name, progress=sys.stderr.isatty())
        except weights.WeightsError as error:
            print(error, file=sys.stderr)
            failed = True
    listed = list(dict.fromkeys(named)) or list(WEIGHTS)
    reports = [describe(weight, args.verify) for weight in listed]
    if args.json:
        print(json.dumps(reports, indent=2))
    else:
        print(f"weights folder: {weights.root()}" + (" (offline)" if weights.offline() else ""))
        for report in reports:
            print(format_report(report))
        print(f"{sum(report['path'] is not None for report in reports)} of {len(reports)} there")
    missing = bool(named) and any(report["path"] is None for report in reports)
    return int(failed or missing or any(report["faults"] for report in reports))


def describe(weight: Weight, verify: bool = False) -> dict[str, Any]:
    """Return all there is to say of a weight, as JSON can hold it."""
    path = weights.find(weight.name)
    return {
        "name": weight.name,
        "purpose": weight.purpose,
        "licence": weight.licence,
        "origin": weight.origin,
        "size": weight.size,
        "path": None if path is None else str(path),
        "places": [str(place) for place in weights.places(weight.name)],
        "files": [
            {"path": file.path, "size": file.size, "sha256": file.sha256, "urls": list(file.urls)}
            for file in weight.files
        ],
        "by_hand": weight.by_hand,
        "faults": weights.verify(weight.name) if verify and path is not None else [],
    }


def format_report(report: dict[str, Any]) -> str:
    """Return a few lines of text for what :func:`describe` returned."""
    state = "there" if report["path"] else "missing"
    lines = [f"{report['name']:<22} {state:<8} {format_size(report['size']):>8}  {report['licence'] or '-'}"]
    lines += [f"    for     {report['purpose']}", f"    origin  {report['origin']}"]
    digests = [f"{file['sha256']}  {file['path']}" for file in report["files"] if file["sha256"]]
    lines += [f"    sha256  {digest}" for digest in digests or ["-"]]
    if report["path"]:
        lines.append(f"    at      {report['path']}")
    else:
        lines += [f"    looked  {place}" for place in report["places"]]
        lines.append(f"    get     {report['by_hand'] or 'lafr weights --fetch ' + report['name']}")
    return "\n".join(lines + [f"    WRONG   {fault}" for fault in report["faults"]])


def format_size(size: int | None) -> str:
    """Return a size in bytes with a decimal unit, or ``-``."""
    if size is None:
        return "-"
    value = float(size)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}"
        value /= 1000
    return f"{value:.1f} GB"
