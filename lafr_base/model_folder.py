"""The folder that a network is kept in: ``config.json``, which says what it is, and ``model.safetensors``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from lafr_base.files import read_json, whole

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"


def write_folder(
    folder: str | Path, config: Mapping[str, Any], state: Mapping[str, Tensor], weights_name: str = WEIGHTS_NAME
) -> None:
    """Write a network's folder, created where missing; both files whole, or none."""
    tensors = {name: value.detach().contiguous().cpu() for name, value in state.items()}
    with whole(Path(folder) / CONFIG_NAME) as text, whole(Path(folder) / weights_name) as weights:
        save_file(tensors, weights, metadata={"format": "pt"})
        text.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def read_config(folder: str | Path) -> dict[str, Any]:
    """Return the configuration in a folder; an empty one where there is none, or no mapping."""
    return read_json(Path(folder).expanduser() / CONFIG_NAME)


def read_folder(
    folder: str | Path, form: str | None = None, kind: str = "", weights_name: str = WEIGHTS_NAME
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the configuration and the tensors in a folder, on the CPU.

    Args:
        folder: it.
        form: what its configuration must have as ``format``.
        kind: what that is, for the message.
        weights_name: of the file of tensors.

    Raises:
        FileNotFoundError: a file is missing; says which.
        ValueError: it is of another format, or the weights are damaged.
    """
    folder = Path(folder).expanduser()
    for name in (CONFIG_NAME, weights_name):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder / name} does not exist; the folder of a network has it")
    config = read_config(folder)
    if form is not None and config.get("format") != form:
        raise ValueError(f"{folder / CONFIG_NAME} is not {kind} (format {config.get('format')!r})")
    try:
        return config, load_file(folder / weights_name)
    except SafetensorError as error:
        raise ValueError(f"{folder / weights_name} is damaged ({error}); copy or download it again") from error
