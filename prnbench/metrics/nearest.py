"""Nearest points of a cloud that lies on a surface: a uniform grid, exact, compiled.

Queries of one alignment move little from one iteration to the next, so the previous neighbour bounds the search:
only the cells within its distance are looked at. On face-like surfaces this is several times faster than a k-d tree.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import ArrayLike, NDArray

Float64 = NDArray[np.float64]
Int32 = NDArray[np.int32]

_MOST_CELLS = 1 << 22


class PointGrid(NamedTuple):
    """Points sorted by the cell of a uniform grid.

    Attributes
    ----------
    origin
        (3,) lowest corner.
    cell
        Side of a cell.
    shape
        (3,) number of cells along z, y, x.
    starts
        (cells + 1,) first point of each cell; x runs fastest, so that cells along x are one range of points.
    points
        (P, 3) in cell order.
    order
        (P,) original index of each point.
    """

    origin: Float64
    cell: float
    shape: NDArray[np.int64]
    starts: Int32
    points: Float64
    order: Int32


def point_grid(points: ArrayLike) -> PointGrid:
    """Sort points (P, 3) into a grid with about 16 points per occupied cell, for points spread over a surface.

    Smaller cells help queries nearer than the points' spacing, larger ones those farther away; this is in between.
    """
    p = np.ascontiguousarray(points, np.float64)
    low = p.min(axis=0)
    extent = np.maximum(p.max(axis=0) - low, 1e-12)
    two_largest = np.sort(extent)[1:]
    cell = 4.0 * float(np.sqrt(two_largest.prod() / len(p)))
    cell = max(cell, float(np.cbrt(extent.prod() / _MOST_CELLS)), float(extent.max()) / 1000)
    shape = (extent / cell).astype(np.int64)[::-1] + 1
    starts, order = _sort_by_cell(p, low, cell, shape)
    return PointGrid(low, cell, shape, starts, p[order], order)


def nearest(grid: PointGrid, queries: ArrayLike) -> tuple[Float64, Int32]:
    """Distance (N,) and original index (N,) of the point nearest to each query (N, 3)."""
    q = np.ascontiguousarray(queries, np.float64)
    hint = np.full(len(q), -1, np.int32)
    squared = np.empty(len(q))
    nearest_from(q, *grid[:5], hint, squared)
    return np.sqrt(squared), grid.order[hint]


@numba.njit(cache=True, nogil=True)
def nearest_from(queries, origin, cell, shape, starts, points, hint, squared):  # type: ignore[no-untyped-def]
    """Replace ``hint`` (N,) int32 (positions in cell order, -1: none) by the nearest, ``squared`` by its distance^2."""
    last = 0
    for i in range(len(queries)):
        start = hint[i]
        if start < 0:  # neighbours in the list are often neighbours in space
            start = _any_near(queries[i], origin, cell, shape, starts)
            if _squared(queries[i], points[last]) < _squared(queries[i], points[start]):
                start = last
        last, squared[i] = _nearest_one(queries[i], origin, cell, shape, starts, points, start)
        hint[i] = last


@numba.njit(cache=True, nogil=True, inline="always")
def _squared(p, q):  # type: ignore[no-untyped-def]
    return (p[0] - q[0]) ** 2 + (p[1] - q[1]) ** 2 + (p[2] - q[2]) ** 2


@numba.njit(cache=True, nogil=True)
def _any_near(q, origin, cell, shape, starts):  # type: ignore[no-untyped-def]
    """Some point in the smallest cube of cells around a query that holds one."""
    depth, height, width = shape
    cx = _clamp((q[0] - origin[0]) / cell, width)
    cy = _clamp((q[1] - origin[1]) / cell, height)
    cz = _clamp((q[2] - origin[2]) / cell, depth)
    for ring in range(max(depth, height, width)):
        left, right = max(cx - ring, 0), min(cx + ring, width - 1)
        for kz in range(max(cz - ring, 0), min(cz + ring, depth - 1) + 1):
            for ky in range(max(cy - ring, 0), min(cy + ring, height - 1) + 1):
                row = (kz * height + ky) * width
                if starts[row + left] < starts[row + right + 1]:
                    return starts[row + left]
    return 0


@numba.njit(cache=True, nogil=True, inline="always")
def _nearest_one(q, origin, cell, shape, starts, points, start):  # type: ignore[no-untyped-def]
    x, y, z = q[0], q[1], q[2]
    dx, dy, dz = points[start, 0] - x, points[start, 1] - y, points[start, 2] - z
    best, found = dx * dx + dy * dy + dz * dz, start
    radius = np.sqrt(best)
    depth, height, width = shape
    cx, cy, cz = (x - origin[0]) / cell, (y - origin[1]) / cell, (z - origin[2]) / cell
    reach = radius / cell
    z_low, z_high = _clamp(cz - reach, depth), _clamp(cz + reach, depth)
    y_low, y_high = _clamp(cy - reach, height), _clamp(cy + reach, height)
    for kz in range(z_low, z_high + 1):
        gap_z = max(kz - cz, cz - kz - 1.0, 0.0) * cell
        for ky in range(y_low, y_high + 1):
            gap_y = max(ky - cy, cy - ky - 1.0, 0.0) * cell
            left = best - gap_z * gap_z - gap_y * gap_y
            if left < 0.0:
                continue
            reach = np.sqrt(left) / cell
            row = (kz * height + ky) * width
            first = starts[row + _clamp(cx - reach, width)]
            stop = starts[row + _clamp(cx + reach, width) + 1]
            for k in range(first, stop):
                dx, dy, dz = points[k, 0] - x, points[k, 1] - y, points[k, 2] - z
                d = dx * dx + dy * dy + dz * dz
                if d < best:
                    best, found = d, k
    return found, best


@numba.njit(cache=True, nogil=True, inline="always")
def _clamp(position, count):  # type: ignore[no-untyped-def]
    return min(max(int(np.floor(position)), 0), count - 1)


@numba.njit(cache=True, nogil=True)
def _sort_by_cell(points, origin, cell, shape):  # type: ignore[no-untyped-def]
    depth, height, width = shape
    cells = np.empty(len(points), np.int64)
    starts = np.zeros(depth * height * width + 1, np.int32)
    for i in range(len(points)):
        kx = _clamp((points[i, 0] - origin[0]) / cell, width)
        ky = _clamp((points[i, 1] - origin[1]) / cell, height)
        kz = _clamp((points[i, 2] - origin[2]) / cell, depth)
        cells[i] = (kz * height + ky) * width + kx
        starts[cells[i] + 1] += 1
    for c in range(len(starts) - 1):
        starts[c + 1] += starts[c]
    order = np.empty(len(points), np.int32)
    filled = starts[:-1].copy()
    for i in range(len(points)):
        order[filled[cells[i]]] = i
        filled[cells[i]] += 1
    return starts, order
