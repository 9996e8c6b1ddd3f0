"""VQAutoencoder: faces as a grid of codes (VQGAN, Esser et al., 2021); what CodeFormer and RestoreFormer start from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from lafr_arch.restorer_base import Losses, Restorer, spandrel_module
from lafr_base.registry import ARCH_REGISTRY

SIZES = ("image_size", "ch", "ch_mult", "num_res_blocks", "codes", "code_dim", "heads")


class Quantizer(nn.Module):
    """Nearest codes of a codebook (VQ-VAE, van den Oord et al., 2017).

    In training the codes start as vectors of the first batch, and a code that nothing has been near for long takes the
    place of a vector of the batch.

    Args:
        codes: number of codes.
        dim: length of a code.
        patience: training steps after which an idle code is moved.
    """

    idle: Tensor
    started: Tensor

    def __init__(self, codes: int, dim: int, patience: int = 200) -> None:
        super().__init__()
        self.patience = patience
        self.codes = nn.Parameter(torch.randn(codes, dim) / dim**0.5)
        self.register_buffer("idle", torch.zeros(codes))
        self.register_buffer("started", torch.zeros(()))

    def nearest(self, z: Tensor) -> Tensor:
        """Vectors (B, D, h, w) -> indices (B, h, w) of their nearest codes."""
        rows = z.float().permute(0, 2, 3, 1)
        flat = rows.reshape(-1, rows.shape[-1])
        distance = self.codes.square().sum(1) - 2 * flat @ self.codes.T
        return distance.argmin(1).view(rows.shape[:-1])

    def codes_of(self, indices: Tensor) -> Tensor:
        """Indices (B, h, w) -> codes (B, D, h, w)."""
        return self.codes[indices].permute(0, 3, 1, 2)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Vectors (B, D, h, w) -> their codes, whose gradient goes on to the vectors; and two losses.

        Returns:
            Codes; squared distance of the codes from the vectors, for the codes; the same, for the vectors.
        """
        if self.training and self.codes.requires_grad:
            self._move_idle(z.detach().float())
        codes = self.codes_of(self.nearest(z))
        of_codes, of_vectors = F.mse_loss(codes, z.detach().float()), F.mse_loss(z.float(), codes.detach())
        return z + (codes - z).detach(), of_codes, of_vectors

    @torch.no_grad()
    def _move_idle(self, z: Tensor) -> None:
        flat = z.permute(0, 2, 3, 1).reshape(-1, z.shape[1])
        several = torch.distributed.is_available() and torch.distributed.is_initialized()
        used = torch.bincount(self.nearest(z).flatten(), minlength=len(self.codes)).float()
        if several:
            torch.distributed.all_reduce(used)
        self.idle.copy_(torch.where(used > 0, 0.0, self.idle + 1))
        moved = torch.ones_like(self.idle) if self.started == 0 else (self.idle > self.patience)
        places = moved.nonzero().flatten()
        if len(places):
            picks = flat[torch.randint(len(flat), (len(places),)).to(flat.device)]
            picks = picks + 1e-3 * picks.std() * torch.randn_like(picks)  # no two alike
            if several:
                torch.distributed.broadcast(picks, 0)
            self.codes[places] = picks
            self.idle[places] = 0.0
        self.started.fill_(1.0)


def build_coder(kind: str, form: dict[str, Any]) -> Any:
    """An encoder or decoder of the published code of RestoreFormer (which comes with spandrel, Apache-2.0).

    Args:
        kind: its class.
        form: sizes, the keys of :data:`SIZES`.
    """
    levels = len(form["ch_mult"])
    module = spandrel_module("RestoreFormer.__arch.restoreformer_arch")
    double = {"double_z": False} if "Encoder" in kind else {}
    return getattr(module, kind)(
        ch=form["ch"],
        out_ch=3,
        ch_mult=tuple(form["ch_mult"]),
        num_res_blocks=form["num_res_blocks"],
        attn_resolutions=(form["image_size"] >> (levels - 1),),
        resolution=form["image_size"],
        z_channels=form["code_dim"],
        head_size=form["heads"],
        **double,
    )


def check_form(owner: str, form: dict[str, Any]) -> None:
    """Check the sizes of a network of codes.

    Raises:
        ValueError: they do not go together.
    """
    if form["ch"] % 32 or form["ch"] < 32:
        raise ValueError(f"{owner}: ch: {form['ch']} must be a multiple of 32, the groups of its normalisations")
    factor = 1 << (len(form["ch_mult"]) - 1)
    if form["image_size"] % factor:
        raise ValueError(f"{owner}: image_size: {form['image_size']} must be a multiple of {factor}, by ch_mult")


@ARCH_REGISTRY.register()
class VQAutoencoder(Restorer):
    """Encoder, codebook and decoder, trained on good faces alone (``gt_only: true``).

    Its own losses are the codes' distance from what they stand for, and the encoder's commitment to its codes.

    Args:
        image_size: side of the faces.
        ch: channels at full size, a multiple of 32.
        ch_mult: factors of ``ch`` at each size; every one but the last halves the side.
        num_res_blocks: residual blocks at each size.
        codes: number of codes.
        code_dim: length of a code.
        heads: heads of the attention at the smallest size.
        commitment_weight: weight of the commitment.
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
        commitment_weight: float = 0.25,
    ) -> None:
        super().__init__()
        self.image_size = image_size
        self.commitment_weight = commitment_weight
        self.form: dict[str, Any] = {
            "image_size": image_size,
            "ch": ch,
            "ch_mult": list(ch_mult),
            "num_res_blocks": num_res_blocks,
            "codes": codes,
            "code_dim": code_dim,
            "heads": heads,
        }
        check_form("VQAutoencoder", self.form)
        self.encoder = build_coder("MultiHeadEncoder", self.form)
        self.quantize = Quantizer(codes, code_dim)
        self.decoder = build_coder("MultiHeadDecoder", self.form)
        self.quant_conv = nn.Conv2d(code_dim, code_dim, 1)
        self.post_quant_conv = nn.Conv2d(code_dim, code_dim, 1)

    def arguments(self) -> dict[str, Any]:
        """See :class:`Restorer`."""
        return dict(self.form)

    def encode(self, image: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Faces in [0, 1] -> what is looked up in the codebook (B, D, h, w), and the encoder's maps by name."""
        maps = self.encoder(2 * image - 1)
        return self.quant_conv(maps["out"]), maps

    def forward(self, lq: Tensor, gt: Tensor | None = None) -> Any:
        """See :class:`Restorer`."""
        codes, of_codes, of_vectors = self.quantize(self.encode(lq)[0])
        image = (self.decoder(self.post_quant_conv(codes)) + 1) / 2
        if gt is None:
            return image.clamp(0, 1)
        losses: Losses = {"l_codes": of_codes, "l_commitment": self.commitment_weight * of_vectors}
        return image, losses
