"""Texts that name methods: what they mean, and what is said of those that name none."""

from __future__ import annotations

from pathlib import Path

import pytest

from lafr.methods import MODELS, MethodError, MethodSpec, parse_method
from lafr_base.weights import MissingWeightsError


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: a checkpoint, a deployed network, results, and no weights elsewhere."""
    for name in ("LAFR_WEIGHTS", "HF_HOME", "TORCH_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.chdir(tmp_path)
    for name in ("gfpgan.pth", "a,b.pth"):
        (tmp_path / name).write_bytes(b"weights")
    for name in ("deployed net", "osediff", "results", "runs/a=b"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("deployed net", "osediff", "runs/a=b"):
        (tmp_path / name / "config.json").write_text("{}")
    return tmp_path


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("mini", MethodSpec("mini", "lafr", MODELS["mini"])),
        ("ours=mini", MethodSpec("ours", "lafr", MODELS["mini"])),
        ("deployed net", MethodSpec("deployed_net", "lafr", Path("deployed net"))),
        ("runs/a=b", MethodSpec("a_b", "lafr", Path("runs/a=b"))),
        ("x=runs/a=b", MethodSpec("x", "lafr", Path("runs/a=b"))),
        ("osediff:osediff", MethodSpec("osediff", "lafr", Path("osediff"))),
        ("gfpgan:gfpgan.pth", MethodSpec("gfpgan", "gfpgan", Path("gfpgan.pth"))),
        ("v1.4=gfpgan:gfpgan.pth", MethodSpec("v1.4", "gfpgan", Path("gfpgan.pth"))),
        ("gfpgan:gfpgan.pth,noise=0", MethodSpec("gfpgan", "gfpgan", Path("gfpgan.pth"), {"noise": 0.0})),
        ("gfpgan:a,b.pth", MethodSpec("gfpgan", "gfpgan", Path("a,b.pth"))),
        ("restoreformer:gfpgan.pth", MethodSpec("restoreformer", "restoreformer", Path("gfpgan.pth"))),
        ("codeformer:gfpgan.pth", MethodSpec("codeformer", "codeformer", Path("gfpgan.pth"))),
        ("codeformer:gfpgan.pth,w=0.7", MethodSpec("codeformer", "codeformer", Path("gfpgan.pth"), {"w": 0.7})),
        ("cf=codeformer:gfpgan.pth,w=1", MethodSpec("cf", "codeformer", Path("gfpgan.pth"), {"w": 1.0})),
        ("bicubic", MethodSpec("bicubic", "bicubic")),
        ("lq=bicubic,size=256", MethodSpec("lq", "bicubic", None, {"size": 256.0})),
        ("dfdnet=results", MethodSpec("dfdnet", "results", Path("results"))),
    ],
)
def test_what_a_text_means(here: Path, text: str, spec: MethodSpec):
    assert parse_method(text) == spec
    assert parse_method(text).is_network == (spec.kind != "results")


def test_a_baseline_without_path_is_the_weight_of_the_list(here: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(MissingWeightsError, match="lafr weights --fetch restoreformer"):
        parse_method("restoreformer")
    monkeypatch.setenv("LAFR_WEIGHTS", str(here))
    (here / "RestoreFormer.pth").write_bytes(b"weights")
    assert parse_method("restoreformer").path == here / "RestoreFormer.pth"
    # A path is also looked for in the weights folder.
    monkeypatch.chdir(here / "results")
    assert parse_method("gfpgan:gfpgan.pth").path == here / "gfpgan.pth"


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        ("minni", FileNotFoundError, "minni/config.json does not exist; pass one of mini"),
        ("results", FileNotFoundError, "NAME=FOLDER of results"),
        ("x=nowhere", FileNotFoundError, "config.json does not exist"),
        ("osediff:results", FileNotFoundError, "config.json does not exist"),
        ("gfpgan:models/none.pth", FileNotFoundError, "file models/none.pth does not exist; gfpgan alone"),
        ("gfpgan:results", FileNotFoundError, "the file results does not exist"),
        ("codeformer:gfpgan.pth,w=2", MethodError, "w must be within 0"),
        ("codeformer:gfpgan.pth,w=a", MethodError, "w must be a number; got 'a'"),
        ("codeformer:gfpgan.pth,weight=1", MethodError, "no option 'weight'; it takes w"),
        ("restoreformer:gfpgan.pth,w=1", MethodError, "no option 'w'; it takes none"),
        ("gfpgan:gfpgan.pth,noise=0.5", MethodError, "noise must be 0"),
        ("bicubic,size=0.5", MethodError, "size must be a whole number"),
    ],
)
def test_texts_that_name_nothing(here: Path, text: str, error: type[Exception], said: str):
    with pytest.raises(error, match=said):
        parse_method(text)
