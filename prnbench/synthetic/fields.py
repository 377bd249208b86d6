"""Displacement fields: soft strokes in millimetres, and how eye balls and mouth cavity follow the skin."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from prnbench.synthetic import anatomy, mouth
from prnbench.synthetic.mesh import LID_SIDES, HeadMesh

Array = NDArray[np.float64]

SKIN, EYE, MOUTH, EAR = range(4)
# centre, motion at the centre, radius; all in mm
Stroke = tuple[Sequence[float], Sequence[float], float]


def smoothstep(x: Array) -> Array:
    """0 below 0, 1 above 1, smooth between."""
    t = np.clip(x, 0.0, 1.0)
    return t * t * (3 - 2 * t)


def stroke(points: Array, centre: Array, motion: Array, radius: float) -> Array:
    """(N, 3) displacement that is ``motion`` at the centre and fades as a Gaussian of the radius."""
    squared = ((points - np.asarray(centre)) ** 2).sum(axis=1)
    return np.asarray(np.exp(-0.5 * squared / radius**2)[:, None] * np.asarray(motion, float))


def strokes(points: Array, wanted: Sequence[Stroke], side: int = 0) -> Array:
    """Sum of strokes. Side 0: centres with x > 0 get their mirror image too; 1 or -1: that side only."""
    out = np.zeros_like(points)
    for centre, motion, radius in wanted:
        sides: tuple[int, ...] = (side,) if side else ((1, -1) if centre[0] else (1,))
        for s in sides:
            out += stroke(points, np.multiply(centre, (s, 1.0, 1.0)), np.multiply(motion, (s, 1.0, 1.0)), radius)
    return out


class Rig:
    """The mean mesh with the places that fields are looked up at.

    ``opened`` are the vertices with the lips held apart, so that a stroke on one lip leaves the other alone.
    """

    def __init__(self, mesh: HeadMesh) -> None:
        self.mesh = mesh
        self.points = mesh.vertices
        self.lower, self.lip_share = self._lip_sides()
        self.opened = self.points.copy()
        self.opened[:, 1] += np.where(self.lower, -9.0, 9.0) * self.lip_share
        self.on_ball = (mesh.part == EYE) & (mesh.local[:, 0] < 1.9)

    def _lip_sides(self) -> tuple[NDArray[np.bool_], Array]:
        """Which vertices belong to the lower lip's side, and 1 at the lips fading to 0 away from them."""
        x, y, z = self.points.T
        line = np.interp(np.abs(x), anatomy.LIP_X, anatomy.MOUTH_LINE_Y)
        from prnbench.synthetic.chart import MouthSlit

        slit = MouthSlit()
        lower = self.mesh.uv[:, 1] < slit.line(self.mesh.uv[:, 0])
        across = smoothstep((anatomy.MOUTH_CORNER_X + 0.6 - np.abs(x)) / 10)
        near = np.exp(-((np.abs(y - line) / 16) ** 2)) * smoothstep((z + 60) / 25)
        share = np.where(self.mesh.part == MOUTH, across, across * near)
        return lower, share

    def with_balls(self, field: Array) -> Array:
        """Let each eye ball move and grow as one, as its lids' margin does: the least-squares shift and scale."""
        out = field.copy()
        for ring in self._lid_rings():
            side = np.sign(self.points[ring[0], 0])
            ball = self.on_ball & (np.sign(self.points[:, 0]) == side)
            middle = self.points[ring].mean(axis=0)
            offset = self.points[ring] - middle
            moved = field[ring].mean(axis=0)
            growth = (offset * (field[ring] - moved)).sum() / (offset**2).sum()
            out[ball] = moved + growth * (self.points[ball] - middle)
        return out

    def follow_lids(self, field: Array) -> Array:
        """Keep the balls still and let the inside of the lids follow their margin."""
        out = field.copy()
        eye = self.mesh.part == EYE
        out[eye] = 0.0
        for lid in self._lid_rings():
            ring_field = field[lid]
            inside = np.flatnonzero(eye & (np.sign(self.points[:, 0]) == np.sign(self.points[lid[0], 0])))
            rows = inside[: (len(inside) - 1) // LID_SIDES * LID_SIDES].reshape(-1, LID_SIDES)
            share = 1 - np.clip(3.0 - self.mesh.local[rows, 0], 0, 1)
            share[self.on_ball[rows]] = 0.0
            out[rows] = share[..., None] * ring_field
        return out

    def _lid_rings(self) -> list[NDArray[np.int64]]:
        ring = np.arange(LID_SIDES)
        return [ring, self.mesh.mirror[ring]]

    def follow_lips(self, field: Array, jaw: Array) -> Array:
        """Let the cavity's front follow the lips, its upper teeth the skull and its lower teeth the jaw."""
        out = field.copy()
        cavity = np.flatnonzero(self.mesh.part == MOUTH)
        t = self.mesh.local[cavity, 1]
        depth = 1 - np.abs(t)
        carried = jaw[cavity] * smoothstep((-t + 0.02) / 0.25)[:, None]
        lip = smoothstep(1 - depth / 0.26)[:, None]
        out[cavity] = lip * field[cavity] + (1 - lip) * carried
        return out


def gum_and_teeth(mesh: HeadMesh) -> tuple[Array, Array, Array]:
    """(V,) shares of gum, tooth and tongue in the mouth cavity."""
    depth = np.where(mesh.part == MOUTH, 1 - np.abs(mesh.local[:, 1]), 0.0)
    tooth = smoothstep((depth - mouth.GUM_END) / 0.05) * smoothstep((mouth.TOOTH_END - depth) / 0.03)
    gum = smoothstep((depth - 0.28) / 0.06) * (1 - smoothstep((depth - mouth.GUM_END) / 0.05))
    tongue = smoothstep((depth - mouth.TONGUE_START) / 0.05) * (mesh.local[:, 1] < 0)
    return gum, tooth, tongue
