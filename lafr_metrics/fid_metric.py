"""FID: Frechet distance between Inception features of two sets of images (Heusel et al., 2017; clean-fid, 2022)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakValueDictionary

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the field's name for it
from torchvision.models import Inception3
from torchvision.models.inception import InceptionE

from lafr_base.checkpoints import read_state
from lafr_base.images import ImageError, read_image, to_uint8
from lafr_base.weights import require
from lafr_losses.common import freeze, load_strict
from lafr_metrics.images import MetricError
from lafr_metrics.specs import MetricSpec, Progress, SetMetric, add_metric

_SIZE = 299
_BATCH = 8
_KEPT = 2  # sets of files
_FEATURES = 2048


@dataclass(frozen=True)
class Gaussian:
    """Mean and covariance of features.

    Attributes:
        mean: (D,).
        root: (K, D), any K; ``root.T @ root`` is the covariance. Kept instead of the covariance, whose rank is below
            D for fewer than D images: the square root of a singular matrix is what makes other FIDs noisy.
    """

    mean: np.ndarray
    root: np.ndarray

    @classmethod
    def of_features(cls, features: np.ndarray) -> Gaussian:
        """Of features (N, D), with the unbiased covariance.

        Raises:
            MetricError: fewer than two images.
        """
        count, dimensions = features.shape
        if count < 2:
            raise MetricError(f"FID needs at least 2 images of each set, and there are {count}")
        features = features.astype(np.float64)
        mean = features.mean(axis=0)
        root = (features - mean) / np.sqrt(count - 1)
        return cls(mean, np.asarray(np.linalg.qr(root, mode="r")) if count > dimensions else root)

    @classmethod
    def of_file(cls, path: Path) -> Gaussian:
        """Of clean-fid's statistics: an .npz file with ``mu`` (D,) and ``sigma`` (D, D).

        Raises:
            ValueError: the file holds something else.
        """
        with np.load(path, allow_pickle=False) as arrays:
            if "mu" not in arrays or "sigma" not in arrays or arrays["sigma"].shape != 2 * arrays["mu"].shape:
                raise ValueError(f"{path} should hold mu (D,) and sigma (D, D), and has {', '.join(arrays)}")
            mean, covariance = arrays["mu"].astype(np.float64), arrays["sigma"].astype(np.float64)
        values, vectors = np.linalg.eigh(covariance)
        return cls(mean, np.sqrt(values.clip(0))[:, None] * vectors.T)


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """``|mean_a - mean_b|^2 + tr(A + B - 2 (A B)^(1/2))`` of two Gaussians with covariances A and B.

    With A = R^T R and B = S^T S the trace of the root is the sum of the singular values of R S^T, exactly.
    """
    mixed = np.linalg.svd(a.root @ b.root.T, compute_uv=False).sum()
    spread = (a.root**2).sum() + (b.root**2).sum() - 2 * mixed
    return float(((a.mean - b.mean) ** 2).sum() + spread)


class _MaxPooled(InceptionE):
    """The last block takes the largest of its pool where the others, and torchvision's, take the mean."""

    def _forward(self, x: Tensor) -> list[Tensor]:
        outputs = super()._forward(x)
        return [*outputs[:-1], self.branch_pool(F.max_pool2d(x, kernel_size=3, stride=1, padding=1))]


def _without_padding(layer: nn.Module, inputs: tuple[Tensor]) -> Tensor:  # noqa: ARG001 - a hook's arguments
    """Make torchvision's 3 x 3 mean, which counts the padding's zeros, TensorFlow's, which does not."""
    (pooled,) = inputs
    return pooled / F.avg_pool2d(torch.ones_like(pooled[:1, :1]), kernel_size=3, stride=1, padding=1)


def fid_inception(path: Path) -> nn.Module:
    """TensorFlow's Inception of 2015-12-05 as pytorch-fid ported it; (B, 3, 299, 299) in [-1, 1] -> (B, 2048).

    Args:
        path: ``pt_inception-2015-12-05-6726825d.pth``.

    Raises:
        ValueError: the file holds another net.
    """
    net = Inception3(num_classes=1008, aux_logits=False, init_weights=False)
    net.Mixed_7c = _MaxPooled(2048)
    for name in ("5b", "5c", "5d", "6b", "6c", "6d", "6e", "7b"):
        net.get_submodule(f"Mixed_{name}.branch_pool").register_forward_pre_hook(_without_padding)
    load_strict(net, read_state(path), path)
    net.fc = nn.Identity()
    return freeze(net)


def inception_input(image: np.ndarray) -> Tensor:
    """(H, W, 3) RGB uint8 -> (3, 299, 299) in [-1, 1], resized by PIL's bicubic filter in float, as clean-fid."""
    channels = [
        np.asarray(Image.fromarray(channel).resize((_SIZE, _SIZE), Image.Resampling.BICUBIC)).clip(0, 255)
        for channel in image.astype(np.float32).transpose(2, 0, 1)
    ]
    return (torch.from_numpy(np.stack(channels)) - 128) / 128


