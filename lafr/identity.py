"""Whether a face is still the same person after restoring: the bundled identity net, and what its figures mean."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np
import torch

from lafr_arch.identity_arch import EMBEDDING, FaceIdentityNet

FOLDER = Path(__file__).parent / "pretrained" / "identity"
"""The bundled net: config.json, model.safetensors, calibration.json and its model card."""

_SIDE = 144  # the recognition crop's scale: larger faces are shrunk to it before the net sees them
_BATCH = 32


@dataclass(frozen=True)
class Calibration:
    """What figures pairs of faces have: percentiles 0 to 100, ascending, of pairs whose truth is known.

    Written by benchmarks/identity.py.

    Attributes:
        same: of a face with its own degraded or restored copy.
        different: of faces of two persons, degraded or restored.
        threshold: the figure that 1 % of the different pairs lie above. Below it a face is called changed.
    """

    same: tuple[float, ...]
    different: tuple[float, ...]
    threshold: float

    @classmethod
    def load(cls, folder: Path = FOLDER) -> Calibration:
        """Read calibration.json of an identity net's folder."""
        stored = json.loads((folder / "calibration.json").read_text(encoding="utf-8"))
        return cls(tuple(stored["same"]), tuple(stored["different"]), float(stored["threshold"]))

    def share_of_same(self, figure: float) -> float:
        """Share (0 to 1) of pairs of the same person that lie above a figure."""
        return _share_above(self.same, figure)

    def share_of_different(self, figure: float) -> float:
        """Share (0 to 1) of pairs of different persons that lie above a figure."""
        return _share_above(self.different, figure)


def _share_above(percentiles: Sequence[float], figure: float) -> float:
    return float(np.interp(figure, percentiles, np.linspace(1, 0, len(percentiles)), left=1, right=0))


class IdentityMeter:
    """Compares faces by the identity net.

    Args:
        device: where the net runs.
        folder: of a net as :meth:`lafr_arch.bundled.BundledNet.save_pretrained` writes it, with calibration.json.

    Raises:
        FileNotFoundError: a file of the net is missing; the message names it.
    """

    def __init__(self, device: str | torch.device = "cpu", folder: Path = FOLDER) -> None:
        self._folder = folder
        self._net = FaceIdentityNet.from_pretrained(folder, device)
        self._device = torch.device(device)

    @cached_property
    def calibration(self) -> Calibration:
        """What the net's figures mean."""
        return Calibration.load(self._folder)

    def embed(self, faces: Sequence[np.ndarray]) -> np.ndarray:
        """Return embeddings (N, 128), float32 of length 1, of FFHQ-aligned faces (S, S, 3) BGR uint8 or uint16."""
        found = [np.empty((0, EMBEDDING), np.float32)]
        for start in range(0, len(faces), _BATCH):
            batch = np.stack([_shrunk(face) for face in faces[start : start + _BATCH]])
            tensor = torch.from_numpy(np.ascontiguousarray(batch[..., ::-1].transpose(0, 3, 1, 2)))
            with torch.inference_mode():
                found.append(self._net(tensor.to(self._device)).cpu().numpy())
        return np.concatenate(found)

    def compare(self, before: Sequence[np.ndarray], after: Sequence[np.ndarray]) -> list[float]:
        """Return the figure of each pair of faces: the cosine of their embeddings, 1 for the same picture.

        Args:
            before: faces as `embed` takes them.
            after: as many.
        """
        embeddings = self.embed([*before, *after])
        cosines = (embeddings[: len(before)] * embeddings[len(before) :]).sum(axis=1)
        return [float(cosine) for cosine in cosines]


def _shrunk(face: np.ndarray) -> np.ndarray:
    """Return a face as (144, 144, 3) float32 in [0, 1]."""
    unit = face.astype(np.float32) / np.iinfo(face.dtype).max
    interpolation = cv2.INTER_AREA if face.shape[0] > _SIDE else cv2.INTER_LINEAR
    return cv2.resize(unit, (_SIDE, _SIDE), interpolation=interpolation)
