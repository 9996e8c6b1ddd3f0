"""RestoreFormer (Wang et al., 2022): a damaged face attends to a dictionary of good ones; to be trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lafr_arch.restorer_base import Restorer, load_start, spandrel_module
from lafr_arch.vq_autoencoder_arch import VQAutoencoder, check_form
from lafr_base.registry import ARCH_REGISTRY


@ARCH_REGISTRY.register()
class RestoreFormerRestorer(Restorer):
    """The published network (its code comes with spandrel, Apache-2.0), at any size.

    It starts from a :class:`~lafr_arch.vq_autoencoder_arch.VQAutoencoder` of the same sizes, whose codes are its
    dictionary and stay as they are. Its own loss is the encoder's commitment to these codes.

    Args:
        image_size, ch, ch_mult, num_res_blocks, codes, code_dim, heads, commitment_weight: as for VQAutoencoder.
        vq_weights: checkpoint of the VQAutoencoder; without it the dictionary is random, which serves tests alone.
    """

    def __init__(
        self,
        image_size: int = 512,
        ch: int = 64,
        ch_mult: Sequence[int] = (1, 2, 2, 4, 4, 8),
        num_res_blocks: int = 2,
        codes: int = 1024,
        code_dim: int = 256,
        heads: int = 8,
        vq_weights: str | None = None,
        commitment_weight: float = 0.25,
    ) -> None:
        super().__init__()
        self.image_size, self.commitment_weight = image_size, commitment_weight
        self.form: dict[str, Any] = {
            "image_size": image_size,
            "ch": ch,
            "ch_mult": list(ch_mult),
            "num_res_blocks": num_res_blocks,
            "codes": codes,
            "code_dim": code_dim,
            "heads": heads,
        }
        check_form("RestoreFormerRestorer", self.form)
        kind = spandrel_module("RestoreFormer.__arch.restoreformer_arch").RestoreFormer
        self.model: Any = kind(
            n_embed=codes,
            embed_dim=code_dim,
            ch=ch,
            ch_mult=tuple(ch_mult),
            num_res_blocks=num_res_blocks,
            attn_resolutions=(image_size >> (len(ch_mult) - 1),),
            resolution=image_size,
            z_channels=code_dim,
            head_size=heads,
            fix_codebook=True,
        )
        if vq_weights is not None:
            self._start(vq_weights)

    def _start(self, path: str) -> None:
        vq = VQAutoencoder(**self.form)
        load_start(vq, path, "vq_weights")
        for name in ("encoder", "decoder", "quant_conv", "post_quant_conv"):
            getattr(self.model, name).load_state_dict(getattr(vq, name).state_dict())
        with torch.no_grad():
            self.model.quantize.embedding.weight.copy_(vq.quantize.codes)

    def arguments(self) -> dict[str, Any]:
        """See :class:`Restorer`."""
        return dict(self.form)

    def forward(self, lq: Tensor, gt: Tensor | None = None) -> Any:
        """See :class:`Restorer`."""
        codes, commitment, _, maps = self.model.encode(2 * lq - 1)
        image = (self.model.decode(codes, maps) + 1) / 2
        if gt is None:
            return image.clamp(0, 1)
        return image, {"l_commitment": self.commitment_weight * commitment}
