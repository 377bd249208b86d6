"""The skin of the mean head as a function of direction: thin plates through the sections, then nose, lips and lids.

Large forms are a radial thin-plate spline through the anatomical control points; the features of the face are
height fields over the frontal plane, joined by smooth maxima.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline, PchipInterpolator, RBFInterpolator, RectBivariateSpline

from prnbench.synthetic import anatomy
from prnbench.synthetic.chart import CENTRE

Array = NDArray[np.float64]

LID_THICKNESS_MM = 1.5


def control_points() -> Array:
    """(N, 3) points of both halves that the large form runs through."""
    right = [(x, y, z) for y, row in anatomy.SECTIONS.items() for x, z in row]
    right += [tuple(p) for p in anatomy.JAW_AND_NECK]
    half = np.array(right, float)
    middle = np.stack([np.zeros(len(anatomy.MIDLINE)), *anatomy.MIDLINE.T], axis=1)
    return np.concatenate([middle, half, half * (-1, 1, 1)])


def smooth_max(a: Array, b: Array, k: float | Array) -> Array:
    """Maximum with a fillet of size k."""
    h = np.maximum(k - np.abs(a - b), 0.0) / k
    return np.maximum(a, b) + h * h * k / 4


def bump(x: Array, y: Array, centre: tuple[float, float], size: tuple[float, float], turn_deg: float = 0.0) -> Array:
    """Smooth bump of height 1 at the centre; size holds the half-widths at height 0.6."""
    c, s = np.cos(np.deg2rad(turn_deg)), np.sin(np.deg2rad(turn_deg))
    dx, dy = x - centre[0], y - centre[1]
    return np.asarray(np.exp(-0.5 * (((c * dx + s * dy) / size[0]) ** 2 + ((c * dy - s * dx) / size[1]) ** 2)))


def distance_to_curve(x: Array, y: Array, curve: Array) -> tuple[Array, Array]:
    """Distance to a densely sampled curve (K, 2) and the arc position 0..1 of the nearest sample."""
    from scipy.spatial import cKDTree

    distance, nearest = cKDTree(curve).query(np.stack([x, y], axis=1))
    return distance, nearest / (len(curve) - 1)


def crease(x: Array, y: Array, knots: Sequence[tuple[float, float]], width: float, fade: float = 0.25) -> Array:
    """Groove of depth 1 along a curve through the knots, fading out towards its ends."""
    points = np.array(knots, float)
    t = np.linspace(0, 1, len(points))
    curve = CubicSpline(t, points)(np.linspace(0, 1, 160))
    distance, along = distance_to_curve(x, y, curve)
    ends = np.clip(np.minimum(along, 1 - along) / fade, 0, 1)
    return np.exp(-0.5 * (distance / width) ** 2) * ends * ends * (3 - 2 * ends)


class HeadSurface:
    """The mean skin. Calling it with directions (N, 3) gives points (N, 3) in mm."""

    def __init__(self) -> None:
        points = control_points()
        offset = points - CENTRE
        radius = np.linalg.norm(offset, axis=1)
        self._radius = RBFInterpolator(
            offset / radius[:, None], radius, kernel="thin_plate_spline", smoothing=1.2e-2, degree=1
        )

    def base(self, directions: Array) -> Array:
        """Points of the large form, without nose, lips and lids."""
        return np.asarray(CENTRE + directions * np.asarray(self._radius(directions))[:, None])

    def __call__(self, directions: Array) -> Array:
        """(N, 3) points of the skin in directions (N, 3)."""
        points = self.base(directions)
        front = (directions[:, 2] > 0.35) & (points[:, 1] > -75) & (points[:, 1] < 75)
        points[front] = features(points[front])
        return points


def features(points: Array) -> Array:
    """Add eye lids, lips, folds and the nose to points (N, 3) of the large form's front."""
    p = points.copy()
    p[:, 2] = lids(np.abs(p[:, 0]), p[:, 1], p[:, 2])
    p[:, 2] += lips(np.abs(p[:, 0]), p[:, 1]) + folds(np.abs(p[:, 0]), p[:, 1])
    p[:, 2] = nose(np.abs(p[:, 0]), p[:, 1], p[:, 2])
    return nostrils(p)


def eyeball_height(x: Array, y: Array, radius: float) -> Array:
    """Height z of the right eye's sphere of some radius, falling off steeply outside its outline."""
    cx, cy, cz = anatomy.EYE_CENTRE
    squared = (x - cx) ** 2 + (y - cy) ** 2
    cap = 0.97 * radius
    inside = np.sqrt(np.maximum(radius**2 - np.minimum(squared, cap**2), 0))
    return np.asarray(cz + inside - np.maximum(np.sqrt(squared) - cap, 0) * 4)


