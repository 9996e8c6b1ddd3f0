"""A whole film, from file to file; stopped, it goes on where it was."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lafr import __version__
from lafr.report import shares, verdict
from lafr.video.frames import Film, FilmError, Picture, replace_pixels
from lafr.video.restoring import FilmFace, FilmRestorer, FilmWishes
from lafr.video.segments import CONTAINERS, Encoding, Pieces, join, left_out
from lafr_base.files import digest, shown, write_json

if TYPE_CHECKING:
    from lafr.composing import Composer
    from lafr.restorer import LAFRer

logger = logging.getLogger(__name__)

PIECE = 240
"""Frames of a piece: what a stop can cost."""

WARM_UP = 24
"""Frames before a piece that are restored once more when a film goes on, so that faces do not jump there."""


@dataclass(frozen=True)
class FilmJob:
    """What is made of a film.

    Attributes:
        source: the film.
        target: the new film; one of `CONTAINERS` by its suffix.
        wishes: what is asked for the faces.
        made_with: all else that decides what comes out, as JSON can hold it.
        codec: FFmpeg's encoder of pictures; None for the suffix's.
        quality: constant rate factor of the encoder.
        piece: frames of a piece.

    Raises:
        FilmError: the format is unknown, or the new film would take the place of the old one.
    """

    source: Path
    target: Path
    wishes: FilmWishes
    made_with: Mapping[str, Any]
    codec: str | None = None
    quality: float = 17
    piece: int = PIECE

    def __post_init__(self) -> None:
        if self.target.suffix.lower() not in CONTAINERS:
            raise FilmError(f"{shown(self.target)}: the film's name must end with one of {', '.join(CONTAINERS)}")
        if self.target.exists() and self.source.exists() and self.target.samefile(self.source):
            raise FilmError(f"{shown(self.target)}: the new film must have another name than the old one")

    @property
    def folder(self) -> Path:
        """Where pieces lie until the film is whole."""
        return self.target.with_name(f"{self.target.name}.unfinished")

    @property
    def report(self) -> Path:
        """The file that says what was found and done."""
        return self.target.with_name(f"{self.target.name}.json")


def restore_film(
    job: FilmJob, build: Callable[[], LAFRer], progress: Callable[[int, int | None], None] = lambda done, of: None
) -> dict[str, Any]:
    """Restore a film.

    Frames stream: memory does not grow with the film.

    Args:
        job: what is made of it.
        build: makes the restorer, once the film is found readable.
        progress: told how many frames are done, and of how many, after each.

    Returns:
        What the report says; see `_report` below.

    Raises:
        FilmError: the film cannot be read or written.
    """
    film = Film(job.source)
    picture = next(film.pictures(), None)
    if picture is None:
        raise FilmError(f"{shown(job.source)}: has no pictures")
    for stream in left_out(job.source, job.target):
        logger.warning("%s cannot hold %s, which is left out; .mkv holds most", shown(job.target), stream)
    encoding = Encoding.of(picture.frame, job.target.suffix.lower(), job.codec, job.quality)
    restorer = build()
    pieces = Pieces(job.folder, _identity_of(job, encoding))
    state = _Run(job, film, FilmRestorer(restorer, job.wishes), pieces, encoding, progress).restore()
    join(pieces, job.source, job.target, picture.turn)
    report = _report(job, restorer.composer, state)
    write_json(job.report, report)
    pieces.remove()
    return report


def _identity_of(job: FilmJob, encoding: Encoding) -> dict[str, Any]:
    """Return what must be the same for pieces to be gone on with."""
    stat = job.source.stat()
    film = digest(str(job.source.resolve()), stat.st_size, stat.st_mtime_ns)
    return {"lafr": __version__, "film": film, "encoding": list(vars(encoding).values()), **job.made_with}


@dataclass
class _Run:
    """The restoring of a film's frames into pieces."""

    job: FilmJob
    film: Film
    restorer: FilmRestorer
    pieces: Pieces
    encoding: Encoding
    progress: Callable[[int, int | None], None]

    def restore(self) -> dict[str, Any]:
        """Restore the frames that no piece has; return the state after the last (`FilmRestorer.state`)."""
        notes = self.pieces.done()
        if notes and notes[-1]["end"]:
            return dict(notes[-1]["state"])
        number, done = len(notes), 0
        state: dict[str, Any] = self.restorer.state
        if notes:
            done = notes[-1]["state"]["index"] + 1
            logger.info("going on after %d frames, which were restored before", done)
            self.progress(done, self.film.count)
        frames = self._frames(notes[-1] if notes else None)
        item = next(frames, None)
        while item is not None:
            first = replace_pixels(*item, self.encoding.pixel_format)
            with self.pieces.writer(number, self.encoding, first, self.film) as writer:
                for place in range(self.job.piece):
                    writer.put(replace_pixels(*item, self.encoding.pixel_format) if place else first)
                    done, last = done + 1, item[0].pts
                    self.progress(done, self.film.count)
                    if place == self.job.piece - 1:
                        state = self.restorer.state
                    item = next(frames, None)
                    if item is None:
                        state = self.restorer.state
                        break
            self.pieces.note(number, {"state": state, "last": last, "end": item is None})
            number += 1
        return state

    def _frames(self, note: Mapping[str, Any] | None) -> Iterator[tuple[Picture, np.ndarray]]:
        """Yield the frames after a piece with what becomes of them."""
        if note is None:
            pairs = ((picture, picture.image) for picture in self.film.pictures())
            yield from self.restorer.restore(pairs, seconds=self.film.seconds)
            return
        last = note["last"]
        pictures = self.film.pictures(last - round(WARM_UP / (self.film.rate * self.film.time_base)))
        pairs = ((picture, picture.image) for picture in pictures)
        for picture, image in self.restorer.restore(
            pairs, note["state"], lambda picture: picture.pts >= last, self.film.seconds
        ):
            if picture.pts > last:
                yield picture, image


