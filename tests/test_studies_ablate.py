"""``lafr ablate``: trainings are shared and go on, unknown keys are refused, figures."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

import lafr
from lafr_arch.network_g_arch import build_lafr

lafr.register()

from ablation_faces import ABLATIONS, find_weights_in, planner, tiny_settings, write_workspace  # noqa: E402
from lafr.cli import main  # noqa: E402
from lafr_arch.lafr_arch import LAFRNet  # noqa: E402
from lafr_models.options import load_yaml  # noqa: E402
from lafr_studies.ablations.deltas import AblationError, merge  # noqa: E402
from lafr_studies.ablations.experiment import Request, run_table  # noqa: E402
from lafr_studies.ablations.paper_tables import SCALES, Row, read_ablations  # noqa: E402
from lafr_studies.ablations.row_report import paired_difference, spread  # noqa: E402
from lafr_studies.ablations.runs import Planner, Run, train  # noqa: E402


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_workspace(tmp_path_factory.mktemp("ablations"))


@pytest.fixture(autouse=True)
def weights(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find_weights_in(root, monkeypatch)


def plan(row: Row, scale: str) -> list[Run]:
    return planner(scale).plan(row, 0)


# ---- trainings ----------------------------------------------------------------------------------------------------


def test_seed_goes_to_training_data_and_subset():
    row = ABLATIONS.table("11").rows[0]
    for run in planner("mini").plan(row, 7):
        train_set = run.options["datasets"]["train"]
        assert (run.options["manual_seed"], train_set["seed"], train_set["n_images_seed"]) == (7, 7, 7)
    names = [{run.name for run in planner("mini").plan(row, seed)} for seed in (7, 8)]
    assert not names[0] & names[1]


def test_equal_options_are_one_training():
    """Stage 1 is the same for all rows of Table 5, and the full method for all tables but 11 and 12."""
    runs = {row.name: plan(row, "mini") for row in ABLATIONS.table("5").rows}
    assert len({first.name for first, _ in runs.values()}) == 1
    assert len({second.name for _, second in runs.values()}) == 6
    full = [next(r for r in ABLATIONS.table(t).rows if r.name == ABLATIONS.table(t).reference) for t in "45678"]
    for scale in SCALES:
        assert len({plan(row, scale)[-1].name for row in full}) == 1


def test_a_base_model_trained_again_is_another_training(tmp_path: Path):
    def planned() -> str:
        again = Planner(ABLATIONS, "mini", tmp_path, force=[f"network_g:base_model={tmp_path / 'base'}"])
        return again.plan(ABLATIONS.table("5").rows[0], 0)[0].name

    (tmp_path / "base").mkdir()
    (tmp_path / "base/model.safetensors").write_bytes(b"1" * 100)
    first = planned()
    assert planned() == first
    (tmp_path / "base/model.safetensors").write_bytes(b"1" * 99 + b"2")
    assert planned() != first


def test_steps_change_the_last_stage_and_its_schedule():
    row = ABLATIONS.table("5").rows[0]
    first, second = Planner(ABLATIONS, "mini", Path("out"), steps=40).plan(row, 0)
    assert first.options["train"]["total_iter"] == plan(row, "mini")[0].options["train"]["total_iter"]
    assert second.options["train"]["total_iter"] == 40
    assert second.options["train"]["scheduler"]["periods"] == [40]


# ---- deltas -------------------------------------------------------------------------------------------------------

BASE = load_yaml(Path(lafr.__file__).parents[1] / "options/mini/unet.yml")


def test_merge():
    merged = merge(BASE, {"network_g": {"lora": {"rank": 2}, "alignment_weights": None}}, "x", [BASE])
    assert merged["network_g"]["lora"] == {**BASE["network_g"]["lora"], "rank": 2}
    assert "alignment_weights" not in merged["network_g"]
    assert "alignment_weights" in BASE["network_g"]
    other = merge(BASE, {"network_g": {"alignment": {"type": "FaithDiffAlignment", "width": 8}}}, "x", [BASE])
    assert other["network_g"]["alignment"] == {"type": "FaithDiffAlignment", "width": 8}
    few = merge(BASE, {"datasets": {"val": {"cache": True}}}, "x", [BASE])  # which only the training set has
    assert few["datasets"]["val"]["cache"] is True


@pytest.mark.parametrize(
    ("delta", "message"),
    [
        ({"network_g": {"prunne": False}}, "network_g:prunne: no such key; did you mean `prune`?"),
        (
            {"network_g": {"alignment": {"type": "VQFRAlignment", "hidden": 8}}},
            "network_g:alignment:hidden: no such key",
        ),
        ({"network_g": {"alignment": {"type": "Nothing"}}}, "no network is called Nothing"),
        ({"network_g": {"lora": {"ranks": 8}}}, "network_g:lora:ranks: no such key; did you mean `rank`?"),
        ({"train": {"pixel_opt": {"weight": 1}}}, "train:pixel_opt:weight: no such key"),
        ({"train": {"identity": {"type": "ArcFaceLoss"}}}, "train:identity: no such key"),
        ({"train": {"identity_opt": {"type": "Nothing"}}}, "no loss is called Nothing"),
        ({"train": {"total_iters": 3}}, "train:total_iters: no such key; did you mean `total_iter`?"),
        ({"datasets": {"train": {"n_image": 3}}}, "datasets:train:n_image: no such key"),
        (
            {"network_g": {"ip_adapter": {"token": 3}}},
            "network_g:ip_adapter:token: no such key; did you mean `tokens`?",
        ),
        ({"network_g": {"ip_adapter": {"unet": 3}}}, "network_g:ip_adapter:unet: no such key"),
        (
            {"network_g": {"ip_adapter": {"encoder": {"type": "CLIPImageEncoder", "path": "x"}}}},
            "network_g:ip_adapter:encoder:path: no such key",
        ),
        ({"trian": {}}, "trian: no such key; did you mean `train`?"),
        ({"train": {"structure_opt": None}}, "train:structure_opt: `~` takes a key away, and there is none"),
    ],
)
def test_unknown_keys_are_refused(delta: dict[str, Any], message: str):
    with pytest.raises(AblationError) as error:
        merge(BASE, delta, "row x", [BASE])
    assert str(error.value).startswith("row x: ")
    assert message in str(error.value)


def test_faulty_files_are_refused(tmp_path: Path):
    text = (Path(lafr.__file__).parents[1] / "options/ablations.yml").read_text()
    for old, new, message in (
        ("reference: ours", "reference: mine", "tables: 4: reference: mine is no row"),
        ("PSNR: psnr, FID: fid", "PSNR: psnrr, FID: fid", "columns: PSNR: no metric or cost is called psnrr"),
        ("paper: [26.29, ", "paper: [", "rows: faithdiff: paper: 6 figures are needed"),
        ("delta: {unet: {train: {structure_opt", "delta: {unett: {train: {structure_opt", "the delta has unett"),
        ("only: [mini]", "onyl: [mini]", "onyl is unknown"),
    ):
        assert old in text
        (tmp_path / "a.yml").write_text(text.replace(old, new))
        with pytest.raises(AblationError, match=message):
            read_ablations(tmp_path / "a.yml")


# ---- running ------------------------------------------------------------------------------------------------------

# Stands for the launcher: notes what it was asked for, and leaves a network that depends on the losses.
LAUNCHER = """
import json, os, shutil, sys
from pathlib import Path
root = Path(os.environ["LAFR_ROOT"])
opt = json.loads(Path(sys.argv[2]).read_text())
assert sys.argv[3:] == ["--auto_resume"]
with (root / "calls.txt").open("a") as calls:
    calls.write(opt["name"] + "\\n")
