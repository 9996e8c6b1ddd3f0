"""The way of a film's frames through a restorer: followed, restored in common batches, stabilised, put back."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from lafr.choice import EVERY_FACE, FaceChoice
from lafr.composing import EASING, LEFT
from lafr.faces import draw_box
from lafr.results import RestoredPhoto
from lafr.video.stabilising import MEMORY, Stabiliser
from lafr.video.tracking import DETECT_EVERY, Track, Tracker, pair_up
from lafr_base.geometry import align_matrix

if TYPE_CHECKING:
    from lafr.restorer import LAFRer

logger = logging.getLogger(__name__)

_T = TypeVar("_T")

FADE = 4
"""Frames in which the restoring of a face comes and goes, where it does not come and go with a scene."""

MOST_HELD = 32
"""Frames that wait for a batch of faces to fill, at most."""

KEPT_MEMORY = 0.9
"""Share of the frames before in how much of a face is kept: it must not flicker."""

MEASURE_EVERY = 12
"""Frames from one measurement of a face's identity to the next."""


@dataclass(frozen=True)
class FilmWishes:
    """What is asked for a film.

    Attributes:
        weight: how closely faces follow the film; see `lafr.LAFRer.enhance`.
        weights: of single faces, by number: faces count from 0 as they appear, those of one frame left to right.
        choice: which faces are restored. It is made anew when a face appears, and holds until the next does.
        keep_identity: a face that may no longer show the same person follows the film more closely from there on.
        stabilise: share of the frames before in each face, 0 to below 1; see `lafr.video.stabilising.MEMORY`.
        detect_every: frames from one search for faces to the next.
        draw_box: outline the faces, with their numbers.

    Raises:
        ValueError: a weight or share out of range, or no frame from search to search.
    """

    weight: float = 0.5
    weights: Mapping[int, float] = field(default_factory=dict)
    choice: FaceChoice = EVERY_FACE
    keep_identity: bool = False
    stabilise: float = MEMORY
    detect_every: int = DETECT_EVERY
    draw_box: bool = False

    def __post_init__(self) -> None:
        for weight in (self.weight, *self.weights.values()):
            if not 0 <= weight <= 1:
                raise ValueError(f"weight must be within 0 (network) to 1 (film); got {weight}")
        if not 0 <= self.stabilise < 1:
            raise ValueError(f"stabilise must be at least 0 and below 1; got {self.stabilise:g}")
        if self.detect_every < 1:
            raise ValueError(f"detect_every must be at least 1; got {self.detect_every}")


@dataclass(eq=False)
class FilmFace:
    """What is known of one face of a film.

    Attributes:
        number: see `FilmWishes.weights`.
        weight: what was asked for it.
        tone: 0 to 1, how closely it follows the film now; see `lafr.faces.keep_tones`.
        box: (4,) x0, y0, x1, y1 where it appeared, upright pixels.
        first: when it appeared, seconds.
        last: when it was last seen, seconds.
        chosen: whether it is restored.
        frames: on how many it was restored.
        kept: how much of it is the film's own, 0 to 1, averaged over frames by `KEPT_MEMORY`; see `lafr.keep`. None
            where that was never measured.
        identities: its identity figures, one for each `MEASURE_EVERY` frames.
        eased: whether its `tone` was raised to keep the identity.
        likeness: to the reference of the choice; None where there is none.
    """

    number: int
    weight: float
    tone: float
    box: tuple[float, ...]
    first: float
    last: float = 0
    chosen: bool = True
    frames: int = 0
    kept: float | None = None
    identities: list[float] = field(default_factory=list)
    eased: bool = False
    likeness: float | None = None


@dataclass
class _Shot(Generic[_T]):
    """A frame under way.

    Attributes:
        key: the caller's.
        index: of the frame, counted from 0.
        seconds: when it is shown.
        result: the frame and its faces.
        cut: whether a scene begins with it.
        faces: those that are restored, as those of `result`.
        strengths: how strongly each is restored, 0 to 1.
        tracks: number and landmarks of every face.
        numbers: faces that have appeared so far.
        warm: whether it was restored before, and is only to lead up to what follows.
    """

    key: _T
    index: int
    seconds: float
    result: RestoredPhoto
    cut: bool
    faces: list[FilmFace]
    strengths: list[float]
    tracks: list[tuple[int, list[list[float]]]]
    numbers: int
    warm: bool


