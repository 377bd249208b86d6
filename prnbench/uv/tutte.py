"""Tutte embedding: any disk-like mesh onto a convex chart without a flipped triangle, by one sparse solve.

Tutte 1963, "How to draw a graph"; mean-value weights after Floater 2003, "Mean value coordinates", eq. 2.1. With
positive weights and a convex boundary every inner vertex is the weighted mean of its neighbours, and no triangle
is flipped.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.linalg import splu

from prnbench.errors import FaceModelError
from prnbench.uv.topology import Float64, Int32, boundary_loops, check_disk, directed_edges

Weights = Literal["uniform", "mean_value"]
Boundary = Literal["square", "circle"]


def tutte_embedding(
    vertices: NDArray[np.floating],
    triangles: Int32,
    *,
    weights: Weights = "uniform",
    boundary: Boundary = "square",
) -> Float64:
    """Chart coordinates (V, 2) in 0..1 of a mesh that is a disk with any number of holes.

    Parameters
    ----------
    vertices
        (V, 3).
    triangles
        (F, 3), turned consistently; one connected piece.
    weights
        ``uniform`` spreads vertices evenly over the chart, ``mean_value`` keeps angles better.
    boundary
        The longest boundary loop is laid on a square or circle by arc length, turned so that the chart lies
        like the mesh seen along -z (x to u, y to v). Other loops are holes; their size on the chart is free.
        A triangle whose three corners lie on one side of the square has no area there.

    Returns
    -------
    (V, 2) float64; NaN for vertices without a triangle.

    Raises
    ------
    FaceModelError
        The mesh is not a disk, or the embedding has a flipped triangle (numerically collapsed).
    """
    points = np.asarray(vertices, np.float64)
    loops = boundary_loops(triangles)
    check_disk(triangles, loops)
    outer = max(loops, key=lambda loop: _arc_length(points[loop])[1])
    closed, points = _with_hole_centres(triangles, points, [loop for loop in loops if loop is not outer])
    uv = np.full((len(points), 2), np.nan)
    uv[outer] = _boundary_positions(points[outer], boundary)
    inner = np.setdiff1d(np.unique(closed), outer)
    uv[inner] = _solve(_neighbour_weights(points, closed, weights), inner, outer, uv[outer])
    uv = uv[: len(vertices)]
    ears = np.isin(triangles, outer).all(axis=1)
    areas = signed_areas(uv, triangles)
    flipped = int(((areas <= 0) & ~(ears & (areas > -1e-12))).sum())
    if flipped:
        raise FaceModelError(
            f"the embedding has {flipped} flipped or collapsed triangles of {len(triangles)}",
            remedy="give texture coordinates with the model, or cut the mesh so that its boundary is longer",
        )
    return uv


def signed_areas(uv: NDArray[np.floating], triangles: Int32) -> Float64:
    """Signed areas (F,) of triangles on the chart, positive for counter-clockwise."""
    p = np.asarray(uv, np.float64)[triangles]
    a, b = p[:, 1] - p[:, 0], p[:, 2] - p[:, 0]
    areas: Float64 = (a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]) / 2
    return areas


def _with_hole_centres(triangles: Int32, points: Float64, holes: list[Int32]) -> tuple[Int32, Float64]:
    """Close each hole by a fan around a new vertex in its middle: the holes then stay open on the chart."""
    fans, centres = [triangles], [points]
    for number, hole in enumerate(holes):
        centre = np.full(len(hole), len(points) + number, np.int32)
        fans.append(np.stack([np.roll(hole, -1), hole, centre], axis=1))
        centres.append(points[hole].mean(axis=0, keepdims=True))
    return np.concatenate(fans), np.concatenate(centres)


def _arc_length(loop: Float64) -> tuple[Float64, float]:
    """Arc length from the first vertex to each vertex of a closed loop, and the whole length."""
    steps = np.linalg.norm(np.roll(loop, -1, axis=0) - loop, axis=1)
    return np.concatenate([[0.0], np.cumsum(steps[:-1])]), float(steps.sum())


def _boundary_positions(loop: Float64, boundary: Boundary) -> Float64:
    along, length = _arc_length(loop)
    angle = 2 * np.pi * along / length
    middle = (loop[:, :2].min(axis=0) + loop[:, :2].max(axis=0)) / 2
    seen = (loop[:, 0] - middle[0]) + 1j * (loop[:, 1] - middle[1])
    share = (np.roll(along, -1) - along) % length + (along - np.roll(along, 1)) % length
    turn = np.angle((share * seen * np.exp(-1j * angle)).sum())  # least squares turn of the circle onto the loop
    if boundary == "circle":
        return np.stack([np.cos(angle + turn), np.sin(angle + turn)], axis=1) / 2 + 0.5
    return _on_square((angle + turn) / (2 * np.pi))


def _on_square(turns: Float64) -> Float64:
    """Points of the unit square's outline at these turns, 0 at the middle of the right side, counter-clockwise."""
    along = (_with_corners(turns % 1.0) * 4 + 0.5) % 4
    corners = np.array([[1, 0], [1, 1], [0, 1], [0, 0], [1, 0]], np.float64)
    side = np.minimum(along.astype(int), 3)
    step = (along - side)[:, None]
    outline: Float64 = corners[side] * (1 - step) + corners[side + 1] * step
    return outline


