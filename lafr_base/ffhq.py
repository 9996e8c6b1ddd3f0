"""How a face lies in an FFHQ-aligned image: the one place that has the template."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FFHQ_SIZE = 512
"""Side in pixels of the image that FFHQ_POINTS are stated for."""

FFHQ_POINTS: NDArray[np.float64] = np.array(
    [
        [192.98138, 239.94708],
        [318.90277, 240.1936],
        [256.63416, 314.01935],
        [201.26117, 371.41043],
        [313.08905, 371.15118],
    ]
)
"""Left eye, right eye, nose, left and right mouth corner, image-left first; x, y in pixels whose centres are whole
numbers (facexlib's FaceRestoreHelper)."""
FFHQ_POINTS.setflags(write=False)
