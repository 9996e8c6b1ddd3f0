"""Make one of the paper's tables that compare methods: 1, 2, 3, 9 or 10.

Each set of faces is compared as by `lafr compare`, into DIR/SET with its page of pictures; DIR/table_N.md and .json
hold the table, with intervals and with the paper's figures beside. Sets are looked for under --data: celeba_test/lq and
celeba_test/hq, wider_test, lfw_test, webphoto_test; `--folder SET=DIR` names another place. Tables 9 and 10 compare two
networks that were trained on different faces: give both as methods.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

HELP = "make the paper's tables of methods (1, 2, 3, 9, 10)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to its parser."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("number", metavar="TABLE", help="number in the paper")
    add("-m", "--methods", nargs="+", required=True, metavar="METHOD", help="what to compare, as for lafr compare")
    add("-o", "--out", type=Path, required=True, metavar="DIR", help="where to write")
    add("--data", type=Path, default=Path("datasets"), metavar="DIR", help="where the sets lie (default: datasets)")
    add("--folder", nargs="+", default=[], metavar="SET=DIR", help="another place of a set")
    add("--metrics", nargs="+", metavar="NAME", help="of the table's metrics these alone")
    add("--device", default="auto", help="auto (default), cpu, cuda, cuda:1, ...")


def run(args: argparse.Namespace) -> int:
    """Compare and write; return the exit status: 0, 1 (something failed) or 2 (nothing could be done)."""
    from lafr_base import face_sets
    from lafr_base.files import write_json, write_text
    from lafr_metrics.suite import METRICS
    from lafr_studies import paper_comparisons
    from lafr_studies.commands.compare import progress_bar
    from lafr_studies.comparison.run import Request, compare
    from lafr_studies.comparison.running import read_methods
    from lafr_studies.comparison.tables import faults as comparison_faults

    try:
        table = paper_comparisons.read_table(args.number)
        places = face_sets.places_of(table.sets, args.data, args.folder)
        faults, notes = face_sets.check(places)
        if faults:
            raise ValueError("\n".join(faults))
        reports, methods = {}, {}
        for face_set, (lq, gt) in places.items():
            compared = read_methods(args.methods)
            methods = {method.name: method.spec for method in compared}
            asked = [name for name in table.columns.values() if args.metrics is None or name in args.metrics]
            metrics = [name for name in asked if gt is not None or not METRICS[name].reference]
            request = Request.of_faces(lq, gt, args.out / face_set.folder, compared, metrics, args.device)
            reports[face_set.name] = compare(request, progress_bar)
    except ValueError as error:
        print(f"lafr table: {error}", file=sys.stderr)
        return 2
    result = paper_comparisons.build_table(table, reports, methods)
    result["notes"] += notes
    text = paper_comparisons.markdown(result)
    write_json(args.out / f"table_{table.number}.json", result)
    write_text(args.out / f"table_{table.number}.md", text)
    print(text, end="")
    failed = [line for report in reports.values() for line in comparison_faults(report)]
    for line in failed:
        print(line, file=sys.stderr)
    return 1 if failed or result["missing"] else 0