def _report(job: FilmJob, composer: Composer, state: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is said of a film.

    Keys: ``input``, ``output``, ``frames``, ``left_out`` (streams that the format cannot hold), and ``faces`` in the
    order in which they appear: ``face`` (its number), ``from`` and ``to`` (seconds), ``box`` where it appeared (x0, y0,
    x1, y1, upright pixels), ``restored`` (frames on which it was), ``weight``, and where they are known ``eased_to``,
    ``likeness``, ``identity`` (the mean over the film), ``least_identity``, the shares of pairs of the same and of
    different persons above the mean, and the ``verdict``: see `lafr.report.VERDICTS`.
    """
    faces = []
    for face in (FilmFace(**entry) for entry in state["faces"]):
        entry: dict[str, Any] = {
            "face": face.number,
            "from": round(face.first, 3),
            "to": round(face.last, 3),
            "box": [round(value, 1) for value in face.box],
            "restored": face.frames,
            "weight": face.weight,
        }
        if face.eased:
            entry["eased_to"] = face.tone
        if face.kept is not None:
            entry["kept"] = round(face.kept, 4)
        if face.likeness is not None:
            entry["likeness"] = round(face.likeness, 4)
        if face.identities and composer.meter is not None:
            mean, least = sum(face.identities) / len(face.identities), min(face.identities)
            entry |= {"identity": round(mean, 4), "least_identity": round(least, 4)}
            entry |= shares(mean, composer.meter.calibration)
            entry["verdict"] = verdict(least, composer.least_identity, face.tone if face.eased else None)
        faces.append(entry)
    return {
        "lafr": __version__,
        **job.made_with,
        "input": str(job.source),
        "output": str(job.target),
        "frames": state["index"] + 1,
        "left_out": left_out(job.source, job.target),
        "faces": faces,
    }
