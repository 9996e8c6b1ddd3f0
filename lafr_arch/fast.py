"""The fast inference path: the same network, to rounding, with its convolutions rewritten for the machine.

On a CPU the 3x3 convolutions, which are most of the work, run by Winograd's method together with what stands around
them (:mod:`lafr_arch.fast_kernels`); everywhere maps lie in channels_last, which saves each convolution a reordering.
"""

from __future__ import annotations

import copy
import logging
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from lafr_arch.autoencoder_arch import ResidualBlock
from lafr_arch.fast_kernels import LANES, Kernels, empty_map, load_kernels, temporary_map, transform_weight

if TYPE_CHECKING:
    from lafr_arch.lafr_arch import LAFRNet

logger = logging.getLogger(__name__)


class FusedConv2d(nn.Module):
    """``conv(upsample(silu(norm(x)))) + residual``, where norm, SiLU and upsampling (nearest x2) may each be absent.

    Equals the layers it is made of, whose parameters it shares, to rounding. For inference only: the kernels know no
    gradients.

    Args:
        conv: a convolution that :meth:`takes` is true of.
        norm: applied to the input first.
        silu: whether SiLU follows.
        upsample: whether the map is doubled then, by nearest neighbours.
    """

    def __init__(
        self, conv: nn.Conv2d, norm: nn.GroupNorm | None = None, silu: bool = False, upsample: bool = False
    ) -> None:
        super().__init__()
        self.conv = conv
        self.norm = norm
        self.silu = silu
        self.upsample = upsample
        self._prepared: dict[str, Tensor] = {}  # weights in the kernels' forms, each made when it is first needed

    @staticmethod
    def takes(conv: nn.Module) -> bool:
        """Whether the convolution is 3x3 with stride 1, a border of zeros and at least 16 channels."""
        return (
            type(conv) is nn.Conv2d
            and (conv.kernel_size, conv.stride, conv.dilation) == ((3, 3), (1, 1), (1, 1))
            and (conv.padding, conv.padding_mode, conv.groups) == ((1, 1), "zeros", 1)
            and conv.in_channels % LANES == 0
        )

    def _apply(self, fn: Any, recurse: bool = True) -> FusedConv2d:
        self._prepared.clear()
        return super()._apply(fn, recurse)

    def forward(
        self, x: Tensor, residual: Tensor | None = None, overwrite: bool = False, temporary: bool = False
    ) -> Tensor:
        """Convolve.

        Args:
            x: (B, C, H, W).
            residual: (B, O, H', W'), added to the result.
            overwrite: the result may take the residual's memory.
            temporary: the result may be lost with the next such call.

        Returns:
            (B, O, H', W') in channels_last, with the dtype of x.

        Raises:
            RuntimeError: a gradient would be needed.
        """
        if torch.is_grad_enabled() and (x.requires_grad or self.conv.weight.requires_grad):
            raise RuntimeError("a network made by optimize_for_inference has no gradients; train the original")
        kernels = self._kernels(x)
        if kernels is None:
            return self._plain(x, residual)
        x = x.contiguous(memory_format=torch.channels_last)
        affine = None if self.norm is None else kernels.normalisation(x, self.norm)
        grow = 2 if self.upsample else 1
        height, width = grow * x.shape[2], grow * x.shape[3]
        n_out = self.conv.out_channels
        if not self.upsample and not kernels.prefers_winograd(len(x), height, width):
            small = kernels.direct(
                x, self._weight("direct", kernels), self._weight("bias", kernels)[:n_out], affine, self.silu
            )
            return (small if residual is None else small.add_(residual)).to(x.dtype)
        # The kernels write whole vectors of channels; a residual can only be fused where there is nothing to cut off.
        fits = n_out % LANES == 0
        fused: Tensor | None = None
        out: Tensor | None = None
        if fits and residual is not None and residual.dtype == x.dtype:
            fused = residual.contiguous(memory_format=torch.channels_last)
            out = fused if overwrite else None
        elif fits and temporary:
            out = temporary_map(len(x), n_out, height, width, x.dtype)
        weight, bias = self._weight("winograd", kernels), self._weight("bias", kernels)
        out = kernels.winograd(x, weight, bias, affine, self.silu, self.upsample, fused, out)
        if not fits:
            out = out[:, :n_out]
        return out if residual is None or fused is not None else out + residual

    def _kernels(self, x: Tensor) -> Kernels | None:
        # With AMX, oneDNN's convolutions in bfloat16 are faster than any in float32.
        if not Kernels.takes(x) or (x.dtype == torch.bfloat16 and torch.cpu._is_amx_tile_supported()):
            return None
        return load_kernels()

    def _weight(self, name: str, kernels: Kernels) -> Tensor:
        if name not in self._prepared:
            weight = self.conv.weight.detach().float()
            if name == "winograd":
                self._prepared[name] = transform_weight(weight, kernels.panel)
            elif name == "direct":
                self._prepared[name] = weight.permute(0, 2, 3, 1).reshape(len(weight), -1)
            else:
                bias = torch.zeros(len(weight)) if self.conv.bias is None else self.conv.bias.detach().float()
                self._prepared[name] = F.pad(bias, (0, -len(bias) % LANES))
        return self._prepared[name]

    def _plain(self, x: Tensor, residual: Tensor | None) -> Tensor:
        if self.norm is not None:
            x = self.norm(x)
        if self.silu:
            x = F.silu(x)
        if self.upsample:
            x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        x = self.conv(x)
        return x if residual is None else x + residual


