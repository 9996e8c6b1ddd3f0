"""MiniAutoencoder: a small, fast convolutional VAE with the interface of diffusers' AutoencoderKL.

It takes the VAE's place in the `mini` face prior, so that every other class runs unchanged with Stable Diffusion's VAE
or with this one. Built for CPUs: pixel-unshuffle instead of full-resolution convolutions, no normalisation layers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
import torch.utils.checkpoint
from torch import Tensor, nn

from lafr_arch.configured import ConfiguredNet, keeps_config
from lafr_base.registry import ARCH_REGISTRY


class ResidualBlock(nn.Module):
    """``x + conv(silu(conv(silu(x))))`` with 3x3 convolutions; the second starts at zero, so the block as identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.act = nn.SiLU()
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return x + self.conv2(self.act(self.conv1(self.act(x))))


class DiagonalGaussian:
    """Independent normal distributions, one for each value of a latent; diffusers' DiagonalGaussianDistribution.

    Args:
        parameters: (B, 2 C, h, w), means and logarithms of variances, which are kept within -30 and 20.
    """

    def __init__(self, parameters: Tensor) -> None:
        self.mean, logvar = parameters.chunk(2, dim=1)
        self.logvar = logvar.clamp(-30.0, 20.0)

    @property
    def var(self) -> Tensor:
        """Variances, (B, C, h, w)."""
        return self.logvar.exp()

    def sample(self) -> Tensor:
        """A latent (B, C, h, w)."""
        noise = torch.randn(self.mean.shape, device=self.mean.device, dtype=self.mean.dtype)
        return self.mean + torch.exp(0.5 * self.logvar) * noise

    def mode(self) -> Tensor:
        """The most probable latent, which is the mean."""
        return self.mean

    def kl(self) -> Tensor:
        """Divergence from the standard normal distribution, (B,)."""
        return 0.5 * (self.mean**2 + self.var - 1.0 - self.logvar).sum(dim=(1, 2, 3))


@dataclass(frozen=True)
class Encoded:
    """What encoding gives, as diffusers' AutoencoderKLOutput."""

    latent_dist: DiagonalGaussian


@dataclass(frozen=True)
class Decoded:
    """What decoding gives, as diffusers' DecoderOutput."""

    sample: Tensor


def _residual_blocks(channels: int, count: int) -> list[nn.Module]:
    return [ResidualBlock(channels) for _ in range(count)]


def _to_image(quarter: int, half: int | None = None) -> list[nn.Module]:
    """The decoder's last layers, from ``quarter`` channels at 1/4 of the size, perhaps by way of ``half`` at 1/2."""
    if half is None:
        return [nn.SiLU(), nn.Conv2d(quarter, 48, 3, padding=1), nn.PixelShuffle(4)]
    widen = [nn.SiLU(), nn.Conv2d(quarter, 4 * half, 3, padding=1), nn.PixelShuffle(2)]
    return [*widen, ResidualBlock(half), nn.SiLU(), nn.Conv2d(half, 12, 3, padding=1), nn.PixelShuffle(2)]


