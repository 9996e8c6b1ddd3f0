"""3D face models behind the structure loss: a regressor, the linear model its coefficients drive, and their crop.

Both take FFHQ-aligned faces, so the crop is fixed and everything from the image to the points has a gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from lafr_arch.d3dfr_arch import COEFFICIENTS, D3DFRNet
from lafr_arch.mobilenetv1_arch import MobileNetV1
from lafr_base.geometry import FFHQ_POINTS, FFHQ_SIZE
from lafr_losses.common import full_precision, load_net, resize

FEATURES = ("landmarks68", "vertices", "coeff")


def _check_square(images: Tensor) -> int:
    height, width = images.shape[-2:]
    if height != width:
        raise ValueError(f"the structure loss needs square FFHQ-aligned faces, got {width} x {height} pixels")
    return height


def _centred(points: Tensor) -> Tensor:
    return points - points.mean(dim=-2, keepdim=True)


def _deviation(points: Tensor, mean_face: Tensor) -> Tensor:
    """Centre the points, take the mean face away, divide by its radius, flatten: (B, K, 3) -> (B, 3K).

    Without the subtraction all faces look alike: 1 - cos between two persons is 0.004 (D3DFR) or 0.05 (3DDFA-V2)
    instead of 0.18 or 0.74. The radius (root mean square) makes the l2 distance free of the model's units.
    """
    mean_face = _centred(mean_face)
    radius = mean_face.square().sum(dim=1).mean().sqrt()
    return ((_centred(points) - mean_face) / radius).flatten(1)


@dataclass(frozen=True)
class BaselFaceModel:
    """Linear face model of Deep3DFaceRecon: ``mean + id @ id_base + exp @ exp_base``, N vertices.

    Attributes:
        mean: (N, 3), centred on the mean of its vertices.
        id_base: (80, N, 3).
        exp_base: (64, N, 3).
        keypoints: (68,) vertex numbers from 0.
    """

    mean: Tensor
    id_base: Tensor
    exp_base: Tensor
    keypoints: Tensor


def load_bfm(path: Path) -> BaselFaceModel:
    """Read ``BFM_model_front.mat`` (N = 35,709), or a file of its layout.

    Raises:
        ValueError: it is no MATLAB file, an array is missing or of another shape, or a keypoint is out of range.
    """
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        arrays = loadmat(path)
    except (MatReadError, NotImplementedError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as BFM_model_front.mat: {error}") from error
    size = np.size(arrays.get("meanshape", ()))
    identities, expressions = COEFFICIENTS[:2]
    shapes = {
        "meanshape": (1, size),
        "idBase": (size, identities),
        "exBase": (size, expressions),
        "keypoints": (1, 68),
    }
    for key, shape in shapes.items():
        found = np.shape(arrays[key]) if key in arrays else None
        if found != shape or size == 0 or size % 3:
            raise ValueError(f"{path} is not BFM_model_front.mat: {key} should be {shape}, is {found or 'missing'}")
    mean = torch.from_numpy(arrays["meanshape"].astype(np.float32)).view(-1, 3)
    keypoints = torch.from_numpy(arrays["keypoints"].astype(np.int64)).flatten() - 1
    if keypoints.min() < 0 or keypoints.max() >= len(mean):
        raise ValueError(f"{path}: keypoints should be vertex numbers from 1 to {len(mean)}")

    def base(key: str) -> Tensor:
        return torch.from_numpy(arrays[key].astype(np.float32)).T.reshape(-1, len(mean), 3)

    return BaselFaceModel(mean - mean.mean(dim=0), base("idBase"), base("exBase"), keypoints)


def rotation(angles: Tensor) -> Tensor:
    """Angles (B, 3) about x, y, z in radians -> matrices (B, 3, 3) to be multiplied from the right: (Rz Ry Rx)^T."""
    (cx, cy, cz), (sx, sy, sz) = angles.cos().unbind(1), angles.sin().unbind(1)
    zero, one = torch.zeros_like(cx), torch.ones_like(cx)

    def matrix(*entries: Tensor) -> Tensor:
        return torch.stack(entries, dim=1).view(-1, 3, 3)

    about_x = matrix(one, zero, zero, zero, cx, -sx, zero, sx, cx)
    about_y = matrix(cy, zero, sy, zero, one, zero, -sy, zero, cy)
    about_z = matrix(cz, -sz, zero, sz, cz, zero, zero, zero, one)
    return (about_z @ about_y @ about_x).transpose(1, 2)


class D3DFRFace(nn.Module):
    """Deep3DFaceRecon: ResNet-50 and the Basel Face Model.

    Args:
        net_path: ``epoch_20.pth`` (entry ``net_recon``).
        bfm_path: ``BFM_model_front.mat``.

    Raises:
        ValueError: a file holds something else.
    """

    # The original aligns by least squares on five points, cuts with PIL and has no gradient. For the FFHQ template its
    # formulas give this: resize to 258, rows 36 to 260 (2 of them below the image), columns 17 to 241.
    SIZE, TOP, LEFT, CROP = 258, 36, 17, 224
    CAMERA_DISTANCE, FOCAL = 10.0, 1015.0

    mean: Tensor
    id_base: Tensor
    exp_base: Tensor
    keypoints: Tensor

    def __init__(self, net_path: Path, bfm_path: Path) -> None:
        super().__init__()
        self.net = load_net(D3DFRNet, net_path, "net_recon")
        bfm = load_bfm(bfm_path)
        for name in ("mean", "id_base", "exp_base", "keypoints"):
            self.register_buffer(name, getattr(bfm, name), persistent=False)

    def crop(self, images: Tensor) -> Tensor:
        """FFHQ-aligned faces (B, 3, S, S) RGB in [0, 1] -> (B, 3, 224, 224), what the original would cut out.

        Within 0.3 / 255 of its PIL path; black below the image, as PIL leaves it.
        """
        _check_square(images)
        below = self.TOP + self.CROP - self.SIZE
        x = F.pad(resize(images, self.SIZE), (0, 0, 0, below))
        return x[..., self.TOP : self.TOP + self.CROP, self.LEFT : self.LEFT + self.CROP]

    def coefficients(self, images: Tensor) -> Tensor:
        """FFHQ-aligned faces (B, 3, S, S) RGB in [0, 1] -> coefficients (B, 257)."""
        return self.net(self.crop(full_precision(images)))

    def _points(self, coefficients: Tensor, index: Tensor | slice) -> Tensor:
        identity, expression, _, angle, *_ = coefficients.split(COEFFICIENTS, dim=1)
        shape = self.mean[index] + torch.einsum("bi,ikc->bkc", identity, self.id_base[:, index])
        shape = shape + torch.einsum("bi,ikc->bkc", expression, self.exp_base[:, index])
        return shape @ rotation(angle)

    def feature(self, coefficients: Tensor, kind: str) -> Tensor:
        """Coefficients (B, 257) -> what the loss compares, (B, F).

        ``landmarks68`` and ``vertices``: turned points relative to the mean face; ``coeff``: identity, expression and
        angle as they are.
        """
        if kind == "coeff":
            identity, expression, _, angle, *_ = coefficients.split(COEFFICIENTS, dim=1)
            return torch.cat([identity, expression, angle], dim=1)
        index: Tensor | slice = self.keypoints if kind == "landmarks68" else slice(None)
        return _deviation(self._points(coefficients, index), self.mean[index])

    def landmarks(self, images: Tensor) -> Tensor:
        """FFHQ-aligned faces (B, 3, S, S) RGB in [0, 1] -> 68 points (B, 68, 2), x and y in pixels of the image."""
        coefficients = self.coefficients(images)
        camera = self._points(coefficients, self.keypoints) + coefficients[:, None, -3:]
        plane = self.FOCAL * camera[..., :2] / (self.CAMERA_DISTANCE - camera[..., 2:])
        x = plane[..., 0] + self.CROP / 2 + self.LEFT
        y = self.CROP / 2 - 1 - plane[..., 1] + self.TOP
        # Pixel centres of the resized image to those of the given one.
        return (torch.stack([x, y], dim=-1) + 0.5) * images.shape[-1] / self.SIZE - 0.5


class TDDFAFace(nn.Module):
    """3DDFA-V2: MobileNetV1 and the 68 keypoints of its shape model.

    Args:
        net_path: ``mb05_120x120.pth``.
        basis_path: ``3ddfa_68_basis.npz``: ``u`` (204, 1), ``w_shp`` (204, 40), ``w_exp`` (204, 10), and ``mean`` and
            ``std`` (62,) of the parameters.

    Raises:
        ValueError: a file holds something else.
    """

    # Where a face lies at FFHQ_SIZE: left, top, right, bottom; the bottom reaches below the image.
    BOX = (66, 170, 446, 550)
    CROP = 120
    SHAPES = {"u": (204, 1), "w_shp": (204, 40), "w_exp": (204, 10), "mean": (62,), "std": (62,)}
    # Where iBUG's 68 points have the five of FFHQ_POINTS.
    FIVE = ((36, 37, 38, 39, 40, 41), (42, 43, 44, 45, 46, 47), (30,), (48,), (54,))

    u: Tensor
    w_shp: Tensor
    w_exp: Tensor
    mean: Tensor
    std: Tensor
    mean_face: Tensor

    def __init__(self, net_path: Path, basis_path: Path) -> None:
        super().__init__()
        self.net = load_net(MobileNetV1, net_path)
        with np.load(basis_path, allow_pickle=False) as arrays:
            basis = {key: arrays[key].astype(np.float32) for key in self.SHAPES if key in arrays}
        for key, shape in self.SHAPES.items():
            found = basis[key].shape if key in basis else None
            if found != shape:
                raise ValueError(f"{basis_path}: {key} should be {shape}, is {found or 'missing'}")
        for key, array in basis.items():
            self.register_buffer(key, torch.from_numpy(array), persistent=False)
        self.register_buffer("mean_face", self._frontal_mean_face(), persistent=False)

    def _frontal_mean_face(self) -> Tensor:
        """Model's mean shape (68, 3), upright, as large in the crop as FFHQ's template (least squares)."""
        shape = self.u.view(68, 3)
        five = _centred(torch.stack([shape[list(index), :2].mean(dim=0) for index in self.FIVE]))
        template = _centred(torch.tensor(FFHQ_POINTS, dtype=torch.float32)) * self.CROP / (self.BOX[2] - self.BOX[0])
        template = template * torch.tensor([1.0, -1.0])  # the model's y points up
        return shape * (five * template).sum() / five.square().sum()

    def _box(self, size: int) -> list[int]:
        return [round(edge * size / FFHQ_SIZE) for edge in self.BOX]

    def crop(self, images: Tensor) -> Tensor:
        """FFHQ-aligned faces (B, 3, S, S) RGB in [0, 1] -> (B, 3, 120, 120), RGB; black below the image."""
        size = _check_square(images)
        left, top, right, bottom = self._box(size)
        x = F.pad(images, (0, 0, 0, max(0, bottom - size)))
        return resize(x[..., top:bottom, left:right], self.CROP)

    def coefficients(self, images: Tensor) -> Tensor:
        """FFHQ-aligned faces (B, 3, S, S) RGB in [0, 1] -> normalised parameters (B, 62)."""
        bgr = self.crop(full_precision(images)).flip(1)
        return self.net((255 * bgr - 127.5) / 128)

    def _points(self, coefficients: Tensor) -> tuple[Tensor, Tensor]:
        """Points without their offset (B, 68, 3), and the offset (B, 1, 3); in pixels of the crop, y upwards."""
        pose, shape, expression = (coefficients * self.std + self.mean).split((12, 40, 10), dim=1)
        pose = pose.view(-1, 3, 4)
        flat = self.u[:, 0] + shape @ self.w_shp.T + expression @ self.w_exp.T
        return flat.view(-1, 68, 3) @ pose[..., :3].transpose(1, 2), pose[:, None, :, 3]

    def feature(self, coefficients: Tensor, kind: str) -> Tensor:
        """Parameters (B, 62) -> what the loss compares, (B, F).

        ``landmarks68``: posed points relative to the upright mean face; ``coeff``: the normalised parameters but for
        the position in the crop. There are no other vertices.
        """
        if kind == "coeff":
            pose, others = coefficients.split((12, 50), dim=1)
            return torch.cat([pose.view(-1, 3, 4)[..., :3].flatten(1), others], dim=1)
        return _deviation(self._points(coefficients)[0], self.mean_face)

    def landmarks(self, images: Tensor) -> Tensor:
        """FFHQ-aligned faces (B, 3, S, S) RGB in [0, 1] -> 68 points (B, 68, 2), x and y in pixels of the image."""
        turned, offset = self._points(self.coefficients(images))
        points = turned + offset
        left, top, right, bottom = self._box(images.shape[-1])
        # The original's arithmetic, with its step from MATLAB's pixel numbers.
        x = (points[..., 0] - 1) * (right - left) / self.CROP + left
        y = (self.CROP - points[..., 1]) * (bottom - top) / self.CROP + top
        return torch.stack([x, y], dim=-1)
