"""The built-in head's own chart: directions from a point inside the head <-> (u, v) in the unit square.

Directions are laid out azimuthally about +z (polar angle psi from the face's axis, azimuth phi about it), with
more room near the middle of the face, and the disk is then eased into a rounded square. The mouth slit is opened
to a lens so that the mouth cavity has its own room between the lips.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline

from prnbench.synthetic.anatomy import LIP_X, MOUTH_CORNER_X, MOUTH_LINE_Y

Array = NDArray[np.float64]

CENTRE: Array = np.array([0.0, 10.0, -100.0])
_EASE = np.deg2rad(105.0)
_SPAN = 0.495
# azimuth in degrees from straight down -> polar angle of the rim (neck, then behind the ears, then the crown)
_RIM_AZIMUTH = np.deg2rad([-180, -140, -110, -70, -45, -25, 0, 25, 45, 70, 110, 140, 180])
_RIM_POLAR = np.deg2rad([124, 124, 123, 120, 111, 98, 88, 98, 111, 120, 123, 124, 124])
_rim = CubicSpline(_RIM_AZIMUTH, _RIM_POLAR, bc_type="periodic")

MOUTH_HALF_HEIGHT = 0.026
MOUTH_REACH = 0.16


def _eased(psi: Array) -> Array:
    """Radius of a polar angle: steep in the middle of the face, flat behind the ears; 1 at 124 degrees."""
    return np.asarray((1 - np.exp(-psi / _EASE)) / (1 - np.exp(-np.deg2rad(124) / _EASE)))


def _polar_of(radius: Array) -> Array:
    return np.asarray(-_EASE * np.log(np.maximum(1 - radius * (1 - np.exp(-np.deg2rad(124) / _EASE)), 1e-9)))


def _rim_radii(phi: Array) -> tuple[Array, Array]:
    """Radius of the rim before and after the disk is eased into a rounded square, by azimuth."""
    from_down = np.mod(phi + np.pi / 2 + np.pi, 2 * np.pi) - np.pi
    square = (np.abs(np.cos(phi)) ** 5 + np.abs(np.sin(phi)) ** 5) ** (-1 / 5)
    return _eased(_rim(from_down)), square


def disk_to_directions(uv: Array) -> Array:
    """(N, 3) unit directions of chart points (N, 2), before the mouth lens is opened."""
    x, y = ((uv - 0.5) / _SPAN).T
    phi, target = np.arctan2(y, x), np.hypot(x, y)
    rim, square = _rim_radii(phi)
    k = (square / rim - 1) / rim**2
    r = np.minimum(target, rim)
    for _ in range(12):  # r + k r^3 = target
        r = r - (r + k * r**3 - target) / (1 + 3 * k * r**2)
    psi = _polar_of(r)
    return np.stack([np.sin(psi) * np.cos(phi), np.sin(psi) * np.sin(phi), np.cos(psi)], axis=1)


def directions_to_disk(directions: Array) -> Array:
    """(N, 2) chart points of directions (N, 3), before the mouth lens is opened."""
    d = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    phi, psi = np.arctan2(d[:, 1], d[:, 0]), np.arccos(np.clip(d[:, 2], -1, 1))
    rim, square = _rim_radii(phi)
    r = _eased(psi)
    r = r + (square / rim - 1) / rim**2 * r**3
    return 0.5 + _SPAN * np.stack([r * np.cos(phi), r * np.sin(phi)], axis=1)


def points_to_disk(points: Array) -> Array:
    """(N, 2) chart points of 3-D points (N, 3) near the surface, before the mouth lens is opened."""
    return directions_to_disk(points - CENTRE)


def rim_points(count: int) -> Array:
    """(count, 2) chart points of the right half of the rim, from the middle of the neck to the crown."""
    phi = np.linspace(-np.pi / 2, np.pi / 2, count)
    square = _rim_radii(phi)[1]
    return 0.5 + _SPAN * np.stack([square * np.cos(phi), square * np.sin(phi)], axis=1)


class MouthSlit:
    """The contact line of the lips on the chart, and the lens that it is opened to."""

    def __init__(self) -> None:
        z = np.interp(LIP_X, [0, 7, 17, 25], [-15.6, -16.4, -22.0, -28.7])
        line = points_to_disk(np.stack([LIP_X, MOUTH_LINE_Y, z], axis=1))
        self.corner = float(line[-1, 0] - 0.5)
        u = np.concatenate([0.5 - (line[:0:-1, 0] - 0.5), line[:, 0]])
        self._line = CubicSpline(u, np.concatenate([line[:0:-1, 1], line[:, 1]]))
        self._x = CubicSpline(u, np.concatenate([-LIP_X[:0:-1], LIP_X]))

    def line(self, u: Array) -> Array:
        """Height v of the closed mouth line at u."""
        return np.asarray(self._line(np.clip(u, 0.5 - self.corner, 0.5 + self.corner)), np.float64)

    def x_mm(self, u: Array) -> Array:
        """Lateral position in mm of a point of the mouth line."""
        return np.asarray(np.clip(np.asarray(self._x(u)), -MOUTH_CORNER_X, MOUTH_CORNER_X))

    def half_height(self, u: Array) -> Array:
        """Half the height of the lens at u."""
        s = np.clip(np.abs(u - 0.5) / self.corner, 0, 1)
        return MOUTH_HALF_HEIGHT * np.sqrt(1 - s**2)

    def close(self, uv: Array) -> Array:
        """Chart points outside the lens as points of the disk, where the lens is a line."""
        below_or_above = uv[:, 1] - self.line(uv[:, 0])
        h = self.half_height(uv[:, 0])
        distance = np.abs(below_or_above)
        shrunk = np.maximum(distance - h, 0) / (1 - h / MOUTH_REACH)
        closed = np.where(distance < MOUTH_REACH, np.sign(below_or_above) * shrunk, below_or_above)
        return np.stack([uv[:, 0], self.line(uv[:, 0]) + closed], axis=1)

    def open(self, disk: Array) -> Array:
        """Points of the disk as chart points; points on the line itself go to its upper side."""
        offset = disk[:, 1] - self.line(disk[:, 0])
        h = self.half_height(disk[:, 0])
        distance = np.abs(offset)
        grown = np.where(offset < 0, -1.0, 1.0) * (h + distance * (1 - h / MOUTH_REACH))
        opened = np.where(distance < MOUTH_REACH, grown, offset)
        return np.stack([disk[:, 0], self.line(disk[:, 0]) + opened], axis=1)
