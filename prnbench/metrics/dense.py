"""Errors over the face area of UV position maps, fused: one pass over the texels serves every dense protocol."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Float32 = NDArray[np.float32]
Texels = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class DenseDistances:
    """Mean distances over the face area of N faces in pixels, and the face areas' own sizes; all (N,) float64.

    Attributes
    ----------
    xy
        Mean distance in x and y.
    xyz_none, xyz_min, xyz_mean
        Mean distance in x, y and z with the z alignment named (PROTOCOLS: none, minus min, minus mean on both sides).
    own_size
        sqrt(w h) of the true points' bounding box.
    """

    xy: Array
    xyz_none: Array
    xyz_min: Array
    xyz_mean: Array
    own_size: Array


def dense_distances(
    predicted_px: Sequence[Float32],
    truth_px: Sequence[Float32],
    face_texels: Texels,
    offsets_px: Sequence[tuple[float, float]] | None = None,
) -> DenseDistances:
    """Mean distances between N pairs of position maps (H, W, 3) over the flat texel ids (T,).

    ``offsets_px`` is added to each prediction's x and y (pixel convention). A non-finite prediction gives
    non-finite distances.
    """
    work = np.empty((6, len(face_texels)), np.float32)
    p, g = work[:3], work[3:]
    out = np.empty((len(predicted_px), 5))
    offsets = offsets_px or [(0.0, 0.0)] * len(predicted_px)
    for i, (predicted, truth, (dx, dy)) in enumerate(zip(predicted_px, truth_px, offsets, strict=True)):
        _gather(np.ascontiguousarray(predicted, np.float32).reshape(-1, 3), face_texels, p)
        _gather(np.ascontiguousarray(truth, np.float32).reshape(-1, 3), face_texels, g)
        with np.errstate(invalid="ignore"):
            by_min = float(p[2].min()) - float(g[2].min())
            by_mean = _mean(p[2]) - _mean(g[2])
            width, height = (float(axis.max()) - float(axis.min()) for axis in g[:2])
            out[i] = *_mean_distances(p, g, dx, dy, by_min, by_mean), np.sqrt(width * height)
    return DenseDistances(*out.T)


def normal_error(predicted_px: Float32, truth_px: Float32, inner_texels: Texels) -> float:
    """Mean angle in degrees between the surface normals of two position maps (H, W, 3).

    Normals are cross products of central differences along u and v at ``inner_texels``, whose four neighbours must lie
    in the map. Texels where the true surface has no area are left out; where only the predicted one
    has none the angle counts as 90 degrees.
    """
    p = np.ascontiguousarray(predicted_px, np.float32)
    g = np.ascontiguousarray(truth_px, np.float32)
    return float(_normal_error(p.reshape(-1, 3), g.reshape(-1, 3), inner_texels, p.shape[1]))


def inner_texels(face_texels: Texels, width: int) -> Texels:
    """Texels of the face area whose four neighbours belong to it too."""
    rows, columns = face_texels // width, face_texels % width
    inside = np.zeros((rows.max() + 3, width + 2), bool)
    inside[rows + 1, columns + 1] = True
    kept = inside[1:-1, 1:-1] & inside[:-2, 1:-1] & inside[2:, 1:-1] & inside[1:-1, :-2] & inside[1:-1, 2:]
    return face_texels[kept[rows, columns]]


def resized_map(position_map_px: Float32, size: int) -> Float32:
    """A position map (H, W, 3) at ``size`` x ``size`` texels: bilinear, corner texels on corner texels."""
    if position_map_px.shape[:2] == (size, size):
        return position_map_px
    from scipy.ndimage import map_coordinates

    height, width = position_map_px.shape[:2]
    grid = np.meshgrid(np.linspace(0, height - 1, size), np.linspace(0, width - 1, size), indexing="ij")
    layers = [map_coordinates(position_map_px[..., axis], grid, order=1) for axis in range(3)]
    return np.stack(layers, axis=-1).astype(np.float32)


@numba.njit(cache=True, nogil=True)
def _gather(points, ids, columns):  # type: ignore[no-untyped-def]
    """Points (P, 3) at ids into contiguous columns (3, T), so that later loops vectorise."""
    x, y, z = columns[0], columns[1], columns[2]
    for i in range(len(ids)):
        t = ids[i]
        x[i], y[i], z[i] = points[t, 0], points[t, 1], points[t, 2]


@numba.njit(cache=True, nogil=True, fastmath={"reassoc"})
def _mean(values):  # type: ignore[no-untyped-def]
    total = 0.0
    for i in range(len(values)):
        total += np.float64(values[i])
    return total / len(values)


@numba.njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def _mean_distances(p, g, dx, dy, by_min, by_mean):  # type: ignore[no-untyped-def]
    px, py, pz, gx, gy, gz = p[0], p[1], p[2], g[0], g[1], g[2]
    count = len(px)
    xy = none = least = mean = 0.0
    for i in range(count):
        ex = np.float64(px[i]) - np.float64(gx[i]) + dx
        ey = np.float64(py[i]) - np.float64(gy[i]) + dy
        ez = np.float64(pz[i]) - np.float64(gz[i])
        flat = ex * ex + ey * ey
        xy += np.sqrt(flat)
        none += np.sqrt(flat + ez * ez)
        least += np.sqrt(flat + (ez - by_min) * (ez - by_min))
        mean += np.sqrt(flat + (ez - by_mean) * (ez - by_mean))
    return xy / count, none / count, least / count, mean / count


@numba.njit(cache=True, nogil=True)
def _normal_error(p, g, texels, width):  # type: ignore[no-untyped-def]
    total, count = 0.0, 0
    for t in texels:
        gx, gy, gz = _normal(g, t, width)
        g_length = np.sqrt(gx * gx + gy * gy + gz * gz)
        if g_length == 0.0:
            continue
        px, py, pz = _normal(p, t, width)
        p_length = np.sqrt(px * px + py * py + pz * pz)
        count += 1
        if p_length == 0.0:
            total += np.pi / 2
            continue
        cx, cy, cz = py * gz - pz * gy, pz * gx - px * gz, px * gy - py * gx
        # atan2 of |cross| and dot: exact for small angles too
        total += np.arctan2(np.sqrt(cx * cx + cy * cy + cz * cz), px * gx + py * gy + pz * gz)
    return np.degrees(total / count) if count else np.nan


@numba.njit(cache=True, nogil=True, inline="always")
def _normal(m, t, width):  # type: ignore[no-untyped-def]
    ux, uy, uz = m[t + 1, 0] - m[t - 1, 0], m[t + 1, 1] - m[t - 1, 1], m[t + 1, 2] - m[t - 1, 2]
    down, up = t + width, t - width
    vx, vy, vz = m[down, 0] - m[up, 0], m[down, 1] - m[up, 1], m[down, 2] - m[up, 2]
    nx, ny, nz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
    return np.float64(nx), np.float64(ny), np.float64(nz)
