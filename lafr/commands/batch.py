"""Restore the photos of a folder, or of a list, by one process or many; millions of them.

Results: restored_imgs/PHOTO.EXT (whole photos) and what --save names, where PHOTO is the photo's path below INPUT with
its suffix: a/x.png and a/x.jpg have results of their own. report.json and report.csv, by the process that ends last,
list every face found, and its identity. manifest/*.jsonl has a line for each photo, run.json the options. Whatever was
killed, the same command goes on: it does no photo twice and leaves none out. A photo that has changed since is named,
and done again with --overwrite. The number of processes may change. docs/scale.md has more, for clusters too.

  lafr batch photos -o results
  torchrun --nproc_per_node 8 -m lafr.cli batch photos -o results      each process takes a share, and a GPU
  lafr batch photos.txt -o results --workers 8                         pip install 'lafr[scale]'
  lafr batch photos -o results --status                                what is done, what is missing

Exit status: 0, all done; 1, a photo failed, is damaged, or was not done since there is a result of something else (of
torchrun's processes 0 too, since it would kill the others), or with --status one is missing; 2, nothing could be done,
or the work could not go on.
"""

from __future__ import annotations

import argparse
import functools
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lafr.commands.restore import add_overwrite, add_result_arguments, build_restorer, result_options
from lafr.face_options import face_options
from lafr.restore_report import say_left_out, write_run_report
from lafr_base.files import shown
from lafr_base.weights import WeightsError

if TYPE_CHECKING:
    from lafr.scale.ledger import Ledger
    from lafr.scale.work import Job, PhotoRestorer

HELP = "restore millions of photos, by many processes, with restarts"

