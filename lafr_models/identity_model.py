"""FaceIdentityModel: distils a recognition net into a small one that damage does not disturb."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from lafr_arch.identity_arch import flip_invariant
from lafr_base.option_keys import REQUIRED, Key
from lafr_base.registry import MODEL_REGISTRY
from lafr_metrics.face_metric import separation
from lafr_models.build import build_network
from lafr_models.net_training import NetTrainingModel
from lafr_models.stage_keys import NetworkKey


@MODEL_REGISTRY.register()
class FaceIdentityModel(NetTrainingModel):
    """Train a FaceIdentityNet (``network_g``) on FaceIdentityDataset to say of a damaged face what ``network_teacher``
    says of the face itself.

    Losses: ``embedding_weight`` times one minus the cosine of both embeddings, and ``relation_weight`` times the
    cross-entropy of the batch: of its faces, whose is this? The teacher's own answer is what is asked for, so that two
    photos of one person do no harm; ``temperature`` divides the cosines. Validation compares damaged copies with the
    undamaged faces of the set and logs the mean cosine of ``same`` and ``different`` persons, and ``found``, the share
    of same pairs above the threshold that 1 % of the different pairs pass. At the end the averaged network is written
    to ``experiments/NAME/identity``.
    """

    FOLDER = "identity"
    TRAIN_KEYS: ClassVar[tuple[Key, ...]] = (
        Key("embedding_weight", float, REQUIRED, "weight of one minus the cosine of both embeddings"),
        Key("relation_weight", float, REQUIRED, "weight of the cross-entropy of the batch: whose face is this?"),
        Key("temperature", float, REQUIRED, "divides the cosines of that cross-entropy"),
    )
    NETWORKS: ClassVar[tuple[NetworkKey, ...]] = (
        NetworkKey("network_teacher", Mapping, None, "the recognition net to learn from, such as MobileFaceNetFace"),
    )

    @classmethod
    def faults(cls, opt: Mapping[str, Any]) -> list[str]:
        """Also a teacher that is missing."""
        faults = super().faults(opt)
        if opt.get("train") is not None and not opt.get("network_teacher"):
            faults.append("network_teacher: is missing; give a recognition net, such as type: MobileFaceNetFace")
        return faults

    def build(self) -> None:
        """Create the net and its teacher, and read the losses' weights."""
        super().build()
        if self.is_train:
            self.teacher = build_network(self.opt["network_teacher"]).to(self.device).eval().requires_grad_(False)
            self.embedding_weight, self.relation_weight = (
                self.option("embedding_weight"),
                self.option("relation_weight"),
            )
            self.temperature = self.option("temperature")
            self._targets: dict[str, Tensor] = {}

    def targets(self, data: dict[str, Any]) -> Tensor:
        """The teacher's embeddings (B, 128) of the faces ``gt``; each is asked for once in a run."""
        paths = data["gt_path"]
        new = [i for i, path in enumerate(paths) if path not in self._targets]
        if new:
            with torch.autocast(self.device.type, enabled=False):
                embeddings = flip_invariant(self.teacher, data["gt"][new])
            self._targets.update(zip((paths[i] for i in new), embeddings, strict=True))
        return torch.stack([self._targets[path] for path in paths])

    def losses(self, data: dict[str, Any], current_iter: int) -> dict[str, Tensor]:
        """Losses of the embeddings and of their relations within the batch."""
        target, embedding = self.targets(data), self.net_g(data["lq"])
        with torch.autocast(self.device.type, enabled=False):
            loss_embedding = (1 - (embedding * target).sum(dim=1)).mean()
            wanted = (target @ target.T / self.temperature).softmax(dim=1)
            loss_relation = F.cross_entropy(embedding @ target.T / self.temperature, wanted)
        return {
            "l_embedding": self.embedding_weight * loss_embedding,
            "l_relation": self.relation_weight * loss_relation,
        }

    def measure(self, dataloader: Any) -> dict[str, float]:  # noqa: ANN401
        """How pairs of a set separate."""
        damaged, whole = [], []
        for output in self.outputs(dataloader):
            damaged.append(output)
            self.data["lq"] = self.data["gt"]
            self.test()
            whole.append(self.output)
        cosines = torch.cat(damaged) @ torch.cat(whole).T
        same, different = cosines.diag(), cosines[~torch.eye(len(cosines), dtype=torch.bool)]
        found = separation(same, different)[1]
        return {"same": same.mean().item(), "different": different.mean().item(), "found": found}
