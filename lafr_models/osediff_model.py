"""OSEDiffModel: the one-step restorer OSEDiff (Wu et al., 2024), which LAFR starts from, as a baseline to train."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from basicsr.utils import get_root_logger
from basicsr.utils.dist_util import master_only
from torch import Tensor, nn

from lafr_base.option_keys import REQUIRED, Key
from lafr_base.registry import MODEL_REGISTRY
from lafr_models.build import build_network
from lafr_models.ema import trained_state
from lafr_models.lafr_unet_model import LAFRUNetModel
from lafr_models.stage_keys import NetworkKey
from lafr_models.training import save_whole


@MODEL_REGISTRY.register()
class OSEDiffModel(LAFRUNetModel):
    """Train ``network_g``, a LAFRNet without alignment, under image losses and variational score distillation.

    OSEDiff is that network with ``prune: false``, ``lora: {rank: 4, targets: all, train: [conv_in]}``,
    ``vae_lora: {rank: 4}`` and ``sample_latent: true``; ``network_vsd`` is a
    :class:`~lafr_arch.vsd_arch.ScoreDistillation`, by default of the same base model and prompt. Its own LoRA is
    trained beside the restorer, by ``optim_vsd``. The prompt is fixed; the original asks a tagger (RAM) for one each
    image.

    Losses: those of :class:`~lafr_models.lafr_unet_model.LAFRUNetModel`, ``vsd_weight`` (1) times the distillation
    loss, and ``vsd_lora_weight`` (1) times the denoising loss of the LoRA of ``network_vsd``. Neither of the two
    optimizers' parameters gets a gradient from the other's losses.

    At the end the network is also written, deployed (LoRA merged, prompt folded), to ``experiments/NAME/deployed``.
    """

    TRAIN_KEYS: ClassVar[tuple[Key, ...]] = (
        Key("optim_vsd", Mapping, REQUIRED, "optimizer of the LoRA of network_vsd"),
        Key("vsd_weight", float, 1, "weight of the distillation loss"),
        Key("vsd_lora_weight", float, 1, "weight of the denoising loss of the LoRA of network_vsd"),
    )
    NETWORKS: ClassVar[tuple[NetworkKey, ...]] = (
        NetworkKey("network_vsd", Mapping, None, "the network of the distillation", filled=("base_model", "prompt")),
    )

    @classmethod
    def faults(cls, opt: Mapping[str, Any]) -> list[str]:
        faults = super().faults(opt)
        if opt["network_g"].get("alignment") is not None:
            faults.append("network_g: alignment: OSEDiff has none; leave it out, or train with LAFRUNetModel")
        if opt.get("train") is not None and opt.get("network_vsd") is None:
            faults.append("network_vsd: is missing; give {type: ScoreDistillation, lora: {rank: 4, targets: all}}")
        return faults

    def build(self) -> None:
        super().build()
        self.get_bare_model(self.net_g).weight_means = "none"  # deployed, it is run as published
        if not self.is_train:
            return
        same = {key: value for key, value in self.opt["network_g"].items() if key in ("base_model", "prompt")}
        self.net_vsd = self.model_to_device(build_network({**same, **self.opt["network_vsd"]}))
        path = self.opt["path"].get("pretrain_network_vsd")
        if path is not None:
            self.load_network(self.net_vsd, path)
        self.vsd_weight, self.vsd_lora_weight = self.option("vsd_weight"), self.option("vsd_lora_weight")
        count = sum(p.numel() for p in self.net_vsd.parameters() if p.requires_grad)
        get_root_logger().info(f"ScoreDistillation: {count:,} parameters train, besides the network's")

    def latent_losses(self, latent: Tensor, data: dict[str, Any]) -> dict[str, Tensor]:
        losses = super().latent_losses(latent, data)
        losses["l_vsd"] = self.vsd_weight * self.get_bare_model(self.net_vsd).distillation_loss(latent)
        losses["l_vsd_lora"] = self.vsd_lora_weight * self.net_vsd(latent)
        return losses

    def _optimizer(self, key: str, net: nn.Module) -> torch.optim.Optimizer:
        optimizer = super()._optimizer(key, net)
        if key == "optim_g":
            self.net_vsd.train()
            super()._optimizer("optim_vsd", self.net_vsd)
        return optimizer

    @master_only
    def save(self, epoch: int, current_iter: int) -> None:
        super().save(epoch, current_iter)
        label = "latest" if current_iter == -1 else str(current_iter)
        state = {name: value.cpu() for name, value in trained_state(self.get_bare_model(self.net_vsd)).items()}
        save_whole({"params": state}, Path(self.opt["path"]["models"]) / f"net_vsd_{label}.pth")
