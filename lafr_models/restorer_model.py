"""RestorerModel: trains the rivals GFPGAN, CodeFormer (its three stages) and RestoreFormer in this framework."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from basicsr.utils.dist_util import master_only
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from lafr_arch.component_arch import gram
from lafr_base.option_keys import Key
from lafr_base.registry import MODEL_REGISTRY
from lafr_models.build import build_network
from lafr_models.image_training import ImageTrainingModel
from lafr_models.stage_keys import NetworkKey
from lafr_models.training import save_whole


@MODEL_REGISTRY.register()
class RestorerModel(ImageTrainingModel):
    """Train ``network_g``, a :class:`~lafr_arch.restorer_base.Restorer`, by its own losses and those of ``train:``.

    A critic (``network_d``, ``gan_opt``) may have R1 regularisation; ``network_components`` adds critics of eyes and
    mouth. At the end the network is also written to ``experiments/NAME/deployed``, a folder that ``lafr compare`` and
    ``--model`` take.
    """

    NEEDS_IMAGE_LOSS: ClassVar[bool] = False
    TRAIN_KEYS: ClassVar[tuple[Key, ...]] = (
        Key("r1_weight", float, 0, "weight of the critic's squared gradient at real images (R1)"),
        Key("r1_every", int, 16, "iterations between two steps with it; it counts so many times as much"),
        Key("optim_components", Mapping, None, "optimizer of network_components"),
        Key("component_weight", float, 1, "weight of the adversarial losses of eyes and mouth"),
        Key("component_style_weight", float, 200, "weight of the difference of their critics' Gram matrices"),
        Key("component_start", int, 0, "last iteration without the critics of eyes and mouth"),
    )
    NETWORKS: ClassVar[tuple[NetworkKey, ...]] = (
        NetworkKey("network_components", Mapping, None, "critics of eyes and mouth: FaceComponentCritics"),
    )

    net_components: Any = None

    @classmethod
    def faults(cls, opt: Mapping[str, Any]) -> list[str]:
        faults = super().faults(opt)
        train = opt.get("train") or {}
        if opt.get("network_components") is not None and train and train.get("optim_components") is None:
            faults.append("train: optim_components is missing: network_components needs it")
        network = opt["network_g"]
        losses = [key for key, value in train.items() if key.endswith("_opt") and value is not None]
        if network.get("type") == "CodeFormerRestorer" and network.get("stage") == 2 and losses:
            faults.append(f"train: {', '.join(losses)}: stage 2 of CodeFormer makes no images; leave them out")
        return faults

    def build(self) -> None:
        self.net_g = self.model_to_device(build_network(self.opt["network_g"]))
        if not self.is_train:
            return
        if any(key.endswith("_opt") and value is not None for key, value in self.opt["train"].items()):
            self.build_image_losses()
        if self.opt.get("network_components") is not None:
            self.net_components = self.model_to_device(build_network(self.opt["network_components"]))
            path = self.opt["path"].get("pretrain_network_components")
            if path is not None:
                self.load_network(self.net_components, path)

    def losses(self, data: dict[str, Any], current_iter: int) -> dict[str, Tensor]:
        image, own = self.net_g(data["lq"], data["gt"])
        self.output, self.target = image, data["gt"]
        if image is None:
            return own
        losses = {**self.image_losses(image, data["gt"]), **own}
        losses = self.with_adversarial(losses, current_iter)
        if self._components_count(current_iter):
            losses.update(self._component_losses(image, data["gt"]))
        return losses

    def _components_count(self, current_iter: int) -> bool:
        return self.net_components is not None and current_iter > self.option("component_start")

    def _component_losses(self, image: Tensor, gt: Tensor) -> dict[str, Tensor]:
        self.net_components.requires_grad_(False)
        made = self.net_components(image)
        with torch.no_grad():
            real = self.net_components(gt)
        adversarial = [F.softplus(-logits.float()).mean() for logits, _ in made.values()]
        style = [
            F.l1_loss(gram(a), gram(b)) for part in made for a, b in zip(made[part][1], real[part][1], strict=True)
        ]
        return {
            "l_components": self.option("component_weight") * torch.stack(adversarial).sum(),
            "l_component_style": self.option("component_style_weight") * torch.stack(style).sum(),
        }

    def discriminator_losses(self, data: dict[str, Any], current_iter: int) -> dict[str, Tensor]:
        losses = super().discriminator_losses(data, current_iter)
        weight, every = self.option("r1_weight"), self.option("r1_every")
        if losses and weight > 0 and current_iter % every == 0:
            losses["l_r1"] = weight * every * self._gradient_penalty(data["gt"])
        if self._components_count(current_iter):
            self.net_components.requires_grad_(True)
            real, made = self.net_components(data["gt"]), self.net_components(self.output.detach())
            parts = [F.softplus(-real[p][0].float()).mean() + F.softplus(made[p][0].float()).mean() for p in real]
            losses["l_component_critics"] = torch.stack(parts).sum()
        return losses

    def _gradient_penalty(self, gt: Tensor) -> Tensor:
        """Half the mean squared norm of the critic's gradient at real images (Mescheder et al., 2018)."""
        image = gt.detach().clone().requires_grad_(True)
        logits = self.get_bare_model(self.net_d)(image)
        (gradient,) = torch.autograd.grad(logits.sum(), image, create_graph=True)
        return gradient.square().sum(dim=(1, 2, 3)).mean() / 2

    def restore(self, lq: Tensor) -> Tensor:
        return self.bare_g(lq).clamp(0, 1)

    def _optimizer(self, key: str, net: nn.Module) -> torch.optim.Optimizer:
        optimizer = super()._optimizer(key, net)
        if key == "optim_g" and self.net_components is not None:
            self.net_components.train()
            super()._optimizer("optim_components", self.net_components)
        return optimizer

    @master_only
    def save(self, epoch: int, current_iter: int) -> None:
        super().save(epoch, current_iter)
        if self.net_components is not None:
            label = "latest" if current_iter == -1 else str(current_iter)
            state = {"params": self.get_bare_model(self.net_components).state_dict()}
            save_whole(state, Path(self.opt["path"]["models"]) / f"net_components_{label}.pth")

    def write_result(self, folder: Path) -> str:
        self.bare_g.save_pretrained(folder / "deployed")
        return "deployed"
