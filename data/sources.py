"""Where face images are read from: a folder or an LMDB in BasicSR's layout; subsets; cache in memory."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import cv2
import lmdb
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from lafr_base.images import ImageError, decode_image
from lafr_base.option_map import OptionMap

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff"})


class ImageSource(Protocol):
    """Named images in a fixed order."""

    keys: list[str]
    """Names without suffix, sorted; folders are separated by ``/``."""

    def path(self, index: int) -> str:
        """Return what a message or a saved picture calls the image."""

    def encoded(self, index: int) -> bytes:
        """Return the bytes of the image file."""


class ImageFolder:
    """The image files below a folder, sorted by name; files of other kinds are passed over.

    Args:
        root: the folder; images are looked for at any depth.
        option: name of the option that gave ``root``, for messages.

    Raises:
        FileNotFoundError: the folder is missing or holds no image.
    """

    def __init__(self, root: Path, option: str) -> None:
        if not root.is_dir():
            raise FileNotFoundError(f"{option}: {root} is not a folder")
        files = [p for p in root.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file()]
        if not files:
            kinds = " ".join(sorted(IMAGE_SUFFIXES))
            raise FileNotFoundError(f"{option}: {root} holds no image file ({kinds})")
        named = sorted((p.relative_to(root).with_suffix("").as_posix(), p) for p in files)
        self.keys = [key for key, _ in named]
        self._files = [file for _, file in named]

    def path(self, index: int) -> str:
        """Return the file's path."""
        return str(self._files[index])

    def encoded(self, index: int) -> bytes:
        """Return the file's bytes."""
        return self._files[index].read_bytes()


class ImageLmdb:
    """The images of an LMDB in the layout of ``basicsr.utils.lmdb_util``.

    The keys carry no suffix; ``meta_info.txt`` lists them.

    Args:
        root: folder that ends in ``.lmdb``.
        option: name of the option that gave ``root``, for messages.

    Raises:
        FileNotFoundError: ``meta_info.txt`` or the database is missing, or lists nothing.
        ValueError: a line of ``meta_info.txt`` cannot be read.
    """

    _LINE = re.compile(r"(?P<key>.+?)(\.\w+)? \([\d, ]+\) \d+")

    def __init__(self, root: Path, option: str) -> None:
        meta = root / "meta_info.txt"
        for file in (meta, root / "data.mdb"):
            if not file.is_file():
                raise FileNotFoundError(f"{option}: {file} is missing; make it with basicsr.utils.lmdb_util")
        keys = []
        for number, line in enumerate(meta.read_text(encoding="utf-8").splitlines(), start=1):
            match = self._LINE.fullmatch(line.strip())
            if match is None:
                raise ValueError(f"{option}: {meta}, line {number}: `{line}` is not `KEY.png (H,W,C) LEVEL`")
            keys.append(match["key"])
        if not keys:
            raise FileNotFoundError(f"{option}: {meta} lists no image")
        self.keys = sorted(keys)
        self._root = root.resolve()
        self._option = option

    def path(self, index: int) -> str:
        """Return ``ROOT.lmdb/KEY``."""
        return f"{self._root}/{self.keys[index]}"

    def encoded(self, index: int) -> bytes:
        """Return the bytes stored under the key.

        Raises:
            FileNotFoundError: ``meta_info.txt`` lists a key that the database lacks.
        """
        with _environment(str(self._root)).begin(write=False) as transaction:
            value = transaction.get(self.keys[index].encode("utf-8"))
        if value is None:
            raise FileNotFoundError(f"{self._option}: {self._root} has no key `{self.keys[index]}`")
        return bytes(value)


_environments: dict[str, tuple[int, lmdb.Environment]] = {}


def _environment(root: str) -> lmdb.Environment:
    """Return this process's one environment of ``root``: LMDB allows no second, and none inherited by fork."""
    process, environment = _environments.get(root, (-1, None))
    if environment is None or process != os.getpid():
        if environment is not None:
            environment.close()
        environment = lmdb.open(root, readonly=True, lock=False, readahead=False)
        _environments[root] = (os.getpid(), environment)
    return environment


def open_source(options: OptionMap, option: str) -> ImageSource:
    """Open the images that ``option`` points to.

    ``io_backend: {type: disk}`` or ``{type: lmdb}`` says how; the default goes by the path's end.

    Raises:
        FileNotFoundError: there are no images there.
        ValueError: the backend is unknown or does not fit the path.
    """
    root = Path(str(options.require(option))).expanduser()
    is_lmdb = root.suffix == ".lmdb"
    backend = options.get("io_backend", "lmdb" if is_lmdb else "disk")
    if isinstance(backend, Mapping):
        backend = backend.get("type")
    if backend not in ("disk", "lmdb"):
        raise ValueError(f"io_backend: type: {backend} is unknown; choose disk or lmdb")
    if (backend == "lmdb") != is_lmdb:
        raise ValueError(f"{option}: {root} does not fit io_backend: type: {backend} (lmdb folders end in .lmdb)")
    return ImageLmdb(root, option) if is_lmdb else ImageFolder(root, option)


