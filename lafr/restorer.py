"""`LAFRer`: a photo in, a restored photo out. A drop-in for GFPGAN's `GFPGANer`."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from lafr import pipeline
from lafr.batching import FaceRunner
from lafr.choice import EVERY_FACE, FaceChoice, Wishes
from lafr.composing import Composer
from lafr.detectors import Detector, build_detector
from lafr.networks import load_network, pick_device
from lafr.results import RestoredPhoto
from lafr.steps import PhotoSteps

if TYPE_CHECKING:
    from lafr.background import BackgroundUpsampler
    from lafr.identity import IdentityMeter

logger = logging.getLogger(__name__)

MAX_THREADS = 8
"""Most threads that read photos, and as many that paste them, while a GPU restores their faces."""


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
            the same and has S as `image_size`. What else a module may offer is said by
            `lafr_arch.restoring.RestoringNetwork`, what `weight` of `enhance` means for it, for one.
        detection_model: one of `lafr.detectors.names()`, or a detector.
        detection_threshold: least confidence, 0 to 1, of what is taken for a face: lower finds more faces and more that
            are none; None for the detector's own. Not for a detector passed as `detection_model`, which has one.
        batch_size: faces that go through the network at once, of one photo or of several.
        precision: "auto", "fp32", "fp16" or "bf16": see `lafr.batching.FaceRunner`, as for `compiled`.
        engine: what runs the network: "auto" (the fastest there is), "torch", "kernels", "openvino" or "onnxruntime";
            see `lafr_arch.engines`.
        eye_dist_threshold: faces whose eyes are closer than this many photo pixels are left alone, as in GFPGAN.
        compiled: run through torch.compile.
        identity: measure for each face whether it is still the same person; see `lafr.identity`.
        identity_threshold: figure below which a face is called changed; None for the identity net's own.
        keep_intact: keep faces that are intact, as measured from the photo, and give none colour that its photo lacks;
            see `lafr.keep`. False is for comparing networks.

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
        detection_threshold: float | None = None,
        batch_size: int = 8,
        precision: str = "auto",
        eye_dist_threshold: float = 5,
        compiled: bool = False,
        engine: str = "auto",
        identity: bool = True,
        identity_threshold: float | None = None,
        keep_intact: bool = True,
    ) -> None:
        if arch != "lafr":
            raise ValueError(f"arch={arch!r}: leave arch out; model='gfpgan:PATH' runs GFPGAN's checkpoints")
        if channel_multiplier is not None:
            raise ValueError("channel_multiplier belongs to GFPGAN's StyleGAN2 decoder; leave it out")
        if model_path is not None and model != "mini":
            raise ValueError("model_path and model name the network twice; pass one of them")
        if not 0 < upscale < math.inf:
            raise ValueError(f"upscale must be above 0 and finite; got {upscale}")
        self.upscale = upscale
        self.device = pick_device(device)
        network = load_network(model if model_path is None else model_path, self.device)
        self.face_size = network.image_size
        runner = FaceRunner(network, self.device, batch_size, precision, compiled, engine)
        if isinstance(detection_model, str):
            detection_model = build_detector(detection_model, str(self.device), detection_threshold)
        elif detection_threshold is not None:
            raise ValueError("detection_threshold: set it in the detector that is passed as detection_model")
        meter: IdentityMeter | None = None
        if identity:
            from lafr.identity import IdentityMeter

            meter = IdentityMeter(self.device)
        self.composer = Composer(upscale, bg_upsampler, meter, identity_threshold, keep_intact)
        """Makes faces and photos of what the network gave."""
        self.steps = PhotoSteps(
            runner, detection_model, self.composer, self.face_size, network.weight_means, eye_dist_threshold
        )
        """What is done with each photo."""
        # On a CPU the network takes what there is.
        self.threads = 1 if self.device.type == "cpu" else min(MAX_THREADS, os.cpu_count() or 1)
        """Threads that read, and as many that paste, beside the network."""
        self.face_helper = RestoredPhoto(upscale, self.face_size)
        """What is known of the photo last given to `enhance`."""

    @property
    def network(self) -> nn.Module:
        """What restores the faces, in the form in which it runs; see `lafr.batching.FaceRunner`."""
        return self.steps.runner.network

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
                alone where the photo is damaged; 0.5 takes colours and shading from the photo; above, ever finer
                structure with its flaws; 1 changes nothing. See `lafr.faces.keep_tones`. For CodeFormer it is its
                fidelity weight w; GFPGAN and RestoreFormer have no such knob and are left as they are.

        Returns:
            Faces as cropped, faces as restored (each (S, S, 3) BGR), and the photo enlarged by `upscale` with the
            faces in place (None with `has_aligned` or without `paste_back`); BGRA if `img` is. Without a face
            the photo is enlarged only. An aligned photo larger than S gives a restored face of its own size, unless
            `keep_intact` is off. All have the type of `img`; a gray photo's faces stay gray.

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

        Photos are read when their turn comes, and memory is bounded by `lafr.pipeline.HELD_PIXELS`, not by their
        number. One that fails gives a result with `error`; the others are not touched by it.

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
            choice = replace(choice, like=self.steps.reference(choice.like), min_likeness=least)
        choice = replace(choice, center=True) if only_center_face else choice
        wishes = Wishes(has_aligned, paste_back and not has_aligned, weight, weights or {}, choice, keep_identity)
        if self.steps.weight_means == "none" and {weight, *wishes.weights.values()} != {0.5}:
            logger.warning("weight %g has no effect: this network has no such knob, or its own is set", weight)
        return pipeline.run(self.steps, images, wishes, self.threads)
