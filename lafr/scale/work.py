"""Restore photos, write their results, say what happened: what ranks, Ray actors and `lafr restore` have in common."""

from __future__ import annotations

import errno
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from lafr.report import faces_entry
from lafr.results import RestoredPhoto, ResultFolder, write_behind
from lafr.scale.ledger import Ledger, Verdict
from lafr.scale.manifest import (
    BEGUN,
    FACELESS,
    FAILED,
    KEPT,
    RESTORED,
    Manifest,
    Record,
    options_name,
    rank_file,
)
from lafr.scale.photos import Photos
from lafr_base.files import file_digest, shown
from lafr_base.images import DiskError, ImageError

if TYPE_CHECKING:
    from lafr.composing import Composer

logger = logging.getLogger(__name__)

FAILURES_IN_A_ROW = 100
"""So many photos that fail one after the other, none by a fault of its own, stop a process: the machine is at fault."""

PROGRESS_SECONDS = 60
"""Time between two lines about the progress."""

_DISK_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ESTALE)


class WorkError(ImageError):
    """Restoring cannot go on, though it is not known what is wrong with the photos."""


class PhotoRestorer(Protocol):
    """What `lafr.LAFRer` does for this package."""

    threads: int
    """Results to write at once."""

    @property
    def composer(self) -> Composer:
        """What made faces and photos of the network's outputs: the report names its threshold."""

    @property
    def enhance_many(self) -> Callable[..., Iterator[RestoredPhoto]]:
        """Restore photos, in the order given: of paths, with keyword arguments."""


@dataclass(frozen=True)
class Job:
    """What is to be done with each photo.

    Attributes:
        photos: where photos are.
        files: where results go.
        build: makes the restorer; called when the first photo is to be restored.
        options: other keyword arguments of `lafr.LAFRer.enhance_many`.
        made_with: all that decides what the results are, as JSON can hold it.
        names: the name of each photo's results, where it is not its key. A key has the photo's suffix: of a/x.png, for
            instance restored_imgs/a/x.png.png. So no two photos have the same, whatever else is in the list.
        overwrite: replace results that were made from another photo or with other options.
        afresh: do photos, too, whose results are there.
        alone: the folder holds no results but this job's, so that one newer than its photo is known without a line.
    """

    photos: Photos
    files: ResultFolder
    build: Callable[[], PhotoRestorer]
    options: Mapping[str, Any] = field(default_factory=dict)
    made_with: Mapping[str, Any] = field(default_factory=dict)
    names: Mapping[str, str] | None = None
    overwrite: bool = False
    afresh: bool = False
    alone: bool = False

    def name(self, key: str) -> str:
        """Return the name of a photo's results."""
        return key if self.names is None else self.names[key]


class Worker:
    """Does a job for any number of photos.

    Args:
        job: what is to be done.
        ledger: what is known of the photos.
        begin: told, with a record, before a photo's files are written.
    """

    def __init__(self, job: Job, ledger: Ledger, begin: Callable[[Record], None]) -> None:
        self.job = job
        self.ledger = ledger
        self._begin = begin
        self._restorer: PhotoRestorer | None = None
        self._failures = 0
        self._last = 0.0

    def run(
        self,
        keys: Iterable[str],
        emit: Callable[[Record], None],
        after: Callable[[str, RestoredPhoto], None] = lambda *_: None,
    ) -> None:
        """Restore photos and write their results.

        A photo whose result is there is not done again; see `lafr.scale.ledger.Verdict`. One that fails does not stop
        the others.

        Args:
            keys: the photos, taken one by one; a photo that is in work is passed over.
            emit: called once a photo, when all its files are there.
            after: called before `emit` with what the restorer made; its `error` is what it or writing raised.

        Raises:
            WorkError: the disk is full or gone, or nothing can be restored any more.
        """
        in_work: dict[str, Record] = {}
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

        def write(key: str, result: RestoredPhoto) -> None:
            self._write(key, in_work[key], result)

        named = ((order.popleft(), result) for result in results)
        for key, result, unwritten in write_behind(named, write, self._restorer.threads):
            record = self._record(key, in_work[key], result, unwritten)
            result.error = result.error or unwritten
            after(key, result)
            emit(record)
            del in_work[key]

    def _todo(
        self, keys: Iterable[str], in_work: dict[str, Record], order: deque[str], emit: Callable[[Record], None]
    ) -> Iterator[Path]:
        for key in keys:
            if key in in_work:
                continue
            do, record = plan(self.job, self.ledger, key)
            if do and record is not None:
                in_work[key] = record
                order.append(key)
                yield self.job.photos.path(key)
            elif record is not None:
                emit(record)

    def _write(self, key: str, seen: Record, result: RestoredPhoto) -> None:
        name = self.job.name(key)
        digest = result.photo.digest if result.photo is not None else None
        if self.job.files.last(name) is not None:  # of something else; from here on taken for this photo's
            self.job.files.remove(name)
        try:
            assert self._restorer is not None
            report = faces_entry(result, self._restorer.composer)
            self._begin(replace(seen, status=BEGUN, digest=digest, report=report))
        except OSError as error:
            raise DiskError(f"{shown(key)}: its line cannot be written ({error.strerror or error})") from error
        self.job.files.write(self.job.photos.path(key), name, result)

    def _record(self, key: str, seen: Record, result: RestoredPhoto, unwritten: Exception | None) -> Record:
        cause = None if unwritten is None else unwritten.__cause__
        if isinstance(cause, OSError) and cause.errno in _DISK_FAULTS:
            raise WorkError(f"{unwritten}. What is done stays; the same command goes on from here") from unwritten
        error = result.error or unwritten
        self._failures = self._failures + 1 if _is_machines(error) else 0
        if self._failures == FAILURES_IN_A_ROW:
            message = f"{self._failures} photos failed one after the other, the last: {error}"
            raise WorkError(f"{message}. Repair what is wrong; --retry-failed then does them again")
        now = time.perf_counter()
        seconds, self._last = round(now - self._last, 4), now
        done = replace(seen, seconds=seconds, at=round(time.time(), 3))
        if error is not None:
            return replace(done, status=FAILED, faces=0, reason=_named(self.job, key, error))
        faces = len(result.restored_faces)
        photo = result.photo
        return replace(
            done,
            status=RESTORED if faces else FACELESS,
            faces=faces,
            digest=None if photo is None else photo.digest,
            output=None if result.output is None else self.job.files.relative(result.output),
            damage=None if photo is None else photo.damage,
        )


