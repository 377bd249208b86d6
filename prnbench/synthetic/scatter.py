"""Points spread over the chart at the wanted density, relaxed, and triangulated around lids, lips and ears."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import Delaunay, cKDTree

from prnbench.synthetic.chart import rim_points

Array = NDArray[np.float64]
Ints = NDArray[np.int64]

FINE, _FACE, _HEAD = 1 / 300, 1 / 150, 1 / 84  # spacing on the chart


def _spacing(uv: Array) -> Array:
    """Wanted vertex distance on the chart."""
    x, y = uv.T - 0.5
    fine = (np.hypot((x - 0.125) / 0.10, (y - 0.085) / 0.075) < 1) | ((x < 0.085) & (y > -0.12) & (y < 0.10))
    fine |= np.hypot(x / 0.145, (y + 0.175) / 0.075) < 1
    face = np.hypot(x / 0.40, (y + 0.02) / 0.36) < 1
    return np.where(fine, FINE, np.where(face, _FACE, _HEAD))


def scatter(fixed: Array, holes: list[Array]) -> tuple[Array, int]:
    """Fill the right half with points at the wanted spacing; returns them (fixed ones first) and the fixed count."""
    v = 0.005
    middle = []
    tree = cKDTree(fixed)
    while v < 0.995:
        point = np.array([0.5, v])
        step = float(_spacing(point[None])[0])
        near = tree.query(point)[0]
        if near > 0.55 * step and not any(_inside(point[None], _closed(h))[0] for h in holes):
            middle.append(point)
        v += step
    points = np.concatenate([fixed, np.array(middle)])
    fixed_count = len(points)
    for step in (FINE, _FACE, _HEAD):
        grid = _hexagonal(step)
        grid = grid[np.abs(_spacing(grid) - step) < 1e-12]
        grid = grid[(grid[:, 0] > 0.5 + 0.45 * step) & _within_rim(grid, 0.5 * step)]
        for hole in holes:
            grid = grid[~_inside(grid, _closed(hole))]
        points = np.concatenate([points, grid[cKDTree(points).query(grid)[0] > 0.7 * step]])
    return points, fixed_count


def _closed(hole: Array) -> Array:
    """Polygon of a hole; the mouth's reaches across the midline so that no point falls on it."""
    if np.abs(hole[0, 0] - 0.5) > 1e-9:
        return hole
    return np.concatenate([[[0.4, hole[0, 1]]], hole, [[0.4, hole[-1, 1]]]])


def _hexagonal(step: float) -> Array:
    row = step * np.sqrt(3) / 2
    ys = np.arange(0.0, 1.0, row)
    xs = np.arange(0.5, 1.0, step)
    x, y = np.meshgrid(xs, ys)
    x[1::2] += step / 2
    return np.stack([x.ravel(), y.ravel()], axis=1)


def _within_rim(uv: Array, margin: float) -> NDArray[np.bool_]:
    rim = rim_points(400)
    return _inside(
        uv, np.concatenate([[[0.4, rim[0, 1] + margin]], 0.5 + (rim - 0.5) * (1 - 2 * margin), [[0.4, rim[-1, 1]]]])
    )


def _inside(points: Array, polygon: Array) -> NDArray[np.bool_]:
    inside = np.zeros(len(points), bool)
    x, y = points.T
    for (x0, y0), (x1, y1) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        crosses = (y0 > y) != (y1 > y)
        inside ^= crosses & (x < x0 + (y - y0) * (x1 - x0) / (y1 - y0 if y1 != y0 else 1.0))
    return inside


def skin_triangles(uv: Array, holes: list[Array]) -> Ints:
    """Delaunay triangles (F, 3) of chart points without those inside the holes."""
    triangles = Delaunay(uv).simplices
    centres = uv[triangles].mean(axis=1)
    keep = np.ones(len(triangles), bool)
    for hole in holes:
        keep &= ~_inside(centres, _closed(hole))
    a, b, c = uv[triangles].transpose(1, 0, 2)
    area = np.abs((b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0])
    return np.asarray(triangles[keep & (area > 1e-9)], np.int64)


def relaxed(uv: Array, fixed_count: int, holes: list[Array]) -> Array:
    """Move free points to the mean of their neighbours a few times."""
    from scipy.sparse import coo_matrix

    for _ in range(6):
        t = skin_triangles(uv, holes)
        i, j = np.concatenate([t[:, [0, 1]], t[:, [1, 2]], t[:, [2, 0]]]).T
        links = coo_matrix((np.ones(len(i)), (i, j)), shape=(len(uv), len(uv))).tocsr()
        links = ((links + links.T) > 0).astype(float)
        mean = np.asarray(links @ uv) / np.maximum(np.asarray(links.sum(axis=1)), 1)
        uv = np.concatenate([uv[:fixed_count], 0.4 * uv[fixed_count:] + 0.6 * mean[fixed_count:]])
    return uv
