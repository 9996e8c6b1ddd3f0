"""Restore the faces of photos: a file or a folder in, a folder of results out.

Results: restored_imgs/NAME.EXT (whole photos), restored_faces/ and cropped_faces/NAME_00.png (each face after and
before), cmp/NAME_00.png (both side by side), report.json and report.csv (every face found, and its identity). What is
there already is not done again, so an interrupted run is continued by the same command. Exit status: 0, all done; 1, a
photo failed or had no face; 2, nothing could be done.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from lafr.face_options import add_face_arguments, face_options
from lafr_base.weights import WeightsError

if TYPE_CHECKING:
    from lafr.demo import Sample
    from lafr.restorer import LAFRer
    from lafr.results import RestoredPhoto, ResultFolder

HELP = "restore the faces of photos"

_EXTENSIONS = ("auto", "jpg", "png", "webp")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of GFPGAN's and CodeFormer's inference scripts, both spellings."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("-i", "--input", "--input_path", type=Path, metavar="PATH", help="photo, or folder of photos")
    source.add_argument("--demo", action="store_true", help="restore sample portraits, degraded on the spot")
    add = parser.add_argument
    add("-o", "--output", "--output_path", type=Path, default=Path("results"), metavar="DIR", help="default: results")
    add("--overwrite", action="store_true", help="do photos again whose results exist")
    add_result_arguments(parser)


def add_result_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say how photos are restored and what is written of them."""
    add = parser.add_argument
    add("-s", "--upscale", type=float, default=2, metavar="X", help="enlargement of the photo (default: 2)")
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
    add("--aligned", "--has_aligned", action="store_true", help="the inputs are FFHQ-aligned faces")
    add("--draw_box", action="store_true", help="outline the faces in the whole photos, with their numbers")
    add("--suffix", default="", metavar="TEXT", help="appended to names: NAME_TEXT.png")
    add(
        "--ext", choices=_EXTENSIONS, default="auto", help="format of whole photos; auto (default): the input's, or png"
    )
    add(
        "--model",
        default="mini",
        metavar="MODEL",
        help="mini (default, bundled), a folder of a network, or a baseline: gfpgan:PATH, codeformer:PATH, "
        "restoreformer:PATH, osediff:FOLDER, bicubic",
    )
    add("--detection_model", default="auto", metavar="NAME", help="face detector (default: auto, the best there is)")
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
    add("--device", default="auto", help="auto (default), cpu, cuda, cuda:1, ...")
    add(
        "--precision",
        choices=("auto", "fp32", "fp16", "bf16"),
        default="auto",
        help="arithmetic; auto (default): LAFR's networks in fp16 on GPUs and bf16 on CPUs with AMX, unless the first "
        "faces would change by over 2 of 255 levels; else fp32",
    )
    add("--compile", action="store_true", help="torch.compile the network (a GPU: CUDA graphs); slow to start")
    add("--batch_size", type=int, default=8, metavar="N", help="faces restored at once (default: 8)")
    add_face_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Restore; return the exit status: 0, 1 (a photo failed or had no face) or 2 (nothing could be done)."""
    from lafr.results import ResultFolder
    from lafr_base.images import ImageError, list_images  # with all that follows: imports that take seconds

    samples: dict[Path, Sample] = {}
    files = ResultFolder(args.output, args.aligned, args.suffix, args.ext, args.draw_box)
    try:
        options = face_options(args)
        if args.demo:
            from lafr.demo import write_samples

            samples = {sample.path: sample for sample in write_samples(args.output / "inputs")}
        paths = list(samples) if args.demo else list_images(args.input)
        names = output_names(paths)
        done = [] if args.overwrite or args.demo else [p for p in paths if files.exists(names[p])]
        todo = [p for p in paths if p not in set(done)]
        for path in done:
            print(f"{path}: skipped, its result exists (--overwrite does it again)")
        restorer = build_restorer(args) if todo else None
        results: Iterator[RestoredPhoto] = iter(())
        if restorer is not None:
            results = restorer.enhance_many(todo, has_aligned=args.aligned, **options)
    except (ImageError, ValueError, OSError, ImportError, WeightsError) as error:
        return _stop(str(error))
    counts: Counter[str] = Counter(skipped=len(done))
    if restorer is not None:
        try:
            _restore(
                args, restorer, zip(todo, results, strict=True), files, {p: names[p] for p in todo}, samples, counts
            )
        except KeyboardInterrupt:
            print("interrupted; the same command goes on from here", file=sys.stderr)
            return 130
    restored = f"{counts['faces']} faces restored, {counts['faceless']} photos without a face"
    rest = f"{counts['skipped']} skipped, {counts['failed']} failed"
    if counts["changed"]:
        rest += f"; {counts['changed']} faces may no longer show the same person (report.json; see --keep_identity)"
    print(f"{counts['photos']} photos written ({restored}), {rest}. Results: {args.output}")
    for path in samples:
        print(f"input | restored | original: {args.output / 'cmp' / path.name}")
    return 1 if counts["failed"] or counts["faceless"] else 0


def output_names(paths: Sequence[Path]) -> dict[Path, str]:
    """Return the name of each photo's results: its stem, with the suffix where two photos share the stem.

    Case is ignored, as some file systems do: a.jpg and A.png become a_jpg and A_png.
    """
    stems = Counter(path.stem.lower() for path in paths)
    unique = {stem for stem, count in stems.items() if count == 1}
    names: dict[Path, str] = {}
    taken = set(unique)
    for path in paths:
        name = path.stem
        if name.lower() not in unique:
            base = name = f"{path.stem}_{path.suffix[1:]}"
            number = 2
            while name.lower() in taken:
                name = f"{base}_{number}"
                number += 1
            taken.add(name.lower())
        names[path] = name
    return names


def build_restorer(args: argparse.Namespace) -> LAFRer:
    """Build the restorer that the arguments of `add_result_arguments` describe."""
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
        batch_size=args.batch_size,
        precision=args.precision,
        compiled=args.compile,
        identity_threshold=args.identity_threshold,
    )


def _restore(
    args: argparse.Namespace,
    restorer: LAFRer,
    results: Iterable[tuple[Path, RestoredPhoto]],
    files: ResultFolder,
    names: dict[Path, str],
    samples: dict[Path, Sample],
    counts: Counter[str],
) -> None:
    from lafr.report import Report, photo_entry
    from lafr.results import write_behind

    composer = restorer.composer
    about = {"model": args.model, "keep_identity": args.keep_identity, "identity_threshold": composer.least_identity}
    report = Report(args.output, about)

    def write(path: Path, result: RestoredPhoto) -> None:
        files.write(path, names[path], result)
        if path in samples:
            _write_comparison(args, samples[path], result)

    try:
        with logging_redirect_tqdm(), tqdm(total=len(names), desc="Restoring", unit="photo") as progress:
            for path, result, unwritten in write_behind(results, write, restorer.threads):
                error = result.error = result.error or unwritten
                report.note(photo_entry(path, result, composer))
                if error is not None:  # the rest of the folder goes on
                    message = str(error) or type(error).__name__
                    progress.write(message if str(path) in message else f"{path}: {message}", file=sys.stderr)
                    counts["failed"] += 1
                else:
                    counts["photos"] += 1
                    counts["faces"] += len(result.restored_faces)
                    counts["changed"] += sum(figure < composer.least_identity for figure in result.identities)
                    if not result.restored_faces:
                        what = f"none of {len(result.found)} faces was chosen" if result.found else "no face found"
                        progress.write(f"{path}: {what}; the photo is enlarged only", file=sys.stderr)
                        counts["faceless"] += 1
                progress.update()
    finally:
        report.write()


def _write_comparison(args: argparse.Namespace, sample: Sample, result: RestoredPhoto) -> None:
    from lafr.demo import write_comparison

    if result.restored_img is not None:
        write_comparison(args.output / "cmp" / sample.path.name, sample, result.restored_img)


def _stop(message: str) -> int:
    print(message, file=sys.stderr)
    return 2
