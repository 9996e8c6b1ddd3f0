"""The one rule by which the relative paths of an option file are understood.

A relative path is looked for under the folder that the variable LAFR_ROOT names (where it is set: what runs write lies
there), then under the current folder, then beside this package; the first place that has it counts. A folder that is
yet to be made is made under the first place. A name of ``lafr weights`` or a hub id stays what it is unless a folder
of that name is there.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PATH_OPTIONS = frozenset(
    {
        "alignment_weights",
        "backbone_path",
        "backgrounds",
        "base_model",
        "dataroot_gt",
        "dataroot_lq",
        "decoder_weights",
        "face_model_path",
        "folder",
        "landmarks",
        "latent_cache",
        "model",
        "net_path",
        "path",
        "resume_state",
        "start",
        "vae",
        "vq_weights",
        "weights",
        "weights_path",
    }
)
"""Options, at any depth, whose text names a file or folder; ``pretrain_network_*`` are such, too."""

_MADE = frozenset({"latent_cache"})
"""Of these, what a run makes where it is not there."""


def repository() -> Path:
    """The folder that this package lies in: of a checkout, the repository."""
    return Path(__file__).resolve().parents[1]


def output_root(default: Path | None = None) -> str:
    """Folder under which experiments/, results/ and tb_logger/ are written: LAFR_ROOT, or ``default``, the checkout."""
    return str(Path(os.environ.get("LAFR_ROOT") or default or repository()).expanduser().resolve())


def places() -> list[Path]:
    """Where a relative path is looked for, in order."""
    root = os.environ.get("LAFR_ROOT")
    found = [Path(root).expanduser().resolve()] if root else []
    return list(dict.fromkeys([*found, Path.cwd(), repository()]))


def resolve(text: str, made: bool = False) -> str:
    """A path of an option file as an absolute one where it is there, else as it was given.

    Args:
        text: path, name of a weight or hub id.
        made: a folder that is made where it is not there; it is then absolute, too.
    """
    path = Path(text).expanduser()
    candidates = [path] if path.is_absolute() else [place / path for place in places()]
    if text:
        found = next((candidate for candidate in candidates if candidate.exists()), None)
        if found is not None or made:
            return str(found or candidates[0])
    return str(path) if text.startswith("~") else text


def resolve_paths(opt: dict[str, Any]) -> None:
    """Resolve every path of an option file, in place."""
    for key, value in opt.items():
        if isinstance(value, Mapping):
            resolve_paths(value)  # type: ignore[arg-type]  # what YAML gives is a dict
        elif isinstance(value, str) and (key in PATH_OPTIONS or key.startswith("pretrain_network")):
            opt[key] = resolve(value, key in _MADE)