def lids(x: Array, y: Array, base: Array) -> Array:
    """Lay the lids over the eye ball, with the fold above and the soft bag below."""
    z = smooth_max(base, eyeball_height(x, y, anatomy.EYE_RADIUS_MM + LID_THICKNESS_MM), 7.0)
    fold = [(19, 33.0), (23, 37.2), (29, 39.6), (35, 40.0), (41, 38.6), (46, 35), (50, 31)]
    z = z - 1.3 * crease(x, y, fold, 0.85)
    z = z + 1.2 * bump(x, y, (36, 44.5), (11, 2.8), -12)
    bag = [(20, 24.5), (26, 20.8), (33, 19.5), (40, 20.4), (47, 24)]
    z = z - 0.7 * crease(x, y, bag, 1.5)
    return z + 0.5 * bump(x, y, (32, 23.4), (9, 1.5), 3)


def lips(x: Array, y: Array) -> Array:
    """Height of the closed lips over the large form."""
    u = np.minimum(x, anatomy.MOUTH_CORNER_X)
    line, upper, lower = (
        CubicSpline(anatomy.LIP_X, ys, bc_type=((1, 0.0), (2, 0.0)))(u)
        for ys in (anatomy.MOUTH_LINE_Y, anatomy.UPPER_LIP_Y, anatomy.LOWER_LIP_Y)
    )
    s = u / anatomy.MOUTH_CORNER_X
    taper = np.maximum(1 - s**2.4, 0.0) ** 0.75
    above = np.maximum(y - line, 0) / np.maximum(upper - line, 1.5)
    below = np.maximum(line - y, 0) / np.maximum(line - lower, 1.5)
    profile_up = PchipInterpolator(
        [0, 0.08, 0.22, 0.42, 0.65, 0.88, 1.0, 1.25, 1.8, 2.6, 40],
        [-4.6, -1.6, 1.2, 3.1, 3.8, 3.4, 2.7, 1.7, 0.6, 0, 0],
    )
    profile_low = PchipInterpolator(
        [0, 0.08, 0.2, 0.4, 0.6, 0.82, 1.0, 1.3, 1.7, 2.4, 40], [-4.6, -1.7, 1.2, 3.4, 4.0, 3.2, 1.6, 0.2, 0, 0, 0]
    )
    middle_dip = 1 - 0.12 * bump(x, y, (0, -34), (3.2, 6))
    height = np.where(y >= line, profile_up(above) * middle_dip, profile_low(below))
    beyond = np.exp(-(np.maximum(x - anatomy.MOUTH_CORNER_X, 0) ** 2) / 6)
    pit = -1.6 * bump(x, y, (26.2, -39.2), (2.2, 2.4))
    return np.asarray(height * taper * beyond + pit)


def folds(x: Array, y: Array) -> Array:
    """Philtrum, nasolabial fold, the chin's furrow and the soft forms of cheek and chin."""
    z = 1.0 * crease(x, y, [(3.4, -17), (4.0, -21), (5.2, -25.5), (6.4, -29)], 1.5, 0.3)
    z = z - 1.1 * bump(x, y, (0, -23.5), (2.6, 4.2))
    z = z - 1.2 * crease(x, y, [(18.5, -6), (22, -14), (27, -23), (32, -33), (33.5, -41)], 2.2, 0.35)
    z = z + 1.0 * bump(x, y, (33, -17), (9, 9), -40)
    z = z - 0.8 * crease(x, y, [(-18, -51.5), (-10, -54), (0, -54.5), (10, -54), (18, -51.5)], 2.8, 0.25)
    return z + 0.6 * bump(x, y, (30, -44), (5, 6))


def nose(x: Array, y: Array, base: Array) -> Array:
    """Join dorsum, tip, wings and columella to the face."""
    columns = np.concatenate([-anatomy.NOSE_X[:0:-1], anatomy.NOSE_X])
    table = np.concatenate([anatomy.NOSE_Z[:, :0:-1], anatomy.NOSE_Z], axis=1)[::-1]
    spline = RectBivariateSpline(anatomy.NOSE_Y[::-1], columns, table)
    top, bottom, side = anatomy.NOSE_Y[0], anatomy.NOSE_Y[-1], anatomy.NOSE_X[-1]
    form = spline.ev(np.clip(y, bottom, top), np.clip(x, 0, side))
    form = form - 0.15 * np.maximum(y - top, 0) ** 2 - 2 * np.maximum(bottom - y, 0) - 2 * np.maximum(x - side, 0)
    form = form + 0.7 * bump(x, y, (13.6, -7.5), (3.6, 4.2))
    z = smooth_max(base, form, 2.2)
    groove = crease(x, y, [(9.0, 1.5), (12.5, 1.8), (16.4, -1.2), (18.7, -6.5), (18.0, -12.5)], 1.4, 0.3)
    return z - 1.1 * groove


def nostrils(points: Array) -> Array:
    """Push the nostrils into the underside of the nose."""
    p = points.copy()
    x = np.abs(p[:, 0])
    squared = _turned(x - 6.9, p[:, 1] + 11.4, 24.0, 4.2, 2.4)
    depth = np.clip(1.25 - squared, 0, 1)
    depth = depth * depth * (3 - 2 * depth)
    p[:, 1] += 4.2 * depth
    p[:, 2] -= 7.5 * depth
    return p


def _turned(dx: Array, dy: Array, degrees: float, a: float, b: float) -> Array:
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return np.asarray(((c * dx + s * dy) / a) ** 2 + ((c * dy - s * dx) / b) ** 2)
