"""Whether an option file says what it can say: every key, every type and every argument, before anything is built."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from basicsr.utils.registry import ARCH_REGISTRY, LOSS_REGISTRY, METRIC_REGISTRY, MODEL_REGISTRY, Registry

from lafr_arch.lora import add_encoder_lora, add_lora, add_semantic_lora
from lafr_base.option_keys import REQUIRED, Key, call_faults, did_you_mean, section_faults, value_fault
from lafr_base.option_map import LOADER
from lafr_models import launcher_keys
from lafr_models.stage_keys import NetworkKey, StageKeys

_NEEDED_IN_TRAINING = ("batch_size_per_gpu", "num_worker_per_gpu")


def option_faults(opt: Mapping[str, Any], is_train: bool) -> list[str]:
    """Everything that is wrong with an option file as such, one line each.

    Args:
        opt: its content; the plugin must be registered.
        is_train: whether it is for basicsr/train.py, else for basicsr/test.py.
    """
    stage = _registered(MODEL_REGISTRY, opt.get("model_type"))
    faults = [] if stage else _type_faults("model_type", MODEL_REGISTRY, opt.get("model_type"))
    if stage is not None and not issubclass(stage, StageKeys):
        return faults  # a model of another plugin, whose options are not known here
    networks = stage.keys("NETWORKS") if stage else []
    faults += section_faults("", opt, [*launcher_keys.TOP, *networks])
    required = ("train", "logger") if is_train else ("val",)
    faults += [f"the option file lacks the key `{name}:`" for name in required if opt.get(name) is None]
    faults += section_faults("path", _mapping(opt, "path"), _path_keys(networks))
    faults += section_faults("dist_params", _mapping(opt, "dist_params"), launcher_keys.DIST)
    if opt.get("logger") is not None:
        faults += section_faults("logger", _mapping(opt, "logger"), launcher_keys.LOGGER)
    if opt.get("val") is not None:
        faults += section_faults("val", _mapping(opt, "val"), val_keys(stage, is_train))
        for name, options in _mapping(_mapping(opt, "val"), "metrics").items():
            faults += _metric_faults(f"val: metrics: {name}", options)
    if stage is not None and opt.get("train") is not None:
        faults += section_faults("train", _mapping(opt, "train"), train_keys(stage))
    faults += _dataset_keys(_mapping(opt, "datasets"), is_train)
    for key in networks:
        if isinstance(opt.get(key.name), Mapping):
            faults += _network_faults(key, opt[key.name])
    for name, options in _mapping(opt, "train").items():
        if str(name).endswith("_opt") and isinstance(options, Mapping):
            faults += _loss_faults(f"train: {name}", options)
    if stage is not None and isinstance(opt.get("network_g"), Mapping):
        faults += stage.faults(opt)
    return list(dict.fromkeys(faults))


def train_keys(stage: type[StageKeys]) -> list[Key]:
    """What ``train:`` may have for a stage."""
    return [*launcher_keys.TRAIN, *stage.keys("TRAIN_KEYS")]


def val_keys(stage: type[StageKeys] | None, is_train: bool) -> list[Key]:
    """What ``val:`` may have for a stage; only training validates every so many iterations."""
    own = stage.keys("VAL_KEYS") if stage else []
    keys = [key for key in launcher_keys.VAL if is_train or key.name != "val_freq"]
    return [*keys, *own]


def _path_keys(networks: list[NetworkKey]) -> list[Key]:
    names = [key.name.removeprefix("network_") for key in networks] or ["g"]
    of_networks = [replace(key, name=key.name.replace("*", name)) for key in launcher_keys.OF_NETWORK for name in names]
    return [*launcher_keys.PATH, *of_networks]


def _mapping(opt: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A section; an empty one where there is none, or something else, which is said elsewhere."""
    value = opt.get(name)
    return value if isinstance(value, Mapping) else {}


