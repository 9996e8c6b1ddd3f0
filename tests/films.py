"""Films for tests: a portrait that moves as is known, with sound and subtitles, and what restores it in no time."""

from __future__ import annotations

import functools
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import torch
from skimage import data
from torch import nn

from lafr import LAFRer
from lafr.detectors import Face

LANDMARKS = np.array([[198.0, 101.0], [248.0, 99.0], [226.0, 131.0], [207.0, 155.0], [245.0, 153.0]])
"""Of scikit-image's astronaut, pixels."""

TIME_BASE = Fraction(1, 90000)


def motion(frame: int) -> np.ndarray:
    """The similarity (2, 3) from the portrait to a frame: drifting, turning, and swinging."""
    angle, scale = np.deg2rad(4 * np.sin(frame / 9)), 0.55 + 0.03 * np.sin(frame / 13)
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    shift = np.array([5 + 0.8 * frame, 12 + 4 * np.sin(frame / 7)])
    return np.column_stack(([[cos, -sin], [sin, cos]], shift))


def picture(frame: int, size: tuple[int, int] = (240, 200)) -> np.ndarray:
    """A frame (H, W, 3) BGR uint8 of (width, height) `size`."""
    return cv2.warpAffine(portrait(), motion(frame), size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)


@functools.cache
def portrait() -> np.ndarray:
    """Scikit-image's astronaut, (512, 512, 3) BGR uint8."""
    return np.ascontiguousarray(data.astronaut()[..., ::-1])


def landmarks(frame: int) -> np.ndarray:
    """Where the face's landmarks (5, 2) are in a frame."""
    matrix = motion(frame)
    return LANDMARKS @ matrix[:, :2].T + matrix[:, 2]


class Detector:
    """Finds the face of a frame that was made here, as exactly as asked.

    Args:
        trembling: standard deviation of its landmarks, pixels.
        astray: the first landmarks that it finds are this far off, pixels.
    """

    name = "truth"

    def __init__(self, trembling: float = 0, astray: float = 0) -> None:
        self._rng = np.random.default_rng(0)
        self._astray = astray
        self._trembling = trembling
        self.seen: list[np.ndarray] = []

    def detect(self, img: np.ndarray) -> list[Face]:
        self.seen.append(img)
        distances = [float(cv2.absdiff(img, other).mean()) for other in _known(img.shape)]
        nearest = int(np.argmin(distances))
        if distances[nearest] > 12:
            return []
        points = landmarks(nearest) + self._trembling * self._rng.standard_normal((5, 2)) + self._astray
        self._astray = 0
        low, high = points.min(axis=0) - 15, points.max(axis=0) + 15
        return [Face(np.concatenate((low, high)).astype(np.float32), points.astype(np.float32), 0.9)]


_PICTURES: dict[tuple[int, ...], list[np.ndarray]] = {}


def _known(shape: tuple[int, ...]) -> list[np.ndarray]:
    if shape not in _PICTURES:
        _PICTURES[shape] = [picture(frame, (shape[1], shape[0])) for frame in range(24)]
    return _PICTURES[shape]


class Brighter(nn.Module):
    """Restores faces in a way that can be told: green goes up by a tenth, and random detail comes in."""

    image_size = 96

    def __init__(self, flicker: float = 0) -> None:
        super().__init__()
        self._flicker = flicker
        self._generator = torch.Generator().manual_seed(0)

    def forward(self, lq: torch.Tensor) -> torch.Tensor:
        noise = torch.randn(lq.shape, generator=self._generator)
        return (lq + torch.tensor([0, 0.1, 0])[:, None, None] + self._flicker * noise).clamp(0, 1)


def restorer(network: nn.Module | None = None, **options: Any) -> LAFRer:
    """A restorer of such films."""
    options = {"upscale": 1, "detection_model": Detector(), "identity": False, "device": "cpu", **options}
    # Whatever the stand-in does to a face must show, however clean the film is.
    return LAFRer(**{"model": network or Brighter(), "keep_intact": False} | options)


def write_film(
    path: Path,
    frames: list[np.ndarray],
    times: list[int] | None = None,
    *,
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    matrix: tuple[int, ...] | None = None,
    aspect: Fraction | None = None,
    sound: bool = True,
    subtitles: bool = False,
) -> Path:
    """Write a film.

    Args:
        path: the file.
        frames: (H, W, 3) BGR uint8.
        times: when each is shown, 90,000ths of a second; None for 25 a second.
        codec: of the pictures.
        pixel_format: of the pictures.
        matrix: the display matrix.
        aspect: width of a pixel over its height.
        sound: with a tone in AAC.
        subtitles: with two lines of SubRip.
    """
    times = times or [3600 * place for place in range(len(frames))]
    with av.open(str(path), "w") as film:
        film.metadata["title"] = "A portrait"
        stream = film.add_stream(codec, rate=25, options={"crf": "12"})
        context = stream.codec_context
        context.height, context.width = frames[0].shape[:2]
        context.pix_fmt, context.time_base = pixel_format, TIME_BASE
        context.color_primaries = context.color_trc = context.colorspace = 1
        context.color_range = 1
        if aspect is not None:
            context.sample_aspect_ratio = aspect
        if matrix is not None:
            stream.set_display_matrix(matrix)
        tone = film.add_stream("aac", rate=48000, layout="mono") if sound else None
        lines = film.add_mux_stream("subrip", None) if subtitles else None
        if tone is not None:
            tone.metadata["language"] = "deu"
        for image, time in zip(frames, times, strict=True):
            frame = av.VideoFrame.from_ndarray(image, format="bgr24")
            frame = frame.reformat(format=pixel_format, dst_colorspace=1, dst_color_range=1, src_color_range=2)
            frame.pts, frame.time_base = time, TIME_BASE
            film.mux(stream.encode(frame))
        film.mux(stream.encode(None))
        if tone is not None:
            seconds = (times[-1] + 3600) / 90000
            wave = 0.1 * np.sin(np.arange(int(48000 * seconds)) / 20, dtype=np.float32)
            sample = av.AudioFrame.from_ndarray(wave[None], format="fltp", layout="mono")
            sample.sample_rate, sample.pts = 48000, 0
            film.mux(tone.encode(sample))
            film.mux(tone.encode(None))
        if lines is not None:
            for start, text in ((0, b"What is old"), (400, b"becomes new")):
                packet = av.Packet(text)
                packet.pts = packet.dts = start
                packet.duration, packet.time_base, packet.stream = 300, Fraction(1, 1000), lines
                film.mux(packet)
    return path


def read_packets(path: Path, kind: str) -> list[tuple[float, bytes]]:
    """Time in seconds, and bytes, of each packet of the first stream of a kind."""
    with av.open(str(path)) as film:
        stream = next(stream for stream in film.streams if stream.type == kind)
        return [(float(p.pts * p.time_base), bytes(p)) for p in film.demux(stream) if p.size]


def read_frames(path: Path) -> list[tuple[float, np.ndarray]]:
    """Time in seconds, and pixels as stored (H, W, 3) BGR uint8, of each frame."""
    with av.open(str(path)) as film:
        return [
            (float(frame.time), frame.to_ndarray(format="bgr24", src_colorspace=1)) for frame in film.decode(video=0)
        ]
