"""BasicSR's launcher with this project's classes in its registries, and its faults cured.

:func:`hand_over` gives BasicSR what :mod:`lafr_base.registry` has. :func:`patch_training` replaces, once, the functions
that assume CUDA, execute YAML, or cannot resume exactly. Each replacement first checks that the original still has the
signature it was written for and raises :class:`IncompatibleBasicSRError` otherwise.
"""

from __future__ import annotations

import argparse
import inspect
import logging
import math
import os
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from lafr_base.compat import MissingPackageError, require_basicsr
from lafr_base.option_map import OptionError
from lafr_base.registry import REGISTRIES
from lafr_models.option_paths import output_root
from lafr_models.resuming import differences, training_options


class IncompatibleBasicSRError(RuntimeError):
    """BasicSR has changed a function that this project replaces."""


def hand_over() -> None:
    """Add what this project registers to BasicSR's registries; calling it again does nothing.

    Raises:
        MissingPackageError: BasicSR is not installed.
    """
    require_basicsr()
    from basicsr.utils import registry as theirs

    targets = (
        theirs.ARCH_REGISTRY, theirs.LOSS_REGISTRY, theirs.METRIC_REGISTRY, theirs.DATASET_REGISTRY,
        theirs.MODEL_REGISTRY,
    )  # fmt: skip
    for registry, target in zip(REGISTRIES, targets, strict=True):
        for name, found in registry.items():
            if name not in target:
                target._do_register(name, found)  # its public method takes no name


def _replace(owner: Any, name: str, parameters: list[str], replacement: Callable[..., Any]) -> Callable[..., Any]:
    """Set ``owner.name`` to ``replacement`` if the original takes exactly ``parameters``; return the original."""
    original = getattr(owner, name, None)
    if original is None:
        raise IncompatibleBasicSRError(f"{owner.__name__}.{name} does not exist; install basicsr==1.4.2")
    found = list(inspect.signature(original).parameters)
    if found != parameters:
        raise IncompatibleBasicSRError(
            f"{owner.__name__}.{name} takes {found}, expected {parameters}; install basicsr==1.4.2"
        )
    setattr(owner, name, replacement)
    return original


def _init_dist_pytorch(backend: str = "nccl", port: int | None = None, **kwargs: Any) -> None:
    """Start torch.distributed under torchrun: nccl with one GPU a process, gloo where there is no GPU.

    ``port`` is read by the slurm launcher alone: torchrun has chosen one, and says it in the environment.
    """
    import torch

    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    else:
        backend = "gloo"
    torch.distributed.init_process_group(backend=backend, **kwargs)


def _init_dist_slurm(backend: str, port: int | None = None) -> None:
    """Start torch.distributed under srun: the same, with what torchrun would set taken from Slurm's variables."""
    environment = os.environ
    nodes = subprocess.run(
        ["scontrol", "show", "hostnames", environment["SLURM_NODELIST"]], capture_output=True, text=True, check=True
    )
    environment["MASTER_ADDR"] = nodes.stdout.split()[0]
    environment["MASTER_PORT"] = str(port or environment.get("MASTER_PORT", 29500))
    environment["WORLD_SIZE"], environment["RANK"] = environment["SLURM_NTASKS"], environment["SLURM_PROCID"]
    environment["LOCAL_RANK"] = environment.get("SLURM_LOCALID", "0")
    _init_dist_pytorch(backend)


def _model_to_device(self: Any, net: Any) -> Any:
    """Move a net to the model's device and wrap it for distributed training, with or without CUDA."""
    import torch
    from torch.nn.parallel import DataParallel, DistributedDataParallel

    net = net.to(self.device)
    if self.opt["dist"]:
        device_ids = [torch.cuda.current_device()] if self.device.type == "cuda" else None
        unused = self.opt.get("find_unused_parameters", False)
        return DistributedDataParallel(net, device_ids=device_ids, find_unused_parameters=unused)
    return DataParallel(net) if self.opt["num_gpu"] > 1 else net


