"""The replacements of BasicSR's faulty functions, and that they refuse a BasicSR they were not written for."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conftest import ROOT
from lafr_models import launcher
from lafr_models.launcher import IncompatibleBasicSRError, patch_training


def test_functional_tensor_is_provided_before_basicsr():
    from torchvision.transforms.functional_tensor import rgb_to_grayscale

    gray = rgb_to_grayscale(torch.ones(3, 2, 2))
    assert gray.shape == (1, 2, 2)


def test_launchers_leave_the_name_basicsr_to_the_package():
    assert not (ROOT / "basicsr" / "__init__.py").exists()
    import basicsr

    assert basicsr.__file__ is not None
    assert not Path(basicsr.__file__).is_relative_to(ROOT / "basicsr")


def test_a_changed_signature_is_refused():
    owner = types.ModuleType("owner")
    owner.call = lambda a, b: a  # type: ignore[attr-defined]
    original = owner.call  # type: ignore[attr-defined]
    with pytest.raises(IncompatibleBasicSRError, match=r"owner\.call takes \['a', 'b'\], expected \['a'\]"):
        launcher._replace(owner, "call", ["a"], lambda a: a)
    with pytest.raises(IncompatibleBasicSRError, match=r"owner\.other does not exist; install basicsr==1\.4\.2"):
        launcher._replace(owner, "other", ["a"], lambda a: a)
    assert owner.call is original  # type: ignore[attr-defined]


def test_patching_twice_does_nothing():
    patch_training()
    import basicsr.train as train

    first = train.create_train_val_dataloader
    patch_training()
    assert train.create_train_val_dataloader is first


def test_a_changed_launcher_stops_training():
    """As upstream would look with one argument more, in a process of its own."""
    code = (
        "import lafr_models.launcher, basicsr.train\n"
        "basicsr.train.load_resume_state = lambda opt, extra: None\n"
        "lafr_models.launcher.patch_training()\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert result.returncode == 1
    assert "IncompatibleBasicSRError: basicsr.train.load_resume_state takes ['opt', 'extra']" in result.stderr


def test_jpeg_takes_a_float_quality():
    patch_training()
    from basicsr.data import degradations

    image = np.random.default_rng(0).random((16, 16, 3)).astype(np.float32)
    low, high = (degradations.add_jpg_compression(image, quality) for quality in (12.7, 95.2))
    assert np.abs(high - image).mean() < np.abs(low - image).mean()


def test_resume_state(tmp_path: Path):
    patch_training()
    from basicsr.train import load_resume_state

    states = tmp_path / "training_states"
    for folder in (states, tmp_path / "models"):
        folder.mkdir()

    def options(auto: bool, **path: Any) -> dict[str, Any]:
        paths = {"training_states": str(states), "models": str(tmp_path / "models"), **path}
        return {"auto_resume": auto, "path": paths, "network_g": {}}

    assert load_resume_state(options(True)) is None
    assert load_resume_state(options(False, resume_state=None)) is None
    with pytest.raises(FileNotFoundError, match=r"path: resume_state: .*9\.state does not exist"):
        load_resume_state(options(False, resume_state=str(states / "9.state")))
    for i in (9, 10):
        torch.save({"epoch": 1, "iter": i}, states / f"{i}.state")
        torch.save({"params": {}}, tmp_path / "models" / f"net_g_{i}.pth")
    opt = options(True)
    state = load_resume_state(opt)
    assert state == {"epoch": 1, "iter": 10}  # the newest, not the last by name
    assert opt["resume_position"] == {"epoch": 1, "iter": 10}
    assert opt["path"]["pretrain_network_g"] == str(tmp_path / "models" / "net_g_10.pth")
    assert load_resume_state(options(False, resume_state=str(states / "9.state")))["iter"] == 9


def test_torchrun_takes_the_port_of_slurm_for_nothing(monkeypatch: pytest.MonkeyPatch):
    seen: dict[str, Any] = {}
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.distributed.init_process_group", lambda **kwargs: seen.update(kwargs))
    launcher._init_dist_pytorch(backend="nccl", port=29500)
    assert seen == {"backend": "gloo"}


def test_slurm_says_what_torchrun_would(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    scontrol = tmp_path / "scontrol"
    scontrol.write_text("#!/bin/sh\nprintf 'node3\\nnode4\\n'\n")
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    for name, value in {"NODELIST": "node[3-4]", "NTASKS": "4", "PROCID": "3", "LOCALID": "1"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    for name in ("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "RANK", "LOCAL_RANK"):
        monkeypatch.setenv(name, "")
    seen: dict[str, Any] = {}
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.distributed.init_process_group", lambda **kwargs: seen.update(kwargs))
    launcher._init_dist_slurm("nccl", port=29501)
    assert seen == {"backend": "gloo"}
    assert [os.environ[n] for n in ("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "RANK", "LOCAL_RANK")] == [
        "node3", "29501", "4", "3", "1",
    ]  # fmt: skip


def test_remaining_time_ends_at_zero(monkeypatch: pytest.MonkeyPatch):
    patch_training()
    import basicsr.train as train

    lines: list[str] = []
    opt = {"name": "run", "logger": {"print_freq": 1, "use_tb_logger": False}, "train": {"total_iter": 6}}
    message_logger = train.MessageLogger(opt, 0)
    monkeypatch.setattr(message_logger, "logger", types.SimpleNamespace(info=lines.append))
    message_logger.start_time -= 50
    for i in (5, 6):
        message_logger({"epoch": 0, "iter": i, "lrs": [1e-3], "time": 1.0, "data_time": 0.0})
    assert "eta: 0:00:08" in lines[0]  # 50 s for 6 steps, one to go
    assert "eta: 0:00:00" in lines[1]


class _Faces(torch.utils.data.Dataset[int]):
    opt: dict[str, Any] = {}  # noqa: RUF012

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> int:
        return int(index)


def loaders(opt: dict[str, Any], batch_size: int = 4) -> tuple[Any, ...]:
    """Loaders as BasicSR's factory makes them, wrapped as the launcher wraps it."""
    from lafr_data.samplers import ResumableSampler

    def original(_opt: dict[str, Any], _logger: Any) -> tuple[Any, ...]:
        sampler = ResumableSampler(_Faces())
        loader = torch.utils.data.DataLoader(_Faces(), batch_size, sampler=sampler, drop_last=True)
        return loader, sampler, [], 1, 7

    return launcher._dataloaders(original)(opt, None)