def _registered(registry: Registry, name: Any) -> Any:
    """The class of a name, as BasicSR's registries find it; None where there is none."""
    names = (name, f"{name}_basicsr") if isinstance(name, str) else ()
    return next((registry.get(n) for n in names if n in registry), None)


def _type_faults(label: str, registry: Registry, name: Any) -> list[str]:
    if name is None:
        return [f"{label} is missing"]
    known = sorted(registry.keys())
    return [f"{label}: {name} is unknown{did_you_mean(name, known) or '; known: ' + ', '.join(known)}"]


def _network_faults(key: NetworkKey, options: Mapping[str, Any]) -> list[str]:
    network = _registered(ARCH_REGISTRY, options.get("type"))
    if network is None:
        return _type_faults(f"{key.name}: type", ARCH_REGISTRY, options.get("type"))
    faults = call_faults(key.name, network, options, key.filled)
    for name in ("alignment", "decoder"):
        inner = options.get(name)
        if isinstance(inner, Mapping):
            label = f"{key.name}: {name}"
            module = _registered(ARCH_REGISTRY, inner.get("type"))
            if module is None:
                faults += _type_faults(f"{label}: type", ARCH_REGISTRY, inner.get("type"))
            else:
                faults += call_faults(label, module, inner, ("latent_channels", "scaling_factor"))
    adds: dict[str, Callable[..., Any]] = {
        "lora": add_lora,
        "semantic_lora": add_semantic_lora,
        "vae_lora": add_encoder_lora,
    }
    for name, add in adds.items():
        if isinstance(options.get(name), Mapping):
            faults += call_faults(f"{key.name}: {name}", add, options[name], ("module", "vae"))
    return faults


def _loss_faults(label: str, options: Mapping[str, Any]) -> list[str]:
    loss = _registered(LOSS_REGISTRY, options.get("type"))
    if loss is None:
        return _type_faults(f"{label}: type", LOSS_REGISTRY, options.get("type"))
    if label.endswith("gan_opt"):
        options = {key: value for key, value in options.items() if key != "start_iter"}  # read by ImageLosses
    return call_faults(label, loss, options)


def _metric_faults(label: str, options: Any) -> list[str]:
    if not isinstance(options, Mapping):
        return [f"{label}: {options!r} is not a mapping with a `type`"]
    metric = _registered(METRIC_REGISTRY, options.get("type"))
    if metric is None:
        return _type_faults(f"{label}: type", METRIC_REGISTRY, options.get("type"))
    better = options.get("better", "higher")
    faults = [] if better in ("higher", "lower") else [f"{label}: better: {better} is not higher or lower"]
    given = {key: value for key, value in options.items() if key != "better"}
    images = [name for name in inspect.signature(metric).parameters if name in ("img", "img2")]
    if "crop_border" in given:  # which BasicSR's metrics neither type nor default
        faults += value_fault(f"{label}: crop_border", given["crop_border"], int)
    return faults + call_faults(label, metric, given, images, strict=True)


def _dataset_keys(datasets: Mapping[str, Any], is_train: bool) -> list[str]:
    """Faults of the sets' names and of what the launcher reads of them; the sets themselves check the rest."""
    faults = []
    if is_train and datasets.get("train") is None:
        faults.append("datasets: train is missing")
    for name, options in datasets.items():
        phase = str(name).split("_")[0]
        if phase not in ("train", "val", "test") or (phase == "train" and name != "train"):
            faults.append(f"datasets: {name} is unknown; sets are called train, val, val_*, or for tests test_*")
        elif not isinstance(options, Mapping):
            faults.append(f"datasets: {name}: {options!r} is not a mapping")
        else:
            needed = _NEEDED_IN_TRAINING if phase == "train" else ()
            keys = [replace(key, default=REQUIRED) if key.name in needed else key for key in LOADER]
            of_loader = {k: v for k, v in options.items() if any(key.fits(k) for key in keys)}
            faults += section_faults(f"datasets: {name}", of_loader, keys)
    return faults
