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

GRID = 24
"""Side of the grid of chart positions that stands for the surface: about 8 mm a cell on a face."""
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
        self._touching_68F = (self._around_F3 == self._landmarks[:, None, None]).any(axis=2)

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
        no_shift = np.zeros((N, 3), np.float32)
        grids = self._surface.maps(self._surface.coefficients(shape, expression), turn_N33, no_shift)
        rings = np.concatenate([shape, expression], axis=1) @ self._ring_modes_KX + self._ring_mean
        rings_NV3 = rings.reshape(N, -1, 3) @ turn_N33.swapaxes(1, 2)
        seen = self._facing(rings_NV3)
        for n, grid in enumerate(grids.reshape(N, -1, 3)):
            seen[n] &= self._before(grid, rings_NV3[n, self._landmarks])
        return seen

    def _facing(self, rings_NV3: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Whether a triangle around each landmark faces the camera (y is down: its corners then turn clockwise)."""
        a, b, c = (rings_NV3[:, self._around_F3[:, k], :2] for k in range(3))
        turn_NF = (b - a)[..., 0] * (c - a)[..., 1] - (b - a)[..., 1] * (c - a)[..., 0]
        facing: NDArray[np.bool_] = (turn_NF < 0).astype(np.float32) @ self._touching_68F.T > 0
        return facing

    def _before(self, grid_V3: NDArray[np.float32], landmarks_683: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Whether each landmark is not behind the surface."""
        low = grid_V3[:, :2].min(axis=0)
        scale = (PICTURE_PX - 3) / max(float((grid_V3[:, :2].max(axis=0) - low).max()), 1e-30)
        origin = np.array([*low, 0.0], np.float32)
        fitted, points = ((values - origin) * np.float32(scale) + 1 for values in (grid_V3, landmarks_683))
        depth = rasterise(fitted, self._triangles, PICTURE_PX, PICTURE_PX).depth
        column, row = np.clip(points[:, :2].astype(int), 0, PICTURE_PX - 2).T
        around = np.stack([depth[row + i, column + j] for i in (0, 1) for j in (0, 1)])
        before: NDArray[np.bool_] = points[:, 2] >= around.min(axis=0) - TOLERANCE_PX
        return before
