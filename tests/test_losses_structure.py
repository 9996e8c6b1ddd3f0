from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from lafr_arch.d3dfr_arch import D3DFRNet
from lafr_base.geometry import FFHQ_POINTS
from lafr_base.weights import MissingWeightsError
from lafr_losses.face_models import D3DFRFace, TDDFAFace, load_bfm, rotation
from lafr_losses.structure_loss import FacialStructureLoss
from tiny_weights import write_3ddfa, write_3ddfa_basis, write_bfm, write_d3dfr


@pytest.fixture(scope="module")
def d3dfr(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("d3dfr")
    net, bfm = write_d3dfr(folder / "epoch_20.pth"), write_bfm(folder / "BFM_model_front.mat")
    return {"backend": "d3dfr", "net_path": str(net), "face_model_path": str(bfm)}


@pytest.fixture(scope="module")
def tddfa(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("3ddfa")
    net, basis = write_3ddfa(folder / "mb05.pth"), write_3ddfa_basis(folder / "basis.npz")
    return {"backend": "3ddfa_v2", "net_path": str(net), "face_model_path": str(basis)}


@pytest.fixture
def backend(request: pytest.FixtureRequest) -> dict[str, str]:
    return request.getfixturevalue(request.param)


def pair(size: int = 64, batch: int = 2) -> tuple[Tensor, Tensor]:
    """Smooth random images: to a random net all white noise is alike."""
    coarse = torch.rand(2, batch, 3, 4, 4)
    a, b = (F.interpolate(x, size=size, mode="bilinear", align_corners=False) for x in coarse)
    return a, b


def test_d3dfr_has_the_published_size_and_names():
    with torch.device("meta"):
        net = D3DFRNet()
    assert sum(p.numel() for p in net.parameters()) == 24_034_625
    names = set(net.state_dict())
    assert {f"final_layers.{i}.{part}" for i in range(7) for part in ("weight", "bias")} <= names
    trunk = {n.removeprefix("backbone.") for n in names if n.startswith("backbone.")}
    from torchvision.models import resnet50

    with torch.device("meta"):
        reference = resnet50()
    assert trunk == {n for n in reference.state_dict() if not n.startswith("fc.")}


def test_d3dfr_trunk_equals_torchvision():
    from torchvision.models import ResNet
    from torchvision.models.resnet import Bottleneck

    reference = ResNet(Bottleneck, [1, 1, 1, 1]).eval()
    net = D3DFRNet(blocks=(1, 1, 1, 1)).eval()
    net.backbone.load_state_dict({k: v for k, v in reference.state_dict().items() if not k.startswith("fc.")})
    reference.fc = torch.nn.Identity()
    x = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(net.backbone(x).flatten(1), reference(x), atol=1e-5, rtol=1e-4)


def original_crop(image: Image.Image) -> np.ndarray:
    """Deep3DFaceRecon's alignment (util/preprocess.py: align_img), written anew: least squares, PIL resize and crop."""
    standard = np.array([
        [-0.31148657, 0.29036078, 0.13377953], [0.30979887, 0.28972036, 0.13179526],
        [0.0032535, -0.04617932, 0.55244243], [-0.25216928, -0.38133916, 0.22405732],
        [0.2484662, -0.38128236, 0.22235769],
    ])  # fmt: skip
    width, height = image.size
    points = FFHQ_POINTS.copy()
    points[:, 1] = height - 1 - points[:, 1]
    equations = np.zeros((10, 8))
    equations[0::2, :3] = equations[1::2, 4:7] = standard
    equations[0::2, 3] = equations[1::2, 7] = 1
    k = np.linalg.lstsq(equations, points.ravel(), rcond=None)[0]
    scale = 102 / ((np.linalg.norm(k[:3]) + np.linalg.norm(k[4:7])) / 2)
    w, h = int(width * scale), int(height * scale)
    left = int(w / 2 - 112 + (k[3] - width / 2) * scale)
    top = int(h / 2 - 112 + (height / 2 - k[7]) * scale)
    resized = image.resize((w, h), Image.Resampling.BICUBIC)
    return np.asarray(resized.crop((left, top, left + 224, top + 224)), np.float32)


def test_d3dfr_crop_equals_the_original(d3dfr: dict[str, str], astronaut: np.ndarray):
    face = Image.fromarray(astronaut[0:220, 115:335]).resize((512, 512), Image.Resampling.LANCZOS)
    for image in (face, Image.fromarray(astronaut)):
        x = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None].float() / 255
        ours = FacialStructureLoss(**d3dfr).face.crop(x)[0].permute(1, 2, 0).numpy() * 255
        error = np.abs(ours - original_crop(image))
        assert error.mean() < 0.5
        assert error[-2:].max() == 0  # black below the image


def test_bfm_layout(tmp_path: Path):
    bfm = load_bfm(write_bfm(tmp_path / "bfm.mat"))
    from scipy.io import loadmat

    raw = loadmat(tmp_path / "bfm.mat")
    assert bfm.id_base.shape == (80, 90, 3)
    assert bfm.exp_base.shape == (64, 90, 3)
    np.testing.assert_array_equal(bfm.keypoints.numpy() + 1, raw["keypoints"][0])
    np.testing.assert_array_equal(bfm.id_base[7, 5].numpy(), raw["idBase"][15:18, 7])
    mean = raw["meanshape"].reshape(-1, 3)
    np.testing.assert_allclose(bfm.mean.numpy(), mean - mean.mean(0), atol=1e-5)


def test_rotation_matches_axis_angle():
    from scipy.spatial.transform import Rotation

    angles = torch.randn(5, 3, dtype=torch.float64)
    expected = Rotation.from_euler("xyz", angles.numpy()).as_matrix().transpose(0, 2, 1)  # extrinsic: Rz Ry Rx
    np.testing.assert_allclose(rotation(angles).numpy(), expected, atol=1e-12)


def numpy_feature(face: D3DFRFace, coefficients: np.ndarray, bfm_path: str, keypoints_only: bool) -> np.ndarray:
    """The feature by the original's formulas on the raw file, one face."""
    from scipy.io import loadmat
    from scipy.spatial.transform import Rotation

    raw = loadmat(bfm_path)
    flat = raw["meanshape"][0] + raw["idBase"] @ coefficients[:80] + raw["exBase"] @ coefficients[80:144]
    turned = flat.reshape(-1, 3) @ Rotation.from_euler("xyz", coefficients[224:227]).as_matrix().T
    mean = raw["meanshape"].reshape(-1, 3)
    if keypoints_only:
        index = raw["keypoints"][0].astype(int) - 1
        turned, mean = turned[index], mean[index]
    mean = mean - mean.mean(0)
    radius = np.sqrt((mean**2).sum(1).mean())
    return ((turned - turned.mean(0) - mean) / radius).ravel()


@pytest.mark.parametrize("feature", ["landmarks68", "vertices"])
def test_d3dfr_loss_against_numpy(d3dfr: dict[str, str], feature: str):
    pred, target = pair()
    cos = FacialStructureLoss(**d3dfr, feature=feature)
    l2 = FacialStructureLoss(**d3dfr, feature=feature, distance="l2", loss_weight=0.5)
    a, b = (
        np.stack([
            numpy_feature(cos.face, c.double().numpy(), d3dfr["face_model_path"], feature == "landmarks68")
            for c in cos.face.coefficients(x)
        ])
        for x in (pred, target)
    )  # fmt: skip
    similarity = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert cos(pred, target).item() == pytest.approx(np.mean(1 - similarity), abs=1e-5)
    assert l2(pred, target).item() == pytest.approx(0.5 * np.mean((a - b) ** 2), rel=1e-4)


def test_d3dfr_coeff_feature_takes_identity_expression_angle(d3dfr: dict[str, str]):
    loss = FacialStructureLoss(**d3dfr, feature="coeff")
    pred, target = pair()
    with torch.no_grad():
        a, b = (torch.cat([c[:, :144], c[:, 224:227]], 1) for c in map(loss.face.coefficients, (pred, target)))
    assert loss(pred, target).item() == pytest.approx((1 - F.cosine_similarity(a, b)).mean().item(), abs=1e-5)


def test_d3dfr_landmarks_project_as_the_original(d3dfr: dict[str, str]):
    face: D3DFRFace = FacialStructureLoss(**d3dfr).face
    coefficients = torch.zeros(1, 257)
    coefficients[0, 254:] = torch.tensor([0.1, -0.2, 0.5])
    face.coefficients = lambda images: coefficients  # type: ignore[method-assign]
    points = face.landmarks(torch.zeros(1, 3, 258, 258))[0]
    x, y, z = (face.mean[face.keypoints] + coefficients[0, 254:]).T
    torch.testing.assert_close(points[:, 0] - 17, 1015 * x / (10 - z) + 112, rtol=1e-4, atol=1e-2)
    torch.testing.assert_close(points[:, 1] - 36, 223 - (1015 * y / (10 - z) + 112), rtol=1e-4, atol=1e-2)
    double = face.landmarks(torch.zeros(1, 3, 516, 516))[0]
    torch.testing.assert_close(double, (points + 0.5) * 2 - 0.5)


def test_3ddfa_loss_against_numpy(tddfa: dict[str, str]):
    loss = FacialStructureLoss(**tddfa)
    pred, target = pair(128)
    basis = np.load(tddfa["face_model_path"])

    def feature(coefficients: Tensor) -> np.ndarray:
        p = coefficients.double().numpy() * basis["std"] + basis["mean"]
        pose = p[:12].reshape(3, 4)
        shape = (basis["u"][:, 0] + basis["w_shp"] @ p[12:52] + basis["w_exp"] @ p[52:]).reshape(3, -1, order="F")
        points = (pose[:, :3] @ shape).T
        mean = loss.face.mean_face.numpy().astype(np.float64)
        return (points - points.mean(0) - mean + mean.mean(0)).ravel()

    with torch.no_grad():
        vectors = [[feature(c) for c in loss.face.coefficients(x)] for x in (pred, target)]
    cosines = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(*vectors, strict=True)]
    assert loss(pred, target).item() == pytest.approx(np.mean(1 - np.array(cosines)), abs=1e-4)


