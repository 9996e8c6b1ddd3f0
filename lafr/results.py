"""What a restored photo is, and how its files are written. Needs no PyTorch.

Every file is written whole or not at all, and a photo's last file when all others are there: where that is, all is.
"""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from glob import escape
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np

from lafr.choice import FoundFace
from lafr.faces import draw_box
from lafr_base.files import shown
from lafr_base.geometry import align_matrix
from lafr_base.images import MAX_SIDE, OUTPUT_SUFFIXES, DiskError, Photo, write_image

_T = TypeVar("_T")

_MOST_FACES = 1000  # of a photo, when its results are removed
_SUFFIXES = {"JPEG": ".jpg", "MPO": ".jpg", "PNG": ".png", "WEBP": ".webp"}

FACE_FOLDERS = ("cropped_faces", "cmp", "restored_faces")
"""Folders with one file a face, in the order of writing: as cropped, both side by side, as restored."""


@dataclass
class RestoredPhoto:
    """All that is known of one photo: the names are those that callers of `GFPGANer.face_helper` use.

    Lists have one entry a restored face, faces from left to right; `found` has those that were not chosen, too.

    Attributes:
        input_img: (H, W, 3) BGR uint8 or uint16, or None where the photo could not be read.
        upscale_factor: enlargement asked for.
        face_size: side of the crops in pixels.
        det_faces: (5,) float: x0, y0, x1, y1 in photo pixels, score.
        all_landmarks_5: (5, 2) photo pixels.
        affine_matrices: (2, 3), photo pixels to crop pixels.
        cropped_faces: (S, S, 3) BGR of the photo's type, what the network saw.
        restored_faces: (S, S, 3) BGR of the photo's type; where intact faces are kept, that of an aligned photo
            larger than S has the photo's size.
        found: every face of the photo, left to right. A face's number is its place here.
        numbers: places of the restored faces in `found`; 0 for an aligned face. Empty stands for 0, 1, ...
        weights: what was asked for each face; see `lafr.LAFRer.enhance`.
        tones: 0 to 1, how closely each face follows the photo, after easing; 1 where it was left as it was.
        eased: whether its `tones` were raised to keep the identity.
        kept: how much of each face is the photo's own, 0 to 1; None where that was not asked, where the face is left as
            it was, and where it is too small to tell.
        identities: figure of the identity net for each face before and after; empty where it was not measured. See
            `lafr.identity.Calibration`.
        restored_img: (H * upscale, W * upscale, 3) BGR of the photo's type, or None where none was asked for.
        restored_alpha: (H * upscale, W * upscale) or None.
        photo: the photo as read, with its metadata.
        output: the file of the whole photo, or of an aligned photo's face, once it is written.
        error: why this photo was not restored, or None.
    """

    upscale_factor: float
    face_size: int
    input_img: np.ndarray | None = None
    det_faces: list[np.ndarray] = field(default_factory=list)
    all_landmarks_5: list[np.ndarray] = field(default_factory=list)
    affine_matrices: list[np.ndarray] = field(default_factory=list)
    cropped_faces: list[np.ndarray] = field(default_factory=list)
    restored_faces: list[np.ndarray] = field(default_factory=list)
    found: list[FoundFace] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    tones: list[float] = field(default_factory=list)
    eased: list[bool] = field(default_factory=list)
    kept: list[float | None] = field(default_factory=list)
    identities: list[float] = field(default_factory=list)
    restored_img: np.ndarray | None = None
    restored_alpha: np.ndarray | None = None
    photo: Photo | None = None
    output: Path | None = None
    error: Exception | None = None

    def or_raise(self) -> RestoredPhoto:
        """Return the photo itself; raise its `error` where it has one."""
        if self.error is not None:
            raise self.error
        return self

    @property
    def name(self) -> str:
        """What a message calls the photo."""
        return str(self.photo.path) if self.photo is not None and self.photo.path else "a photo"

    @property
    def scale(self) -> tuple[float, float]:
        """Exact enlargement in x and y: whole pixels make it differ a little from `upscale_factor`."""
        if self.input_img is None or self.restored_img is None:
            return self.upscale_factor, self.upscale_factor
        height, width = self.input_img.shape[:2]
        return self.restored_img.shape[1] / width, self.restored_img.shape[0] / height