weights = opt["network_g"].get("alignment_weights")
assert weights is None or Path(weights).is_file()
if (root / "fail").exists() and opt["name"].startswith("unet"):
    sys.exit("the disk is full")
folder = root / "experiments" / opt["name"]
(folder / "models").mkdir(parents=True)
(folder / "models/net_g_latest.pth").touch()
if opt["name"].startswith("unet"):
    shutil.copytree(Path(__file__).parent / ("b" if "identity_opt" in opt["train"] else "a"), folder / "deployed")
"""


@pytest.fixture(scope="module")
def launcher(root: Path) -> Path:
    for i, name in enumerate("ab"):
        net = build_lafr(str(root / "mini"), prompt=None, timestep=250, lora={"rank": 2})
        with torch.no_grad():
            list(net.vae.decoder.parameters())[-1].add_(0.2 * i)  # b's faces are brighter
        net.save_pretrained(root / "launcher" / name)
    (root / "launcher/train.py").write_text(LAUNCHER)
    return root / "launcher/train.py"


def make_request(root: Path, launcher: Path, out: Path, **changes: Any) -> Request:
    values: dict[str, Any] = {"table": "5", "scale": "mini", "seeds": (0, 1), "out": out, "rows": ("1", "2")}
    values |= {"force": tuple(tiny_settings(root)), "device": "cpu", "launcher": launcher}
    return Request(**{**values, **changes})


def test_a_table(root: Path, launcher: Path, tmp_path: Path):
    said: list[str] = []
    (tmp_path / "fail").touch()
    report, _ = run_table(make_request(root, launcher, tmp_path), said.append)
    assert said[0] == "table 5: 3 rows, 2 seeds; 8 trainings to do"  # 2 of stage 1, 6 of stage 2
    assert len(report["failures"]) == 6
    assert "the disk is full" in report["failures"][0]

    (tmp_path / "fail").unlink()
    said.clear()
    report, text = run_table(make_request(root, launcher, tmp_path), said.append)
    assert said[0].endswith("6 trainings to do")
    calls = (tmp_path / "calls.txt").read_text().split()
    assert len([name for name in calls if name.startswith("align")]) == 2
    assert len([name for name in calls if name.startswith("unet")]) == 12
    assert report["failures"] == []

    # Row 2 has the reference's network, row 1 another.
    assert [row["name"] for row in report["rows"]] == ["1", "2", "6"]
    first, second, reference = (row["cells"]["psnr"] for row in report["rows"])
    assert first["count"] == 2
    assert "difference" not in reference
    assert second["difference"]["mean"] == 0
    assert first["difference"]["mean"] == pytest.approx(first["mean"] - reference["mean"])
    assert abs(first["difference"]["mean"]) > 1e-3
    assert {"dists", "deg", "lmd"} <= set(report["missing"])
    stored = json.loads((tmp_path / "table_5_mini.json").read_text())
    assert stored["rows"][0]["cells"]["psnr"]["mean"] == first["mean"]
    assert (tmp_path / "table_5_mini.md").read_text() == text
    assert "| row | L_id | L_fs | PSNR ↑ | DISTS ↓ | NIQE ↓ | Deg ↓ | LMD ↓ |" in text
    assert "± 0.00 (25.99) |" in text or "± 0.000 (25.99) |" in text
    assert "batch 2" in text

    # Nothing is done twice, neither by this table nor by one that shares its trainings.
    measured = {path: path.stat().st_mtime_ns for path in tmp_path.glob("measures/*.json")}
    run_table(make_request(root, launcher, tmp_path), said.append)
    run_table(make_request(root, launcher, tmp_path, table="7", rows=("5",)), said.append)
    assert len((tmp_path / "calls.txt").read_text().split()) == len(calls)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("measures/*.json")} == measured


def test_missing_files_and_unknown_names_stop_before_anything_is_trained(
    root: Path, launcher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for changes, message in (
        ({"rows": ("7",)}, "table 5 has no row 7 at mini scale; there are 1, 2, 3, 4, 5, 6"),
        ({"table": "9"}, "no table 9 among the ablations; there are 4, 5, 6, 7, 8, 11, 12"),
        ({"force": ("train:total_itr=3",)}, "--force_yml train:total_itr=3: train:total_itr: no such key"),
        ({"force": ("network_g:base_model=nowhere",)}, "nowhere"),
    ):
        with pytest.raises(AblationError) as error:
            run_table(make_request(root, launcher, tmp_path, **changes), print)
        assert message in str(error.value)
    (tmp_path / "some").mkdir()
    for name in ("mb05_120x120.pth", "3ddfa_68_basis.npz"):
        (tmp_path / "some" / name).symlink_to(root / "weights" / name)
    monkeypatch.setenv("LAFR_WEIGHTS", str(tmp_path / "some"))
    with pytest.raises(AblationError) as error:
        run_table(make_request(root, launcher, tmp_path), print)
    assert "rows 2, 6: " in str(error.value)
    assert "mobilefacenet_068.ckpt" in str(error.value)
    assert not (tmp_path / "calls.txt").exists()


def test_command(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for arguments, message in (
        (["9"], "no table 9 among the ablations"),
        (["5", "--steps", "0"], "--steps must be at least 1"),
        (["5", "--seeds", "-1"], "--seeds must not be negative"),
        (["5", "--force_yml", "train"], "expected KEY:KEY=VALUE"),
    ):
        assert main(["ablate", *arguments, "--out", str(tmp_path)]) == 2
        assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_real_launcher(root: Path, tmp_path: Path):
    """Table 7, row 4: no alignment, pruned, convolutions, with the mini scale's losses, two steps."""
    force = [*tiny_settings(root), "logger:print_freq=1"]
    (run,) = Planner(ABLATIONS, "mini", tmp_path, steps=2, force=force).plan(ABLATIONS.table("7").rows[3], 0)
    assert not run.finished(tmp_path)
    train(run, tmp_path)
    assert run.finished(tmp_path)
    log = (tmp_path / "logs" / f"{run.name}.log").read_text()
    assert "l_identity" in log
    net = LAFRNet.from_pretrained(run.folder(tmp_path) / "deployed")
    assert net.alignment is None


