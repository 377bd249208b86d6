"""Mesh topology for charts: boundary loops, holes and their triangulation, pieces of a mesh."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse import csgraph

from prnbench.errors import FaceModelError

Int32 = NDArray[np.int32]
Float64 = NDArray[np.float64]


def boundary_loops(triangles: Int32) -> list[Int32]:
    """Vertex loops along the edges that belong to one triangle only; no loop meets a vertex twice.

    With consistently turned triangles the surface lies to the left of a loop.

    Raises
    ------
    FaceModelError
        An edge belongs to more than two triangles, or two triangles turn against each other: not a surface.
    """
    start, end = directed_edges(triangles).astype(np.int64).T
    V = int(triangles.max()) + 1
    if len(np.unique(start * V + end)) < len(start):
        raise FaceModelError(
            "the mesh is not a surface: an edge has three triangles or triangles turn against each other",
            remedy="remove doubled triangles, or give texture coordinates with the model",
        )
    inner = np.isin(start * V + end, end * V + start)
    following: dict[int, list[int]] = {}
    for a, b in zip(start[~inner].tolist(), end[~inner].tolist(), strict=True):
        following.setdefault(a, []).append(b)
    loops = []
    while following:
        path = [next(iter(following))]
        while path[-1] in following:
            vertex = _take(following, path[-1])
            if vertex in path:  # where holes touch, the path crosses itself: cut the loop off there
                corner = path.index(vertex)
                loops.append(np.array(path[corner:], np.int32))
                path = path[:corner]
            path.append(vertex)
    return loops


def _take(following: dict[int, list[int]], vertex: int) -> int:
    """The next vertex after one, used up."""
    ways = following[vertex]
    if len(ways) == 1:
        del following[vertex]
    return ways.pop()


def directed_edges(triangles: Int32) -> Int32:
    """(3F, 2) edges in the triangles' own direction."""
    return np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]])


def piece_with(triangles: Int32, vertices: Int32) -> Int32:
    """Triangles of the connected piece that holds most of these vertices."""
    edges = directed_edges(triangles)
    V = int(triangles.max()) + 1
    graph = sparse.coo_matrix((np.ones(len(edges), bool), (edges[:, 0], edges[:, 1])), (V, V))
    _, label = csgraph.connected_components(graph, directed=False)
    wanted = np.bincount(label[vertices[vertices < V]]).argmax()
    piece: Int32 = triangles[label[triangles[:, 0]] == wanted]
    return piece


def check_disk(triangles: Int32, loops: list[Int32]) -> None:
    """Refuse a mesh that is not a disk with holes: closed, or with a handle."""
    if not loops:
        raise FaceModelError("the mesh is closed: a chart needs a boundary", remedy="cut it, or give a chart")
    edges = np.sort(directed_edges(triangles), axis=1)
    euler = len(np.unique(triangles)) - len(np.unique(edges, axis=0)) + len(triangles)
    if euler != 2 - len(loops):
        raise FaceModelError(
            f"the mesh is not a disk: Euler characteristic {euler} with {len(loops)} boundary loops, "
            f"expected {2 - len(loops)}",
            remedy="give texture coordinates with the model",
        )


def triangulate_loop(loop: Int32, uv: Float64) -> Int32:
    """Triangles (n - 2, 3) that fill the polygon uv[loop] by cutting its best-shaped ear again and again.

    The loop may turn either way; triangles come out counter-clockwise on the chart.
    """
    ids = list(loop if _area(uv[loop]) > 0 else loop[::-1])
    out = []
    while len(ids) > 3:
        polygon = uv[ids]
        before, after = np.roll(polygon, 1, axis=0), np.roll(polygon, -1, axis=0)
        quality = _ear_quality(before, polygon, after)
        for corner in np.argsort(-quality):
            if quality[corner] <= 0 or not _ear_is_empty(corner, polygon, before, after):
                continue
            break
        else:
            corner = int(np.argmax(quality))  # degenerate polygon: any corner does
        out.append((ids[corner - 1], ids[corner], ids[(corner + 1) % len(ids)]))
        del ids[corner]
    return np.array([*out, tuple(ids)], np.int32)


def _area(polygon: Float64) -> float:
    following = np.roll(polygon, -1, axis=0)
    return float((polygon[:, 0] * following[:, 1] - polygon[:, 1] * following[:, 0]).sum() / 2)


def _cross(a: Float64, b: Float64) -> Float64:
    product: Float64 = a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]
    return product


def _ear_quality(before: Float64, corner: Float64, after: Float64) -> Float64:
    """Signed area over the sum of squared edges: 0 for a needle, negative for a reflex corner."""
    squares = ((corner - before) ** 2 + (after - corner) ** 2 + (before - after) ** 2).sum(axis=1)
    quality: Float64 = _cross(corner - before, after - before) / np.maximum(squares, 1e-300)
    return quality


def _ear_is_empty(index: int, polygon: Float64, before: Float64, after: Float64) -> bool:
    a, b, c = before[index], polygon[index], after[index]
    inside = (_cross(b - a, polygon - a) > 0) & (_cross(c - b, polygon - b) > 0) & (_cross(a - c, polygon - c) > 0)
    return not inside.any()