def _get_optimizer(self: Any, optim_type: str, params: Any, lr: float, **kwargs: Any) -> Any:
    """Build any optimizer of torch.optim by its class name (BasicSR 1.4.2 knows Adam only)."""
    import torch

    optimizer_class = getattr(torch.optim, optim_type, None)
    if not isinstance(optimizer_class, type):
        raise ValueError(f"train: optim_*: type: {optim_type} is not an optimizer of torch.optim")
    return optimizer_class(params, lr, **kwargs)


def _message_logger(original: Any) -> Any:
    """BasicSR's logger of iterations, but with a remaining time that ends at 0 and not a step below it."""

    class MessageLogger(original):
        def __init__(self, opt: dict[str, Any], start_iter: int = 1, tb_logger: Any = None) -> None:
            super().__init__(opt, start_iter, tb_logger)
            self.max_iters += 1  # it counts the steps after the next one

    return MessageLogger


def _load_resume_state(opt: dict[str, Any]) -> dict[str, Any] | None:
    """Find and load the training state to resume from, on any device.

    ``--auto_resume`` takes the newest state under the run's own experiments folder that is whole; otherwise
    ``path: resume_state`` names the file.
    """
    from basicsr.utils import check_resume

    from lafr_models.resume import newest_state, read_training_state, take_run

    path, state = opt["path"].get("resume_state"), None
    states, models = Path(opt["path"]["training_states"]), Path(opt["path"]["models"])
    if not opt.get("rank") and "experiments_root" in opt["path"]:
        take_run(Path(opt["path"]["experiments_root"]))
    if opt["auto_resume"] and (newest := newest_state(states, models)) is not None:
        path, state = str(newest[0]), newest[1]
        opt["path"]["resume_state"] = path
    if not path:
        return None
    if not Path(path).is_file():
        raise FileNotFoundError(f"path: resume_state: {path} does not exist")
    state = read_training_state(Path(path)) if state is None else state
    opt["resume_differences"] = _compare_options(opt, path, state)
    check_resume(opt, state["iter"])
    opt["resume_position"] = {"epoch": state["epoch"], "iter": state["iter"]}
    return state


def _compare_options(opt: dict[str, Any], path: str, state: dict[str, Any]) -> list[str]:
    """Lines on what differs from the options that a state was saved with.

    Raises:
        OptionError: something that changes the training does, and ``path: resume_changed: true`` does not allow it.
    """
    saved = state.get("options")
    if saved is None:
        return [f"{path} holds no options to compare with: it is from before they were saved"]
    changing, free = differences(saved, training_options(opt))
    if changing and not opt["path"].get("resume_changed"):
        lines = "".join(f"\n- {line}" for line in changing)
        raise OptionError(
            f"path: resume_state: {path} was saved with other options:{lines}\n"
            "put them back, or take the option file's from here on with `path: resume_changed: true`"
        )
    return [f"{line} (the new value is taken)" for line in [*changing, *free]]


def launch(name: str, root: Path) -> None:
    """Register the plugin, then run BasicSR's own pipeline; what is wrong ends it with a message, and status 2 or 1.

    Args:
        name: ``train``, into ``experiments/``, or ``test``, into ``results/``.
        root: where these folders are, unless LAFR_ROOT says it.
    """
    from lafr_base.weights import WeightsError

    try:
        hand_over()
    except MissingPackageError as error:
        raise SystemExit(str(error)) from None
    patch_training()
    pipeline = getattr(import_module(f"basicsr.{name}"), f"{name}_pipeline")
    from lafr_models.training import TimeIsUp

    try:
        pipeline(output_root(root))
    except TimeIsUp as end:
        end.model.save(epoch=-1, current_iter=-1)
        logging.getLogger("basicsr").info("%s, in %d iterations", end, end.model.opt["train"]["total_iter"])
    except (OptionError, WeightsError, FileNotFoundError) as error:
        sys.stderr.write(f"{Path(sys.argv[0]).name}: error: {error}\n")
        sys.exit(2)


