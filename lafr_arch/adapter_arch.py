"""LatentAlignmentAdapter: maps latents of low-quality faces to where those of high-quality faces lie (LAFR, 2.3)."""

from __future__ import annotations

from torch import Tensor, nn

from lafr_arch.codebook import Codebook
from lafr_base.registry import ARCH_REGISTRY


class _ResidualBlock(nn.Module):
    """Two normalised 3x3 convolutions around an identity path."""

    def __init__(self, channels: int, norm_groups: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.GroupNorm(norm_groups, channels),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.GroupNorm(norm_groups, channels),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


@ARCH_REGISTRY.register()
class LatentAlignmentAdapter(nn.Module):
    """Feature extractor, codebook, mapping network: ``z_aligned = M(nearest code of F(z_lq))``.

    With the paper's sizes (4 latent channels, hidden 256, 1,024 codes) it has 5,138,180 parameters: the 5.2M of A.2.2.

    Args:
        latent_channels: channels of the latent; filled in from the VAE where the adapter is part of a LAFRNet.
        hidden: channels inside, and length of a code.
        n_codes: codes in the table.
        blocks: residual blocks before and after the codebook.
        groups: codes a position; see :class:`~lafr_arch.codebook.Codebook`. 1 is the paper's form.
        skip: False, the paper's form, lets only codes through. True adds two identity paths, ``z_lq + M(f + c*)``: the
            code then corrects what is there instead of replacing it.
        beta: see Codebook.
    """

    def __init__(
        self,
        latent_channels: int = 4,
        hidden: int = 256,
        n_codes: int = 1024,
        blocks: int = 2,
        groups: int = 1,
        skip: bool = False,
        beta: float = 4.0,
    ) -> None:
        super().__init__()
        norm_groups = min(32, hidden // 4)
        self.skip = skip
        self.extractor = nn.Sequential(
            nn.Conv2d(latent_channels, hidden, 3, padding=1),
            *[_ResidualBlock(hidden, norm_groups) for _ in range(blocks)],
            nn.GroupNorm(norm_groups, hidden),
            nn.SiLU(),
            nn.Conv2d(hidden, hidden, 1),
        )
        self.codebook = Codebook(n_codes, hidden, groups, beta)
        self.mapping = nn.Sequential(
            nn.Conv2d(hidden, hidden, 1),
            *[_ResidualBlock(hidden, norm_groups) for _ in range(blocks)],
            nn.GroupNorm(norm_groups, hidden),
            nn.SiLU(),
            nn.Conv2d(hidden, latent_channels, 3, padding=1),
        )
        if skip:
            # The adapter starts as the identity.
            for parameter in self.mapping[-1].parameters():
                nn.init.zeros_(parameter)

    def forward(self, latent: Tensor) -> Tensor:
        """Scaled latents of LQ faces (B, C, h, w) -> aligned latents of the same shape and scale."""
        features = self.extractor(latent)
        codes = self.codebook(features)
        return latent + self.mapping(features + codes) if self.skip else self.mapping(codes)
