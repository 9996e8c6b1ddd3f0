"""What `lafr restore` says of each photo, and in the end."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from typing import IO, TYPE_CHECKING, Any, NoReturn

from tqdm import tqdm

from lafr.report import write_report
from lafr.results import RestoredPhoto
from lafr.scale.entries import read_entries
from lafr.scale.manifest import FAILED, KEPT, Record
from lafr_base.files import shown

if TYPE_CHECKING:
    from lafr.composing import Composer
    from lafr.demo import Sample
    from lafr.scale.work import Job
    from lafr_base.images.listing import LeftOut

_SHARE_OF_TIME = 20  # the report is written again when 20 times as long has passed as writing it took


class RestoreReport:
    """Says of each photo what happened, counts, and sums up.

    Args:
        args: the command's.
        job: what is done.
        samples: of ``--demo``, by key.
        composer: the restorer's.
    """

    def __init__(self, args: argparse.Namespace, job: Job, samples: dict[str, Sample], composer: Composer) -> None:
        self._args, self._job, self._samples, self._composer = args, job, samples, composer
        self._next = 0.0
        self._unchosen: dict[str, int] = {}
        self._counts: Counter[str] = Counter()
        self.progress: tqdm[NoReturn] | None = None

    def tell(self, record: Record) -> None:
        """Take in what is to be said of a photo."""
        counts = self._counts
        path = shown(record.source or record.photo)
        if record.recovered:
            self.skip(path)
            return
        if record.status in (FAILED, KEPT):
            counts[record.status] += 1
            self._say(record.reason or path)
        else:
            counts["photos"] += 1
            counts["faces"] += record.faces or 0
            counts["damaged"] += record.damage is not None
            if not record.faces:
                counts["faceless"] += 1
                unchosen = self._unchosen.pop(record.photo, 0)
                what = f"none of {unchosen} faces was chosen" if unchosen else "no face found"
                self._say(f"{path}: {what}; the photo is enlarged only")
        if self.progress is not None:
            self.progress.update()

    def skip(self, path: str) -> None:
        """Say that a photo was done before."""
        self._counts["skipped"] += 1
        self._say(f"{path}: skipped, its result exists", sys.stdout)
        if self.progress is not None:
            self.progress.update()

    def note(self, key: str, result: RestoredPhoto) -> None:
        """Take in what the restorer made of a photo; write a sample beside its original, now and then the report."""
        start = time.monotonic()
        if start >= self._next:
            self.write()
            self._next = time.monotonic() + _SHARE_OF_TIME * (time.monotonic() - start)
        if result.error is not None:
            return
        self._counts["changed"] += sum(figure < self._composer.least_identity for figure in result.identities)
        if not result.restored_faces:
            self._unchosen[self._job.name(key)] = len(result.found)
        if key in self._samples and result.restored_img is not None:
            from lafr.demo import write_comparison

            write_comparison(self._args.output / "cmp" / key, self._samples[key], result.restored_img)

    def write(self) -> None:
        """Write report.json and report.csv.

        Raises:
            OSError: the folder cannot be written.
        """
        write_run_report(self._args, self._job)

    def end(self) -> int:
        """Sum up; return the exit status."""
        counts, left_out = self._counts, self._job.photos.left_out
        restored = f"{counts['faces']} faces restored, {counts['faceless']} photos without a face"
        rest = f"{counts['skipped']} skipped, {counts[FAILED]} failed"
        rest += f", {counts[KEPT]} not done (other results are there)" if counts[KEPT] else ""
        rest += f", {counts['damaged']} damaged" if counts["damaged"] else ""
        if counts["changed"]:
            rest += f"; {counts['changed']} faces may no longer show the same person (report.json; see --keep_identity)"
        print(f"{counts['photos']} photos written ({restored}), {rest}. Results: {shown(self._args.output)}")
        say_left_out(left_out)
        for key in self._samples:
            print(f"input | restored | original: {self._args.output / 'cmp' / key}")
        flawed = any(counts[name] for name in (FAILED, KEPT, "faceless", "damaged"))
        return 1 if flawed or left_out.closed else 0

    def _say(self, line: str, file: IO[str] | None = None) -> None:
        if self.progress is None:
            print(line, file=file or sys.stderr)
        else:
            self.progress.write(line, file=file or sys.stderr)


def write_run_report(args: argparse.Namespace, job: Job) -> None:
    """Write report.json and report.csv of all that was ever restored into the folder of results.

    Raises:
        OSError: the folder cannot be written.
    """
    from lafr.identity import Calibration

    least: float | None = args.identity_threshold
    about: dict[str, Any] = {
        "model": args.model,
        "keep_identity": args.keep_identity,
        "identity_threshold": Calibration.load().threshold if least is None else least,
    }
    write_report(job.files.out, about, read_entries(job.files.out, job.photos))


def say_left_out(left_out: LeftOut) -> None:
    """Say what a search of folders passed over."""
    if str(left_out):
        print(f"left out: {left_out}")
    for folder, reason in left_out.closed:
        print(f"{shown(folder)}: cannot be searched ({reason}); check its permissions", file=sys.stderr)
