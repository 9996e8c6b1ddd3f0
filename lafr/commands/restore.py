"""Restore the faces of photos: a file or a folder in, a folder of results out.

Results: restored_imgs/NAME.EXT (whole photos), restored_faces/ and cropped_faces/NAME_00.png (each face after and
before), cmp/NAME_00.png (both side by side), report.json and report.csv (every face found, and its identity), manifest/
(what each was made from, and how). Results of the same photo with the same options are not made again, so an
interrupted run is continued by the same command.

  lafr restore -i photos -o results            a folder (-r: with sub-folders), a photo, or a text file: a photo a line
  lafr restore -i - -o - < old.jpg > new.png   one photo, from standard input to standard output

Exit status: 0, all done; 1, a photo failed, is damaged, had no face, or was not done since there is a result of
something else; 2, nothing could be done, or the work could not go on.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from lafr.face_options import OPTIONS, add_face_arguments, face_options
from lafr.restore_report import RestoreReport
from lafr.scale.manifest import KEPT, Record
from lafr_base.files import remove_parts, shown
from lafr_base.weights import WeightsError

if TYPE_CHECKING:
    from lafr.demo import Sample
    from lafr.restorer import LAFRer
    from lafr.scale.work import Job

HELP = "restore the faces of photos"

RESULT_OPTIONS = (
    "model",
    "upscale",
    *OPTIONS,
    "aligned",
    "draw_box",
    "suffix",
    "ext",
    "detection_model",
    "detection_threshold",
    "bg_upsampler",
    "precision",
    "keep_intact",
)
"""Names of the parsed arguments that decide what results are."""

_EXTENSIONS = ("auto", "jpg", "png", "webp")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of GFPGAN's and CodeFormer's inference scripts, both spellings."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.usage = "%(prog)s (-i PATH | --demo) [-o DIR] [option ...]"
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "-i",
        "--input",
        "--input_path",
        type=Path,
        metavar="PATH",
        help="photo, folder of photos, list of photos (text, one a line), or - for standard input",
    )
    source.add_argument("--demo", action="store_true", help="restore sample portraits, degraded on the spot")
    add = parser.add_argument
    add(
        "-o",
        "--output",
        "--output_path",
        type=Path,
        default=Path("results"),
        metavar="DIR",
        help="folder of results (default: results); - writes the whole photo to standard output",
    )
    add("-r", "--recursive", action="store_true", help="search sub-folders, too; results keep them")
    add_overwrite(parser)
    add_result_arguments(parser)


def add_overwrite(parser: argparse.ArgumentParser) -> None:
    """Add ``--overwrite``."""
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace results that were made from another photo, with other options, or by something unknown",
    )


def add_result_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say how photos are restored and what is written of them."""
    add = parser.add_argument
    add("--aligned", "--has_aligned", action="store_true", help="the inputs are FFHQ-aligned faces")
    add("--draw_box", action="store_true", help="outline the faces in the whole photos, with their numbers")
    add("--suffix", default="", metavar="TEXT", help="appended to names: NAME_TEXT.png")
    add(
        "--ext", choices=_EXTENSIONS, default="auto", help="format of whole photos; auto (default): the input's, or png"
    )
    add_restorer_arguments(parser)


