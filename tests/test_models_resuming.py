"""Resuming with other options: what differs is said, and refused or taken."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lafr_base.files import read_json
from lafr_base.option_map import OptionError
from lafr_models.launcher import _load_resume_state
from lafr_models.resuming import differences, training_options
from stage_options import PIXEL, Loader, build, options, step

NETWORK = {
    "type": "MiniAutoencoder",
    "encoder_widths": (8, 8),
    "decoder_widths": (8, 8),
    "encoder_blocks": 1,
    "decoder_blocks": 1,
}


def run_options(root: Path, lr: float = 1e-2, weight: float = 1.0, **train: Any) -> dict[str, Any]:
    scheduler = {"type": "MultiStepLR", "milestones": [2, 4], "gamma": 0.5}
    given = {"optim_g": {"type": "AdamW", "lr": lr}, "pixel_opt": {**PIXEL, "loss_weight": weight}}
    opt = options(root, "AutoencoderModel", NETWORK, **{**given, "scheduler": scheduler, **train})
    opt["datasets"] = {"train": {"batch_size_per_gpu": 4, "num_worker_per_gpu": 2, "dataroot_gt": "/here"}}
    return opt


def stopped(root: Path) -> Path:
    """The state of a run that was stopped after three iterations."""
    model = build(run_options(root))
    for i in (1, 2, 3):
        step(model, i)
    model.save(0, 3)
    return root / "training_states/3.state"


def resumed(opt: dict[str, Any]) -> tuple[Any, list[str]]:
    """The model as the launcher resumes it, and what it says of the options."""
    opt["auto_resume"] = True
    opt["path"]["resume_state"] = None
    state = _load_resume_state(opt)
    assert state is not None
    model = build(opt)
    model.resume_training(state)
    return model, opt["resume_differences"]


def test_what_differs():
    old = {"train": {"lr": 1, "total_iter": 5, "gone": 2}, "network_g": {"base_model": "a", "rank": 4}, "name": "x"}
    new = {"train": {"lr": 2, "total_iter": 9, "added": [1]}, "network_g": {"base_model": "b", "rank": 4}, "name": "y"}
    assert differences(training_options(old), training_options(new)) == (
        ["train: lr: 1 -> 2", "train: gone: 2 -> left out", "train: added: left out -> [1]"],
        ["train: total_iter: 5 -> 9", 'network_g: base_model: "a" -> "b"'],
    )


def test_batches_are_those_of_all_processes():
    one = {"datasets": {"train": {"batch_size_per_gpu": 4}}, "world_size": 1}
    two = {"datasets": {"train": {"batch_size_per_gpu": 2}}, "world_size": 2}
    assert differences(training_options(one), training_options(two)) == ([], [])


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"lr": 1e-3}, "train: optim_g: lr: 0.01 -> 0.001"),
        ({"weight": 2.0}, "train: pixel_opt: loss_weight: 1.0 -> 2.0"),
        ({"scheduler": None}, 'train: scheduler: type: "MultiStepLR" -> left out'),
    ],
)
def test_changes_are_refused(tmp_path: Path, change: dict[str, Any], line: str):
    stopped(tmp_path)
    with pytest.raises(OptionError, match=r"(?s)3\.state was saved with other options.*resume_changed: true") as error:
        resumed(run_options(tmp_path, **change))
    assert line in str(error.value)


def test_a_longer_run_elsewhere_goes_on(tmp_path: Path):
    stopped(tmp_path)
    opt = run_options(tmp_path, total_iter=20)
    opt["datasets"]["train"] |= {"dataroot_gt": "/there", "num_worker_per_gpu": 0}
    _, said = resumed(opt)
    assert [line.partition(":")[0] for line in said] == ["train", "datasets", "datasets"]


def test_changes_are_taken_on_request(tmp_path: Path):
    stopped(tmp_path)
    opt = run_options(tmp_path, lr=4e-3)
    opt["path"]["resume_changed"] = True
    model, said = resumed(opt)
    assert said == ["train: optim_g: lr: 0.01 -> 0.004 (the new value is taken)"]
    # The moments are the saved ones.
    saved = torch.load(tmp_path / "training_states/3.state", weights_only=True)["optimizers"][0]["state"]
    states = model.optimizers[0].state_dict()["state"]
    assert all(torch.equal(states[i]["exp_avg"], saved[i]["exp_avg"]) for i in saved)
    # The third iteration has passed the first milestone, the fifth the second.
    rates = []
    for i in (4, 5, 6):
        step(model, i)
        rates += model.get_current_learning_rate()
    assert rates == [pytest.approx(r) for r in (2e-3, 1e-3, 1e-3)]
    expected = build(run_options(tmp_path, lr=4e-3))
    for i in range(1, 5):
        step(expected, i)
    assert expected.get_current_learning_rate() == [pytest.approx(2e-3)]


def test_seconds_of_training_go_on(tmp_path: Path):
    stopped(tmp_path)
    first = read_json(tmp_path / "training.json")
    assert (first["iterations"], first["images"], first["processes"]) == (3, 12, 1)
    assert first["seconds"] > 0
    assert first["trainable_parameters"] > 1000
    path = tmp_path / "training_states/3.state"
    state = torch.load(path, weights_only=True)
    torch.save({**state, "seconds": 1000.0}, path)
    model, _ = resumed(run_options(tmp_path))
    step(model, 4)
    model.validation(Loader(), 4, None)
    waiting = model.stopwatch.total
    assert model.stopwatch.total == waiting > 1000  # validation does not count
    model.save(-1, -1)
    last = read_json(tmp_path / "training.json")
    assert last["iterations"] == 8
    assert last["seconds"] == pytest.approx(waiting, abs=0.01)


def test_states_from_before_hold_no_options(tmp_path: Path):
    path = stopped(tmp_path)
    state = torch.load(path, weights_only=True)
    del state["options"]
    torch.save(state, path)
    _, said = resumed(run_options(tmp_path, lr=1.0))
    assert "holds no options to compare with" in said[0]