def _dataloaders(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap BasicSR's loader factory: enough epochs for ``total_iter``, and a resumed run starts inside its epoch."""

    def create_train_val_dataloader(opt: dict[str, Any], logger: logging.Logger) -> tuple[Any, ...]:
        train_loader, sampler, val_loaders, _, total_iters = original(opt, logger)
        iters_per_epoch = len(train_loader)
        if iters_per_epoch == 0:
            raise ValueError(
                f"datasets: train: batch_size_per_gpu: {train_loader.batch_size} is larger than the "
                f"{len(train_loader.dataset)} images of the set; lower it or raise dataset_enlarge_ratio"
            )
        opt["train_faces"] = len(train_loader.dataset)  # for the record of the training
        position = opt.get("resume_position")
        if position is not None:
            done = position["iter"] - position["epoch"] * iters_per_epoch
            if not 0 <= done <= iters_per_epoch:
                raise ValueError(
                    f"path: resume_state: {opt['path']['resume_state']} stopped at iteration {position['iter']} of "
                    f"epoch {position['epoch']}, but an epoch now has {iters_per_epoch} iterations: resume with the "
                    "same data, batch size and number of processes"
                )
            sampler.skip(position["epoch"], done * train_loader.batch_size)
        return train_loader, sampler, val_loaders, math.ceil(total_iters / iters_per_epoch), total_iters

    return create_train_val_dataloader


def _parse_options(root_path: str, is_train: bool = True) -> tuple[dict[str, Any], argparse.Namespace]:
    """BasicSR's command line and option file, read by :mod:`lafr_models.options` without executing YAML."""
    from lafr_models.options import parse_options

    return parse_options(root_path, is_train)


_patched = False


def patch_training() -> None:
    """Replace the faulty functions of BasicSR's launcher; safe to call more than once.

    Raises:
        IncompatibleBasicSRError: the installed BasicSR is not the one these replacements were written for.
    """
    global _patched
    if _patched:
        return
    import basicsr.data.degradations as degradations
    from basicsr.models.base_model import BaseModel
    from basicsr.utils import dist_util
    from basicsr.utils.dist_util import master_only

    import basicsr.test as test
    import basicsr.train as train
    from lafr_data.samplers import ResumableSampler

    _replace(dist_util, "_init_dist_pytorch", ["backend", "kwargs"], _init_dist_pytorch)
    _replace(dist_util, "_init_dist_slurm", ["backend", "port"], _init_dist_slurm)
    _replace(BaseModel, "model_to_device", ["self", "net"], _model_to_device)
    _replace(BaseModel, "get_optimizer", ["self", "optim_type", "params", "lr", "kwargs"], _get_optimizer)
    message_logger = _replace(train, "MessageLogger", ["opt", "start_iter", "tb_logger"], lambda: None)
    train.MessageLogger = _message_logger(message_logger)
    _replace(train, "load_resume_state", ["opt"], _load_resume_state)
    _replace(train, "EnlargedSampler", ["dataset", "num_replicas", "rank", "ratio"], ResumableSampler)
    _replace(train, "parse_options", ["root_path", "is_train"], _parse_options)
    _replace(test, "parse_options", ["root_path", "is_train"], _parse_options)
    # Only the first process makes the folder that the option file is copied to.
    copy_opt_file = _replace(train, "copy_opt_file", ["opt_file", "experiments_root"], lambda: None)
    train.copy_opt_file = master_only(copy_opt_file)
    original = _replace(train, "create_train_val_dataloader", ["opt", "logger"], lambda: None)
    train.create_train_val_dataloader = _dataloaders(original)
    jpeg = _replace(degradations, "add_jpg_compression", ["img", "quality"], lambda: None)
    # OpenCV >= 4.5.4 refuses a float quality.
    degradations.add_jpg_compression = lambda img, quality=90: jpeg(img, int(quality))
    _patched = True
