"""The folder of a comparison: results, and records of what they were made of, so that a run can continue.

    OUT/NAME/STEM.png             what a method made of an input: a whole photo, or an aligned face
    OUT/NAME/faces/STEM_00.png    its faces as they are measured, all of one size
    OUT/lq/faces, OUT/hq/faces    the same faces in the inputs and in the references
    OUT/.cache/                   records; deleting it makes the next run start anew

Every file is written whole or not at all, an input's record last: where the record is there, all is.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lafr_base.files import digest, read_json, write_json
from lafr_base.images import ImageError, write_image
from lafr_studies.comparison.inputs import Input

LQ, HQ = "lq", "hq"
"""Folders of the inputs' and the references' faces; no method can have these names."""


class Store:
    """Results and records under one folder.

    Args:
        out: the folder; made where missing.

    Raises:
        ImageError: it cannot be made.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self.cache = out / ".cache"
        try:
            self.cache.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ImageError(f"{out}: cannot be written ({error.strerror or error}); choose another --out") from error

    def result_path(self, method: str, item: Input) -> Path:
        """Where a method's result for an input lies."""
        return self.out / method / f"{item.name}.png"

    def face_paths(self, method: str, item: Input) -> list[Path]:
        """Where the measured faces of a method's result lie."""
        return [self.out / method / "faces" / f"{name}.png" for name in item.face_names()]

    def record_path(self, method: str, item: Input) -> Path:
        """Where it is recorded what the result was made of."""
        return self.cache / method / f"{item.name}.json"

    def record(self, method: str, item: Input, key: str) -> dict[str, Any] | None:
        """Return the record of an input that is done: its key is the one given, and its files are there."""
        record = read_json(self.record_path(method, item))
        if record.get("key") != key:
            return None
        files = self.face_paths(method, item)
        if record.get("result"):
            files.append(self.result_path(method, item))
        return record if all(path.is_file() for path in files) else None

    def forget(self, method: str, item: Input) -> None:
        """Delete what is there of an input, the record first: it is about to be made anew."""
        for path in (self.record_path(method, item), self.result_path(method, item), *self.face_paths(method, item)):
            path.unlink(missing_ok=True)

    def save(self, method: str, item: Input, key: str, faces: Sequence[np.ndarray], **values: Any) -> dict[str, Any]:
        """Write the faces of an input and then its record.

        Args:
            method: name of the method.
            item: the input.
            key: digest of all that the result depends on.
            faces: (S, S, 3) BGR uint8, one for each of the input's faces.
            values: more to record; ``result`` says that `result_path` was written.

        Returns:
            The record: `values`, ``key``, and ``digests``, one of each face's pixels.
        """
        for path, face in zip(self.face_paths(method, item), faces, strict=True):
            write_image(path, face)
        record = {**values, "key": key, "digests": [digest(np.ascontiguousarray(face).tobytes()) for face in faces]}
        write_json(self.record_path(method, item), record)
        return record
