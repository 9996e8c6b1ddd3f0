"""Every row of options/ablations.yml changes the trained network, its losses or its data as it says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import lafr
from lafr_arch.network_g_arch import build_lafr

lafr.register()

from ablation_faces import ABLATIONS, SIZES, find_weights_in, planner, tiny_losses, write_workspace  # noqa: E402
from lafr_arch.lafr_arch import LAFRNet  # noqa: E402
from lafr_arch.lora import LORA_TARGETS, lora_layers  # noqa: E402
from lafr_arch.static_unet import StaticUNet  # noqa: E402
from lafr_data.degradation_dataset import FaceDegradationDataset  # noqa: E402
from lafr_metrics.specs import METRICS  # noqa: E402
from lafr_models.image_losses import ImageLosses  # noqa: E402
from lafr_models.startup import required_weights  # noqa: E402
from lafr_studies.ablations.paper_tables import COSTS, Row  # noqa: E402
from lafr_studies.ablations.runs import Run  # noqa: E402

ALL_ROWS = [(table, row, scale) for table in ABLATIONS.tables.values() for row in table.rows for scale in row.scales]


def name_of(value: Any) -> str:
    return value if isinstance(value, str) else value.name


def of_tables(names: str) -> pytest.MarkDecorator:
    """The rows of some tables, with the scale."""
    chosen = [(t.name, r, s) for t, r, s in ALL_ROWS if t.name in names.split()]
    return pytest.mark.parametrize(("table", "row", "scale"), chosen, ids=name_of)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_workspace(tmp_path_factory.mktemp("ablations"))


@pytest.fixture(autouse=True)
def weights(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find_weights_in(root, monkeypatch)


_PLANS: dict[tuple[int, str], list[Run]] = {}


def plan(row: Row, scale: str) -> list[Run]:
    """The row's trainings for seed 0, made once."""
    key = (id(row), scale)
    if key not in _PLANS:
        _PLANS[key] = planner(scale).plan(row, 0)
    return _PLANS[key]


def network(row: Row, scale: str, root: Path, stage: int = -1) -> LAFRNet:
    """The network of a row's stage on a tiny base model; nothing else is changed."""
    options = dict(plan(row, scale)[stage].options["network_g"])
    assert options.pop("type") == "LAFRNet"
    options.pop("alignment_weights", None)
    if "ip_adapter" in options and scale == "full":
        encoder = {**options["ip_adapter"]["encoder"], "model": str(root / "clip")}
        options["ip_adapter"] = {**options["ip_adapter"], "encoder": encoder}
    torch.manual_seed(0)
    return build_lafr(**{**options, "base_model": str(root / scale), "image_size": SIZES[scale]})


# ---- every row ----------------------------------------------------------------------------------------------------


def test_the_papers_tables_are_there():
    assert list(ABLATIONS.tables) == ["4", "5", "6", "7", "8", "11", "12"]
    assert [len(table.rows) for table in ABLATIONS.tables.values()] == [3, 6, 5, 5, 2, 18, 18]
    for table in ABLATIONS.tables.values():
        assert set(table.columns.values()) <= {*METRICS, *COSTS}
    figures = ABLATIONS.table("5").rows[2].paper
    assert figures == {"PSNR": 24.75, "DISTS": 0.1946, "NIQE": 5.333, "Deg": 53.01, "LMD": 3.391}
    figures = ABLATIONS.table("8").rows[0].paper
    assert figures == {"PSNR": 26.21, "NIQE": 5.358, "FID": 25.54, "LPIPS": 0.3606, "Deg": 44.74}


@pytest.mark.parametrize(("table", "row", "scale"), ALL_ROWS, ids=name_of)
def test_row_differs_from_every_other_of_its_table(table: Any, row: Row, scale: str):
    """By the name of its last training, which is a digest of all options that matter."""
    names = [plan(other, scale)[-1].name for other in table.rows if scale in other.scales]
    assert names.count(plan(row, scale)[-1].name) == 1


@of_tables("4 6 7 8")
def test_alignment_pruning_and_lora(table: str, row: Row, scale: str, root: Path):
    net = network(row, scale, root)
    kind = {"none": None, "ip_adapter": None, "vqfr": "VQFRAlignment", "faithdiff": "FaithDiffAlignment"}.get(
        row.name, "LatentAlignmentAdapter"
    )
    lora, pruned = "conv", True
    if table == "7":
        kind = kind if row.name == "5" else None
        lora = {"1": "all", "2": "attention"}.get(row.name, "conv")
        pruned = row.name in "45"
    assert (None if net.alignment is None else type(net.alignment).__name__) == kind
    assert isinstance(net.unet, StaticUNet) == pruned
    layers = lora_layers(net.unet)
    assert layers
    assert all(any(f".{name}".endswith(f".{target}") for target in LORA_TARGETS[lora]) for name in layers)
    kinds = {type(net.unet.get_submodule(name).get_base_layer()).__name__ for name in layers}
    assert kinds == {"conv": {"Conv2d"}, "attention": {"Linear"}, "all": {"Conv2d", "Linear"}}[lora]
    if lora == "all":
        assert any(".attn1." in name for name in layers)
        assert any(".ff." in name for name in layers)
    trained = [name for name, p in net.named_parameters() if p.requires_grad and not name.startswith("alignment.")]
    assert any("lora_" in name for name in trained)
    assert all("lora_" in name or (net.ip_adapter is not None and _of_ip_adapter(name)) for name in trained)
    if kind == "LatentAlignmentAdapter":
        assert net.alignment.skip == (scale == "mini" and row.name != "codes")
    # Stage 1 trains the very module that stage 2 loads.
    assert row.stages == (("unet",) if kind is None else ("align", "unet"))
    if kind is not None:
        first = network(row, scale, root, stage=0)
        net.alignment.load_state_dict(first.alignment.state_dict())
        path = plan(row, scale)[1].options["network_g"]["alignment_weights"]
        assert path == str(plan(row, scale)[0].weights(Path("out")))


