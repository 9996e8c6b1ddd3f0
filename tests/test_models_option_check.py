"""Options that cannot be misspelt: keys, types and arguments, all faults at once, before anything is written."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import pytest
from skimage import data as photos
from skimage import io

import lafr
from conftest import ROOT
from lafr_base.option_keys import REQUIRED, Key, call_faults, describe, is_of_kind, section_faults
from lafr_models.option_check import option_faults
from lafr_models.option_paths import PATH_OPTIONS, output_root, resolve, resolve_paths
from lafr_models.options import check, load_yaml, override

lafr.register()

from lafr_models.option_reference import documented, reference  # noqa: E402


@pytest.mark.parametrize(
    ("value", "kind", "fits"),
    [
        (1, float, True),
        (1.5, int, False),
        (True, int, False),
        (True, float, False),
        ("1", float, False),
        (None, int | None, True),
        (None, int, False),
        ("bf16", Literal["bf16", "fp16"] | None, True),
        ("fp8", Literal["bf16", "fp16"] | None, False),
        (1, Literal[True], False),
        ([1, 2], list[int], True),
        ([1, "a"], list[int], False),
        ([0.5, 0.9], tuple[float, float], True),
        ([0.5], tuple[float, float], False),
        ([1, 2, 3], tuple[int, ...], True),
        ({"a": 1}, Mapping[str, Any] | None, True),
        ("a", Mapping, False),
        (object(), Path, True),  # not known here
    ],
)
def test_kinds(value: Any, kind: Any, fits: bool):
    assert is_of_kind(value, kind) is fits


def test_kinds_in_words():
    assert describe(int | Literal["auto"]) == "a whole number or auto"
    assert describe(Literal["bf16", "fp16"] | None) == "bf16, fp16 or ~"


def test_sections():
    keys = [Key("lr", float, REQUIRED, "the rate"), Key("*_opt", Mapping, None, "a loss"), Key("n", int | None, 3, "")]
    assert section_faults("train", {"lr": 1, "pixel_opt": {}, "n": None}, keys) == []
    assert section_faults("train", {"lrr": 1, "n": "x"}, keys) == [
        "train: lrr is unknown; did you mean `lr`?",
        "train: n: 'x' is not a whole number or ~",
        "train: lr is missing: the rate",
    ]


def test_calls():
    def loss(weight: float, kind: str = "a", **_: Any) -> None: ...

    assert call_faults("l", loss, {"type": "loss", "weight": 1, "any": 2}) == []
    assert call_faults("l", loss, {"weigt": 1, "weight": 1}, strict=True) == [
        "l: weigt is unknown; did you mean `weight`?"
    ]
    assert call_faults("l", loss, {"kind": 1}) == ["l: kind: 1 is not text", "l: weight is missing, which loss needs"]
    assert call_faults("l", loss, {}, filled=("weight",)) == []


OTHERS = ("ablations.yml", "rivals.yml", "tables.yml")  # what the studies read
SHIPPED = sorted(path for path in (ROOT / "options").rglob("*.yml") if path.name not in OTHERS)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.relative_to(ROOT / "options").as_posix())
def test_shipped_option_files_say_what_they_can(path: Path):
    opt = load_yaml(path)
    assert option_faults(opt, "train" in opt) == []
    # Whatever looks like a path is under the rule for paths.
    texts = list(_texts(opt))
    assert texts
    for key, value in texts:
        if value.startswith(("datasets/", "experiments/", "lafr/")):
            assert key in PATH_OPTIONS or key.startswith("pretrain_network"), (key, value)


def _texts(options: Mapping[str, Any]) -> Any:
    for key, value in options.items():
        if isinstance(value, Mapping):
            yield from _texts(value)
        elif isinstance(value, str):
            yield key, value


WRONG = {
    "train:decode_corp=18": "train: decode_corp is unknown; did you mean `decode_crop`?",
    "train:ema_decay=1.5": "train: ema_decay: 1.5 is not in [0, 1)",
    "train:optim_g:lr=fast": "train: optim_g: lr: 'fast' is not a number of at least 0",
    "train:optim_d:beta=[0.5, 0.9]": "train: optim_d: beta is unknown; did you mean `betas`?",
    "train:scheduler:type=CosineAnnealing": "train: scheduler: type: CosineAnnealing is unknown; did you mean `Cosine",
    "train:pixel_opt:type=MSELos": "train: pixel_opt: type: MSELos is unknown; did you mean `MSELoss`?",
    "train:feature_opt:layer=[0]": "train: feature_opt: layer is unknown; did you mean `layers`?",
    "train:feature_opt:distance=l3": "train: feature_opt: distance: 'l3' is not l1 or l2",
    "train:gan_opt:objective=wasserstein": "train: gan_opt: objective: 'wasserstein' is not hinge or logistic",
    "val:val_frq=100": "val: val_frq is unknown; did you mean `val_freq`?",
    "val:metrics:psnr:crop_bordr=0": "val: metrics: psnr: crop_bordr is unknown; did you mean `crop_border`?",
    "val:metrics:niqe:type=calculate_niqee": "val: metrics: niqe: type: calculate_niqee is unknown; did you mean `calc",
    "logger:print_frq=1": "logger: print_frq is unknown; did you mean `print_freq`?",
    "logger:use_tb_logger=maybe": "logger: use_tb_logger: 'maybe' is not true or false",
    "path:resume_stat=x": "path: resume_stat is unknown; did you mean `resume_state`?",
    "path:pretrain_network_h=x": "path: pretrain_network_h is unknown; did you mean `pretrain_network_",
    "dist_params:prt=1": "dist_params: prt is unknown; did you mean `port`?",
    "num_gpus=1": "num_gpus is unknown; did you mean `num_gpu`?",
    "network_dd={}": "network_dd is unknown; did you mean `network_d`?",
    "network_g:prun=false": "network_g: prun is unknown; did you mean `prune`?",
    "network_g:lora:rnk=4": "network_g: lora: rnk is unknown; did you mean `rank`?",
    "network_g:alignment:hiden=4": "network_g: alignment: hiden is unknown; did you mean `hidden`?",
    "network_d:width=wide": "network_d: width: 'wide' is not a whole number",
    "datasets:train:n_imags=4": "datasets: train: FaceDegradationDataset: unknown option n_imags; did you mean",
    "datasets:trian={}": "datasets: trian is unknown; sets are called train, val",
    "datasets:val:degradation=celeba": "datasets: val: ",
    "datasets:train:batch_size_per_gpu=~": "datasets: train: batch_size_per_gpu is missing",
}


def test_every_wrong_value_is_named_in_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LAFR_ROOT", str(tmp_path))
    monkeypatch.setenv("LAFR_WEIGHTS", str(tmp_path / "none"))
    opt = load_yaml(ROOT / "options/mini/unet.yml")
    for assignment in WRONG:
        override(opt, assignment)
    faults = check(opt, str(tmp_path), is_train=True)
    lost = [message for message in WRONG.values() if not any(fault.startswith(message) for fault in faults)]
    assert lost == []
    # And what is missing: weights, base model, adapter, faces, with where faces are had from.
    text = "\n".join(faults)
    for name in ("experiments/mini_prior/base_model", "alignment_weights: experiments/mini_align", "3ddfa-v2"):
        assert name in text
    faces = load_yaml(ROOT / "options/mini/unet.yml")["datasets"]["val"]["dataroot_gt"]
    assert f"datasets: val: dataroot_gt: {faces} does not exist" in text
    assert "https://github.com/NVlabs/ffhq-dataset" in text
    assert not list(tmp_path.iterdir())


def test_each_fault_alone_is_the_only_one():
    for assignment, message in WRONG.items():
        if assignment.startswith(("datasets:train:n_imags", "datasets:val:")):
            continue  # said by the classes, which are asked later
        opt = load_yaml(ROOT / "options/mini/unet.yml")
        override(opt, assignment)
        faults = option_faults(copy.deepcopy(opt), is_train=True)
        assert len(faults) == 1, (assignment, faults)
        assert faults[0].startswith(message)


def _places(options: Mapping[str, Any], above: tuple[str, ...] = ()) -> Any:
    for key, value in options.items():
        if isinstance(value, Mapping):
            yield from _places(value, (*above, key))
        else:
            yield (*above, key)


def test_a_wrong_value_anywhere_in_stage_2_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("LAFR_ROOT", "LAFR_WEIGHTS", "HF_HOME", "TORCH_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    shipped = load_yaml(ROOT / "options/lafr_unet.yml")
    places = list(_places(shipped))
    assert len(places) > 70

    def with_wrong(wrong: list[tuple[str, ...]]) -> dict[str, Any]:
        opt = copy.deepcopy(shipped)
        for *parents, last in wrong:
            section: Any = opt
            for key in parents:
                section = section[key]
            section[last] = [["wrong"]]
        return opt

    # What decides which other options there are, each alone; the others in one message.
    deciding = [place for place in places if place[-1] in ("type", "model_type", "name") and "io_backend" not in place]
    for place in deciding:
        assert any(place[-1] in fault for fault in option_faults(with_wrong([place]), is_train=True)), place
    others = [place for place in places if place not in deciding]
    faults = check(with_wrong(others), str(tmp_path), is_train=True)
    assert [place for place in others if not any(place[-1] in fault for fault in faults)] == []
    assert not list(tmp_path.iterdir())


def test_model_types():
    opt = load_yaml(ROOT / "options/mini/unet.yml")
    assert option_faults(opt | {"model_type": "LAFRUNetModle"}, True)[0] == (
        "model_type: LAFRUNetModle is unknown; did you mean `LAFRUNetModel`?"
    )
    assert option_faults(opt | {"model_type": "SRModel"}, True) == []  # BasicSR's, whose options are not known here
    opt["network_g"]["alignment"] = {"type": "LatentAlignmentAdapter"}
    assert option_faults(opt | {"model_type": "OSEDiffModel"}, True)[-3:] == [
        "train: optim_vsd is missing: optimizer of the LoRA of network_vsd",
        "network_g: alignment: OSEDiff has none; leave it out, or train with LAFRUNetModel",
        "network_vsd: is missing; give {type: ScoreDistillation, lora: {rank: 4, targets: all}}",
    ]


# ---- paths --------------------------------------------------------------------------------------------------------


def test_relative_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    root, here = tmp_path / "root", tmp_path / "here"
    for path in (root / "both", root / "of_root", here / "both", here / "of_here"):
        path.mkdir(parents=True)
    monkeypatch.chdir(here)
    monkeypatch.setenv("LAFR_ROOT", str(root))
    assert resolve("both") == str(root / "both")
    assert resolve("of_root") == str(root / "of_root")
    assert resolve("of_here") == str(here / "of_here")
    assert resolve("options/lafr_unet.yml") == str(ROOT / "options/lafr_unet.yml")
    assert resolve("nowhere/to/be") == "nowhere/to/be"  # perhaps a hub id
    assert resolve("kept/here", made=True) == str(root / "kept/here")
    assert resolve(str(here / "x")) == str(here / "x")
    assert resolve("~/x") == str(Path("~/x").expanduser())
    monkeypatch.delenv("LAFR_ROOT")
    assert resolve("both") == str(here / "both")
    assert resolve("of_root") == "of_root"
    assert output_root() == str(ROOT)


def test_paths_at_any_depth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LAFR_ROOT", raising=False)
    (tmp_path / "faces").mkdir()
    opt = {
        "name": "faces",
        "datasets": {"train": {"name": "faces", "dataroot_gt": "faces"}},
        "train": {"latent_cache": "kept", "feature_opt": {"path": "faces", "layers": [0]}},
        "path": {"pretrain_network_g": "faces", "resume_state": None},
    }
    resolve_paths(opt)
    faces = str(tmp_path / "faces")
    assert opt == {
        "name": "faces",
        "datasets": {"train": {"name": "faces", "dataroot_gt": faces}},
        "train": {"latent_cache": str(tmp_path / "kept"), "feature_opt": {"path": faces, "layers": [0]}},
        "path": {"pretrain_network_g": faces, "resume_state": None},
    }


# ---- the page -----------------------------------------------------------------------------------------------------


def test_the_reference_page_is_current():
    page = (ROOT / "docs/options.md").read_text(encoding="utf-8")
    assert page == reference(), "run `lafr options --out docs/options.md`"


def test_docstrings_are_read_by_entry():
    class Set:
        """A set.

        Options:
            first: one
                line more.
            second, third: two.

        Raises:
            ValueError: never.
        """

    assert documented(Set, "Options") == [("first", "one line more."), ("second, third", "two.")]


# ---- sets of faces ------------------------------------------------------------------------------------------------


def test_sets_are_built_before_a_run(tmp_path: Path):
    faces = tmp_path / "faces"
    faces.mkdir()
    for i in range(4):
        io.imsave(faces / f"{i}.png", photos.astronaut()[:64, :64], check_contrast=False)
    opt = load_yaml(ROOT / "options/mini/aligner.yml")
    del opt["datasets"]["val"]
    opt["datasets"]["train"] |= {"dataroot_gt": str(faces), "batch_size_per_gpu": 4, "landmarks": None}
    assert check(copy.deepcopy(opt), str(tmp_path), is_train=True) == []
    opt["datasets"]["train"]["n_images"] = 600
    assert check(copy.deepcopy(opt), str(tmp_path), is_train=True) == [
        "datasets: train: n_images: 600 is more than the 4 images there are"
    ]
    opt["datasets"]["train"] |= {"n_images": None, "batch_size_per_gpu": 64}
    (faces / "3.png").write_bytes((faces / "3.png").read_bytes()[:600])
    batch, broken = check(opt, str(tmp_path), is_train=True)
    assert "a batch of 64 is larger than the 40 images of an epoch" in batch
    assert f"1 of 4 images cannot be read whole: {faces / '3.png'};" in broken