@ARCH_REGISTRY.register()
class MiniAutoencoder(ConfiguredNet):
    """Convolutional VAE, 8x smaller in each direction.

    ``encode(x).latent_dist`` and ``decode(z).sample`` take and give what diffusers' ``AutoencoderKL`` does: images RGB
    in [-1, 1], (B, 3, H, W) with H and W multiples of 8; latents (B, latent_channels, H / 8, W / 8), unscaled.
    ``save_pretrained`` / ``from_pretrained`` write and read a folder as diffusers does: config.json, safetensors.

    Args:
        latent_channels: channels of the latent.
        encoder_widths: channels at 1/4 and 1/8 of the image's size.
        decoder_widths: channels at 1/8 and 1/4 of the image's size, and perhaps at 1/2, where fine texture is made.
        encoder_blocks: residual blocks at each size of the encoder.
        decoder_blocks: residual blocks at 1/8 and at 1/4 in the decoder; at 1/2 there is one.
        scaling_factor: latents times this have unit variance on the training faces.
        sample_size: image size it was trained for, in pixels.
    """

    @keeps_config
    def __init__(
        self,
        latent_channels: int = 8,
        encoder_widths: tuple[int, int] = (48, 128),
        decoder_widths: tuple[int, ...] = (192, 80),
        encoder_blocks: int = 2,
        decoder_blocks: int = 2,
        scaling_factor: float = 1.0,
        sample_size: int = 256,
    ) -> None:
        super().__init__()
        self.gradient_checkpointing = False
        wide, deep = encoder_widths
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(4),
            nn.Conv2d(48, wide, 3, padding=1),
            *_residual_blocks(wide, encoder_blocks),
            nn.Conv2d(wide, deep, 4, stride=2, padding=1),
            *_residual_blocks(deep, encoder_blocks),
            nn.SiLU(),
            nn.Conv2d(deep, 2 * latent_channels, 3, padding=1),
        )
        if len(decoder_widths) not in (2, 3):
            raise ValueError(f"MiniAutoencoder: decoder_widths: {decoder_widths} must be two or three numbers")
        eighth, quarter, *halves = decoder_widths
        # Layers whose output a FidelityPath carries from the encoder (fine to coarse) to the decoder (coarse to fine).
        self._encoder_taps = (1 + encoder_blocks, 2 + 2 * encoder_blocks)
        self._decoder_taps = (0, 2 + decoder_blocks)
        self.fusion_channels = ((deep, wide), (eighth, quarter))
        self.decoder = nn.Sequential(
            nn.Conv2d(latent_channels, eighth, 3, padding=1),
            *_residual_blocks(eighth, decoder_blocks),
            nn.Conv2d(eighth, 4 * quarter, 3, padding=1),
            nn.PixelShuffle(2),
            *_residual_blocks(quarter, decoder_blocks),
            *_to_image(quarter, *halves),
        )

    @torch.no_grad()
    def grown(self, half: int) -> MiniAutoencoder:
        """The same function with a further size in the decoder, whose new layers do nothing until they are trained.

        What the last layer gave goes through the new ones as x and as -x, since silu(x) - silu(-x) = x.

        Args:
            half: channels at 1/2 of the image's size, at least 24.

        Raises:
            ValueError: the decoder has that size already, or ``half`` is too small.
        """
        if len(self.config.decoder_widths) != 2 or half < 24:
            raise ValueError(f"MiniAutoencoder: cannot grow by {half} channels: needs two widths, and 24 channels")
        grown = MiniAutoencoder(**{**self.config, "decoder_widths": (*self.config.decoder_widths, half)})
        first = len(self.decoder) - 2
        state = self.state_dict()
        grown.load_state_dict({k: v for k, v in state.items() if not k.startswith(f"decoder.{first}.")}, strict=False)
        layers = (self.decoder[first], grown.decoder[first], grown.decoder[first + 4])
        last, widen, to_pixels = (cast(nn.Conv2d, layer) for layer in layers)
        kernel = last.weight.shape[1:]
        # Channel c * 16 + (2 i + k) * 4 + 2 j + l of the old layer is pixel (2 i + k, 2 j + l) of colour c.
        weight = last.weight.view(3, 2, 2, 2, 2, *kernel).permute(0, 2, 4, 1, 3, 5, 6, 7).reshape(12, 4, *kernel)
        bias = cast(Tensor, last.bias).view(3, 2, 2, 2, 2).permute(0, 2, 4, 1, 3).reshape(12, 4)
        pixels, taps = torch.zeros_like(to_pixels.weight), range(12)
        for sign, start in ((1, 0), (-1, 12)):
            rows = slice(start, start + 12)
            widen.weight.view(half, 4, *kernel)[rows] = sign * weight
            cast(Tensor, widen.bias).view(half, 4)[rows] = sign * bias
            pixels[taps, [start + c for c in taps], 1, 1] = sign
        to_pixels.weight.copy_(pixels)
        cast(Tensor, to_pixels.bias).zero_()
        return grown

    def enable_gradient_checkpointing(self) -> None:
        """Recompute the decoder's activations in the backward pass, to save memory."""
        self.gradient_checkpointing = True

    def encode(self, x: Tensor, return_dict: bool = True) -> Encoded | tuple[DiagonalGaussian]:
        """Images (B, 3, H, W) in [-1, 1] -> distribution of latents (B, latent_channels, H / 8, W / 8)."""
        distribution = DiagonalGaussian(self.encoder(x))
        return Encoded(distribution) if return_dict else (distribution,)

    def encode_with_maps(self, x: Tensor) -> tuple[DiagonalGaussian, list[Tensor]]:
        """Images as in :meth:`encode` -> the distribution, and maps at 1/8 and 1/4 of the size for a FidelityPath."""
        maps = []
        for index, layer in enumerate(self.encoder):
            x = layer(x)
            if index in self._encoder_taps:
                maps.append(x)
        return DiagonalGaussian(x), maps[::-1]

    def decode(
        self, z: Tensor, return_dict: bool = True, fuse: Callable[[int, Tensor], Tensor] | None = None
    ) -> Decoded | tuple[Tensor]:
        """Latents (B, latent_channels, h, w) -> images (B, 3, 8h, 8w), nominally in [-1, 1], not clamped.

        ``fuse(index, map)`` may change the maps at 1/8 (index 0) and 1/4 (1) of the size as they arise.
        """
        if fuse is not None:
            sample = z
            for position, layer in enumerate(self.decoder):
                sample = layer(sample)
                if position in self._decoder_taps:
                    sample = fuse(self._decoder_taps.index(position), sample)
        elif self.gradient_checkpointing and torch.is_grad_enabled():
            segments = len(self.decoder) // 3
            sample = torch.utils.checkpoint.checkpoint_sequential(self.decoder, segments, z, use_reentrant=False)
        else:
            sample = self.decoder(z)
        return Decoded(sample) if return_dict else (sample,)

    def forward(self, x: Tensor, latent_noise: float = 0.0) -> tuple[Tensor, DiagonalGaussian]:
        """Encode, sample and decode, for training.

        Args:
            x: images as in :meth:`encode`.
            latent_noise: standard deviation of noise added to the sample, relative to the sample's own.

        Returns:
            The decoded images and the distribution they were sampled from.
        """
        distribution = DiagonalGaussian(self.encoder(x))
        latent = distribution.sample()
        if latent_noise > 0:
            latent = latent + latent_noise * latent.detach().std() * torch.randn_like(latent)
        return self.decoder(latent), distribution

    def features(self, x: Tensor) -> list[Tensor]:
        """Encoder activations at 1/4 and 1/8 of the size, for a perceptual distance; x as in :meth:`encode`."""
        maps = []
        for layer in self.encoder[:-1]:
            x = layer(x)
            if isinstance(layer, ResidualBlock):
                maps.append(x)
        return maps
