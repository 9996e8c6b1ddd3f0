"""LoRA on a UNet, by peft: which layers, how many parameters, and merging them away."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from typing import Any

from torch import nn

_CONV = ("conv", "conv1", "conv2", "conv_in", "conv_shortcut", "conv_out")
_ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")

LORA_TARGETS: dict[str, tuple[str, ...]] = {
    "conv": _CONV,
    "attention": _ATTENTION,
    "all": (*_CONV, *_ATTENTION, "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2"),
}
"""Named groups of layers, by the last part of their names: the paper's (conv, 66 layers of SD 2.1's UNet), attention
(128), and OSEDiff's (all, 258)."""


def add_lora(
    module: nn.Module,
    rank: int = 4,
    targets: str | Sequence[str] = "conv",
    alpha: float | None = None,
    train: Sequence[str] = (),
) -> int:
    """Freeze ``module`` and add LoRA layers, which start as no change (gaussian down, zero up), to its layers.

    Args:
        module: the UNet, full or pruned.
        rank: inner dimension.
        targets: a key of :data:`LORA_TARGETS` or a list of layer names.
        alpha: the layers' output is multiplied by ``alpha / rank``; ``rank`` by default.
        train: names of layers, as in ``targets``, whose own weights train too; OSEDiff's is ``conv_in``.

    Returns:
        The number of layers that got one.

    Raises:
        ValueError: unknown group, or no layer has one of the names.
    """
    from peft import inject_adapter_in_model  # takes seconds, and a deployed network needs none

    config = _config(module, "lora", rank, targets, alpha)
    own = layers_called(module, train)
    if train and not own:
        raise ValueError(f"lora: train: no layer is called {', '.join(train)}")
    inject_adapter_in_model(config, module)
    for name in own:
        module.get_submodule(name).requires_grad_(True)
    return len(lora_layers(module))


def add_semantic_lora(
    module: nn.Module, rank: int = 4, targets: str | Sequence[str] = "conv", alpha: float | None = None
) -> int:
    """Add a second LoRA, called ``semantic``, to a module that :func:`add_lora` gave one; both act, and both train.

    Args:
        module: the UNet, pruned.
        rank: as for :func:`add_lora`, and so are the others; need not be the first one's.
        targets: its layers.
        alpha: its scale.

    Returns:
        The number of layers that have it.

    Raises:
        ValueError: unknown group, or no layer has one of the names.
    """
    from peft import inject_adapter_in_model

    config = _config(module, "semantic_lora", rank, targets, alpha)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Already found a `peft_config`")  # of the first LoRA
        inject_adapter_in_model(config, module, adapter_name="semantic")
    layers: list[Any] = [module.get_submodule(name) for name in lora_layers(module)]
    for layer in layers:
        layer.set_adapter(list(layer.lora_A))
    return sum("semantic" in layer.lora_A for layer in layers)


def _config(module: nn.Module, key: str, rank: int, targets: str | Sequence[str], alpha: float | None) -> Any:
    """PEFT's configuration of a LoRA on layers that are there; ``key`` is the option that asks for it."""
    from peft import LoraConfig

    names = _names(targets)
    if not layers_called(module, names):
        raise ValueError(f"{key}: targets: no layer is called {', '.join(names)}")
    return LoraConfig(r=rank, lora_alpha=alpha or rank, init_lora_weights="gaussian", target_modules=names)


def _names(targets: str | Sequence[str]) -> list[str]:
    if not isinstance(targets, str):
        return list(targets)
    if targets not in LORA_TARGETS:
        raise ValueError(f"lora: targets: {targets} is unknown; use {', '.join(LORA_TARGETS)} or a list of names")
    return list(LORA_TARGETS[targets])


def layers_called(module: nn.Module, names: Sequence[str]) -> list[str]:
    """Full names of the layers whose name is, or whose name's last parts are, one of ``names``."""
    return [full for full, _ in module.named_modules() if any(full == n or full.endswith(f".{n}") for n in names)]


def add_encoder_lora(vae: nn.Module, rank: int = 4, alpha: float | None = None) -> int:
    """Freeze a VAE and add LoRA to its encoder's convolutions and attention, as OSEDiff does.

    Args:
        vae: diffusers' ``AutoencoderKL`` (32 layers of Stable Diffusion's) or another with an ``encoder``.
        rank: inner dimension.
        alpha: as for :func:`add_lora`.

    Returns:
        The number of layers that got one.
    """
    names = [
        name
        for name, layer in vae.named_modules()
        if isinstance(layer, (nn.Conv2d, nn.Linear)) and (name.startswith("encoder.") or name == "quant_conv")
    ]
    return add_lora(vae, rank, names, alpha)


def lora_layers(module: nn.Module) -> list[str]:
    """Names of the layers with LoRA."""
    tuners = sys.modules.get("peft.tuners.tuners_utils")
    if tuners is None:  # nobody has made any
        return []
    return [name for name, child in module.named_modules() if isinstance(child, tuners.BaseTunerLayer)]


def merge_lora(module: nn.Module) -> None:
    """Add every LoRA layer into the weights it adapts and put the plain layers back, in place."""
    for name in lora_layers(module):
        layer: Any = module.get_submodule(name)
        layer.merge(safe_merge=True)
        parent, _, child = name.rpartition(".")
        setattr(module.get_submodule(parent), child, layer.get_base_layer())