_FOLDERS = ("restored_faces", "cropped_faces", "cmp")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``lafr batch``; those of the restoring itself are ``lafr restore``'s."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.usage = "%(prog)s INPUT -o DIR [option ...]"
    add = parser.add_argument
    add(
        "input",
        type=Path,
        metavar="INPUT",
        help="folder, searched with its sub-folders; a photo; or a text file: a photo a line",
    )
    add("-o", "--out", type=Path, required=True, metavar="DIR", help="folder of results, of this run alone")
    add(
        "--root",
        type=Path,
        metavar="DIR",
        help="of a list: results keep the photos' folders below this (default: the list's folder, or / where the list "
        "has absolute paths)",
    )
    add(
        "--save",
        nargs="*",
        choices=_FOLDERS,
        default=["restored_faces"],
        metavar="FOLDER",
        help=f"what is written beside the whole photos: {', '.join(_FOLDERS)} (default: the first)",
    )
    add_overwrite(parser)
    add("--retry_failed", "--retry-failed", action="store_true", help="do the photos again that failed")
    add("--status", action="store_true", help="restore nothing; count what is done and what is missing")
    add("--workers", type=int, metavar="N", help="have N actors of Ray do it (default: this process does its share)")
    add("--rank", type=int, metavar="N", help="this process's share, from 0 (default: the variable RANK, or 0)")
    add("--world_size", type=int, metavar="N", help="number of processes (default: the variable WORLD_SIZE, or 1)")
    add_result_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Restore; return the exit status."""
    from lafr_base.images import ImageError

    try:
        rank, world = _share(args)
        job = _job(args)
        if args.status:
            return _status(args, job)
        ledger = _work(args, job, rank, world)
        if len(ledger):
            _report(args, job)
    except (ImageError, ValueError, OSError, ImportError, WeightsError) as error:
        return _stop(str(error))
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    everything = world == 1 or args.workers
    left_out = job.photos.left_out
    if everything and not len(ledger) and not ledger.kept:
        return _stop(f"{shown(args.input)}: no photo was found{f'; it has {left_out}' if str(left_out) else ''}")
    share = "" if everything else f" in share {rank} of {world}"
    print(f"{_counts(ledger)}{share}. Results: {shown(args.out)}", flush=True)
    if not args.workers:  # whose driver does not search
        say_left_out(left_out)
    flawed = ledger.count("failed") or ledger.kept or ledger.damaged or left_out.closed
    # torchrun ends all processes as soon as one has another status than 0.
    return 1 if flawed and "TORCHELASTIC_RUN_ID" not in os.environ else 0


def _share(args: argparse.Namespace) -> tuple[int, int]:
    if args.workers is not None and args.workers < 1:
        raise ValueError(f"--workers must be at least 1; got {args.workers}")
    if args.workers:
        return 0, 1
    rank = _variable("RANK", 0) if args.rank is None else args.rank
    world = _variable("WORLD_SIZE", 1) if args.world_size is None else args.world_size
    if not 0 <= rank < world:
        raise ValueError(f"rank {rank} is not one of {world} processes; give --rank and --world_size together")
    return rank, world


def _variable(name: str, default: int) -> int:
    text = os.environ.get(name, "")
    try:
        return int(text) if text else default
    except ValueError:
        raise ValueError(f"the variable {name} must be a whole number; it is {text!r}") from None


def _job(args: argparse.Namespace) -> Job:
    from lafr.results import ResultFolder
    from lafr.scale.photos import Photos
    from lafr.scale.work import Job

    out = Path(os.path.abspath(args.out))
    folders = tuple(folder for folder in _FOLDERS if folder in args.save)
    photos = Photos(args.input, args.root, leave_out=out)
    made_with = {} if args.status else {**result_options(args), "save": sorted(args.save), "root": str(photos.root)}
    return Job(
        photos,
        ResultFolder(out, args.aligned, args.suffix, args.ext, args.draw_box, folders),
        functools.partial(_build, args, out, made_with),
        face_options(args),
        made_with,
        overwrite=args.overwrite,
        alone=not args.overwrite,
    )


def _work(args: argparse.Namespace, job: Job, rank: int, world: int) -> Ledger:
    from lafr.scale.run import check_claim, check_writable
    from lafr.scale.work import run_share

    check_claim(job.files.out, job.made_with, args.overwrite)
    check_writable(job.files.out)
    if not args.workers:
        return run_share(job, rank, world, args.retry_failed)
    try:
        from lafr.scale.ray_engine import run_ray
    except ImportError as error:
        raise ImportError(f"--workers needs Ray Data ({error}); pip install 'lafr[scale]'") from error
    return run_ray(job, args.workers, args.retry_failed)


def _report(args: argparse.Namespace, job: Job) -> None:
    """Write the report, unless another process is at work, which then does."""
    from lafr.scale.manifest import is_written

    if not is_written(job.files.out):
        write_run_report(args, job)


def _build(args: argparse.Namespace, out: Path, made_with: dict[str, Any]) -> PhotoRestorer:
    """Build the restorer, on a GPU of its own where there are several processes on a machine with GPUs.

    Then, before the first result, make the folder this run's: a start that fails does not.
    """
    from lafr.scale.run import claim

    if args.device == "auto" and not args.workers and "LOCAL_RANK" in os.environ:
        import torch

        if torch.cuda.is_available():
            args.device = f"cuda:{_variable('LOCAL_RANK', 0) % torch.cuda.device_count()}"
    restorer = build_restorer(args)
    claim(out, made_with, args.overwrite)
    return restorer


def _status(args: argparse.Namespace, job: Job) -> int:
    from lafr.scale.ledger import Ledger

    ledger = Ledger(job.files.out)
    missing = sum(key not in ledger for key in job.photos)
    print(f"{_counts(ledger)}, {missing} missing. Results: {shown(args.out)}")
    return 1 if missing or ledger.count("failed") else 0


def _counts(ledger: Ledger) -> str:
    done = f"{ledger.count('restored')} restored ({ledger.faces} faces), {ledger.count('faceless')} without a face"
    rest = f", {ledger.damaged} damaged" if ledger.damaged else ""
    rest += f", {ledger.kept} not done (other results are there)" if ledger.kept else ""
    return f"{len(ledger)} photos: {done}, {ledger.count('failed')} failed{rest}"


def _stop(message: str) -> int:
    print(message, file=sys.stderr)
    return 2
