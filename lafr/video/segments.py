"""Restored frames in pieces, each written whole, and the joining of the pieces with what else a film has.

A piece is a file of encoded pictures, ``000003.nut``, and beside it ``000003.json``, which says where the next begins.
NUT keeps any time base, so that timestamps stay as they are. A film that is stopped goes on after its last piece.
"""

from __future__ import annotations

import contextlib
import heapq
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.packet import Packet
from av.stream import Stream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from lafr.video.frames import Film, FilmError, Turn, main_stream
from lafr_base.files import read_json, shown, whole, write_json

CODECS = {".webm": "libvpx-vp9"}
"""Encoder of pictures by the film's suffix, where it is not one of `DEFAULT_CODECS`."""

DEFAULT_CODECS = ("libx264", "libx265")
"""Encoders of films of 8 bits, and of more, which H.264's players do not take."""

CONTAINERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm", ".avi": "avi"}
"""FFmpeg's name of the format by the film's suffix."""

_OFFSET = 1000  # seconds that timestamps are later in pieces: muxers shift what lies before 0

_COPIED = ("audio", "subtitle", "attachment")
_QUALITY = {"libx264": "crf", "libx265": "crf", "libvpx-vp9": "crf", "libsvtav1": "crf"}


@dataclass(frozen=True)
class Encoding:
    """How pictures are encoded.

    Attributes:
        codec: FFmpeg's name of an encoder.
        pixel_format: one that it takes.
        quality: constant rate factor, 0 (best) to 51 or 63.
    """

    codec: str
    pixel_format: str
    quality: float

    @classmethod
    def of(cls, frame: VideoFrame, suffix: str, codec: str | None, quality: float) -> Encoding:
        """Choose how a film like one frame is encoded.

        Args:
            frame: of the film as it came.
            suffix: of the new film.
            codec: an encoder; None for the suffix's.
            quality: see the class.

        Raises:
            FilmError: there is no such encoder.
        """
        deep = max(component.bits for component in frame.format.components) > 8
        codec = codec or CODECS.get(suffix) or DEFAULT_CODECS[deep]
        try:
            formats = [known.name for known in av.Codec(codec, "w").video_formats or ()]
        except (av.error.FFmpegError, ValueError) as error:
            raise FilmError(f"--codec: FFmpeg has no encoder {codec!r} here") from error
        wanted = [frame.format.name, *(["yuv420p10le"] if deep else []), "yuv420p"]
        fitting = [name for name in wanted if name in formats and not name.startswith("gray")] or formats[:1]
        if not fitting:
            raise FilmError(f"--codec: {codec} is no encoder of pictures")
        return cls(codec, fitting[0], quality)

    @property
    def options(self) -> dict[str, str]:
        """FFmpeg's options of the encoder."""
        name = _QUALITY.get(self.codec)
        options = {} if name is None else {name: f"{self.quality:g}"}
        if self.codec == "libvpx-vp9":
            options |= {"b": "0", "row-mt": "1", "auto-alt-ref": "0", "lag-in-frames": "0"}  # a packet a picture
        if self.codec == "libx265":
            options["x265-params"] = "log-level=error"
        return options