def _of_ip_adapter(name: str) -> bool:
    return name.startswith("ip_adapter.image_proj.") or name.endswith(("to_k_ip.weight", "to_v_ip.weight"))


@of_tables("8")
def test_ip_adapter(table: str, row: Row, scale: str, root: Path):
    """The row has no alignment, an encoder, and a UNet that sees the face; it trains what looks at the face, too."""
    net = network(row, scale, root).eval()
    if row.name == "ours":
        assert net.ip_adapter is None
        return
    assert type(net.ip_adapter.encoder).__name__ == {"mini": "MobileFaceNetEncoder", "full": "CLIPImageEncoder"}[scale]
    assert (net.ip_adapter.tokens, net.ip_adapter.scale) == (4, 1)
    trained = {name for name, p in net.named_parameters() if p.requires_grad and "lora_" not in name}
    assert {name for name, _ in net.named_parameters() if _of_ip_adapter(name)} == trained
    for name in ("image_proj.", "to_k_ip.", "to_v_ip."):
        assert any(name in other for other in trained)
    latent = torch.rand(1, net.vae.config.latent_channels, 8, 8)
    faces = torch.rand(2, 1, 3, SIZES[scale], SIZES[scale])
    with torch.no_grad():
        results = [net.denoise(latent, face) for face in faces]
    assert (results[0] - results[1]).abs().max() > 1e-5
    assert required_weights({"network_g": plan(row, scale)[-1].options["network_g"]})[1:] == [
        {"mini": "mobilefacenet_068.ckpt", "full": "clip-image-encoder"}[scale]
    ]


LOSSES = {
    "mini": {
        "feature": ("FeatureLoss", None),
        "identity": ("MobileFaceNetLoss", "cos"),
        "structure": ("FacialStructureLoss", "cos"),
    },
    "full": {
        "perceptual": ("LPIPSLoss", None),
        "identity": ("IdentityCLIPLoss", "cos"),
        "structure": ("FacialStructureLoss", "cos"),
    },
}
# Of Table 5: identity and structure loss, None for off.
TERMS = {
    "1": (None, None),
    "2": ("cos", None),
    "3": ("l2", None),
    "4": (None, "l2"),
    "5": (None, "cos"),
    "6": ("cos", "cos"),
}


_LOSSES: dict[str, ImageLosses] = {}


def losses_of(row: Row, scale: str, root: Path) -> ImageLosses:
    """The losses of a row's last stage, with tiny nets; those of equal options are made once."""
    options = {k: v for k, v in plan(row, scale)[-1].options["train"].items() if k.endswith("_opt")}
    key = json.dumps(options, sort_keys=True)
    if key not in _LOSSES:
        _LOSSES[key] = ImageLosses(tiny_losses(options, root))
    return _LOSSES[key]


@of_tables("4 5 6 7 8 11")
def test_losses(table: str, row: Row, scale: str, root: Path):
    """Which losses there are, of what distance, and that what they say of two faces differs from the full method's."""
    expected = dict(LOSSES[scale])
    if table == "5":
        for name, distance in zip(("identity", "structure"), TERMS[row.name], strict=True):
            if distance is None:
                del expected[name]
            else:
                expected[name] = (expected[name][0], distance)
    if (table, row.name) == ("4", "osdface"):
        del expected["structure"]
        expected["identity"] = ("ArcFaceLoss", "cos")
        expected["feature" if scale == "mini" else "perceptual"] = ("DISTSLoss", None)
    options = plan(row, scale)[-1].options["train"]
    assert "gan_opt" not in options
    assert "decode_crop" not in options
    losses = losses_of(row, scale, root)
    found = {
        name: (type(term).__name__, term.distance if name in ("identity", "structure") else None)
        for name, term in losses.terms.items()
        if name != "pixel"
    }
    assert found == expected
    assert "pixel" in losses.terms
    if table == "5" and row.name != "6":
        full = losses_of(ABLATIONS.table("5").rows[-1], scale, root)
        pred, target = (torch.rand(1, 3, 5, 5) for _ in range(2))
        pred, target = (torch.nn.functional.interpolate(x, size=64, mode="bilinear") for x in (pred, target))
        with torch.no_grad():
            values, others = (ImageLosses.forward(x, pred, target) for x in (losses, full))
        assert {name: value.item() for name, value in values.items()} != pytest.approx(
            {name: value.item() for name, value in others.items()}
        )


@pytest.fixture(scope="module")
def many_faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The list of an LMDB of FFHQ's size."""
    folder = tmp_path_factory.mktemp("many") / "faces.lmdb"
    folder.mkdir()
    (folder / "data.mdb").touch()
    (folder / "meta_info.txt").write_text("".join(f"{i:05d}.png (512,512,3) 1\n" for i in range(70000)))
    return folder


@of_tables("11 12")
def test_number_of_training_images(table: str, row: Row, scale: str, many_faces: Path):
    runs = plan(row, scale)
    assert [run.stage for run in runs] == (["align", "unet"] if table == "11" else ["osediff"])
    for run in runs:
        options = {**run.options["datasets"]["train"], "dataroot_gt": str(many_faces), "io_backend": "lmdb"}
        assert len(FaceDegradationDataset({**options, "cache": False})) == int(row.name) == int(row.labels[0])
    assert runs[-1].options["model_type"] == ("LAFRUNetModel" if table == "11" else "OSEDiffModel")
