"""RestoreFormer++ (Wang et al., 2023) from its published checkpoint, to compare with.

Its layers are RestoreFormer's, whose code comes with spandrel; names and sizes are those that the method's own
repository (https://github.com/wzhouxiff/RestoreFormerPlusPlus, RestoreFormer/RestoreFormer.py) loads. Nothing here was
run on the published file yet.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lafr_arch.baselines import BaselineSpec, add_baseline
from lafr_arch.restorer_base import spandrel_module
from lafr_arch.restoring import RunsAsItIs
from lafr_base import weights
from lafr_base.checkpoints import JUNK, first_line, read_state
from lafr_base.registry import ARCH_REGISTRY

HEADS = 4  # which no tensor tells; RestoreFormer's are 8
PREFIX = "vqvae."


class MultiScaleRestoreFormer(nn.Module):
    """RestoreFormer whose decoder attends to the damaged face at two sizes, not only at the smallest.

    Args:
        form: sizes, as :func:`form_of` reads them off a checkpoint.
    """

    def __init__(self, form: Mapping[str, Any]) -> None:
        super().__init__()
        module = spandrel_module("RestoreFormer.__arch.restoreformer_arch")
        smallest = form["image_size"] >> (len(form["ch_mult"]) - 1)
        sizes: dict[str, Any] = {
            "ch": form["ch"],
            "out_ch": 3,
            "ch_mult": form["ch_mult"],
            "num_res_blocks": form["num_res_blocks"],
            "resolution": form["image_size"],
            "z_channels": form["z_channels"],
            "head_size": form["heads"],
        }
        self.encoder = module.MultiHeadEncoder(**sizes, double_z=False, attn_resolutions=(smallest,))
        self.decoder = module.MultiHeadDecoderTransformer(**sizes, attn_resolutions=(smallest, 2 * smallest))
        self.quantize = module.VectorQuantizer(form["codes"], form["code_dim"], beta=0.25)
        self.quant_conv = nn.Conv2d(form["z_channels"], form["code_dim"], 1)
        self.post_quant_conv = nn.Conv2d(form["code_dim"], form["z_channels"], 1)
        self.second = len(form["ch_mult"]) - 2

    def forward(self, x: Tensor) -> Tensor:
        """Faces (B, 3, S, S) RGB in [-1, 1] to the same."""
        maps = self.encoder(x)
        codes = self.quantize(self.quant_conv(maps["out"]))[0]
        # The second size is attended to as the encoder leaves it: it has no attention there to take a map before.
        return self.decoder(
            self.post_quant_conv(codes), {**maps, f"block_{self.second}_atten": maps[f"block_{self.second}"]}
        )


def form_of(state: Mapping[str, Tensor], image_size: int = 512) -> dict[str, Any]:
    """Sizes of the network that a state dict belongs to.

    Raises:
        KeyError: it lacks a tensor that tells of them.
    """
    ch = state["encoder.conv_in.weight"].shape[0]
    levels = len({name.split(".")[2] for name in state if name.startswith("encoder.down.")})
    codes, dim = state["quantize.embedding.weight"].shape
    state[f"decoder.up.{levels - 2}.attn.0.q.weight"]  # which RestoreFormer lacks
    return {
        "image_size": image_size,
        "ch": ch,
        "ch_mult": tuple(state[f"encoder.down.{i}.block.0.conv2.weight"].shape[0] // ch for i in range(levels)),
        "num_res_blocks": len({name.split(".")[4] for name in state if name.startswith("encoder.down.0.block.")}),
        "codes": codes,
        "code_dim": dim,
        "z_channels": state["quant_conv.weight"].shape[1],
        "heads": HEADS,
    }


@ARCH_REGISTRY.register()
class RestoreFormerPlusPlusBaseline(RunsAsItIs, nn.Module):
    """RestoreFormer++ as its repository publishes it (``RestoreFormer++.ckpt``).

    Args:
        path: the checkpoint, or a name of ``lafr weights`` (``restoreformer++``). Its losses' networks are passed over.

    Raises:
        ImportError: spandrel is not installed.
        lafr_base.weights.MissingWeightsError: there is no such file.
        ValueError: the file holds something else.
    """

    image_size = 512

    def __init__(self, path: str) -> None:
        super().__init__()
        file = Path(weights.require(path))
        stored = read_state(file)
        own = {name: value for name, value in stored.items() if name.startswith(PREFIX)} or stored
        state = {name.removeprefix(PREFIX): value for name, value in own.items()}
        try:
            self.model = MultiScaleRestoreFormer(form_of(state))
            self.model.load_state_dict(state)
        except JUNK as error:
            raise ValueError(f"{file} is no checkpoint of RestoreFormer++: {first_line(error)}") from error
        self.eval().requires_grad_(False)

    def forward(self, lq: Tensor) -> Tensor:
        """Restore faces (B, 3, 512, 512) RGB in [0, 1]; the same shape and range."""
        return ((self.model(2 * lq - 1) + 1) / 2).clamp(0, 1)


add_baseline(
    BaselineSpec(
        name="restoreformer++",
        weights="restoreformer++",
        build=lambda path, _: RestoreFormerPlusPlusBaseline(str(path)),
    )
)
