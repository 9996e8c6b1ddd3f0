"""Face detectors: :func:`build_detector` gives one by name; ``auto`` is the best whose weights are there.

face          what a detector returns, and what all share
builtin       needs nothing: scikit-image's cascade and this project's alignment net
yunet         OpenCV's YuNet, where its file is found
retinaface    facexlib's RetinaFace, where its weights are found
"""

from __future__ import annotations

import logging

from lafr_base import weights

from .face import Detector, Face, Photo

__all__ = ["DETECTORS", "Detector", "Face", "Photo", "build_detector"]

logger = logging.getLogger(__name__)

DETECTORS = ("auto", "retinaface_resnet50", "yunet", "retinaface_mobile0.25", "builtin")
"""Names that :func:`build_detector` takes; ``auto`` tries the others in this order."""

_WEIGHTS = {
    "retinaface_resnet50": "retinaface-resnet50",
    "yunet": "yunet",
    "retinaface_mobile0.25": "retinaface-mobile0.25",
}
_OTHER_SPELLINGS = {"retinaface": "retinaface_resnet50", "retinaface_mobilenet0.25": "retinaface_mobile0.25"}


def build_detector(name: str = "auto", device: str = "cpu", min_score: float | None = None) -> Detector:
    """Build a face detector.

    Args:
        name: one of :data:`DETECTORS`; case and ``-`` or ``_`` do not matter. ``auto`` downloads nothing, a detector
            named has its weights fetched where they are missing.
        device: torch device; YuNet always runs on the CPU.
        min_score: least confidence, 0 to 1; None for the detector's own.

    Raises:
        ValueError: the name is unknown, as are YOLOv5 and dlib of other projects; the message lists the names.
        lafr_base.weights.WeightsError: its weights are not found and cannot be fetched; the message says how to get
            them.
    """
    chosen = name.lower().replace("-", "_")
    chosen = _OTHER_SPELLINGS.get(chosen, chosen)
    if chosen not in DETECTORS:
        raise ValueError(f"the face detector {name} is not offered; choose one of {', '.join(DETECTORS)}")
    if chosen == "auto":
        found = (other for other in DETECTORS[1:] if other == "builtin" or weights.find(_WEIGHTS[other]) is not None)
        chosen = next(found)
    detector = _build(chosen, device, {} if min_score is None else {"min_score": min_score})
    logger.info("Face detector: %s", detector.name)
    return detector


def _build(name: str, device: str, options: dict[str, float]) -> Detector:
    if name == "builtin":
        from .builtin import BuiltinDetector

        return BuiltinDetector(device, **options)
    path = weights.fetch(_WEIGHTS[name])
    if name == "yunet":
        from .yunet import YuNetDetector

        return YuNetDetector(path, **options)
    from .retinaface import RetinaFaceDetector

    return RetinaFaceDetector(name.removeprefix("retinaface_"), path, device, **options)