# ---- figures ------------------------------------------------------------------------------------------------------


def test_spread_is_students():
    found = spread([1.0, 2.0, 4.0])
    sd = math.sqrt(((1 - 7 / 3) ** 2 + (2 - 7 / 3) ** 2 + (4 - 7 / 3) ** 2) / 2)
    half = 4.302653 * sd / math.sqrt(3)  # the 97.5 % point of Student's t with two degrees of freedom
    assert found["mean"] == pytest.approx(7 / 3)
    assert found["sd"] == pytest.approx(sd)
    assert (found["low"], found["high"]) == pytest.approx((7 / 3 - half, 7 / 3 + half))
    assert spread([3.0]) == {"mean": 3.0, "sd": None, "low": None, "high": None, "count": 1}


def test_paired_difference_takes_faces_that_both_have():
    a = {"faces": {"x": {"psnr": 3.0}, "y": {"psnr": None}, "z": {"psnr": 9.0}}, "set": {"fid": 5.0}, "seconds": 2.0}
    b = {"faces": {"x": {"psnr": 1.0}, "y": {"psnr": 7.0}}, "set": {"fid": 8.0}, "seconds": 1.5}
    assert paired_difference(a, b, "psnr") == 2.0
    assert paired_difference(a, b, "fid") == -3.0
    assert paired_difference(a, b, "seconds") == 0.5
    assert paired_difference(a, b, "ssim") is None
