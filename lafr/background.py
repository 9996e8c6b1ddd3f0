"""Enlarge what is around the faces: Real-ESRGAN, in tiles, behind the interface of its own `RealESRGANer`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from torch import nn
from torch.nn import functional

from lafr_arch.baseline_arch import load_spandrel

SCALE = 2
"""Enlargement of RealESRGAN_x2plus; other factors are resized from it."""

OVERLAP = 10
"""Pixels of the neighbours that a tile sees on each side, as in Real-ESRGAN; even, as the network wants."""


class BackgroundUpsampler(Protocol):
    """What enlarges the photo around the faces, as Real-ESRGAN's `RealESRGANer` does."""

    def enhance(self, img: np.ndarray, outscale: float | None = None) -> tuple[np.ndarray, Any]:
        """Return the enlarged (H, W, 3) BGR picture first."""


class RealESRGANBackground:
    """A 2x super-resolution network applied to whole photos.

    Args:
        network: maps (1, 3, H, W) RGB in [0, 1] to (1, 3, 2H, 2W); H and W are even.
        device: where to run.
        tile: side of the tiles in photo pixels, even; 0 for the whole photo at once.

    Raises:
        ValueError: `tile` is negative or odd.
    """

    def __init__(self, network: nn.Module, device: torch.device, tile: int = 400) -> None:
        if tile < 0 or tile % 2:
            raise ValueError(f"bg_tile must be an even number of pixels, or 0 for no tiles; got {tile}")
        self.network = network.to(device).eval()
        self.device = device
        self.tile = tile

    @classmethod
    def from_file(cls, path: str | Path, device: torch.device, tile: int = 400) -> RealESRGANBackground:
        """Load RealESRGAN_x2plus.pth (xinntao/Real-ESRGAN), or another ESRGAN that doubles the size, by spandrel.

        Raises:
            ValueError: the file holds another network.
        """
        try:
            network = load_spandrel(Path(path), "Real-ESRGAN", _esrgan)
        except ValueError as error:
            raise ValueError(f"{path}: not the weights of RealESRGAN_x2plus ({error})") from error
        scale = network(torch.zeros(1, 3, 8, 8)).shape[-1] // 8
        if scale != SCALE:
            raise ValueError(f"{path}: not the weights of RealESRGAN_x2plus (it enlarges by {scale})")
        return cls(network, device, tile)

    def enhance(self, img: np.ndarray, outscale: float | None = None) -> tuple[np.ndarray, None]:
        """Enlarge a photo.

        Args:
            img: (H, W, 3) BGR uint8 or uint16.
            outscale: enlargement of the result; None for 2.

        Returns:
            The enlarged photo of the same type; None stands for RealESRGANer's image mode.
        """
        height, width = img.shape[:2]
        result = np.empty((height * SCALE, width * SCALE, 3), dtype=img.dtype)
        for y, x, h, w in self._tiles(height, width):
            result[y * SCALE : (y + h) * SCALE, x * SCALE : (x + w) * SCALE] = self._enlarge(img, y, x, h, w)
        if outscale is None or outscale == SCALE:
            return result, None
        size = (max(1, round(width * outscale)), max(1, round(height * outscale)))
        interpolation = cv2.INTER_AREA if outscale < SCALE else cv2.INTER_LANCZOS4
        return cv2.resize(result, size, interpolation=interpolation), None

    def _tiles(self, height: int, width: int) -> Iterator[tuple[int, int, int, int]]:
        side = self.tile or max(height, width)
        for y in range(0, height, side):
            for x in range(0, width, side):
                yield y, x, min(side, height - y), min(side, width - x)

    @torch.inference_mode()
    def _enlarge(self, img: np.ndarray, y: int, x: int, h: int, w: int) -> np.ndarray:
        height, width = img.shape[:2]
        y0, x0 = max(y - OVERLAP, 0), max(x - OVERLAP, 0)
        part = img[y0 : min(y + h + OVERLAP, height), x0 : min(x + w + OVERLAP, width)]
        top = np.iinfo(img.dtype).max
        rgb = np.ascontiguousarray(part[..., ::-1].transpose(2, 0, 1)).astype(np.float32) / top
        tensor = torch.from_numpy(rgb)[None].to(self.device)
        odd = (0, tensor.shape[-1] % 2, 0, tensor.shape[-2] % 2)
        output = self.network(functional.pad(tensor, odd, mode="replicate"))[0]
        y1, x1 = (y - y0) * SCALE, (x - x0) * SCALE
        inner = output[:, y1 : y1 + h * SCALE, x1 : x1 + w * SCALE].float().clamp(0, 1).cpu().numpy()
        return np.rint(inner * top).astype(img.dtype).transpose(1, 2, 0)[..., ::-1]


def _esrgan() -> Any:
    from spandrel.architectures.ESRGAN import ESRGANArch

    return ESRGANArch()
