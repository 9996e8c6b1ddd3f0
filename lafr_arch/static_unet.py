"""StaticUNet: a diffusers UNet pruned to one prompt and one timestep (LAFR, section 2.4), exact to rounding.

With both fixed, every ResNet block's projection of the time embedding is a constant vector, added here to the bias of
the convolution before it, and every cross-attention's keys and values are constant tensors, kept here in place of the
two linear layers that made them. The time embedding, its projections and the text encoder are then not needed.

An IP-Adapter's image attention (:mod:`lafr_arch.ip_adapter`) stays as it is: its tokens are each face's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
import torch.utils.checkpoint
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the field's name for it

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

# Settings of UNet2DConditionModel that change the function in ways that pruning does not cover, with the only value it
# was written for. No Stable Diffusion 1.x or 2.x sets any of them.
_REQUIRED: dict[str, Any] = {
    "resnet_time_scale_shift": "default",
    "class_embed_type": None,
    "addition_embed_type": None,
    "encoder_hid_dim_type": None,
    "time_embedding_act_fn": None,
    "time_cond_proj_dim": None,
    "cross_attention_norm": None,
    "attention_type": "default",
    "center_input_sample": False,
    "num_class_embeds": None,
    "only_cross_attention": False,
    "dual_cross_attention": False,
}

# Other kinds of blocks use the time embedding or the prompt in other places.
_BLOCKS = ("DownBlock2D", "CrossAttnDownBlock2D", "UNetMidBlock2DCrossAttn", "CrossAttnUpBlock2D", "UpBlock2D")


class StaticCrossAttention(nn.Module):
    """Cross-attention whose keys and values are constants.

    Args:
        attention: the ``attn2`` of a transformer block, diffusers' or of :mod:`lafr_arch.unet_blocks`; its query and
            output layers are taken over, and those of an IP-Adapter.
        n_tokens: tokens of the prompt.
    """

    key: Tensor
    value: Tensor

    def __init__(self, attention: Any, n_tokens: int) -> None:
        super().__init__()
        self.heads = attention.heads
        self.attention_scale = attention.scale
        self.to_q = attention.to_q
        self.to_out = attention.to_out
        shape = (1, n_tokens, attention.inner_dim)
        weight = attention.to_q.weight
        self.register_buffer("key", torch.zeros(shape, dtype=weight.dtype, device=weight.device))
        self.register_buffer("value", torch.zeros(shape, dtype=weight.dtype, device=weight.device))
        processor = attention.processor
        self.has_image_attention = hasattr(processor, "to_k_ip")
        if self.has_image_attention:
            (self.to_k_ip,), (self.to_v_ip,) = processor.to_k_ip, processor.to_v_ip
            (self.image_scale,) = processor.scale

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def forward(self, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, **_: Any) -> Tensor:
        """Attend.

        Args:
            hidden_states: (B, N, C).
            encoder_hidden_states: image tokens (B, T, cross_attention_dim) where there is an IP-Adapter. Not the
                prompt's, and diffusers' other keyword arguments are about the prompt, too.

        Returns:
            (B, N, C).
        """
        query = self._heads(self.to_q(hidden_states))
        batch = hidden_states.shape[0]  # not len(), which an exported graph would hold as a constant
        key, value = (self._heads(t.to(query.dtype)).expand(batch, -1, -1, -1) for t in (self.key, self.value))
        out = F.scaled_dot_product_attention(query, key, value, scale=self.attention_scale)
        if self.has_image_attention:
            key, value = (self._heads(layer(encoder_hidden_states)) for layer in (self.to_k_ip, self.to_v_ip))
            image = F.scaled_dot_product_attention(query, key, value, scale=self.attention_scale)
            out = out + self.image_scale * image
        out = out.transpose(1, 2).flatten(2)
        for layer in self.to_out:
            out = layer(out)
        return out


def cross_attentions(unet: nn.Module) -> Iterator[tuple[nn.Module, Any]]:
    """Transformer blocks with a cross-attention that is not static yet, and that attention."""
    for module in unet.modules():
        attention = getattr(module, "attn2", None)
        if attention is not None and not isinstance(attention, StaticCrossAttention):
            yield module, attention


class StaticUNet(nn.Module):
    """The pruned UNet: one input, the latent (with an IP-Adapter the image tokens, too), and the prediction.

    Built by :meth:`from_unet`. Modules keep diffusers' names, so LoRA finds its targets as in the full UNet.
    """

    def __init__(self, unet: Any, n_tokens: int) -> None:
        """Take over the layers of a UNet2DConditionModel, which is used up, or of what `unet_blocks.build_unet` makes.

        Constants stay to be filled in.
        """
        super().__init__()
        self.conv_in = unet.conv_in
        self.down_blocks = unet.down_blocks
        self.mid_block = unet.mid_block
        self.up_blocks = unet.up_blocks
        self.conv_norm_out = unet.conv_norm_out
        self.conv_act = unet.conv_act
        self.conv_out = unet.conv_out
        self.unet_config = {k: v for k, v in unet.config.items() if not k.startswith("_")}
        self.n_tokens = n_tokens
        for module in _resnets(self):
            module.time_emb_proj = None
        for block, attention in list(cross_attentions(self)):
            block.attn2 = StaticCrossAttention(attention, n_tokens)

    @classmethod
    @torch.no_grad()
    def from_unet(cls, unet: UNet2DConditionModel, encoder_hidden_states: Tensor, timestep: int) -> StaticUNet:
        """Prune ``unet``, which is used up.

        Args:
            unet: any Stable Diffusion 1.x or 2.x UNet.
            encoder_hidden_states: the prompt's embedding (1, tokens, cross_attention_dim).
            timestep: the fixed timestep.

        Raises:
            ValueError: the UNet has a conditioning that pruning does not cover or adapters that are not merged, or the
                embedding does not fit.
        """
        for key, value in _REQUIRED.items():
            if unet.config.get(key, value) != value:
                raise ValueError(
                    f"this UNet has {key}: {unet.config[key]!r}; only {value!r} can be pruned: use prune: false"
                )
        for block in (*unet.down_blocks, unet.mid_block, *unet.up_blocks):
            if type(block).__name__ not in _BLOCKS:
                raise ValueError(
                    f"this UNet has a {type(block).__name__}; only {', '.join(_BLOCKS)} can be pruned: use prune: false"
                )
        width = unet.config.cross_attention_dim
        if (
            encoder_hidden_states.dim() != 3
            or encoder_hidden_states.shape[0] != 1
            or encoder_hidden_states.shape[2] != width
        ):
            raise ValueError(
                f"the prompt's embedding must be (1, tokens, {width}), is {tuple(encoder_hidden_states.shape)}"
            )
        steps = torch.tensor([timestep], device=unet.device)
        embedding = unet.time_embedding(unet.time_proj(steps).to(unet.dtype))
        for module in _resnets(unet):
            if module.time_emb_proj is not None:
                constant = module.time_emb_proj(module.nonlinearity(embedding))[0]
                conv = module.conv1
                if not isinstance(conv, nn.Conv2d):
                    raise ValueError("this UNet has adapters on its convolutions: merge them before pruning")
                conv.bias = nn.Parameter(constant if conv.bias is None else conv.bias + constant)
        text = encoder_hidden_states.to(unet.device, unet.dtype)
        # By query layer, which both forms share: the two list their blocks in different orders.
        constants = {a.to_q: (a.to_k(text), a.to_v(text)) for _, a in cross_attentions(unet)}
        pruned = cls(unet, encoder_hidden_states.shape[1])
        for module in pruned.modules():
            if isinstance(module, StaticCrossAttention):
                key, value = constants[module.to_q]
                module.key.copy_(key)
                module.value.copy_(value)
        return pruned

    def enable_gradient_checkpointing(self) -> None:
        """Recompute activations in the backward pass, block by block, to save memory."""
        for block in self.modules():
            module: Any = block
            if hasattr(module, "gradient_checkpointing"):
                module.gradient_checkpointing = True
                module._gradient_checkpointing_func = _checkpoint

    def forward(self, sample: Tensor, image_tokens: Tensor | None = None) -> Tensor:
        """Predict.

        Args:
            sample: latents (B, C, h, w).
            image_tokens: (B, T, cross_attention_dim), where the UNet has an IP-Adapter.

        Returns:
            The UNet's prediction (B, C, h, w).
        """
        sample = self.conv_in(sample)
        skips = [sample]
        # Any size that halves to odd numbers on the way down needs its skips' sizes on the way up.
        odd = any(side % 2 ** (len(self.up_blocks) - 1) for side in sample.shape[-2:])
        for block in self.down_blocks:
            sample, more = block(hidden_states=sample, temb=None, **_tokens(block, image_tokens))
            skips.extend(more)
        if self.mid_block is not None:
            sample = self.mid_block(sample, None, **_tokens(self.mid_block, image_tokens))
        for block in self.up_blocks:
            count = len(block.resnets)
            skips, here = skips[:-count], skips[-count:]
            size = skips[-1].shape[2:] if odd and skips else None
            sample = block(
                hidden_states=sample,
                temb=None,
                res_hidden_states_tuple=tuple(here),
                upsample_size=size,
                **_tokens(block, image_tokens),
            )
        if self.conv_norm_out is not None:
            sample = self.conv_act(self.conv_norm_out(sample))
        return self.conv_out(sample)


class FullUNet(nn.Module):
    """The unpruned UNet at a fixed prompt and timestep: what OSEDiff runs, for comparison."""

    prompt_embeds: Tensor

    def __init__(self, unet: UNet2DConditionModel, prompt_embeds: Tensor, timestep: int) -> None:
        super().__init__()
        self.unet = unet
        self.timestep = timestep
        self.register_buffer("prompt_embeds", prompt_embeds, persistent=False)

    def prune(self) -> StaticUNet:
        """The pruned form of the UNet, which is used up."""
        return StaticUNet.from_unet(self.unet, self.prompt_embeds, self.timestep)

    def forward(self, sample: Tensor, image_tokens: Tensor | None = None) -> Tensor:
        """As :meth:`StaticUNet.forward`."""
        text: Any = self.prompt_embeds.to(sample.dtype).expand(len(sample), -1, -1)
        if image_tokens is not None:
            text = (text, [image_tokens])  # diffusers' form
        return self.unet(sample, self.timestep, encoder_hidden_states=text).sample

    def enable_gradient_checkpointing(self) -> None:
        """As :meth:`StaticUNet.enable_gradient_checkpointing`."""
        self.unet.enable_gradient_checkpointing()


def _resnets(unet: nn.Module) -> list[Any]:
    return [module for module in unet.modules() if type(module).__name__ == "ResnetBlock2D"]  # diffusers', or ours


def _tokens(block: nn.Module, image_tokens: Tensor | None) -> dict[str, Tensor | None]:
    """Blocks with cross-attention want the keyword; their constants make all but image tokens irrelevant."""
    return {"encoder_hidden_states": image_tokens} if getattr(block, "has_cross_attention", False) else {}


def _checkpoint(module: Any, *args: Any) -> Any:
    return torch.utils.checkpoint.checkpoint(module, *args, use_reentrant=False)
