"""On a GPU every tensor is on the GPU, and parts run in the precision asked for: shown by tensors without contents.

torch's fake tensors have shape, dtype and device only, so they can be "on" a GPU where there is none; an operation that
mixes devices or dtypes fails on them as it would there, and so does one that meets a tensor that nothing has moved.
Backward passes and autocast are out of their reach.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from base_models import MINI_IMAGE_SIZE, SD_IMAGE_SIZE, write_mini_prior, write_stable_diffusion
from lafr_arch.fast import optimize_for_inference
from lafr_arch.lafr_arch import LAFRNet
from lafr_arch.mobilefacenet_arch import MobileFaceNet
from lafr_arch.network_g_arch import build_lafr
from lafr_losses.dists_loss import DISTSLoss
from lafr_losses.feature_loss import FeatureLoss
from lafr_losses.identity_loss import ArcFaceLoss, IdentityCLIPLoss, MobileFaceNetLoss
from lafr_losses.lpips_loss import LPIPSLoss
from lafr_losses.structure_loss import FacialStructureLoss
from tiny_weights import write_3ddfa, write_3ddfa_basis, write_arcface, write_bfm, write_clip, write_d3dfr

GPU = torch.device("cuda:0")
ADAPTER = {"type": "LatentAlignmentAdapter", "hidden": 16, "n_codes": 8, "blocks": 1}


def gpu(value: Tensor) -> Tensor:
    """A tensor of the same form on the GPU; for the inside of :func:`fake_gpu`."""
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=GPU)


@contextmanager
def fake_gpu(*modules: nn.Module) -> Iterator[None]:
    """What happens inside is computed without contents, with the modules' parameters and buffers on the GPU."""
    with FakeTensorMode():
        for module in (part for net in modules for part in net.modules()):
            for name, value in module._parameters.items():
                if value is not None:
                    module._parameters[name] = nn.Parameter(gpu(value), requires_grad=value.requires_grad)
            for name, value in module._buffers.items():
                if value is not None:
                    module._buffers[name] = gpu(value)
        yield


def images(size: int) -> Tensor:
    return torch.empty(2, 3, size, size, device=GPU)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Base models ``sd`` and ``mini``, and files of the losses' nets."""
    root = tmp_path_factory.mktemp("gpu")
    write_stable_diffusion(root / "sd")
    write_mini_prior(root / "mini")
    write_clip(root / "clip")
    write_d3dfr(root / "d3dfr.pth")
    write_bfm(root / "bfm.mat")
    write_3ddfa(root / "3ddfa.pth")
    write_3ddfa_basis(root / "basis.npz")
    write_arcface(root / "arcface.pth")
    torch.save({"net_state_dict": MobileFaceNet().state_dict()}, root / "face.ckpt")
    return root


def network(root: Path, base: str, **options: Any) -> LAFRNet:
    fixed: dict[str, Any] = {"timestep": 999} if base == "sd" else {"prompt": None, "timestep": 250}
    return build_lafr(str(root / base), alignment=ADAPTER, **fixed, **options)


NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "sd": ("sd", {}),
    "mini": ("mini", {}),
    "small decoder": ("sd", {"decoder": {"type": "SmallDecoder", "widths": [16, 8], "blocks": [1, 1]}}),
    "TAESD": ("sd", {"decoder": {"type": "TAESDDecoder", "widths": [8, 8, 8, 8], "blocks": [1, 1, 1, 1]}}),
    "IP-Adapter": ("sd", {"ip_adapter": {"encoder": {"type": "MobileFaceNetEncoder"}}}),
}


def built(root: Path, name: str, monkeypatch: pytest.MonkeyPatch, **more: Any) -> LAFRNet:
    base, options = NETWORKS[name]
    options = dict(options)
    if "ip_adapter" in options:
        monkeypatch.setenv("LAFR_WEIGHTS", str(root))
        options["ip_adapter"] = {"encoder": {"type": "MobileFaceNetEncoder", "path": str(root / "face.ckpt")}}
    decoder = options.pop("decoder", None)
    net = network(root, base, **options, **more)
    if decoder is not None:
        net.set_decoder(decoder)
    return net


