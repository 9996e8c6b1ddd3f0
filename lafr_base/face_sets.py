"""The sets of faces that papers of face restoration train and test on: where to get them, and how they are laid out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class FaceSet:
    """A set of faces.

    Attributes:
        name: what papers call it.
        folder: where the option files and commands of this project look for it, under the data folder.
        count: number of faces.
        lq: subfolder of the degraded faces; None where there are none.
        gt: subfolder of the originals; None where there are none.
        origin: page to get it from.
        about: what it holds.
    """

    name: str
    folder: str
    count: int
    lq: str | None
    gt: str | None
    origin: str
    about: str


_GFPGAN = "https://xinntao.github.io/projects/gfpgan"

# Numbers as the papers say that made the sets: GFPGAN's of CelebA-Test, LFW-Test and WebPhoto-Test, CodeFormer's of
# WIDER-Test. Copies differ (469 in place of 407, 1,771 in place of 1,711), so that other numbers are told and no fault.
FACE_SETS = (
    FaceSet("FFHQ", "ffhq", 70_000, None, ".", "https://github.com/NVlabs/ffhq-dataset", "aligned faces, to train on"),
    FaceSet("CelebA-Test", "celeba_test", 3_000, "lq", "hq", _GFPGAN, "CelebA-HQ faces and degraded copies, 512 x 512"),
    FaceSet("LFW-Test", "lfw_test", 1_711, ".", None, _GFPGAN, "first face of each person of LFW, mildly degraded"),
    FaceSet("WebPhoto-Test", "webphoto_test", 407, ".", None, _GFPGAN, "faces of 188 photos of the web, old ones, too"),
    FaceSet(
        "WIDER-Test", "wider_test", 970, ".", None, "https://github.com/sczhou/CodeFormer",
        "severely degraded faces of WIDER FACE",
    ),
)  # fmt: skip


def where() -> str:
    """One line on where faces are had from, for a run that has none."""
    wanted = {face_set.name: face_set.origin for face_set in FACE_SETS[:2]}
    pages = ", ".join(f"{name}: {origin}" for name, origin in wanted.items())
    return f"faces are had from: {pages}; any folder of faces aligned as FFHQ's does, too (dataroot_gt)"


Places = dict[FaceSet, tuple[Path, Path | None]]
"""Folders of the degraded faces and of the originals, by set."""


def get_face_set(name: str) -> FaceSet:
    """The set that papers call ``name``.

    Raises:
        ValueError: there is none.
    """
    found = next((face_set for face_set in FACE_SETS if face_set.name == name), None)
    if found is None:
        raise ValueError(f"no set of faces is called {name}; known: {', '.join(s.name for s in FACE_SETS)}")
    return found


def places_of(sets: Sequence[FaceSet], data: Path, given: Sequence[str] = ()) -> Places:
    """Where sets lie.

    Args:
        sets: the sets.
        data: the folder that holds them all.
        given: ``SET=DIR`` for those that lie elsewhere.

    Raises:
        ValueError: ``given`` names no such set.
    """
    elsewhere = {}
    for text in given:
        name, equals, folder = text.partition("=")
        if not equals or name not in [face_set.name for face_set in sets]:
            raise ValueError(f"--folder {text}: expected SET=DIR of {', '.join(s.name for s in sets)}")
        elsewhere[name] = Path(folder)
    places: Places = {}
    for face_set in sets:
        root = elsewhere.get(face_set.name, data / face_set.folder).expanduser()
        places[face_set] = root / (face_set.lq or "."), None if face_set.gt is None else root / face_set.gt
    return places


def check(places: Mapping[FaceSet, tuple[Path, Path | None]]) -> tuple[list[str], list[str]]:
    """What is wrong with sets that are to be compared on.

    Returns:
        Faults, with which nothing can be done; and notes on numbers of files that are not the published ones.
    """
    faults, notes = [], []
    for face_set, folders in places.items():
        for folder in folders:
            if folder is None:
                continue
            if not folder.is_dir():
                faults.append(f"{face_set.name}: {folder} is not there; {face_set.about}, from {face_set.origin}")
                continue
            count = sum(path.is_file() and not path.name.startswith(".") for path in folder.iterdir())
            if count == 0:
                faults.append(f"{face_set.name}: {folder} is empty; {face_set.about}, from {face_set.origin}")
            elif count != face_set.count:
                notes.append(f"{face_set.name}: {folder} holds {count} files; the published set has {face_set.count:,}")
    return faults, notes
