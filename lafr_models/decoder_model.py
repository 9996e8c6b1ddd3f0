"""LAFRDecoderModel: distils a small decoder from the frozen one of a trained network."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from basicsr.metrics import calculate_metric
from basicsr.utils import get_root_logger, tensor2img
from torch import Tensor

from lafr_arch.decoder_arch import build_decoder
from lafr_base.option_keys import REQUIRED, Key
from lafr_base.registry import MODEL_REGISTRY
from lafr_models.build import build_network
from lafr_models.image_training import ImageTrainingModel, random_part
from lafr_models.stage_keys import NetworkKey

_PSNR = {"type": "calculate_psnr", "crop_border": 0, "test_y_channel": False}


@MODEL_REGISTRY.register()
class LAFRDecoderModel(ImageTrainingModel):
    """Train a decoder (``network_g``: SmallDecoder or TAESDDecoder) to give the images of ``network_teacher``'s.

    The teacher is a frozen LAFRNet or DeployedLAFRNet. Losses: the image losses of ``train:`` between the images that
    both decoders make of the same latent, against an optional critic (``network_d``) that takes the teacher's for
    real.

    Validation decodes the teacher's restoration of ``lq`` where ``restored_share`` is above 0, else the latent of
    ``lq`` itself. Besides the metrics, which compare with ``gt``, it logs ``psnr_to_teacher``, and ``psnr_of_teacher``
    to ``gt``.

    At the end, if the teacher has a UNet, it is written with the new decoder to ``experiments/NAME/deployed``.
    """

    TRAIN_KEYS: ClassVar[tuple[Key, ...]] = (
        Key("restored_share", float, 0, "share of the latents that the teacher restores from lq; the others are of gt"),
        Key("latent_noise", float, 0, "standard deviation of noise on the latents, relative to their own"),
        Key("gt_weight", float, 0, "weight of the same losses against gt, for latents that are its"),
        Key("decode_crop", int, None, "side, in latent positions, of the random part that is decoded; all by default"),
    )
    NETWORKS: ClassVar[tuple[NetworkKey, ...]] = (
        NetworkKey("network_g", Mapping, REQUIRED, "the decoder", filled=("latent_channels", "scaling_factor")),
        NetworkKey("network_teacher", Mapping, None, "a LAFRNet or DeployedLAFRNet whose decoder is the teacher"),
    )

    @classmethod
    def faults(cls, opt: Mapping[str, Any]) -> list[str]:
        faults = super().faults(opt)
        if not opt.get("network_teacher"):
            faults.append("network_teacher: is missing; give a LAFRNet or DeployedLAFRNet whose decoder is the teacher")
        share = (opt.get("train") or {}).get("restored_share", 0)
        if isinstance(share, (int, float)) and not 0 <= share <= 1:
            faults.append(f"train: restored_share: {float(share)} is not in 0..1")
        return faults

    def build(self) -> None:
        self.teacher: Any = build_network(self.opt["network_teacher"]).eval().requires_grad_(False).to(self.device)
        # Shares the teacher's weights.
        self.fast_teacher: Any = self.teacher.for_inference()
        self.net_g = self.model_to_device(build_decoder(self.opt["network_g"], self.teacher.vae.config))
        self.restored_share = self.option("restored_share")
        if self.restored_share > 0 and self.teacher.unet is None:
            raise ValueError("train: restored_share: network_teacher has no UNet to restore with (with_unet: false)")
        self.to_teacher: list[float] = []
        self.of_teacher: list[float] = []
        if not self.is_train:
            return
        self.build_image_losses()
        self.latent_noise = self.option("latent_noise")
        self.gt_weight = self.option("gt_weight")
        self.decode_crop = self.decode_crop_option()

    def losses(self, data: dict[str, Any], current_iter: int) -> dict[str, Tensor]:
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            latent, restored = self._latents(data)
            latent, gt = random_part(latent, data["gt"], self.decode_crop)
            self.target = self.fast_teacher.decode(latent)
        self.output = self._decode(latent)
        losses = self.image_losses(self.output, self.target)
        if self.gt_weight > 0:
            for name, value in self._gt_losses(gt, ~restored).items():
                losses[f"{name}_gt"] = self.gt_weight * value
        return self.with_adversarial(losses, current_iter)

    def _latents(self, data: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Scaled latents (B, C, h, w), and which of them are restored, (B,) bool."""
        restored = (torch.rand(len(data["gt"])) < self.restored_share).to(self.device)
        parts = []
        if restored.any():
            parts.append((restored, self.fast_teacher(data["lq"][restored], output="restored")))
        if not restored.all():
            parts.append((~restored, self.fast_teacher.encode(data["gt"][~restored])))
        latent = parts[0][1].new_empty(len(restored), *parts[0][1].shape[1:])
        for chosen, value in parts:
            latent[chosen] = value
        if self.latent_noise > 0:
            latent = latent + self.latent_noise * latent.std() * torch.randn_like(latent)
        return latent, restored

    def _decode(self, latent: Tensor) -> Tensor:
        """Scaled latents -> the small decoder's images (B, 3, 8h, 8w), nominally in [0, 1]."""
        image: Tensor = self.net_g(latent / self.teacher.vae.config.scaling_factor)
        return (image + 1) / 2

    def _gt_losses(self, gt: Tensor, chosen: Tensor) -> dict[str, Tensor]:
        if chosen.any():
            return self.image_losses(self.output[chosen], gt[chosen])
        # Every process logs the same losses.
        return {f"l_{name}": 0 * self.output.sum() for name in self.image_losses.terms}

    def restore(self, lq: Tensor) -> Tensor:
        latent = self.fast_teacher(lq, output="restored") if self.restored_share > 0 else self.fast_teacher.encode(lq)
        self.teacher_output: Tensor = self.fast_teacher.decode(latent).clamp(0, 1)
        return self._decode(latent).clamp(0, 1)

    def test(self) -> None:
        super().test()
        teacher = tensor2img([self.teacher_output.cpu()])
        self.to_teacher.append(calculate_metric({"img": tensor2img([self.output.cpu()]), "img2": teacher}, _PSNR))
        if "gt" in self.data:
            gt = tensor2img([self.data["gt"].cpu()])
            self.of_teacher.append(calculate_metric({"img": teacher, "img2": gt}, _PSNR))

    def nondist_validation(self, dataloader: Any, current_iter: int, tb_logger: Any, save_img: bool) -> None:
        self.to_teacher, self.of_teacher = [], []
        super().nondist_validation(dataloader, current_iter, tb_logger, save_img)
        name = dataloader.dataset.opt["name"]
        for metric, values in (("psnr_to_teacher", self.to_teacher), ("psnr_of_teacher", self.of_teacher)):
            if not values:
                continue
            self.metric_results[metric] = sum(values) / len(values)
            get_root_logger().info(f"Validation {name}\t # {metric}: {self.metric_results[metric]:.4f}")
            if tb_logger:
                tb_logger.add_scalar(f"metrics/{name}/{metric}", self.metric_results[metric], current_iter)

    def write_result(self, folder: Path) -> str | None:
        if self.teacher.unet is None:
            return None
        network = copy.deepcopy(self.teacher).deploy()
        network.set_decoder(self.opt["network_g"])
        network.decoder.load_state_dict(self.bare_g.state_dict())
        network.cpu().save_pretrained(folder / "deployed")
        return "deployed"
