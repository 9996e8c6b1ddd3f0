"""Option files: YAML read without executing it, and the command line that BasicSR's users know.

Differences from BasicSR 1.4.2's parser, whose flags and results are otherwise kept: a safe loader; ``1e-4`` is a
number; ``--force_yml`` sets any value YAML can write, creates missing parents and executes nothing; unknown keys are
errors, and so is all else that can be known before a run (:mod:`lafr_models.startup`).
"""

from __future__ import annotations

import argparse
import random
import re
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from lafr_base.option_map import OptionError as OptionError
from lafr_models.option_paths import output_root as output_root
from lafr_models.option_paths import resolve_paths


class _Loader(yaml.SafeLoader):
    """YAML's safe loader with ordered mappings and YAML 1.2's floats (``1e-4`` needs no dot)."""


_Loader.add_constructor(
    yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG,
    lambda loader, node: OrderedDict(loader.construct_pairs(node)),
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def load_yaml(path: str | Path) -> dict[str, Any]:
    """Read an option file.

    Raises:
        OptionError: the file is missing, is not YAML, or is not a mapping; the message names it.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"option file {path}: {error}") from error
    return _parse_mapping(text, str(path))


def _parse_mapping(text: str, name: str) -> dict[str, Any]:
    try:
        value = yaml.load(text, Loader=_Loader)  # noqa: S506 - _Loader is a SafeLoader
    except yaml.YAMLError as error:
        raise OptionError(f"option file {name}: {error}") from error
    if not isinstance(value, dict):
        raise OptionError(f"option file {name} must hold a mapping of keys, not {type(value).__name__}")
    return value


def override(opt: dict[str, Any], assignment: str) -> None:
    """Apply one ``a:b:c=value`` of ``--force_yml`` to ``opt``; ``value`` is YAML, missing parents are created.

    Raises:
        OptionError: no ``=``, or a parent that is not a mapping.
    """
    keys, equals, text = assignment.partition("=")
    if not equals:
        raise OptionError(f"--force_yml {assignment}: expected KEY:KEY=VALUE")
    *parents, last = [key.strip() for key in keys.split(":")]
    node: Any = opt
    for key in parents:
        node = node.setdefault(key, OrderedDict())
        if not isinstance(node, dict):
            raise OptionError(f"--force_yml {assignment}: {key} is a value, not a mapping")
    node[last] = _parse_mapping(f"value: {text}", f"--force_yml {assignment}")["value"]


def complete(opt: dict[str, Any], root_path: str, is_train: bool) -> None:
    """Fill in the paths, phases and defaults that BasicSR's launcher expects; ``opt`` is changed in place.

    Relative paths are resolved by :mod:`lafr_models.option_paths`.

    Raises:
        OptionError: a required key is missing.
    """
    required = ("name", "model_type", "datasets", "path") + (("train", "logger") if is_train else ("val",))
    for key in required:
        if opt.get(key) is None:
            raise OptionError(f"the option file lacks the key `{key}:`")
    resolve_paths(opt)
    opt["is_train"] = is_train
    for name, dataset in opt["datasets"].items():
        dataset["phase"] = name.split("_")[0]
        if "scale" in opt:
            dataset["scale"] = opt["scale"]
    if is_train:
        root = run_folder(opt, root_path)
        opt["path"].update(
            experiments_root=str(root),
            models=str(root / "models"),
            training_states=str(root / "training_states"),
            log=str(root),
            visualization=str(root / "visualization"),
        )
        if "debug" in opt["name"]:
            if "val" in opt:
                opt["val"]["val_freq"] = 8
            opt["logger"]["print_freq"] = 1
            opt["logger"]["save_checkpoint_freq"] = 8
    else:
        root = Path(root_path) / "results" / opt["name"]
        opt["path"].update(results_root=str(root), log=str(root), visualization=str(root / "visualization"))


def run_folder(opt: Mapping[str, Any], root_path: str | None = None) -> Path:
    """Folder that a training writes to: ``experiments/NAME`` under ``root_path``, or where runs are written."""
    return Path(root_path or output_root()) / "experiments" / str(opt.get("name"))


def check(opt: dict[str, Any], root_path: str, is_train: bool) -> list[str]:
    """Complete an option file's content, and return everything that is wrong with it; the plugin must be registered.

    Args:
        opt: the content as read; changed in place as :func:`complete` does it.
        root_path: folder under which ``experiments/`` or ``results/`` are written.
        is_train: training (``basicsr/train.py``) or testing (``basicsr/test.py``).
    """
    from lafr_models.option_check import option_faults
    from lafr_models.startup import run_faults

    as_read = option_faults(opt, is_train)
    if not all(isinstance(opt.get(key), dict) for key in ("datasets", "path")) or "name" not in opt:
        return as_read
    if not all(isinstance(dataset, dict) for dataset in opt["datasets"].values()):
        return as_read
    try:
        complete(opt, root_path, is_train)
    except OptionError:
        return as_read
    return list(dict.fromkeys([*as_read, *run_faults(opt, tolerant=bool(as_read))]))


def lafr_options(path: str | Path) -> dict[str, Any]:
    """Read an option file whose ``network_g`` is a LAFRNet built from a base model.

    Raises:
        OptionError: the file cannot be read, or its network is another.
    """
    opt = load_yaml(path)
    network = opt.get("network_g")
    if not isinstance(network, dict) or network.get("type") != "LAFRNet" or not network.get("base_model"):
        raise OptionError(f"option file {path}: network_g must be of type LAFRNet and name a base_model")
    resolve_paths(opt)
    return opt


def parse_options(root_path: str, is_train: bool = True) -> tuple[dict[str, Any], argparse.Namespace]:
    """Parse the launcher's command line: BasicSR's flags and meaning, without its ``exec`` and ``eval``.

    Args:
        root_path: folder under which ``experiments/`` or ``results/`` are written.
        is_train: training (``basicsr/train.py``) or testing (``basicsr/test.py``).
    """
    import torch
    from basicsr.utils import set_random_seed
    from basicsr.utils.dist_util import get_dist_info, init_dist

    parser = argparse.ArgumentParser(description="Train a model." if is_train else "Test a model.")
    parser.add_argument("-opt", type=str, required=True, help="option file (YAML)")
    parser.add_argument(
        "--launcher", choices=["none", "pytorch", "slurm"], default="none", help="pytorch: under torchrun"
    )
    parser.add_argument("--auto_resume", action="store_true", help="continue from the newest state of this run, if any")
    parser.add_argument("--debug", action="store_true", help="name the run debug_*, log and validate often")
    parser.add_argument("--local_rank", type=int, default=0)
    parser.add_argument("--force_yml", nargs="+", default=[], metavar="KEY:KEY=VALUE", help="override option values")
    args = parser.parse_args()

    try:
        opt = load_yaml(args.opt)
        for assignment in args.force_yml:
            override(opt, assignment)
        if args.debug and not str(opt.get("name", "")).startswith("debug"):
            opt["name"] = f"debug_{opt.get('name')}"
        faults = check(opt, root_path, is_train)
    except OptionError as error:
        parser.error(str(error))
    if faults:
        head = "cannot start" if len(faults) == 1 else f"cannot start, for {len(faults)} reasons"
        parser.exit(2, f"{parser.prog}: error: {args.opt}: {head}:\n" + "".join(f"- {fault}\n" for fault in faults))

    opt["dist"] = args.launcher != "none"
    if opt["dist"]:
        init_dist(args.launcher, **(opt.get("dist_params") or {}))
    opt["rank"], opt["world_size"] = get_dist_info()
    if opt.get("manual_seed") is None:
        opt["manual_seed"] = random.randint(1, 10000)
    set_random_seed(opt["manual_seed"] + opt["rank"])
    opt["auto_resume"] = args.auto_resume
    # "auto" uses every GPU; a number asks for at most that many, so that one option file runs with and without a GPU.
    wanted = opt.get("num_gpu", "auto")
    present = torch.cuda.device_count()
    opt["num_gpu"] = present if wanted == "auto" else min(int(wanted), present)
    return opt, args
