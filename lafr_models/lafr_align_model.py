"""LAFRAlignModel: stage 1, the latent alignment adapter alone (LAFR, 2.3)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from basicsr.utils import get_root_logger
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from lafr_arch.codebook import Codebook
from lafr_base.option_keys import Key
from lafr_base.registry import MODEL_REGISTRY
from lafr_models.build import build_network
from lafr_models.latent_cache import LatentCache, cache_faults
from lafr_models.latent_distance import LatentDistances, moment_distance
from lafr_models.training import TrainingModel, log_sizes


@MODEL_REGISTRY.register()
class LAFRAlignModel(TrainingModel):
    """Train ``network_g``'s alignment module so that latents of LQ faces fall on those of HQ faces.

    Loss: ``|A(z_lq) - z_hq|_1``, the mean over elements. L1 alone draws uncertain latents together, so that their
    distribution can end up further from the HQ latents' than it was: ``moment_weight`` (0, the paper's form) adds
    that many times the mean absolute difference of the batch's channel means and covariances, after iteration
    ``moment_start`` (0). Everything else is frozen. The first step sets the codebook to the k-means centres of HQ
    features, unless ``path: pretrain_network_g`` brings one; every ``reseed_every`` steps, until ``reseed_until``,
    codes that have died are moved onto features of the current batch. TensorBoard gets the codebook's perplexity and
    used fraction, and validation the distances of :class:`~lafr_models.latent_distance.LatentDistances` before and
    after alignment.
    """

    TRAIN_KEYS: ClassVar[tuple[Key, ...]] = (
        Key("moment_weight", float, 0, "weight of the difference of the batch's channel means and covariances"),
        Key("moment_start", int, 0, "last iteration without it"),
        Key("reseed_every", int, 100, "iterations after which dead codes move onto features of the batch; 0: never"),
        Key("reseed_until", int, None, "last iteration that moves dead codes; half of total_iter by default"),
        Key("latent_cache", str, None, "folder to keep HQ latents in, and LQ latents with the dataset's n_draws"),
    )

    @classmethod
    def faults(cls, opt: Mapping[str, Any]) -> list[str]:
        faults = [*super().faults(opt), *cache_faults(opt)]
        if opt["network_g"].get("alignment") is None:
            faults.append("network_g: alignment: stage 1 needs an alignment module to train")
        return faults

    def build(self) -> None:
        net = build_network(self.opt["network_g"])
        net.requires_grad_(False)
        net.alignment.requires_grad_(True)
        self.net_g = self.model_to_device(net)
        self.codebooks = [module for module in net.alignment.modules() if isinstance(module, Codebook)]
        if self.is_train:
            self.moment_weight, self.moment_start = self.option("moment_weight"), self.option("moment_start")
            self.reseed_every, until = self.option("reseed_every"), self.option("reseed_until")
            self.reseed_until = self.opt["train"]["total_iter"] // 2 if until is None else until
            self.latent_cache = LatentCache.from_options(self.opt, net)
        log_sizes(self.opt["network_g"])
        self.distances: LatentDistances | None = None

    def _hq_latents(self, images: Tensor) -> Tensor:
        """Latents of HQ images, from the cache where there is one."""
        with torch.no_grad():
            return self.bare_g.encode(images) if self.latent_cache is None else self.latent_cache.encode(images)

    def _lq_latents(self, images: Tensor) -> Tensor:
        """Latents of LQ images, from the cache where they come back."""
        if self.latent_cache is not None and self.latent_cache.keep_lq:
            return self.latent_cache.encode(images)
        with torch.no_grad():
            return self.bare_g.encode(images)

    def losses(self, data: dict[str, Any], current_iter: int) -> dict[str, Tensor]:
        target = self._hq_latents(data["gt"])
        self.output = self.net_g(data["lq"], output="aligned", latent=self._lq_latents(data["lq"]))
        losses = {"l_align": F.l1_loss(self.output, target)}
        if self.moment_weight > 0 and current_iter > self.moment_start:
            losses["l_moment"] = self.moment_weight * moment_distance(self.output, target)
        return losses

    def _with_features(self, latent: Tensor, action: Any) -> None:
        """Call ``action(codebook, features)`` with the features that each codebook gets for a latent.

        With several processes the first one's result is everybody's.
        """

        def call(codebook: Codebook, inputs: tuple[Tensor, ...]) -> None:
            action(codebook, inputs[0])
            if self.opt["dist"]:
                for value in codebook.state_dict().values():
                    torch.distributed.broadcast(value, 0)

        hooks = [codebook.register_forward_pre_hook(call) for codebook in self.codebooks]
        self.bare_g.align(latent)
        for hook in hooks:
            hook.remove()

    def optimize_parameters(self, current_iter: int) -> None:
        if self.codebooks and current_iter == 1 and self.opt["path"].get("pretrain_network_g") is None:
            with torch.no_grad():
                self._with_features(self._hq_latents(self.data["gt"]), Codebook.initialise)
        super().optimize_parameters(current_iter)
        due = self.reseed_every > 0 and current_iter % self.reseed_every == 0 and current_iter <= self.reseed_until
        if self.codebooks and due:
            with torch.no_grad():
                self._with_features(self._lq_latents(self.data["lq"]), Codebook.reseed)
        for codebook in self.codebooks:
            self.log_dict.update(codebook.statistics())

    def restore(self, lq: Tensor) -> Tensor:
        latent = self.bare_g.encode(lq)
        aligned = self.bare_g.align(latent)
        if self.distances is not None and "gt" in self.data:
            self.distances.add(latent, aligned, self.bare_g.encode(self.data["gt"]))
        return self.bare_g.decode(aligned).clamp(0, 1)

    def nondist_validation(self, dataloader: Any, current_iter: int, tb_logger: Any, save_img: bool) -> None:
        self.distances = LatentDistances()
        super().nondist_validation(dataloader, current_iter, tb_logger, save_img)
        values = self.distances.values() if self.distances.count else {}
        self.distances = None
        name = dataloader.dataset.opt["name"]
        for key, value in values.items():
            get_root_logger().info(f"{name}\t # {key}: {value:.4f}")
            if tb_logger:
                tb_logger.add_scalar(f"latents/{name}/{key}", value, current_iter)