def add_restorer_arguments(parser: argparse.ArgumentParser, upscale: float = 2) -> None:
    """Add the flags that say how pictures are restored, and by what; `upscale` is the default enlargement."""
    add = parser.add_argument
    add("-s", "--upscale", type=float, default=upscale, metavar="X", help="enlargement (default: %(default)g)")
    add(
        "-w",
        "--weight",
        "--fidelity_weight",
        dest="weight",
        type=float,
        default=0.5,
        metavar="W",
        help="0 to 1, how closely faces follow the photo: 0 is the network alone, 0.5 (default) keeps the photo's "
        "colours and shading, 1 changes nothing. For CodeFormer: its fidelity weight w, 0 for quality, 1 for fidelity. "
        "GFPGAN and RestoreFormer have no such knob",
    )
    add(
        "--no_keep_intact",
        "--no-keep-intact",
        dest="keep_intact",
        action="store_false",
        help="restore faces that are sharp and clean, too, and give faces the network's colours even where their photo "
        "has none; without this flag both stay as they are",
    )
    add(
        "--model",
        default="mini",
        metavar="MODEL",
        help="mini (default, bundled), a folder of a network, or a baseline: gfpgan:PATH, codeformer:PATH, "
        "restoreformer:PATH, osediff:FOLDER, bicubic; FOLDER,pixel=1,semantic=0.5 sets the strengths of two LoRAs",
    )
    add(
        "--bg_upsampler",
        type=str.lower,
        choices=("none", "realesrgan"),
        default="none",
        help="what enlarges the background",
    )
    add(
        "--bg_tile",
        type=int,
        default=400,
        metavar="PX",
        help="tile of the background upsampler, 0 for none (default: 400)",
    )
    add(
        "--precision",
        choices=("auto", "fp32", "fp16", "bf16"),
        default="auto",
        help="arithmetic; auto (default): LAFR's networks in fp16 on GPUs, and on CPUs in bf16 where that is faster, "
        "unless the first faces would change by over 2 of 255 levels; else fp32",
    )
    add("--compile", action="store_true", help="torch.compile the network (a GPU: CUDA graphs); slow to start")
    add_machine_arguments(parser)
    add_face_arguments(parser)


def add_machine_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say what finds faces, and what runs the network."""
    add = parser.add_argument
    add("--detection_model", default="auto", metavar="NAME", help="face detector (default: auto, the best there is)")
    add(
        "--detection_threshold",
        "--detection-threshold",
        type=float,
        metavar="S",
        help="least confidence of the detector, 0 to 1, of what is taken for a face: lower finds more faces and more "
        "that are none (default: the detector's own); report.csv has each face's",
    )
    add("--device", default="auto", help="auto (default), cpu, cuda, cuda:1, ...")
    add(
        "--engine",
        choices=("auto", "torch", "kernels", "openvino", "onnxruntime"),
        default="auto",
        help="what runs the network on a CPU; auto (default): the fastest that is installed and can run here",
    )
    add("--batch_size", type=int, default=8, metavar="N", help="faces restored at once (default: 8)")


def run(args: argparse.Namespace) -> int:
    """Restore; return the exit status: 0, 1 (see the module) or 2 (nothing could be done, or the work cannot go on)."""
    from lafr_base.images import ImageError  # with all that follows: imports that take seconds

    try:
        if "-" in (str(args.input), str(args.output)):
            return _stream(args)
        return _restore(args)
    except (ImageError, ValueError, OSError, ImportError, WeightsError) as error:
        return _stop(str(error))
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130


def _job(args: argparse.Namespace, source: Path) -> Job:
    from lafr.results import ResultFolder, output_names
    from lafr.scale.photos import Photos
    from lafr.scale.work import Job

    options = face_options(args)
    out = Path(os.path.abspath(args.output))
    photos = Photos(source, leave_out=out, recursive=args.recursive)
    keys = sorted(dict.fromkeys(photos))
    if not keys:
        left_out = f"; it has {photos.left_out}" if str(photos.left_out) else ""
        raise ValueError(f"{shown(source)}: the folder holds no photo{left_out}")
    outside = {key for key in keys if key.endswith("/") or key in (".", "..") or key.startswith("../")}  # none are made
    names = output_names([Path(key) for key in keys if key not in outside], keep_folders=True)
    return Job(
        photos,
        ResultFolder(out, args.aligned, args.suffix, args.ext, args.draw_box),
        lambda: build_restorer(args),
        options,
        result_options(args),
        {key: key if key in outside else names[Path(key)] for key in keys},
        args.overwrite,
    )


def _restore(args: argparse.Namespace) -> int:
    from lafr.composing import Composer
    from lafr.scale.ledger import Ledger
    from lafr.scale.manifest import Manifest
    from lafr.scale.run import check_restore, check_writable
    from lafr.scale.work import Worker, plan

    samples: dict[str, Sample] = {}
    source = args.output / "inputs" if args.demo else args.input
    check_writable(Path(os.path.abspath(args.output)))
    if args.demo:
        from lafr.demo import write_samples

        samples = {sample.path.name: sample for sample in write_samples(source)}
    job = replace(_job(args, source), afresh=args.demo)
    out, keys = job.files.out, list(job.names or ())
    check_restore(out)
    known, composer = Ledger(out, retry_failed=True), Composer(args.upscale)
    if any(plan(job, known, key)[0] for key in keys):
        restorer = build_restorer(args)  # before anything is written: a start that fails leaves nothing behind
        job, composer = replace(job, build=lambda: restorer), restorer.composer
    report = RestoreReport(args, job, samples, composer)
    with Manifest(out, "restore") as manifest:
        job = replace(job, files=replace(job.files, unfinished=manifest.unfinished))
        remove_parts(out)
        ledger = Ledger(out, retry_failed=True)
        manifest.name_options(job.made_with)

        def emit(record: Record) -> None:
            if record.status != KEPT:
                manifest.append(record)
            ledger.note(record)
            report.tell(record)

        todo = []
        for key in keys:
            do, record = plan(job, ledger, key)
            if do:
                todo.append(key)
            elif record is not None:
                emit(record)
            else:
                report.skip(shown(job.photos.path(key)))
        bar = tqdm(total=len(todo), desc="Restoring", unit="photo", disable=not todo)
        with logging_redirect_tqdm(), bar as report.progress:
            try:
                Worker(job, ledger, manifest.append).run(todo, emit, report.note)
            finally:
                report.write()
    return report.end()


def result_options(args: argparse.Namespace) -> dict[str, Any]:
    """Return all that decides what results are, as JSON can hold it: the options, and the network's files."""
    from lafr.methods import network_files

    options = {**{name: getattr(args, name) for name in RESULT_OPTIONS}, "network": network_files(args.model)}
    read: dict[str, Any] = json.loads(json.dumps(options))  # as they will be read again: keys are text
    return read


