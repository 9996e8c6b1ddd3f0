"""OSDFace (Wang et al., CVPR 2025) from its published files, to compare with.

One step of Stable Diffusion 2.1-base at timestep 399, whose prompt is made of the damaged face: the nearest codes of a
VQ encoder, 77 different ones. Names of files and tensors, and the order of steps, are those of infer.py and test.sh of
https://github.com/jkwang28/OSDFace; the names inside the VQ encoder, which that repository imports from a package of
its own, are those of a fork that has it, https://github.com/js43o/OSDFace (models/lq_embed). Nothing here was run on
the published files yet.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from lafr_arch.baselines import BaselineSpec, add_baseline
from lafr_arch.lafr_arch import predict_sample
from lafr_arch.restorer_base import spandrel_module
from lafr_arch.restoring import RunsAsItIs
from lafr_base import weights
from lafr_base.checkpoints import JUNK, first_line, read_state
from lafr_base.registry import ARCH_REGISTRY

ENCODER, EMBEDDING, LORA = "associate_2.ckpt", "embedding_change_weights.pth", "pytorch_lora_weights.safetensors"
TIMESTEP = 399
TOKENS = 77
PREFIX = "vqvae_LQ."
# Spellings of LoRA's two factors in diffusers' files.
_FACTORS = ((".lora_A.weight", ".lora_B.weight"), (".lora.down.weight", ".lora.up.weight"))


class FacePrompt(nn.Module):
    """Tokens (B, 77, D) for the UNet, of faces: codes of a VQ encoder, through two 1x1 convolutions.

    Args:
        encoder: state dict of the VQ encoder, without its prefix.
        embedding: of the two convolutions.
        image_size: side of the faces.
    """

    def __init__(self, encoder: Mapping[str, Tensor], embedding: Mapping[str, Tensor], image_size: int) -> None:
        super().__init__()
        ch = encoder["encoder.conv_in.weight"].shape[0]
        levels = len({name.split(".")[2] for name in encoder if name.startswith("encoder.down.")})
        codes, dim = encoder["quantize.embedding.weight"].shape
        channels = encoder["quant_conv.weight"].shape[1]
        # The same code as RestoreFormer's, which comes with spandrel.
        self.encoder = spandrel_module("RestoreFormer.__arch.restoreformer_arch").MultiHeadEncoder(
            ch=ch,
            out_ch=3,
            ch_mult=tuple(encoder[f"encoder.down.{i}.block.0.conv2.weight"].shape[0] // ch for i in range(levels)),
            num_res_blocks=len({name.split(".")[4] for name in encoder if name.startswith("encoder.down.0.block.")}),
            attn_resolutions=(image_size >> (levels - 1),),
            resolution=image_size,
            z_channels=channels,
            double_z=False,
            head_size=1,
        )
        self.quant_conv = nn.Conv2d(channels, dim, 1)
        self.quantize = nn.ModuleDict({"embedding": nn.Embedding(codes, dim)})
        half, width = embedding["conv1.weight"].shape[0], embedding["conv2.weight"].shape[0]
        self.change = nn.ModuleDict({"conv1": nn.Conv1d(dim, half, 1), "conv2": nn.Conv1d(half, width, 1)})
        self.change.load_state_dict(dict(embedding))
        self.load_state_dict({**encoder, **{f"change.{name}": value for name, value in embedding.items()}})

    def codes(self, vectors: Tensor) -> Tensor:
        """Vectors of one face (N, D) -> the 77 different codes that are nearest to any of them, nearest first.

        Where fewer are met, zeros follow, as published.
        """
        table: Any = self.quantize["embedding"].weight
        distance, index = torch.cdist(vectors.float(), table.float()).min(dim=1)
        met = list(dict.fromkeys(index[distance.argsort()].tolist()))[:TOKENS]
        tokens = table.new_zeros(TOKENS, table.shape[1])
        tokens[: len(met)] = table[met]
        return tokens

    def forward(self, face: Tensor) -> Tensor:
        """Faces (B, 3, S, S) RGB in [-1, 1] -> tokens (B, 77, D)."""
        # The published encoder maps what it gets from [0, 1] to [-1, 1], though it gets [-1, 1].
        vectors = self.quant_conv(self.encoder(2 * face - 1)["out"]).flatten(2).transpose(1, 2)
        tokens = torch.stack([self.codes(one) for one in vectors]).transpose(1, 2)
        tokens = F.silu(self.change["conv2"](F.silu(self.change["conv1"](tokens))))
        return tokens.transpose(1, 2)


def add_to_weights(unet: nn.Module, lora: Mapping[str, Tensor]) -> None:
    """Add LoRA factors to the weights they are for; their scale is 1, as published (rank and alpha are 16).

    Raises:
        ValueError: a tensor has no place.
    """
    left = dict(lora)
    with torch.no_grad():
        for name in lora:
            for down, up in _FACTORS:
                if not name.endswith(down):
                    continue
                layer: Any = unet.get_submodule(name.removesuffix(down).removeprefix("unet."))
                first, second = left.pop(name), left.pop(name.removesuffix(down) + up)
                layer.weight += (second.flatten(1) @ first.flatten(1)).view_as(layer.weight)
    if left or not lora:
        raise ValueError(f"LoRA tensors without a place: {', '.join(list(left)[:3]) or 'there is none'}")


@ARCH_REGISTRY.register()
class OSDFaceBaseline(RunsAsItIs, nn.Module):
    """OSDFace as its repository publishes it.

    The published program samples the latent from the VAE's posterior; here its mean is taken, so that a face gives the
    same result each time.

    Args:
        path: folder of the three files, or a name of ``lafr weights`` (``osdface``).
        base_model: Stable Diffusion 2.1-base, as :func:`lafr_base.weights.require` takes it.

    Raises:
        ImportError: spandrel is not installed.
        lafr_base.weights.MissingWeightsError: the folder or the base model is not there.
        ValueError: a file holds something else.
    """

    image_size = 512

    def __init__(self, path: str, base_model: str = "sd21-base") -> None:
        from diffusers import DDPMScheduler, UNet2DConditionModel  # takes seconds; every restoring imports this module

        from lafr_arch.base_model import load_vae

        super().__init__()
        folder, base = (Path(weights.require(name)) for name in (path, base_model))
        self.vae: Any = load_vae(str(base), subfolder="vae")
        self.unet: Any = UNet2DConditionModel.from_pretrained(str(base), subfolder="unet")
        scheduler = DDPMScheduler.from_pretrained(str(base), subfolder="scheduler")
        self.prediction_type = scheduler.config.prediction_type
        self.alpha_cumprod = float(scheduler.alphas_cumprod[TIMESTEP].double())
        encoder = {
            name.removeprefix(PREFIX): value
            for name, value in read_state(folder / ENCODER).items()
            if name.startswith(PREFIX) and not name.startswith(PREFIX + "decoder")
        }
        unused = ("post_quant_conv.", "quantize.pos_embedding")
        encoder = {name: value for name, value in encoder.items() if not name.startswith(unused)}
        try:
            self.prompt = FacePrompt(encoder, read_state(folder / EMBEDDING), self.image_size)
            add_to_weights(self.unet, read_state(folder / LORA))
        except JUNK as error:
            raise ValueError(f"{folder} holds no OSDFace: {first_line(error)}") from error
        self.eval().requires_grad_(False)

    def forward(self, lq: Tensor) -> Tensor:
        """Restore faces (B, 3, 512, 512) RGB in [0, 1]; the same shape and range."""
        face, scale = 2 * lq - 1, self.vae.config.scaling_factor
        latent = self.vae.encode(face).latent_dist.mean * scale
        prediction = self.unet(latent, TIMESTEP, encoder_hidden_states=self.prompt(face)).sample
        restored = predict_sample(latent, prediction, self.alpha_cumprod, self.prediction_type)
        return ((self.vae.decode(restored / scale).sample + 1) / 2).clamp(0, 1)


add_baseline(
    BaselineSpec(
        name="osdface",
        weights="osdface",
        folder=True,
        build=lambda path, _: OSDFaceBaseline(str(path)),
    )
)
