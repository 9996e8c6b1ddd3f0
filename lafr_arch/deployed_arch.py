"""DeployedLAFRNet: a deployed folder as the network of an option file, to be tested or trained further."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from basicsr.utils.registry import ARCH_REGISTRY
from torch import nn

from lafr_arch.lafr_arch import LAFRNet
from lafr_arch.lora import add_lora


@ARCH_REGISTRY.register()
class DeployedLAFRNet(LAFRNet):
    """A deployed network as ``network_g`` of an option file: ``{type: DeployedLAFRNet, folder: FOLDER}``.

    With ``lora``, ``train_unet``, ``train_decoder`` or a fidelity path stage 2 goes on from it, without the base model
    that it was made of. What is added starts as doing nothing.

    Args:
        folder: what :meth:`LAFRNet.save_pretrained` or ``lafr export`` wrote.
        lora: as for :class:`LAFRNet`.
        train_unet: as for :class:`LAFRNet`.
        train_decoder: as for :class:`LAFRNet`.
        fidelity: as for :class:`LAFRNet`; for a folder that has a path, leave it out: the path trains where anything
            else but LoRA does.
        grow_decoder: channels of a further size in the decoder; see :meth:`MiniAutoencoder.grown`.
        image_size: side of the faces from now on, in pixels; the folder's by default.
    """

    def __init__(
        self,
        folder: str,
        lora: Mapping[str, Any] | None = None,
        train_unet: bool = False,
        train_decoder: bool = False,
        fidelity: Mapping[str, Any] | None = None,
        grow_decoder: int | None = None,
        image_size: int | None = None,
    ) -> None:
        if lora is not None and train_unet:
            raise ValueError("network_g: lora and train_unet: true exclude each other")
        nn.Module.__init__(self)
        self._read_deployed(folder)
        if fidelity is not None and self.fidelity is not None:
            raise ValueError(f"network_g: fidelity: {folder} has such a path already; leave it out")
        if grow_decoder is not None:
            self.vae = self.vae.grown(grow_decoder).requires_grad_(False)
        if fidelity is not None:
            self._set_fidelity(fidelity)
        self.image_size = image_size or self.image_size
        self.unet.requires_grad_(train_unet)
        self.vae.decoder.requires_grad_(train_decoder)
        if self.fidelity is not None:
            self.fidelity.requires_grad_(fidelity is not None or train_unet or train_decoder)
        if lora is not None:
            add_lora(self.unet, **lora)
