"""Latents kept on disk, so that stage 1 encodes each image once instead of once a pass."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lafr_base.files import whole


def encoder_hash(net: Any) -> str:
    """SHA-256 of everything a LAFRNet's encoding depends on: weights, dtype, scaling factor; 16 digits."""
    digest = hashlib.sha256(f"{type(net.vae).__name__} {net.vae.config.scaling_factor}".encode())
    for name, value in sorted(net.vae.state_dict().items()):
        if not name.startswith(("decoder.", "post_quant_conv.")):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def cache_faults(opt: Mapping[str, Any]) -> list[str]:
    """What of an option file makes every HQ latent new, so that ``train: latent_cache`` would only grow."""
    if (opt.get("train") or {}).get("latent_cache") is None:
        return []
    faults = []
    if opt["network_g"].get("sample_latent"):
        faults.append("train: latent_cache: latents that are sampled (sample_latent) cannot be kept")
    if ((opt.get("datasets") or {}).get("train") or {}).get("crop_size") is not None:
        faults.append("train: latent_cache: latents of random crops (crop_size) cannot be kept")
    return faults


class LatentCache:
    """Latents of images by the images' own content, so flipped images are entries of their own.

    Args:
        folder: created where missing; may be shared by runs, since each encoder has a subfolder of its own.
        net: the LAFRNet that encodes what is not there yet.
        keep_lq: whether LQ images come back (the dataset's ``n_draws``), so that their latents are worth keeping.
    """

    def __init__(self, folder: str | Path, net: Any, keep_lq: bool = False) -> None:
        self.net = net
        self.keep_lq = keep_lq
        self.folder = Path(folder).expanduser() / encoder_hash(net)
        self.folder.mkdir(parents=True, exist_ok=True)

    @classmethod
    def from_options(cls, opt: dict[str, Any], net: Any) -> LatentCache | None:
        """The cache that ``train: latent_cache: FOLDER`` asks for, or None."""
        folder = opt["train"].get("latent_cache")
        if folder is None:
            return None
        dataset = (opt.get("datasets") or {}).get("train", {})
        return cls(folder, net, keep_lq=dataset.get("n_draws") is not None)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) RGB in [0, 1] -> scaled latents, what ``net.encode`` gives."""
        paths = [self.folder / f"{hashlib.sha256(image.numpy()).hexdigest()}.npy" for image in images.cpu()]
        absent = [i for i, path in enumerate(paths) if not path.is_file()]
        found: dict[int, Tensor] = {}
        if absent:
            for i, latent in zip(absent, self.net.encode(images[absent]), strict=True):
                found[i] = latent
                self._write(paths[i], latent.float().cpu().numpy())
        latents = [
            found[i] if i in found else torch.from_numpy(np.load(path)).to(images.device)
            for i, path in enumerate(paths)
        ]
        return torch.stack(latents)

    @staticmethod
    def _write(path: Path, latent: np.ndarray) -> None:
        """Write the whole file or none: several processes may share the folder."""
        with whole(path) as part, part.open("wb") as stream:
            np.save(stream, latent)
