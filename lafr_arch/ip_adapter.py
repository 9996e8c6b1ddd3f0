"""IP-Adapter: the UNet conditioned on the LQ face (LAFR, table 8; Ye et al., "IP-Adapter", 2023).

An image encoder's vector becomes a few tokens, and every cross-attention attends to them with keys and values of its
own, beside those of the prompt: ``attention(q, k, v) + scale * attention(q, k_ip, v_ip)``, before the output layer.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import IPAdapterAttnProcessor2_0
from torch import Tensor, nn

from lafr_arch.ip_adapter_encoder_arch import ImageEncoder
from lafr_arch.static_unet import StaticCrossAttention, cross_attentions
from lafr_base import weights as weight_files
from lafr_base.checkpoints import read_checkpoint
from lafr_base.registry import ARCH_REGISTRY

logger = logging.getLogger(__name__)


CLIP: Mapping[str, Any] = {"type": "CLIPImageEncoder"}


class ImageProjection(nn.Module):
    """IP-Adapter's ``ImageProjModel``: a vector to tokens; names as in its files.

    Args:
        width: length of the vector.
        cross_attention_dim: length of a token.
        tokens: their number.
    """

    def __init__(self, width: int, cross_attention_dim: int, tokens: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, tokens * cross_attention_dim)
        self.norm = nn.LayerNorm(cross_attention_dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, width) -> (B, tokens, cross_attention_dim)."""
        return self.norm(self.proj(x).unflatten(-1, (-1, *self.norm.normalized_shape)))


class IPAdapter(nn.Module):
    """The face's tokens; their attention is in the UNet (:func:`add_image_attention`).

    ``network_g: ip_adapter:`` in YAML::

        ip_adapter:
          encoder: {type: CLIPImageEncoder}
          tokens: 4
          scale: 1.0
          weights: ~  # or a published IP-Adapter: see IPAdapter.on

    Args:
        encoder: of the face.
        cross_attention_dim: length of a token, the UNet's.
        tokens: how many a face has; IP-Adapter's published projections make 4.
        scale: factor of the image attention.

    Raises:
        ValueError: an option has no valid value.
    """

    def __init__(self, encoder: ImageEncoder, cross_attention_dim: int, tokens: int = 4, scale: float = 1.0) -> None:
        super().__init__()
        if tokens < 1:
            raise ValueError(f"network_g: ip_adapter: tokens must be at least 1; got {tokens}")
        self.encoder = encoder
        self.image_proj = ImageProjection(encoder.width, cross_attention_dim, tokens)
        self.tokens = tokens
        self.scale = float(scale)

    @classmethod
    def on(
        cls,
        unet: UNet2DConditionModel,
        weights: str | None = None,
        encoder: Mapping[str, Any] = CLIP,
        tokens: int = 4,
        scale: float = 1.0,
    ) -> IPAdapter:
        """The adapter of a full UNet, which gets its image attention; on the meta device without weights.

        Args:
            unet: gets :func:`add_image_attention`.
            encoder: ``type`` (a class of :mod:`lafr_arch.ip_adapter_encoder_arch`) and its arguments; IP-Adapter's CLIP
                by default.
            tokens: as for the class.
            scale: as for the class.
            weights: published IP-Adapter to start from (``ip-adapter_sd15.safetensors``, ``.bin``), as
                :func:`load_published` takes it; None starts from the text's keys and values, as IP-Adapter's training
                does.

        Raises:
            lafr_base.weights.MissingWeightsError: the encoder's weights, or what stands for its form, are not there.
            ValueError: an option has no valid value.
        """
        empty = unet.device.type == "meta"
        adapter = cls(build_encoder(encoder, empty), unet.config.cross_attention_dim, tokens, scale)
        add_image_attention(unet, adapter.tokens, adapter.scale)
        if weights is not None and not empty:
            load_published(adapter, unet, weights)
        return adapter

    def forward(self, face: Tensor) -> Tensor:
        """LQ faces (B, 3, S, S) RGB in [0, 1] -> tokens (B, T, cross_attention_dim)."""
        with torch.no_grad():
            vector = self.encoder(face)
        return self.image_proj(vector.to(self.image_proj.proj.weight.dtype))

    def deployed_config(self) -> dict[str, Any]:
        """What :meth:`from_deployed_config` takes; fit for JSON."""
        encoder = {"type": type(self.encoder).__name__, **self.encoder.architecture()}
        return {"tokens": self.tokens, "scale": self.scale, "encoder": encoder}

    @classmethod
    def from_deployed_config(cls, config: Mapping[str, Any], cross_attention_dim: int) -> IPAdapter:
        """An adapter on the meta device, to be given a deployed folder's weights."""
        made, architecture = _encoder_class(config["encoder"])
        with torch.device("meta"):
            encoder = made.from_architecture(**architecture)
            return cls(encoder, cross_attention_dim, config["tokens"], config["scale"])


def _is_encoder(found: Any) -> bool:
    return isinstance(found, type) and issubclass(found, ImageEncoder)


