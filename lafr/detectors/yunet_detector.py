"""YuNet through OpenCV (face_detection_yunet_2023mar.onnx of opencv_zoo, or its authors' yunet_n_dynamic.onnx)."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from lafr.detectors.face import (
    OVERLAP,
    DetectorSpec,
    Face,
    Picture,
    add_detector,
    check_photo,
    find_turned,
    rescale_face,
    resize_to,
    settle,
)

SEARCH_PIXELS = (2_000_000, 100_000)
"""The net finds faces of 10 to 300 pixels: it looks at two sizes of the photo, so that portraits are found too."""
QUICK_PIXELS = 60_000
"""Turned faces of a photo with upright ones are found from a 25th of its side: 35 ms of one CPU core a photo."""


class YuNetDetector:
    """OpenCV's FaceDetectorYN.

    Args:
        weights: the ONNX file.
        min_score: least confidence, 0 to 1.

    Raises:
        ValueError: OpenCV cannot read ``weights``; the message names it.
    """

    name = "yunet"

    def __init__(self, weights: Path, min_score: float = 0.8) -> None:
        self._min_score = min_score
        try:
            self._net = cv2.FaceDetectorYN.create(str(weights), "", (320, 320), min_score, 0.3, 5000)
        except cv2.error as error:
            raise ValueError(f"{weights} is not a YuNet that OpenCV {cv2.__version__} can read: {error}") from error

    def detect(self, img: Picture) -> list[Face]:
        """Find the faces of a BGR photo; see :class:`lafr.detectors.face.Detector`."""
        if not check_photo(img):
            return []
        copies = [resize_to(img, pixels) for pixels in SEARCH_PIXELS]
        faces: list[Face] = []
        for small in copies if copies[0].shape != copies[1].shape else copies[:1]:
            faces += [rescale_face(face, small, img) for face in self._search(small)]
        return settle(find_turned(img, self._search, self._min_score, faces, QUICK_PIXELS), img, OVERLAP)

    def _search(self, picture: Picture) -> list[Face]:
        """Find the upright faces of a picture at its size."""
        self._net.setInputSize(picture.shape[1::-1])
        _, rows = self._net.detect(picture)
        faces = []
        for row in rows if rows is not None else ():
            box = np.concatenate([row[:2], row[:2] + row[2:4]])
            faces.append(Face(box, row[4:14].reshape(5, 2), float(row[14])))
        return faces


add_detector(
    DetectorSpec(
        name="yunet",
        rank=20,
        weights="yunet",
        build=lambda path, _, options: YuNetDetector(path, **options),  # type: ignore[arg-type]
    )
)
