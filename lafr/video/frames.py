"""Frames of a film: decoded, turned upright, and put back into the format they came in.

What is not restored stays: in a frame, only samples of pixels that were changed are replaced, so that the way to BGR
and back costs nothing elsewhere.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from av.video.frame import VideoFrame
from av.video.plane import VideoPlane
from av.video.reformatter import ColorRange, Colorspace
from av.video.stream import VideoStream

from lafr_base.files import shown

logger = logging.getLogger(__name__)

_HD_HEIGHT = 720  # from here on, players take untagged colours for BT.709 in place of BT.601
_MATRICES = {
    1: Colorspace.ITU709,
    4: Colorspace.FCC,
    5: Colorspace.ITU601,
    6: Colorspace.ITU601,
    7: Colorspace.SMPTE240M,
    9: Colorspace.BT2020,
    10: Colorspace.BT2020,
}
"""swscale's name of each YCbCr matrix of ISO/IEC 23091-2 (AVColorSpace)."""


class FilmError(ValueError):
    """A film that cannot be read or written; the message names the file."""


@dataclass(frozen=True)
class Turn:
    """How stored frames are turned for showing: a display matrix of quarter turns and mirrors.

    Attributes:
        transpose: rows and columns change places, first of all.
        flip_rows: upside down.
        flip_columns: left to right.
        matrix: the nine numbers of the film's display matrix; None where it has none.
    """

    transpose: bool = False
    flip_rows: bool = False
    flip_columns: bool = False
    matrix: tuple[int, ...] | None = None

    @classmethod
    def of(cls, frame: VideoFrame) -> Turn:
        """Read the turn of a decoded frame (libavutil/display.h: x' = a x + c y, y' = b x + d y)."""
        data = next((bytes(side) for side in frame.side_data if side.type.name == "DISPLAYMATRIX"), None)
        if data is None:
            return cls()
        matrix = tuple(int(value) for value in np.frombuffer(data, "<i4", 9))
        a, b, _, c, d = matrix[:5]
        if abs(b) + abs(c) > abs(a) + abs(d):
            return cls(True, b < 0, c < 0, matrix)
        return cls(False, d < 0, a < 0, matrix)

    def upright(self, image: np.ndarray) -> np.ndarray:
        """Turn a stored picture (H, W, ...) for showing."""
        if self.transpose:
            image = image.swapaxes(0, 1)
        return np.ascontiguousarray(self._flipped(image))

    def stored(self, image: np.ndarray) -> np.ndarray:
        """Turn a picture back."""
        image = self._flipped(image)
        return np.ascontiguousarray(image.swapaxes(0, 1) if self.transpose else image)

    def _flipped(self, image: np.ndarray) -> np.ndarray:
        return image[:: -1 if self.flip_rows else 1, :: -1 if self.flip_columns else 1]


@dataclass(frozen=True)
class Picture:
    """One frame of a film.

    Attributes:
        image: (H, W, 3) BGR, upright; uint8, or uint16 for films of more than 8 bits.
        pts: when it is shown, in the stream's time base.
        duration: for how long, in the same; 0 where the film does not say.
        frame: as it was decoded.
        turn: from `frame` to `image`.
    """

    image: np.ndarray
    pts: int
    duration: int
    frame: VideoFrame
    turn: Turn


