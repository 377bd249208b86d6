"""The mouth cavity behind the lips: vestibule, gums, teeth, palate, throat and tongue as one swept profile."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator

Array = NDArray[np.float64]

# from the lip's inner edge (0) to the throat (1): position, up (upper half), down (lower half), back, in mm
_PROFILE: Array = np.array([
    # t, upper dy, upper back, lower dy, lower back
    (0.00, 0.0, 0.0, 0.0, 0.0),
    (0.10, 1.2, 2.6, -1.2, 2.6),
    (0.20, 5.0, 3.6, -4.5, 3.6),
    (0.28, 8.6, 4.6, -8.6, 4.4),
    (0.34, 7.6, 5.6, -8.4, 5.6),
    (0.40, 4.6, 5.0, -7.2, 5.2),
    (0.52, 1.4, 4.4, -4.2, 4.9),
    (0.62, -2.9, 4.2, -1.9, 5.0),
    (0.65, -2.9, 5.9, -1.8, 6.6),
    (0.70, 1.5, 7.6, -4.5, 8.4),
    (0.78, 6.0, 11.0, -3.4, 12.0),
    (0.88, 9.0, 22.0, -2.4, 24.0),
    (1.00, -3.0, 42.0, -3.0, 42.0),
])  # fmt: skip
GUM_END, TOOTH_END, TONGUE_START = 0.42, 0.66, 0.74


def cavity(s: Array, t: Array, lip_line: Array) -> Array:
    """Points of the cavity.

    Parameters
    ----------
    s
        (N,) position along the mouth line, 0 in the middle, 1 at the corner.
    t
        (N,) 1 at the upper lip's inner edge, 0 in the throat, -1 at the lower lip's inner edge.
    lip_line
        (N, 3) the point of the closed mouth line at s.
    """
    depth = 1 - np.abs(t)
    dy_up, back_up, dy_low, back_low = (PchipInterpolator(_PROFILE[:, 0], _PROFILE[:, i])(depth) for i in (1, 2, 3, 4))
    upper = t >= 0
    dy, back = np.where(upper, dy_up, dy_low), np.where(upper, back_up, back_low)
    room = np.maximum(1 - np.abs(s) ** 3, 0.0) ** 0.8
    inward = 1 - 0.16 * np.clip(depth / 0.3, 0, 1) * np.abs(s) - 0.25 * np.clip((depth - 0.7) / 0.3, 0, 1)
    arch = 7.0 * np.abs(s) ** 2.2 * np.clip(depth / 0.35, 0, 1)
    out = lip_line.copy()
    out[:, 0] *= inward
    out[:, 1] += dy * room
    out[:, 2] -= back * (0.25 + 0.75 * room) * np.clip(depth / 0.05, 0, 1) + arch * room
    return out
