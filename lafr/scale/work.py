"""Restore photos, write their results, and say of each what happened: what a rank and a Ray actor have in common."""

from __future__ import annotations

import errno
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

from lafr.results import RestoredPhoto, ResultFolder, write_behind
from lafr.scale.manifest import FACELESS, FAILED, RESTORED, Ledger, Manifest, Record, rank_file
from lafr.scale.photos import Photos
from lafr_base.images import ImageError

logger = logging.getLogger(__name__)

FAILURES_IN_A_ROW = 100
"""So many photos that fail one after the other stop a process: not they are at fault, but the machine or its disks."""

PROGRESS_SECONDS = 60
"""Time between two lines about the progress."""

_DISK_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ESTALE)


class WorkError(ImageError):
    """Restoring cannot go on, though it is not known what is wrong with the photos."""


class Restorer(Protocol):
    """What `lafr.LAFRer` does for this package."""

    threads: int
    """Results to write at once."""

    @property
    def enhance_many(self) -> Callable[..., Iterator[RestoredPhoto]]:
        """Restore photos, in the order given: of paths, with keyword arguments."""


@dataclass(frozen=True)
class Job:
    """What is to be done with each photo.

    Attributes:
        photos: where photos are.
        files: where results go. A photo's results are named by its key, with its suffix: of a/x.png, for instance
            restored_imgs/a/x.png.png. So no two photos have the same, whatever else is in the list.
        build: makes the restorer; called when the first photo is to be restored.
        options: other keyword arguments of `lafr.LAFRer.enhance_many`.
    """

    photos: Photos
    files: ResultFolder
    build: Callable[[], Restorer]
    options: Mapping[str, Any] = field(default_factory=dict)


class Worker:
    """Does a job for any number of photos.

    Args:
        job: what is to be done.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self._restorer: Restorer | None = None
        self._failures = 0
        self._last = 0.0

    def run(self, keys: Iterable[str], emit: Callable[[Record], None]) -> None:
        """Restore photos and write their results.

        A photo whose last file is there was finished by a process that was killed before it said so, and is not done
        again. One that fails does not stop the others.

        Args:
            keys: the photos, taken one by one; a photo that is in work is passed over.
            emit: called once a photo, when all its files are there.

        Raises:
            WorkError: the disk is full or gone, or nothing can be restored any more.
        """
        in_work: dict[str, None] = {}
        order: deque[str] = deque()
        todo = self._todo(keys, in_work, order, emit)
        first = next(todo, None)
        if first is None:
            return
        if self._restorer is None:
            self._restorer = self.job.build()
        self._last = time.perf_counter()
        results = self._restorer.enhance_many(
            chain([first], todo), has_aligned=self.job.files.aligned, **self.job.options
        )
        named = ((order.popleft(), result) for result in results)
        for key, result, unwritten in write_behind(named, self._write, self._restorer.threads):
            emit(self._record(key, result, unwritten))
            del in_work[key]

    def _todo(
        self, keys: Iterable[str], in_work: dict[str, None], order: deque[str], emit: Callable[[Record], None]
    ) -> Iterator[Path]:
        for key in keys:
            if key in in_work:
                continue
            if key.startswith("../"):
                emit(Record(key, FAILED, reason=f"the photo is not below {self.job.photos.root}; see --root"))
            elif self.job.files.exists(key):
                emit(self._recovered(key))
            else:
                in_work[key] = None
                order.append(key)
                yield self.job.photos.path(key)

    def _recovered(self, key: str) -> Record:
        faces = self.job.files.count_faces(key)
        return Record(key, FACELESS if faces == 0 else RESTORED, faces, recovered=True)

    def _write(self, key: str, result: RestoredPhoto) -> None:
        self.job.files.write(self.job.photos.path(key), key, result)

    def _record(self, key: str, result: RestoredPhoto, unwritten: Exception | None) -> Record:
        cause = None if unwritten is None else unwritten.__cause__
        if isinstance(cause, OSError) and cause.errno in _DISK_FAULTS:
            raise WorkError(str(unwritten)) from unwritten
        error = result.error or unwritten
        reason = None if error is None else str(error) or type(error).__name__
        self._failures = 0 if reason is None else self._failures + 1
        if self._failures == FAILURES_IN_A_ROW:
            message = f"{self._failures} photos failed one after the other, the last: {reason}"
            raise WorkError(f"{message}. Repair what is wrong; --retry-failed then does them again")
        now = time.perf_counter()
        seconds, self._last = round(now - self._last, 4), now
        if reason is not None:
            logger.warning("%s", reason if key in reason else f"{key}: {reason}")
            return Record(key, FAILED, 0, seconds, reason)
        faces = len(result.restored_faces)
        return Record(key, RESTORED if faces else FACELESS, faces, seconds)


def run_share(job: Job, rank: int = 0, world: int = 1, retry_failed: bool = False) -> Ledger:
    """Do one process's share of a job, but for what was done before.

    Args:
        job: what is to be done.
        rank: the share, 0 to `world` - 1.
        world: number of shares.
        retry_failed: do the photos again that failed.

    Returns:
        What is known of all the share's photos.

    Raises:
        ImageError: the folder of results or the list cannot be used.
        WorkError: see `Worker.run`.
    """
    out = job.files.out
    with Manifest(out, rank_file(rank, world)) as manifest:
        ledger = Ledger(out, rank, world, retry_failed)
        progress = Progress(f"rank {rank} of {world}", len(ledger))

        def emit(record: Record) -> None:
            manifest.append(record)
            ledger.note(record)
            progress.step()

        todo = (key for key in job.photos.share(rank, world) if key not in ledger)
        Worker(job).run(todo, emit)
    return ledger


class Progress:
    """Says now and then how far a process is.

    Args:
        who: the process.
        before: photos that were done before it started.
    """

    def __init__(self, who: str, before: int) -> None:
        self._who, self._before, self._count = who, before, 0
        self._start = self._said = time.monotonic()

    def step(self) -> None:
        """Count a photo."""
        self._count += 1
        now = time.monotonic()
        if now - self._said >= PROGRESS_SECONDS:
            self._said = now
            rate = self._count / (now - self._start)
            logger.info("%s: %d photos, %d before, %.3g a second", self._who, self._count, self._before, rate)