@pytest.mark.parametrize("dtype", [None, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", NETWORKS)
def test_inference(name: str, dtype: torch.dtype | None, root: Path, monkeypatch: pytest.MonkeyPatch):
    net = built(root, name, monkeypatch)
    # Off the CPU nothing is rewritten; from there the weights only change their device.
    fast = optimize_for_inference(net.to("meta"), dtype)
    assert fast.inference_plan == {}
    seen: dict[str, set[torch.dtype]] = {}

    def note(part: str) -> Callable[..., None]:
        return lambda module, args, output: seen.setdefault(part, set()).update(
            {t.dtype for t in (*args, output) if isinstance(t, Tensor)}
        )

    parts = {"encoder": fast.vae.encoder, "unet": fast.unet, "decoder": fast.decoder or fast.vae.decoder}
    for part, module in {**parts, "alignment": fast.alignment}.items():
        assert module is not None
        module.register_forward_hook(note(part))
    size = MINI_IMAGE_SIZE if name == "mini" else SD_IMAGE_SIZE
    with fake_gpu(fast), torch.inference_mode():
        result = fast(images(size))
    assert (result.device, result.dtype, result.shape) == (GPU, torch.float32, (2, 3, size, size))
    lower = {dtype or torch.float32}
    assert seen == {"encoder": lower, "unet": lower, "decoder": lower, "alignment": {torch.float32}}


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "IP-Adapter"])
def test_the_network_compiles_as_one_graph(name: str, root: Path, monkeypatch: pytest.MonkeyPatch):
    fast = optimize_for_inference(built(root, name, monkeypatch).to("meta"), torch.bfloat16).to_empty(device="cpu")
    for parameter in fast.parameters():
        parameter.data.zero_()
    size = MINI_IMAGE_SIZE if name == "mini" else SD_IMAGE_SIZE
    compiled = torch.compile(fast, backend="eager", dynamic=False, fullgraph=True)
    with torch.inference_mode():
        assert compiled(torch.rand(2, 3, size, size)).shape == (2, 3, size, size)


@pytest.mark.parametrize("name", NETWORKS)
def test_training_forward(name: str, root: Path, monkeypatch: pytest.MonkeyPatch):
    net = built(root, name, monkeypatch, lora={"rank": 2, "targets": "all"}).train()
    size = MINI_IMAGE_SIZE if name == "mini" else SD_IMAGE_SIZE
    with fake_gpu(net):
        result = net(images(size))
        assert result.requires_grad
        assert result.device == GPU


LOSSES: dict[str, Callable[[Path], nn.Module]] = {
    "LPIPS": lambda root: LPIPSLoss(net="alex", random_backbone=True),
    "DISTS": lambda root: DISTSLoss(random_backbone=True, edge_aware=True),
    "CLIP": lambda root: IdentityCLIPLoss(model=str(root / "clip"), dtype="bfloat16"),
    "ArcFace": lambda root: ArcFaceLoss(path=str(root / "arcface.pth")),
    "MobileFaceNet": lambda root: MobileFaceNetLoss(path=str(root / "face.ckpt")),
    "features": lambda root: FeatureLoss(backend="autoencoder", path=str(root / "mini" / "vae")),
    "3DDFA-V2": lambda root: FacialStructureLoss(
        backend="3ddfa_v2", net_path=str(root / "3ddfa.pth"), face_model_path=str(root / "basis.npz")
    ),
    "D3DFR": lambda root: FacialStructureLoss(
        net_path=str(root / "d3dfr.pth"), face_model_path=str(root / "bfm.mat"), feature="vertices"
    ),
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses(name: str, root: Path):
    loss = LOSSES[name](root)
    with fake_gpu(loss):
        value = loss(images(256).requires_grad_(), images(256))
        assert (value.device, value.dtype, value.requires_grad) == (GPU, torch.float32, True)


def test_a_tensor_left_behind_is_noticed():
    class Forgetful(nn.Module):
        """Keeps a tensor that `to` does not move."""

        def __init__(self) -> None:
            super().__init__()
            self.scale = torch.ones(3, 1, 1)

        def forward(self, x: Tensor) -> Tensor:
            return x * self.scale

    net = Forgetful()
    with fake_gpu(net), pytest.raises(Exception, match="convert all Tensors to FakeTensors"):
        net(images(8))
