"""`LAFRer`: a photo in, a restored photo out. A drop-in for GFPGAN's `GFPGANer`."""

from __future__ import annotations

import logging
import math
import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from torch import nn

from lafr import faces as face_geometry
from lafr.ahead import ahead
from lafr.batching import FaceRunner
from lafr.choice import EVERY_FACE, FaceChoice, FoundFace, Wishes
from lafr.composing import Composer, to_unit_range
from lafr.detectors import Detector, build_detector
from lafr.networks import load_network, pick_device
from lafr.results import RestoredPhoto
from lafr_base.images import Photo, read_image, to_uint8

if TYPE_CHECKING:
    from lafr.background import BackgroundUpsampler
    from lafr.identity import IdentityMeter

logger = logging.getLogger(__name__)

HELD_PIXELS = 64_000_000
"""Photos waiting for a batch to fill hold at most about this many pixels (and twice the batch size of photos)."""


MAX_THREADS = 8
"""Most threads that read photos, and as many that paste them, while a GPU restores their faces."""

LARGE_FACE = 2.0
"""Faces whose crop is this many times larger than the network's size are reported: they may become less sharp."""


@dataclass
class _Pending:
    """A photo in the queue: its faces wait for the network."""

    result: RestoredPhoto
    outputs: list[np.ndarray | None]
    missing: int

    @property
    def pixels(self) -> int:
        image = self.result.input_img
        return 0 if image is None else image.shape[0] * image.shape[1]


