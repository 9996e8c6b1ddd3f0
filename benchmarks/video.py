"""Flicker, sharpness, speed and memory of `lafr video`, against restoring each frame for itself.

    python benchmarks/video.py --out video.json

Clips are made of the sample portraits: a portrait drifts, turns, and comes nearer and goes, on paths without corners.
That is the truth. The input is the truth blurred, halved and enlarged, with noise of its own in each frame, encoded as
H.264 at a low rate. `input` is the clip as decoded, `frames` each of its frames restored as a photo by
`LAFRer.enhance`, `followed` what `lafr video --stabilise 0` makes of it before encoding, `film` what `lafr video` does,
all in the size of the input. Frames in which `LAFRer.enhance` finds no face are counted as `missed` and left out of all
figures, since there restoring for itself flickers most.

flicker     mean absolute difference, in levels of 255, between a frame and the one before carried along the motion of
            the truth (optical flow: DIS). Over the face, where the truth itself is carried well
sharpness   standard deviation of the Laplacian over the face, in levels; mean over frames
psnr        against the truth over the face, dB
seconds     for one frame, without reading and writing

`memory` is the peak of a process that runs the whole command on a short clip and on one six times as long;
`audio_same` tells whether the sound's packets are the same in the result.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))

from machine import machine  # noqa: E402 - the script beside this one

SIZE = 320
"""Side of the frames in pixels."""

EYES = 0.17
"""Distance of the eyes in the middle of their path, as a share of the frame's side."""

CARRIED = 6.0
"""Where the truth carried along its own motion is off by more levels, a pixel is not looked at."""

RATE = 25


