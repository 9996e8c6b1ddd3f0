"""What the figures are made of: a network's encoder and alignment module, faces with LQ copies, images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

from lafr.methods import MethodError
from lafr.networks import load_network
from lafr_arch.lafr_arch import LAFRNet
from lafr_arch.network_g_arch import build_lafr
from lafr_base.registry import DATASET_REGISTRY
from lafr_models.options import OptionError, lafr_options, run_folder

DEGRADATION = "celeba_x4"
"""The paper's test preset."""


class FigureError(OptionError):
    """A figure cannot be made of what it was given; the message says what is missing or wrong."""


@dataclass(frozen=True)
class Source:
    """What ``--model``, ``--faces``, ``--degradation``, ``--seed`` and ``--count`` say.

    Attributes:
        model: ``mini``, a deployed folder, or an option file (.yml) of either stage.
        weights: of an option file: checkpoint with the alignment module, where the file names none.
        faces: folder or LMDB of HQ faces; None for an option file's validation set.
        degradation: preset of the LQ copies; None for the option file's, or :data:`DEGRADATION`.
        seed: of the LQ copies, of a subset and of t-SNE; None for the option file's, or 0.
        count: number of faces, drawn with the seed; None for all.
    """

    model: str = "mini"
    weights: str | None = None
    faces: str | None = None
    degradation: str | None = None
    seed: int | None = None
    count: int | None = None

    @property
    def option_file(self) -> dict[str, Any] | None:
        """The option file's content; None for a deployed network."""
        return lafr_options(self.model) if Path(self.model).suffix in (".yml", ".yaml") else None


def load_model(source: Source, device: torch.device) -> LAFRNet:
    """The network of a source, without UNet where it is made of an option file.

    Raises:
        FigureError: it is no LAFR network, or nothing says where its trained alignment module is.
        FileNotFoundError, ValueError, lafr_base.weights.MissingWeightsError: as its class raises.
    """
    options = source.option_file
    try:
        net = load_network(source.model, device) if options is None else _build(source, options)
    except MethodError as error:
        raise FigureError(f"--model: {error}") from error
    except ValueError as error:
        raise FigureError(f"--model {source.model}: {error}") from error
    if not isinstance(net, LAFRNet):
        raise FigureError(f"--model: {source.model} is no LAFR network")
    return net.to(device).eval()


def _build(source: Source, options: Mapping[str, Any]) -> LAFRNet:
    network = options["network_g"]
    latest = run_folder(options) / "models" / "net_g_latest.pth"
    written = str(latest) if latest.is_file() else (options.get("path") or {}).get("pretrain_network_g")
    weights = source.weights or network.get("alignment_weights") or written
    if network.get("alignment") is not None and weights is None:
        raise ValueError("nothing is trained yet: give --weights, the net_g_*.pth of stage 1")
    kept = ("base_model", "prompt", "timestep", "alignment", "image_size")
    arguments = {key: network[key] for key in kept if key in network}
    if network.get("alignment") is not None:
        arguments["alignment_weights"] = weights
    return build_lafr(**arguments, with_unet=False)


def face_pairs(source: Source, image_size: int) -> tuple[Dataset[dict[str, Any]], dict[str, Any]]:
    """HQ faces with LQ copies that are a function of file name and seed, and the settings they were made with.

    Raises:
        FigureError: no folder is given, or an option does not fit.
        FileNotFoundError: there are no images.
    """
    options = source.option_file
    found = {} if options is None else (options.get("datasets") or {}).get("val") or {}
    keep = {key: found[key] for key in ("dataroot_gt", "degradation", "seed", "io_backend") if key in found}
    if source.faces is not None:
        keep = {"dataroot_gt": source.faces, **{k: v for k, v in keep.items() if k in ("degradation", "seed")}}
    if "dataroot_gt" not in keep:
        raise FigureError("--faces is missing: a folder or LMDB of high-quality faces")
    keep["degradation"] = source.degradation or keep.get("degradation", DEGRADATION)
    keep["seed"] = keep.get("seed", 0) if source.seed is None else source.seed
    return _dataset(keep, image_size, source.count, "--faces"), keep


def images(folder: str, image_size: int, count: int | None, seed: int, flag: str) -> Dataset[dict[str, Any]]:
    """Images as they are: the central square, resized; entry ``gt``.

    Raises:
        FigureError: an option does not fit.
        FileNotFoundError: there are none.
    """
    options = {"dataroot_gt": folder, "seed": seed, "degradation": DEGRADATION}
    return _dataset(options, image_size, count, flag)


def _dataset(options: Mapping[str, Any], image_size: int, count: int | None, flag: str) -> Dataset[dict[str, Any]]:
    subset = {} if count is None else {"n_images": count, "n_images_seed": options["seed"]}
    try:
        return DATASET_REGISTRY["ValidationFaceDataset"](
            {**options, **subset, "image_size": image_size, "phase": "val"}
        )
    except ValueError as error:
        raise FigureError(f"{flag}: {error}") from error
