"""Head-pose error: mean absolute error of pitch, yaw and roll."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from prnbench.metrics.nme import settled

LIMIT_DEG = 99.0
"""Faces with a true angle beyond this are left out, by the convention of the head-pose papers (Hopenet, FSA-Net)."""


def pose_mae(predicted_deg: ArrayLike, truth_deg: ArrayLike, limit_deg: float = LIMIT_DEG) -> NDArray[np.float64]:
    """Mean over the three angles (..., 3) of |predicted - truth| in degrees, without wrapping.

    NaN where a true angle is missing or outside [-limit, limit]; inf where a prediction is not finite.
    """
    p, g = np.asarray(predicted_deg, np.float64), np.asarray(truth_deg, np.float64)
    inside = (np.abs(g) <= limit_deg).all(axis=-1)
    with np.errstate(invalid="ignore"):
        return settled(np.abs(p - g).mean(axis=-1), np.where(inside, 0.0, np.nan))
