"""Alignment modules after other methods, for the paper's ablations: VQFR's codebook and FaithDiff's transformer.

Both take the place of the :class:`~lafr_arch.adapter_arch.LatentAlignmentAdapter` (LAFR, Tables 6 and 4): scaled
latents of LQ faces in, aligned latents of the same shape and scale out. The paper says which methods they are from and
how large the first is, not how they were fitted to a VAE's latents; the docstrings say what is taken from the originals
and what is settled here.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from lafr_arch.codebook import Codebook
from lafr_base.registry import ARCH_REGISTRY


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(min(32, channels // 4), channels)


class _Block(nn.Module):
    """VQGAN's residual block: two normalised 3x3 convolutions, and a 1x1 one where the channels change."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            _norm(channels_in),
            nn.SiLU(),
            nn.Conv2d(channels_in, channels_out, 3, padding=1),
            _norm(channels_out),
            nn.SiLU(),
            nn.Conv2d(channels_out, channels_out, 3, padding=1),
        )
        self.shortcut = nn.Identity() if channels_in == channels_out else nn.Conv2d(channels_in, channels_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.layers(x)


class _Attention(nn.Module):
    """VQGAN's self-attention over all positions, with one head."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = _norm(channels)
        self.to_qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.to_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.to_qkv(self.norm(x)).flatten(2).transpose(1, 2).chunk(3, dim=-1)
        attended = F.scaled_dot_product_attention(query[:, None], key[:, None], value[:, None])[:, 0]
        return x + self.to_out(attended.transpose(1, 2).reshape(x.shape))


def _level(channels_in: int, channels_out: int, blocks: int) -> nn.Sequential:
    widths = [channels_in] + [channels_out] * blocks
    return nn.Sequential(*[_Block(a, b) for a, b in zip(widths, widths[1:], strict=False)])


def _head(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(_norm(channels_in), nn.SiLU(), nn.Conv2d(channels_in, channels_out, 3, padding=1))


@ARCH_REGISTRY.register()
class VQFRAlignment(nn.Module):
    """VQFR's vector-quantised autoencoder (Gu et al., ECCV 2022) on latents; 19,040,900 parameters by default.

    Taken from VQFR's published code: the VQGAN encoder and decoder (residual blocks, strided and nearest-neighbour
    resampling, two blocks in the middle, attention between the encoder's), the 1x1 convolutions around the quantiser,
    1,024 codes of length 256, and that nothing but codes gets through. With three levels a latent of 64 x 64 becomes
    16 x 16 codes, as many as VQFR has for a face of 512 x 512.

    Not published: which of VQFR's parts the paper's Table 6 used. Settled here: the widths, so that it has the 19.0M
    parameters of that table; none of VQFR's texture branch, parallel decoder and losses. The lookup and its gradient
    are those of :class:`~lafr_arch.codebook.Codebook`, so that k-means start and re-seeding are the same for both
    alignment modules (VQFR re-estimates its codes by k-means, too).

    Args:
        latent_channels: channels of the latent; filled in from the VAE where the module is part of a LAFRNet.
        base_channels: channels at the latent's own size.
        multipliers: channels of each level in multiples of ``base_channels``; each level but the first halves the size.
        blocks: residual blocks a level.
        code_dim: length of a code.
        n_codes: codes in the table. The first batch must have at least as many positions after all halvings.
        beta: see Codebook.
    """

    def __init__(
        self,
        latent_channels: int = 4,
        base_channels: int = 128,
        multipliers: Sequence[int] = (1, 2, 2),
        blocks: int = 2,
        code_dim: int = 256,
        n_codes: int = 1024,
        beta: float = 4.0,
    ) -> None:
        super().__init__()
        widths = [base_channels * factor for factor in multipliers]
        last = widths[-1]
        self.conv_in = nn.Conv2d(latent_channels, widths[0], 3, padding=1)
        self.down = nn.ModuleList([_level(a, b, blocks) for a, b in zip([widths[0], *widths], widths, strict=False)])
        self.shrink = nn.ModuleList([nn.Conv2d(width, width, 3, stride=2, padding=1) for width in widths[:-1]])
        self.encoder_middle = nn.Sequential(_Block(last, last), _Attention(last), _Block(last, last))
        self.encoder_out = _head(last, code_dim)
        self.before = nn.Conv2d(code_dim, code_dim, 1)
        self.codebook = Codebook(n_codes, code_dim, beta=beta)
        self.after = nn.Conv2d(code_dim, code_dim, 1)
        self.decoder_in = nn.Conv2d(code_dim, last, 3, padding=1)
        self.decoder_middle = _level(last, last, 2)
        upwards = widths[::-1]
        self.up = nn.ModuleList([_level(a, b, blocks) for a, b in zip([last, *upwards], upwards, strict=False)])
        self.grow = nn.ModuleList([nn.Conv2d(width, width, 3, padding=1) for width in upwards[:-1]])
        self.conv_out = _head(widths[0], latent_channels)

    def forward(self, latent: Tensor) -> Tensor:
        """Scaled latents of LQ faces (B, C, h, w) -> aligned latents of the same shape and scale."""
        x = self.conv_in(latent)
        sizes = []
        for i, level in enumerate(self.down):
            if i:
                sizes.append(x.shape[-2:])
                x = self.shrink[i - 1](x)
            x = level(x)
        x = self.encoder_out(self.encoder_middle(x))
        x = self.after(self.codebook(self.before(x)))
        x = self.decoder_middle(self.decoder_in(x))
        for i, level in enumerate(self.up):
            if i:
                x = self.grow[i - 1](F.interpolate(x, size=sizes.pop(), mode="nearest"))
            x = level(x)
        return self.conv_out(x)


class _AttentionBlock(nn.Module):
    """Pre-normalised self-attention and a two-layer perceptron of four times the width, as CLIP's blocks."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention = nn.LayerNorm(width)
        self.to_qkv = nn.Linear(width, 3 * width)
        self.to_out = nn.Linear(width, width)
        self.norm_mlp = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, width) -> (B, N, width)."""
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in self.to_qkv(self.norm_attention(x)).chunk(3, dim=-1)
        )
        attended = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        x = x + self.to_out(attended)
        return x + self.mlp(self.norm_mlp(x))


@ARCH_REGISTRY.register()
class FaithDiffAlignment(nn.Module):
    """FaithDiff's alignment module (Chen et al., CVPR 2025) on latents: a small transformer over all positions.

    Taken from FaithDiff's published code: two residual attention blocks of width 640 with 8 heads, no positional
    encoding, and a linear projection that starts at zero and whose output is added, so that the module starts as the
    identity.

    Not published: how the paper's Table 4 put it in the adapter's place (its parameters differ from the adapter's by
    13.8M; this has 9,873,284). FaithDiff feeds it features of a VAE encoder that it trains along, joined with the
    noisy latent's, and adds its output to the UNet's first features. LAFR has no noisy latent and a frozen encoder, so
    here it takes the LQ latent through one 3x3 convolution and corrects that latent.

    Args:
        latent_channels: channels of the latent; filled in from the VAE where the module is part of a LAFRNet.
        width: channels of a token; ``heads`` divides it.
        heads: attention heads.
        layers: attention blocks.

    Raises:
        ValueError: ``heads`` does not divide ``width``.
    """

    def __init__(self, latent_channels: int = 4, width: int = 640, heads: int = 8, layers: int = 2) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"FaithDiffAlignment: heads: {heads} does not divide width: {width}")
        self.conv_in = nn.Conv2d(latent_channels, width, 3, padding=1)
        self.layers = nn.Sequential(*[_AttentionBlock(width, heads) for _ in range(layers)])
        self.proj_out = nn.Linear(width, latent_channels)
        nn.init.zeros_(self.proj_out.weight)
        nn.init.zeros_(self.proj_out.bias)

    def forward(self, latent: Tensor) -> Tensor:
        """Scaled latents of LQ faces (B, C, h, w) -> aligned latents of the same shape and scale."""
        tokens = self.conv_in(latent).flatten(2).transpose(1, 2)
        correction = self.proj_out(self.layers(tokens)).transpose(1, 2)
        return latent + correction.reshape(latent.shape)
