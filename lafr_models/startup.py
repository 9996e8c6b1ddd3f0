"""What is checked before a run starts: everything that can be. One message tells of all that is wrong."""

from __future__ import annotations

import inspect
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
from basicsr.utils.registry import ARCH_REGISTRY

from lafr_base import face_sets, weights
from lafr_models.option_paths import PATH_OPTIONS, places

_WEIGHTS = ("base_model", "path", "decoder_weights", "vq_weights", "start")
"""Arguments of networks that name weights."""

_NEEDED = {"image_size": 512, "degradation": "gfpgan"}
"""What sets of faces need, and what serves to ask on where it is wrong."""


class MissingFilesError(weights.WeightsError):
    """Files that a run needs are missing; the message tells of all of them."""


def run_faults(opt: Mapping[str, Any], tolerant: bool = False) -> list[str]:
    """What is wrong with the files that a run names and with what its classes make of the options.

    Args:
        opt: an option file's content, completed (:func:`lafr_models.options.complete`); the plugin must be registered.
        tolerant: leave out what cannot be asked of options that are already known to be faulty.
    """
    faults: list[str] = []
    questions: list[Callable[[], list[str]]] = [partial(_missing, opt), partial(_network_faults, opt, tolerant)]
    questions += [partial(_dataset_faults, f"datasets: {k}", v) for k, v in opt["datasets"].items()]
    with _silent_logger():
        for question in questions:
            try:
                faults += question()
            except ValueError as error:
                faults.append(str(error))
            except (TypeError, KeyError, AttributeError) as error:
                if not tolerant:
                    faults.append(f"{type(error).__name__}: {error}")
    return faults


def required_weights(opt: Mapping[str, Any], faults: list[str] | None = None) -> list[str]:
    """Weights that a run needs, as :func:`lafr_base.weights.find` takes them: those of its network and of its losses.

    Args:
        opt: an option file's content; the plugin must be registered.
        faults: takes what is wrong with a loss's options; without it, that is an error.

    Raises:
        ValueError: a loss's option has no valid value.
    """
    from lafr_losses.common import required_weights as of_loss
    from lafr_metrics.validation import required_weights as of_metric

    networks = [options for key, options in opt.items() if key.startswith("network_") and options]
    names = [name for network in networks for name in _weights_of(network)]
    for network in networks:
        if network.get("ip_adapter"):
            from lafr_arch.ip_adapter import required_weights as of_ip_adapter

            names += of_ip_adapter(network["ip_adapter"])
    for key, options in (opt.get("train") or {}).items():
        if key.endswith("_opt") and options is not None:
            try:
                names += of_loss({k: v for k, v in options.items() if k != "start_iter"})
            except (ValueError, TypeError, KeyError) as error:
                if faults is None:
                    raise
                faults += [f"train: {key}: {error}"] if isinstance(error, ValueError) else []
    for options in _metrics(opt).values():
        names += of_metric(options)
    return list(dict.fromkeys(names))


def _weights_of(network: Mapping[str, Any]) -> list[str]:
    """What a network reads: its base model, a decoder, or (``path``) a checkpoint, given or by default."""
    kind = str(network.get("type"))
    parameters = inspect.signature(ARCH_REGISTRY.get(kind)).parameters if kind in ARCH_REGISTRY else {}
    defaults = {name: parameter.default for name, parameter in parameters.items()}
    named = [network.get(key, defaults.get(key)) for key in _WEIGHTS]
    return [name for name in named if isinstance(name, str)]