class FilmRestorer:
    """Restores the frames of a film, one after the other.

    Args:
        restorer: restores the faces.
        wishes: what is asked for.

    Raises:
        ValueError: the choice's reference photo has no face, or wishes that need the identity net where there is none.
    """

    def __init__(self, restorer: LAFRer, wishes: FilmWishes) -> None:
        self._steps, self._composer = restorer.steps, restorer.composer
        meter = self._composer.meter
        if meter is None and (wishes.keep_identity or wishes.choice.like is not None):
            raise ValueError("keep_identity and likeness need the identity net: leave identity=False out")
        choice = wishes.choice
        if choice.like is not None and meter is not None:
            least = meter.calibration.threshold if choice.min_likeness is None else choice.min_likeness
            choice = replace(choice, like=self._steps.reference(choice.like), min_likeness=least)
        self._wishes = replace(wishes, choice=choice)
        self._plain = replace(self._composer, meter=None)  # identity is measured now and then, not on every frame
        self.tracker = Tracker(self._steps.find, wishes.detect_every)
        self.faces: dict[int, FilmFace] = {}
        """Every face of the film so far, by number."""
        self._yielded: _Shot[Any] | None = None
        self._index = 0
        self._resume: Mapping[str, Any] | None = None
        self._in_a_row: dict[int, int] = {}  # frames on which each face was restored without a gap
        self._stabilisers: dict[int, Stabiliser] = {}

    @property
    def state(self) -> dict[str, Any]:
        """All that has to be known after the frame that came last, to go on from there; as JSON can hold it."""
        shot = self._yielded
        if shot is None:
            return {"index": -1, "numbers": 0, "tracks": [], "faces": []}
        faces = [asdict(face) for number, face in self.faces.items() if number < shot.numbers]
        return {"index": shot.index, "numbers": shot.numbers, "tracks": shot.tracks, "faces": faces}

    def restore(
        self,
        frames: Iterable[tuple[_T, np.ndarray]],
        resume: Mapping[str, Any] | None = None,
        is_last: Callable[[_T], bool] = lambda key: True,
        seconds: Callable[[_T], float] = lambda key: 0,
    ) -> Iterator[tuple[_T, np.ndarray]]:
        """Restore frames; as many as fill a batch of faces, and `FADE` more, are held at a time.

        Args:
            frames: each with anything of its own, and its picture (H, W, 3) BGR uint8 or uint16.
            resume: the `state` of another run, to go on from. The first frames must then be the last that it yielded:
                they are restored once more, so that the faces of the next ones do not jump.
            is_last: tells of a frame's own whether it is the last of these.
            seconds: tells of a frame's own when it is shown.

        Yields:
            The same in the same order, the pictures restored.

        Raises:
            Exception: what went wrong with a frame.
        """
        self._resume = resume
        self.tracker.numbers = 0 if resume is None else resume["numbers"]
        batch: list[_Shot[_T]] = []
        for shot in _faded(self._shot(key, image, seconds(key), is_last) for key, image in frames):
            batch.append(shot)
            faces = sum(len(other.faces) for other in batch)
            if faces >= self._steps.runner.batch_size or len(batch) >= MOST_HELD:
                yield from self._finish(batch)
                batch = []
        yield from self._finish(batch)

    def _shot(self, key: _T, image: np.ndarray, seconds: float, is_last: Callable[[_T], bool]) -> _Shot[_T]:
        """Follow the faces into a frame, choose among them, and cut them out."""
        result = self._steps.read(image).or_raise()
        assert result.input_img is not None
        tracks = self.tracker.step(result.input_img)
        for track in tracks:
            self._face_of(track, seconds)
        warm = self._resume is not None
        if self._resume is not None and is_last(key):
            self._adopt(self._resume, tracks)
            self._resume = None
        if self.tracker.came:
            self._choose(tracks, result.input_img)
        restored = [place for place, track in enumerate(tracks) if self.faces[track.number].chosen]
        self._steps.take(result, [track.as_found() for track in tracks], restored)
        faces = [self.faces[tracks[place].number] for place in restored]
        step = FADE + 1 if self.tracker.cut else 1
        self._in_a_row = {face.number: self._in_a_row.get(face.number, 0) + step for face in faces}
        strengths = [min(1.0, self._in_a_row[face.number] / (FADE + 1)) for face in faces]
        landmarks = [(track.number, track.landmarks.tolist()) for track in tracks]
        numbers = self.tracker.numbers
        self._index += 1
        cut = self.tracker.cut
        return _Shot(key, self._index - 1, seconds, result, cut, faces, strengths, landmarks, numbers, warm)

    def _face_of(self, track: Track, seconds: float) -> FilmFace:
        face = self.faces.get(track.number)
        if face is None:
            weight = self._wishes.weights.get(track.number, self._wishes.weight)
            tone = weight if self._steps.weight_means == "tones" else 0.0
            box = tuple(float(value) for value in track.box)
            face = FilmFace(track.number, weight, tone, box, seconds)
            self.faces[track.number] = face
        return face

    def _adopt(self, state: Mapping[str, Any], tracks: list[Track]) -> None:
        """Give faces the numbers, and all that is known of them, that they had in the run that is gone on with."""
        self._index = state["index"]
        known = {face["number"]: FilmFace(**face) for face in state["faces"]}
        landmarks = [np.array(points) for _, points in state["tracks"]]
        pairs = dict(pair_up([track.landmarks for track in tracks], landmarks))
        number = state["numbers"]
        faces, in_a_row, stabilisers = {}, {}, {}
        for place, track in enumerate(tracks):
            face, before = self.faces[track.number], track.number
            if place in pairs:
                track.number = state["tracks"][pairs[place]][0]
                vars(face).update(vars(known[track.number]))  # frames under way have the object
            else:
                track.number = face.number = number
                number += 1
            faces[track.number] = face
            in_a_row[track.number] = self._in_a_row.get(before, 0)
            if before in self._stabilisers:
                stabilisers[track.number] = self._stabilisers[before]
        self.faces = known | faces
        self._in_a_row, self._stabilisers, self.tracker.numbers = in_a_row, stabilisers, number

    def _choose(self, tracks: list[Track], image: np.ndarray) -> None:
        """Choose among the faces of a frame; what is chosen stays so until another face appears."""
        choice, found = self._wishes.choice, [track.as_found() for track in tracks]
        if choice.like is not None:
            found = self._steps.compared(image, found, choice.like)
        numbers = choice.numbers
        named = [i for i, track in enumerate(tracks) if numbers is None or track.number in numbers]
        picked = replace(choice, numbers=None).pick([found[i] for i in named], image.shape[1], image.shape[0])
        chosen = {named[place] for place in picked}
        for place, track in enumerate(tracks):
            face = self.faces[track.number]
            face.chosen, face.likeness = place in chosen, found[place].likeness

    def _finish(self, batch: list[_Shot[_T]]) -> Iterator[tuple[_T, np.ndarray]]:
        """Restore, stabilise and put back the faces of frames."""
        outputs = self._outputs(batch)
        for shot in batch:
            result, faces = shot.result, shot.faces
            made = [outputs.popleft() for _ in faces]
            shares = [_averaged(face, share) for face, share in zip(faces, self._plain.shares(result), strict=True)]
            self._plain.finish_faces(result, made, [face.tone for face in faces], shares=shares)
            self._measure(shot, made)
            kept = self._stabilisers  # of faces that are not in this frame, nothing is kept
            self._stabilisers = {
                n: kept.get(n) or Stabiliser(self._wishes.stabilise) for n in (f.number for f in faces)
            }
            for slot, (face, strength) in enumerate(zip(faces, shot.strengths, strict=True)):
                crop = result.cropped_faces[slot]
                restored = self._stabilisers[face.number].step(crop, result.restored_faces[slot])
                result.restored_faces[slot] = _blended(crop, restored, strength)
                face.frames += not shot.warm
            self._plain.paste(result)
            assert result.restored_img is not None
            self._yielded = shot
            if not shot.warm:
                self._note(shot, result.restored_img)
            yield shot.key, result.restored_img

    def _note(self, shot: _Shot[_T], image: np.ndarray) -> None:
        """Keep when faces were seen last; outline them where that is wished for."""
        size = shot.result.face_size
        for number, landmarks in shot.tracks:
            face = self.faces[number]
            face.last = shot.seconds
            if self._wishes.draw_box:
                draw_box(image, align_matrix(np.array(landmarks), size), size, shot.result.scale, number, face.chosen)

    def _outputs(self, batch: list[_Shot[_T]]) -> deque[np.ndarray]:
        """Run the network over all faces of frames, those of one weight together."""
        slots = [(shot, slot) for shot in batch for slot in range(len(shot.faces))]
        groups: dict[float, list[int]] = {}
        for place, (shot, slot) in enumerate(slots):
            own = shot.faces[slot].weight if self._steps.weight_means == "network" else 0.0
            groups.setdefault(own, []).append(place)
        outputs: dict[int, np.ndarray] = {}
        for weight, places in groups.items():
            found = self._steps.restore([(slots[p][0].result, slots[p][1]) for p in places], weight)
            for place, output in zip(places, found, strict=True):
                if output is None:
                    slots[place][0].result.or_raise()
                else:
                    outputs[place] = output
        return deque(outputs[place] for place in range(len(slots)))

    def _measure(self, shot: _Shot[_T], outputs: list[np.ndarray]) -> None:
        """Measure the identity of the faces whose turn it is; ease those that may show somebody else."""
        meter, result = self._composer.meter, shot.result
        if meter is None:
            return
        for slot, face in enumerate(shot.faces):
            if shot.warm or face.frames % MEASURE_EVERY:
                continue
            crop = result.cropped_faces[slot]
            (figure,) = meter.compare([crop], [result.restored_faces[slot]])
            least = self._composer.least_identity
            if figure < least and self._wishes.keep_identity:
                for tone in [*(t for t in EASING if t > face.tone), LEFT]:
                    matrices = [result.affine_matrices[slot]]
                    one = replace(
                        result, cropped_faces=[crop], affine_matrices=matrices, numbers=[result.numbers[slot]]
                    )
                    self._plain.finish_faces(one, [outputs[slot]], [tone], shares=[face.kept])
                    (figure,) = meter.compare([crop], one.restored_faces)
                    if figure >= least or tone >= LEFT:
                        break
                face.tone, face.eased = tone, True
                result.tones[slot], result.restored_faces[slot] = tone, one.restored_faces[0]
                result.kept[slot] = one.kept[0]
                logger.info("face %d is eased to weight %g, to stay the same person", face.number, tone)
            elif figure < least and not any(known < least for known in face.identities):
                message = "face %d may no longer show the same person: identity %.2f, below %.2f"
                logger.warning(message, face.number, figure, least)
            face.identities.append(figure)


