"""Which landmarks of a face are seen: those that face the camera and are not behind a coarse grid of the face.

The mesh itself would cost more than the rest of a conversion; the two agree on 95 landmarks of 100 or more (a test).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from prnbench.geometry import rotation_from_euler
from prnbench.morphable import MorphableModel
from prnbench.render import rasterise
from prnbench.uv import UvBasis, chart_of

GRID = 16
"""Side of the grid of chart positions that stands for the surface: about 12 mm a cell on a face."""
PICTURE_PX = 64
TOLERANCE_PX = 1.0
"""How far behind the surface a landmark may lie and still be seen: about 3 mm on a face of 200 mm."""


class LandmarkVisibility:
    """Visibility of a face model's 68 landmarks, seen orthographically.

    Parameters
    ----------
    model
        The face model.
    """

    def __init__(self, model: MorphableModel):
        self._surface = UvBasis(model, chart_of(model).raster(GRID))
        corner = np.arange(GRID * GRID, dtype=np.int32).reshape(GRID, GRID)
        a, b, c, d = corner[:-1, :-1], corner[:-1, 1:], corner[1:, :-1], corner[1:, 1:]
        self._triangles = np.concatenate([np.stack(t, -1).reshape(-1, 3) for t in ((a, c, b), (b, c, d))])
        around = model.triangles[np.isin(model.triangles, model.landmarks).any(axis=1)]
        self._ring, corners = np.unique(around, return_inverse=True)
        self._around_F3 = corners.reshape(-1, 3)
        rows = (3 * self._ring[:, None] + np.arange(3)).ravel()
        modes = np.concatenate([model.identity[rows], model.expression[rows]], axis=1)
        self._ring_modes_KX = np.ascontiguousarray(modes.T)
        self._ring_mean = model.mean[self._ring].ravel()
        self._landmarks = np.searchsorted(self._ring, model.landmarks)
        touching = (self._around_F3 == self._landmarks[:, None, None]).any(axis=2)
        self._touching_F68 = np.ascontiguousarray(touching.T, np.float32)

    def __call__(
        self, shape: NDArray[np.float32], expression: NDArray[np.float32], pose: NDArray[np.float32]
    ) -> NDArray[np.bool_]:
        """Whether each landmark is seen: (N, 68) bool.

        Parameters
        ----------
        shape, expression
            (N, Ni), (N, Ne) coefficients.
        pose
            (N, 7) of which the rotation counts.
        """
        with np.errstate(over="ignore", invalid="ignore"):  # absurd coefficients are told of by the position maps
            return self._seen(shape, expression, pose)

    def _seen(
        self, shape: NDArray[np.float32], expression: NDArray[np.float32], pose: NDArray[np.float32]
    ) -> NDArray[np.bool_]:
        N = len(pose)
        turn_N33 = (np.diag([1.0, -1.0, 1.0]) @ rotation_from_euler(pose[:, :3])).astype(np.float32)
        [(_, grids_N3T)] = self._surface.planes(self._surface.coefficients(shape, expression))
        rings = np.concatenate([shape, expression], axis=1) @ self._ring_modes_KX + self._ring_mean
        rings_N3V = turn_N33 @ rings.reshape(N, -1, 3).swapaxes(1, 2)
        return self._facing(rings_N3V) & self._before(turn_N33 @ grids_N3T, rings_N3V[:, :, self._landmarks])

    def _facing(self, rings_N3V: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Whether a triangle around each landmark faces the camera (y is down: its corners then turn clockwise)."""
        (ax, ay), (bx, by), (cx, cy) = (rings_N3V[:, :2, self._around_F3[:, k]].swapaxes(0, 1) for k in range(3))
        turn_NF = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
        facing: NDArray[np.bool_] = (turn_NF < 0).astype(np.float32) @ self._touching_F68 > 0
        return facing

    def _before(self, grids_N3T: NDArray[np.float32], landmarks_N3L: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Whether each landmark is not behind the surface."""
        N = len(grids_N3T)
        low_N2, high_N2 = grids_N3T[:, :2].min(axis=2), grids_N3T[:, :2].max(axis=2)
        scale_N = (PICTURE_PX - 3) / np.maximum((high_N2 - low_N2).max(axis=1), np.float32(1e-30))
        origin_N31 = np.concatenate([low_N2, np.zeros((N, 1), np.float32)], axis=1)[:, :, None]
        fitted, points = ((x - origin_N31) * scale_N[:, None, None] + 1 for x in (grids_N3T, landmarks_N3L))
        meshes = np.ascontiguousarray(fitted.swapaxes(1, 2), np.float32)
        depth = np.stack([rasterise(mesh, self._triangles, PICTURE_PX, PICTURE_PX, cull=True).depth for mesh in meshes])
        column, row = np.clip(np.nan_to_num(points[:, :2]), 0, PICTURE_PX - 2).astype(int).swapaxes(0, 1)
        first = (np.arange(N)[:, None] * PICTURE_PX + row) * PICTURE_PX + column
        flat = depth.ravel()
        nearest = np.minimum(
            np.minimum(flat[first], flat[first + 1]),
            np.minimum(flat[first + PICTURE_PX], flat[first + PICTURE_PX + 1]),
        )
        before: NDArray[np.bool_] = points[:, 2] >= nearest - TOLERANCE_PX
        return before