class Film:
    """A film that is read, by PyAV.

    Args:
        path: the file.

    Raises:
        FilmError: not a film, or one without pictures.
        OSError: it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise FilmError(f"{shown(path)}: there is no such file")
        self.path = path
        self._said: set[str] = set()
        with self._open() as container:
            stream = self._stream(container)
            self.time_base: Fraction = stream.time_base or Fraction(1, 1000)
            """Seconds of one tick of the pictures' timestamps."""
            self.rate: Fraction = stream.average_rate or stream.guessed_rate or Fraction(25)
            """Pictures a second, on average."""
            seconds = float(stream.duration * self.time_base) if stream.duration else (container.duration or 0) / 1e6
            self.aspect: Fraction | None = stream.sample_aspect_ratio or None
            """Width of a pixel over its height; None where the film does not say."""
            self.count: int | None = stream.frames or round(seconds * float(self.rate)) or None
            """Pictures in all, as far as the film says; None where it does not."""

    def pictures(self, start: int | None = None) -> Iterator[Picture]:
        """Yield frames in the order of showing, from the first whose timestamp is at least `start`.

        What is damaged is passed over, with a warning.
        """
        next_pts = 0
        with self._open() as container:
            stream = self._stream(container)
            stream.thread_type = "AUTO"
            if start is not None:
                container.seek(start, stream=stream)
            for frame in self._decoded(container, stream):
                pts = next_pts if frame.pts is None else frame.pts
                next_pts = pts + (frame.duration or round(1 / (self.rate * self.time_base)))
                if frame.interlaced_frame:
                    self._warn("is interlaced, and is restored as if it were not: deinterlace it first")
                if start is None or pts >= start:
                    turn = Turn.of(frame)
                    yield Picture(turn.upright(to_bgr(frame)), pts, frame.duration or 0, frame, turn)

    def _decoded(self, container: av.container.InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
        packets = container.demux(stream)
        while True:
            try:
                packet = next(packets, None)
                if packet is None:
                    return
                yield from packet.decode()
            except av.error.InvalidDataError:
                self._warn("is damaged; what can be decoded is restored")

    def _warn(self, what: str) -> None:
        """Say something of the film, once."""
        if what not in self._said:
            self._said.add(what)
            logger.warning("%s: %s", shown(self.path), what)

    def seconds(self, picture: Picture) -> float:
        """Return when a picture is shown."""
        return float(picture.pts * self.time_base)

    def _open(self) -> av.container.InputContainer:
        try:
            return av.open(str(self.path))
        except av.error.FFmpegError as error:
            raise FilmError(f"{shown(self.path)}: cannot be read as a film ({error.strerror})") from error

    def _stream(self, container: av.container.InputContainer) -> VideoStream:
        stream = main_stream(container)
        if stream is None:
            raise FilmError(f"{shown(self.path)}: has no pictures")
        return stream


def main_stream(container: av.container.InputContainer) -> VideoStream | None:
    """Return the stream of moving pictures; cover pictures are passed over."""
    films = [
        stream for stream in container.streams.video if not stream.disposition & av.stream.Disposition.attached_pic
    ]
    return films[0] if films else None


def to_bgr(frame: VideoFrame) -> np.ndarray:
    """Return a frame as stored, (H, W, 3) BGR uint8, or uint16 where it has more than 8 bits."""
    deep = max(component.bits for component in frame.format.components) > 8
    if not deep:
        return frame.to_ndarray(format="bgr24", **_colours(frame, "src"))
    # Not bgr48le: PyAV mixes up its samples where the width is odd.
    return np.ascontiguousarray(frame.to_ndarray(format="gbrp16le", **_colours(frame, "src"))[..., ::-1])


def replace_pixels(picture: Picture, image: np.ndarray, pixel_format: str) -> VideoFrame:
    """Return a picture's frame with other pixels.

    Args:
        picture: whose timestamp and colours the frame gets. Where `image` has its size and `pixel_format` is its own,
            samples of pixels that are the same keep their bits.
        image: (H, W, 3) BGR of the type of `picture.image`, upright; any size.
        pixel_format: of the new frame.
    """
    source = picture.frame
    stored = picture.turn.stored(image)
    if image.dtype == np.uint8:
        rgb = VideoFrame.from_ndarray(stored, format="bgr24")
    else:
        rgb = VideoFrame.from_ndarray(np.ascontiguousarray(stored[..., ::-1]), format="gbrp16le")
    frame = rgb.reformat(format=pixel_format, **_colours(source, "dst"))
    if image.shape == picture.image.shape and pixel_format == source.format.name:
        _keep_samples(source, frame, picture.turn.stored((image != picture.image).any(axis=2).view(np.uint8)))
    frame.pts, frame.time_base = picture.pts, source.time_base
    frame.duration = picture.duration
    frame.colorspace, frame.color_range = source.colorspace, source.color_range
    frame.color_primaries, frame.color_trc = source.color_primaries, source.color_trc
    return frame


def _colours(frame: VideoFrame, side: str) -> dict[str, int]:
    """Return arguments for PyAV's conversion of YCbCr: the frame's matrix and range."""
    matrix = _MATRICES.get(frame.colorspace)
    if matrix is None:
        matrix = Colorspace.ITU709 if frame.height >= _HD_HEIGHT else Colorspace.ITU601
    full = frame.color_range == ColorRange.JPEG or frame.format.name.startswith(("yuvj", "gray"))
    # The other side is BGR, for which swscale wants the same matrix, and the full range.
    other = "dst" if side == "src" else "src"
    return {
        "src_colorspace": matrix,
        "dst_colorspace": matrix,
        f"{side}_color_range": ColorRange.JPEG if full else ColorRange.MPEG,
        f"{other}_color_range": ColorRange.JPEG,
    }


def _keep_samples(source: VideoFrame, frame: VideoFrame, changed: np.ndarray) -> None:
    """Copy the samples of pixels that were not changed ((H, W) uint8) from one frame to another of the same format."""
    if not frame.format.is_planar:
        return  # of packed formats only RGB comes here, which loses nothing
    height, width = changed.shape
    components = frame.format.components
    for index, (old, new) in enumerate(zip(source.planes, frame.planes, strict=True)):
        step_x, step_y = -(-width // old.width), -(-height // old.height)
        mask = changed
        if (step_x, step_y) != (1, 1):  # a sample of several pixels
            padded = np.zeros((old.height * step_y, old.width * step_x), np.uint8)
            padded[:height, :width] = changed
            mask = padded.reshape(old.height, step_y, old.width, step_x).max(axis=(1, 3))
        size = sum(-(-component.bits // 8) for component in components if component.plane == index)
        cv2.copyTo(_rows(old, size), np.repeat(1 - mask, size, axis=1), _rows(new, size))


def _rows(plane: VideoPlane, size: int) -> np.ndarray:
    """Return a plane's bytes (height, width * size) without what pads its rows; `size` is the bytes of a sample."""
    rows = np.frombuffer(plane, np.uint8).reshape(plane.height, -1)
    return rows[:, : plane.width * size]
