"""Published face restorers to compare with: GFPGAN, CodeFormer, RestoreFormer, run by spandrel; and no restoration.

Needs the extra ``baselines``: spandrel (MIT) and, for CodeFormer, spandrel-extra-arches, which carries networks under
non-commercial licences (CodeFormer's is the S-Lab License 1.0). All work on FFHQ-aligned faces of 512 x 512 pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from lafr_arch.baselines import BaselineSpec, Option, add_baseline
from lafr_arch.restoring import RunsAsItIs
from lafr_base import weights
from lafr_base.checkpoints import JUNK, first_line, read_checkpoint
from lafr_base.registry import ARCH_REGISTRY

IMAGE_SIZE = 512
INSTALL = "pip install 'lafr[baselines]'"


class _Baseline(RunsAsItIs, nn.Module):
    """A network of spandrel behind this project's convention: RGB in [0, 1] in and out.

    spandrel's own call would not do: for GFPGAN and CodeFormer it leaves out the mapping to [-1, 1].

    Attributes:
        model: spandrel's network, (B, 3, 512, 512) RGB in [-1, 1] to a tuple that starts with the same.
        arguments: further arguments of its call.
        image_size: side of its faces in pixels.
    """

    image_size = IMAGE_SIZE

    def __init__(self, path: str, title: str, architecture: Callable[[], Any]) -> None:
        super().__init__()
        self.model = load_spandrel(weights.require(path), title, architecture)
        self.arguments: dict[str, Any] = {}
        self.eval()

    def forward(self, lq: Tensor) -> Tensor:
        """Restore faces (B, 3, 512, 512) RGB in [0, 1]; the same shape and range."""
        return ((self.model(2 * lq - 1, **self.arguments)[0] + 1) / 2).clamp(0, 1)


@ARCH_REGISTRY.register()
class GFPGANBaseline(_Baseline):
    """GFPGAN (Wang et al., 2021), clean version 1.2, 1.3 or 1.4.

    Args:
        path: the checkpoint (``GFPGANv1.4.pth``), or a name of ``lafr weights`` (``gfpgan-v1.4``).
        randomize_noise: as published, the decoder adds noise from PyTorch's generator, so that two runs differ a
            little; False: the noise stored in the checkpoint, always the same.

    Raises:
        ModuleNotFoundError: spandrel is not installed.
        lafr_base.weights.MissingWeightsError: there is no such file.
        ValueError: the file holds something else.
    """

    def __init__(self, path: str, randomize_noise: bool = True) -> None:
        super().__init__(path, "GFPGAN, clean version 1.2 to 1.4", _gfpgan)
        self.arguments = {"return_rgb": False, "randomize_noise": randomize_noise}


@ARCH_REGISTRY.register()
class RestoreFormerBaseline(_Baseline):
    """RestoreFormer (Wang et al., 2022), as GFPGAN's releases publish it (``RestoreFormer.pth``).

    Args:
        path: the checkpoint, or a name of ``lafr weights`` (``restoreformer``).

    Raises:
        ModuleNotFoundError: spandrel is not installed.
        lafr_base.weights.MissingWeightsError: there is no such file.
        ValueError: the file holds something else.
    """

    def __init__(self, path: str) -> None:
        super().__init__(path, "RestoreFormer", _restoreformer)


@ARCH_REGISTRY.register()
class CodeFormerBaseline(_Baseline):
    """CodeFormer (Zhou et al., 2022). S-Lab License 1.0: not for commercial use.

    Args:
        path: the checkpoint (``codeformer.pth``), or a name of ``lafr weights`` (``codeformer``).
        weight: its fidelity weight w, 0 (quality) to 1 (fidelity), whatever is asked of :meth:`forward`; None to let
            :meth:`forward` decide.

    Raises:
        ModuleNotFoundError: spandrel or spandrel-extra-arches is not installed.
        lafr_base.weights.MissingWeightsError: there is no such file.
        ValueError: the file holds something else, or ``weight`` is not within 0 to 1.
    """

    weight_means = "network"

    def __init__(self, path: str, weight: float | None = None) -> None:
        if weight is not None and not 0 <= weight <= 1:
            raise ValueError(f"weight must be within 0 (quality) to 1 (fidelity); got {weight}")
        super().__init__(path, "CodeFormer", _codeformer)
        self.weight = weight
        if weight is not None:
            self.weight_means = "none"

    def forward(self, lq: Tensor, weight: float = 0.5) -> Tensor:
        """Restore faces (B, 3, 512, 512) RGB in [0, 1] with fidelity weight ``weight``; the same shape and range."""
        # spandrel's name for CodeFormer's w; it ignores other keywords without a word.
        restored = self.model(2 * lq - 1, weight=weight if self.weight is None else self.weight)[0]
        return ((restored + 1) / 2).clamp(0, 1)


@ARCH_REGISTRY.register()
class BicubicBaseline(RunsAsItIs, nn.Module):
    """No restoration: the face as it came, enlarged.

    Args:
        image_size: side of the result in pixels.
    """

    def __init__(self, image_size: int = IMAGE_SIZE) -> None:
        super().__init__()
        self.image_size = image_size

    def forward(self, lq: Tensor) -> Tensor:
        """Faces (B, 3, H, W) RGB in [0, 1] to (B, 3, S, S), bicubic; faces of that size stay as they are."""
        size = (self.image_size, self.image_size)
        if tuple(lq.shape[-2:]) == size:
            return lq
        return F.interpolate(lq, size=size, mode="bicubic", align_corners=False, antialias=True).clamp(0, 1)


def load_spandrel(path: Path, title: str, architecture: Callable[[], Any]) -> nn.Module:
    """Read a checkpoint without executing anything in it, and let spandrel build the network it holds.

    Args:
        path: the file, .safetensors or what ``torch.load`` reads.
        title: what it should hold, for errors.
        architecture: returns spandrel's ``Architecture`` of that network.

    Returns:
        The network in eval mode, frozen.

    Raises:
        ModuleNotFoundError: the extra ``baselines`` is not installed.
        ValueError: the file cannot be read or holds something else.
    """
    try:
        from spandrel import canonicalize_state_dict

        arch = architecture()
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{title} needs the package {error.name}: {INSTALL}", name=error.name) from error
    try:
        # Not by spandrel's ModelLoader, which unpickles with an allow-list of its own instead of weights_only.
        state = canonicalize_state_dict(read_checkpoint(path))
        fits = bool(arch.detect(state))
    except JUNK as error:
        raise ValueError(f"{path} is no checkpoint of {title} ({first_line(error)})") from error
    if not fits:
        raise ValueError(f"{path} is no checkpoint of {title}")
    try:
        model: nn.Module = arch.load(state).model
    except JUNK as error:
        what = " ".join(str(error).split())[:300]  # one line, which names the first tensors
        raise ValueError(f"{path} is no checkpoint of {title}: {what}") from error
    return model.eval().requires_grad_(False)


def _gfpgan() -> Any:
    from spandrel.architectures.GFPGAN import GFPGANArch

    return GFPGANArch()


def _restoreformer() -> Any:
    from spandrel.architectures.RestoreFormer import RestoreFormerArch

    return RestoreFormerArch()


def _codeformer() -> Any:
    from spandrel_extra_arches.architectures.CodeFormer import CodeFormerArch

    return CodeFormerArch()


add_baseline(
    BaselineSpec(
        name="gfpgan",
        weights="gfpgan-v1.4",
        build=lambda path, options: GFPGANBaseline(str(path), bool(options.get("noise", 1))),
        options={"noise": Option(lambda value: value in (0, 1), "0 (the checkpoint's) or 1 (random, as published)")},
    )
)
add_baseline(
    BaselineSpec(
        name="codeformer",
        weights="codeformer",
        build=lambda path, options: CodeFormerBaseline(str(path), options.get("w")),
        options={"w": Option(lambda value: 0 <= value <= 1, "within 0 (quality) to 1 (fidelity)")},
    )
)
add_baseline(
    BaselineSpec(
        name="restoreformer",
        weights="restoreformer",
        build=lambda path, _: RestoreFormerBaseline(str(path)),
    )
)
add_baseline(
    BaselineSpec(
        name="bicubic",
        build=lambda _, options: BicubicBaseline(int(options.get("size", IMAGE_SIZE))),
        options={"size": Option(lambda value: value >= 1 and value == int(value), "a whole number of pixels above 0")},
    )
)
