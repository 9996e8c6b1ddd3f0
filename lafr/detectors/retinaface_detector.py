"""RetinaFace: facexlib's networks, without its detection code (fixed thresholds, no limit of size, CUDA by default)."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch

from lafr.detectors.face import (
    OVERLAP,
    DetectorSpec,
    Face,
    Picture,
    add_detector,
    check_photo,
    find_turned,
    rescale_face,
    resize_to,
    settle,
    suppress,
)
from lafr_base.checkpoints import read_state
from lafr_base.compat import MissingPackageError

SEARCH_PIXELS = 1_500_000
STRIDES = (8, 16, 32)
ANCHOR_SIDES = ((16, 32), (64, 128), (256, 512))
VARIANCES = (0.1, 0.2)
MEAN_BGR = (104.0, 117.0, 123.0)
"""Of the 0 to 255 range; with the strides and anchors, as in facexlib's detection/retinaface.py."""
QUICK_PIXELS = 20_000
"""Turned faces of a photo with upright ones are found from a tenth of its side."""


class RetinaFaceDetector:
    """RetinaFace with a ResNet-50 or a MobileNet (0.25) below it.

    Args:
        network: ``resnet50`` or ``mobile0.25``.
        weights: checkpoint, read with ``weights_only=True``.
        device: torch device.
        min_score: least confidence, 0 to 1.

    Raises:
        ValueError: ``weights`` does not fit the network; the message names it.
    """

    def __init__(self, network: str, weights: Path, device: str | torch.device = "cpu", min_score: float = 0.8) -> None:
        try:
            from facexlib.detection.retinaface import RetinaFace
        except ModuleNotFoundError as error:
            raise MissingPackageError(f"RetinaFace needs {error.name}: pip install facexlib==0.3.0") from error

        self.name = f"retinaface_{network}"
        self.device = torch.device(device)
        self.min_score = min_score
        with warnings.catch_warnings():  # facexlib uses an argument of torchvision's models that is deprecated
            warnings.simplefilter("ignore")
            self._net = RetinaFace(network_name=network, device=self.device)
        try:
            self._net.load_state_dict(read_state(weights))
        except RuntimeError as error:
            raise ValueError(f"{weights} does not hold the parameters of {self.name}: {error}") from error
        self._net.to(self.device).eval()

    def detect(self, img: Picture) -> list[Face]:
        """Find the faces of a BGR photo; see :class:`lafr.detectors.face.Detector`."""
        if not check_photo(img):
            return []
        small = resize_to(img, SEARCH_PIXELS)
        faces = [rescale_face(face, small, img) for face in self._search(small)]
        return settle(find_turned(img, self._search, self.min_score, faces, QUICK_PIXELS), img, OVERLAP)

    @torch.inference_mode()
    def _search(self, picture: Picture) -> list[Face]:
        """Find the upright faces of a picture at its size."""
        height, width = picture.shape[:2]
        x = torch.from_numpy(picture).to(self.device).permute(2, 0, 1)[None].float()
        offsets, scores, point_offsets = (y[0] for y in self._net(x - x.new_tensor(MEAN_BGR).view(1, 3, 1, 1)))
        scores = scores[:, 1]
        keep = scores >= self.min_score
        centres, sides = (anchors.to(self.device)[keep] for anchors in make_anchors(height, width))
        offsets, point_offsets = offsets[keep], point_offsets[keep]
        box_centres = centres + VARIANCES[0] * sides * offsets[:, :2]
        half = sides * torch.exp(VARIANCES[1] * offsets[:, 2:]) / 2
        boxes = torch.cat([box_centres - half, box_centres + half], dim=1)
        points = centres[:, None] + VARIANCES[0] * sides[:, None] * point_offsets.view(-1, 5, 2)
        # The net counts pixels from the photo's edge, Face from the first pixel's centre.
        found = ((boxes - 0.5).cpu().numpy(), (points - 0.5).cpu().numpy(), scores[keep].cpu().numpy())
        faces = [Face(box, landmarks, float(score)) for box, landmarks, score in zip(*found, strict=True)]
        return suppress(faces, OVERLAP)


def make_anchors(height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the centres (N, 2), x, y in pixels from the photo's edge, and sides (N, 1) of the anchors of a photo."""
    centres, sides = [], []
    for stride, anchor_sides in zip(STRIDES, ANCHOR_SIDES, strict=True):
        rows, columns = -(-height // stride), -(-width // stride)
        y, x = np.mgrid[:rows, :columns] + 0.5
        grid = np.stack([x, y], axis=-1).reshape(-1, 1, 2) * stride
        centres.append(np.repeat(grid, len(anchor_sides), axis=1).reshape(-1, 2))
        sides.append(np.tile(anchor_sides, rows * columns))
    return (
        torch.from_numpy(np.concatenate(centres)).float(),
        torch.from_numpy(np.concatenate(sides)).float()[:, None],
    )


def _add(network: str, rank: int, other_names: tuple[str, ...]) -> None:
    add_detector(
        DetectorSpec(
            name=f"retinaface_{network}",
            rank=rank,
            weights=f"retinaface-{network}",
            package="facexlib",
            other_names=other_names,
            build=lambda path, device, options: RetinaFaceDetector(network, path, device, **options),  # type: ignore[arg-type]
        )
    )


_add("resnet50", 10, ("retinaface",))
_add("mobile0.25", 30, ("retinaface_mobilenet0.25",))
