"""Which saved state a run goes on from: the newest that is whole, after what killed saves left is removed."""

from __future__ import annotations

import logging
import zipfile
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from lafr_base.checkpoints import JUNK, first_line
from lafr_base.files import remove_parts
from lafr_base.option_map import OptionError

logger = logging.getLogger("basicsr")

_KEYS = ("epoch", "iter")
_locks: list[FileLock] = []  # kept as long as the process


class DamagedCheckpointError(OptionError):
    """A file of a run that cannot be gone on from; the message names it."""


class RunningError(OptionError):
    """A run that another process is training."""


def newest_state(states: Path, models: Path) -> tuple[Path, dict[str, Any]] | None:
    """Return the newest training state that is whole, as are the networks saved with it; a warning names each other.

    Args:
        states: folder of ``ITERATION.state``.
        models: folder of ``net_*_ITERATION.pth``.

    Returns:
        File and content, or None where there is no state.

    Raises:
        DamagedCheckpointError: there are states, but none is whole.
    """
    found = sorted((path for path in states.glob("*.state") if path.stem.isdigit()), key=lambda path: -int(path.stem))
    for path in found:
        try:
            state = read_training_state(path)
            networks = sorted(models.glob(f"net_*_{path.stem}.pth"))
            if not any(network.name.startswith("net_g_") for network in networks):
                raise DamagedCheckpointError(f"{models / f'net_g_{path.stem}.pth'} is not there")
            for network in networks:
                check_whole(network)
        except DamagedCheckpointError as error:
            logger.warning("%s: the state of iteration %s is passed over", error, path.stem)
        else:
            return path, state
    if found:
        raise DamagedCheckpointError(
            f"{states}: none of {len(found)} states is whole; start anew without --auto_resume, or restore one"
        )
    return None


def read_training_state(path: Path) -> dict[str, Any]:
    """Return a training state.

    Raises:
        DamagedCheckpointError: the file is damaged or holds something else.
    """
    check_whole(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except JUNK as error:
        raise DamagedCheckpointError(f"{path} is damaged or no training state ({first_line(error)})") from error
    if not isinstance(state, dict) or any(key not in state for key in _KEYS):
        raise DamagedCheckpointError(f"{path} is no training state: it lacks {', '.join(_KEYS)}")
    return state


def check_whole(path: Path) -> None:
    """Check a file that ``torch.save`` wrote by the checksums in it.

    Raises:
        DamagedCheckpointError: it is damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
    except (OSError, EOFError, zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError) as error:
        raise DamagedCheckpointError(f"{path} is damaged ({first_line(error)})") from error
    if bad is not None:
        raise DamagedCheckpointError(f"{path} is damaged ({bad} differs from its checksum)")


def take_run(root: Path) -> None:
    """Make an experiment's folder this process's, until it ends, and remove what killed saves left in it.

    Raises:
        RunningError: another process trains it.
    """
    root.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(root.parent / f".{root.name}.lock", timeout=0)  # beside it, since BasicSR renames the folder
    try:
        lock.acquire()
    except Timeout:
        raise RunningError(
            f"{root}: another process is training it; let it end, or give this run another name"
        ) from None
    except NotImplementedError:
        logger.warning("%s: the file system has no locks; take care not to start the same run twice", root)
    _locks.append(lock)
    for folder in (root, root / "models", root / "training_states"):
        remove_parts(folder)
