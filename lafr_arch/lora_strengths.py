"""Two LoRAs of a UNet with a strength each: one trained for pixels, one for what looks real.

The idea is PiSA-SR's (Sun et al., Pixel-level and Semantic-level Adjustable Super-resolution, CVPR 2025): a pixel LoRA
is trained first, under a pixel loss alone, then a semantic LoRA on top of it, under all losses. PiSA-SR mixes the
outputs of two passes through its UNet, and at strength 0 of both gives the input back. Here the strengths scale what
the LoRAs add to the weights, so that any pair of them costs one pass; strength 0 of both is the UNet without them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lafr_arch.lora import lora_layers

ADAPTERS = {"pixel": "default", "semantic": "semantic"}
"""The two LoRAs, and what peft's layers call them."""


def has_semantic_lora(module: nn.Module | None) -> bool:
    """Whether the module's layers have a LoRA of that name, as :func:`lafr_arch.lora.add_semantic_lora` adds it."""
    if module is None:
        return False
    layers: list[Any] = [module.get_submodule(name) for name in lora_layers(module)]
    return any(ADAPTERS["semantic"] in layer.lora_A for layer in layers)


class LoraStrengths(nn.Module):
    """The factors of two LoRAs that are merged into a UNet, with which it can be given other strengths of them.

    Args:
        unet: has the layers; their weights, of convolutions without groups or of linear layers, are those with both
            LoRAs at strength 1.
        config: by name (``pixel``, ``semantic``) the LoRA's ``rank`` and the names of its ``layers``.
    """

    def __init__(self, unet: nn.Module, config: Mapping[str, Mapping[str, Any]]) -> None:
        super().__init__()
        self.config: dict[str, dict[str, Any]] = {
            name: {"rank": int(lora["rank"]), "layers": list(lora["layers"])} for name, lora in config.items()
        }
        for name, lora in self.config.items():
            factors = nn.ParameterDict()
            for layer in lora["layers"]:
                weight: Any = unet.get_submodule(layer).weight
                for part, shape in zip(("down", "up"), _shapes(weight, lora["rank"]), strict=True):
                    factors[_key(layer, part)] = nn.Parameter(weight.new_empty(shape), requires_grad=False)
            self.add_module(name, factors)
        self._merged: dict[str, Tensor] = {}  # weights at strength 1 of both, kept once others are set

    @classmethod
    @torch.no_grad()
    def taken_from(cls, unet: nn.Module) -> LoraStrengths:
        """Those of a UNet with both LoRAs, which are about to be merged; it stays as it is."""
        adapted: dict[str, Any] = {layer: unet.get_submodule(layer) for layer in lora_layers(unet)}
        config: dict[str, dict[str, Any]] = {}
        for name, adapter in ADAPTERS.items():
            found = {layer: module for layer, module in adapted.items() if adapter in module.lora_A}
            config[name] = {"rank": next(iter(found.values())).r[adapter], "layers": list(found)}
        strengths = cls(unet, config)
        for name, adapter in ADAPTERS.items():
            factors: Any = strengths.get_submodule(name)
            for layer in config[name]["layers"]:
                module = adapted[layer]
                down, up = module.lora_A[adapter].weight, module.lora_B[adapter].weight
                factors[_key(layer, "down")].copy_(down.flatten(1))
                factors[_key(layer, "up")].copy_(up.flatten(1) * module.scaling[adapter])
        return strengths

    def change(self, name: str, layer: str) -> Tensor:
        """What a LoRA at strength 1 adds to a layer's weight, flattened to (out, in x kernel)."""
        factors: Any = self.get_submodule(name)
        return factors[_key(layer, "up")] @ factors[_key(layer, "down")]

    @torch.no_grad()
    def apply_to(self, unet: nn.Module, **strengths: float) -> None:
        """Give the UNet's layers the weights of these strengths, from 0 (without that LoRA) by 1 (as trained) upwards.

        Args:
            unet: the one whose LoRAs these are.
            strengths: by name; 1 where left out. At 1 and 1 the weights are the merged ones to the bit.

        Raises:
            ValueError: an unknown name, or a strength that is negative or not finite.
        """
        for name, strength in strengths.items():
            if name not in self.config:
                raise ValueError(f"strength {name!r} is unknown; there are {', '.join(self.config)}")
            if not 0 <= strength < math.inf:
                raise ValueError(f"strength {name} must be at least 0 and finite; got {strength}")
        for layer in dict.fromkeys(layer for lora in self.config.values() for layer in lora["layers"]):
            target: Any = unet.get_submodule(layer)
            weight = self._merged.setdefault(layer, target.weight.detach().clone()).clone()
            for name, strength in strengths.items():
                if strength != 1 and layer in self.config[name]["layers"]:
                    weight += (strength - 1) * self.change(name, layer).view_as(weight)
            target.weight.copy_(weight)


def _key(layer: str, part: str) -> str:
    return f"{layer.replace('.', '/')}/{part}"  # the names of parameters have no dots


def _shapes(weight: Tensor, rank: int) -> tuple[tuple[int, int], tuple[int, int]]:
    return (rank, weight[0].numel()), (weight.shape[0], rank)