class Pieces:
    """The folder of a film under way.

    Args:
        folder: made where missing.
        job: what is made, as JSON can hold it. Pieces of another job are removed.
    """

    def __init__(self, folder: Path, job: Mapping[str, Any]) -> None:
        self.folder = folder
        """Where they lie."""
        folder.mkdir(parents=True, exist_ok=True)
        if read_json(folder / "job.json") != job:
            self.remove()
            folder.mkdir(parents=True)
            write_json(folder / "job.json", dict(job))
        for part in folder.glob(".*.part"):
            part.unlink()

    def done(self) -> list[dict[str, Any]]:
        """What was said of each piece that is whole, in order."""
        notes: list[dict[str, Any]] = []
        while (note := read_json(self._path(len(notes), "json"))) and self._path(len(notes), "nut").exists():
            notes.append(note)
        return notes

    @contextlib.contextmanager
    def writer(self, number: int, encoding: Encoding, first: VideoFrame, film: Film) -> Iterator[PieceWriter]:
        """Write a piece: it is there once the block has ended well and a note of it was written.

        Args:
            number: of the piece, counted from 0.
            encoding: how frames are encoded.
            first: a frame of its size, its colours and its time base.
            film: the film as it came: its rate, which rate control goes by, and the shape of its pixels.

        Raises:
            FilmError: the encoder does not take such frames.
        """
        with whole(self._path(number, "nut")) as part, av.open(str(part), "w", format="nut") as container:
            stream = container.add_stream(encoding.codec, rate=film.rate, options=encoding.options)
            assert isinstance(stream, VideoStream)
            context = stream.codec_context
            context.width, context.height, context.pix_fmt = first.width, first.height, encoding.pixel_format
            context.time_base = first.time_base
            if film.aspect is not None:
                context.sample_aspect_ratio = film.aspect
            context.color_primaries, context.color_trc = first.color_primaries, first.color_trc
            context.colorspace, context.color_range = first.colorspace, first.color_range
            writer = PieceWriter(container, stream, int(_OFFSET / first.time_base))
            yield writer
            writer.put(None)

    def note(self, number: int, note: Mapping[str, Any]) -> None:
        """Say of a piece that it is whole, and what the next one has to know."""
        write_json(self._path(number, "json"), dict(note))

    def _path(self, number: int, suffix: str) -> Path:
        return self.folder / f"{number:06d}.{suffix}"

    def remove(self) -> None:
        """Remove the folder and what this class wrote into it."""
        for pattern in ("*.nut", "*.json", ".*.part"):
            for path in self.folder.glob(pattern):
                path.unlink()
        self.folder.rmdir()

    def packets(self, time_base: Fraction) -> Iterator[Packet]:
        """Yield the pictures of all pieces as one stream: in the order of decoding, with timestamps that rise.

        Encoders number each piece's packets for themselves, so that where pieces meet, decoding times may fall. Here
        the k-th packet is decoded when the picture d places before it is shown; d is the least with which no picture is
        shown before it is decoded.

        Args:
            time_base: of the frames that were written; NUT may have a finer one.
        """
        times = [packet.pts for packet in self._raw(time_base)]
        shown_at = sorted(times)
        rank = {pts: place for place, pts in enumerate(shown_at)}
        delay = max((place - rank[pts] for place, pts in enumerate(times)), default=0)
        for place, packet in enumerate(self._raw(time_base)):
            early = shown_at[0] + place - delay  # before the first picture is shown, a tick each
            packet.dts = shown_at[place - delay] if place >= delay else early
            yield packet

    def template(self) -> av.container.InputContainer:
        """Open the first piece, whose stream says how all are encoded."""
        return av.open(str(self._path(0, "nut")))

    def _raw(self, time_base: Fraction) -> Iterator[Packet]:
        offset = int(_OFFSET / time_base)
        for number in range(len(self.done())):
            with av.open(str(self._path(number, "nut"))) as container:
                for packet in container.demux(container.streams.video[0]):
                    if packet.size and packet.pts is not None:
                        ticks = packet.time_base / time_base
                        packet.pts = round(packet.pts * ticks) - offset
                        packet.duration = round((packet.duration or 0) * ticks)
                        packet.time_base = time_base
                        yield packet


class PieceWriter:
    """Encodes frames into a piece."""

    def __init__(self, container: av.container.OutputContainer, stream: VideoStream, offset: int) -> None:
        self._container, self._stream, self._offset = container, stream, offset

    def put(self, frame: VideoFrame | None) -> None:
        """Encode a frame; None ends the piece.

        Raises:
            FilmError: the encoder does not take it.
        """
        if frame is not None:
            assert frame.pts is not None
            frame.pts += self._offset
            frame.pict_type = 0  # not what it was in the film as it came
        try:
            for packet in self._stream.encode(frame):
                self._container.mux(packet)
        except av.error.FFmpegError as error:
            raise FilmError(
                f"--codec: the encoder {self._stream.codec.name} refuses the film ({error.strerror})"
            ) from error


