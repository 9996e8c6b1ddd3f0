"""Metrics of aligned faces: angle and similarity of identities, distances between landmarks."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from lafr_arch.arcface_arch import ArcFaceResNet18
from lafr_arch.recognition import WEIGHTS as MOBILEFACENET
from lafr_arch.recognition import MobileFaceNetFace
from lafr_base.checkpoints import read_state
from lafr_base.weights import require
from lafr_losses.common import freeze, load_net, load_strict
from lafr_losses.face_models import TDDFAFace
from lafr_metrics.images import ImagePair
from lafr_metrics.specs import ImageMetric, MetricSpec, add_metric

# Distances are stated in pixels of an aligned face of this side.
_SIDE = 512
_HEATMAP = 64


class Deg:
    """Angle in degrees between ArcFace embeddings of two aligned faces, 0 to 180; lower is more alike.

    As VQFR's metric_paper/calculate_cos_dist.py: the gray image OpenCV reads of a PNG file, resized to 128 x 128 by its
    bilinear filter (which does not antialias), ``(x - 127.5) / 127.5``. VQFR leaves angles under 1 degree out of its
    mean, as copies of the reference; here they count.

    Args:
        device: where the net runs.
        path: ``arcface_resnet18.pth``, or a name of ``lafr weights``.

    Raises:
        lafr_base.weights.MissingWeightsError: the file is not there.
        ValueError: it holds another net.
    """

    def __init__(self, device: torch.device, path: str = "arcface-resnet18") -> None:
        self.net = load_net(ArcFaceResNet18, require(path)).to(device)
        self.device = device

    def embed(self, face: np.ndarray) -> np.ndarray:
        """(H, W, 3) BGR uint8 -> embedding (512,), float64, not normalised."""
        gray = cv2.resize(gray_of_png(face), (128, 128), interpolation=cv2.INTER_LINEAR)
        x = torch.from_numpy((gray.astype(np.float32) - 127.5) / 127.5)[None, None]
        return self.net(x.to(self.device))[0].double().cpu().numpy()

    def __call__(self, pair: ImagePair) -> float:
        """Angle between restored image and reference."""
        restored, reference = pair.arrays
        return angle(self.embed(restored), self.embed(reference))


def gray_of_png(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) BGR uint8 -> (H, W) uint8, what ``cv2.imread(path, 0)`` would give of the image saved as PNG.

    That decoder cuts fractions off, where ``cv2.cvtColor`` rounds: half a level darker.
    """
    _, data = cv2.imencode(".png", image, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_GRAYSCALE))


def angle(a: np.ndarray, b: np.ndarray) -> float:
    """Angle in degrees between two vectors."""
    cosine = float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))
    return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))


