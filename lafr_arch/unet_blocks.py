"""The blocks of a pruned UNet: those of diffusers' UNet2DConditionModel that Stable Diffusion 1.x and 2.x use.

Without time embedding, and with diffusers' names and order, so that weights, LoRA and optimizer states fit either. A
deployed network is made of them, since importing diffusers' takes longer than restoring a photo.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the field's name for it

# Settings of UNet2DConditionModel that these blocks do not know, with the values that change nothing.
_PLAIN: dict[str, tuple[Any, ...]] = {
    "act_fn": ("silu", "swish"),
    "mid_block_scale_factor": (1,),
    "resnet_out_scale_factor": (1,),
    "dropout": (0,),
    "downsample_padding": (1,),
    "upcast_attention": (False, None),
    "mid_block_only_cross_attention": (False, None),
    "reverse_transformer_layers_per_block": (None,),
    "conv_in_kernel": (3,),
    "conv_out_kernel": (3,),
    "mid_block_type": ("UNetMidBlock2DCrossAttn",),
}
_DOWN, _UP = ("DownBlock2D", "CrossAttnDownBlock2D"), ("UpBlock2D", "CrossAttnUpBlock2D")


class ResnetBlock2D(nn.Module):
    """Two convolutions with group normalisation and SiLU before them, around an identity or 1x1 path."""

    output_scale_factor = 1.0
    upsample = downsample = time_emb_proj = None

    def __init__(self, in_channels: int, out_channels: int, groups: int, eps: float) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, in_channels, eps)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = nn.GroupNorm(groups, out_channels, eps)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.nonlinearity = nn.SiLU()
        self.conv_shortcut = None if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, input_tensor: Tensor, temb: None = None) -> Tensor:  # noqa: ARG002 - as diffusers'
        """(B, C, H, W) -> (B, O, H, W)."""
        x = self.conv1(self.nonlinearity(self.norm1(input_tensor)))
        x = self.conv2(self.nonlinearity(self.norm2(x)))
        return x + (input_tensor if self.conv_shortcut is None else self.conv_shortcut(input_tensor))


class Downsample2D(nn.Module):
    """A convolution with stride 2."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H / 2, W / 2), rounded up."""
        return self.conv(hidden_states)


class Upsample2D(nn.Module):
    """Nearest x2 and a convolution."""

    norm = None
    interpolate = use_conv = True
    use_conv_transpose = False

    def __init__(self, channels: int, out_channels: int | None = None) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out_channels or channels, 3, padding=1)

    def forward(self, hidden_states: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """(B, C, H, W) -> (B, O, 2H, 2W), or of `output_size`."""
        if output_size is None:
            return self.conv(F.interpolate(hidden_states, scale_factor=2.0, mode="nearest"))
        return self.conv(F.interpolate(hidden_states, size=list(output_size), mode="nearest"))


class Attention(nn.Module):
    """Attention of a map's positions to each other; as ``attn2``, what StaticCrossAttention is made of."""

    processor = None

    def __init__(self, channels: int, heads: int, context: int | None = None) -> None:
        super().__init__()
        self.heads, self.inner_dim = heads, channels
        self.scale = (channels // heads) ** -0.5
        self.to_q = nn.Linear(channels, channels, bias=False)
        self.to_k = nn.Linear(context or channels, channels, bias=False)
        self.to_v = nn.Linear(context or channels, channels, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels), nn.Dropout(0.0)])

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, C)."""
        layers = (self.to_q, self.to_k, self.to_v)
        query, key, value = (layer(hidden_states).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in layers)
        out = F.scaled_dot_product_attention(query, key, value, scale=self.scale).transpose(1, 2).flatten(2)
        return self.to_out[0](out)


class GEGLU(nn.Module):
    """A linear layer, half of whose outputs gate the others through GELU."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.proj = nn.Linear(channels, 2 * inner)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, inner)."""
        values, gates = self.proj(hidden_states).chunk(2, dim=-1)
        return values * F.gelu(gates)


class FeedForward(nn.Module):
    """GEGLU and a linear layer; the numbers of the layers are diffusers', whose second is dropout."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.net = nn.ModuleList([GEGLU(channels, 4 * channels), nn.Dropout(0.0), nn.Linear(4 * channels, channels)])

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, C)."""
        return self.net[2](self.net[0](hidden_states))


