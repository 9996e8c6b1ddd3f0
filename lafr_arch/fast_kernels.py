"""Call fast_kernels.cpp: 3x3 convolutions on a CPU by Winograd's F(4x4, 3x3), exact to rounding.

It takes 1/4 of the multiplications, and the group normalisation and activation before the convolution, the nearest x2
of an upsampler, the bias and the residual cost no pass over memory of their own.
Rounding is about three times that of a direct convolution: 1e-6 of the output's spread.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import platform
import subprocess
import threading
from pathlib import Path

import torch
from torch import Tensor, nn

from lafr_arch.kernel_build import FLAGS, NATIVE, SOURCE, KernelError, built_library, compile_kernels, find_compiler
from lafr_arch.map_memory import MapMemory
from lafr_base import processor
from lafr_base.files import whole
from lafr_base.private_cache import CacheError, cache_folder, is_whole, make_private, seal

logger = logging.getLogger(__name__)

LANES = 16
"""Channels that the kernels treat at once: maps have a multiple of it."""

_DTYPES = (torch.float32, torch.bfloat16)

# Rows of the kernel's transform for the points 0, 1, -1, 2, -2 and infinity (Lavin and Gray, arXiv:1509.09308, 4.3).
_G = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)
# Below it the transformed weights, four times the plain ones, are not worth their memory.
_MIN_TILES = 48

_scratch = threading.local()
_maps = MapMemory()


def _compile(folder: Path, march: str = NATIVE) -> Path:
    """The library for this machine, compiled where a cache's folder does not have it yet."""
    compiler = find_compiler() or ""
    version = (
        subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False).stdout if compiler else ""
    )
    about = [SOURCE.read_text("utf-8"), *FLAGS, march, version, platform.machine(), *sorted(processor.features())]
    key = hashlib.sha256("\n".join(about).encode()).hexdigest()[:16]
    library = folder / f"lafr_kernels_{key}.so"
    make_private(folder)
    if is_whole(library):  # a damaged one would end the process when it is loaded
        return library
    with whole(library) as linked:
        compile_kernels(linked, march)
    seal(library)
    return library


def _built() -> Path | None:
    """The library that was built for this processor's level when the package was built or installed, if one was."""
    level = processor.level()
    library = None if level is None else built_library(level)
    return library if library is not None and library.is_file() else None


@functools.cache
def load_kernels() -> Kernels | None:
    """The kernels: built with the package, else compiled at the first call on a machine; else None, with a warning."""
    try:
        return Kernels(_built() or _compile(cache_folder("kernels")))
    except (KernelError, CacheError, OSError) as error:
        logger.warning("convolutions run without Winograd's method, at about half the speed: %s", error)
        return None


