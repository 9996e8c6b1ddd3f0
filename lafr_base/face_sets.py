"""The sets of faces that papers of face restoration train and test on: where to get them, and how they are laid out."""

from __future__ import annotations

from dataclasses import dataclass


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
