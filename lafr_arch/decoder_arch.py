"""Small decoders that can take the place of a VAE's own, which is most of the work of restoring a face."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lafr_arch.autoencoder_arch import ResidualBlock
from lafr_arch.parts import load_part
from lafr_arch.unet_blocks import Upsample2D
from lafr_base import weights
from lafr_base.registry import ARCH_REGISTRY

FACTOR = 8
"""How many times larger the image's sides are than the latent's."""


@ARCH_REGISTRY.register()
class SmallDecoder(nn.Module):
    """Residual 3x3 convolutions with nearest x2 upsampling and a pixel shuffle at the end; no attention, no norms.

    A stack as TAESD's (https://github.com/madebyollin/taesd), but without layers at full resolution, where a
    convolution costs most, and with the residual blocks of :class:`~lafr_arch.autoencoder_arch.MiniAutoencoder`, whose
    convolutions :mod:`lafr_arch.fast` knows to fuse. Its images differ from those of the VAE's decoder.

    Args:
        latent_channels: channels of the latent.
        scaling_factor: the VAE's, which brings its latents to unit variance.
        widths: channels at 1/8 of the image's size, and at twice the size before for each further one; one to four.
            Multiples of 16 run fast on a CPU.
        blocks: residual blocks (two convolutions) at each of these sizes.

    Raises:
        ValueError: widths and blocks do not fit.
    """

    def __init__(
        self,
        latent_channels: int = 4,
        scaling_factor: float = 0.18215,
        widths: Sequence[int] = (256, 128, 64),
        blocks: Sequence[int] = (3, 3, 3),
    ) -> None:
        super().__init__()
        if not 1 <= len(widths) <= 4 or min(widths) < 1:
            raise ValueError(f"SmallDecoder: widths: {list(widths)}: give one to four positive numbers of channels")
        if len(blocks) != len(widths) or min(blocks) < 0:
            raise ValueError(f"SmallDecoder: blocks: {list(blocks)}: give a number for each of widths {list(widths)}")
        self.scaling_factor = scaling_factor
        shuffle = FACTOR // 2 ** (len(widths) - 1)
        layers: list[nn.Module] = [nn.Conv2d(latent_channels, widths[0], 3, padding=1)]
        for level, (width, count) in enumerate(zip(widths, blocks, strict=True)):
            layers += [ResidualBlock(width) for _ in range(count)]
            if level + 1 < len(widths):
                layers.append(Upsample2D(width, widths[level + 1]))
        layers += [nn.SiLU(), nn.Conv2d(widths[-1], 3 * shuffle**2, 3, padding=1), nn.PixelShuffle(shuffle)]
        self.layers = nn.Sequential(*layers)

    def forward(self, latent: Tensor) -> Tensor:
        """Decode.

        Args:
            latent: (B, C, h, w) as the VAE's ``decode`` takes them: already divided by the scaling factor.

        Returns:
            Images (B, 3, 8h, 8w) RGB, nominally in [-1, 1], not clamped.
        """
        image: Tensor = self.layers(latent * self.scaling_factor)
        return image


@ARCH_REGISTRY.register()
class TAESDDecoder(nn.Module):
    """The decoder of TAESD (https://github.com/madebyollin/taesd), by diffusers; 1.2 million parameters.

    Its published weights, ``madebyollin/taesd``, are for the latents of Stable Diffusion 1.x and 2.x.

    Args:
        latent_channels: channels of the latent.
        scaling_factor: the VAE's: TAESD takes latents of unit variance.
        widths: channels at 1/8, 1/4, 1/2 and the whole of the image's size.
        blocks: residual blocks (three convolutions) at each of them.
    """

    def __init__(
        self,
        latent_channels: int = 4,
        scaling_factor: float = 0.18215,
        widths: Sequence[int] = (64, 64, 64, 64),
        blocks: Sequence[int] = (3, 3, 3, 1),
    ) -> None:
        from diffusers.models.autoencoders.vae import DecoderTiny  # takes seconds

        super().__init__()
        if len(widths) != 4 or len(blocks) != 4:
            raise ValueError("TAESDDecoder: widths and blocks are four numbers each")
        self.scaling_factor = scaling_factor
        self.decoder = DecoderTiny(latent_channels, 3, tuple(blocks), tuple(widths), 2, "relu", "nearest")

    def forward(self, latent: Tensor) -> Tensor:
        """As :meth:`SmallDecoder.forward`."""
        image: Tensor = self.decoder(latent * self.scaling_factor)
        return image


def build_decoder(config: Mapping[str, Any], vae_config: Any) -> Any:
    """A decoder of ARCH_REGISTRY for the latents of a VAE.

    Args:
        config: its ``type`` and arguments.
        vae_config: the VAE's configuration, with ``latent_channels`` and ``scaling_factor``.

    Raises:
        ValueError: the type is unknown, or arguments do not fit.
    """
    kind = config.get("type")
    if kind not in ARCH_REGISTRY:
        raise ValueError(f"decoder: type: {kind} is unknown; use SmallDecoder or TAESDDecoder")
    taken = {"latent_channels": vae_config.latent_channels, "scaling_factor": vae_config.scaling_factor}
    try:
        return ARCH_REGISTRY.build(config, **taken)
    except TypeError as error:
        raise ValueError(f"decoder: {error}") from error


def frozen_decoder(config: Mapping[str, Any], vae_config: Any, path: str | None = None) -> nn.Module:
    """As :func:`build_decoder`, in eval mode and without gradients, with weights as :func:`load_decoder` takes them."""
    decoder: nn.Module = build_decoder(config, vae_config).eval().requires_grad_(False)
    if path is not None:
        load_decoder(decoder, path)
    return decoder


def load_decoder(decoder: nn.Module, path: str) -> None:
    """Load the weights of a decoder that :func:`build_decoder` made.

    Args:
        decoder: the network.
        path: ``net_g_*.pth`` of its training; or for a :class:`TAESDDecoder` the folder or hub id of diffusers'
            AutoencoderTiny, or its safetensors file. Nothing is fetched.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it does not fit.
    """
    found = weights.find(path) or Path(path)
    if found.is_dir():
        found = found / "diffusion_pytorch_model.safetensors"
    if isinstance(decoder, TAESDDecoder):
        load_part(decoder.decoder, found, "decoder_weights", prefix="decoder.")
    else:
        load_part(decoder, found, "decoder_weights")