def _metrics(opt: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    return (opt.get("val") or {}).get("metrics") or {}


def require_files(opt: Mapping[str, Any]) -> None:
    """Check that weights, checkpoints and folders of images that a run names are there, and its metrics' options right.

    Args:
        opt: an option file's content; the plugin must be registered.

    Raises:
        MissingFilesError: some are not; one message tells of all, with where to get them.
    """
    faults = _missing(opt)
    if faults:
        raise MissingFilesError("files of this run are missing\n" + "\n".join(faults))


def _missing(opt: Mapping[str, Any]) -> list[str]:
    from lafr_metrics.validation import option_faults

    faults: list[str] = []
    try:
        weights.require_all(required_weights(opt, faults))
    except weights.MissingWeightsError as error:
        faults.append(str(error))
    for name, options in _metrics(opt).items():
        faults += option_faults(f"val: metrics: {name}", options)
    files = {"network_g: alignment_weights": (opt.get("network_g") or {}).get("alignment_weights")}
    for key in ("network_g", "network_teacher"):
        files |= {f"{key}: {name}": (opt.get(key) or {}).get(name) for name in ("folder", "vae")}
    files |= {f"path: {key}": value for key, value in opt["path"].items() if key.startswith("pretrain_network")}
    images: dict[str, str | None] = {}
    for phase, dataset in opt["datasets"].items():
        images |= {f"datasets: {phase}: {key}": dataset.get(key) for key in ("dataroot_gt", "dataroot_lq")}
    absent = {k: v for k, v in {**files, **images}.items() if v is not None and not Path(v).expanduser().exists()}
    faults += [f"{key}: {value} does not exist" for key, value in absent.items()]
    if any(not Path(value).is_absolute() for value in absent.values()):
        faults.append(f"relative paths were looked for under {', '.join(map(str, places()))}")
    if any(key in images for key in absent):
        faults.append(face_sets.where())
    return faults


@contextmanager
def _silent_logger() -> Iterator[None]:
    """BasicSR's logger as it was: whoever asks for it first decides whether the run has a log file."""
    from basicsr.utils.logger import initialized_logger

    before = dict(initialized_logger)
    initialized_logger.setdefault("basicsr", True)
    try:
        yield
    finally:
        initialized_logger.clear()
        initialized_logger.update(before)


def _network_faults(opt: Mapping[str, Any], tolerant: bool) -> list[str]:
    """What the classes of networks and losses refuse, asked on the meta device, where nothing is read or computed."""
    from basicsr.utils.registry import LOSS_REGISTRY

    from lafr_arch.sizes import network_sizes
    from lafr_losses.common import required_weights as of_loss

    faults = []
    for name, options in opt.items():
        if not name.startswith("network_") or not options:
            continue
        try:
            if options.get("type") == "LAFRNet":
                network_sizes(options)
            elif not PATH_OPTIONS & set(inspect.signature(ARCH_REGISTRY.get(options["type"])).parameters):
                _on_meta(ARCH_REGISTRY.get(options["type"]), options)
        except weights.MissingWeightsError:
            pass  # said by another question
        except ValueError as error:
            faults.append(f"{name}: {str(error).removeprefix(f'{name}: ')}")
        except (TypeError, KeyError, AttributeError):
            if not tolerant:
                raise
    for name, options in (opt.get("train") or {}).items():
        if name.endswith("_opt") and options is not None:
            given = {key: value for key, value in options.items() if key != "start_iter"}
            try:
                if not of_loss(given):
                    _on_meta(LOSS_REGISTRY.get(given["type"]), given)
            except ValueError as error:
                faults.append(f"train: {name}: {error}")
            except (TypeError, KeyError, AttributeError):
                if not tolerant:
                    raise
    return faults


def _on_meta(kind: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """Build a network or loss on the meta device; one that cannot be built there has nothing to say."""
    with torch.device("meta"), suppress(NotImplementedError, RuntimeError):
        kind(**{key: value for key, value in options.items() if key != "type"})


def _of_any_images(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options without those that only images that are there can fulfil."""
    backend = options.get("io_backend")
    fulfilled = {
        "n_images": isinstance(options.get("n_images"), int),
        "io_backend": not isinstance(backend, Mapping) or isinstance(backend.get("type"), str),
        "sampling": True,
    }
    return {key: value for key, value in options.items() if not fulfilled.get(key, False)}


def _asked(label: str, kind: Callable[..., Any], options: Mapping[str, Any]) -> tuple[Any, list[str]]:
    """A dataset of options, or None, and what its class refuses: an option that it names is left out, to ask again."""
    faults: list[str] = []
    left, named = dict(options), set[str]()
    while True:
        try:
            dataset = kind(left)
        except (ValueError, OSError, KeyError, TypeError) as error:
            words = re.findall(r"\w+", str(error))
            taken = {"type", "name", "phase", *named}
            key = next((word for word in words if word in left and word not in taken), None)
            if key is None:
                return None, faults if named & set(words) else [*faults, f"{label}: {error}"]
            faults.append(f"{label}: {error}")
            named.add(key)
            del left[key]
            if key in _NEEDED:
                left[key] = _NEEDED[key]
        else:
            return None if faults else dataset, faults


def _dataset_faults(label: str, options: Mapping[str, Any]) -> list[str]:
    """What a dataset's class refuses, and its broken images."""
    from basicsr.utils.registry import DATASET_REGISTRY

    from lafr_base.option_keys import did_you_mean
    from lafr_data.sources import FaceDataset

    kind = next((k for k in (options["type"], f"{options['type']}_basicsr") if k in DATASET_REGISTRY), None)
    if kind is None:
        return [f"{label}: type: {options['type']} is unknown{did_you_mean(options['type'], DATASET_REGISTRY.keys())}"]
    roots = {key: options[key] for key in ("dataroot_gt", "dataroot_lq") if options.get(key) is not None}
    wrong = {key: value for key, value in roots.items() if not isinstance(value, str)}
    faults = [f"{label}: {key}: {value!r} is not text" for key, value in wrong.items()]
    # What is kept in memory is read by the run, not here.
    options = {key: value for key, value in options.items() if key != "cache"}
    absent = [key for key, value in roots.items() if key in wrong or not Path(value).exists()]
    with tempfile.TemporaryDirectory() as stand_in:
        if absent:  # which is said by another question; what else is wrong is asked of a folder of one image
            (Path(stand_in) / "face.png").touch()
            options = {**_of_any_images(options), **dict.fromkeys(roots, stand_in)}
        dataset, refused = _asked(label, DATASET_REGISTRY.get(kind), options)
    faults += refused
    if absent or dataset is None:
        return faults
    size = options.get("batch_size_per_gpu", 0) * int(os.environ.get("WORLD_SIZE", 1))
    count = int(len(dataset) * options.get("dataset_enlarge_ratio", 1))
    if options.get("phase") == "train" and count < size:
        faults.append(
            f"{label}: batch_size_per_gpu: a batch of {size} is larger than the {count} images of an epoch; lower it "
            "or raise dataset_enlarge_ratio"
        )
    # Of several processes the first one reads the images.
    if isinstance(dataset, FaceDataset) and os.environ.get("RANK", "0") == "0":
        broken = dataset.broken_images()
        if broken:
            more = f" and {len(broken) - 5} more" if len(broken) > 5 else ""
            images = sum(len(source) for source in dataset.sources)
            faults.append(
                f"{label}: {len(broken)} of {images} images cannot be read whole: {', '.join(broken[:5])}{more}; "
                "remove or replace them, or with check_images: false do not look (a run stops where it meets one)"
            )
    return faults
