"""Checkpoints of every kind, read by one function; and the folder that a network is kept in."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from lafr_base.checkpoints import read_checkpoint, read_state
from lafr_base.model_folder import read_folder, write_folder

STATE = {"a.weight": torch.arange(6.0).view(2, 3), "b": torch.tensor([1, 2])}


def same(found: dict[str, Tensor]) -> bool:
    return found.keys() == STATE.keys() and all(torch.equal(found[name], STATE[name]) for name in STATE)


@pytest.mark.parametrize(
    ("stored", "keys"),
    [
        (STATE, ()),
        ({"params": STATE}, ()),
        ({"params": {"c": torch.zeros(1)}, "params_ema": STATE}, ()),
        ({"params": STATE, "params_ema": {"c": torch.zeros(1)}}, ("params",)),
        ({"state_dict": {f"module.{name}": value for name, value in STATE.items()}, "epoch": 3}, ()),
        ({"net": STATE, "params": {"c": torch.zeros(1)}}, ("net",)),
    ],
)
def test_tensors_are_found(tmp_path: Path, stored: dict, keys: tuple[str, ...]):
    torch.save(stored, tmp_path / "x.pth")
    assert same(read_state(tmp_path / "x.pth", *keys))


def test_safetensors(tmp_path: Path):
    save_file(STATE, tmp_path / "x.safetensors")
    assert same(read_state(tmp_path / "x.safetensors", "net"))


def test_what_is_no_checkpoint_is_named(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"none\.pth does not exist"):
        read_state(tmp_path / "none.pth")
    for name in ("x.pth", "x.safetensors"):
        (tmp_path / name).write_bytes(b"not a checkpoint")
        with pytest.raises(ValueError, match=rf"{name} cannot be read as a checkpoint"):
            read_checkpoint(tmp_path / name)
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="it holds a list"):
        read_checkpoint(tmp_path / "list.pth")
    torch.save({"net": {"name": "no tensor"}}, tmp_path / "text.pth")
    with pytest.raises(ValueError, match=r"text\.pth holds no state dict under 'net'"):
        read_state(tmp_path / "text.pth", "net")


class Evil:
    """Would write a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


def test_nothing_in_a_checkpoint_is_executed(tmp_path: Path):
    torch.save({"params": Evil(tmp_path / "done")}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match="cannot be read as a checkpoint"):
        read_state(tmp_path / "x.pth")
    assert not (tmp_path / "done").exists()
    pickle.loads(pickle.dumps(Evil(tmp_path / "done")))
    assert (tmp_path / "done").exists(), "it would have been"


def test_a_folder_goes_round(tmp_path: Path):
    write_folder(tmp_path / "net", {"format": "f-1", "size": 3}, {**STATE, "a.weight": STATE["a.weight"].t().t()})
    config, state = read_folder(tmp_path / "net", "f-1", "a net")
    assert config == {"format": "f-1", "size": 3}
    assert same(state)
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "net").iterdir()}
    (tmp_path / "plain").touch()
    assert modes == {(tmp_path / "plain").stat().st_mode & 0o777}
    with pytest.raises(ValueError, match=r"config\.json is not another net \(format 'f-1'\)"):
        read_folder(tmp_path / "net", "g-1", "another net")
    (tmp_path / "net" / "model.safetensors").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged"):
        read_folder(tmp_path / "net")
    (tmp_path / "net" / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"config\.json does not exist"):
        read_folder(tmp_path / "net")
