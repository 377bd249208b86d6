"""ChartRaster: a chart at one resolution as a fixed linear map, vertices to position map and back.

Every texel is a weighted sum of three vertices, so a position map is one sparse product (R R x V), made once. The
pixel convention is face3d's and PRNet's: column = u (R - 1), row = (R - 1) - v (R - 1), texel centres at integers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import ceil, floor
from typing import Any, Literal

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

Border = Literal["exact", "face3d"]
Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Int32 = NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class ChartRaster:
    """A chart at one resolution R; made by :meth:`prnbench.uv.UvChart.raster`.

    Attributes
    ----------
    resolution, border
        R, and the rule at the map's border (see :func:`rasterise_chart`).
    corners, weights
        (R, R, 3) int32 vertex ids and float32 weights: texel = sum of weight x vertex.
    triangle
        (R, R) int32 chart triangle, -1 where the chart does not reach; those texels continue the chart
        (``exact``) or are 0 (``face3d``).
    positions
        (V, 2) float64 column and row of each vertex, NaN off the chart.
    mean
        (V, 3) vertices of the mean face, which says what is finer than a texel; None where it is not known.
    """

    resolution: int
    border: Border
    corners: Int32
    weights: Float32
    triangle: Int32
    positions: Float64
    mean: Float32 | None = None

    @property
    def covered(self) -> NDArray[np.bool_]:
        """(R, R) texels that a triangle of the chart covers."""
        return self.triangle >= 0

    @cached_property
    def matrix(self) -> Any:
        """The map as a SciPy CSR matrix (R R, V) float32."""
        from scipy import sparse

        R = self.resolution
        rows = np.arange(0, 3 * R * R + 1, 3)
        entries = (self.weights.ravel(), self.corners.ravel(), rows)
        return sparse.csr_matrix(entries, (R * R, len(self.positions)))

    def position_map(self, vertices: ArrayLike) -> Float32:
        """Position maps (..., R, R, 3) float32 of vertices (..., V, 3); any number of channels is welcome."""
        values = np.ascontiguousarray(vertices, np.float32)
        faces = values.reshape(-1, *values.shape[-2:])
        out = np.empty((len(faces), self.resolution**2, values.shape[-1]), np.float32)
        _gather(faces, self.corners.reshape(-1, 3), self.weights.reshape(-1, 3), out)
        return out.reshape(*values.shape[:-2], self.resolution, self.resolution, values.shape[-1])

    def sample(self, position_map: ArrayLike, where: ArrayLike) -> Float32:
        """Bilinear values of a map at chart positions.

        Parameters
        ----------
        position_map
            (R, R, C).
        where
            (P,) integer vertex ids or (P, 2) chart coordinates u, v.

        Returns
        -------
        (P, C) float32. Texels that the chart does not reach do not count, as long as one of the four does.
        """
        maps = np.ascontiguousarray(position_map, np.float32)
        given = np.asarray(where)
        points = self.positions[given] if given.dtype.kind in "iu" else self._texels(given)
        out = np.empty((len(points), maps.shape[-1]), np.float32)
        counted = np.ones_like(self.covered) if self.border == "exact" else self.covered
        _bilinear(maps, counted, np.ascontiguousarray(points), out)
        return out

    def vertices(self, position_map: ArrayLike) -> Float32:
        """Vertices (V, 3) float32 read back from a position map (R, R, 3); NaN for vertices off the chart.

        Sampled bilinearly; what the texels are too coarse for (lids, rims of lips and nostrils, ears) is what they
        lose of the mean face, moved along by the affine map that takes the mean face to the sampled one.
        """
        sampled = self.sample(position_map, np.arange(len(self.positions)))
        if self.mean is None:
            return sampled
        basis, weights = self._detail
        on = self._on_chart
        return sampled + basis @ (weights @ np.where(on[:, None], sampled, 0))

    @cached_property
    def _on_chart(self) -> NDArray[np.bool_]:
        return ~np.isnan(self.positions[:, 0])

    @cached_property
    def _detail(self) -> tuple[Float32, Float32]:
        """What sampling loses of the mean face (V, 3), and (3, V) to fit the affine map by least squares."""
        assert self.mean is not None
        on = self._on_chart
        centred = (self.mean - self.mean[on].mean(axis=0)) / self.mean[on].std()
        lost = centred - self.sample(self.position_map(np.where(on[:, None], centred, 0)), np.arange(len(on)))
        fit = np.zeros((3, len(on)))
        fit[:, on] = np.linalg.pinv(centred[on].astype(np.float64))
        return np.nan_to_num(lost), fit.astype(np.float32)

    def _texels(self, uv: NDArray[Any]) -> Float64:
        last = self.resolution - 1
        return np.stack([uv[:, 0] * last, last - uv[:, 1] * last], axis=1).astype(np.float64)


def rasterise_chart(
    positions: Float64, triangles: Int32, resolution: int, border: Border, mean: Float32 | None = None
) -> ChartRaster:
    """Find the triangle and weights of each texel; the first triangle that holds a texel takes it.

    Parameters
    ----------
    positions
        (V, 2) column and row of each vertex.
    border
        ``exact``: a texel belongs to the triangle that holds its centre. ``face3d``: as face3d's public renderer
        has it, within two texels of the map's border any triangle whose box holds the texel takes it and
        extrapolates (up to 3 px off), for maps that shall equal those made with it.
    mean
        (V, 3) mean face, for reading vertices back.
    """
    R = resolution
    triangle = np.full((R, R), -1, np.int32)
    weights = np.zeros((R, R, 3), np.float32)
    _locate(positions, triangles, 2 if border == "face3d" else 0, triangle, weights)
    corners = np.where(triangle[..., None] >= 0, triangles[triangle], 0).astype(np.int32)
    raster = ChartRaster(R, border, corners, weights, triangle, positions, mean)
    if border == "face3d":
        return raster
    return ChartRaster(R, border, *_extended(raster, triangles), triangle, positions, mean)


def _extended(raster: ChartRaster, triangles: Int32) -> tuple[Int32, Float32]:
    """Corners and weights that go on where the chart ends, so that maps have no cliff.

    Texels next to the chart continue the plane of the nearest triangle (so that bilinear sampling is right up to
    the chart's edge), unless that is a needle; texels further off repeat the nearest one on the chart.
    """
    covered = raster.covered
    if covered.all() or not covered.any():
        return raster.corners, raster.weights
    from scipy.ndimage import distance_transform_edt

    distance, (rows, columns) = distance_transform_edt(~covered, return_indices=True)
    corners, weights = raster.corners[rows, columns], raster.weights[rows, columns]
    near = ~covered & (distance < 1.5)
    p = raster.positions[triangles[raster.triangle[rows, columns][near]]]
    texel = np.argwhere(near)[:, ::-1]
    plane = np.concatenate([p, np.ones((len(p), 3, 1))], axis=2).transpose(0, 2, 1)
    wanted = np.concatenate([texel, np.ones((len(p), 1))], axis=1)[:, :, None]
    continued = np.linalg.solve(plane, wanted)[:, :, 0]
    tame = np.abs(continued).max(axis=1) < 4
    weights[tuple(np.argwhere(near)[tame].T)] = continued[tame]
    return corners, weights


@njit(nogil=True, cache=True)
def _locate(positions, triangles, border, triangle, weights):  # type: ignore[no-untyped-def]
    R = triangle.shape[0]
    for t in range(triangles.shape[0]):
        x0, y0 = positions[triangles[t, 0]]
        x1, y1 = positions[triangles[t, 1]]
        x2, y2 = positions[triangles[t, 2]]
        left, right = max(ceil(min(x0, x1, x2) - 1e-6), 0), min(floor(max(x0, x1, x2) + 1e-6), R - 1)
        top, bottom = max(ceil(min(y0, y1, y2) - 1e-6), 0), min(floor(max(y0, y1, y2) + 1e-6), R - 1)
        area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
        if not abs(area) > 1e-12:
            continue
        for y in range(top, bottom + 1):
            for x in range(left, right + 1):
                if triangle[y, x] >= 0:
                    continue
                a = ((x1 - x) * (y2 - y) - (x2 - x) * (y1 - y)) / area
                b = ((x2 - x) * (y0 - y) - (x0 - x) * (y2 - y)) / area
                c = 1.0 - a - b
                extrapolates = x < border or x > R - 1 - border or y < border or y > R - 1 - border
                if extrapolates or (a >= -1e-6 and b >= -1e-6 and c >= -1e-6):
                    triangle[y, x] = t
                    weights[y, x, 0] = a
                    weights[y, x, 1] = b
                    weights[y, x, 2] = c


@njit(nogil=True, cache=True)
def _gather(faces, corners, weights, out):  # type: ignore[no-untyped-def]
    channels = faces.shape[2]
    for n in range(faces.shape[0]):
        for t in range(corners.shape[0]):
            i, j, k = corners[t, 0], corners[t, 1], corners[t, 2]
            a, b, c = weights[t, 0], weights[t, 1], weights[t, 2]
            for channel in range(channels):
                total = a * faces[n, i, channel] + b * faces[n, j, channel] + c * faces[n, k, channel]
                out[n, t, channel] = total


@njit(nogil=True, cache=True)
def _bilinear(maps, counted, points, out):  # type: ignore[no-untyped-def]
    R, channels = maps.shape[0], maps.shape[2]
    for p in range(points.shape[0]):
        x, y = points[p, 0], points[p, 1]
        if not (x == x and y == y):
            out[p] = np.nan
            continue
        x, y = min(max(x, 0.0), R - 1.0), min(max(y, 0.0), R - 1.0)
        left, top = min(int(x), R - 2), min(int(y), R - 2)
        fx, fy = x - left, y - top
        a = (1.0 - fx) * (1.0 - fy) * counted[top, left]
        b = fx * (1.0 - fy) * counted[top, left + 1]
        c = (1.0 - fx) * fy * counted[top + 1, left]
        d = fx * fy * counted[top + 1, left + 1]
        total = a + b + c + d
        if total <= 1e-9:
            out[p] = np.nan
            continue
        for channel in range(channels):
            upper = a * maps[top, left, channel] + b * maps[top, left + 1, channel]
            lower = c * maps[top + 1, left, channel] + d * maps[top + 1, left + 1, channel]
            out[p, channel] = (upper + lower) / total
