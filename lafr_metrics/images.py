"""What image metrics are given: a restored image and its reference, checked once, as arrays and as tensors."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch
from torch import Tensor


class MetricError(ValueError):
    """A metric that cannot be had of the given images; the message says why."""


def to_tensor(image: np.ndarray, device: torch.device) -> Tensor:
    """(H, W, 3) BGR uint8 -> (1, 3, H, W) RGB float32 in [0, 1]."""
    rgb = np.ascontiguousarray(image[..., ::-1].transpose(2, 0, 1))
    return torch.from_numpy(rgb)[None].to(device).float() / 255


def to_image(tensor: Tensor) -> np.ndarray:
    """(3, H, W) or (1, 3, H, W) RGB in [0, 1], clamped -> (H, W, 3) BGR uint8, rounded."""
    image = tensor.reshape(tensor.shape[-3:]).detach().cpu().float().clamp(0, 1)
    return np.ascontiguousarray((255 * image).round().byte().numpy().transpose(1, 2, 0)[..., ::-1])


def _check(image: np.ndarray, what: str) -> None:
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        shape, dtype = getattr(image, "shape", None), getattr(image, "dtype", type(image).__name__)
        raise MetricError(f"the {what} image should be (H, W, 3) BGR uint8, is {shape} {dtype}")


class ImagePair:
    """A restored image and perhaps its reference.

    Attributes:
        restored: (H, W, 3) BGR uint8.
        reference: the same, or None.

    Raises:
        MetricError: an image is of another type, or their sizes differ.
    """

    def __init__(self, restored: np.ndarray, reference: np.ndarray | None, device: torch.device) -> None:
        _check(restored, "restored")
        if reference is not None:
            _check(reference, "reference")
            if restored.shape != reference.shape:
                sizes = [f"{image.shape[1]} x {image.shape[0]}" for image in (restored, reference)]
                raise MetricError(f"the restored image is {sizes[0]}, its reference {sizes[1]}: make the sizes equal")
        self.restored = restored
        self.reference = reference
        self.device = device

    @property
    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Restored image and reference, (H, W, 3) BGR uint8.

        Raises:
            MetricError: there is no reference.
        """
        if self.reference is None:
            raise MetricError("a reference image is needed, and none was given")
        return self.restored, self.reference

    @cached_property
    def restored_tensor(self) -> Tensor:
        """Restored image, (1, 3, H, W) RGB float32 in [0, 1]."""
        return to_tensor(self.restored, self.device)

    @cached_property
    def tensors(self) -> tuple[Tensor, Tensor]:
        """Restored image and reference, (1, 3, H, W) RGB float32 in [0, 1].

        Raises:
            MetricError: there is no reference.
        """
        return self.restored_tensor, to_tensor(self.arrays[1], self.device)
