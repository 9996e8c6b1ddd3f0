"""Fuzz what comes from outside: files of photos, lists of photos, manifests.

    python tests/fuzz_inputs.py --seconds 60 [--seed 0]

Nothing but the errors that say what is wrong may come out, and no PNG that is damaged may pass as whole.
tests/test_fuzz.py tries a few examples of each; .ci/run spends a minute. A failure shows the smallest example found.
"""

from __future__ import annotations

import argparse
import functools
import io
import logging
import os
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from PIL import Image

from lafr.results import ResultFolder
from lafr.scale.ledger import Ledger, Verdict
from lafr.scale.manifest import BEGUN, RESTORED, Record
from lafr.scale.photos import Photos
from lafr.scale.work import Job, plan
from lafr_base.images import ImageError, Photo, decode_image

KINDS = (
    "PNG",
    "JPEG",
    "WEBP",
    "GIF",
    "BMP",
    "PPM",
    "TIFF",
    "TGA",
    "JPEG2000",
    "PCX",
    "QOI",
    "SGI",
    "DDS",
    "AVIF",
    "ICO",
)

SETTINGS = settings(deadline=None, database=None, suppress_health_check=list(HealthCheck), print_blob=True)


@functools.cache
def whole(kind: str) -> tuple[bytes, Photo]:
    """Return a small file of a format, and the photo in it."""
    rows, columns = np.mgrid[:24, :32]
    pixels = np.stack((rows * 9, columns * 7, (rows + columns) * 4), axis=2).astype(np.uint8)
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    options = {"exif": exif} if kind in ("PNG", "JPEG", "WEBP", "TIFF") else {}
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue(), decode_image(buffer.getvalue(), "photo.tga")


MUTATIONS = st.lists(
    st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 40), st.binary(max_size=40)), min_size=1, max_size=8
)
"""Where (as a share of the file), how many bytes go, and what takes their place."""


def photos(kind: str, mutations: list[tuple[float, int, bytes]]) -> None:
    """A mutated file gives a photo or an ImageError."""
    data, before = whole(kind)
    for place, count, new in mutations:
        start = int(place * len(data))
        data = data[:start] + new + data[start + count :]
    check(data, before if kind == "PNG" else None)


def bytes_of_any_kind(start: bytes, rest: bytes) -> None:
    """So does anything else."""
    check(start + rest, None)


def check(data: bytes, before: Photo | None) -> None:
    try:
        photo = decode_image(data, "photo.tga")
    except ImageError as error:
        assert str(error).startswith("photo.tga: ")
        return
    assert photo.bgr.shape[2] == 3
    assert photo.bgr.dtype in (np.uint8, np.uint16)
    assert photo.alpha is None or photo.alpha.shape == photo.bgr.shape[:2]
    if before is not None and photo.format == "PNG" and photo.damage is None:
        np.testing.assert_array_equal(photo.bgr, before.bgr)


PIECES = st.sampled_from(
    [
        b"photo.png",
        b"absent.png",
        b"/",
        b"//",
        b".",
        b"..",
        b"../",
        b"\n",
        b"\r\n",
        b"\0",
        b" ",
        b"\xff",
        b"\xff\xfe",
        b"=",
    ]
    + [b"\xef\xbb\xbf", b"\xc3\xa4", b"sub", b"x" * 300, b"\x1b[2J", b"C:\\", b"~"]
)


def lists(pieces: list[bytes]) -> None:
    """Every line of a list is a photo that is done, or one of which something is said."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "photo.png").write_bytes(whole("PNG")[0])
        (root / "sub").mkdir()
        (root / "list.txt").write_bytes(b"".join(pieces))
        try:
            found = Photos(root / "list.txt")
            keys = list(found)
        except ImageError as error:
            assert str(error).startswith(folder)
            return
        job = Job(found, ResultFolder(root / "out"), lambda: None)  # type: ignore[arg-type, return-value]
        for key in keys:
            do, record = plan(job, Ledger(root / "out"), key)
            assert do or record is not None
            if record is not None:
                assert Record.from_line(record.to_line()) == record


VALUES = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.sampled_from(["restored", "x"])
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=6), inner, max_size=3)),
    max_leaves=6,
)
NAMES = st.sampled_from([*Record.__dataclass_fields__, "options", "are", "other"])


def manifests(lines: list[object]) -> None:
    """Lines that are none are passed over, and one that is counts."""
    import json

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "manifest", "rank-00000-of-00001.jsonl")
        path.parent.mkdir()
        encoded = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
        good = Record("a photo", RESTORED, 1, size=7, time=8, digest="9", options="10", at=1e300)
        path.write_bytes(b"\n".join([*encoded, good.to_line()]))
        ledger = Ledger(Path(folder))
        seen = Record("a photo", BEGUN, size=7, time=8, options="10")
        assert ledger.judge(seen, True, lambda: "9") is Verdict.DONE
        assert ledger.judge(Record("absent", BEGUN), False, lambda: "") in (Verdict.TODO, Verdict.FAILED)
        assert len(ledger) >= 1


TARGETS: dict[str, tuple[Callable[..., None], dict[str, st.SearchStrategy]]] = {
    "photos": (photos, {"kind": st.sampled_from(KINDS), "mutations": MUTATIONS}),
    "bytes_of_any_kind": (
        bytes_of_any_kind,
        {"start": st.sampled_from([b"", *(whole(kind)[0][:12] for kind in KINDS)]), "rest": st.binary(max_size=300)},
    ),
    "lists": (lists, {"pieces": st.lists(st.one_of(PIECES, st.binary(max_size=6)), max_size=40)}),
    "manifests": (
        manifests,
        {"lines": st.lists(st.one_of(st.dictionaries(NAMES, VALUES, max_size=8), st.binary(max_size=30), VALUES))},
    ),
}


def fuzz(name: str, number: int, examples: int) -> None:
    """Try so many examples of a target."""
    function, arguments = TARGETS[name]
    seed(number)(settings(SETTINGS, max_examples=examples)(given(**arguments)(function)))()


def main() -> None:
    """Fuzz for a time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument(
        "--seed", type=int, default=int.from_bytes(os.urandom(4), "big"), help="default: another each time"
    )
    args = parser.parse_args()
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")  # Pillow's about damaged metadata
    end, number, rounds = time.monotonic() + args.seconds, args.seed, 0
    while time.monotonic() < end:
        for name in TARGETS:
            fuzz(name, number, 200)
        number, rounds = number + 1, rounds + 1
    print(f"{rounds} rounds of 200 examples of {', '.join(TARGETS)}, from seed {args.seed}: nothing found")


if __name__ == "__main__":
    main()
