"""LAFR's networks for programs that load models by spandrel, as spandrel's registry extension has it.

    import lafr.spandrel
    import spandrel

    lafr.spandrel.install()
    model = spandrel.ModelLoader().load_from_file(lafr.spandrel.MINI)
    restored = model(face)  # (1, 3, S, S) RGB in [0, 1], an FFHQ-aligned face; S is model.model.image_size

A file of weights does not say what network they belong to, and spandrel hands over nothing else. What a file is, is
told by the names and shapes of its tensors, among the networks whose ``config.json`` is known here: mini's, and those
named to :func:`install`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from spandrel import (
    MAIN_REGISTRY,
    Architecture,
    ArchSupport,
    ImageModelDescriptor,
    ModelTiling,
    SizeRequirements,
    UnsupportedModelError,
)
from torch import Tensor

from lafr.methods import MODELS
from lafr_arch import deployed
from lafr_arch.lafr_arch import LAFRNet
from lafr_base.model_folder import WEIGHTS_NAME, read_config

MINI = MODELS["mini"] / WEIGHTS_NAME
"""The bundled network's weights."""

_PARTS = ("vae.", "unet.", "alignment.")


class LAFRArch(Architecture[LAFRNet]):
    """What spandrel has to know of LAFR.

    Args:
        folders: of deployed networks, whose ``config.json`` say which networks there are.
    """

    def __init__(self, folders: tuple[Path, ...]) -> None:
        super().__init__(id="LAFR", detect=_has_parts)
        self.folders = folders

    def load(self, state_dict: Mapping[str, Tensor]) -> ImageModelDescriptor[LAFRNet]:
        """Build the network that weights belong to.

        Raises:
            UnsupportedModelError: none of the known ones; the message says how to make one known.
        """
        for folder in self.folders:
            with torch.device("meta"):
                net = LAFRNet(**deployed.empty_parts(read_config(folder)))
            if _shapes(net.state_dict()) == _shapes(state_dict):
                break
        else:
            raise UnsupportedModelError(
                "these weights are of a LAFR network that is not known: pass the folder with its config.json to "
                "lafr.spandrel.install"
            )
        net.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state_dict.items()}, assign=True)
        size = net.image_size
        return ImageModelDescriptor(
            net.eval().requires_grad_(False),
            dict(state_dict),
            architecture=self,
            purpose="FaceSR",
            tags=[f"{size}px"],
            supports_half=False,  # in half precision the nearest code is another
            supports_bfloat16=False,
            scale=1,
            input_channels=3,
            output_channels=3,
            size_requirements=SizeRequirements(minimum=size, multiple_of=size, square=True),
            tiling=ModelTiling.DISCOURAGED,
        )


def install(*folders: str | Path) -> None:
    """Make LAFR known to spandrel's `MAIN_REGISTRY`; again, it only adds folders.

    Args:
        folders: of deployed networks other than mini, each with its ``config.json``.

    Raises:
        ValueError: a folder has no deployed network's ``config.json``.
    """
    named = tuple(Path(folder).expanduser() for folder in folders)
    for folder in named:
        if not deployed.is_deployed(folder):
            raise ValueError(f"{folder}: has no config.json of a deployed LAFR network")
    known = MAIN_REGISTRY.get("LAFR")
    if known is None:
        MAIN_REGISTRY.add(ArchSupport.from_architecture(LAFRArch((MODELS["mini"], *named))))
    elif isinstance(known.architecture, LAFRArch):
        known.architecture.folders = tuple(dict.fromkeys((*known.architecture.folders, *named)))


def _has_parts(state_dict: Mapping[str, Any]) -> bool:
    """Whether weights are of a deployed LAFR network: all of its parts, and nothing else at the top."""
    return all(any(name.startswith(part) for name in state_dict) for part in _PARTS) and not any(
        "." not in name for name in state_dict
    )


def _shapes(state: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in state.items()}
