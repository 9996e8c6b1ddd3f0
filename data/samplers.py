"""Sampling that is a function of (seed, epoch), so that a stopped run can go on where it was."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sized

import numpy as np
from torch.utils.data import Sampler


class Draw(int):
    """An index into a dataset that also says which draw of the run it is.

    Any dataset can use it as the plain index it is. A dataset with random transforms seeds them with
    ``draw``: two draws of one image differ, whichever epoch, worker or process they fall to, and a repeated
    run repeats them.
    """

    draw: int
    """Position in the endless sequence of all samples of the run, over all processes and epochs."""

    def __new__(cls, index: int, draw: int) -> Draw:
        """Make the index ``index`` that is draw number ``draw``."""
        self = super().__new__(cls, index)
        self.draw = draw
        return self

    def __getnewargs__(self) -> tuple[int, int]:  # type: ignore[override]
        """Let a draw reach a worker process whole."""
        return int(self), self.draw


def item_generator(seed: int, index: int, n_draws: int | None = None) -> np.random.Generator:
    """Return the generator of a dataset item's random transforms, a function of ``seed``, index and draw.

    ``n_draws`` is how many different generators an index has; None for a new one each draw.

    A plain ``int`` is draw 0: it gives the same pair each time it is asked for, which suits looking at a
    dataset; training needs :class:`ResumableSampler`.
    """
    draw = getattr(index, "draw", 0)
    return np.random.default_rng([seed, int(index), draw if n_draws is None else draw % n_draws])


class ResumableSampler(Sampler[int]):
    """Shuffle a dataset among processes; takes the place of BasicSR's ``EnlargedSampler`` and its arguments.

    An epoch is ``ceil(len(dataset) * ratio / num_replicas)`` samples a process. Every image is seen once
    before any is seen again. The order depends on the dataset's ``seed`` (0 where it has none) and the
    epoch alone.

    Args:
        dataset: any sized dataset.
        num_replicas: number of processes.
        rank: number of this process.
        ratio: how many times an epoch runs through the dataset.
    """

    def __init__(self, dataset: Sized, num_replicas: int = 1, rank: int = 0, ratio: float = 1) -> None:
        self.size = len(dataset)
        self.seed = int(getattr(dataset, "seed", 0))
        self.num_replicas = num_replicas
        self.rank = rank
        self.num_samples = math.ceil(self.size * ratio / num_replicas)
        self.epoch = 0
        self._skipped = (0, 0)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iterator runs through."""
        self.epoch = epoch

    def skip(self, epoch: int, samples: int) -> None:
        """Start ``epoch`` at sample number ``samples`` of this process; other epochs are whole.

        A run resumed after that many samples then sees what an uninterrupted one would have.
        """
        self._skipped = (epoch, samples)

    def __len__(self) -> int:
        """Return the samples of a whole epoch of this process."""
        return self.num_samples

    def __iter__(self) -> Iterator[int]:
        """Yield the epoch's :class:`Draw` objects."""
        total = self.num_samples * self.num_replicas
        rng = np.random.default_rng([self.seed, self.epoch])
        passes = [rng.permutation(self.size) for _ in range(math.ceil(total / self.size))]
        order = np.concatenate(passes)
        epoch, samples = self._skipped
        first = samples if epoch == self.epoch else 0
        for position in range(self.rank + first * self.num_replicas, total, self.num_replicas):
            yield Draw(int(order[position]), self.epoch * total + position)
