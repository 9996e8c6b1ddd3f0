"""Files of the published layouts with tiny nets and random numbers, for tests of the losses and of whole runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from scipy.io import savemat
from torch import nn

from lafr_arch.arcface_arch import ArcFaceResNet18
from lafr_arch.d3dfr_arch import D3DFRNet
from lafr_arch.efficientnet_arch import EfficientNetLite0
from lafr_arch.mobilenetv1_arch import MobileNetV1
from lafr_base.geometry import FFHQ_POINTS
from lafr_losses.face_models import TDDFAFace


def _settle(net: nn.Module, channels: int, size: int) -> nn.Module:
    """Take batch statistics from random images, so that the net tells images apart as a trained one does."""
    for module in net.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            module.momentum = 1.0
    images = nn.functional.interpolate(torch.rand(16, channels, 4, 4), size=size, mode="bilinear")
    with torch.no_grad():
        net.train()(2 * images - 1)
    return net.eval()


def write_d3dfr(path: Path) -> Path:
    """``epoch_20.pth``: entry net_recon beside others, a ResNet of width 4."""
    net = _settle(D3DFRNet(width=4, blocks=(1, 1, 1, 1)), 3, 224)
    torch.save({"net_recon": net.state_dict(), "epoch": 20}, path)
    return path


def write_bfm(path: Path, vertices: int = 90) -> Path:
    """``BFM_model_front.mat``: arrays of the original's names, order and dtypes; numbers from 1."""
    rng = np.random.default_rng(0)
    keypoints = rng.permutation(vertices)[:68].astype(np.float64)[None] + 1
    mean = rng.normal(0.3, 1, (1, 3 * vertices)).astype(np.float32)
    bases = {"idBase": 80, "exBase": 64, "texBase": 80}
    arrays = {k: rng.normal(0, 0.05, (3 * vertices, n)).astype(np.float32) for k, n in bases.items()}
    savemat(path, {"meanshape": mean, "meantex": mean, "keypoints": keypoints, **arrays})
    return path


def write_3ddfa(path: Path) -> Path:
    """``mb05_120x120.pth``: names under ``module.``, a quarter of the published width."""
    net = _settle(MobileNetV1(widen_factor=0.125), 3, 120)
    torch.save({"epoch": 1, "state_dict": {f"module.{k}": v for k, v in net.state_dict().items()}}, path)
    return path


def write_3ddfa_basis(path: Path) -> Path:
    """``3ddfa_68_basis.npz``, with a face of about 100 pixels in the middle of the crop."""
    rng = np.random.default_rng(0)
    mean = np.zeros(62, np.float32)
    mean[[0, 5, 10]] = 6e-4
    mean[[3, 7]] = 60
    std = np.concatenate([np.full(12, 2e-5), np.full(50, 1.0)]).astype(np.float32)
    std[[3, 7, 11]] = 3
    shape = rng.normal(0, 4e4, (68, 3))
    for points, (x, y) in zip(TDDFAFace.FIVE, FFHQ_POINTS, strict=True):
        shape[list(points), :2] = (x - 256) / 2e-3, (310 - y) / 2e-3
    arrays = {
        "u": shape.reshape(204, 1),
        "w_shp": rng.normal(0, 2e3, (204, 40)),
        "w_exp": rng.normal(0, 2e3, (204, 10)),
    }
    np.savez(path, mean=mean, std=std, **{k: v.astype(np.float32) for k, v in arrays.items()})
    return path


def write_arcface(path: Path) -> Path:
    """``arcface_resnet18.pth``: a flat state dict with names under ``module.``, of width 4."""
    net = _settle(ArcFaceResNet18(width=4, embedding=32), 1, 128)
    torch.save({f"module.{k}": v for k, v in net.state_dict().items()}, path)
    return path


def write_clip(folder: Path) -> Path:
    """A folder as transformers saves a CLIP image encoder: two layers, 28 x 28 pixels."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    config = CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, projection_dim=16, num_hidden_layers=2, num_attention_heads=2,
        image_size=28, patch_size=7,
    )  # fmt: skip
    encoder = CLIPVisionModelWithProjection(config)
    for p in encoder.parameters():  # the library's start is so small that all images look alike
        p.data.normal_(0, 0.2)
    encoder.save_pretrained(folder)
    return folder


def write_efficientnet_lite0(path: Path) -> Path:
    """``efficientnet-lite0-57934424.pth``: the published names and shapes, classifier and all."""
    net = _settle(EfficientNetLite0(), 3, 64)
    torch.save({**net.state_dict(), "_fc.weight": torch.zeros(10, 1280), "_fc.bias": torch.zeros(10)}, path)
    return path