def join(pieces: Pieces, source: Path, target: Path, turn: Turn) -> None:
    """Make a film of pieces, with sound, subtitles, attachments, chapters and tags as they were.

    Packets of other streams are copied bit for bit.

    Args:
        pieces: all of the film's pictures.
        source: the film as it came.
        target: the new film; its suffix says the format.
        turn: of the pictures.

    Raises:
        FilmError: it cannot be written.
    """
    try:
        with (
            whole(target, pieces.folder) as part,
            av.open(str(source)) as old,
            pieces.template() as first,
            av.open(str(part), "w", format=CONTAINERS[target.suffix.lower()]) as new,
        ):
            template = main_stream(old)
            assert template is not None
            pictures = new.add_stream_from_template(first.streams.video[0])
            time_base = template.time_base or Fraction(1, 1000)
            pictures.time_base = time_base
            if turn.matrix is not None:
                pictures.set_display_matrix(turn.matrix)
            pictures.metadata.update(template.metadata)
            pictures.disposition = template.disposition
            others = [stream for stream in old.streams if stream.index != template.index and _fits(new, stream)]
            copies = {stream.index: _copied(new, stream) for stream in others}
            new.metadata.update(old.metadata)
            new.set_chapters(old.chapters())
            for packet, stream in _merged(_addressed(pieces.packets(time_base), pictures), _others(old, copies)):
                packet.stream = stream
                new.mux_one(packet)
    except av.error.FFmpegError as error:
        raise FilmError(f"{shown(target)}: cannot be written ({error.strerror}); .mkv takes most streams") from error


def left_out(source: Path, target: Path) -> list[str]:
    """Return which streams of a film another cannot hold, as a reader may be told: ``subtitle stream 2 (subrip)``.

    Args:
        source: the film.
        target: the other, which need not be there; its suffix says the format.
    """
    with av.open(str(source)) as old, av.open(io.BytesIO(), "w", format=CONTAINERS[target.suffix.lower()]) as new:
        main = main_stream(old)
        others = [stream for stream in old.streams if main is None or stream.index != main.index]
        return [f"{each.type} stream {each.index} ({each.name})" for each in others if not _fits(new, each)]


def _fits(new: av.container.OutputContainer, stream: Stream) -> bool:
    """Whether a film can hold a stream of another as it is."""
    if stream.type == "attachment":
        return bool(new.format.name == "matroska")
    return stream.type in _COPIED and stream.name in new.supported_codecs


def _copied(new: av.container.OutputContainer, stream: Stream) -> Stream:
    """Add a stream like another."""
    if stream.type == "attachment":
        return new.add_attachment(stream.metadata.get("filename", ""), stream.mimetype or "", stream.data)
    copy = new.add_stream_from_template(stream, opaque=True)
    copy.time_base = stream.time_base
    copy.metadata.update(stream.metadata)
    copy.disposition = stream.disposition
    return copy


def _addressed(packets: Iterator[Packet], stream: Stream) -> Iterator[tuple[Packet, Stream]]:
    return ((packet, stream) for packet in packets)


def _others(old: av.container.InputContainer, copies: Mapping[int, Stream]) -> Iterator[tuple[Packet, Stream]]:
    streams = [stream for stream in old.streams if stream.index in copies and stream.type != "attachment"]
    if not streams:
        return iter(())
    return ((p, copies[p.stream_index]) for p in old.demux(*streams) if p.dts is not None)


def _merged(*sources: Iterator[tuple[Packet, Stream]]) -> Iterator[tuple[Packet, Stream]]:
    """Yield packets of several streams by the time of decoding, so that nothing has to be held for long."""
    return heapq.merge(*sources, key=lambda item: (item[0].dts or 0) * item[0].time_base)
