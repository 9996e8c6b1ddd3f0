"""Deltas: nested mappings merged into option files, with every key checked."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from lafr_base.option_keys import did_you_mean
from lafr_models.options import OptionError, override

Options = dict[str, Any]


class AblationError(OptionError):
    """Something in the ablations' file, in a delta or in the arguments of ``lafr ablate`` that cannot be used."""


def merge(base: Mapping[str, Any], delta: Mapping[str, Any], label: str, known: Sequence[Mapping[str, Any]]) -> Options:
    """Return ``base`` with ``delta`` merged in; both stay as they are.

    Nested mappings are merged key by key; ``None`` takes a key away; a mapping whose ``type`` differs from that of the
    one it meets takes its place.

    Args:
        base: options, as read from a file.
        delta: what to change.
        label: what messages call the delta.
        known: option files of the same stage: a key is known if one of them has it at the same place, or if it is an
            argument of the network or loss that its mapping's ``type`` names, of an IP-Adapter in
            ``network_g: ip_adapter``, or if it is a loss (``train: *_opt`` with a ``type``). The plugin must be
            registered.

    Raises:
        AblationError: a key is unknown, or there is nothing for ``None`` to take away; the message names it.
    """
    result = _merge(base, delta, label, ())
    _check(delta, result, label, known, ())
    return result


def _merge(base: Mapping[str, Any], delta: Mapping[str, Any], label: str, place: tuple[str, ...]) -> Options:
    result = dict(copy.deepcopy(base))
    for key, value in delta.items():
        here = (*place, key)
        if value is None:
            if key not in result:
                raise AblationError(f"{label}: {':'.join(here)}: `~` takes a key away, and there is none")
            del result[key]
        elif isinstance(value, Mapping):
            old = result.get(key)
            if not isinstance(old, Mapping) or value.get("type", old.get("type")) != old.get("type"):
                old = {}
            result[key] = _merge(old, value, label, here)
        else:
            result[key] = copy.deepcopy(value)
    return result


def _check(
    delta: Mapping[str, Any],
    merged: Mapping[str, Any],
    label: str,
    known: Sequence[Mapping[str, Any]],
    place: tuple[str, ...],
) -> None:
    names = _names(merged, label, known, place)
    for key, value in delta.items():
        here = (*place, key)
        is_loss = place == ("train",) and key.endswith("_opt") and isinstance(value, Mapping) and "type" in value
        if key not in names and not is_loss:
            hint = did_you_mean(key, names) or f"; known here: {', '.join(sorted(names)) or 'none'}"
            raise AblationError(f"{label}: {':'.join(here)}: no such key{hint}")
        if isinstance(value, Mapping):
            _check(value, merged[key], label, known, here)


def _names(
    merged: Mapping[str, Any], label: str, known: Sequence[Mapping[str, Any]], place: tuple[str, ...]
) -> set[str]:
    """Keys that a mapping at ``place`` may have."""
    made = _class_at(merged, label, place)
    if made is not None:
        names = set(inspect.signature(made).parameters) - {"latent_channels"} | {"type"}
        return names | {"start_iter"} if place == ("train", "gan_opt") else names
    if place == ("network_g", "ip_adapter"):
        from lafr_arch.ip_adapter import IPAdapter  # imports diffusers, which takes seconds

        parameters = {**inspect.signature(IPAdapter).parameters, **inspect.signature(IPAdapter.on).parameters}
        return set(parameters) - {"cross_attention_dim", "unet", "options"}
    places = {place}
    if place[:1] == ("datasets",) and len(place) == 2:  # what one set may have is known for the others, too
        places = {("datasets", name) for options in known for name in options["datasets"]}
    names = set()
    for options in known:
        for path in places:
            node: Any = options
            for key in path:
                node = node.get(key) if isinstance(node, Mapping) else None
            if isinstance(node, Mapping):
                names |= set(node)
    return names


def _class_at(merged: Mapping[str, Any], label: str, place: tuple[str, ...]) -> Any:
    """The network's or loss's class that a mapping describes, or None."""
    from basicsr.utils.registry import ARCH_REGISTRY, LOSS_REGISTRY  # which have this project's, too: lafr.register

    if not place or "type" not in merged:
        return None
    if place[0].startswith("network_"):
        registry, kind = ARCH_REGISTRY, "network"
    elif place[0] == "train" and place[-1].endswith("_opt"):
        registry, kind = LOSS_REGISTRY, "loss"
    else:
        return None
    if merged["type"] not in registry:
        raise AblationError(f"{label}: {':'.join(place)}: type: no {kind} is called {merged['type']}")
    return registry.get(merged["type"])


def assignment_delta(assignment: str) -> Options:
    """The delta of one ``KEY:KEY=VALUE`` of ``--force_yml``.

    Raises:
        AblationError: there is no ``=``.
    """
    delta: Options = {}
    try:
        override(delta, assignment)
    except OptionError as error:
        raise AblationError(str(error)) from error
    return delta