class PointwiseConv2d(nn.Module):
    """A 1x1 convolution as one matrix product, which spares oneDNN's reordering of the weights at every call."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv

    @staticmethod
    def takes(conv: nn.Module) -> bool:
        """Whether the convolution is a plain 1x1 one."""
        return (
            type(conv) is nn.Conv2d
            and (conv.kernel_size, conv.stride, conv.groups) == ((1, 1), (1, 1), 1)
            and conv.padding == (0, 0)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, O, H, W)."""
        weight, bias = self.conv.weight.detach().flatten(1), self.conv.bias
        if x.device.type != "cpu" or x.dtype != weight.dtype or bias is None or torch.is_grad_enabled():
            return self.conv(x)
        rows = x.permute(0, 2, 3, 1).flatten(0, 2)
        out = empty_map(len(x), len(weight), x.shape[2], x.shape[3], x.dtype)
        torch.addmm(bias, rows, weight.t(), out=out.permute(0, 2, 3, 1).view(-1, len(weight)))
        return out


class FastResnetBlock(nn.Module):
    """``ResnetBlock2D`` of a VAE or a pruned UNet, as two fused convolutions.

    Args:
        block: the block, whose parameters are shared.
        overwrite: the result may take the input's memory, since nothing else reads it.

    Raises:
        ValueError: the block is of another form; says how.
    """

    def __init__(self, block: Any, overwrite: bool) -> None:
        super().__init__()
        if block.upsample is not None or block.downsample is not None:
            raise ValueError("changes the size")
        if block.time_emb_proj is not None:
            raise ValueError("takes a time embedding")
        if not isinstance(block.nonlinearity, nn.SiLU) or block.output_scale_factor != 1:
            raise ValueError("has another activation or scale")
        for conv, norm in ((block.conv1, block.norm1), (block.conv2, block.norm2)):
            if not isinstance(norm, nn.GroupNorm) or not FusedConv2d.takes(conv):
                raise ValueError("has another normalisation, or channels that are no multiple of 16")
        self.conv1 = FusedConv2d(block.conv1, block.norm1, silu=True)
        self.conv2 = FusedConv2d(block.conv2, block.norm2, silu=True)
        shortcut = block.conv_shortcut
        self.conv_shortcut = PointwiseConv2d(shortcut) if PointwiseConv2d.takes(shortcut) else shortcut
        self.overwrite = overwrite or shortcut is not None

    def forward(self, input_tensor: Tensor, temb: None = None) -> Tensor:
        """(B, C, H, W) -> (B, O, H, W); `temb` is what diffusers' blocks hand on: None in a pruned network."""
        shortcut = input_tensor if self.conv_shortcut is None else self.conv_shortcut(input_tensor)
        return self.conv2(self.conv1(input_tensor, temporary=True), shortcut, self.overwrite)


