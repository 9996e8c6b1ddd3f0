"""The way of photos through their steps: side by side where that saves time, their faces in common batches.

    images -> readers -> searcher -> waiting faces -> network -> finishers -> results

While the network runs, the next photos are read and searched for faces, and the last ones are finished. Results come in
the order of the photos.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from lafr.choice import Wishes
from lafr.results import RestoredPhoto
from lafr.steps import PhotoSteps

HELD_PIXELS = 64_000_000
"""Photos waiting for a batch to fill hold at most about this many pixels (and twice the batch size of photos)."""

_T = TypeVar("_T")
_R = TypeVar("_R")


@dataclass
class _Searched:
    """A photo that was searched: its faces wait for the network."""

    result: RestoredPhoto
    outputs: list[np.ndarray | None]
    missing: int

    @property
    def pixels(self) -> int:
        image = self.result.input_img
        return 0 if image is None else image.shape[0] * image.shape[1]


def run(
    steps: PhotoSteps, images: Iterable[np.ndarray | str | Path], wishes: Wishes, threads: int
) -> Iterator[RestoredPhoto]:
    """Restore photos; those that fail come as results with an `error`.

    Args:
        steps: what is done with each.
        images: arrays or paths, taken one by one.
        wishes: what is asked for.
        threads: that read, and as many that finish. Detectors keep a state, so that one thread has them all.

    Yields:
        One result a photo, in the order given.
    """
    photos: deque[_Searched] = deque()
    waiting: deque[tuple[_Searched, int]] = deque()
    finished: deque[Future[RestoredPhoto]] = deque()
    with (
        ThreadPoolExecutor(threads, "lafr-read") as readers,
        ThreadPoolExecutor(1, "lafr-search") as searcher,
        ThreadPoolExecutor(threads, "lafr-finish") as finishers,
    ):

        def finish(photo: _Searched) -> None:
            finished.append(finishers.submit(steps.finish, photo.result, photo.outputs, wishes))

        read = _ahead(readers, steps.read, images, threads)
        for result in _ahead(searcher, lambda photo: steps.search(photo, wishes), read, 1):
            count = len(result.cropped_faces)
            photos.append(_Searched(result, [None] * count, count))
            waiting.extend((photos[-1], place) for place in range(count))
            held = sum(photo.pixels for photo in photos)
            full = held > HELD_PIXELS or len(photos) > 2 * steps.runner.batch_size
            while len(waiting) >= (1 if full else steps.runner.batch_size):
                _restore(steps, waiting, wishes)
            while photos and not photos[0].missing:
                finish(photos.popleft())
            while len(finished) > threads or (finished and finished[0].done()):
                yield finished.popleft().result()
        while photos or finished:
            while photos and photos[0].missing:
                _restore(steps, waiting, wishes)
            if photos:
                finish(photos.popleft())
            if not photos or len(finished) > threads:
                yield finished.popleft().result()


def _restore(steps: PhotoSteps, waiting: deque[tuple[_Searched, int]], wishes: Wishes) -> None:
    """Take one batch of waiting faces through the network."""
    batch: list[tuple[_Searched, int]] = []
    weight = wishes.weight
    while waiting and len(batch) < steps.runner.batch_size:
        photo, place = waiting[0]
        own = photo.result.weights[place]
        if batch and own != weight and steps.weight_means == "network":
            break  # its forward takes one weight for all
        weight = own
        waiting.popleft()
        photo.missing -= 1
        if photo.result.error is None:
            batch.append((photo, place))
    outputs = steps.restore([(photo.result, place) for photo, place in batch], weight)
    for (photo, place), output in zip(batch, outputs, strict=True):
        photo.outputs[place] = output


def _ahead(pool: Executor, work: Callable[[_T], _R], items: Iterable[_T], count: int) -> Iterator[_R]:
    """Yield what work makes of each item, in order; that of `count` more is being made meanwhile."""
    coming: deque[Future[_R]] = deque()
    for item in items:
        coming.append(pool.submit(work, item))
        if len(coming) > count:
            yield coming.popleft().result()
    while coming:
        yield coming.popleft().result()
