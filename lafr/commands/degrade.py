"""Make a test set: LQ copies of high-quality faces that are the same on every machine.

OUT/lq has the degraded faces, OUT/hq the faces themselves at the same size, both as PNG files of the same names, in
the folders below FACES. A degradation is a function of the file's name and the seed, the same that validation in
option files uses. Any program can restore OUT/lq; `lafr compare OUT/lq --aligned --reference OUT/hq` compares them.
Exit status: 0; 1 where a face could not be read, each named; 2 where nothing could be done.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

HELP = "make LQ faces of HQ faces, the same on every machine"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``lafr degrade``."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("faces", type=Path, metavar="FACES", help="folder or LMDB of faces, aligned as FFHQ")
    add("-o", "--out", type=Path, required=True, metavar="OUT", help="folder to write to")
    add(
        "--degradation",
        default="celeba_x4",
        metavar="PRESET",
        help="one of lafr_data.degradations.PRESETS (default: celeba_x4, the paper's test)",
    )
    add("--seed", type=int, default=0, metavar="N", help="default: 0")
    add("--size", type=int, default=512, metavar="PX", help="side of the faces (default: 512)")
    add("--overwrite", action="store_true", help="write again what is there")


def run(args: argparse.Namespace) -> int:
    """Degrade; return the exit status."""
    from tqdm import tqdm

    from lafr_base.images import write_image
    from lafr_data.validation_dataset import ValidationFaceDataset

    options = {"image_size": args.size, "degradation": args.degradation, "seed": args.seed}
    try:
        dataset = ValidationFaceDataset({"dataroot_gt": str(args.faces), **options})
        names = dataset.names()
    except (FileNotFoundError, ValueError) as error:
        print(f"lafr degrade: {error}", file=sys.stderr)
        return 2
    failed = skipped = 0
    for index, name in enumerate(tqdm(names, desc="Degrading", unit="face", disable=None)):
        paths = {key: args.out / folder / f"{name}.png" for key, folder in (("gt", "hq"), ("lq", "lq"))}
        if not args.overwrite and all(path.exists() for path in paths.values()):
            skipped += 1
            continue
        try:
            item = dataset[index]
            for key, path in paths.items():
                write_image(path, (255 * item[key]).round().byte().permute(1, 2, 0).numpy()[..., ::-1])
        except (ValueError, OSError) as error:
            print(error, file=sys.stderr)
            failed += 1
    written = len(names) - failed - skipped
    print(f"{written} faces written, {skipped} were there, {failed} failed. Results: {args.out}")
    return 1 if failed else 0