def test_a_resumed_run_sees_the_rest_of_its_epoch():
    loader, sampler, _, epochs, _ = loaders({})
    assert epochs == 4  # 7 iterations of 2 an epoch
    sampler.set_epoch(1)
    whole = [batch.tolist() for batch in loader]
    assert len(whole) == 2
    loader, sampler, _, _, _ = loaders({"resume_position": {"epoch": 1, "iter": 3}})
    sampler.set_epoch(1)
    assert [batch.tolist() for batch in loader] == whole[1:]
    sampler.set_epoch(2)
    assert len(list(loader)) == 2
    # A state saved at an epoch's last iteration: the epoch is over.
    loader, sampler, _, _, _ = loaders({"resume_position": {"epoch": 1, "iter": 4}})
    sampler.set_epoch(1)
    assert list(loader) == []


def test_resuming_with_another_batch_size_is_refused():
    opt = {"resume_position": {"epoch": 1, "iter": 12}, "path": {"resume_state": "12.state"}}
    with pytest.raises(ValueError, match=r"12\.state stopped at iteration 12 of epoch 1, but an epoch now has 2"):
        loaders(opt)


def test_batches_larger_than_the_set_are_refused():
    with pytest.raises(ValueError, match="batch_size_per_gpu: 11 is larger than the 10 images"):
        loaders({}, batch_size=11)