def landmark_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Mean Euclidean distance between points (K, 2)."""
    return float(np.sqrt(((a - b) ** 2).sum(1)).mean())


def peaks(heatmaps: np.ndarray) -> np.ndarray:
    """Points (K, 2) of heatmaps (K, H, W): x and y of the highest cell's centre, a quarter towards the next highest.

    As facexlib's ``calculate_points``, which fails with NumPy 1.24 and later, and which at the border of a map takes
    neighbours from its other side, for all points at once.
    """
    count, height, width = heatmaps.shape
    y, x = np.divmod(heatmaps.reshape(count, -1).argmax(axis=1), width)
    padded = np.pad(heatmaps, ((0, 0), (1, 1), (1, 1)), mode="edge")
    index = np.arange(count)
    slope_x = padded[index, y + 1, x + 2] - padded[index, y + 1, x]
    slope_y = padded[index, y + 2, x + 1] - padded[index, y, x + 1]
    return np.stack([x + 0.25 * np.sign(slope_x) + 0.5, y + 0.25 * np.sign(slope_y) + 0.5], axis=1)


class LMD:
    """Landmark distance: mean L2 distance of 98 points in pixels of a 512 px face, not normalised; lower is better.

    As VQFR's metric_paper/calculate_landmark_distance.py, with facexlib's AWing net (Wang et al., ICCV 2019).

    Args:
        device: where the net runs.
        path: ``alignment_WFLW_4HG.pth``, or a name of ``lafr weights``.

    Raises:
        lafr_base.weights.MissingWeightsError: the file is not there.
        ValueError: it holds another net.
    """

    def __init__(self, device: torch.device, path: str = "awing") -> None:
        from facexlib.alignment.awing_arch import FAN

        file = require(path)
        state = read_state(file)
        stacks = sum(name.startswith("conv_last") and name.endswith(".weight") for name in state)
        net = FAN(num_modules=stacks, num_landmarks=98, device=device)
        load_strict(net, state, file)
        self.net = freeze(net).to(device)
        self.device = device

    def landmarks(self, face: np.ndarray) -> np.ndarray:
        """(H, W, 3) BGR uint8 -> 98 points (98, 2), x and y in pixels of a face of side 512."""
        rgb = np.ascontiguousarray(cv2.resize(face, (256, 256))[..., ::-1].transpose(2, 0, 1))
        heatmaps = self.net(torch.from_numpy(rgb)[None].float().to(self.device) / 255)[0][-1][0, :-1]
        return peaks(heatmaps.cpu().numpy()) * _SIDE / _HEATMAP

    def __call__(self, pair: ImagePair) -> float:
        """Distance between restored image and reference."""
        restored, reference = pair.arrays
        return landmark_distance(self.landmarks(restored), self.landmarks(reference))


class Landmarks3DDFA:
    """Mean L2 distance of 68 landmarks of 3DDFA-V2 in pixels of a 512 px face; lower is better.

    Not the field's LMD, but its weights are small and the net is another one than those of the losses d3dfr and CLIP.

    Args:
        device: where the net runs.
        net_path: ``mb05_120x120.pth``, or a name of ``lafr weights``.
        basis_path: ``3ddfa_68_basis.npz``, or a name of ``lafr weights``.

    Raises:
        lafr_base.weights.MissingWeightsError: a file is not there.
        ValueError: a file holds something else.
    """

    def __init__(self, device: torch.device, net_path: str = "3ddfa-v2", basis_path: str = "3ddfa-v2-basis") -> None:
        self.face = freeze(TDDFAFace(require(net_path), require(basis_path))).to(device)

    def landmarks(self, face: Tensor) -> np.ndarray:
        """(1, 3, S, S) RGB in [0, 1] -> 68 points (68, 2), x and y in pixels of a face of side 512."""
        points = self.face.landmarks(face)[0] * (_SIDE / face.shape[-1])
        return points.cpu().numpy()

    def __call__(self, pair: ImagePair) -> float:
        """Distance between restored image and reference."""
        restored, reference = pair.tensors
        return landmark_distance(self.landmarks(restored), self.landmarks(reference))


class IdentitySimilarity:
    """Cosine of the identity embeddings of two faces, -1 to 1; higher is more alike.

    Args:
        path: ``068.ckpt`` of MobileFaceNet_Pytorch, or a name of ``lafr weights``; ``mobilefacenet`` by default.

    Raises:
        lafr_base.weights.MissingWeightsError: the file is not there.
        ValueError: it holds another net.
    """

    def __init__(self, path: str = MOBILEFACENET) -> None:
        self.face = MobileFaceNetFace(path)

    @torch.no_grad()
    def embed(self, face: Tensor) -> Tensor:
        """FFHQ-aligned faces (B, 3, S, S) RGB in [0, 1] -> normalised embeddings (B, 128)."""
        return F.normalize(self.face(face), dim=1)

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """Similarity of each pair of faces (B, 3, S, S) RGB in [0, 1], (B,)."""
        return (self.embed(a) * self.embed(b)).sum(1)


def separation(same: Tensor, different: Tensor, allowed: float = 0.01) -> tuple[float, float]:
    """How well similarities tell pairs of one person from pairs of two.

    Args:
        same: similarities of pairs of the same person, (N,).
        different: of pairs of different persons, (M,).
        allowed: share of the different pairs that may lie above the threshold.

    Returns:
        The threshold, and the share of the same pairs that lies above it.
    """
    threshold = float(torch.quantile(different.double(), 1 - allowed))
    return threshold, float((same > threshold).double().mean())


def _identity(device: torch.device) -> ImageMetric:
    similarity = IdentitySimilarity()
    similarity.face.to(device)
    return lambda pair: similarity(*pair.tensors).item()


add_metric(
    MetricSpec(
        name="deg",
        title="Deg",
        better="lower",
        reference=True,
        variant="degrees between ArcFace ResNet-18 (IRBlock, no SE) embeddings, gray as OpenCV reads PNG files, "
        "bilinear to 128 x 128 without antialiasing; angles under 1 degree are kept in the mean (VQFR drops them)",
        library="own, as VQFR",
        build=Deg,
        weights=("arcface-resnet18",),
        aligned=True,
    )
)
add_metric(
    MetricSpec(
        name="lmd",
        title="LMD",
        better="lower",
        reference=True,
        variant="mean L2 distance of 98 landmarks in pixels of 512, AWing with 4 hourglasses, bilinear to 256 x 256, "
        "not normalised",
        library="facexlib 0.3.0, as VQFR",
        build=LMD,
        weights=("awing",),
        package="facexlib",
        install="pip install facexlib==0.3.0",
        aligned=True,
    )
)
add_metric(
    MetricSpec(
        name="landmarks_3ddfa",
        title="LMD (3DDFA-V2)",
        better="lower",
        reference=True,
        variant="mean L2 distance of 68 landmarks in pixels of 512, 3DDFA-V2 MobileNetV1 x0.5, fixed crop of aligned "
        "faces",
        library="own, as 3DDFA-V2",
        build=Landmarks3DDFA,
        weights=("3ddfa-v2", "3ddfa-v2-basis"),
        aligned=True,
    )
)
add_metric(
    MetricSpec(
        name="identity",
        title="Identity",
        better="higher",
        reference=True,
        variant="cosine of MobileFaceNet embeddings, 112 x 96 crop of aligned faces",
        library="own, as MobileFaceNet_Pytorch",
        build=_identity,
        weights=("mobilefacenet",),
        aligned=True,
    )
)
