"""Saved states: the newest whole one is taken, damaged ones are named, leftovers of killed saves are removed."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from lafr_models.resume import (
    DamagedCheckpointError,
    RunningError,
    check_whole,
    newest_state,
    read_training_state,
    take_run,
)


def save(folder: Path, iteration: int) -> tuple[Path, Path]:
    """Write a state and its network."""
    for name in ("states", "models"):
        (folder / name).mkdir(exist_ok=True)
    state = {"epoch": 0, "iter": iteration, "optimizers": [torch.randn(1000)], "schedulers": []}
    torch.save(state, folder / "states" / f"{iteration}.state")
    torch.save({"params": {"w": torch.randn(1000)}}, folder / "models" / f"net_g_{iteration}.pth")
    return folder / "states" / f"{iteration}.state", folder / "models" / f"net_g_{iteration}.pth"


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [truncate, flip, lambda path: path.write_bytes(b""), Path.unlink])
@pytest.mark.parametrize("which", [0, 1])
def test_the_newest_whole_state_is_taken(tmp_path: Path, which: int, damage: object, caplog: pytest.LogCaptureFixture):
    save(tmp_path, 9)
    whole, _ = save(tmp_path, 20)
    files = save(tmp_path, 100)
    damage(files[which])  # type: ignore[operator]
    logger = logging.getLogger("basicsr")
    logger.addHandler(caplog.handler)
    try:
        found = newest_state(tmp_path / "states", tmp_path / "models")
    finally:
        logger.removeHandler(caplog.handler)
    assert found is not None
    assert found[0] == whole
    assert found[1]["iter"] == 20
    if which == 1 or files[0].exists():
        assert str(files[which]) in caplog.text
        assert "iteration 100 is passed over" in caplog.text


def test_no_state_and_no_whole_state(tmp_path: Path):
    assert newest_state(tmp_path / "states", tmp_path / "models") is None
    state, _ = save(tmp_path, 1)
    truncate(state)
    with pytest.raises(DamagedCheckpointError, match="none of 1 states is whole"):
        newest_state(tmp_path / "states", tmp_path / "models")


def test_a_file_of_something_else_is_named(tmp_path: Path):
    torch.save({"weights": 1}, tmp_path / "other.state")
    with pytest.raises(DamagedCheckpointError, match=r"other.state is no training state"):
        read_training_state(tmp_path / "other.state")
    (tmp_path / "text.state").write_text("junk")
    with pytest.raises(DamagedCheckpointError, match=r"text.state is damaged"):
        check_whole(tmp_path / "text.state")


def test_leftovers_of_killed_saves_are_removed_and_no_run_is_started_twice(tmp_path: Path):
    root = tmp_path / "experiments" / "mini"
    (root / "models").mkdir(parents=True)
    names = [root / "models" / name for name in (".4c0f.part", "net_g_5.pth")]
    for path in names:
        path.touch()
    code = f"from pathlib import Path; from lafr_models.resume import take_run; take_run(Path({str(root)!r})); input()"
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as first:
        while names[0].exists() and first.poll() is None:
            time.sleep(0.05)
        assert [path.exists() for path in names] == [False, True]
        with pytest.raises(RunningError, match="another process is training it"):
            take_run(root)
        first.communicate("\n")
    take_run(root)
