"""A process of `lafr batch` without PyTorch, which logs what it writes and can kill itself anywhere.

    python scale_worker.py INPUT DIR RANK WORLD LINES

LINES is the number of lines of the project's code after which it kills itself; 0 for never.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from lafr import results
from lafr.composing import Composer
from lafr.results import RestoredPhoto, ResultFolder
from lafr.scale.ledger import Ledger, read_lines
from lafr.scale.manifest import BEGUN, Record
from lafr.scale.photos import Photos
from lafr.scale.work import Job, run_share
from lafr_base.images import read_image

WATCHED = ("lafr.scale", "lafr.results", "lafr_base.images")


class Negative:
    """Turns aligned faces into their negatives, three at a time; like `LAFRer` it reads ahead and keeps errors."""

    threads = 2
    composer = Composer(1)

    def enhance_many(self, images: Iterable[Path], **_: Any) -> Iterator[RestoredPhoto]:
        stream = iter(images)
        while batch := list(islice(stream, 3)):
            for path in batch:
                result = RestoredPhoto(1, 8)
                try:
                    result.photo = read_image(path)
                    result.cropped_faces = [result.photo.bgr]
                    result.restored_faces = [255 - result.photo.bgr]
                except ValueError as error:
                    result.error = error
                yield result


class Whole:
    """Turns whole photos into their negatives, whose upper left corner is the face, so many times over."""

    threads = 2

    def __init__(self, faces: int = 1, weight: float = 0.5) -> None:
        self.faces = faces
        self.composer = Composer(1)

    def enhance_many(self, images: Iterable[Path], **_: Any) -> Iterator[RestoredPhoto]:
        for path in images:
            result = RestoredPhoto(1, 4)
            try:
                result.photo = read_image(path)
                result.input_img = result.photo.bgr
                result.cropped_faces = [result.photo.bgr[:4, :4]] * self.faces
                result.restored_faces = [255 - face for face in result.cropped_faces]
                result.restored_img = 255 - result.photo.bgr
            except ValueError as error:
                result.error = error
            yield result


def job(photos: Path, out: Path) -> Job:
    return Job(Photos(photos, leave_out=out), ResultFolder(out, aligned=True, face_folders=()), Negative)


def read_manifests(folder: Path, rank: int = 0, world: int = 1) -> Iterator[Record]:
    """Yield the lines about one share's photos, but for those begun."""
    for line in read_lines(folder, rank, world):
        if isinstance(line, Record) and line.status != BEGUN:
            yield line


def log_writes(out: Path) -> None:
    """Note the path of each picture in writes.log, once it is there."""
    write = results.write_image

    def logged(path: Path, image: np.ndarray, **options: Any) -> Path:
        write(path, image, **options)
        with (out / "writes.log").open("a") as log:
            log.write(f"{path.relative_to(out / 'restored_faces').as_posix()}\n")
        return path

    results.write_image = logged  # type: ignore[assignment]


def kill_after(lines: int) -> None:
    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal lines
        if not str(frame.f_globals.get("__name__")).startswith(WATCHED):
            return None
        if event == "line":
            lines -= 1
            if not lines:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)
    threading.settrace(trace)


def main() -> Ledger:
    photos, out, rank, world, lines = sys.argv[1:]
    log_writes(Path(out))
    todo = job(Path(photos), Path(out))
    if int(lines):
        kill_after(int(lines))
    return run_share(todo, int(rank), int(world))


if __name__ == "__main__":
    main()