@dataclass(frozen=True)
class ResultFolder:
    """The folder that results are written to, and what is written.

    A photo's name may have folders in it; they are kept below each of the result's folders.

    Attributes:
        out: the folder.
        aligned: the photos are aligned faces, which have no whole photo.
        suffix: appended to the names of restored faces and photos: NAME_SUFFIX.png.
        ext: format of whole photos: jpg, png, webp, or auto for the input's where it can hold the result, else png.
        draw_box: outline the restored faces in the whole photos.
        face_folders: those of `FACE_FOLDERS` that are written; of aligned faces restored_faces always is.
        unfinished: folder for files that are being written; None for beside the results.

    Raises:
        ValueError: `suffix` would put results into another folder, or is no text.
    """

    out: Path
    aligned: bool = False
    suffix: str = ""
    ext: str = "auto"
    draw_box: bool = False
    face_folders: tuple[str, ...] = FACE_FOLDERS
    unfinished: Path | None = None

    def __post_init__(self) -> None:
        if set(self.suffix) & {"/", "\\", os.sep} or shown(self.suffix) != self.suffix:
            raise ValueError(f"--suffix must be a part of a file's name; got {shown(self.suffix)!r}")

    def write(self, path: Path, name: str, result: RestoredPhoto) -> None:
        """Write a photo's faces, then the photo: when that is there, all is there.

        Args:
            path: the photo's file, whose format `auto` keeps.
            name: name of the results, without a suffix.
            result: of the restorer; its `error` is None. Its `output` is set.

        Raises:
            ImageError: a file cannot be written.
        """
        photo = result.photo
        profile = photo.icc_profile if photo is not None else None
        numbers = result.numbers or range(len(result.restored_faces))
        for index, crop, face in zip(numbers, result.cropped_faces, result.restored_faces, strict=True):
            if "cropped_faces" in self.face_folders:
                self._put(self._face_path("cropped_faces", name, index), crop, icc_profile=profile)
            if "cmp" in self.face_folders:
                self._put(self._face_path("cmp", name, index), _side_by_side(crop, face), icc_profile=profile)
            if self.aligned or "restored_faces" in self.face_folders:
                file = self._put(self._face_path("restored_faces", name, index), face, icc_profile=profile)
                result.output = file if self.aligned else None
        image = result.restored_img
        if image is None or photo is None:
            return
        if self.draw_box:
            for number, found in enumerate(result.found):
                matrix = align_matrix(found.landmarks, result.face_size)
                draw_box(image, matrix, result.face_size, result.scale, number, number in result.numbers)
        result.output = self._put(
            self.out / "restored_imgs" / f"{name}{self._tail}{self._extension(path, photo, image)}",
            image,
            alpha=result.restored_alpha,
            gray=photo.gray,
            icc_profile=profile,
            exif=photo.exif,
        )

    def _put(self, path: Path, image: np.ndarray, **options: Any) -> Path:
        return write_image(path, image, unfinished=self.unfinished, **options)

    def last(self, name: str) -> Path | None:
        """Return the last file of a photo, the newest of several; None where it is not there, or not all others."""
        files = (path for path in self._last(name) if path.is_file())
        return max(files, key=lambda path: path.stat().st_mtime_ns, default=None)

    def remove(self, name: str) -> None:
        """Remove the results of a photo, the last file first, so that no rest is taken for the whole.

        Raises:
            DiskError: a file cannot be removed.
        """
        faces = [self._face_path(folder, name, index) for folder in FACE_FOLDERS for index in range(_MOST_FACES)]
        for path in [*self._last(name), *faces]:
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise DiskError(f"{shown(path)}: cannot be removed ({error.strerror or error})") from error

    def _last(self, name: str) -> list[Path]:
        """Return the files of which one is a photo's last."""
        if self.aligned:
            return [self._face_path("restored_faces", name, 0)]
        suffixes = OUTPUT_SUFFIXES if self.ext == "auto" else (f".{self.ext}",)
        return [self.out / "restored_imgs" / f"{name}{self._tail}{suffix}" for suffix in suffixes]

    def relative(self, path: Path) -> str:
        """Return a result's path below the folder, with forward slashes."""
        return path.relative_to(self.out).as_posix()

    def count_faces(self, name: str) -> int | None:
        """Return how many faces of a photo have files, 100 at most; None where no files of faces are written."""
        folder = "restored_faces" if self.aligned else next(iter(self.face_folders), None)
        if folder is None:
            return None
        first = self._face_path(folder, name, 0)
        tail = first.name.removeprefix(f"{Path(name).name}_00")
        return sum(1 for _ in first.parent.glob(f"{escape(Path(name).name)}_[0-9][0-9]{escape(tail)}"))

    def _face_path(self, folder: str, name: str, index: int) -> Path:
        tail = self._tail if folder == "restored_faces" else ""
        return self.out / folder / f"{name}_{index:02d}{tail}.png"

    @property
    def _tail(self) -> str:
        return f"_{self.suffix}" if self.suffix else ""

    def _extension(self, path: Path, photo: Photo, image: np.ndarray) -> str:
        if self.ext != "auto":
            return f".{self.ext}"
        suffix = path.suffix.lower() or _SUFFIXES.get(photo.format, "")
        fits = max(image.shape[:2]) <= MAX_SIDE.get(suffix, max(image.shape[:2]))
        return suffix if suffix in OUTPUT_SUFFIXES and fits else ".png"


