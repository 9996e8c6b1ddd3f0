"""Option files: safe YAML, numbers, overrides, required and unknown keys."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from skimage import data as photos
from skimage import io

import lafr
from conftest import ROOT
from lafr_models.option_check import option_faults
from lafr_models.options import OptionError, complete, load_yaml, output_root, override, parse_options

lafr.register()


def minimal(**more: Any) -> dict[str, Any]:
    return {
        "name": "tiny",
        "model_type": "LAFRAlignModel",
        "datasets": {"train": {"dataroot_gt": "~/faces"}, "val_2": {}},
        "path": {},
        "train": {"total_iter": 3},
        "logger": {"print_freq": 100},
        **more,
    }


def test_floats_need_no_dot(tmp_path: Path):
    path = tmp_path / "a.yml"
    path.write_text("a: 1e-4\nb: 5E3\nc: -2e+1\nd: 1.5e-3\ne: 1e4x\nf: 12\ng: '1e-4'\nh: [1e-2]\n")
    values = load_yaml(path)
    assert values == {"a": 1e-4, "b": 5e3, "c": -20.0, "d": 1.5e-3, "e": "1e4x", "f": 12, "g": "1e-4", "h": [0.01]}
    assert isinstance(values["f"], int)


def test_every_shipped_option_file_is_read_and_complete():
    others = ("ablations.yml", "rivals.yml", "tables.yml")  # deltas; methods; comparisons
    files = sorted(path for path in (ROOT / "options").rglob("*.yml") if path.name not in others)
    assert files
    for path in files:
        opt = load_yaml(path)
        assert option_faults(opt, is_train="train" in opt) == []
        complete(opt, "/somewhere", is_train="train" in opt)
        assert list(opt)[0] == "name"  # order is kept


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.system ['true']",
        "a: !!python/name:os.system",
        "a: !!python/object/new:os.system ['true']",
    ],
)
def test_python_tags_are_refused(tmp_path: Path, text: str):
    path = tmp_path / "evil.yml"
    path.write_text(text)
    with pytest.raises(OptionError, match=r"evil\.yml.*could not determine a constructor"):
        load_yaml(path)
    with pytest.raises(OptionError, match="could not determine a constructor"):
        override({}, f"a={text.removeprefix('a: ')}")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [1", "while parsing"),
        (b"- a\n- b\n", "must hold a mapping of keys, not list"),
        (b"", "must hold a mapping of keys, not NoneType"),
        (b"\xff\xfe\x00", "decode"),
    ],
)
def test_faulty_files(tmp_path: Path, content: bytes, message: str):
    path = tmp_path / "a.yml"
    path.write_bytes(content)
    with pytest.raises(OptionError, match=rf"option file .*a\.yml.*(.|\n)*{message}"):
        load_yaml(path)


def test_missing_file(tmp_path: Path):
    with pytest.raises(OptionError, match=r"nothing\.yml: .*No such file"):
        load_yaml(tmp_path / "nothing.yml")


def test_overrides():
    opt: dict[str, Any] = {"train": {"lr": 1}, "name": "a"}
    for assignment in (
        "train:lr=1e-4",
        "train:optim_g:type=SGD",
        "new:parent:key=[1, 2e-3]",
        "name=b=c",
        "train:clip=~",
        "train:flag=true",
        "train:nested={a: 1}",
        "train:empty=",
    ):
        override(opt, assignment)
    assert opt == {
        "train": {
            "lr": 1e-4,
            "optim_g": {"type": "SGD"},
            "clip": None,
            "flag": True,
            "nested": {"a": 1},
            "empty": None,
        },
        "new": {"parent": {"key": [1, 2e-3]}},
        "name": "b=c",
    }


@pytest.mark.parametrize(
    ("assignment", "message"),
    [("train:lr", "expected KEY:KEY=VALUE"), ("name:x=1", "name is a value, not a mapping"), ("a=[1", "parsing")],
)
def test_faulty_overrides(assignment: str, message: str):
    with pytest.raises(OptionError, match=message):
        override({"name": "a"}, assignment)


def test_paths_of_a_training_run():
    opt = minimal(scale=2)
    complete(opt, "/somewhere", is_train=True)
    assert opt["path"] == {
        "experiments_root": "/somewhere/experiments/tiny",
        "models": "/somewhere/experiments/tiny/models",
        "training_states": "/somewhere/experiments/tiny/training_states",
        "log": "/somewhere/experiments/tiny",
        "visualization": "/somewhere/experiments/tiny/visualization",
    }
    assert opt["datasets"]["train"] == {"dataroot_gt": str(Path("~/faces").expanduser()), "phase": "train", "scale": 2}
    assert opt["datasets"]["val_2"]["phase"] == "val"


def test_paths_of_a_test_run():
    opt = minimal(val={}, path={"pretrain_network_g": "~/net.pth"})
    complete(opt, "/somewhere", is_train=False)
    assert opt["path"] == {
        "pretrain_network_g": str(Path("~/net.pth").expanduser()),
        "results_root": "/somewhere/results/tiny",
        "log": "/somewhere/results/tiny",
        "visualization": "/somewhere/results/tiny/visualization",
    }


def test_debug_runs_act_often():
    opt = minimal(name="debug_tiny", val={"val_freq": 1000})
    complete(opt, "/somewhere", is_train=True)
    assert (opt["val"]["val_freq"], opt["logger"]["print_freq"], opt["logger"]["save_checkpoint_freq"]) == (8, 1, 8)


@pytest.mark.parametrize("key", ["name", "model_type", "datasets", "path", "train", "logger"])
def test_required_keys(key: str):
    opt = minimal()
    del opt[key]
    with pytest.raises(OptionError, match=f"lacks the key `{key}:`"):
        complete(opt, "/somewhere", is_train=True)


def test_unknown_paths_would_become_folders():
    faults = option_faults(minimal(path={"experiments_rot": "x"}), is_train=True)
    assert any("path: experiments_rot is unknown; known keys: resume_state" in fault for fault in faults)


def test_output_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.delenv("LAFR_ROOT", raising=False)
    assert output_root(tmp_path) == str(tmp_path.resolve())
    monkeypatch.setenv("LAFR_ROOT", "~/runs")
    assert output_root(tmp_path) == str(Path("~/runs").expanduser().resolve())


def write_minimal(folder: Path, text: str = "") -> str:
    """An option file with nothing wrong, whose network needs no weights, and two faces."""
    (folder / "faces").mkdir()
    for i in range(2):
        io.imsave(folder / f"faces/{i}.png", photos.astronaut()[:64, :64], check_contrast=False)
    opt: dict[str, Any] = {
        "name": "tiny",
        "model_type": "FacePointModel",
        "datasets": {
            "train": {
                "name": "faces",
                "type": "FacePointDataset",
                "dataroot_gt": str(folder / "faces"),
                "degradation": "gfpgan",
                "batch_size_per_gpu": 2,
                "num_worker_per_gpu": 0,
            }
        },
        "network_g": {"type": "FacePointNet", "image_size": 64, "channels": [4, 4, 8, 8]},
        "path": {},
        "train": {"total_iter": 3, "optim_g": {"type": "AdamW", "lr": 1e-3}, "points_weight": 1, "face_weight": 1},
        "logger": {"print_freq": 1, "save_checkpoint_freq": 1, "use_tb_logger": False},
    }
    path = folder / "run.yml"
    path.write_text(yaml.safe_dump(opt, sort_keys=False) + text, encoding="utf-8")
    return str(path)


def test_command_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    path = write_minimal(tmp_path, "num_gpu: 4\nmanual_seed: 3\n")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr(
        sys,
        "argv",
        [
            "train.py",
            "-opt",
            path,
            "--auto_resume",
            "--debug",
            "--force_yml",
            "train:optim_g:lr=2e-4",
            "train:ema_decay=5e-1",
        ],
    )
    opt, args = parse_options(str(tmp_path))
    assert args.opt == path
    assert opt["name"] == "debug_tiny"
    assert opt["train"]["optim_g"]["lr"] == 2e-4
    assert opt["train"]["ema_decay"] == 0.5
    assert (opt["auto_resume"], opt["dist"], opt["rank"], opt["world_size"]) == (True, False, 0, 1)
    assert opt["num_gpu"] == 2  # no more than there are
    assert opt["manual_seed"] == 3
    assert opt["path"]["models"] == str(tmp_path / "experiments/debug_tiny/models")


@pytest.mark.parametrize(("wanted", "used"), [("auto", 0), ("0", 0), ("1", 0)])
def test_without_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, wanted: str, used: int):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.setattr(sys, "argv", ["train.py", "-opt", write_minimal(tmp_path, f"num_gpu: {wanted}\n")])
    opt, _ = parse_options(str(tmp_path))
    assert opt["num_gpu"] == used
    assert 1 <= opt["manual_seed"] <= 10000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: -opt"),
        (["-opt", "missing.yml"], "option file missing.yml: "),
        (["-opt", "{path}", "--force_yml", "path:extra=1"], "path: extra is unknown"),
        (["-opt", "{path}", "--force_yml", "name=~"], "lacks the key `name:`"),
    ],
)
def test_faulty_command_lines(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
):
    path = write_minimal(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train.py", *(a.format(path=path) for a in arguments)])
    with pytest.raises(SystemExit) as exit_info:
        parse_options(str(tmp_path))
    assert exit_info.value.code == 2
    assert message in capsys.readouterr().err
