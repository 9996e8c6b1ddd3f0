from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from lafr_arch.arcface_arch import ArcFaceResNet18
from lafr_arch.mobilefacenet_arch import MobileFaceNet
from lafr_base.weights import MissingWeightsError
from lafr_losses.common import required_weights
from lafr_losses.identity_loss import ArcFaceLoss, IdentityCLIPLoss, MobileFaceNetLoss
from tiny_weights import write_3ddfa, write_arcface, write_clip


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_clip(tmp_path_factory.mktemp("clip")))


@pytest.fixture(scope="module")
def arcface(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_arcface(tmp_path_factory.mktemp("arcface") / "arcface_resnet18.pth"))


def pair(size: int = 56) -> tuple[Tensor, Tensor]:
    a, b = (F.interpolate(torch.rand(2, 3, 4, 4), size=size, mode="bilinear") for _ in range(2))
    return a, b


def test_clip_preprocessing_equals_transformers(clip: str, astronaut: np.ndarray):
    from transformers import CLIPImageProcessorPil, CLIPVisionModelWithProjection

    processor = CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    pixels = processor(Image.fromarray(astronaut), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        expected = CLIPVisionModelWithProjection.from_pretrained(clip).eval()(pixels).image_embeds
        image = torch.from_numpy(astronaut.copy()).permute(2, 0, 1)[None].float() / 255
        found = IdentityCLIPLoss(model=clip).encoder(image)
    # PIL rounds its pixels to 8 bits.
    assert F.cosine_similarity(found, expected).item() > 0.9999


def test_clip_distances(clip: str):
    pred, target = pair()
    cos, l2 = IdentityCLIPLoss(model=clip), IdentityCLIPLoss(model=clip, distance="l2", loss_weight=0.25)
    with torch.no_grad():
        a, b = cos.encoder(pred), cos.encoder(target)
    similarity = (a * b).sum(1) / a.norm(dim=1) / b.norm(dim=1)
    assert cos(pred, target).item() == pytest.approx((1 - similarity).mean().item(), abs=1e-6)
    assert l2(pred, target).item() == pytest.approx(0.25 * (a - b).square().mean().item(), rel=1e-5)
    assert cos(pred, target) > 1e-3
    assert cos(pred, pred).item() == pytest.approx(0, abs=1e-6)


def test_clip_dtype_is_the_encoders(clip: str):
    pred, target = pair()
    full, half = IdentityCLIPLoss(model=clip), IdentityCLIPLoss(model=clip, dtype="bfloat16")
    assert {p.dtype for p in half.encoder.parameters()} == {torch.bfloat16}
    pred.requires_grad_()
    value = half(pred, target)
    value.backward()
    assert value.dtype == pred.grad.dtype == torch.float32
    assert value.item() != full(pred, target).item()
    assert value.item() == pytest.approx(full(pred, target).item(), rel=0.1)


def test_arcface_gray_and_size(arcface: str):
    loss = ArcFaceLoss(path=arcface)
    x, _ = pair(256)
    gray = 0.2989 * x[:, 0] + 0.587 * x[:, 1] + 0.114 * x[:, 2]
    pixels = (F.interpolate(gray[:, None], size=128, mode="bicubic", antialias=True) * 255 - 127.5) / 127.5
    torch.testing.assert_close(loss.embed(x), loss.network(pixels), atol=1e-4, rtol=1e-4)


def test_arcface_has_the_published_names():
    with torch.device("meta"):
        state = ArcFaceResNet18().state_dict()
    assert state["fc5.weight"].shape == (512, 512 * 8 * 8)
    assert state["layer2.0.downsample.0.weight"].shape == (128, 64, 1, 1)
    assert state["layer4.1.prelu.weight"].shape == (1,)
    assert state["conv1.weight"].shape == (64, 1, 3, 3)
    # IRBlock, [2, 2, 2, 2], without squeeze and excitation: counted from GFPGAN's own class.
    assert sum(v.numel() for k, v in state.items() if "running" not in k and "batches" not in k) == 25_627_081
    assert len(state) == 181


def test_arcface_distances(arcface: str):
    pred, target = pair(128)
    values = {d: ArcFaceLoss(path=arcface, distance=d)(pred, target).item() for d in ("cos", "l1", "l2")}
    net = ArcFaceLoss(path=arcface, loss_weight=4.0)
    with torch.no_grad():
        a, b = net.embed(pred), net.embed(target)
    assert values["cos"] == pytest.approx((1 - F.cosine_similarity(a, b)).mean().item(), abs=1e-6)
    assert values["l1"] == pytest.approx((a - b).abs().mean().item(), rel=1e-5)
    assert values["l2"] == pytest.approx((a - b).square().mean().item(), rel=1e-5)
    assert net(pred, target).item() == pytest.approx(4 * values["cos"], rel=1e-5)


@pytest.fixture(scope="module")
def mobilefacenet(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("mobilefacenet") / "068.ckpt"
    torch.save({"net_state_dict": MobileFaceNet().state_dict()}, path)
    return str(path)


def test_mobilefacenet_distances(mobilefacenet: str):
    pred, target = pair(128)
    cos, l2 = (MobileFaceNetLoss(path=mobilefacenet, distance=kind, loss_weight=2.0) for kind in ("cos", "l2"))
    with torch.no_grad():
        a, b = cos.face(pred), cos.face(target)
    similarity = (a * b).sum(1) / a.norm(dim=1) / b.norm(dim=1)
    assert cos(pred, target).item() == pytest.approx(2 * (1 - similarity).mean().item(), rel=1e-3)
    assert l2(pred, target).item() == pytest.approx(2 * (a - b).square().mean().item(), rel=1e-4)
    assert cos(pred, target) > 0
    with pytest.raises(ValueError, match="distance: 'l1' is not one of cos, l2"):
        MobileFaceNetLoss(path=mobilefacenet, distance="l1")


@pytest.mark.parametrize("name", ["clip", "arcface", "mobilefacenet"])
def test_gradient_reaches_the_image(name: str, request: pytest.FixtureRequest):
    path = request.getfixturevalue(name)
    losses = {"clip": IdentityCLIPLoss, "arcface": ArcFaceLoss, "mobilefacenet": MobileFaceNetLoss}
    loss = losses[name](path).double()
    # Smooth images have plateaus, where a maximum pool has no derivative.
    pred, target = (x[:1].double() + 0.1 * torch.rand(1, 3, 64, 64) for x in pair(64))
    pred.requires_grad_()
    (gradient,) = torch.autograd.grad(loss(pred, target), pred)
    direction, step = gradient / gradient.norm(), 1e-6
    with torch.no_grad():
        slope = (loss(pred + step * direction, target) - loss(pred - step * direction, target)) / (2 * step)
    assert slope.item() == pytest.approx((gradient * direction).sum().item(), rel=1e-4)
    share = (gradient != 0).float().mean()  # antialiased: every pixel counts that the net looks at
    assert share > (0.9 if name != "mobilefacenet" else 0.3)


def test_frozen(clip: str, arcface: str):
    for loss in (IdentityCLIPLoss(model=clip).train(), ArcFaceLoss(path=arcface).train()):
        assert not any(p.requires_grad for p in loss.parameters())
        assert not any(m.training for m in loss.modules())


def test_errors_name_file_and_option(tmp_path: Path, clip: str, arcface: str, monkeypatch: pytest.MonkeyPatch):
    for name in ("LAFR_WEIGHTS", "HF_HOME", "TORCH_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    with pytest.raises(MissingWeightsError, match="clip-image-encoder"):
        IdentityCLIPLoss()
    with pytest.raises(MissingWeightsError, match="arcface_resnet18.pth"):
        ArcFaceLoss()
    with pytest.raises(ValueError, match="is not a ArcFaceResNet18: it has no 'fc5.weight'"):
        ArcFaceLoss(path=str(write_3ddfa(tmp_path / "other.pth")))
    with pytest.raises(ValueError, match="distance: 'l1' is not one of cos, l2"):
        IdentityCLIPLoss(model=clip, distance="l1")
    with pytest.raises(ValueError, match="dtype: 'int8'"):
        IdentityCLIPLoss(model=clip, dtype="int8")
    with pytest.raises(ValueError, match="distance: 'x'"):
        ArcFaceLoss(path=arcface, distance="x")


def test_identity_and_structure_need_whole_faces():
    from lafr_losses.lpips_loss import LPIPSLoss
    from lafr_losses.structure_loss import FacialStructureLoss

    whole = [loss.whole_face for loss in (IdentityCLIPLoss, ArcFaceLoss, MobileFaceNetLoss, FacialStructureLoss)]
    assert whole == [True] * 4
    assert not LPIPSLoss.whole_face


def test_required_weights_of_yaml_options():
    import basicsr.losses  # noqa: F401 - registers BasicSR's own

    import lafr_losses.dists_loss
    import lafr_losses.feature_loss
    import lafr_losses.lpips_loss
    import lafr_losses.structure_loss  # noqa: F401

    cases: list[tuple[dict[str, object], list[str]]] = [
        ({"type": "LPIPSLoss"}, ["vgg16"]),
        ({"type": "LPIPSLoss", "net": "alex", "loss_weight": 2}, ["alexnet"]),
        ({"type": "LPIPSLoss", "random_backbone": True}, []),
        ({"type": "DISTSLoss", "backbone_path": "here.pth", "edge_aware": True}, ["dists", "here.pth"]),
        ({"type": "IdentityCLIPLoss", "dtype": "bfloat16"}, ["clip-image-encoder"]),
        ({"type": "ArcFaceLoss"}, ["arcface-resnet18"]),
        ({"type": "MobileFaceNetLoss"}, ["mobilefacenet"]),
        ({"type": "FacialStructureLoss", "distance": "l2"}, ["d3dfr", "bfm"]),
        ({"type": "FacialStructureLoss", "backend": "3ddfa_v2"}, ["3ddfa-v2", "3ddfa-v2-basis"]),
        ({"type": "FeatureLoss", "path": "folder", "layers": [1]}, ["folder"]),
        ({"type": "FeatureLoss", "backend": "3ddfa_v2"}, ["3ddfa-v2"]),
        ({"type": "L1Loss", "loss_weight": 1.0}, []),
    ]
    for options, expected in cases:
        assert required_weights(options) == expected
    with pytest.raises(ValueError, match="FeatureLoss: path"):
        required_weights({"type": "FeatureLoss"})