class LAFRer:
    """Restore the faces of photos.

    Args:
        model_path: the same as `model`, where GFPGANer's callers have it; None for `model`.
        upscale: enlargement of whole photos, above 0; need not be whole.
        arch: "lafr". What the network is follows from `model`; GFPGANer's values have no meaning here.
        channel_multiplier: GFPGANer's argument; nothing but None has a meaning here.
        bg_upsampler: enlarges what is around the faces; None for Lanczos interpolation.
        device: "cpu", "cuda", ...; None or "auto" for a GPU where there is one.
        model: "mini", a folder (config.json, model.safetensors), "gfpgan:PATH", "codeformer:PATH",
            "restoreformer:PATH" or what else `lafr.methods` says, or a module that maps (B, 3, S, S) RGB in [0, 1] to
            the same and has S as `image_size`. Its attribute `weight_means` says what `weight` of `enhance` means
            for it: "tones" (the default), "network" (its forward takes it as keyword `weight`) or "none".
        detection_model: one of `lafr.detectors.DETECTORS`, or a detector.
        batch_size: faces that go through the network at once, of one photo or of several.
        precision: "auto", "fp32", "fp16" or "bf16": see `lafr.batching.FaceRunner`, as for `compiled`.
        eye_dist_threshold: faces whose eyes are closer than this many photo pixels are left alone, as in GFPGAN.
        compiled: run through torch.compile.
        identity: measure for each face whether it is still the same person; see `lafr.identity`.
        identity_threshold: figure below which a face is called changed; None for the identity net's own.

    Raises:
        ValueError: an argument that cannot be used; the message names it.
        FileNotFoundError, lafr_base.weights.WeightsError: the network's files are missing or incomplete.
    """

    def __init__(
        self,
        model_path: str | Path | None = None,
        upscale: float = 2,
        arch: str = "lafr",
        channel_multiplier: int | None = None,
        bg_upsampler: BackgroundUpsampler | None = None,
        device: str | torch.device | None = None,
        *,
        model: str | Path | nn.Module = "mini",
        detection_model: str | Detector = "auto",
        batch_size: int = 8,
        precision: str = "auto",
        eye_dist_threshold: float = 5,
        compiled: bool = False,
        identity: bool = False,
        identity_threshold: float | None = None,
    ) -> None:
        if arch != "lafr":
            raise ValueError(f"arch={arch!r}: leave arch out; model='gfpgan:PATH' runs GFPGAN's checkpoints")
        if channel_multiplier is not None:
            raise ValueError("channel_multiplier belongs to GFPGAN's StyleGAN2 decoder; leave it out")
        if model_path is not None and model != "mini":
            raise ValueError("model_path and model name the network twice; pass one of them")
        if not upscale > 0:
            raise ValueError(f"upscale must be above 0; got {upscale}")
        self.upscale = upscale
        self.device = pick_device(device)
        network = load_network(model if model_path is None else model_path, self.device)
        self.face_size = int(network.image_size)  # type: ignore[arg-type]
        self._weight_means = str(getattr(network, "weight_means", "tones"))
        self._runner = FaceRunner(network, self.device, batch_size, precision, compiled)
        if isinstance(detection_model, str):
            detection_model = build_detector(detection_model, device=str(self.device))
        self.detector: Detector = detection_model
        self.eye_dist_threshold = eye_dist_threshold
        meter: IdentityMeter | None = None
        if identity:
            from lafr.identity import IdentityMeter

            meter = IdentityMeter(self.device)
        self.composer = Composer(upscale, bg_upsampler, meter, identity_threshold)
        """Makes faces and photos of what the network gave."""
        # On a CPU the network takes what there is.
        self.threads = 1 if self.device.type == "cpu" else min(MAX_THREADS, os.cpu_count() or 1)
        """Threads that read, and as many that paste, beside the network."""
        self.face_helper = RestoredPhoto(upscale, self.face_size)
        """What is known of the photo last given to `enhance`."""

    @property
    def network(self) -> nn.Module:
        """What restores the faces, in the form in which it runs; see `lafr.batching.FaceRunner`."""
        return self._runner.network

    def enhance(
        self,
        img: np.ndarray,
        has_aligned: bool = False,
        only_center_face: bool = False,
        paste_back: bool = True,
        weight: float = 0.5,
    ) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray | None]:
        """Restore one photo.

        Args:
            img: (H, W, 3) BGR uint8 or uint16; also (H, W) gray and (H, W, 4) BGRA.
            has_aligned: the photo is one face, aligned as FFHQ is; must be square.
            only_center_face: restore only the face nearest to the photo's centre.
            paste_back: also make the whole photo.
            weight: 0 to 1, how closely faces follow the photo, as in CodeFormer: 0 is the network's result
                alone; 0.5 takes colours and shading from the photo; above, ever finer structure with its
                flaws; 1 changes nothing. See `lafr.faces.keep_tones`. For CodeFormer it is its fidelity weight w;
                GFPGAN and RestoreFormer have no such knob and are left as they are.

        Returns:
            Faces as cropped, faces as restored (each (S, S, 3) BGR), and the photo enlarged by `upscale` with the
            faces in place (None with `has_aligned` or without `paste_back`); BGRA if `img` is. Without a face
            the photo is enlarged only. All have the type of `img`; a gray photo's faces stay gray.

        Raises:
            ValueError: `img` or `weight` cannot be used.
        """
        (result,) = self.enhance_many(
            [img],
            has_aligned=has_aligned,
            only_center_face=only_center_face,
            paste_back=paste_back,
            weight=weight,
        )
        self.face_helper = result.or_raise()
        restored = result.restored_img
        if restored is not None and result.restored_alpha is not None:
            restored = np.dstack((restored, result.restored_alpha))
        return result.cropped_faces, result.restored_faces, restored

    def enhance_many(
        self,
        images: Iterable[np.ndarray | str | Path],
        *,
        has_aligned: bool = False,
        only_center_face: bool = False,
        paste_back: bool = True,
        weight: float = 0.5,
        choice: FaceChoice = EVERY_FACE,
        weights: Mapping[int, float] | None = None,
        keep_identity: bool = False,
    ) -> Iterator[RestoredPhoto]:
        """Restore photos one after the other, their faces in common batches.

        Photos are read when their turn comes, and memory is bounded by `HELD_PIXELS`, not by their number. One
        that fails gives a result with `error`; the others are not touched by it.

        Args:
            images: arrays as `enhance` takes them, or paths.
            has_aligned: see `enhance`, as for all that follow.
            only_center_face: restore one face a photo.
            paste_back: also make the whole photos.
            weight: how closely faces follow the photo; other than 0.5, it is reported where it has no effect.
            choice: which faces are restored; the others keep their pixels to the bit.
            weights: weights of single faces, by their number (left to right from 0), in place of `weight`.
            keep_identity: a face that may no longer show the same person follows the photo more closely, step by step
                until it passes, or is left as it was. Without it such faces are named in a warning.

        Yields:
            One result a photo, in the order given.

        Raises:
            ValueError: a weight is not within 0 to 1, an argument cannot be used, or the photo of `choice.like` has no
                face or cannot be read.
        """
        meter = self.composer.meter
        if meter is None and (keep_identity or choice.like is not None):
            raise ValueError("keep_identity and likeness need the identity net: leave identity=False out")
        if has_aligned and not choice.everything:
            raise ValueError("an aligned photo is one face: leave out the choice of faces")
        if choice.like is not None and meter is not None:
            least = meter.calibration.threshold if choice.min_likeness is None else choice.min_likeness
            choice = replace(choice, like=self._reference(choice.like), min_likeness=least)
        choice = replace(choice, center=True) if only_center_face else choice
        wishes = Wishes(has_aligned, paste_back and not has_aligned, weight, weights or {}, choice, keep_identity)
        if self._weight_means == "none" and {weight, *wishes.weights.values()} != {0.5}:
            logger.warning("weight %g has no effect: this network has no such knob, or its own is set", weight)
        return self._stream(images, wishes)

    def _reference(self, image: np.ndarray | str | Path) -> np.ndarray:
        """The embedding (128,) of the largest face of a photo."""
        result = self._read(image).or_raise()
        assert result.input_img is not None
        assert self.composer.meter is not None
        found = self._find(result.input_img)
        if not found:
            raise ValueError(f"{result.name}: no face was found to compare others with; pass a clearer photo")
        face = max(found, key=lambda face: face.area)
        return self.composer.meter.embed([self._cut(result.input_img, face)[0]])[0]

    def _stream(self, images: Iterable[np.ndarray | str | Path], wishes: Wishes) -> Iterator[RestoredPhoto]:
        photos: deque[_Pending] = deque()
        waiting: deque[tuple[_Pending, int]] = deque()
        finished: deque[Future[RestoredPhoto]] = deque()
        # While the network runs, the next photos are read and searched for faces, and the last ones pasted together.
        # Detectors keep a state, so that one thread has them all.
        pools = (ThreadPoolExecutor(count) for count in (self.threads, 1, self.threads))
        with next(pools) as readers, next(pools) as searcher, next(pools) as behind:
            search = partial(self._search, wishes=wishes)
            finish = partial(self._finish, wishes=wishes)
            read = ahead(readers, self._read, images, self.threads)
            for pending in ahead(searcher, search, read, 1):
                photos.append(pending)
                waiting.extend((pending, index) for index in range(pending.missing))
                held = sum(photo.pixels for photo in photos)
                full = held > HELD_PIXELS or len(photos) > 2 * self._runner.batch_size
                while len(waiting) >= (1 if full else self._runner.batch_size):
                    self._run_batch(waiting, wishes)
                while photos and not photos[0].missing:
                    finished.append(behind.submit(finish, photos.popleft()))
                while len(finished) > self.threads or (finished and finished[0].done()):
                    yield finished.popleft().result()
            while photos or finished:
                while photos and photos[0].missing:
                    self._run_batch(waiting, wishes)
                if photos:
                    finished.append(behind.submit(finish, photos.popleft()))
                if not photos or len(finished) > self.threads:
                    yield finished.popleft().result()

    def _read(self, image: np.ndarray | str | Path) -> RestoredPhoto:
        """Read; a failure is kept in the result, as by all that follow."""
        result = RestoredPhoto(self.upscale, self.face_size)
        try:
            photo = read_image(image) if isinstance(image, (str, Path)) else as_photo(image)
            result.photo, result.input_img = photo, photo.bgr
        except Exception as error:  # one bad photo must not stop the others
            _fail(result, error)
        return result

    def _search(self, result: RestoredPhoto, wishes: Wishes) -> _Pending:
        """Detect, choose and crop."""
        try:
            if result.input_img is not None and wishes.has_aligned:
                result.cropped_faces, result.numbers = [self._fit(result.input_img)], [0]
            elif result.input_img is not None:
                self._crop(result, result.input_img, wishes.choice)
        except Exception as error:
            _fail(result, error)
        count = len(result.cropped_faces)
        result.weights = [wishes.weight_of(number) for number in result.numbers]
        result.eased = [False] * count
        return _Pending(result, [None] * count, count)

    def _fit(self, face: np.ndarray) -> np.ndarray:
        height, width = face.shape[:2]
        if height != width:
            raise ValueError(f"an aligned face must be square; got {width} x {height} px")
        shrinks = height > self.face_size
        interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        return cv2.resize(face, (self.face_size, self.face_size), interpolation=interpolation)

    def _crop(self, result: RestoredPhoto, image: np.ndarray, choice: FaceChoice) -> None:
        height, width = image.shape[:2]
        result.found = self._find(image)
        crops = [self._cut(image, face) for face in result.found] if choice.like is not None else []
        if crops and self.composer.meter is not None:
            likeness = self.composer.meter.embed([crop for crop, _ in crops]) @ choice.like
            result.found = [replace(f, likeness=float(v)) for f, v in zip(result.found, likeness, strict=True)]
        result.numbers = choice.pick(result.found, width, height)
        for number in result.numbers:
            face = result.found[number]
            crop, matrix = crops[number] if crops else self._cut(image, face)
            result.det_faces.append(np.append(face.box, face.score).astype(np.float64))
            result.all_landmarks_5.append(face.landmarks)
            result.affine_matrices.append(matrix)
            side = self.face_size / math.sqrt(float(np.linalg.det(matrix[:, :2])))
            if side > LARGE_FACE * self.face_size:
                message = "%s: a face of %d px is restored at %d px and loses its finest detail"
                logger.warning(message, result.name, side, self.face_size)
            result.cropped_faces.append(crop)

    def _find(self, image: np.ndarray) -> list[FoundFace]:
        """Find the faces that are not too small, left to right."""
        if min(image.shape[:2]) <= 2 * self.eye_dist_threshold:
            return []  # smaller than the smallest face
        found = [
            FoundFace(face.box, face.landmarks, float(face.score)) for face in self.detector.detect(to_uint8(image))
        ]
        found = [f for f in found if np.linalg.norm(f.landmarks[1] - f.landmarks[0]) >= self.eye_dist_threshold]
        return sorted(found, key=lambda face: float(face.box[0] + face.box[2]))

    def _cut(self, image: np.ndarray, face: FoundFace) -> tuple[np.ndarray, np.ndarray]:
        matrix = face_geometry.align_matrix(face.landmarks, self.face_size)
        return face_geometry.warp_face(image, matrix, self.face_size), matrix

    def _run_batch(self, waiting: deque[tuple[_Pending, int]], wishes: Wishes) -> None:
        batch: list[tuple[_Pending, int]] = []
        weight = wishes.weight
        while waiting and len(batch) < self._runner.batch_size:
            own = waiting[0][0].result.weights[waiting[0][1]]
            if batch and own != weight and self._weight_means == "network":
                break  # its forward takes one weight for all
            weight = own
            pending, index = waiting.popleft()
            pending.missing -= 1
            if pending.result.error is None:
                batch.append((pending, index))
        crops = [to_unit_range(pending.result.cropped_faces[index]) for pending, index in batch]
        options = {"weight": weight} if self._weight_means == "network" else {}
        try:
            outputs: Sequence[np.ndarray | None] = self._runner([crop[..., ::-1] for crop in crops], **options)
        except Exception as error:
            for pending, _ in batch:
                _fail(pending.result, error)
            return
        for (pending, index), output in zip(batch, outputs, strict=True):
            pending.outputs[index] = None if output is None else output[..., ::-1]
            if output is None:
                _fail(pending.result, FloatingPointError("the network's result is not finite, even in fp32"))

    def _finish(self, pending: _Pending, wishes: Wishes) -> RestoredPhoto:
        result = pending.result
        if result.error is not None or result.input_img is None:
            return result
        try:
            tones = result.weights if self._weight_means == "tones" else [0.0] * len(result.weights)
            outputs = [output for output in pending.outputs if output is not None]
            self.composer.finish_faces(result, outputs, tones, wishes.keep_identity)
            if wishes.paste_back:
                self.composer.paste(result)
        except Exception as error:
            _fail(result, error)
        return result


def as_photo(image: np.ndarray) -> Photo:
    """Wrap an array given to `LAFRer.enhance`.

    Raises:
        ValueError: not a (H, W), (H, W, 3) or (H, W, 4) array of uint8 or uint16.
    """
    if not isinstance(image, np.ndarray):
        raise ValueError(f"img must be an array; got {type(image).__name__} (cv2.imread gives None for bad files)")
    if image.ndim == 2:
        image = image[..., None]
    if image.ndim != 3 or image.shape[2] not in (1, 3, 4) or not image.size:
        raise ValueError(f"img must be (H, W), (H, W, 3) or (H, W, 4); got {image.shape}")
    if image.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"img must be uint8 or uint16, BGR; got {image.dtype}")
    bgr = image[..., [0, 0, 0]] if image.shape[2] == 1 else np.ascontiguousarray(image[..., :3])
    return Photo(bgr=bgr, alpha=image[..., 3] if image.shape[2] == 4 else None, gray=image.shape[2] == 1)


def _fail(result: RestoredPhoto, error: Exception) -> None:
    logger.debug("photo failed", exc_info=error)
    result.error = result.error or error
    result.restored_faces, result.restored_img, result.restored_alpha = [], None, None
