"""Stable Diffusion's VAE without diffusers: what a deployed folder is loaded into.

Equal to diffusers' AutoencoderKL by name and result, where :func:`knows` says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from lafr_arch.autoencoder_arch import Decoded, DiagonalGaussian, Encoded
from lafr_arch.configured import Config, ConfiguredNet
from lafr_arch.unet_blocks import ResnetBlock2D, Upsample2D

_EPS = 1e-6
# Settings of AutoencoderKL that this one does not know, with the values that change nothing.
_PLAIN: dict[str, tuple[Any, ...]] = {
    "act_fn": ("silu",),
    "mid_block_add_attention": (True,),
    "use_quant_conv": (True,),
    "use_post_quant_conv": (True,),
}


def knows(config: Mapping[str, Any]) -> bool:
    """Whether :class:`AutoencoderKL` can take the place of diffusers' with this configuration."""
    plain = all(config.get(key, values[0]) in values for key, values in _PLAIN.items())
    down, up = config["down_block_types"], config["up_block_types"]
    return plain and {*down} == {"DownEncoderBlock2D"} and {*up} == {"UpDecoderBlock2D"}


class _Attention(nn.Module):
    """Attention of a map's positions to each other, with one head, around identity."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.group_norm = nn.GroupNorm(groups, channels, _EPS)
        self.to_q = nn.Linear(channels, channels)
        self.to_k = nn.Linear(channels, channels)
        self.to_v = nn.Linear(channels, channels)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels), nn.Dropout(0.0)])

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        rows = self.group_norm(x).flatten(2).transpose(1, 2)
        query, key, value = (layer(rows).unsqueeze(1) for layer in (self.to_q, self.to_k, self.to_v))
        out = self.to_out[0](F.scaled_dot_product_attention(query, key, value).squeeze(1))
        return x + out.transpose(1, 2).unflatten(2, x.shape[2:])


class _Middle(nn.Module):
    """Two residual blocks with attention between them."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.attentions = nn.ModuleList([_Attention(channels, groups)])
        self.resnets = nn.ModuleList(ResnetBlock2D(channels, channels, groups, _EPS) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return self.resnets[1](self.attentions[0](self.resnets[0](x)))


class _Downsample(nn.Module):
    """A convolution with stride 2 and a border of zeros at the right and below."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H / 2, W / 2)."""
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class _Level(nn.Module):
    """Residual blocks at one size, and what leads to the next."""

    def __init__(self, n_in: int, n_out: int, count: int, groups: int, name: str, resample: nn.Module | None) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(ResnetBlock2D(n_out if i else n_in, n_out, groups, _EPS) for i in range(count))
        self.resampling = name
        setattr(self, name, None if resample is None else nn.ModuleList([resample]))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, O, H', W')."""
        for layer in (*self.resnets, *(getattr(self, self.resampling) or ())):
            x = layer(x)
        return x


class _Coder(nn.Module):
    """What encoder and decoder share: blocks with a convolution before and after them."""

    def __init__(self, n_in: int, first: int, last: int, n_out: int, groups: int) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(n_in, first, 3, padding=1)
        self.conv_norm_out = nn.GroupNorm(groups, last, _EPS)
        self.conv_act = nn.SiLU()
        self.conv_out = nn.Conv2d(last, n_out, 3, padding=1)

    def _out(self, x: Tensor) -> Tensor:
        return self.conv_out(self.conv_act(self.conv_norm_out(x)))


class _Encoder(_Coder):
    def __init__(self, config: Mapping[str, Any]) -> None:
        widths, groups = list(config["block_out_channels"]), config["norm_num_groups"]
        super().__init__(config["in_channels"], widths[0], widths[-1], 2 * config["latent_channels"], groups)
        self.down_blocks = nn.ModuleList(
            _Level(
                widths[max(i - 1, 0)],
                width,
                config["layers_per_block"],
                groups,
                "downsamplers",
                _Downsample(width) if i + 1 < len(widths) else None,
            )
            for i, width in enumerate(widths)
        )
        self.mid_block = _Middle(widths[-1], groups)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] -> moments (B, 2 C, H / 8, W / 8)."""
        x = self.conv_in(x)
        for block in self.down_blocks:
            x = block(x)
        return self._out(self.mid_block(x))


class _Decoder(_Coder):
    def __init__(self, config: Mapping[str, Any]) -> None:
        widths, groups = list(config["block_out_channels"])[::-1], config["norm_num_groups"]
        super().__init__(config["latent_channels"], widths[0], widths[-1], config["out_channels"], groups)
        self.up_blocks = nn.ModuleList(
            _Level(
                widths[max(i - 1, 0)],
                width,
                config["layers_per_block"] + 1,
                groups,
                "upsamplers",
                Upsample2D(width) if i + 1 < len(widths) else None,
            )
            for i, width in enumerate(widths)
        )
        self.mid_block = _Middle(widths[0], groups)

    def forward(self, x: Tensor) -> Tensor:
        """Latents (B, C, h, w) -> images (B, 3, 8h, 8w), nominally in [-1, 1]."""
        x = self.mid_block(self.conv_in(x))
        for block in self.up_blocks:
            x = block(x)
        return self._out(x)


class AutoencoderKL(ConfiguredNet):
    """The VAE; ``encode(x).latent_dist`` and ``decode(z).sample`` as diffusers'.

    Args:
        config: of diffusers' AutoencoderKL, for which :func:`knows` is true.
    """

    def __init__(self, **config: Any) -> None:
        super().__init__()
        self.config = Config(config)
        self.encoder = _Encoder(config)
        self.decoder = _Decoder(config)
        channels = config["latent_channels"]
        self.quant_conv = nn.Conv2d(2 * channels, 2 * channels, 1)
        self.post_quant_conv = nn.Conv2d(channels, channels, 1)

    def encode(self, x: Tensor) -> Encoded:
        """Images (B, 3, H, W) in [-1, 1] -> distribution of latents (B, C, H / 8, W / 8)."""
        return Encoded(DiagonalGaussian(self.quant_conv(self.encoder(x))))

    def decode(self, z: Tensor) -> Decoded:
        """Latents (B, C, h, w) -> images (B, 3, 8h, 8w), nominally in [-1, 1], not clamped."""
        return Decoded(self.decoder(self.post_quant_conv(z)))
