"""The same work by Ray Data: keys stream through a pool of actors, which come and go with the cluster's nodes.

One read task lists the photos, actors restore them where they are read and written, and the driver alone writes the
manifest. Only keys and lines travel through Ray's object store. When an actor dies, Ray starts another and gives it the
batch again; what of it was done is recognised by its files. The read task may be repeated too, and gives the same keys
again: it leaves out this run's own lines.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow
import ray
from ray.data import ActorPoolStrategy
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from lafr.scale.ledger import DigestSet, Ledger
from lafr.scale.manifest import Manifest, Record
from lafr.scale.work import Job, Progress, Worker, WorkError, plan, recorder

BLOCK = 1024
"""Keys that the read task gives at once."""

BATCH = 64
"""Keys that an actor is given at once: what a death can lose the work of."""

RETRIES = 10
"""So often a batch is given to another actor before the run stops."""


def run_ray(job: Job, workers: int, retry_failed: bool = False) -> Ledger:
    """Do a job, but for what was done before, on the Ray cluster of RAY_ADDRESS, or else on this machine.

    Every node needs the photos and the folder of results at the same paths.

    Args:
        job: what is to be done; pickled, as is what it is built from.
        workers: most actors at a time; each has its share of the GPUs that the cluster has now.
        retry_failed: do the photos again that failed.

    Returns:
        What is known of all photos.

    Raises:
        ImageError: the folder of results cannot be used.
        WorkError: the work cannot go on: see `lafr.scale.work.Worker`, or actors died again and again.
    """
    out = job.files.out
    if not ray.is_initialized():
        ray.init(logging_level="warning")
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    resources = ray.cluster_resources()
    name = f"ray-{uuid.uuid4().hex}"
    with Manifest(out, name) as manifest:
        ledger = Ledger(out, retry_failed=retry_failed)
        manifest.name_options(job.made_with)
        emit = recorder(manifest, ledger, Progress("ray", len(ledger)))
        # Listing asks for no processor: it would wait for one that the actors have, and these for it.
        keys = ray.data.read_datasource(_Keys(job, retry_failed, name), override_num_blocks=1, num_cpus=0)
        lines = keys.map_batches(
            _Actor,
            fn_constructor_args=(job, name),
            batch_size=BATCH,
            compute=ActorPoolStrategy(min_size=1, max_size=workers, initial_size=workers),
            num_cpus=max(1, int(0.9 * resources.get("CPU", 1) / workers)),
            num_gpus=min(1, resources.get("GPU", 0) / workers),
            max_task_retries=RETRIES,
        )
        try:
            for batch in lines.iter_batches(batch_size=None, prefetch_batches=0):
                for line in batch["line"]:
                    emit(Record.from_line(line))
        except ray.exceptions.RayError as error:
            raise WorkError(f"Ray cannot go on: {error}") from error
    return ledger


class _Actor:
    """Restores batches of photos; says in a manifest of its own what it begins, in case it dies."""

    def __init__(self, job: Job, run: str) -> None:
        self._out, self._run = job.files.out, run
        self._begun = Manifest(self._out, f"{run}-{uuid.uuid4().hex[:8]}")
        job = replace(job, files=replace(job.files, unfinished=self._begun.unfinished))
        self._worker = Worker(job, Ledger(self._out, only=f"{run}-"), self._begun.append)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        lines = [line for line in batch["line"] if line]
        todo = [os.fsdecode(key) for key, line in zip(batch["photo"], batch["line"], strict=True) if not line]
        # The batch may be one that an actor of this run died with: what that one began is known by its files.
        self._worker.ledger = Ledger(self._out, only=f"{self._run}-")
        self._worker.run(todo, lambda record: lines.append(record.to_line()))
        return {"line": np.array(lines, dtype=object)}


class _Keys(Datasource):
    """The photos that are still to be done."""

    def __init__(self, job: Job, retry_failed: bool, own: str) -> None:
        super().__init__()
        self._read = partial(_blocks, job, retry_failed, own)

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(self, parallelism: int, *_: Any, **__: Any) -> list[ReadTask]:
        unknown = BlockMetadata(num_rows=None, size_bytes=None, exec_stats=None, input_files=None)
        return [ReadTask(self._read, unknown)]


def _blocks(job: Job, retry_failed: bool, own: str) -> Iterator[pyarrow.Table]:
    """Yield photos, each with the line that is to be said of it, empty where it is to be restored."""
    ledger = Ledger(job.files.out, retry_failed=retry_failed, leave_out=own)
    given = DigestSet()
    photos: list[bytes] = []
    lines: list[bytes] = []
    for key in job.photos:
        if key in given:
            continue
        given.add(key)
        do, record = plan(job, ledger, key)
        if do or record is not None:
            photos.append(os.fsencode(key))
            lines.append(b"" if do or record is None else record.to_line())
        if len(photos) == BLOCK:
            yield pyarrow.table({"photo": photos, "line": lines})
            photos, lines = [], []
    binary = pyarrow.binary()
    yield pyarrow.table({"photo": pyarrow.array(photos, type=binary), "line": pyarrow.array(lines, type=binary)})
