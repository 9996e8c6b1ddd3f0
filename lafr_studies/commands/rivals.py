"""Train LAFR and its rivals for the same seconds on the same faces, and compare them.

LAFR, OSEDiff, GFPGAN, CodeFormer and RestoreFormer, by the small option files of options/mini; options/rivals.yml says
by which, and how a method's seconds are divided among its stages. VAL's faces are degraded as the paper's test set
(x4, seed 0), and DIR gets the paper's Tables 1 and 3 of them, with 95 % intervals, the page of pictures in DIR/compared
and all runs in DIR/experiments. The same command goes on where an interrupted one stopped. Seconds are those of steps
and of waiting for data; trainings run one after the other, so that each has the machine for itself.

Exit status: 0; 1, a training failed or a metric is missing (the tables say which); 2, nothing could be done.
"""

from __future__ import annotations

import argparse
import sys
from argparse import Namespace
from pathlib import Path

HELP = "train LAFR and its rivals for the same time, and compare them"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to its parser."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("--faces", type=Path, default=Path("datasets/faces/train"), metavar="DIR", help="to train on")
    add("--val", type=Path, default=Path("datasets/faces/val"), metavar="DIR", help="held out, to compare on")
    add("--seconds", type=float, default=3600, metavar="S", help="of training, each method (default: 3600)")
    add("--methods", nargs="+", metavar="NAME", help="of options/rivals.yml (default: all)")
    add("--metrics", nargs="+", metavar="NAME", help="of Table 1's, and others of docs/metrics.md (default: all there)")
    add("--size", type=int, default=256, metavar="PX", help="side of the faces compared (default: 256)")
    add("--force_yml", nargs="+", default=[], metavar="KEY:KEY=VALUE", help="for all runs, or RUN:KEY:KEY=VALUE")
    add("-o", "--out", type=Path, default=Path("results/rivals"), metavar="DIR", help="where to write")
    add("--device", default="auto", help="for comparing: auto (default), cpu, cuda, ...")


def run(args: argparse.Namespace) -> int:
    """Train, compare, write; return the exit status."""
    from lafr.commands import degrade
    from lafr_base.files import write_json, write_text
    from lafr_base.images import list_images
    from lafr_metrics.suite import METRICS
    from lafr_studies import paper_comparisons, rivals
    from lafr_studies.commands.compare import progress_bar
    from lafr_studies.comparison.run import Request, compare
    from lafr_studies.comparison.running import read_methods

    out = args.out.expanduser().resolve()
    if not args.seconds > 0:
        raise ValueError(f"--seconds must be above 0; got {args.seconds:g}")
    methods = rivals.read_methods(args.methods)
    runs = rivals.plan(methods, args.seconds, args.faces.expanduser().resolve(), out, args.force_yml)
    made = Namespace(
        faces=args.val, out=out / "faces", degradation="celeba_x4", seed=0, size=args.size, overwrite=False
    )
    if degrade.run(made) == 2:
        return 2
    failures = rivals.train_all(runs, out, _say)
    trained = [name for name in methods if (out / "experiments" / methods[name][-1].name / "deployed").is_dir()]
    if not trained:
        return 2
    texts = [rivals.deployed(name, methods, out) for name in trained]
    lq, gt = out / "faces" / "lq", out / "faces" / "hq"
    listed = list_images(lq)
    table, costs = rivals.tables({name: methods[name] for name in trained}, out, len(listed))
    asked = args.metrics or [*table.columns.values(), "lpips_alex", "features_lite0", "frechet_lite0", "identity"]
    unknown = [name for name in asked if name not in METRICS]
    if unknown:
        raise ValueError(f"--metrics: {unknown[0]} is unknown; docs/metrics.md lists them")
    compared = read_methods(texts)
    metrics = list(dict.fromkeys(asked))
    report = compare(Request.of_faces(lq, gt, out / "compared", compared, metrics, args.device), progress_bar)
    more = {METRICS[name].title: name for name in asked if name not in table.columns.values()}
    wanted = {heading: name for heading, name in {**table.columns, **more}.items() if name in report["metrics"]}
    records = rivals.method_seconds(methods, out)
    for chosen in (table, costs):
        result = paper_comparisons.build_table(
            paper_comparisons.replace_columns(chosen, wanted),
            {chosen.sets[0].name: report},
            {method.name: method.spec for method in compared},
            records,
        )
        result["notes"] += failures
        write_json(out / f"table_{chosen.number}.json", result)
        write_text(out / f"table_{chosen.number}.md", text := paper_comparisons.markdown(result))
        print(text)
    return 1 if failures or report["missing"] else 0


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