class BasicTransformerBlock(nn.Module):
    """Self-attention, attention to the prompt, feed-forward, each after a layer normalisation and around identity."""

    def __init__(self, channels: int, heads: int, context: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attn1 = Attention(channels, heads)
        self.norm2 = nn.LayerNorm(channels)
        self.attn2: nn.Module = Attention(channels, heads, context)
        self.norm3 = nn.LayerNorm(channels)
        self.ff = FeedForward(channels)

    def forward(self, x: Tensor, encoder_hidden_states: Tensor | None = None) -> Tensor:
        """(B, N, C) -> (B, N, C)."""
        x = x + self.attn1(self.norm1(x))
        x = x + self.attn2(self.norm2(x), encoder_hidden_states)
        return x + self.ff(self.norm3(x))


class Transformer2DModel(nn.Module):
    """Transformer blocks over a map's positions."""

    def __init__(self, channels: int, heads: int, layers: int, context: int, groups: int, linear: bool) -> None:
        super().__init__()
        self.linear = linear
        self.norm = nn.GroupNorm(groups, channels, eps=1e-6)
        self.proj_in = nn.Linear(channels, channels) if linear else nn.Conv2d(channels, channels, 1)
        self.transformer_blocks = nn.ModuleList(BasicTransformerBlock(channels, heads, context) for _ in range(layers))
        self.proj_out = nn.Linear(channels, channels) if linear else nn.Conv2d(channels, channels, 1)

    def forward(self, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        height, width = hidden_states.shape[2:]
        x = self.norm(hidden_states)
        x = x if self.linear else self.proj_in(x)
        x = x.flatten(2).transpose(1, 2)
        x = self.proj_in(x) if self.linear else x
        for block in self.transformer_blocks:
            x = block(x, encoder_hidden_states)
        x = self.proj_out(x) if self.linear else x
        x = x.transpose(1, 2).unflatten(2, (height, width))
        return hidden_states + (x if self.linear else self.proj_out(x))


class _Block(nn.Module):
    """A UNet's block at one size: residual blocks, each perhaps with transformer blocks after it."""

    def __init__(self, resnets: list[nn.Module], attentions: list[nn.Module] | None) -> None:
        super().__init__()
        self.has_cross_attention = attentions is not None
        if attentions is not None:
            self.attentions = nn.ModuleList(attentions)
        self.resnets = nn.ModuleList(resnets)
        self.gradient_checkpointing = False
        self._gradient_checkpointing_func: Any = None  # given by StaticUNet.enable_gradient_checkpointing

    def _resnet(self, index: int, x: Tensor) -> Tensor:
        layer = self.resnets[index]
        if self.gradient_checkpointing and x.requires_grad:
            return self._gradient_checkpointing_func(layer, x)
        return layer(x)

    def _layer(self, index: int, x: Tensor, tokens: Tensor | None) -> Tensor:
        x = self._resnet(index, x)
        return self.attentions[index](x, tokens) if self.has_cross_attention else x


class DownBlock(_Block):
    """DownBlock2D and CrossAttnDownBlock2D."""

    def __init__(
        self, resnets: list[nn.Module], attentions: list[nn.Module] | None, downsampler: nn.Module | None
    ) -> None:
        super().__init__(resnets, attentions)
        self.downsamplers = None if downsampler is None else nn.ModuleList([downsampler])

    def forward(
        self, hidden_states: Tensor, temb: None = None, encoder_hidden_states: Tensor | None = None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """(B, C, H, W) -> the map below, and all maps on the way, which the way up needs."""
        skips: tuple[Tensor, ...] = ()
        for index in range(len(self.resnets)):
            hidden_states = self._layer(index, hidden_states, encoder_hidden_states)
            skips += (hidden_states,)
        for layer in self.downsamplers or ():
            hidden_states = layer(hidden_states)
            skips += (hidden_states,)
        return hidden_states, skips


class MidBlock(_Block):
    """UNetMidBlock2DCrossAttn: a transformer between two residual blocks."""

    def forward(self, hidden_states: Tensor, temb: None = None, encoder_hidden_states: Tensor | None = None) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        hidden_states = self._resnet(0, hidden_states)
        return self._resnet(1, self.attentions[0](hidden_states, encoder_hidden_states))


class UpBlock(_Block):
    """UpBlock2D and CrossAttnUpBlock2D."""

    def __init__(
        self, resnets: list[nn.Module], attentions: list[nn.Module] | None, upsampler: nn.Module | None
    ) -> None:
        super().__init__(resnets, attentions)
        self.upsamplers = None if upsampler is None else nn.ModuleList([upsampler])

    def forward(
        self,
        hidden_states: Tensor,
        res_hidden_states_tuple: tuple[Tensor, ...],
        temb: None = None,
        encoder_hidden_states: Tensor | None = None,
        upsample_size: Sequence[int] | None = None,
    ) -> Tensor:
        """(B, C, H, W) and the maps of the way down, the last first -> (B, O, 2H, 2W)."""
        for index in range(len(self.resnets)):
            skip = res_hidden_states_tuple[-1 - index]
            hidden_states = self._layer(index, torch.cat([hidden_states, skip], dim=1), encoder_hidden_states)
        for layer in self.upsamplers or ():
            hidden_states = layer(hidden_states, upsample_size)
        return hidden_states


def knows(config: Mapping[str, Any]) -> bool:
    """Whether :func:`build_unet` can make a pruned UNet of this configuration of UNet2DConditionModel."""
    plain = all(config.get(key, values[0]) in values for key, values in _PLAIN.items())
    return plain and {*config["down_block_types"]} <= {*_DOWN} and {*config["up_block_types"]} <= {*_UP}


def _each(value: Any, count: int) -> list[Any]:
    return list(value) if isinstance(value, Sequence) else [value] * count


def build_unet(config: Mapping[str, Any]) -> Any:
    """The layers of a UNet2DConditionModel, without time embedding, by its configuration; see :func:`knows`."""
    channels = list(config["block_out_channels"])
    count = len(channels)
    heads = _each(config.get("num_attention_heads") or config["attention_head_dim"], count)
    transformers = _each(config["transformer_layers_per_block"], count)
    layers = _each(config["layers_per_block"], count)
    contexts = _each(config["cross_attention_dim"], count)
    groups, eps = config["norm_num_groups"], config["norm_eps"]

    def resnet(n_in: int, n_out: int) -> nn.Module:
        return ResnetBlock2D(n_in, n_out, groups, eps)

    def transformer(level: int) -> nn.Module:
        sizes = (channels[level], heads[level], transformers[level], contexts[level])
        return Transformer2DModel(*sizes, groups, config["use_linear_projection"])

    down: list[nn.Module] = []
    previous = channels[0]
    for level, kind in enumerate(config["down_block_types"]):
        resnets = [resnet(previous if i == 0 else channels[level], channels[level]) for i in range(layers[level])]
        attentions = [transformer(level) for _ in resnets] if kind == "CrossAttnDownBlock2D" else None
        down.append(DownBlock(resnets, attentions, None if level == count - 1 else Downsample2D(channels[level])))
        previous = channels[level]
    up: list[nn.Module] = []
    for place, kind in enumerate(config["up_block_types"]):
        level = count - 1 - place
        here, below = channels[level], channels[max(level - 1, 0)]
        inputs = [previous, *[here] * layers[level]]
        skips = [*[here] * layers[level], below]
        resnets = [resnet(a + b, here) for a, b in zip(inputs, skips, strict=True)]
        attentions = [transformer(level) for _ in resnets] if kind == "CrossAttnUpBlock2D" else None
        up.append(UpBlock(resnets, attentions, None if level == 0 else Upsample2D(here)))
        previous = here
    top, bottom = channels[0], channels[-1]
    return SimpleNamespace(
        conv_in=nn.Conv2d(config["in_channels"], top, 3, padding=1),
        down_blocks=nn.ModuleList(down),
        mid_block=MidBlock([resnet(bottom, bottom) for _ in range(2)], [transformer(count - 1)]),
        up_blocks=nn.ModuleList(up),
        conv_norm_out=nn.GroupNorm(groups, top, eps),
        conv_act=nn.SiLU(),
        conv_out=nn.Conv2d(top, config["out_channels"], 3, padding=1),
        config=dict(config),
    )