def build_restorer(args: argparse.Namespace) -> LAFRer:
    """Build the restorer that the arguments of `add_restorer_arguments` describe."""
    from lafr.networks import pick_device
    from lafr.restorer import LAFRer

    device = pick_device(args.device)
    background = None
    if args.bg_upsampler == "realesrgan":
        from lafr.background import RealESRGANBackground
        from lafr_base import weights

        background = RealESRGANBackground.from_file(weights.require("realesrgan-x2plus"), device, args.bg_tile)
    return LAFRer(
        model=args.model,
        upscale=args.upscale,
        bg_upsampler=background,
        device=device,
        detection_model=args.detection_model,
        detection_threshold=args.detection_threshold,
        batch_size=args.batch_size,
        precision=args.precision,
        compiled=args.compile,
        engine=args.engine,
        identity_threshold=args.identity_threshold,
        keep_intact=args.keep_intact,
    )


def _stream(args: argparse.Namespace) -> int:
    """Restore one photo from standard input or to standard output, or both."""
    from lafr.scale.run import check_writable

    to_stdout = str(args.output) == "-"
    if args.demo or (to_stdout and args.aligned):
        raise ValueError("-o - writes a whole photo: leave out --demo and --aligned")
    if to_stdout and sys.stdout.isatty():
        raise ValueError("-o - writes a picture, which a terminal cannot show: redirect it to a file or a program")
    if not to_stdout:
        check_writable(Path(os.path.abspath(args.output)))
    with tempfile.TemporaryDirectory(prefix="lafr_") as folder:
        source = args.input
        if str(source) == "-":
            source = Path(folder, "stdin")
            from lafr_base.images import is_image
            from lafr_base.images.budget import MAX_FILE_BYTES, check_file_size

            data = sys.stdin.buffer.read(MAX_FILE_BYTES + 1)
            check_file_size("standard input", len(data))
            source.write_bytes(data)
            if not is_image(source):
                raise ValueError("standard input: not an image, or of a format that is not supported")
        if not to_stdout:
            return _restore(argparse.Namespace(**{**vars(args), "input": source}))
        if not source.is_file():
            raise ValueError(f"{shown(source)}: -o - takes one photo")
        with contextlib.redirect_stdout(sys.stderr):  # standard output is the picture's
            status = _restore(argparse.Namespace(**{**vars(args), "input": source, "output": Path(folder, "results")}))
        written = sorted(Path(folder, "results", "restored_imgs").glob("*"))
        if len(written) != 1:
            return status or 2
        sys.stdout.buffer.write(written[0].read_bytes())
        sys.stdout.buffer.flush()
        return status


def _stop(message: str) -> int:
    print(message, file=sys.stderr)
    return 2