def transform_weight(weight: Tensor, panel: int) -> Tensor:
    """Kernels (O, I, 3, 3) of a convolution -> (36, I' * O') float32, sizes rounded up to :data:`LANES` with zeros.

    Each of the 36 matrices (I', O') lies in panels of `panel` columns, one after the other; the last may be narrower.
    """
    g = torch.tensor(_G, dtype=torch.float64)
    out, channels = (-(-size // LANES) * LANES for size in weight.shape[:2])
    transformed = torch.zeros(36, channels, out)
    product = torch.einsum("au,bv,oiuv->abio", g, g, weight.detach().double().cpu())
    transformed[:, : weight.shape[1], : weight.shape[0]] = product.flatten(0, 1)
    return torch.cat([part.flatten(1) for part in transformed.split(panel, dim=2)], dim=1)


def empty_map(batch: int, channels: int, height: int, width: int, dtype: torch.dtype) -> Tensor:
    """(B, C, H, W) in channels_last, not initialised."""
    return _maps.empty((batch, height, width, channels), dtype).permute(0, 3, 1, 2)


def temporary_map(batch: int, channels: int, height: int, width: int, dtype: torch.dtype) -> Tensor:
    """The same in memory that this thread's next call takes again."""
    count = batch * height * width * channels
    flat = _buffer("map", -(-count * dtype.itemsize // 4)).view(dtype)
    return flat[:count].view(batch, height, width, channels).permute(0, 3, 1, 2)


def _buffer(name: str, size: int) -> Tensor:
    """Working memory of this thread, kept from call to call: fresh memory costs as much as the work done in it."""
    buffer: Tensor | None = getattr(_scratch, name, None)
    if buffer is None or buffer.numel() < size:
        with torch.inference_mode(False):  # else it could not be written to outside of inference mode later
            buffer = torch.empty(size)
        setattr(_scratch, name, buffer)
    return buffer


def _reading(x: Tensor, affine: tuple[Tensor, Tensor] | None, silu: bool) -> tuple[int | None, int | None, int, int]:
    """What a kernel is told of the map it reads: pointers to scale and shift, what to apply, whether it is bfloat16."""
    scale, shift = (t.data_ptr() for t in affine) if affine is not None else (None, None)
    return scale, shift, int(silu) + 2 * int(affine is not None), int(x.dtype == torch.bfloat16)


class Kernels:
    """The compiled functions, on tensors. Maps are (B, C, H, W) in channels_last on the CPU, float32 or bfloat16, with
    C a multiple of :data:`LANES`; arithmetic is in float32.

    Args:
        library: the compiled fast_kernels.cpp.
    """  # noqa: D205

    def __init__(self, library: Path) -> None:
        functions = ctypes.CDLL(str(library))
        pointer, size, flag = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
        self._winograd = functions.lafr_winograd
        self._winograd.argtypes = [pointer] * 8 + [ctypes.POINTER(size)] + [flag] * 3
        self._patches = functions.lafr_patches
        self._patches.argtypes = [pointer] * 4 + [size] * 4 + [flag] * 2
        self._sums = functions.lafr_channel_sums
        self._sums.argtypes = [pointer] * 3 + [size] * 4 + [flag]
        for function in (self._winograd, self._patches, self._sums):
            function.restype = None
        functions.lafr_panel.restype = size
        self.panel: int = functions.lafr_panel()
        """Columns that lie together in the weights of :meth:`winograd`."""

    @staticmethod
    def takes(x: Tensor) -> bool:
        """Whether the kernels can read this map, once it is in channels_last."""
        return x.device.type == "cpu" and x.dtype in _DTYPES and x.dim() == 4 and x.shape[1] % LANES == 0

    @staticmethod
    def prefers_winograd(batch: int, height: int, width: int) -> bool:
        """Whether an output of this size is better made by :meth:`winograd` than by :meth:`direct`."""
        return batch * -(-height // 4) * -(-width // 4) >= _MIN_TILES

    def normalisation(self, x: Tensor, norm: nn.GroupNorm) -> tuple[Tensor, Tensor]:
        """Scale and shift, each (B, C) float32, such that ``norm(x) = x * scale + shift``."""
        batch, channels, height, width = x.shape
        blocks = max(1, height * width // 512)  # short sums, so that float32 suffices inside them
        sums = torch.empty(batch * blocks, 2, channels)
        # Counted from the first pixel, so that a mean far from zero costs the variance no digits.
        centre = x[:, :, 0, 0].float().contiguous()
        pixels = batch * height * width
        half = x.dtype == torch.bfloat16
        self._sums(
            x.data_ptr(), centre.data_ptr(), sums.data_ptr(), pixels, channels, batch * blocks, blocks, int(half)
        )
        first, second = sums.view(batch, blocks, 2, channels).double().sum(1).unbind(1)
        first, second = first / (height * width), second / (height * width)
        mean = (centre + first).view(batch, norm.num_groups, -1)
        variance = (second - first**2).view(batch, norm.num_groups, -1)
        group_mean = mean.mean(-1, keepdim=True)
        group_variance = (variance + (mean - group_mean) ** 2).mean(-1, keepdim=True)
        scale = (group_variance + norm.eps).rsqrt().expand_as(mean).reshape(batch, channels)
        shift = -group_mean.expand_as(mean).reshape(batch, channels) * scale
        if norm.affine:
            scale, shift = scale * norm.weight, shift * norm.weight + norm.bias
        return scale.float().contiguous(), shift.float().contiguous()

    def winograd(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        affine: tuple[Tensor, Tensor] | None = None,
        silu: bool = False,
        double: bool = False,
        residual: Tensor | None = None,
        out: Tensor | None = None,
    ) -> Tensor:
        """3x3 convolution with stride 1 and a border of zeros.

        Args:
            x: input map.
            weight: from :func:`transform_weight`.
            bias: (O',) float32.
            affine: scale and shift, each (B, C) float32, applied to x first.
            silu: apply SiLU then.
            double: then double the map by nearest neighbours.
            residual: a map that is added to the result.
            out: where the result goes; may be `residual`, not x. A new map by default.
        """
        batch, channels, height, width = x.shape
        n_out = len(bias)
        grow = 2 if double else 1
        if out is None:
            out = empty_map(batch, n_out, grow * height, grow * width, x.dtype)
        tiles = batch * -(-grow * height // 4) * -(-grow * width // 4)
        # Few enough that the transformed tiles stay in the cores' caches, many enough to read the weights seldom.
        count = max(96, torch.get_num_threads() * 16384 // (channels + n_out))
        count = min(tiles, count // 12 * 12)  # which the matrix product takes 6 or 12 at a time
        scratch = _buffer("tiles", 36 * count * (channels + n_out))
        scale, shift, act, half = _reading(x, affine, silu)
        sizes = (ctypes.c_int64 * 6)(batch, height, width, channels, n_out, count)
        added = None if residual is None else residual.data_ptr()
        tensors = (weight.data_ptr(), bias.data_ptr(), added, out.data_ptr(), scratch.data_ptr())
        self._winograd(x.data_ptr(), scale, shift, *tensors, sizes, act, int(double), half)
        return out

    def direct(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        affine: tuple[Tensor, Tensor] | None = None,
        silu: bool = False,
    ) -> Tensor:
        """The same convolution of a small map as one matrix product; a float32 map, whatever x is.

        Args:
            x: input map.
            weight: (O, 9 * C) float32, the input's channels innermost.
            bias: (O,) float32.
            affine: as in :meth:`winograd`.
            silu: as in :meth:`winograd`.
        """
        batch, channels, height, width = x.shape
        pixels = batch * height * width
        scale, shift, act, half = _reading(x, affine, silu)
        patches = _buffer("patches", 9 * channels * pixels)[: 9 * channels * pixels].view(pixels, 9 * channels)
        self._patches(x.data_ptr(), scale, shift, patches.data_ptr(), batch, height, width, channels, act, half)
        return torch.addmm(bias, patches, weight.t()).view(batch, height, width, -1).permute(0, 3, 1, 2)