def _averaged(face: FilmFace, share: float | None) -> float | None:
    """Take in how much of a face is to be kept on the next frame; return it without flicker."""
    if share is not None:
        face.kept = share if face.kept is None else KEPT_MEMORY * face.kept + (1 - KEPT_MEMORY) * share
    return face.kept


def _faded(shots: Iterable[_Shot[_T]]) -> Iterator[_Shot[_T]]:
    """Weaken faces that are about to go, so that they do not go at once; at a cut they do."""
    held: deque[_Shot[_T]] = deque()
    for shot in shots:
        if held and not shot.cut:
            gone = [face for face in held[-1].faces if face not in shot.faces]
            for back, earlier in enumerate(reversed(held)):
                for slot, face in enumerate(earlier.faces):
                    if face in gone:
                        earlier.strengths[slot] = min(earlier.strengths[slot], (back + 1) / (FADE + 1))
        held.append(shot)
        if len(held) > FADE:
            yield held.popleft()
    yield from held


def _blended(crop: np.ndarray, face: np.ndarray, strength: float) -> np.ndarray:
    """Return what lies between a crop (strength 0) and its restored face (1)."""
    if strength >= 1:
        return face
    mixed = crop + np.float32(strength) * (face.astype(np.float32) - crop)
    return np.rint(mixed).astype(face.dtype)
