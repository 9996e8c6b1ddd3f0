"""Work on the next items while the last are used."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import TypeVar

_T = TypeVar("_T")
_R = TypeVar("_R")


def ahead(pool: Executor, work: Callable[[_T], _R], items: Iterable[_T], count: int) -> Iterator[_R]:
    """Yield what work makes of each item, in order; that of `count` more is being made meanwhile."""
    coming: deque[Future[_R]] = deque()
    for item in items:
        coming.append(pool.submit(work, item))
        if len(coming) > count:
            yield coming.popleft().result()
    while coming:
        yield coming.popleft().result()
