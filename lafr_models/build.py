"""Networks and losses of option files, whether this project has them or BasicSR."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lafr_base.registry import ARCH_REGISTRY, LOSS_REGISTRY


def build_network(options: Mapping[str, Any]) -> Any:
    """Build a network of its ``type`` and arguments.

    Raises:
        KeyError: neither has one of that type.
    """
    if options["type"] in ARCH_REGISTRY:
        return ARCH_REGISTRY.build(options)
    from basicsr.archs import build_network as build

    return build(options)


def build_loss(options: Mapping[str, Any]) -> Any:
    """Build a loss of its ``type`` and arguments.

    Raises:
        KeyError: neither has one of that type.
    """
    if options["type"] in LOSS_REGISTRY:
        return LOSS_REGISTRY.build(options)
    from basicsr.losses import build_loss as build

    return build(options)
