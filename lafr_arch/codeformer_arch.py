"""CodeFormer (Zhou et al., 2022), written from the paper: a Transformer foresees the codes of the good face.

The authors' own code is under a non-commercial licence (S-Lab 1.0); nothing of it is used here, and checkpoints of one
do not fit the other.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from lafr_arch.restorer_base import Losses, Restorer, load_start
from lafr_arch.vq_autoencoder_arch import VQAutoencoder
from lafr_base.registry import ARCH_REGISTRY


class TransformerLayer(nn.Module):
    """Self-attention with the positions in queries and keys, then two linear layers, each after a normalisation."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        """Tokens (B, N, W) and their positions (N, W) -> tokens."""
        inner = self.norm1(x)
        placed = inner + positions
        x = x + self.attention(placed, placed, inner, need_weights=False)[0]
        return x + self.mlp(self.norm2(x))


class FeatureTransformation(nn.Module):
    """Controllable feature transformation: the encoder's map scales and shifts the decoder's, by a weight."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mix = nn.Sequential(
            nn.Conv2d(2 * channels, channels, 3, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.LeakyReLU(0.2),
        )
        self.scale = nn.Conv2d(channels, channels, 3, padding=1)
        self.shift = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, decoded: Tensor, encoded: Tensor, weight: float) -> Tensor:
        """Maps (B, C, h, w) of decoder and encoder -> the decoder's; with weight 0 as it was."""
        inner = self.mix(torch.cat([encoded, decoded], dim=1))
        return decoded + weight * (self.scale(inner) * decoded + self.shift(inner))


@ARCH_REGISTRY.register()
class CodeFormerRestorer(Restorer):
    """Stages 2 and 3; stage 1 is :class:`~lafr_arch.vq_autoencoder_arch.VQAutoencoder`, whose sizes it must have.

    Stage 2 trains encoder and Transformer to give the codes that the frozen encoder of stage 1 gives of the original:
    cross-entropy of the codes, and the squared distance of the encoder's features from these codes. Stage 3 adds the
    feature transformations and the losses of images, at weight 1. Codebook and decoder stay those of stage 1.

    Args:
        image_size, ch, ch_mult, num_res_blocks, codes, code_dim, heads: as for VQAutoencoder.
        stage: 2 or 3.
        vq_weights: checkpoint of stage 1; needed by stage 2.
        start: checkpoint of stage 2; needed by stage 3.
        layers, width: of the Transformer.
        fuse_sizes: sides of the maps that are transformed in stage 3.
        weight: fidelity weight w where none is asked for, 0 (quality) to 1 (fidelity).
        code_weight: weight of the cross-entropy.
        feature_weight: weight of the features' distance.
    """

    weight_means = "network"

    def __init__(
        self,
        image_size: int = 512,
        ch: int = 64,
        ch_mult: Sequence[int] = (1, 2, 2, 4, 4, 8),
        num_res_blocks: int = 2,
        codes: int = 1024,
        code_dim: int = 256,
        heads: int = 8,
        stage: Literal[2, 3] = 3,
        vq_weights: str | None = None,
        start: str | None = None,
        layers: int = 9,
        width: int = 512,
        fuse_sizes: Sequence[int] = (32, 64, 128, 256),
        weight: float = 0.5,
        code_weight: float = 0.5,
        feature_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.image_size, self.stage, self.weight = image_size, stage, weight
        self.code_weight, self.feature_weight = code_weight, feature_weight
        self.trains_on_images = stage == 3
        vq = VQAutoencoder(image_size, ch, ch_mult, num_res_blocks, codes, code_dim, heads)
        self.form = {**vq.form, "stage": stage, "layers": layers, "width": width, "fuse_sizes": list(fuse_sizes)}
        if vq_weights is not None:
            load_start(vq, vq_weights, "vq_weights")
        self.vq = vq
        self.teacher: nn.Module | None = None  # the encoder of stage 1, which knows the good faces' codes
        side = image_size >> (len(ch_mult) - 1)
        self.positions = nn.Parameter(torch.randn(side * side, width) * 0.02)
        self.embed = nn.Linear(code_dim, width)
        self.layers = nn.ModuleList(TransformerLayer(width, 8) for _ in range(layers))
        self.logits = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, codes, bias=False))
        self.fuse = nn.ModuleDict()
        for level, factor in enumerate(ch_mult[:-1]):
            if stage == 3 and image_size >> level in fuse_sizes:
                self.fuse[str(level)] = FeatureTransformation(ch * factor)
        self.teacher = nn.ModuleList([copy.deepcopy(vq.encoder), copy.deepcopy(vq.quant_conv)])
        if start is not None:
            load_start(self, start, "start")
        for part in (vq.decoder, vq.post_quant_conv, vq.quantize, self.teacher):
            part.requires_grad_(False)

    def arguments(self) -> dict[str, Any]:
        """See :class:`Restorer`."""
        return {**self.form, "weight": self.weight}

    def forward(self, lq: Tensor, gt: Tensor | None = None, weight: float | None = None) -> Any:
        """See :class:`Restorer`; ``weight`` is the fidelity weight of this call."""
        features, maps = self.vq.encode(lq)
        tokens = self.embed(features.flatten(2).transpose(1, 2))
        for layer in self.layers:
            tokens = layer(tokens, self.positions)
        logits = self.logits(tokens)
        side = features.shape[-1]
        codes = self.vq.quantize.codes_of(logits.argmax(-1).unflatten(1, (side, side)))
        if gt is None:
            return self._decode(codes, maps, self.weight if weight is None else weight).clamp(0, 1)
        losses = self._code_losses(features, logits, gt)
        if self.stage == 2:
            return None, losses
        return self._decode(codes, maps, 1.0), losses

    def _code_losses(self, features: Tensor, logits: Tensor, gt: Tensor) -> Losses:
        encoder, quant_conv = self.teacher  # type: ignore[misc]  # set by the constructor
        with torch.no_grad():
            indices = self.vq.quantize.nearest(quant_conv(encoder(2 * gt - 1)["out"]))
            codes = self.vq.quantize.codes_of(indices)
        entropy = F.cross_entropy(logits.flatten(0, 1).float(), indices.flatten())
        distance = F.mse_loss(features.float(), codes)
        return {"l_code": self.code_weight * entropy, "l_feature_code": self.feature_weight * distance}

    def _decode(self, codes: Tensor, maps: dict[str, Tensor], weight: float) -> Tensor:
        """Codes (B, D, h, w) -> the image in [0, 1], not clamped."""
        decoder: Any = self.vq.decoder
        h = decoder.conv_in(self.vq.post_quant_conv(codes))
        h = decoder.mid.block_2(decoder.mid.attn_1(decoder.mid.block_1(h, None)), None)
        for level in reversed(range(decoder.num_resolutions)):
            up = decoder.up[level]
            for index, block in enumerate(up.block):
                h = block(h, None)
                if len(up.attn) > 0:
                    h = up.attn[index](h)
            if str(level) in self.fuse and weight > 0:
                h = self.fuse[str(level)](h, maps[f"block_{level}"], weight)
            if level != 0:
                h = up.upsample(h)
        return (decoder.conv_out(F.silu(decoder.norm_out(h))) + 1) / 2