def truth(portrait: np.ndarray, landmarks: np.ndarray, count: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Frames (SIZE, SIZE, 3) BGR uint8 of a portrait that moves, and where its landmarks (5, 2) are in each."""
    centre = landmarks.mean(axis=0)
    eyes = float(np.linalg.norm(landmarks[1] - landmarks[0]))
    frames, points = [], []
    for frame in range(count):
        t = frame / RATE
        scale = EYES * SIZE / eyes * (1 + 0.08 * np.sin(2.1 * t))
        angle = np.deg2rad(5 * np.sin(2.9 * t))
        cos, sin = scale * np.cos(angle), scale * np.sin(angle)
        linear = np.array([[cos, -sin], [sin, cos]])
        middle = SIZE / 2 + np.array([14 * np.sin(3.3 * t), 8 * np.sin(2.3 * t + 1)])
        matrix = np.column_stack((linear, middle - linear @ centre))
        # Drawn at four times the size, so that detail finer than a pixel does not flicker in the truth.
        fine = 4 * matrix + np.array([[0, 0, 1.5], [0, 0, 1.5]])
        large = cv2.warpAffine(portrait, fine, (4 * SIZE,) * 2, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
        frames.append(cv2.resize(large, (SIZE, SIZE), interpolation=cv2.INTER_AREA))
        points.append(landmarks @ linear.T + matrix[:, 2])
    return frames, points


def degraded(frames: Sequence[np.ndarray], path: Path, crf: int, sound: bool = True) -> list[np.ndarray]:
    """Write what a bad camera and a slow line make of frames; return its frames as decoded."""
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as film:
        stream = film.add_stream("libx264", rate=RATE, options={"crf": str(crf)})
        stream.width, stream.height, stream.pix_fmt = SIZE, SIZE, "yuv420p"
        tone = film.add_stream("aac", rate=48000, layout="mono") if sound else None
        for frame in frames:
            small = cv2.resize(
                cv2.GaussianBlur(frame, (0, 0), 1.4), (SIZE // 2, SIZE // 2), interpolation=cv2.INTER_AREA
            )
            noisy = small + rng.normal(0, 6, small.shape)
            image = cv2.resize(np.clip(noisy, 0, 255).astype(np.uint8), (SIZE, SIZE), interpolation=cv2.INTER_LINEAR)
            film.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="bgr24")))
        film.mux(stream.encode(None))
        if tone is not None:
            samples = rng.normal(0, 0.1, (1, 48000 * len(frames) // RATE)).astype(np.float32)
            sample = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
            sample.sample_rate, sample.pts = 48000, 0
            film.mux(tone.encode(sample))
            film.mux(tone.encode(None))
    with av.open(str(path)) as film:
        return [frame.to_ndarray(format="bgr24") for frame in film.decode(video=0)]


class Ruler:
    """Measures films against a truth.

    Args:
        frames: the truth, (H, W, 3) BGR uint8.
        landmarks: of the face in each, (5, 2).
    """

    def __init__(self, frames: Sequence[np.ndarray], landmarks: Sequence[np.ndarray]) -> None:
        self._frames = [frame.astype(np.float32) for frame in frames]
        self._faces = [_face_mask(points, frames[0].shape[:2]) for points in landmarks]
        flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        grays = [cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY) for frame in frames]
        ys, xs = np.mgrid[: grays[0].shape[0], : grays[0].shape[1]].astype(np.float32)
        self._grids, self._carried = [], []
        for place in range(1, len(frames)):
            motion = flow.calc(grays[place], grays[place - 1], None)
            self._grids.append((xs + motion[..., 0], ys + motion[..., 1]))
            off = np.abs(self._frames[place] - self._carry(self._frames[place - 1], place)).max(axis=2)
            self._carried.append(self._faces[place] & (off < CARRIED))

    def _carry(self, frame: np.ndarray, place: int) -> np.ndarray:
        return cv2.remap(frame, *self._grids[place - 1], cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)

    def measure(self, frames: Sequence[np.ndarray], without: Sequence[int] = ()) -> dict[str, float | None]:
        """Return `flicker`, `sharpness` and `psnr` (None of the truth itself) of frames in the truth's size.

        Args:
            frames: as many as the truth has.
            without: places of those that do not count.
        """
        films = [frame.astype(np.float32) for frame in frames]
        flicker = [
            float(np.abs(films[place] - self._carry(films[place - 1], place))[self._carried[place - 1]].mean())
            for place in range(1, len(films))
            if place not in without and place - 1 not in without
        ]
        sharpness = [
            float(cv2.Laplacian(cv2.cvtColor(film, cv2.COLOR_BGR2GRAY), cv2.CV_32F)[face].std())
            for place, (film, face) in enumerate(zip(films, self._faces, strict=True))
            if place not in without
        ]
        error = [
            float(np.square(film - true)[face].mean())
            for place, (film, true, face) in enumerate(zip(films, self._frames, self._faces, strict=True))
            if place not in without
        ]
        off = float(np.mean(error))
        return {
            "flicker": round(float(np.mean(flicker)), 3),
            "sharpness": round(float(np.mean(sharpness)), 3),
            "psnr": round(10 * math.log10(255**2 / off), 2) if off else None,
        }


def _face_mask(points: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Return (H, W) bool: the face of landmarks, without its rim."""
    mask = np.zeros(shape, np.uint8)
    centre = points[:4].mean(axis=0)
    eyes = points[1] - points[0]
    length = float(np.linalg.norm(eyes))
    angle = float(np.rad2deg(np.arctan2(eyes[1], eyes[0])))
    cv2.ellipse(mask, (tuple(map(float, centre)), (1.9 * length, 2.5 * length), angle), 255, -1)
    return mask > 0


def clip(name: str, count: int, crf: int, folder: Path, restorer: Any) -> dict[str, Any]:
    """Figures of one clip."""
    from lafr.demo import PORTRAITS
    from lafr.detectors import build_detector
    from lafr.video.restoring import FilmRestorer, FilmWishes
    from lafr.video.stabilising import MEMORY

    portrait = np.ascontiguousarray(PORTRAITS[name]())
    landmarks = build_detector("builtin").detect(portrait)[0].landmarks.astype(np.float64)
    frames, points = truth(portrait, landmarks, count)
    ruler = Ruler(frames, points)
    inputs = degraded(frames, folder / f"{name}.mp4", crf, sound=False)
    start = time.perf_counter()
    photos = [restorer.enhance(frame) for frame in inputs]
    seconds = {"frames": time.perf_counter() - start}
    films = {"truth": frames, "input": inputs, "frames": [photo for _, _, photo in photos]}
    missed = [place for place, (crops, _, _) in enumerate(photos) if not crops]
    for kind, share in (("followed", 0.0), ("film", MEMORY)):
        start = time.perf_counter()
        film = FilmRestorer(restorer, FilmWishes(stabilise=share))
        films[kind] = [image for _, image in film.restore(enumerate(inputs))]
        seconds[kind] = time.perf_counter() - start
    figures: dict[str, Any] = {kind: ruler.measure(film, missed) for kind, film in films.items()}
    for kind, spent in seconds.items():
        figures[kind]["seconds"] = round(spent / count, 3)
    figures["missed"] = len(missed)
    for kind in ("flicker", "sharpness"):
        figures[f"{kind}_ratio"] = round(figures["film"][kind] / figures["frames"][kind], 3)
    return figures


_CHILD = """
import sys
from lafr.cli import main
status = main(["video", sys.argv[1], "-o", sys.argv[2], "--model", sys.argv[3]])
print(next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")))
sys.exit(status)
"""


def memory(count: int, crf: int, folder: Path, model: str) -> dict[str, Any]:
    """Peak memory in MB of the command on clips of `count` and six times as many frames; whether sound is kept."""
    from lafr.demo import PORTRAITS
    from lafr.detectors import build_detector

    portrait = np.ascontiguousarray(PORTRAITS["astronaut"]())
    landmarks = build_detector("builtin").detect(portrait)[0].landmarks.astype(np.float64)
    figures: dict[str, Any] = {}
    for name, frames in (("short", count), ("long", 6 * count)):
        source, target = folder / f"{name}.mp4", folder / f"{name}_new.mp4"
        degraded(truth(portrait, landmarks, frames)[0], source, crf)
        done = subprocess.run(
            [sys.executable, "-c", _CHILD, str(source), str(target), model], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"lafr video failed: {done.stderr.strip().splitlines()[-1]}")
        figures[name] = {"frames": frames, "peak_mb": round(int(done.stdout.split()[-1]) / 1024)}
        figures["audio_same"] = figures.get("audio_same", True) and _sound(source) == _sound(target)
    figures["ratio"] = round(figures["long"]["peak_mb"] / figures["short"]["peak_mb"], 3)
    return figures


def _sound(path: Path) -> list[tuple[Fraction, bytes]]:
    with av.open(str(path)) as film:
        return [(p.pts * p.time_base, bytes(p)) for p in film.demux(film.streams.audio[0]) if p.size]


def main() -> int:
    """Measure and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="JSON to write")
    parser.add_argument("--model", default="mini", help="as --model of lafr restore (default: mini)")
    parser.add_argument("--frames", type=int, default=32, help="of a clip (default: 32)")
    parser.add_argument("--crf", type=int, default=28, help="of the input's encoding (default: 28)")
    parser.add_argument("--portraits", nargs="*", default=["astronaut", "grace_hopper"], help="sample portraits")
    parser.add_argument("--no_memory", action="store_true", help="leave out memory and sound")
    args = parser.parse_args()
    from lafr import LAFRer
    from lafr_base.files import write_json

    restorer = LAFRer(model=args.model, upscale=1)
    report: dict[str, Any] = {"machine": machine(), "model": args.model, "frames": args.frames, "crf": args.crf}
    with tempfile.TemporaryDirectory() as folder:
        report["clips"] = {name: clip(name, args.frames, args.crf, Path(folder), restorer) for name in args.portraits}
        if not args.no_memory:
            report["memory"] = memory(args.frames, args.crf, Path(folder), args.model)
    write_json(args.out, report)
    print(json.dumps({key: report[key] for key in ("clips", "memory") if key in report}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
