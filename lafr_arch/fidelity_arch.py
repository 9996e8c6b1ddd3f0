"""FidelityPath: carries what a face still shows past the latent to the decoder.

Everything else that a restored face shows has passed a latent of a few channels at 1/8 of the size. CodeFormer's
controllable feature transformation (Zhou et al., 2022) and StableSR's feature wrapping (Wang et al., 2023) are the
models: maps of the encoder correct the decoder's at the same sizes, as far as both together say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from lafr_arch.autoencoder_arch import ResidualBlock
from lafr_base.registry import ARCH_REGISTRY


class _Fusion(nn.Module):
    """A correction of the decoder's map by the encoder's of the same size; starts as none."""

    def __init__(self, encoder_channels: int, decoder_channels: int, width: int) -> None:
        super().__init__()
        self.from_encoder = nn.Conv2d(encoder_channels, width, 3, padding=1)
        self.from_decoder = nn.Conv2d(decoder_channels, width, 1)
        self.block = ResidualBlock(width)
        self.correction = nn.Conv2d(width, decoder_channels, 3, padding=1)
        nn.init.zeros_(self.correction.weight)
        nn.init.zeros_(self.correction.bias)  # type: ignore[arg-type]

    def forward(self, encoded: Tensor, decoded: Tensor) -> Tensor:
        """Maps (B, C_e, h, w) and (B, C_d, h, w) -> what to add to the second."""
        return self.correction(F.silu(self.block(self.from_encoder(encoded) + self.from_decoder(decoded))))


@ARCH_REGISTRY.register()
class FidelityPath(nn.Module):
    """One fusion for each size at which the VAE offers maps of its encoder.

    Args:
        encoder_channels: channels of the encoder's maps, in the decoder's order, coarse to fine; filled in from the VAE
            where the path is part of a LAFRNet.
        decoder_channels: channels of the decoder's maps of the same sizes; filled in likewise.
        widths: channels inside each fusion.

    Raises:
        ValueError: the lists differ in length.
    """

    def __init__(
        self, encoder_channels: Sequence[int], decoder_channels: Sequence[int], widths: Sequence[int] = (96, 64)
    ) -> None:
        super().__init__()
        if not len(encoder_channels) == len(decoder_channels) == len(widths):
            raise ValueError(
                f"FidelityPath: widths: {list(widths)} must be {len(decoder_channels)} numbers, one for each size"
            )
        sizes = zip(encoder_channels, decoder_channels, widths, strict=True)
        self.fusions = nn.ModuleList(_Fusion(*size) for size in sizes)

    def forward(self, index: int, encoded: Tensor, decoded: Tensor) -> Tensor:
        """The decoder's map number ``index``, coarse to fine, corrected by the encoder's."""
        return decoded + self.fusions[index](encoded, decoded)


def build_fidelity(options: Mapping[str, Any], vae: Any) -> FidelityPath:
    """A path for the maps that a VAE offers.

    Args:
        options: arguments of :class:`FidelityPath` beside those that the VAE gives.
        vae: a VAE whose ``fusion_channels`` are the channels of its encoder's and its decoder's maps.

    Raises:
        ValueError: it has none.
    """
    if not hasattr(vae, "fusion_channels"):
        raise ValueError(f"network_g: fidelity: a {type(vae).__name__} offers no maps of its encoder; leave it out")
    return FidelityPath(*vae.fusion_channels, **options)