def choose(keys: list[str], count: int | None, seed: int) -> list[int]:
    """Choose ``count`` of the keys at random; the choice depends on the keys and the seed alone.

    With one seed a smaller choice is part of every larger one, and no key's rank depends on the others.

    Returns:
        Ascending positions in ``keys``; all of them for ``count`` None.

    Raises:
        ValueError: there are fewer keys than ``count``.
    """
    if count is None:
        return list(range(len(keys)))
    if count > len(keys):
        raise ValueError(f"n_images: {count} is more than the {len(keys)} images there are")
    rank = [hashlib.sha256(f"{seed}:{key}".encode()).digest() for key in keys]
    return sorted(sorted(range(len(keys)), key=rank.__getitem__)[:count])


def decode(encoded: bytes, name: str) -> NDArray[Any]:
    """Decode an image file's bytes to RGB, (H, W, 3) uint8.

    Gray becomes RGB, alpha is dropped, the EXIF orientation is obeyed.

    Raises:
        ValueError: it is not an image OpenCV can read; the message names it.
    """
    # OpenCV's own threads only get in each other's way when several workers decode at once.
    if get_worker_info() is not None and cv2.getNumThreads() > 1:
        cv2.setNumThreads(0)
    image = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR) if encoded else None
    if image is None:
        raise ValueError(f"{name} cannot be read as an image; remove or replace the file")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def fit(image: NDArray[Any], size: int | None) -> NDArray[Any]:
    """Return the central square of an image at ``size`` x ``size``: area average to shrink, cubic to enlarge.

    ``size`` None leaves the image as it is.
    """
    height, width = image.shape[:2]
    if size is None or (height, width) == (size, size):
        return image
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = image[top : top + side, left : left + side]
    interpolation = cv2.INTER_AREA if side > size else cv2.INTER_CUBIC
    return cv2.resize(square, (size, size), interpolation=interpolation)


class FaceImages:
    """The faces a dataset draws from: a source, the chosen subset, one size, and a cache if wanted.

    Options read: ``n_images`` and ``n_images_seed`` (default all, 0), ``cache`` (default false), ``check_images``
    (default true; whether a check before a run looks for broken ones).

    Args:
        options: the dataset's options.
        option: name of the option that points to the images.
        size: side in pixels of what :meth:`image` returns; None keeps each file's.
    """

    def __init__(self, options: OptionMap, option: str, size: int | None) -> None:
        self._source = open_source(options, option)
        seed = options.integer("n_images_seed", default=0, minimum=0)
        self._positions = choose(self._source.keys, options.optional_integer("n_images"), seed)
        self._size = size
        self._check = options.flag("check_images", True)
        # Held by the dataset before its workers are forked, so that they share one copy.
        self._cache: list[NDArray[Any]] | None = None
        if options.flag("cache"):
            self._cache = [self._read(index) for index in range(len(self))]

    def __len__(self) -> int:
        """Return the number of faces."""
        return len(self._positions)

    @property
    def all_keys(self) -> list[str]:
        """Names without suffix of everything in the source, subset or not, sorted."""
        return self._source.keys

    def key(self, index: int) -> str:
        """Return the image's name without suffix."""
        return self._source.keys[self._positions[index]]

    def path(self, index: int) -> str:
        """Return what a message calls the image."""
        return self._source.path(self._positions[index])

    def image(self, index: int) -> NDArray[Any]:
        """Return face ``index``, RGB (H, W, 3), float32 in [0, 1], the caller's to change.

        Raises:
            ValueError: the file cannot be read; the message names it.
        """
        pixels = self._read(index) if self._cache is None else self._cache[index]
        return pixels.astype(np.float32) / 255

    def broken(self) -> list[str]:
        """Return the paths of the chosen images that cannot be read whole; reads them all, unless told not to."""
        if not self._check:
            return []
        with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
            whole = list(pool.map(self._is_whole, range(len(self))))
        return [self.path(index) for index, good in enumerate(whole) if not good]

    def _is_whole(self, index: int) -> bool:
        try:
            # OpenCV, which reads them later, decodes what there is of a file that was cut off without a word.
            return decode_image(self._source.encoded(self._positions[index]), self.path(index)).damage is None
        except ImageError:
            return False

    def _read(self, index: int) -> NDArray[Any]:
        encoded = self._source.encoded(self._positions[index])
        return fit(decode(encoded, self.path(index)), self._size)


class FaceDataset(Dataset[dict[str, Any]]):
    """Base of the datasets that read faces.

    Attributes:
        sources: where they are read from.
        items_per_photo: items that each image of the first source gives.
    """

    sources: tuple[FaceImages, ...]
    items_per_photo: int = 1

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self.sources[0]) * self.items_per_photo

    def broken_images(self) -> list[str]:
        """Return the paths of the images that cannot be read whole; they are read for it."""
        return [path for source in self.sources for path in source.broken()]


def to_tensor(image: NDArray[Any]) -> Tensor:
    """Turn (H, W, 3) into a contiguous tensor (3, H, W) of the same values."""
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