def output_names(paths: Sequence[Path], keep_folders: bool = False) -> dict[Path, str]:
    """Return the name of each photo's results: its stem, with the suffix where two photos share the stem.

    Case is ignored, as some file systems do: a.jpg and A.png become a_jpg and A_png.

    Args:
        paths: the photos.
        keep_folders: names begin with the photos' folders.
    """

    def stem(path: Path) -> str:
        return os.path.splitext(path.as_posix())[0] if keep_folders else path.stem

    stems = Counter(stem(path).lower() for path in paths)
    unique = {stem for stem, count in stems.items() if count == 1}
    names: dict[Path, str] = {}
    taken = set(unique)
    for path in paths:
        name = stem(path)
        if name.lower() not in unique:
            base = name = f"{name}_{path.suffix[1:]}"
            number = 2
            while name.lower() in taken:
                name = f"{base}_{number}"
                number += 1
            taken.add(name.lower())
        names[path] = name
    return names


def write_behind(
    results: Iterable[tuple[_T, RestoredPhoto]], write: Callable[[_T, RestoredPhoto], None], threads: int = 1
) -> Iterator[tuple[_T, RestoredPhoto, Exception | None]]:
    """Write results while the next ones are made.

    Args:
        results: each with its name or whatever else `write` needs; those with an `error` are not written.
        write: called in a thread.
        threads: results that are written at once. Twice as many are held at most.

    Yields:
        Name, result and what writing raised: in the order given, each when all its files are there.
    """
    held: deque[tuple[_T, RestoredPhoto, Future[None] | None]] = deque()

    def first() -> tuple[_T, RestoredPhoto, Exception | None]:
        name, result, writing = held.popleft()
        error = None if writing is None else writing.exception()
        if error is not None and not isinstance(error, Exception):
            raise error
        return name, result, error

    with ThreadPoolExecutor(threads) as pool:
        for name, result in results:
            held.append((name, result, None if result.error else pool.submit(write, name, result)))
            while len(held) > 2 * threads or (held and (held[0][2] is None or held[0][2].done())):
                yield first()
        while held:
            yield first()


def _side_by_side(crop: np.ndarray, face: np.ndarray) -> np.ndarray:
    """Join a face before and after; the first is enlarged where the second is larger."""
    if crop.shape != face.shape:
        crop = cv2.resize(crop, face.shape[1::-1], interpolation=cv2.INTER_CUBIC)
    return np.hstack((crop, face))