class SetFeatures:
    """Features of images by a frozen net, one vector each, and the Gaussian of a folder's.

    Args:
        net: maps a batch of what ``prepare`` gives to (B, D).
        device: where it runs.
        prepare: makes an input of an image, (H, W, 3) RGB uint8.
        width: D.
    """

    def __init__(
        self, net: nn.Module, device: torch.device, prepare: Callable[[np.ndarray], Tensor], width: int
    ) -> None:
        self.net = net.to(device)
        self.device = device
        self.prepare = prepare
        self.width = width
        self._kept: dict[tuple[tuple[Path, int, int], ...], Gaussian] = {}

    def gaussian(
        self,
        paths: Sequence[Path],
        title: str = "FID",
        errors: dict[str, str] | None = None,
        progress: Progress | None = None,
    ) -> Gaussian:
        """Mean and covariance of the features of image files, as :meth:`features` takes them.

        Those of the last two sets of files are kept: the next metric asks for the same restored ones again, and the
        next method for the same originals.

        Raises:
            MetricError: they are fewer than two.
        """
        stats = [(path, path.stat()) for path in paths]
        key = tuple((path, stat.st_mtime_ns, stat.st_size) for path, stat in stats)
        found = self._kept.pop(key, None)
        if found is None:
            found = Gaussian.of_features(self.features(paths, title, errors, progress))
        self._kept[key] = found
        while len(self._kept) > _KEPT:
            del self._kept[next(iter(self._kept))]
        return found

    def features(
        self,
        paths: Sequence[Path],
        title: str = "FID",
        errors: dict[str, str] | None = None,
        progress: Progress | None = None,
    ) -> np.ndarray:
        """Features of image files, (N, D).

        Args:
            paths: the files.
            title: given to ``progress``.
            errors: takes files that cannot be read, by path, and why; without it the first is an error.
            progress: wraps ``paths`` while they are read.

        Raises:
            lafr_base.images.ImageError: a file cannot be read.
        """
        features: list[np.ndarray] = []
        batch: list[Tensor] = []
        for image in self._images(paths if progress is None else progress(paths, title), errors):
            batch.append(image)
            if len(batch) == _BATCH:
                features.append(self._run(batch))
                batch = []
        if batch:
            features.append(self._run(batch))
        return np.concatenate(features) if features else np.empty((0, self.width))

    def _images(self, paths: Iterable[Path], errors: dict[str, str] | None) -> Iterator[Tensor]:
        for path in paths:
            try:
                image = to_uint8(read_image(path).bgr)[..., ::-1]
            except ImageError as error:
                if errors is None:
                    raise
                errors[str(path)] = str(error)
                continue
            yield self.prepare(image)

    @torch.no_grad()
    def _run(self, batch: list[Tensor]) -> np.ndarray:
        return self.net(torch.stack(batch).to(self.device)).cpu().numpy()


class FID(SetFeatures):
    """Inception's features of folders of images.

    Args:
        device: where Inception runs.
        path: its file, or a name of ``lafr weights``.

    Raises:
        lafr_base.weights.MissingWeightsError: a file is not there.
        ValueError: it holds another net.
    """

    def __init__(self, device: torch.device, path: str = "fid-inception") -> None:
        super().__init__(fid_inception(require(path)), device, inception_input, _FEATURES)


_INCEPTIONS: WeakValueDictionary[torch.device, FID] = WeakValueDictionary()


def _fid(device: torch.device) -> FID:
    """One Inception a device, as long as a metric uses it."""
    found = _INCEPTIONS.get(device)
    if found is None:
        found = _INCEPTIONS[device] = FID(device)
    return found


def against_references(name: str, title: str, features: SetFeatures) -> SetMetric:
    """The distance of restored files from reference files, by features of theirs.

    Args:
        name: of the metric, for messages.
        title: what progress calls it.
        features: of what net.
    """

    def measure(
        restored: Sequence[Path],
        references: Sequence[Path] | None,
        errors: dict[str, str] | None,
        progress: Progress | None,
    ) -> float:
        if references is None:
            raise MetricError(f"{name} compares with a folder of reference images, and none was given")
        mine = features.gaussian(restored, f"{title}, restored", errors, progress)
        theirs = features.gaussian(references, f"{title}, reference", errors, progress)
        return frechet_distance(mine, theirs)

    return measure


def _against_ffhq(device: torch.device) -> SetMetric:
    fid, ffhq = _fid(device), Gaussian.of_file(require("fid-ffhq"))

    def measure(
        restored: Sequence[Path],
        references: Sequence[Path] | None,  # noqa: ARG001 - a set metric's arguments
        errors: dict[str, str] | None,
        progress: Progress | None,
    ) -> float:
        return frechet_distance(fid.gaussian(restored, "FID, restored", errors, progress), ffhq)

    return measure


_VARIANT = (
    "Inception of TensorFlow 2015-12-05, 2048 features, images resized to 299 x 299 by PIL's bicubic filter in float "
    "(clean-fid)"
)
add_metric(
    MetricSpec(
        name="fid",
        title="FID (reference folder)",
        better="lower",
        reference=True,
        kind="set",
        variant=f"{_VARIANT}; against all images of the reference folder",
        library="own, as clean-fid and pyiqa",
        build=lambda device: against_references("fid", "FID", _fid(device)),
        weights=("fid-inception",),
    )
)
add_metric(
    MetricSpec(
        name="fid_ffhq",
        title="FID (FFHQ)",
        better="lower",
        kind="set",
        variant=f"{_VARIANT}; against the statistics of FFHQ's 70,000 images at 512 x 512",
        library="own, as clean-fid and pyiqa",
        build=_against_ffhq,
        weights=("fid-inception", "fid-ffhq"),
    )
)
