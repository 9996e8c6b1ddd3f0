"""Restore the faces of a film: each is followed from frame to frame, so that what is restored does not flicker.

Sound, subtitles, chapters, rotation, colour tags and timestamps stay as they are. Faces are numbered as they appear,
from 0; those of one frame from left to right. OUT.json says of each when it was seen, and its identity. The same
command goes on with a film that was stopped.

  lafr video old.mp4 -o new.mp4
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from lafr.commands.restore import add_restorer_arguments, build_restorer
from lafr.face_options import OPTIONS, face_options
from lafr_base.files import shown
from lafr_base.weights import WeightsError

HELP = "restore the faces of a film"

RESULT_OPTIONS = (
    "model",
    "upscale",
    *OPTIONS,
    "detection_model",
    "bg_upsampler",
    "precision",
    "keep_intact",
    "stabilise",
    "draw_box",
)
"""Names of the parsed arguments that decide what comes out, beside the encoding."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("input", type=Path, metavar="IN", help="the film")
    add("-o", "--output", type=Path, required=True, metavar="OUT", help="the new film: .mp4, .mov, .mkv, .webm, .avi")
    add("--overwrite", action="store_true", help="replace OUT where it is there")
    add("--codec", metavar="NAME", help="FFmpeg's encoder (default: libx264, of 10 bits libx265, for .webm libvpx-vp9)")
    add("--crf", type=float, default=17, metavar="N", help="quality, 0 is best (default: 17, hardly to be told apart)")
    add(
        "--stabilise",
        type=float,
        default=0.85,
        metavar="S",
        help="0 to below 1, share of the frames before in each face (default: 0.85); 0 restores each for itself",
    )
    add("--draw_box", action="store_true", help="outline the faces, with their numbers")
    add_restorer_arguments(parser, upscale=1)


def run(args: argparse.Namespace) -> int:
    """Restore a film; return the exit status: 0, or 2 where it cannot be read or written."""
    try:
        import av
    except ImportError as error:
        return _stop(f"lafr video needs PyAV ({error}); pip install 'lafr[video]'")
    av.logging.set_level(av.logging.FATAL)  # what is wrong is said by the command
    try:
        return _restore(args)
    except (ValueError, OSError, ImportError, WeightsError) as error:
        return _stop(str(error))
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130


def _restore(args: argparse.Namespace) -> int:
    from lafr.methods import network_files
    from lafr.video.film import FilmJob, restore_film
    from lafr.video.restoring import FilmWishes

    if args.output.exists() and not args.overwrite:
        raise ValueError(f"{shown(args.output)}: is there already; --overwrite replaces it")
    options = face_options(args)
    if options.pop("only_center_face"):
        options["choice"] = replace(options["choice"], center=True)
    wishes = FilmWishes(**options, stabilise=args.stabilise, draw_box=args.draw_box)
    made_with = {**{name: getattr(args, name) for name in RESULT_OPTIONS}, "network": network_files(args.model)}
    job = FilmJob(args.input, args.output, wishes, json.loads(json.dumps(made_with)), args.codec, args.crf)
    with logging_redirect_tqdm(), tqdm(desc="Restoring", unit="frame") as bar:

        def progress(done: int, of: int | None) -> None:
            bar.total = of
            bar.initial = bar.initial or done - 1  # of frames done before, no speed is reckoned
            bar.update(done - bar.n)

        report = restore_film(job, lambda: build_restorer(args), progress)
    faces = report["faces"]
    restored = sum(face["restored"] > 0 for face in faces)
    changed = sum(face.get("verdict") == "changed" for face in faces)
    told = f"; {changed} may no longer show the same person (see --keep_identity)" if changed else ""
    print(f"{shown(args.output)}: {report['frames']} frames, {len(faces)} faces, {restored} restored{told}")
    return 0


def _stop(message: str) -> int:
    print(message, file=sys.stderr)
    return 2
