"""Baselines give exactly what spandrel's networks give on [-1, 1], alone, by `basicsr/test.py` and through LAFRer.

Published sizes take minutes on a CPU, so they are only checked for names and shapes, without numbers; the tests with
numbers use small networks of the same classes. With LAFR_FULL_SIZE=1 published sizes are run as well.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from lafr.detectors import Face  # noqa: E402 - after BasicSR can be imported
from lafr.networks import load_network  # noqa: E402
from lafr.restorer import LAFRer  # noqa: E402
from lafr_arch import baseline_arch  # noqa: E402
from lafr_arch.baseline_arch import (  # noqa: E402
    BicubicBaseline,
    CodeFormerBaseline,
    GFPGANBaseline,
    RestoreFormerBaseline,
)
from lafr_base.geometry import FFHQ_POINTS  # noqa: E402
from lafr_models.baseline_model import BaselineModel  # noqa: E402

spandrel = pytest.importorskip("spandrel")
ROOT = Path(__file__).resolve().parent.parent
CPU = torch.device("cpu")
# Parameters and tensors of GFPGANv1.4.pth, RestoreFormer.pth and codeformer.pth.
PUBLISHED = {"GFPGAN": (86_444_252, 285), "RestoreFormer": (72_680_003, 405), "CodeFormer": (94_112_707, 515)}


def architecture(name: str) -> Any:
    if name == "CodeFormer":
        pytest.importorskip("spandrel_extra_arches")
    return getattr(baseline_arch, f"_{name.lower()}")()


@cache
def network_class(name: str) -> Any:
    """The class of the network in spandrel; the same after a test has put another in its place."""
    return getattr(sys.modules[type(architecture(name)).__module__], name)


def randomised(net: nn.Module) -> nn.Module:
    """Nothing left at zero, where fresh networks have the weights of noise, fusion and biases."""
    for parameter in net.parameters():
        if not parameter.any():
            parameter.data.normal_(0, 0.05)
    return net.eval()


def small_restoreformer() -> nn.Module:
    arguments = {"n_embed": 8, "embed_dim": 8, "ch": 32, "ch_mult": (1,) * 5, "num_res_blocks": 1, "z_channels": 8}
    return randomised(network_class("RestoreFormer")(**arguments))


def small_gfpgan(**arguments: Any) -> nn.Module:
    return network_class("GFPGAN")(**{**arguments, "narrow": 1 / 16, "out_size": 32, "num_style_feat": 8})


def small_codeformer(**arguments: Any) -> nn.Module:
    """Two levels, 32 x 32 pixels; features of the finer one are fused, as the published network does at 32 x 32."""
    whole = network_class("CodeFormer")
    base = whole.__mro__[1]
    with pytest.MonkeyPatch.context() as patch:
        init = base.__init__
        patch.setattr(base, "__init__", lambda self, *_: init(self, 32, 32, [8, 1], "nearest", 2, [16], 4))
        net = whole(**{**arguments, "dim_embd": 8, "n_layers": 1, "codebook_size": 4, "connect_list": ["32"]})
    net.fuse_encoder_block["32"] = 2
    return net


SMALL: dict[str, Callable[..., nn.Module]] = {"GFPGAN": small_gfpgan, "CodeFormer": small_codeformer}
PLACES = {
    "GFPGAN": "spandrel.architectures.GFPGAN.GFPGAN",
    "CodeFormer": "spandrel_extra_arches.architectures.CodeFormer.CodeFormer",
}
BASELINES = {"GFPGAN": GFPGANBaseline, "CodeFormer": CodeFormerBaseline, "RestoreFormer": RestoreFormerBaseline}


@pytest.fixture
def saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], tuple[nn.Module, Path]]:
    """Makes a small network of random numbers and its checkpoint.

    spandrel reads RestoreFormer's size off the checkpoint; for the others its constructor is made to give a small one.
    """

    def save(name: str) -> tuple[nn.Module, Path]:
        if name == "RestoreFormer":
            net = small_restoreformer()
        else:
            architecture(name)
            net = randomised(SMALL[name]())
            monkeypatch.setattr(PLACES[name], SMALL[name])
        path = tmp_path / f"{name}.pth"
        torch.save({"params_ema": net.state_dict()}, path)
        return net, path

    return save


def faces(side: int = 32) -> Tensor:
    return torch.rand(2, 3, side, side)


@pytest.mark.parametrize("name", BASELINES)
def test_same_as_spandrels_network(name: str, saved: Callable[[str], tuple[nn.Module, Path]]):
    net, path = saved(name)
    baseline = BASELINES[name](str(path))
    lq = faces()
    with torch.no_grad():
        torch.manual_seed(1)
        expected = ((net(2 * lq - 1)[0] + 1) / 2).clamp(0, 1)
        torch.manual_seed(1)  # GFPGAN draws noise
        restored = baseline(lq)
    assert torch.equal(restored, expected)
    assert expected.std() > 0.01
    assert not baseline.training
    assert not any(p.requires_grad for p in baseline.parameters())
    # By its text, with the published name in front.
    loaded = load_network(f"{name.lower()}:{path}", CPU)
    assert type(loaded) is BASELINES[name]
    torch.manual_seed(1)
    assert torch.equal(loaded(lq), expected)
    # As an option file's network.
    network = {"type": BASELINES[name].__name__, "path": str(path)}
    model = BaselineModel({"network_g": network, "path": {}, "is_train": False, "num_gpu": 0, "dist": False})
    torch.manual_seed(1)
    assert torch.equal(model.restore(lq), expected)


def test_gfpgan_with_the_checkpoints_noise(saved: Callable[[str], tuple[nn.Module, Path]]):
    net, path = saved("GFPGAN")
    lq = faces()
    fixed, random = load_network(f"gfpgan:{path},noise=0", CPU), load_network(f"gfpgan:{path}", CPU)
    with torch.no_grad():
        expected = ((net(2 * lq - 1, randomize_noise=False)[0] + 1) / 2).clamp(0, 1)
        assert torch.equal(fixed(lq), expected)
        assert torch.equal(fixed(lq), expected)
        assert not torch.equal(random(lq), random(lq))


def test_codeformers_fidelity_weight(saved: Callable[[str], tuple[nn.Module, Path]]):
    net, path = saved("CodeFormer")
    baseline, lq = CodeFormerBaseline(str(path)), faces()
    results = []
    with torch.no_grad():
        for weight in (0.0, 0.5, 1.0):
            restored = baseline(lq, weight=weight)
            assert torch.equal(restored, ((net(2 * lq - 1, weight=weight)[0] + 1) / 2).clamp(0, 1))
            results.append(restored)
    assert (results[0] - results[1]).abs().max() > 1e-3
    assert (results[1] - results[2]).abs().max() > 1e-3
    assert torch.equal(baseline(lq), results[1])
    fixed = load_network(f"codeformer:{path},w=1", CPU)
    assert torch.equal(fixed(lq), results[2])
    with pytest.raises(ValueError, match="weight must be within"):
        CodeFormerBaseline(str(path), weight=2)


@pytest.mark.parametrize("name", BASELINES)
def test_published_names_and_shapes_fit(name: str):
    arch = architecture(name)
    with torch.device("meta"):
        state = network_class(name)().state_dict()
        net = network_class(name)()
        assert arch.detect(state)
        loaded = arch.load(state).model
    assert (sum(p.numel() for p in net.parameters()), len(state)) == PUBLISHED[name]
    assert {k: v.shape for k, v in loaded.state_dict().items()} == {k: v.shape for k, v in state.items()}


@pytest.mark.skipif(os.environ.get("LAFR_FULL_SIZE") != "1", reason="takes minutes; LAFR_FULL_SIZE=1 runs it")
@pytest.mark.parametrize("name", BASELINES)
def test_published_size(name: str, tmp_path: Path):
    net = randomised(network_class(name)())
    path = tmp_path / f"{name}.pth"
    torch.save({"params_ema": net.state_dict()}, path)
    lq = torch.rand(1, 3, 512, 512)
    registry = spandrel.ArchRegistry()
    registry.add(spandrel.ArchSupport.from_architecture(architecture(name)))
    model = spandrel.ModelLoader(registry=registry).load_from_file(path).model.eval()
    with torch.inference_mode():
        torch.manual_seed(1)
        expected = ((model(2 * lq - 1)[0] + 1) / 2).clamp(0, 1)
        net = BASELINES[name](str(path))  # which draws random numbers
        torch.manual_seed(1)
        assert torch.equal(net(lq), expected)


def test_wrong_files_are_refused(tmp_path: Path, saved: Callable[[str], tuple[nn.Module, Path]]):
    _, path = saved("RestoreFormer")
    with pytest.raises(ValueError, match="RestoreFormer.pth is no checkpoint of GFPGAN, clean version 1.2 to 1.4"):
        GFPGANBaseline(str(path))
    state = torch.load(path, weights_only=True)["params_ema"]
    del state["decoder.norm_out.weight"]
    torch.save(state, path)
    with pytest.raises(ValueError, match=r"(?s)no checkpoint of RestoreFormer: .*decoder.norm_out.weight"):
        RestoreFormerBaseline(str(path))
    for content in (b"", b"not a checkpoint", b"<html>404</html>"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="cannot be read as a checkpoint"):
            RestoreFormerBaseline(str(path))
    torch.save([1], path)
    with pytest.raises(ValueError, match="holds a list, not a state dict"):
        RestoreFormerBaseline(str(path))
    with pytest.raises(FileNotFoundError, match="nowhere.pth does not exist"):
        load_network("restoreformer:nowhere.pth", CPU)


def test_a_checkpoint_cannot_execute_anything(tmp_path: Path):
    class Evil:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "executed"),)

    torch.save({"params_ema": {"x": Evil()}}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match="cannot be read as a checkpoint"):
        GFPGANBaseline(str(tmp_path / "x.pth"))
    assert not (tmp_path / "executed").exists()


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "x.pth").write_bytes(b"x")
    monkeypatch.setitem(sys.modules, "spandrel", None)
    with pytest.raises(ModuleNotFoundError, match=r"needs the package spandrel: pip install 'lafr\[baselines\]'"):
        GFPGANBaseline(str(tmp_path / "x.pth"))


def test_bicubic():
    lq = torch.rand(1, 3, 512, 512)
    assert load_network("bicubic", CPU)(lq) is lq
    net = BicubicBaseline(64)
    small = torch.rand(1, 3, 16, 16)
    channels = [Image.fromarray(c.numpy()).resize((64, 64), Image.Resampling.BICUBIC) for c in small[0]]
    expected = torch.from_numpy(np.stack(channels))[None].clamp(0, 1)
    torch.testing.assert_close(net(small), expected, rtol=0, atol=1e-5)


class Middle:
    """Finds one face in the middle of every photo."""

    name = "middle"

    def detect(self, image: np.ndarray) -> list[Face]:
        height, width = image.shape[:2]
        points = (FFHQ_POINTS - 255.5) * (0.6 * height / 512) + [width / 2, height / 2]
        return [Face(np.array([0, 0, width, height], np.float32), points, 0.9)]


def restorer(model: str, monkeypatch: pytest.MonkeyPatch, side: int = 32) -> LAFRer:
    monkeypatch.setattr(baseline_arch._Baseline, "image_size", side)
    options = {"model": model, "device": "cpu", "upscale": 1, "detection_model": Middle()}
    return LAFRer(**options, identity=False, keep_intact=False)  # type: ignore[arg-type]


def photo() -> np.ndarray:
    image = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return cv2.resize(image, (80, 60), interpolation=cv2.INTER_CUBIC)


def as_seen(crop: np.ndarray) -> Tensor:
    return torch.from_numpy(crop[..., ::-1].astype(np.float32) / 255).permute(2, 0, 1)[None]


def as_written(output: Tensor) -> np.ndarray:
    return np.rint(output[0].permute(1, 2, 0).numpy()[..., ::-1] * 255).astype(np.uint8)


def test_lafrer_restores_with_a_baseline(
    saved: Callable[[str], tuple[nn.Module, Path]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
):
    net, path = saved("RestoreFormer")
    tool = restorer(f"restoreformer:{path}", monkeypatch)
    (crop,), (face,), whole = tool.enhance(photo())
    assert crop.shape == (32, 32, 3)
    with torch.no_grad():
        expected = as_written(((net(2 * as_seen(crop) - 1)[0] + 1) / 2).clamp(0, 1))
    assert np.array_equal(face, expected)  # neither tones nor anything else taken from the photo
    assert whole.shape == (60, 80, 3)
    assert (whole != photo()).any()
    assert not caplog.records
    tool.enhance(photo(), weight=0.9)
    assert "weight 0.9 has no effect" in caplog.text


def test_lafrers_weight_is_codeformers(
    saved: Callable[[str], tuple[nn.Module, Path]],
    monkeypatch: pytest.MonkeyPatch,
):
    net, path = saved("CodeFormer")
    tool = restorer(f"codeformer:{path}", monkeypatch)
    for options, weight in (({}, 0.5), ({"weight": 0}, 0), ({"weight": 1}, 1)):
        (crop,), (face,), _ = tool.enhance(photo(), **options)
        with torch.no_grad():
            expected = ((net(2 * as_seen(crop) - 1, weight=weight)[0] + 1) / 2).clamp(0, 1)
        assert np.array_equal(face, as_written(expected))
    tool = restorer(f"codeformer:{path},w=1", monkeypatch)
    assert np.array_equal(tool.enhance(photo())[1][0], face)


def launch(root: Path, script: str, *arguments: str) -> tuple[int, str]:
    environment = os.environ | {"LAFR_ROOT": str(root), "LAFR_WEIGHTS": str(root / "none"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / script), *arguments]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def test_option_file_runs(tmp_path: Path, saved: Callable[[str], tuple[nn.Module, Path]]):
    _, path = saved("RestoreFormer")
    (tmp_path / "faces").mkdir()
    cv2.imwrite(str(tmp_path / "faces/a.png"), cv2.resize(photo(), (256, 256)))
    status, text = launch(
        tmp_path,
        "basicsr/test.py",
        *("-opt", str(ROOT / "options/test_restoreformer.yml")),
        *("--force_yml", "num_gpu=0", f"network_g:path={path}"),
        *(f"datasets:test_1:dataroot_gt={tmp_path / 'faces'}", "datasets:test_1:image_size=256"),
    )
    assert status == 0, text
    for metric in ("psnr", "ssim", "niqe"):
        assert f"# {metric}: " in text
    pictures = list(tmp_path.glob("results/restoreformer_test/visualization/celeba_x4/*.png"))
    assert [p.name for p in pictures] == ["a_restoreformer_test.png"]


@pytest.mark.parametrize("name", ["gfpgan", "codeformer", "restoreformer"])
def test_option_files_differ_from_lafrs_in_the_network_only(name: str):
    from lafr_models.options import load_yaml

    opt, ours = (load_yaml(ROOT / "options" / f"test_{n}.yml") for n in (name, "lafr"))
    assert opt["datasets"] == ours["datasets"]
    assert opt["val"] == ours["val"]
    from lafr_base.registry import ARCH_REGISTRY
    from lafr_models.startup import required_weights

    assert required_weights(opt) == [opt["network_g"]["path"]]  # said before a run starts where it is missing
    assert ARCH_REGISTRY[opt["network_g"]["type"]] is {k.lower(): v for k, v in BASELINES.items()}[name]