def _with_corners(turns: Float64) -> Float64:
    """Turns stretched so that the vertex nearest to each corner of the square lies on it: the chart is then full."""
    corners = np.array([1, 3, 5, 7]) / 8
    nearest = [int(np.abs((turns - corner + 0.5) % 1.0 - 0.5).argmin()) for corner in corners]
    if len(set(nearest)) < 4:
        return turns
    there = corners + (turns[nearest] - corners + 0.5) % 1.0 - 0.5
    known = np.concatenate([there[-1:] - 1, there, there[:1] + 1])
    wanted = np.concatenate([corners[-1:] - 1, corners, corners[:1] + 1])
    snapped: Float64 = np.interp(turns, known, wanted)
    exact = dict(zip(nearest, corners, strict=True))
    snapped[list(exact)] = list(exact.values())
    return snapped


def _neighbour_weights(points: Float64, triangles: Int32, weights: Weights) -> sparse.csr_matrix:
    V = len(points)
    if weights == "uniform":
        edges = directed_edges(triangles)
        both = np.concatenate([edges, edges[:, ::-1]])
        graph = sparse.coo_matrix((np.ones(len(both)), (both[:, 0], both[:, 1])), (V, V)).tocsr()
        graph.data[:] = 1.0
        return graph
    rows, columns, values = [], [], []
    for corner in range(3):
        i, j, k = triangles[:, corner], triangles[:, (corner + 1) % 3], triangles[:, (corner + 2) % 3]
        to_j, to_k = points[j] - points[i], points[k] - points[i]
        lengths = np.linalg.norm(to_j, axis=1), np.linalg.norm(to_k, axis=1)
        cosine = (to_j * to_k).sum(axis=1) / np.maximum(lengths[0] * lengths[1], 1e-300)
        cosine = np.maximum(cosine, -1 + 1e-12)
        half_tangent = np.sqrt(np.maximum(1 - cosine, 0) / (1 + cosine))
        for other, distance in ((j, lengths[0]), (k, lengths[1])):
            rows.append(i)
            columns.append(other)
            values.append(half_tangent / np.maximum(distance, 1e-9 * distance.mean()))
    entries = np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))
    return sparse.coo_matrix(entries, (V, V)).tocsr()


def _solve(neighbours: sparse.csr_matrix, inner: Int32, outer: Int32, outer_uv: Float64) -> Float64:
    rows = neighbours[inner]
    system = sparse.diags(np.asarray(rows.sum(axis=1)).ravel()) - rows[:, inner]
    solved: Float64 = splu(system.tocsc(), permc_spec="MMD_AT_PLUS_A").solve(rows[:, outer] @ outer_uv)
    return solved
