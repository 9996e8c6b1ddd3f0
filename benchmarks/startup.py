"""Seconds from a fresh process to the first restored face, stage by stage, with the bundled network.

    python benchmarks/startup.py --repeat 5 --out startup.json

Each measurement is a process of its own, which restores one photo (scikit-image's astronaut, 256 px) through LAFRer:
found, cut out, restored, compared, pasted back. `first` is the first run ever: the user's cache (XDG_CACHE_HOME) is
empty, so that kernels that were not built at the install are compiled, and an engine's graph is exported. `again` is
any later run. Medians of wall time, and of the processor's time (`cpu`), which other processes disturb less. `seconds`
says where they go; what is imported late counts where it is imported.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

CHILD = """
import json, sys, time
notes = {}
start = time.perf_counter()
def note(name):
    global start
    now = time.perf_counter()
    notes[name], start = now - start, now
import torch
note("import torch")
from lafr.restorer import LAFRer
note("import lafr")
from lafr.networks import load_network, pick_device
network = load_network("mini", pick_device("cpu"))
note("network")
restorer = LAFRer(model=network, device="cpu", engine=sys.argv[1])
note("engine, detector, identity net")
from lafr_base.images import read_image
photo = read_image(sys.argv[2]).bgr
faces = restorer.enhance(photo)[1]
note("restore")
assert len(faces) == 1
print(json.dumps({"seconds": notes, "engine": restorer.steps.runner.engine, "modules": len(sys.modules)}))
"""


def run(engine: str, photo: Path, cache: Path) -> dict[str, Any]:
    """One process: its own account, and its time."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [sys.executable, "-c", CHILD, engine, str(photo)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != 0:
        raise RuntimeError(done.stderr[-2000:])
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall": wall, "cpu": cpu, **json.loads(done.stdout.splitlines()[-1])}


def measure(engine: str, photo: Path, repeat: int) -> dict[str, Any]:
    """Medians of first and later runs."""
    runs: dict[str, list[dict[str, Any]]] = {"first": [], "again": []}
    for _ in range(repeat):
        with tempfile.TemporaryDirectory() as cache:
            for which in runs:
                runs[which].append(run(engine, photo, Path(cache)))
    report: dict[str, Any] = {"engine": runs["again"][0]["engine"]}
    for which, made in runs.items():
        stages = {stage: median(one["seconds"][stage] for one in made) for stage in made[0]["seconds"]}
        report[which] = {key: median(one[key] for one in made) for key in ("wall", "cpu", "modules")}
        report[which]["seconds"] = stages
    return report


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", nargs="+", default=["auto"], help="engines of LAFRer (default: auto)")
    parser.add_argument("--repeat", type=int, default=5, help="pairs of runs of each (default %(default)s)")
    parser.add_argument("--out", type=Path, help="write the report as JSON")
    args = parser.parse_args()
    from machine import machine
    from skimage import data, io

    report: dict[str, Any] = {"machine": machine(), "repeat": args.repeat, "engines": {}}
    with tempfile.TemporaryDirectory() as folder:
        photo = Path(folder) / "photo.png"
        io.imsave(photo, data.astronaut()[:256, 80:336], check_contrast=False)
        for engine in args.engine:
            report["engines"][engine] = measure(engine, photo, args.repeat)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    for engine, figures in report["engines"].items():
        for which in ("first", "again"):
            row = figures[which]
            stages = ", ".join(f"{stage} {seconds:.2f}" for stage, seconds in row["seconds"].items())
            print(f"{engine} ({figures['engine']}), {which}: {row['wall']:.2f} s, cpu {row['cpu']:.2f} s: {stages}")
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    sys.exit(main())
