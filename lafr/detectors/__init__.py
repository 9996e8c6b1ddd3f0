"""Face detectors: :func:`build_detector` gives one by name; ``auto`` is the best whose weights are there.

face                  what a detector returns, and what all share
checks                whether a face's points fit each other, its box and the photo
builtin_detector      needs nothing: this project's detection and alignment nets
yunet_detector        OpenCV's YuNet, where its file is found
retinaface_detector   facexlib's RetinaFace, where its weights are found

A module ``*_detector.py`` of this package calls :func:`~lafr.detectors.face.add_detector` for each that it has; nothing
else has to know of it.
"""

from __future__ import annotations

import logging

from lafr.detectors.face import DETECTORS, Detector, DetectorSpec, Face, Picture, add_detector
from lafr_base import weights

__all__ = ["DETECTORS", "Detector", "DetectorSpec", "Face", "Picture", "add_detector", "build_detector", "names"]

logger = logging.getLogger(__name__)


def names() -> list[str]:
    """Names that :func:`build_detector` takes; ``auto`` tries the others in this order."""
    return ["auto", *sorted(DETECTORS, key=lambda name: DETECTORS[name].rank)]


def build_detector(name: str = "auto", device: str = "cpu", min_score: float | None = None) -> Detector:
    """Build a face detector.

    Args:
        name: one of :func:`names`; case and ``-`` or ``_`` do not matter. ``auto`` downloads nothing, a detector named
            has its weights fetched where they are missing.
        device: torch device; YuNet always runs on the CPU.
        min_score: least confidence, 0 to 1; None for the detector's own.

    Raises:
        ValueError: the name is unknown, as are YOLOv5 and dlib of other projects; the message lists the names. Or
            ``min_score`` is not within 0 to 1.
        lafr_base.weights.WeightsError: its weights are not found and cannot be fetched; the message says how to get
            them.
        lafr_base.compat.MissingPackageError: its library is not installed.
    """
    if min_score is not None and not 0 <= min_score <= 1:
        raise ValueError(f"the detection threshold must be within 0 to 1; got {min_score:g}")
    chosen = name.lower().replace("-", "_")
    chosen = next((other for other in DETECTORS if chosen in DETECTORS[other].other_names), chosen)
    if chosen == "auto":
        chosen = next(other for other in names()[1:] if DETECTORS[other].is_ready())
    if chosen not in DETECTORS:
        raise ValueError(f"the face detector {name} is not offered; choose one of {', '.join(names())}")
    spec: DetectorSpec = DETECTORS[chosen]
    path = None if spec.weights is None else weights.fetch(spec.weights)
    detector = spec.build(path, device, {} if min_score is None else {"min_score": min_score})
    logger.info("Face detector: %s", detector.name)
    return detector
