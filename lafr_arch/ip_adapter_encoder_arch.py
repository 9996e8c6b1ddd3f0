"""Image encoders of the IP-Adapter: frozen nets that sum a face up in one vector."""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from lafr_arch.mobilefacenet_arch import MobileFaceNet
from lafr_arch.recognition import recognition_crop
from lafr_base import weights
from lafr_base.dtypes import SPELLINGS
from lafr_base.registry import ARCH_REGISTRY

# The encoder of h94/IP-Adapter for Stable Diffusion 1.x: OpenCLIP's ViT-H/14, 632,076,800 parameters.
_VIT_H: dict[str, Any] = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 16,
    "patch_size": 14,
    "projection_dim": 1024,
    "hidden_act": "gelu",
}


class ImageEncoder(nn.Module):
    """Base of the encoders: whatever is asked for, they are frozen and in eval mode."""

    width: int
    """Length of the vector."""

    def train(self, mode: bool = True) -> ImageEncoder:  # noqa: ARG002
        """Stay in eval mode."""
        return super().train(False)

    def architecture(self) -> dict[str, Any]:
        """What :meth:`from_architecture` takes to make the same net; fit for JSON."""
        raise NotImplementedError

    @classmethod
    def from_architecture(cls, **architecture: Any) -> ImageEncoder:
        """A net without weights (on the meta device), to be given those of a deployed folder."""
        raise NotImplementedError

    @classmethod
    def architecture_of(cls, **options: Any) -> dict[str, Any]:
        """The architecture that the class's arguments lead to; no weights are read.

        Raises:
            lafr_base.weights.MissingWeightsError: it stands in a folder that is not there.
        """
        raise NotImplementedError

    @classmethod
    def required_weights(cls, **options: Any) -> list[str]:
        """Weights that the class's arguments need, as :func:`lafr_base.weights.require` takes them."""
        raise NotImplementedError


@ARCH_REGISTRY.register()
class CLIPImageEncoder(ImageEncoder):
    """CLIP's image embedding, as IP-Adapter takes it: a ``CLIPVisionModelWithProjection``; IP-Adapter's by default.

    Faces are resized by a differentiable antialiased bicubic filter, the one CLIP's own preprocessing uses.

    Args:
        model: folder in transformers layout, hub id (looked up in the local cache) or a name of ``lafr weights``;
            ``clip-image-encoder`` by default, as for IdentityCLIPLoss.
        dtype: ``fp32``, ``bf16`` or ``fp16``.

    Raises:
        lafr_base.weights.MissingWeightsError: the encoder is not there.
        ValueError: the dtype is unknown.
    """

    def __init__(self, model: str | None = None, dtype: str = "fp32") -> None:
        from transformers import CLIPVisionModelWithProjection

        if dtype not in SPELLINGS:
            raise ValueError(f"CLIPImageEncoder: dtype: {dtype!r} is not one of {', '.join(SPELLINGS)}")
        (name,) = self.required_weights(model)
        folder = weights.require(name)
        self._set(CLIPVisionModelWithProjection.from_pretrained(folder, dtype=SPELLINGS[dtype], local_files_only=True))

    def _set(self, network: Any) -> None:
        super().__init__()
        self.network = network.eval().requires_grad_(False)
        self.width = network.config.projection_dim

    @classmethod
    def required_weights(cls, model: str | None = None, **_: Any) -> list[str]:
        """The encoder."""
        return [model or "clip-image-encoder"]

    def architecture(self) -> dict[str, Any]:
        """Settings of the CLIPVisionConfig that are not its defaults."""
        return {key: value for key, value in self.network.config.to_diff_dict().items() if _is_setting(key)}

    @classmethod
    def architecture_of(cls, model: str | None = None, **_: Any) -> dict[str, Any]:
        """Settings of a CLIPVisionConfig; IP-Adapter's where it is asked for and not there."""
        (name,) = cls.required_weights(model)
        if model is None and weights.find(name) is None:
            return dict(_VIT_H)
        config = json.loads((weights.require(name) / "config.json").read_text(encoding="utf-8"))
        return {key: value for key, value in config.items() if _is_setting(key)}

    @classmethod
    def from_architecture(cls, **architecture: Any) -> CLIPImageEncoder:
        """From settings of a CLIPVisionConfig."""
        from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

        with torch.device("meta"):
            network = CLIPVisionModelWithProjection(CLIPVisionConfig(**architecture))
        # A buffer that no file holds.
        embeddings = network.vision_model.embeddings
        embeddings.position_ids = torch.arange(embeddings.num_positions, device="cpu").expand(1, -1)
        made = cls.__new__(cls)
        made._set(network)
        return made

    def forward(self, face: Tensor) -> Tensor:
        """Faces (B, 3, H, W) RGB in [0, 1] -> embeddings (B, width), float32 (or float64), not normalised."""
        from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

        face = _full_precision(face)
        side = self.network.config.image_size
        small = F.interpolate(face, size=(side, side), mode="bicubic", align_corners=False, antialias=True)
        mean, std = (face.new_tensor(values).view(1, 3, 1, 1) for values in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))
        return self.network(((small - mean) / std).to(self.network.dtype)).image_embeds.to(face.dtype)


def _full_precision(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _is_setting(key: str) -> bool:
    """Whether an entry of a transformers config says something of the net's form."""
    return not key.startswith("_") and key not in ("architectures", "dtype", "torch_dtype", "transformers_version")


@ARCH_REGISTRY.register()
class MobileFaceNetEncoder(ImageEncoder):
    """MobileFaceNet's identity embedding (128 values, 1M parameters), for where CLIP is too large.

    Args:
        path: ``068.ckpt`` of MobileFaceNet_Pytorch, or a name of ``lafr weights``; ``mobilefacenet`` by default.

    Raises:
        lafr_base.weights.MissingWeightsError: the file is not there.
        ValueError: the file holds another net.
    """

    width = 128

    def __init__(self, path: str | None = None) -> None:
        super().__init__()
        (name,) = self.required_weights(path)
        self.network = MobileFaceNet.from_checkpoint(weights.require(name))

    @classmethod
    def required_weights(cls, path: str | None = None, **_: Any) -> list[str]:
        """The checkpoint."""
        return [path or "mobilefacenet"]

    def architecture(self) -> dict[str, Any]:
        """Nothing: there is one form."""
        return {}

    @classmethod
    def architecture_of(cls, **_: Any) -> dict[str, Any]:
        """Nothing: there is one form."""
        return {}

    @classmethod
    def from_architecture(cls, **_: Any) -> MobileFaceNetEncoder:
        """There is one form."""
        made = cls.__new__(cls)
        nn.Module.__init__(made)
        with torch.device("meta"):
            made.network = MobileFaceNet().eval().requires_grad_(False)
        return made

    def forward(self, face: Tensor) -> Tensor:
        """FFHQ-aligned faces (B, 3, S, S) RGB in [0, 1] -> embeddings (B, 128), not normalised."""
        return self.network((255 * recognition_crop(face.float()) - 127.5) / 128)
