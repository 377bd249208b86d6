"""Triangle surfaces: triangles of a position map, normals, rim, and exact distances from points to a surface."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import ArrayLike, NDArray

Float64 = NDArray[np.float64]
Int32 = NDArray[np.int32]

_CELLS_PER_SIDE = 200


def grid_triangles(texels: NDArray[np.int64], width: int) -> Int32:
    """Triangles (F, 3) between neighbouring texels (flat ids) of a map, as indices into ``texels``.

    Every square of four texels that all belong gives two triangles.
    """
    height = int(texels.max()) // width + 2
    index = np.full((height + 1, width + 1), -1, np.int64)
    index[texels // width, texels % width] = np.arange(len(texels))
    a, b, c, d = index[:-1, :-1], index[:-1, 1:], index[1:, :-1], index[1:, 1:]
    whole = (a >= 0) & (b >= 0) & (c >= 0) & (d >= 0)
    a, b, c, d = (corner[whole] for corner in (a, b, c, d))
    return np.concatenate([np.stack([a, c, b], axis=1), np.stack([b, c, d], axis=1)]).astype(np.int32)


def rim_of(triangles: Int32, vertex_count: int) -> NDArray[np.bool_]:
    """(V,) vertices on the border of a surface: on an edge of one triangle only, or on none."""
    t = np.sort(np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]]), axis=1)
    keys, counts = np.unique(t[:, 0].astype(np.int64) * vertex_count + t[:, 1], return_counts=True)
    rim = np.ones(vertex_count, bool)
    rim[triangles] = False
    lonely = keys[counts == 1]
    rim[lonely // vertex_count] = True
    rim[lonely % vertex_count] = True
    return rim


def vertex_normals(vertices: ArrayLike, triangles: Int32) -> Float64:
    """Unit normals (V, 3), averaged over the triangles of a vertex by their areas; 0 where there is no area."""
    return np.asarray(_vertex_normals(np.ascontiguousarray(vertices, np.float64), triangles))


def cloud_normals(points: ArrayLike, neighbours: int = 10) -> Float64:
    """Unit normals (P, 3) of a cloud without triangles: direction of least spread of nearby points; sign arbitrary."""
    from scipy.spatial import cKDTree

    p = np.asarray(points, np.float64)
    near = p[cKDTree(p).query(p, min(neighbours, len(p)))[1]]
    centred = near - near.mean(axis=1, keepdims=True)
    directions: Float64 = np.linalg.eigh(np.einsum("nki,nkj->nij", centred, centred))[1][:, :, 0]
    return directions


def distance_to_surface(
    points: ArrayLike, vertices: ArrayLike, triangles: Int32, bound: ArrayLike | None = None
) -> Float64:
    """Distance (N,) from points to the nearest point of a surface: on a triangle, an edge or a vertex. Exact.

    ``bound`` (N,) is a distance known not to be exceeded, such as that to the nearest vertex; it shortens the search.
    Triangles lie in every cell of a uniform grid that their box touches; cells within the best distance are searched.

    Raises
    ------
    ValueError
        A point is not finite.
    """
    p, v = np.ascontiguousarray(points, np.float64), np.ascontiguousarray(vertices, np.float64)
    if not np.isfinite(p).all():
        raise ValueError("points are not finite")
    used = v[np.unique(triangles)]
    low, extent = used.min(axis=0), np.maximum(np.ptp(used, axis=0), 1e-12)
    mean_edge = float(np.linalg.norm(v[triangles[:, 0]] - v[triangles[:, 1]], axis=1).mean())
    cell = max(1.5 * mean_edge, float(extent.max()) / _CELLS_PER_SIDE)
    shape = (extent / cell).astype(np.int64) + 1
    starts, members = _triangle_cells(v, triangles, low, cell, shape)
    limit = np.full(len(p), np.inf) if bound is None else np.asarray(bound, np.float64)
    return np.asarray(_surface_distances(p, v, triangles, low, cell, shape, starts, members, limit))


@numba.njit(cache=True, nogil=True)
def _vertex_normals(vertices, triangles):  # type: ignore[no-untyped-def]
    normals = np.zeros((len(vertices), 3))
    for f in range(len(triangles)):
        i, j, k = triangles[f, 0], triangles[f, 1], triangles[f, 2]
        ax, ay, az = vertices[j, 0] - vertices[i, 0], vertices[j, 1] - vertices[i, 1], vertices[j, 2] - vertices[i, 2]
        bx, by, bz = vertices[k, 0] - vertices[i, 0], vertices[k, 1] - vertices[i, 1], vertices[k, 2] - vertices[i, 2]
        nx, ny, nz = ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx
        for vertex in (i, j, k):
            normals[vertex, 0] += nx
            normals[vertex, 1] += ny
            normals[vertex, 2] += nz
    for v in range(len(normals)):
        length = np.sqrt(normals[v, 0] ** 2 + normals[v, 1] ** 2 + normals[v, 2] ** 2)
        if length > 0.0:
            normals[v] /= length
    return normals


@numba.njit(cache=True, nogil=True, inline="always")
def _cell(position, low, cell, count):  # type: ignore[no-untyped-def]
    return min(max(int(np.floor((position - low) / cell)), 0), count - 1)


@numba.njit(cache=True, nogil=True)
def _triangle_cells(vertices, triangles, low, cell, shape):  # type: ignore[no-untyped-def]
    """Triangles of each cell, those whose bounding box touches it, as one list with the start of each cell."""
    box = np.empty((len(triangles), 6), np.int32)
    starts = np.zeros(shape[0] * shape[1] * shape[2] + 1, np.int64)
    for fill in range(2):
        if fill == 1:
            for c in range(len(starts) - 1):
                starts[c + 1] += starts[c]
            members = np.empty(starts[-1], np.int32)
            filled = starts[:-1].copy()
        for f in range(len(triangles)):
            if fill == 0:
                for axis in range(3):
                    a, b, c = (
                        vertices[triangles[f, 0], axis],
                        vertices[triangles[f, 1], axis],
                        vertices[triangles[f, 2], axis],
                    )
                    box[f, axis] = _cell(min(a, b, c), low[axis], cell, shape[axis])
                    box[f, 3 + axis] = _cell(max(a, b, c), low[axis], cell, shape[axis])
            for x in range(box[f, 0], box[f, 3] + 1):
                for y in range(box[f, 1], box[f, 4] + 1):
                    for z in range(box[f, 2], box[f, 5] + 1):
                        at = (x * shape[1] + y) * shape[2] + z
                        if fill == 0:
                            starts[at + 1] += 1
                        else:
                            members[filled[at]] = f
                            filled[at] += 1
    return starts, members


@numba.njit(cache=True, nogil=True)
def _surface_distances(points, vertices, triangles, low, cell, shape, starts, members, bound):  # type: ignore[no-untyped-def]
    out = np.empty(len(points))
    seen = np.full(len(triangles), -1, np.int32)
    first, last = np.empty(3, np.int64), np.empty(3, np.int64)
    for i in range(len(points)):
        best, radius, enough = bound[i] * bound[i], 0.0, False
        while True:  # the point's own cell first, which mostly holds the nearest triangle, then all that may be nearer
            for axis in range(3):
                first[axis] = _cell(points[i, axis] - radius, low[axis], cell, shape[axis])
                last[axis] = _cell(points[i, axis] + radius, low[axis], cell, shape[axis])
            for x in range(first[0], last[0] + 1):
                for y in range(first[1], last[1] + 1):
                    for z in range(first[2], last[2] + 1):
                        at = (x * shape[1] + y) * shape[2] + z
                        for k in range(starts[at], starts[at + 1]):
                            f = members[k]
                            if seen[f] != i:
                                seen[f] = i
                                best = min(best, _to_triangle(points[i], vertices, triangles[f]))
            if enough:
                break
            enough = best < np.inf
            radius = np.sqrt(best) if enough else max(2.0 * radius, cell)
        out[i] = np.sqrt(best)
    return out


@numba.njit(cache=True, nogil=True)
def _to_triangle(q, vertices, corner):  # type: ignore[no-untyped-def]
    """Squared distance from a point to a triangle, by the region of the plane it falls into (Ericson 2005, 5.1.5)."""
    a0, a1, a2 = vertices[corner[0], 0], vertices[corner[0], 1], vertices[corner[0], 2]
    abx, aby, abz = vertices[corner[1], 0] - a0, vertices[corner[1], 1] - a1, vertices[corner[1], 2] - a2
    acx, acy, acz = vertices[corner[2], 0] - a0, vertices[corner[2], 1] - a1, vertices[corner[2], 2] - a2
    apx, apy, apz = q[0] - a0, q[1] - a1, q[2] - a2
    d1, d2 = abx * apx + aby * apy + abz * apz, acx * apx + acy * apy + acz * apz
    ab, ac, mixed = (
        abx * abx + aby * aby + abz * abz,
        acx * acx + acy * acy + acz * acz,
        abx * acx + aby * acy + abz * acz,
    )
    d3, d4 = d1 - ab, d2 - mixed
    d5, d6 = d1 - mixed, d2 - ac
    s = t = 0.0  # nearest point: a + s ab + t ac
    vc, vb, va = d1 * d4 - d3 * d2, d5 * d2 - d1 * d6, d3 * d6 - d5 * d4
    if d1 <= 0.0 and d2 <= 0.0:
        pass
    elif d3 >= 0.0 and d4 <= d3:
        s = 1.0
    elif vc <= 0.0 and d1 >= 0.0 and d3 <= 0.0:
        s = d1 / ab if ab > 0.0 else 0.0
    elif d6 >= 0.0 and d5 <= d6:
        t = 1.0
    elif vb <= 0.0 and d2 >= 0.0 and d6 <= 0.0:
        t = d2 / ac if ac > 0.0 else 0.0
    elif va <= 0.0 and d4 - d3 >= 0.0 and d5 - d6 >= 0.0:
        w = d4 - d3 + (d5 - d6)
        t = (d4 - d3) / w if w > 0.0 else 0.0
        s = 1.0 - t
    else:
        total = va + vb + vc
        s, t = vb / total, vc / total
    x, y, z = apx - s * abx - t * acx, apy - s * aby - t * acy, apz - s * abz - t * acz
    return x * x + y * y + z * z
