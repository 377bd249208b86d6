"""The right ear as loops lofted from its root on the skull over the helix into the concha."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline, PchipInterpolator

Array = NDArray[np.float64]

ORIGIN: Array = np.array([71.0, 11.0, -112.0])
_TILT = np.deg2rad(-11.0)  # the ear's long axis leans back
FORWARD: Array = np.array([0.10, -np.sin(_TILT), np.cos(_TILT)])
UP: Array = np.array([0.0, np.cos(_TILT), np.sin(_TILT)])
OUT: Array = np.array([0.97, 0.0, -0.22])

# loop -> (forward, up, out) in mm at 0 (towards the face), 45, 90 (up), ... 315 degrees
LOOPS: Array = np.array([
    # root on the skull
    [(13, -1, 0), (12, 13, 0), (4, 23, 0), (-6, 18, 0),
     (-9, 0, 0), (-7, -14, 0), (2, -24, 0), (10, -16, 0)],
    # back of the ear, and the cheek in front of the tragus
    [(11, -1, 1.2), (11.5, 15, 2), (3, 27, 4.5), (-10, 22, 7.5),
     (-12.5, 0, 8.5), (-9.5, -17, 6.5), (2, -27, 2.5), (8.5, -17, 1.0)],
    # outer rim
    [(8, -1.5, 4), (9.5, 17, 5), (2, 32, 8.0), (-16, 25, 13.5),
     (-20.5, 0, 16), (-15, -18.5, 12.5), (1, -30.5, 5.5), (7, -18, 2.5)],
    # crest of the helix, lobe, tragus
    [(5.6, -1.5, 6.2), (7.8, 16, 7), (1.5, 31.6, 10.8), (-14.8, 24.4, 16.6),
     (-19.2, 0, 18.8), (-13.2, -17.5, 15), (1.2, -28.5, 8), (6, -17, 4.0)],
    # inner edge of the helix
    [(3.6, -1.2, 5.2), (5.4, 12.8, 5.4), (1, 27.5, 9.6), (-11.8, 20.8, 14.6),
     (-16.2, 0, 16.2), (-11, -15, 13.6), (1, -23, 8), (5, -14, 4.6)],
    # groove between helix and antihelix
    [(2.8, -1.1, 3.4), (4.6, 11.2, 3.6), (0.4, 23.5, 7.6), (-10, 17.8, 12.2),
     (-13.8, 0, 14.0), (-9.8, -13, 12.4), (0.4, -18.5, 8.2), (4.6, -12, 5.0)],
    # ridge of the antihelix, antitragus
    [(2.4, -1, 1.8), (3.6, 9.4, 2.2), (-0.2, 18, 8.6), (-7.6, 14.2, 13.4),
     (-10.8, 0, 15.8), (-7.8, -10.6, 14.2), (0, -14.2, 10.4), (4.2, -9.6, 6.4)],
    # wall of the concha
    [(2.2, -1, 0.2), (3.0, 7.2, 1.2), (-0.4, 12, 4.4), (-5.4, 9.8, 7.8),
     (-8.0, 0, 8.8), (-5.8, -7.8, 8.0), (0, -10.4, 5.8), (3.4, -7.0, 3.0)],
    # floor of the concha
    [(1.6, -1, -0.8), (1.8, 3.8, 0.2), (-0.4, 6.6, 1.6), (-3.2, 5.2, 3.4),
     (-4.6, 0, 4.0), (-3.4, -4.4, 3.4), (-0.2, -5.6, 1.6), (1.8, -3.6, 0.4)],
])  # fmt: skip
CANAL: Array = np.array([0.4, -0.6, -3.0])

RINGS, SIDES = 22, 56


def root() -> Array:
    """(SIDES, 3) points of the root before they are laid onto the skull."""
    return _in_head(_around(LOOPS[0]))


def loft(root_on_skull: Array) -> Array:
    """(RINGS + 1, SIDES, 3) points from the root to the ear canal; the last ring is one point.

    Parameters
    ----------
    root_on_skull
        (SIDES, 3) the points of :func:`root` moved onto the skull.
    """
    loops = np.stack([_in_head(_around(loop)) for loop in LOOPS])
    shift = root_on_skull - loops[0]
    fade = np.array([1.0, 0.75, 0.45, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4])
    loops = loops + fade[:, None, None] * shift
    canal = np.broadcast_to(_in_head(CANAL) + 0.4 * shift.mean(axis=0), loops[:1].shape)
    knots = np.array([0, 1.2, 2.3, 2.9, 3.6, 4.3, 5.1, 6.2, 7.4, 8.4])
    return np.asarray(PchipInterpolator(knots, np.concatenate([loops, canal]))(np.linspace(0, knots[-1], RINGS + 1)))


def _around(loop: Array) -> Array:
    angles = np.linspace(0, 2 * np.pi, 9)
    closed = np.concatenate([loop, loop[:1]])
    return np.asarray(CubicSpline(angles, closed, bc_type="periodic")(np.arange(SIDES) * 2 * np.pi / SIDES))


def _in_head(local: Array) -> Array:
    return ORIGIN + local[..., :1] * FORWARD + local[..., 1:2] * UP + local[..., 2:3] * OUT
