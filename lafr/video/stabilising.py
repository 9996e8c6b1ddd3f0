"""Restored faces that do not flicker: each is averaged with those before it, along the motion of the face.

A network restores each frame for itself. Noise and compression differ from frame to frame, and so does what it makes
of them: the detail swims. In aligned crops a face stands nearly still; what is left of its motion, of the mouth and the
eyes above all, is measured by optical flow (DIS: Kroeger et al., 2016) between the crops as they came. The restored
face before is carried along it, and the new one is averaged with it where the crops agree: not where a hand comes in
front, and not where an eye opened.

An average of pictures that differ in detail is softer than each of them. The detail's strength is therefore brought
back to what the network gives, in two bands.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

MEMORY = 0.85
"""Share of the faces before in the average, where the crops agree: of a still face the noise falls to 28 % of it."""

_FLOW_SIDE = 128  # pixels a side in which flow is measured
_AGREE_SIGMA = 0.02  # Gaussian sigma, as a share of the side, of what is compared
_TOLERANCE = 2.5  # in units of the difference that noise makes: where crops differ so much, they no longer agree
_LEAST_NOISE = 2 / 255
_BANDS = (0.004, 0.016)  # Gaussian sigmas, as shares of the side, that bound the two bands of detail
_MOST_GAIN = 1.6
_GAIN_MEMORY = 0.8  # of the gains: they must not flicker either
_CENTRE = 0.2  # share of the side that is left out on each side where strengths are measured: the face lies within


@dataclass
class Stabiliser:
    """Averages the faces of one track.

    Attributes:
        memory: 0 to below 1; see `MEMORY`. 0 changes nothing.
    """

    memory: float = MEMORY
    _crop: np.ndarray | None = None
    _face: np.ndarray | None = None
    _gains: tuple[float, ...] = (1.0, 1.0)

    def step(self, crop: np.ndarray, face: np.ndarray) -> np.ndarray:
        """Take in the next face.

        Args:
            crop: (S, S, 3) BGR, uint8 or uint16: the aligned face as it came.
            face: (S, S, 3) of the same type: as it was restored.

        Returns:
            (S, S, 3) of the same type.
        """
        top = float(np.iinfo(face.dtype).max)
        new_crop, new_face = crop.astype(np.float32) / top, face.astype(np.float32) / top
        if self._crop is None or self._face is None or self._crop.shape != new_crop.shape or not self.memory:
            self._crop, self._face = new_crop, new_face
            return face
        grid = _carry(self._crop, new_crop)
        old_crop = cv2.remap(self._crop, *grid, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
        old_face = cv2.remap(self._face, *grid, cv2.INTER_LANCZOS4, borderMode=cv2.BORDER_REFLECT)
        share = self.memory * _agreement(old_crop, new_crop)
        mean = new_face + share[..., None] * (old_face - new_face)
        self._crop, self._face = new_crop, mean
        return np.rint(np.clip(self._sharpened(mean, new_face), 0, 1) * top).astype(face.dtype)

    def _sharpened(self, mean: np.ndarray, face: np.ndarray) -> np.ndarray:
        """Bring the bands of an averaged face to the strength that they have in the face alone."""
        low, bands = _split(mean)
        wanted = [_strength(band) for band in _split(face)[1]]
        gains = [min(max(w / max(_strength(b), 1e-6), 1.0), _MOST_GAIN) for w, b in zip(wanted, bands, strict=True)]
        self._gains = tuple(
            _GAIN_MEMORY * old + (1 - _GAIN_MEMORY) * new for old, new in zip(self._gains, gains, strict=True)
        )
        for gain, band in zip(self._gains, bands, strict=True):
            low = low + np.float32(gain) * band
        return low


def _carry(before: np.ndarray, after: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return where in one crop (S, S, 3) float32 each pixel of the next lies: x and y, (S, S) float32 each."""
    size = before.shape[0]
    small = [
        np.rint(cv2.GaussianBlur(cv2.resize(gray, (_FLOW_SIDE, _FLOW_SIDE), interpolation=cv2.INTER_AREA), (0, 0), 1.0))
        .clip(0, 255)
        .astype(np.uint8)
        for gray in (255 * cv2.cvtColor(crop, cv2.COLOR_BGR2GRAY) for crop in (after, before))
    ]
    flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(small[0], small[1], None)
    flow = cv2.GaussianBlur(flow, (0, 0), _FLOW_SIDE / 32)  # the motion of skin is smooth; that of noise is not
    flow = cv2.resize(flow, (size, size), interpolation=cv2.INTER_LINEAR) * (size / _FLOW_SIDE)
    ys, xs = np.mgrid[:size, :size].astype(np.float32)
    return xs + flow[..., 0], ys + flow[..., 1]


def _agreement(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Return (S, S) float32: 1 where two crops show the same, 0 where they do not."""
    size = before.shape[0]
    difference = np.abs(cv2.GaussianBlur(after - before, (0, 0), _AGREE_SIGMA * size)).max(axis=2)
    noise = max(float(np.median(_centre(difference))), _LEAST_NOISE)
    return np.exp(-np.square(np.maximum(difference - noise, 0) / (_TOLERANCE * noise)))


def _split(face: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """Split a face into what is coarse and two bands of detail, the finer one first."""
    size = face.shape[0]
    fine, coarse = (cv2.GaussianBlur(face, (0, 0), sigma * size) for sigma in _BANDS)
    return coarse, [face - fine, fine - coarse]


def _strength(band: np.ndarray) -> float:
    return float(_centre(band).std())


def _centre(picture: np.ndarray) -> np.ndarray:
    size = picture.shape[0]
    edge = round(_CENTRE * size)
    return picture[edge : size - edge, edge : size - edge]
