"""LAFRUNetModel: stage 2, LoRA on the UNet under the multilevel loss (LAFR, 2.4)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from lafr_arch.lafr_arch import trains
from lafr_arch.lora_strengths import ADAPTERS
from lafr_base.option_keys import Key
from lafr_base.registry import MODEL_REGISTRY
from lafr_models.build import build_network
from lafr_models.image_training import ImageTrainingModel, cut, random_corner
from lafr_models.training import log_sizes

# Latent positions at the edge of a decoded crop whose pixels are left out of the losses: the decoder lacks what is
# around them, except at the edge of the face itself.
_MARGIN = 1


def _inner(start: int, side: int, size: int, scale: int) -> slice:
    """What counts of a crop of ``side`` latent positions at ``start`` of ``size``, in pixels, ``scale`` a position."""
    return slice(scale * _MARGIN if start > 0 else 0, scale * (side - (_MARGIN if start + side < size else 0)))


@MODEL_REGISTRY.register()
class LAFRUNetModel(ImageTrainingModel):
    """Fine-tune ``network_g``'s UNet (LoRA, or all of it) on restored images.

    Encoder and adapter are frozen, and so is the decoder unless ``network_g: train_decoder`` says otherwise; a fidelity
    path trains. ``train: train_alignment: true`` trains the adapter through the UNet as well.

    Losses: the image losses of ``train:`` between the restored face and ``gt``, plus ``latent_weight`` times the L1
    distance between the restored latent and that of ``gt`` (0 by default; costs no decoding). ``decode_crop``: side,
    in latent positions, of the random part that is decoded for the image losses; the whole face by default. The
    decoder is more than half of the work, so a crop of half the side takes less than half the time. ``decode_focus``:
    share of these parts that are centred on an eye or a corner of the mouth (0). Losses that look at a whole face need
    all of it: they count in every ``whole_face_every``-th step, which decodes whole faces (0: never); the other losses
    see a part in these steps, too.

    With ``network_g: semantic_lora`` two LoRAs train one after the other, as in PiSA-SR: for ``pixel_iter`` iterations
    that of ``lora`` alone, under ``pixel_opt`` alone; then the semantic one alone, under all losses.

    At the end the network is also written, deployed (LoRA merged), to ``experiments/NAME/deployed``; two LoRAs are kept
    there beside what they are merged into, so that each can be given a strength.
    """

    TRAIN_KEYS: ClassVar[tuple[Key, ...]] = (
        Key("latent_weight", float, 0, "weight of the L1 distance of the restored latents from those of gt"),
        Key("decode_crop", int, None, "side, in latent positions, of the random part that is decoded; all by default"),
        Key("decode_focus", float, 0, "share of these parts that are centred on an eye or a corner of the mouth"),
        Key("whole_face_every", int, 0, "every so many steps a whole face is decoded, and losses of whole faces count"),
        Key("train_alignment", bool, False, "train the alignment module, too"),
        Key("pixel_iter", int, 0, "iterations of the LoRA of `lora`, before that of `semantic_lora`; needed by it"),
    )
    trained_lora: str | None = None
    """Of two LoRAs the one that trains in this iteration: ``pixel`` or ``semantic``."""

    @classmethod
    def faults(cls, opt: Mapping[str, Any]) -> list[str]:
        """Also two LoRAs that are not told apart."""
        faults = super().faults(opt)
        train, two = opt.get("train"), opt["network_g"].get("semantic_lora") is not None
        if train is None:
            return faults
        first, total = train.get("pixel_iter") or 0, train.get("total_iter")
        if two and (train.get("pixel_opt") is None or not isinstance(first, int) or first < 1):
            faults.append("train: network_g: semantic_lora needs pixel_iter, of 1 or more, and pixel_opt")
        elif two and isinstance(total, int) and first >= total:
            faults.append(f"train: pixel_iter: {first} leaves none of {total} iterations to the semantic LoRA")
        elif first and not two:
            faults.append("train: pixel_iter is for two LoRAs: network_g: semantic_lora is missing")
        return faults

    def build(self) -> None:
        net = build_network(self.opt["network_g"])
        if net.alignment is not None:
            net.alignment.requires_grad_(self.option("train_alignment"))
        self.net_g = self.model_to_device(net)
        log_sizes(self.opt["network_g"])
        if not self.is_train:
            return
        self.build_image_losses()
        self.latent_weight = self.option("latent_weight")
        self.decode_crop = self.decode_crop_option()
        self.decode_focus = self.option("decode_focus")
        self.whole_face_every = self.option("whole_face_every")
        self.pixel_iter = self.option("pixel_iter")

    def losses(self, data: dict[str, Any], current_iter: int) -> dict[str, Tensor]:
        with torch.set_grad_enabled(trains(self.bare_g.vae.encoder)):
            latent, maps = self.bare_g.encode_with_maps(data["lq"])
        latent = self.net_g(data["lq"], output="restored", latent=latent)
        if self.pixel_iter > 0:
            self.trained_lora = "pixel" if current_iter <= self.pixel_iter else "semantic"
        if self.trained_lora == "pixel":
            return self._decode(latent, maps, data["gt"], current_iter, only="pixel")
        latent_losses = self.latent_losses(latent, data)
        image_losses = self._decode(latent, maps, data["gt"], current_iter)
        return {**self.with_adversarial(image_losses, current_iter), **latent_losses}

    def discriminator_losses(self, data: dict[str, Any], current_iter: int) -> dict[str, Tensor]:
        return {} if self.trained_lora == "pixel" else super().discriminator_losses(data, current_iter)

    def _step(self, losses: dict[str, Tensor]) -> None:
        """Of two LoRAs, the one whose turn it is not gets no gradient; it stays among what is saved and resumed."""
        for name, adapter in ADAPTERS.items() if self.trained_lora is not None else ():
            if name != self.trained_lora:
                for key, parameter in self.bare_g.unet.named_parameters():
                    if ".lora_" in key and f".{adapter}." in key:
                        parameter.grad = None
        super()._step(losses)

    def latent_losses(self, latent: Tensor, data: dict[str, Any]) -> dict[str, Tensor]:
        """Losses of the restored latents (B, C, h, w) themselves."""
        if self.latent_weight <= 0:
            return {}
        with torch.no_grad():
            target = self.bare_g.encode(data["gt"])
        return {"l_latent": self.latent_weight * F.l1_loss(latent, target)}

    def _decode(
        self, latent: Tensor, maps: list[Tensor], gt: Tensor, current_iter: int, only: str | None = None
    ) -> dict[str, Tensor]:
        """Decode the latent, or a random part, into ``output`` and ``target``; return its losses, or one alone."""
        corner = random_corner(latent, self.decode_crop, self.decode_focus)
        if self.decode_crop is None or corner is None:
            self.output, self.target = self.bare_g.decode(latent, maps), gt
            return self.image_losses(self.output, self.target, only=only)
        side = self.decode_crop
        whole: dict[str, Tensor] = {}
        if only is None and self.whole_face_every > 0 and current_iter % self.whole_face_every == 0:
            face = self.bare_g.decode(latent, maps)
            whole = self.image_losses(face, gt, whole_face=True)
            image = cut(face, latent, corner, side)
        else:
            image = self.bare_g.decode(cut(latent, latent, corner, side), [cut(x, latent, corner, side) for x in maps])
        scale, (rows, columns) = image.shape[-1] // side, latent.shape[-2:]
        pixels = (..., _inner(corner[0], side, rows, scale), _inner(corner[1], side, columns, scale))
        self.output, self.target = image[pixels], cut(gt, latent, corner, side)[pixels]
        return {**self.image_losses(self.output, self.target, whole_face=False, only=only), **whole}

    def restore(self, lq: Tensor) -> Tensor:
        return self.bare_g(lq).clamp(0, 1)

    def write_result(self, folder: Path) -> str:
        self.bare_g.save_pretrained(folder / "deployed")
        return "deployed"
