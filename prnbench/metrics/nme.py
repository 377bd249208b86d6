"""Normalised mean error (NME) of corresponding points: stacked faces in, one float64 a face out."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def box_size(points: ArrayLike) -> Array:
    """Face size sqrt(w h) of points (..., P, 2 or more): geometric mean of their bounding box's sides.

    The box is max - min, neither rounded nor enlarged. Size 0 (all points on an axis-parallel line) becomes
    NaN: nothing can be measured against it.
    """
    xy = np.asarray(points, np.float64)[..., :2]
    size = np.sqrt(np.ptp(xy, axis=-2).prod(axis=-1))
    return np.where(size > 0, size, np.nan)


def align_z(points: ArrayLike, mode: str) -> Array:
    """Points (..., P, 3) with z as it is (``none``), minus its minimum (``min``) or minus its mean (``mean``)."""
    out = np.array(points, np.float64)
    if mode == "min":
        out[..., 2] -= out[..., 2].min(axis=-1, keepdims=True)
    elif mode == "mean":
        out[..., 2] -= out[..., 2].mean(axis=-1, keepdims=True)
    elif mode != "none":
        raise ValueError(f"z_align is none, min or mean, not {mode!r}")
    return out


def nme(predicted: ArrayLike, truth: ArrayLike, size: ArrayLike) -> Array:
    """Mean point distance over face size in per cent: mean_j ||p_j - g_j||_2 / size * 100.

    Parameters
    ----------
    predicted, truth
        (..., P, D) points in the same pixels.
    size
        (...) face sizes of the truth in the same unit, see :func:`box_size`.

    Returns
    -------
    (...) float64
        inf where a prediction is not finite, NaN where the truth or its size is not.

    References
    ----------
    Zhu et al., Face Alignment Across Large Poses, CVPR 2016, section 5.2; PRNet, ECCV 2018, eq. 4.
    """
    # contiguous, so that sums run in one order and a face's value does not depend on its batch
    p, g, s = (np.ascontiguousarray(value, np.float64) for value in (predicted, truth, size))
    with np.errstate(invalid="ignore", over="ignore"):
        error = 100.0 * np.linalg.norm(p - g, axis=-1).mean(axis=-1) / s
    return settled(error, g.sum(axis=(-2, -1)) + s)


def settled(error: ArrayLike, truth: ArrayLike) -> Array:
    """Errors where a non-finite truth gives NaN (not measurable) and any other non-finite value inf (failed)."""
    values = np.asarray(error, np.float64)
    return np.where(np.isfinite(truth), np.where(np.isfinite(values), values, np.inf), np.nan)