def plan(job: Job, ledger: Ledger, key: str) -> tuple[bool, Record | None]:
    """Say whether a photo is to be restored.

    Returns:
        True and what its file looks like; or False and what is to be said of it, None where that was said before.
    """
    path, name = job.photos.path(key), job.name(key)
    unseen = Record(name, BEGUN, source=None if job.names is None else str(path))
    if key == ".." or key.startswith("../"):
        reason = f"{shown(key)}: the photo is not below {shown(job.photos.root)}; see --root"
        return False, None if key in ledger else replace(unseen, status=FAILED, reason=reason)
    try:
        if key.endswith("/") or path.is_dir():
            raise ImageError(f"{shown(path)}: a folder; name its photos one by one")
        status = path.stat()
        options = options_name(job.made_with)
        seen = replace(unseen, size=status.st_size, time=status.st_mtime_ns, options=options)
        last = job.files.last(name)
        verdict = ledger.judge(seen, last is not None, lambda: file_digest(path))
        if verdict is Verdict.UNKNOWN and job.alone and last and last.stat().st_mtime_ns >= status.st_mtime_ns:
            verdict = Verdict.RECOVERED
        if job.afresh or verdict is Verdict.TODO or (job.overwrite and verdict in (Verdict.DIFFERENT, Verdict.UNKNOWN)):
            return True, seen
        if verdict is Verdict.RECOVERED and last is not None:
            faces = job.files.count_faces(name)
            found = FACELESS if faces == 0 else RESTORED
            output = job.files.relative(last)
            made = replace(seen, status=found, faces=faces, digest=file_digest(path), output=output)
            return False, replace(made, recovered=True)
    except FileNotFoundError:  # reading it says so, and whether it was a link
        return (False, None) if name in ledger else (True, unseen)
    except (OSError, ValueError) as error:
        failed = replace(unseen, status=FAILED, faces=0, reason=_named(job, key, error))
        return False, None if name in ledger else failed
    if verdict in (Verdict.DONE, Verdict.FAILED):
        return False, None
    if verdict is Verdict.DIFFERENT:
        reason = f"its result {ledger.difference(seen, job.made_with)}"
    else:
        reason = "there is a result, but nothing says what it was made from"
    reason = f"{shown(path)}: not done: {reason}; --overwrite replaces it, another output folder keeps both"
    return False, replace(seen, status=KEPT, reason=reason)


def _is_machines(error: Exception | None) -> bool:
    """Whether a failure says nothing about the photo: only what cannot be read or used is its own fault."""
    return error is not None and (isinstance(error, DiskError) or not isinstance(error, ValueError))


def _named(job: Job, key: str, error: Exception) -> str:
    """Return what an error says, with the photo's path in front where it is not in it."""
    reason = (error.strerror if isinstance(error, OSError) else str(error)) or str(error) or type(error).__name__
    path = shown(job.photos.path(key))
    return reason if path in reason else f"{path}: {reason}"


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
        emit = recorder(manifest, ledger, Progress(f"rank {rank} of {world}", len(ledger)))
        manifest.name_options(job.made_with)
        job = replace(job, files=replace(job.files, unfinished=manifest.unfinished))
        Worker(job, ledger, manifest.append).run(job.photos.share(rank, world), emit)
    return ledger


def recorder(manifest: Manifest, ledger: Ledger, progress: Progress) -> Callable[[Record], None]:
    """Return what takes in the record of a photo: it is logged, appended, noted and counted."""

    def emit(record: Record) -> None:
        if record.reason is not None:
            logger.warning("%s", record.reason)
        if record.status != KEPT:
            manifest.append(record)
        ledger.note(record)
        progress.step()

    return emit


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