def test_3ddfa_crop_and_input(tddfa: dict[str, str]):
    face: TDDFAFace = FacialStructureLoss(**tddfa).face
    x = torch.rand(1, 3, 512, 512)
    box = F.pad(x, (0, 0, 0, 38))[:, :, 170:550, 66:446]
    expected = F.interpolate(box, size=(120, 120), mode="bicubic", antialias=True)
    torch.testing.assert_close(face.crop(x), expected)
    bgr = (255 * expected[:, [2, 1, 0]] - 127.5) / 128
    torch.testing.assert_close(face.coefficients(x), face.net(bgr))


def test_3ddfa_coeff_feature_leaves_out_the_position(tddfa: dict[str, str]):
    face = FacialStructureLoss(**tddfa).face
    kept = face.feature(torch.arange(62.0)[None], "coeff")[0].tolist()
    assert kept == [i for i in range(62) if i not in (3, 7, 11)]


@pytest.mark.parametrize("backend", ["d3dfr", "tddfa"], indirect=True)
def test_options_change_the_result(backend: dict[str, str]):
    pred, target = pair(128)
    base = FacialStructureLoss(**backend)(pred, target)
    assert base > 1e-4
    assert FacialStructureLoss(**backend, loss_weight=3.0)(pred, target).item() == pytest.approx(3 * base.item())
    for change in ({"distance": "l2"}, {"feature": "coeff"}):
        assert FacialStructureLoss(**backend, **change)(pred, target).item() != pytest.approx(base.item(), rel=1e-3)
    assert FacialStructureLoss(**backend)(pred, pred).item() == pytest.approx(0, abs=1e-6)