def _encoder_class(options: Mapping[str, Any]) -> tuple[type[ImageEncoder], dict[str, Any]]:
    arguments = dict(options)
    name = arguments.pop("type", None)
    made = ARCH_REGISTRY.get(name)
    if made is None or not _is_encoder(made):
        known = ", ".join(key for key, value in ARCH_REGISTRY.items() if _is_encoder(value))
        raise ValueError(f"network_g: ip_adapter: encoder: type: {name} is no image encoder; there are {known}")
    return made, arguments


def build_encoder(options: Mapping[str, Any], empty: bool = False) -> ImageEncoder:
    """Build an image encoder of its ``type`` and arguments; ``empty``: on the meta device, of its architecture alone.

    Raises:
        lafr_base.weights.MissingWeightsError: its weights, or what stands for its form, are not there.
        ValueError: the type is unknown, or an argument has no valid value.
    """
    made, arguments = _encoder_class(options)
    return made.from_architecture(**made.architecture_of(**arguments)) if empty else made(**arguments)


def required_weights(options: Mapping[str, Any]) -> list[str]:
    """Weights that an ``ip_adapter:`` needs, as :func:`lafr_base.weights.require` takes them."""
    made, arguments = _encoder_class(options.get("encoder", CLIP))
    own = options.get("weights")
    return [*made.required_weights(**arguments), *([own] if own else [])]


@torch.no_grad()
def add_image_attention(unet: UNet2DConditionModel, tokens: int = 4, scale: float = 1.0) -> None:
    """Give every cross-attention of a full UNet keys and values for image tokens, which start as the text's.

    The UNet then takes ``encoder_hidden_states=(text, [image tokens])``, as diffusers' IP-Adapters do.
    """
    for _, attention in cross_attentions(unet):
        weight = attention.to_k.weight
        processor = IPAdapterAttnProcessor2_0(
            attention.inner_dim, attention.cross_attention_dim, num_tokens=(tokens,), scale=float(scale)
        ).to(weight.device, weight.dtype)
        processor.to_k_ip[0].weight.copy_(weight)
        processor.to_v_ip[0].weight.copy_(attention.to_v.weight)
        attention.set_processor(processor)


def image_attention(unet: nn.Module) -> list[nn.Module]:
    """The layers that an IP-Adapter has in a UNet, full or pruned: keys' and values', block by block."""
    layers: list[nn.Module] = []
    for module in unet.modules():
        if isinstance(module, IPAdapterAttnProcessor2_0):
            layers += [*module.to_k_ip, *module.to_v_ip]
        elif isinstance(module, StaticCrossAttention) and module.has_image_attention:
            layers += [module.to_k_ip, module.to_v_ip]
    return layers


@torch.no_grad()
def load_published(adapter: IPAdapter, unet: UNet2DConditionModel, source: str) -> None:
    """Load a published IP-Adapter of one projection (``ip-adapter_sd15``) into the adapter and its UNet.

    Names are ``image_proj.*`` and ``ip_adapter.N.to_k_ip.weight``, where N counts all attention layers of the UNet as
    diffusers lists them; the self-attentions, which have nothing, are the even ones.

    Args:
        adapter: gets the projection.
        unet: a full UNet after :func:`add_image_attention`; gets the keys and values.
        source: .safetensors or .bin, as :func:`lafr_base.weights.require` takes it.

    Raises:
        lafr_base.weights.MissingWeightsError: the file is not there.
        ValueError: it is of another form, or for another base model; says what does not fit.
    """
    path = weight_files.require(source)
    state = _read_published(path)
    targets = {f"image_proj.{name}": value for name, value in adapter.image_proj.named_parameters()}
    for index, processor in enumerate(unet.attn_processors.values()):
        if isinstance(processor, IPAdapterAttnProcessor2_0):
            targets[f"ip_adapter.{index}.to_k_ip.weight"] = processor.to_k_ip[0].weight
            targets[f"ip_adapter.{index}.to_v_ip.weight"] = processor.to_v_ip[0].weight
    faults = [f"lacks {name}" for name in targets if name not in state]
    faults += [f"has {name}, which is unknown" for name in state if name not in targets]
    faults += [
        f"{name} is {tuple(state[name].shape)}, here {tuple(value.shape)}"
        for name, value in targets.items()
        if name in state and state[name].shape != value.shape
    ]
    if faults:
        raise ValueError(
            f"network_g: ip_adapter: weights: {path} is no IP-Adapter for this base model, this encoder and "
            f"{adapter.tokens} tokens: {'; '.join(faults[:3])}{'; ...' if len(faults) > 3 else ''}"
        )
    for name, value in targets.items():
        value.copy_(state[name])
    logger.info("ip_adapter: %d tensors from %s", len(targets), path)


def _read_published(path: Path) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    for key, value in read_checkpoint(path).items():
        state |= (
            {f"{key}.{name}": tensor for name, tensor in value.items()} if isinstance(value, Mapping) else {key: value}
        )
    return state
