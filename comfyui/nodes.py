"""Two nodes: one that restores faces and says whether they are still the same people, one that numbers them.

ComfyUI's pictures are tensors (B, H, W, C) float32 RGB in [0, 1]. Nothing here imports ComfyUI before a node runs, and
without it the nodes run as well: they then report no progress and cannot be cancelled.
"""

from __future__ import annotations

import argparse
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from lafr.face_options import face_numbers

if TYPE_CHECKING:
    from lafr import LAFRer
    from lafr.results import RestoredPhoto

CATEGORY = "image/face restoration"

_TOP = 65535  # pictures go through the restorer in 16 bits, which ComfyUI's floats lose nothing in that could be seen


class LAFRRestoreFaces:
    """Restores the faces of pictures."""

    CATEGORY = CATEGORY
    DESCRIPTION = "Restores faces, all or some, and measures for each whether it is still the same person."
    FUNCTION = "restore"
    RETURN_TYPES = ("IMAGE", "FLOAT", "STRING")
    RETURN_NAMES = ("image", "identity", "report")
    OUTPUT_TOOLTIPS = (
        "the pictures, restored",
        "the lowest identity figure of all restored faces; 1 where none was restored",
        "JSON: for each picture, each face with its box, whether it was restored, and its identity",
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """What the node takes."""
        return {
            "required": {
                "image": ("IMAGE",),
                "weight": (
                    "FLOAT",
                    {
                        "default": 0.5,
                        "min": 0.0,
                        "max": 1.0,
                        "step": 0.05,
                        "tooltip": "how closely faces follow the picture: 0 is the network alone, 1 changes nothing",
                    },
                ),
                "faces": (
                    "STRING",
                    {"default": "", "tooltip": "numbers of faces, left to right from 0: 0,2 or 1-3; empty for all"},
                ),
                "largest": (
                    "INT",
                    {"default": 0, "min": 0, "max": 1000, "tooltip": "only so many of the largest; 0 for all"},
                ),
                "min_face": (
                    "INT",
                    {"default": 0, "min": 0, "max": 16384, "tooltip": "only faces of so many pixels a side"},
                ),
                "keep_identity": (
                    "BOOLEAN",
                    {
                        "default": False,
                        "tooltip": "a face that may no longer show the same person follows the picture more closely",
                    },
                ),
                "upscale": (
                    "FLOAT",
                    {"default": 1.0, "min": 0.25, "max": 8.0, "step": 0.25, "tooltip": "enlargement of the picture"},
                ),
                "model": ("STRING", {"default": "mini", "tooltip": "as --model of lafr restore: mini, a folder, ..."}),
            },
            "optional": {
                "like": ("IMAGE", {"tooltip": "only faces that look like the largest face of this picture"}),
            },
        }

    @classmethod
    def VALIDATE_INPUTS(cls, faces: str = "", model: str = "mini") -> bool | str:
        """Say what is wrong with the texts before anything runs; True where nothing is."""
        from lafr.methods import parse_method
        from lafr_base.weights import WeightsError

        try:
            if faces.strip():
                face_numbers(faces)
            parse_method(model)
        except (argparse.ArgumentTypeError, ValueError, OSError, WeightsError) as error:
            return str(error)
        return True

    def restore(
        self,
        image: Tensor,
        weight: float,
        faces: str,
        largest: int,
        min_face: int,
        keep_identity: bool,
        upscale: float,
        model: str,
        like: Tensor | None = None,
    ) -> tuple[Tensor, float, str]:
        """Restore pictures.

        Args:
            image: (B, H, W, C) float32 RGB in [0, 1].
            weight: see `INPUT_TYPES`, as for all that follow.
            faces: see there.
            largest: see there.
            min_face: see there.
            keep_identity: see there.
            upscale: see there.
            model: see there.
            like: (1, H, W, C); further pictures are not looked at.

        Returns:
            (B, H * upscale, W * upscale, 3) float32 RGB in [0, 1] on the CPU, a figure, and JSON.

        Raises:
            Exception: what the restorer says of a picture or a wish; ComfyUI shows it.
        """
        from lafr.choice import FaceChoice
        from lafr.report import photo_entry

        restorer = _restorer(model, upscale)
        choice = FaceChoice(
            numbers=frozenset(face_numbers(faces)) if faces.strip() else None,
            largest=largest or None,
            min_size=min_face,
            like=None if like is None else _to_bgr(like[0]),
        )
        step = _progress(len(image))
        pictures: list[Tensor] = []
        reports: list[dict[str, Any]] = []
        figures: list[float] = []
        results = restorer.enhance_many(
            (_to_bgr(one) for one in image), weight=weight, choice=choice, keep_identity=keep_identity
        )
        for index, result in enumerate(results):
            result.or_raise()
            pictures.append(_restored(image[index], result))
            entry = photo_entry(Path(str(index)), result, restorer.composer)
            reports.append(
                {"picture": index, "width": entry["width"], "height": entry["height"], "faces": entry["faces"]}
            )
            figures += result.identities
            step()
        return torch.stack(pictures), min(figures, default=1.0), json.dumps(reports)


class LAFRShowFaces:
    """Numbers the faces of pictures."""

    CATEGORY = CATEGORY
    DESCRIPTION = "Outlines the faces and numbers them, as the node that restores them takes the numbers."
    FUNCTION = "show"
    RETURN_TYPES = ("IMAGE", "INT")
    RETURN_NAMES = ("image", "count")
    OUTPUT_TOOLTIPS = ("the pictures with their faces outlined and numbered", "faces of all pictures together")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """What the node takes."""
        return {"required": {"image": ("IMAGE",)}}

    def show(self, image: Tensor) -> tuple[Tensor, int]:
        """Outline and number faces.

        Args:
            image: (B, H, W, C) float32 RGB in [0, 1].

        Returns:
            (B, H, W, 3) float32 RGB in [0, 1] on the CPU, and the number of faces.
        """
        from lafr.faces import draw_box
        from lafr_base.geometry import align_matrix

        restorer = _restorer("mini", 1.0)
        step = _progress(len(image))
        pictures: list[Tensor] = []
        count = 0
        for one in image:
            canvas = _to_bgr(one)
            found = restorer.steps.find(canvas)
            for number, face in enumerate(found):
                draw_box(canvas, align_matrix(face.landmarks, restorer.face_size), restorer.face_size, (1, 1), number)
            pictures.append(_to_tensor(canvas))
            count += len(found)
            step()
        return torch.stack(pictures), count


def _restored(before: Tensor, result: RestoredPhoto) -> Tensor:
    """Return the restored picture; one in which nothing was to be done comes back to the bit."""
    assert result.restored_img is not None
    if result.input_img is not None and np.array_equal(result.restored_img, result.input_img):
        return before[..., :3].float().cpu()
    return _to_tensor(result.restored_img)


def _to_bgr(picture: Tensor) -> np.ndarray:
    """Return a picture (H, W, C) RGB in [0, 1] as (H, W, 3) BGR uint16."""
    rgb = picture[..., :3].detach().float().cpu().clamp(0, 1).numpy()
    return np.ascontiguousarray(np.rint(rgb[..., ::-1] * _TOP).astype(np.uint16))


def _to_tensor(bgr: np.ndarray) -> Tensor:
    """Return (H, W, 3) BGR uint16 as a picture."""
    return torch.from_numpy(np.ascontiguousarray(bgr[..., ::-1]).astype(np.float32) / _TOP)


@functools.lru_cache(maxsize=1)
def _restorer(model: str, upscale: float) -> LAFRer:
    """The restorer, kept for the next run; of another model, that takes its place."""
    from lafr import LAFRer

    try:
        from comfy.model_management import get_torch_device
    except ImportError:
        return LAFRer(model=model, upscale=upscale)
    return LAFRer(model=model, upscale=upscale, device=get_torch_device())


def _progress(count: int) -> Callable[[], None]:
    """Return what is to be called after each picture: it moves ComfyUI's bar, and stops where the user cancelled."""
    try:
        from comfy.model_management import throw_exception_if_processing_interrupted
        from comfy.utils import ProgressBar
    except ImportError:
        return lambda: None
    bar = ProgressBar(count)

    def step() -> None:
        bar.update(1)
        throw_exception_if_processing_interrupted()

    return step


NODE_CLASS_MAPPINGS: dict[str, type] = {"LAFRRestoreFaces": LAFRRestoreFaces, "LAFRShowFaces": LAFRShowFaces}
NODE_DISPLAY_NAME_MAPPINGS: dict[str, str] = {
    "LAFRRestoreFaces": "Restore Faces (LAFR)",
    "LAFRShowFaces": "Show Faces (LAFR)",
}
