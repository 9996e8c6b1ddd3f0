"""The face detection net: finds faces at any angle in photos of any size, each with its five points."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, max_pool2d

from lafr_arch.bundled import BundledNet
from lafr_arch.conv_units import ConvUnit, ResidualUnit
from lafr_base.registry import ARCH_REGISTRY

STRIDE = 4
"""Pixels of the photo a cell of the output stands for, in x and y."""
MULTIPLE = 16
"""The sides of a photo must be multiples of this many pixels."""
RADII = (3.2, 9.0)
"""Sizes of face that the net answers for: RMS distances of the five points from their mean, in pixels. A face's box,
brows to chin, is 4 to 4.5 of them. Larger faces are found in smaller copies of the photo."""
POINT_UNIT = 8.0
"""Pixels that the net counts the points' offsets in."""


@ARCH_REGISTRY.register()
class FaceDetectionNet(BundledNet):
    """Heat map of the faces' centres with five points for each (Zhou et al. 2019, "Objects as Points").

    Four stages at 1/2 to 1/16 of the resolution and two steps back up to 1/4.

    Args:
        channels: widths of the four stages.
        blocks: residual units at 1/4, 1/8 and 1/16.
    """

    def __init__(
        self, channels: tuple[int, int, int, int] = (16, 32, 48, 64), blocks: tuple[int, int, int] = (1, 2, 2)
    ) -> None:
        super().__init__()
        if len(channels) != 4 or len(blocks) != 3:
            raise ValueError(f"network_g: channels: {channels} must be four widths, blocks: {blocks} three numbers")
        self.config = {"channels": list(channels), "blocks": list(blocks)}
        half, quarter, eighth, sixteenth = channels

        def units(width: int, count: int) -> list[nn.Module]:
            return [ResidualUnit(width) for _ in range(count)]

        self.down4 = nn.Sequential(ConvUnit(3, half, 2), ConvUnit(half, quarter, 2), *units(quarter, blocks[0]))
        self.down8 = nn.Sequential(ConvUnit(quarter, eighth, 2), *units(eighth, blocks[1]))
        self.down16 = nn.Sequential(ConvUnit(eighth, sixteenth, 2), *units(sixteenth, blocks[2]))
        self.lift8 = nn.Conv2d(sixteenth, eighth, 1)
        self.merge8 = ConvUnit(eighth, eighth)
        self.lift4 = nn.Conv2d(eighth, quarter, 1)
        self.merge4 = ConvUnit(quarter, quarter)
        self.head = nn.Sequential(ConvUnit(quarter, quarter), nn.Conv2d(quarter, 11, 1))
        nn.init.constant_(self.head[1].bias[0], -4.0)  # type: ignore[index]  # faces are rare

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Look at photos ``x`` (B, 3, H, W), RGB in [0, 1], sides multiples of :data:`MULTIPLE`.

        Returns:
            logits (B, H / 4, W / 4): how likely the cell is the centre of a face.
            points (B, H / 4, W / 4, 5, 2): x, y in pixels of ``x``, pixel centres at whole numbers: left eye, right
                eye, nose, left mouth corner, right mouth corner, left as on the upright face's image. They mean
                something only where a face is.
        """
        quarter = self.down4((x - 0.5) * 4)
        eighth = self.down8(quarter)
        sixteenth = self.down16(eighth)
        eighth = self.merge8(eighth + interpolate(self.lift8(sixteenth), scale_factor=2))
        quarter = self.merge4(quarter + interpolate(self.lift4(eighth), scale_factor=2))
        out = self.head(quarter).float().permute(0, 2, 3, 1)
        points = out[..., 1:].unflatten(-1, (5, 2)) * POINT_UNIT
        return out[..., 0], points + cell_centres(out.shape[1], out.shape[2], out.device)[:, :, None]


def cell_centres(rows: int, columns: int, device: torch.device | str = "cpu") -> Tensor:
    """Return where the cells of an output lie: (rows, columns, 2), x, y in pixels of the photo."""
    x, y = (torch.arange(n, device=device) * STRIDE + (STRIDE - 1) / 2 for n in (columns, rows))
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)


def peaks(logits: Tensor, least: float) -> Sequence[Tensor]:
    """Return batch index, row and column of the cells that are no less than their eight neighbours and ``least``.

    Args:
        logits: (B, H, W) of :class:`FaceDetectionNet`.
        least: smallest logit.
    """
    top = max_pool2d(logits[:, None], 3, 1, 1)[:, 0]
    return ((logits >= least) & (logits == top)).nonzero(as_tuple=True)