class FastResidualBlock(nn.Module):
    """:class:`~lafr_arch.autoencoder_arch.ResidualBlock` of the mini VAE, as two fused convolutions.

    Raises:
        ValueError: the block's channels do not fit.
    """

    def __init__(self, block: ResidualBlock) -> None:
        super().__init__()
        if not FusedConv2d.takes(block.conv1):
            raise ValueError("has channels that are no multiple of 16")
        self.conv1 = FusedConv2d(block.conv1, silu=True)
        self.conv2 = FusedConv2d(block.conv2, silu=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W); x may be overwritten."""
        return self.conv2(self.conv1(x, temporary=True), x, overwrite=True)


class FastUpsample(nn.Module):
    """``Upsample2D``, whose doubled map is never written out.

    Raises:
        ValueError: the block is of another form; says how.
    """

    def __init__(self, block: Any) -> None:
        super().__init__()
        if block.norm is not None or not block.interpolate or not block.use_conv or block.use_conv_transpose:
            raise ValueError("is not nearest x2 and a convolution")
        if not FusedConv2d.takes(block.conv):
            raise ValueError("has channels that are no multiple of 16")
        self.fused = FusedConv2d(block.conv, upsample=True)

    def forward(self, hidden_states: Tensor, output_size: tuple[int, int] | None = None) -> Tensor:
        """(B, C, H, W) -> (B, O, 2H, 2W), or of `output_size`, which odd sizes on the way down ask for."""
        height, width = hidden_states.shape[2:]
        if output_size is None or tuple(output_size) == (2 * height, 2 * width):
            return self.fused(hidden_states)
        return self.fused.conv(F.interpolate(hidden_states, size=tuple(output_size), mode="nearest"))


def _replacement(module: nn.Module, overwrite: bool) -> nn.Module | None:
    """What takes a module's place; None where nothing is known to.

    Raises:
        ValueError: something is, but does not fit this one.
    """
    if isinstance(module, ResidualBlock):
        return FastResidualBlock(module)
    # By name, since diffusers' and this project's have the same form and importing diffusers takes seconds.
    kind = type(module).__name__ if type(module).__module__.startswith(("diffusers.", "lafr_arch.")) else ""
    if kind == "ResnetBlock2D":
        return FastResnetBlock(module, overwrite)
    if kind == "Upsample2D":
        return FastUpsample(module)
    if isinstance(module, nn.Conv2d) and FusedConv2d.takes(module):
        return FusedConv2d(module)
    if isinstance(module, nn.Conv2d) and PointwiseConv2d.takes(module):
        return PointwiseConv2d(module)
    return None


def _fuse_neighbours(module: nn.Module) -> None:
    """Draw normalisation and SiLU into the convolution after them, where they are called one after the other."""
    names = list(module._modules) if isinstance(module, nn.Sequential) else ["conv_norm_out", "conv_act", "conv_out"]
    layers = [getattr(module, name, None) for name in names]
    for index, conv in enumerate(layers):
        if index == 0 or not isinstance(conv, nn.Conv2d) or not FusedConv2d.takes(conv):
            continue
        if not isinstance(layers[index - 1], nn.SiLU):
            continue
        norm = layers[index - 2] if index > 1 else None
        norm = norm if isinstance(norm, nn.GroupNorm) else None
        setattr(module, names[index], FusedConv2d(conv, norm, silu=True))
        setattr(module, names[index - 1], nn.Identity())
        if norm is not None:
            setattr(module, names[index - 2], nn.Identity())


def rewrite(module: nn.Module, overwrite: bool = False, path: str = "") -> dict[str, str]:
    """Replace the layers of a module tree, in place, by their fast forms.

    Args:
        module: any network; what no fast form is known for stays.
        overwrite: no map is read again once the next layer has it (true of VAEs; a UNet's skips are).
        path: the module's own name, for the account.

    Returns:
        By name, what runs for each block and convolution: the class of its replacement, or why there is none.
    """
    account: dict[str, str] = {}
    _fuse_neighbours(module)
    for name, child in list(module.named_children()):
        where = f"{path}.{name}".lstrip(".")
        try:
            done = isinstance(child, FusedConv2d | PointwiseConv2d)
            replacement = child if done else _replacement(child, overwrite)
        except ValueError as obstacle:
            account[where] = f"{type(child).__name__}, which {obstacle}"
            replacement = None
        if replacement is not None:
            account[where] = type(replacement).__name__
            setattr(module, name, replacement)
            continue
        if isinstance(child, nn.Conv2d):
            account[where] = "Conv2d"
        account |= rewrite(child, overwrite, where)
    return account


def _share(net: LAFRNet) -> LAFRNet:
    """A copy whose parameters are objects of their own on the same memory."""
    memo: dict[int, Any] = {id(p): nn.Parameter(p.data, requires_grad=False) for p in net.parameters()}
    memo |= {id(buffer): buffer.detach() for buffer in net.buffers()}
    return copy.deepcopy(net, memo)


def optimize_for_inference(
    net: LAFRNet,
    dtype: torch.dtype | None = None,
    decoder_dtype: torch.dtype | None = None,
    kernels: bool = True,
) -> LAFRNet:
    """A copy of a network for inference: deployed, in eval mode and as fast as is known while exact to rounding.

    The network itself stays as it is. A deployed one shares its weights with the copy, but for convolutions, whose
    weights the copy holds in forms of its own (made at their first use; up to four times the size).

    Args:
        net: a network on the device that it is to run on.
        dtype: bfloat16 or float16 for VAE and UNet, which is not exact; see :meth:`LAFRNet.set_dtype`. The network's
            own by default.
        decoder_dtype: the same for the decoder alone, as LAFRNet's argument.
        kernels: rewrite the layers on a CPU; else they stay PyTorch's.

    Returns:
        The copy; its attribute ``inference_plan`` says what runs for each block and convolution, as :func:`rewrite`.
    """
    fast = _share(net).eval() if net.is_deployed or net.unet is None else copy.deepcopy(net).deploy()
    fast.requires_grad_(False)
    fast.strengths = None  # its convolutions hold weights in other forms; strengths are set on the network itself
    plan: dict[str, str] = {}
    if kernels and next(fast.parameters()).device.type == "cpu":
        plan = rewrite(fast.vae, overwrite=True, path="vae")
        for name, part in fast.parts():
            if part is not None and part is not fast.vae:
                plan |= rewrite(part, path=name)
        counts = {kind: list(plan.values()).count(kind) for kind in sorted(set(plan.values()))}
        logger.debug("inference: %s", "; ".join(f"{count} x {kind}" for kind, count in counts.items()))
    if dtype is not None:
        fast.set_dtype(dtype)
    if decoder_dtype is not None:
        fast.set_decoder_dtype(decoder_dtype)
    fast.inference_plan = plan
    return fast.to(memory_format=torch.channels_last)
