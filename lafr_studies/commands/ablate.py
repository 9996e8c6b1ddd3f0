"""Run one of the paper's ablations: train every row, measure it, print the table beside the paper's figures.

Each row is a delta against option files (options/ablations.yml). It is trained by the project's launcher once a seed;
trainings whose options are equal are shared by rows and tables. Then it is measured on the option file's validation
set. The seed is that of the training, of its data and, where a row draws a subset of the images, of that. DIR holds
table_N_SCALE.md and .json, and all trainings with their logs. The same command goes on where an interrupted one
stopped and does nothing twice. Relative paths in option files are looked for in the current folder.

Exit status: 0, all rows are there; 1, something failed (the table says what); 2, nothing could be done.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

HELP = "train, measure and print a table of the paper's ablations"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``lafr ablate``."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("table", metavar="TABLE", help="number of the table in the paper: 4, 5, 6, 7, 8, 11 or 12")
    add("--scale", choices=("mini", "full"), default="mini", help="option files: options/mini or the paper's own")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="N", help="default: 0 1 2")
    add("--steps", type=int, metavar="N", help="iterations of each row's last stage (default: the options')")
    add("--rows", nargs="+", metavar="ROW", help="only these; the row they are compared with is always among them")
    add(
        "--force_yml",
        nargs="+",
        default=[],
        metavar="KEY:KEY=VALUE",
        help="option values for all stages, or for one: align:KEY=..., unet:KEY=..., osediff:KEY=...",
    )
    add("-o", "--out", type=Path, metavar="DIR", help="where to write (default: results/ablations/SCALE)")
    add("--device", default="auto", help="for measuring: auto (default), cpu, cuda, ...; training uses what there is")


def run(args: argparse.Namespace) -> int:
    """Train, measure, print; return the exit status."""
    from lafr_studies.ablations.deltas import AblationError

    if args.steps is not None and args.steps < 1:
        raise AblationError(f"--steps must be at least 1; got {args.steps}")
    if min(args.seeds) < 0:
        raise AblationError(f"--seeds must not be negative; got {min(args.seeds)}")

    import lafr

    lafr.register()
    from lafr_studies.ablations.experiment import Request, run_table

    out = (args.out or Path("results") / "ablations" / args.scale).expanduser().resolve()
    try:
        request = Request(
            table=args.table,
            scale=args.scale,
            seeds=tuple(dict.fromkeys(args.seeds)),
            out=out,
            rows=None if args.rows is None else tuple(args.rows),
            steps=args.steps,
            force=tuple(args.force_yml),
            device=args.device,
        )
        report, text = run_table(request, _say)
    except KeyboardInterrupt:
        _say("interrupted; the same command goes on from here")
        return 130
    print(text)
    _say(f"{out}: table_{args.table}_{args.scale}.md, table_{args.table}_{args.scale}.json")
    return 1 if report["failures"] else 0


def _say(*lines: Any) -> None:
    print(*lines, sep="\n", file=sys.stderr, flush=True)
