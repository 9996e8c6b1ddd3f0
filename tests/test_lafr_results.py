"""Writing results beside the work: order, bounds, errors."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from lafr.results import RestoredPhoto, write_behind
from lafr_base.images import ImageError


def made(count: int, taken: list[int], bad: int = -1) -> Iterator[tuple[int, RestoredPhoto]]:
    for index in range(count):
        taken.append(index)
        result = RestoredPhoto(1, 8)
        result.error = ValueError("unreadable") if index == bad else None
        yield index, result


def test_results_come_in_order_when_they_are_written():
    written: list[int] = []
    second = threading.Event()

    def write(index: int, _: RestoredPhoto) -> None:
        if index == 0:
            assert second.wait(10)  # the next is written beside it
        if index == 1:
            second.set()
        written.append(index)

    for expected, (index, result, error) in enumerate(write_behind(made(6, []), write, threads=2)):
        assert (index, error, result.error) == (expected, None, None)
        assert index in written
    assert sorted(written) == list(range(6))


def test_no_more_is_held_than_threads_can_write():
    go, taken = threading.Event(), list[int]()
    results = write_behind(made(100, taken), lambda index, _: bool(go.wait(10)) and None, threads=2)
    threading.Timer(0.2, go.set).start()
    next(results)
    assert len(taken) == 5
    results.close()  # type: ignore[attr-defined]


def test_what_fails_is_told_with_its_result():
    written: list[int] = []

    def write(index: int, _: RestoredPhoto) -> None:
        if index == 2:
            raise ImageError("full")
        written.append(index)

    told = [(index, str(result.error), str(error)) for index, result, error in write_behind(made(4, [], bad=1), write)]
    assert told == [(0, "None", "None"), (1, "unreadable", "None"), (2, "None", "full"), (3, "None", "None")]
    assert written == [0, 3]


def test_an_interruption_is_no_photos_error():
    def write(index: int, _: RestoredPhoto) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(write_behind(made(3, []), write))