def test_similarity_is_taken_for_each_image(d3dfr: dict[str, str]):
    loss = FacialStructureLoss(**d3dfr)
    pred, target = pair(batch=3)
    single = [loss(pred[i : i + 1], target[i : i + 1]).item() for i in range(3)]
    assert loss(pred, target).item() == pytest.approx(np.mean(single), abs=1e-6)


@pytest.mark.parametrize("backend", ["d3dfr", "tddfa"], indirect=True)
@pytest.mark.parametrize("distance", ["cos", "l2"])
def test_gradient_against_finite_differences(backend: dict[str, str], distance: str):
    loss = FacialStructureLoss(**backend, distance=distance).double()
    target = torch.rand(1, 3, 48, 48, dtype=torch.float64)
    pred = torch.rand(1, 3, 48, 48, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(loss(pred, target), pred)
    assert gradient.abs().max() > 0
    direction = gradient / gradient.norm()
    step = 1e-6
    with torch.no_grad():
        slope = (loss(pred + step * direction, target) - loss(pred - step * direction, target)) / (2 * step)
    assert slope.item() == pytest.approx((gradient * direction).sum().item(), rel=1e-4)


@pytest.mark.parametrize("backend", ["d3dfr", "tddfa"], indirect=True)
def test_nothing_is_trained_and_half_precision_is_taken_up(backend: dict[str, str]):
    loss = FacialStructureLoss(**backend).train()
    assert not any(p.requires_grad for p in loss.parameters())
    assert not any(m.training for m in loss.modules())
    pred, target = pair()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert loss(pred, target).item() == pytest.approx(loss(pred, target).item())
        inside = loss(pred, target)
    assert inside.dtype == torch.float32
    assert inside.item() == pytest.approx(loss(pred, target).item(), abs=1e-6)


def test_errors_name_file_key_and_option(tmp_path: Path, d3dfr: dict[str, str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LAFR_WEIGHTS", str(tmp_path))
    with pytest.raises(MissingWeightsError, match="epoch_20.pth"):
        FacialStructureLoss()
    with pytest.raises(MissingWeightsError, match="nowhere.mat"):
        FacialStructureLoss(**d3dfr | {"face_model_path": "nowhere.mat"})
    with pytest.raises(ValueError, match="feature: vertices needs backend d3dfr"):
        FacialStructureLoss(backend="3ddfa_v2", feature="vertices")
    for key in ("backend", "feature", "distance"):
        with pytest.raises(ValueError, match=f"{key}: 'x' is not one of"):
            FacialStructureLoss(**d3dfr | {key: "x"})
    with pytest.raises(ValueError, match="square"):
        FacialStructureLoss(**d3dfr)(torch.rand(1, 3, 64, 48), torch.rand(1, 3, 64, 48))
    with pytest.raises(ValueError, match="is not a D3DFRNet"):
        D3DFRFace(write_3ddfa(tmp_path / "other.pth"), Path(d3dfr["face_model_path"]))
    from scipy.io import savemat

    savemat(tmp_path / "half.mat", {"meanshape": np.zeros((1, 30)), "idBase": np.zeros((30, 79))})
    with pytest.raises(ValueError, match=r"idBase should be \(30, 80\), is \(30, 79\)"):
        load_bfm(tmp_path / "half.mat")
    (tmp_path / "text.mat").write_text("no MATLAB file")
    with pytest.raises(ValueError, match="cannot be read as BFM_model_front.mat"):
        load_bfm(tmp_path / "text.mat")
    np.savez(tmp_path / "basis.npz", u=np.zeros((204, 1)))
    with pytest.raises(ValueError, match=r"w_shp should be \(204, 40\), is missing"):
        TDDFAFace(write_3ddfa(tmp_path / "net.pth"), tmp_path / "basis.npz")


def degraded(image: Image.Image, seed: int) -> Image.Image:
    """A strong degradation: blur, a quarter of the size, noise, JPEG."""
    rng = np.random.default_rng(seed)
    small = image.filter(ImageFilter.GaussianBlur(rng.uniform(1, 4))).resize((128, 128), Image.Resampling.BILINEAR)
    noisy = np.asarray(small) + rng.normal(0, rng.uniform(2, 12), (128, 128, 3))
    buffer = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=int(rng.integers(60, 100)))
    return Image.open(buffer).resize((512, 512), Image.Resampling.BILINEAR)


def test_real_net_tells_persons_from_degradations(shared: Path):
    models, photos = shared / "models", sorted((shared / "faces" / "val").iterdir())[:6]
    loss = FacialStructureLoss(
        backend="3ddfa_v2",
        net_path=str(models / "mb05_120x120.pth"),
        face_model_path=str(models / "3ddfa_68_basis.npz"),
    )

    def tensor(image: Image.Image) -> Tensor:
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255

    images = [Image.open(path).convert("RGB").resize((512, 512), Image.Resampling.LANCZOS) for path in photos]
    clean = [tensor(image) for image in images]
    spoiled = [[tensor(degraded(image, seed)) for seed in (2 * i, 2 * i + 1)] for i, image in enumerate(images)]
    with torch.no_grad():
        persons = [loss(clean[i], clean[i - 1]).item() for i in range(len(clean))]
        degradations = [loss(a, b).item() for a, b in spoiled]
        points = loss.face.landmarks(torch.cat(clean)).numpy()
    assert max(degradations) < min(persons)
    assert np.mean(degradations) < 0.1 * np.mean(persons)
    # Faces are FFHQ-aligned: the five points of the fit lie near the template (faces turn, so not on it).
    five = np.stack([points[:, list(index)].mean(1) for index in loss.face.FIVE], axis=1)
    assert np.abs(five.mean(0) - FFHQ_POINTS).max() < 15
