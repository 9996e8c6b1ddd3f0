"""What is checked before a run starts: that every file its options name is there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lafr_base import weights


class MissingFilesError(weights.WeightsError):
    """Files that a run needs are missing; the message tells of all of them."""


def required_weights(opt: Mapping[str, Any]) -> list[str]:
    """Weights that a run needs, as :func:`lafr_base.weights.find` takes them: those of its network and of its losses.

    Args:
        opt: an option file's content; the plugin must be registered.
    """
    from lafr_losses.common import required_weights as of_loss
    from lafr_metrics.lafr_metric import required_weights as of_metric

    networks = [opt.get(key) or {} for key in ("network_g", "network_teacher")]
    # `path` is a baseline's checkpoint.
    keys = ("base_model", "path", "decoder_weights")
    names = [network[key] for network in networks for key in keys if network.get(key)]
    for network in networks:
        if network.get("ip_adapter"):
            from lafr_arch.ip_adapter import required_weights as of_ip_adapter

            names += of_ip_adapter(network["ip_adapter"])
    for key, options in (opt.get("train") or {}).items():
        if key.endswith("_opt") and options is not None:
            names += of_loss({k: v for k, v in options.items() if k != "start_iter"})
    for options in _metrics(opt).values():
        names += of_metric(options)
    return list(dict.fromkeys(names))


def _metrics(opt: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    return (opt.get("val") or {}).get("metrics") or {}


def require_files(opt: Mapping[str, Any]) -> None:
    """Check that weights, checkpoints and folders of images that a run names are there, and its metrics' options right.

    Args:
        opt: an option file's content; the plugin must be registered.

    Raises:
        MissingFilesError: some are not; one message tells of all, with where to get them.
    """
    from lafr_metrics.lafr_metric import option_faults

    faults = []
    try:
        weights.require_all(required_weights(opt))
    except weights.MissingWeightsError as error:
        faults.append(str(error))
    for name, options in _metrics(opt).items():
        faults += option_faults(f"val: metrics: {name}", options)
    files = {"network_g: alignment_weights": (opt.get("network_g") or {}).get("alignment_weights")}
    for key in ("network_g", "network_teacher"):
        files[f"{key}: folder"] = (opt.get(key) or {}).get("folder")
    files |= {f"path: {key}": value for key, value in opt["path"].items() if key.startswith("pretrain_network")}
    for phase, dataset in opt["datasets"].items():
        files |= {f"datasets: {phase}: {key}": dataset.get(key) for key in ("dataroot_gt", "dataroot_lq")}
    faults += [
        f"{key}: {value} does not exist"
        for key, value in files.items()
        if value is not None and not Path(value).expanduser().exists()
    ]
    if faults:
        raise MissingFilesError("files of this run are missing\n" + "\n".join(faults))
