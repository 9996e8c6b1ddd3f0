"""Which of a photo's faces are restored, and how strongly each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class FoundFace:
    """A face of a photo, whether it is restored or not. Coordinates are photo pixels.

    Attributes:
        box: (4,) x0, y0, x1, y1; may reach beyond the photo.
        landmarks: (5, 2) eyes, nose, mouth corners, image-left first.
        score: the detector's confidence, 0 to 1.
        likeness: figure of the identity net against the reference of `FaceChoice.like`; None where there is none.
    """

    box: np.ndarray
    landmarks: np.ndarray
    score: float
    likeness: float | None = None

    @property
    def size(self) -> float:
        """The box's shorter side in pixels."""
        return float(min(self.box[2] - self.box[0], self.box[3] - self.box[1]))

    @property
    def area(self) -> float:
        """The box's area in square pixels."""
        return float((self.box[2] - self.box[0]) * (self.box[3] - self.box[1]))

    @property
    def center(self) -> np.ndarray:
        """The box's centre (2,): x, y."""
        return (self.box[:2] + self.box[2:]) / 2


@dataclass(frozen=True)
class FaceChoice:
    """Which faces are restored: those that meet every condition given. The default takes all.

    Attributes:
        numbers: faces by their number, counted from 0, left to right; None for any. Numbers that a photo does not
            have are passed over.
        largest: of the faces that meet the other conditions, so many of the largest; None for any.
        min_size: least side of a face's box, photo pixels.
        box: x0, y0, x1, y1 in photo pixels, where the centre of a face's box must lie; None for anywhere.
        min_score: least confidence of the detector, 0 to 1.
        like: a photo, as a file or as an array that `lafr.LAFRer` takes, whose largest face the faces must be like;
            None for anybody.
        min_likeness: least figure of the identity net against `like`; None for the net's own threshold.
        center: of the faces that are left, only the one nearest to the photo's centre.

    Raises:
        ValueError: a condition that no face could meet; the message names it.
    """

    numbers: frozenset[int] | None = None
    largest: int | None = None
    min_size: float = 0
    box: tuple[float, float, float, float] | None = None
    min_score: float = 0
    like: str | Path | np.ndarray | None = field(default=None, compare=False)
    min_likeness: float | None = None
    center: bool = False

    def __post_init__(self) -> None:
        if self.numbers is not None and any(number < 0 for number in self.numbers):
            raise ValueError(f"faces: numbers count from 0; got {min(self.numbers)}")
        if self.largest is not None and self.largest < 1:
            raise ValueError(f"largest: must be at least 1; got {self.largest}")
        if self.box is not None and not (self.box[0] < self.box[2] and self.box[1] < self.box[3]):
            raise ValueError(f"box: must be x0, y0, x1, y1 with x0 < x1 and y0 < y1; got {self.box}")
        if not 0 <= self.min_score <= 1:
            raise ValueError(f"min_score: must be within 0 to 1; got {self.min_score:g}")

    @property
    def everything(self) -> bool:
        """Whether no condition is set."""
        return self == EVERY_FACE and self.like is None

    def pick(self, faces: Sequence[FoundFace], width: int, height: int) -> list[int]:
        """Return the numbers of the faces that are restored, ascending.

        Args:
            faces: all of the photo, left to right.
            width: of the photo in pixels.
            height: of the photo in pixels.
        """
        picked = [number for number, face in enumerate(faces) if self._meets(number, face)]
        if self.largest is not None:
            picked = sorted(sorted(picked, key=lambda number: -faces[number].area)[: self.largest])
        if self.center and picked:
            middle = np.array([width, height]) / 2
            picked = [min(picked, key=lambda number: float(np.linalg.norm(faces[number].center - middle)))]
        return picked

    def _meets(self, number: int, face: FoundFace) -> bool:
        if self.numbers is not None and number not in self.numbers:
            return False
        if face.size < self.min_size or face.score < self.min_score:
            return False
        if self.box is not None:
            (x, y), (x0, y0, x1, y1) = face.center, self.box
            if not (x0 <= x <= x1 and y0 <= y <= y1):
                return False
        return self.like is None or face.likeness is None or face.likeness >= (self.min_likeness or 0)


EVERY_FACE = FaceChoice()
"""No condition."""


@dataclass(frozen=True)
class Wishes:
    """What is asked for every photo of a run; `lafr.LAFRer.enhance_many` says what each means."""

    has_aligned: bool = False
    paste_back: bool = True
    weight: float = 0.5
    weights: Mapping[int, float] = field(default_factory=dict)
    choice: FaceChoice = EVERY_FACE
    keep_identity: bool = False

    def __post_init__(self) -> None:
        for weight in (self.weight, *self.weights.values()):
            if not 0 <= weight <= 1:
                raise ValueError(f"weight must be within 0 (network) to 1 (photo); got {weight}")

    def weight_of(self, number: int) -> float:
        """Return the weight of a face: its own where it has one."""
        return self.weights.get(number, self.weight)
