"""Cumulative error distribution (CED), its area (AUC) and failure rates; failed faces count as infinite error."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

THRESHOLDS = (5.0, 7.0, 8.0, 10.0)
"""Thresholds of AUC and failure rate, in the error's unit."""


def ced(errors: ArrayLike, levels: ArrayLike) -> Array:
    """Share of faces in per cent whose error is at most each level: (L,) for errors (N,) without NaN."""
    ordered = np.sort(np.asarray(errors, np.float64))
    return 100.0 * np.searchsorted(ordered, np.asarray(levels, np.float64), side="right") / len(ordered)


def auc(errors: ArrayLike, threshold: float) -> float:
    """Area under the CED from 0 to ``threshold`` as per cent of the possible; exact, not by sampling the curve.

    The CED is a step function, so its integral is the mean over faces of max(0, threshold - error).
    """
    e = np.asarray(errors, np.float64)
    return float(100.0 * np.clip(1.0 - e / threshold, 0.0, None).mean())


def failure_rate(errors: ArrayLike, threshold: float) -> float:
    """Share of faces in per cent whose error is above ``threshold`` or that have no prediction."""
    return float(100.0 * np.mean(np.asarray(errors, np.float64) > threshold))
