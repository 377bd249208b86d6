"""Z-buffer rasteriser: triangles to G-buffer, colour, texture, normals and visibility.

The camera is the field's orthographic one: vertices are image points, x right, y down, pixel centres at
integer coordinates, larger z nearer to the camera. Triangles are counter-clockwise seen from outside in a
y-up frame, so that a negative signed area on the image means front-facing. The kernels are compiled (Numba,
cached) and release the GIL.

Shapes: V vertices, F triangles, H rows, W columns, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, floor

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

Float32 = NDArray[np.float32]
Int32 = NDArray[np.int32]


@dataclass(frozen=True, slots=True, eq=False)
class GBuffer:
    """What is seen at each pixel.

    Attributes
    ----------
    triangle
        (H, W) int32 index of the nearest triangle, -1 where there is none.
    weights
        (H, W, 3) float32 barycentric weights of its corners; undefined where there is none.
    depth
        (H, W) float32 z, -inf where there is none.
    """

    triangle: Int32
    weights: Float32
    depth: Float32

    @property
    def covered(self) -> NDArray[np.bool_]:
        """(H, W) where a triangle is seen."""
        return self.triangle >= 0


def rasterise(vertices: ArrayLike, triangles: ArrayLike, height: int, width: int, *, cull: bool = False) -> GBuffer:
    """Draw triangles into a G-buffer, nearest first; among equal depths the first triangle wins.

    Parameters
    ----------
    vertices
        (V, 3) image points.
    triangles
        (F, 3) vertex ids.
    cull
        Leave out triangles that face away from the camera.

    Returns
    -------
    GBuffer of (H, W).
    """
    xyz, tri = _mesh(vertices, triangles)
    depth = np.full((height, width), -np.inf, np.float32)
    ids = np.full((height, width), -1, np.int32)
    weights = np.empty((height, width, 3), np.float32)
    _fill(xyz, tri, cull, depth, ids, weights)
    return GBuffer(ids, weights, depth)


def interpolate(buffer: GBuffer, triangles: ArrayLike, values: ArrayLike, background: ArrayLike = 0.0) -> Float32:
    """Per-vertex values (V, C) at each pixel of a G-buffer: (H, W, C) float32.

    ``background`` is a number, a colour (C,) or a picture (H, W, C) for the pixels without a triangle.
    """
    values = np.ascontiguousarray(values, np.float32)
    out = np.empty((*buffer.triangle.shape, values.shape[1]), np.float32)
    out[...] = background
    _interpolate(buffer.triangle, buffer.weights, np.ascontiguousarray(triangles, np.int32), values, out)
    return out


def sample_texture(texture: ArrayLike, column_row: ArrayLike) -> Float32:
    """Bilinear values (..., C) of a texture (h, w, C) at (..., 2) column and row, clamped to its edge."""
    texture = np.ascontiguousarray(texture, np.float32)
    points = np.ascontiguousarray(column_row, np.float32)
    out = np.empty((points.size // 2, texture.shape[2]), np.float32)
    _bilinear(texture, points.reshape(-1, 2), out)
    return out.reshape(*points.shape[:-1], texture.shape[2])


def render_colours(
    vertices: ArrayLike,
    triangles: ArrayLike,
    colours: ArrayLike,
    height: int,
    width: int,
    *,
    background: ArrayLike = 0.0,
    cull: bool = False,
    samples: int = 1,
) -> Float32:
    """Picture (H, W, C) float32 of per-vertex colours (V, C).

    ``samples`` x ``samples`` sub-pixels are averaged against jagged edges.
    """
    big = _supersampled(vertices, samples)
    buffer = rasterise(big, triangles, height * samples, width * samples, cull=cull)
    return box_mean(interpolate(buffer, triangles, colours, _enlarged(background, samples)), samples)


def render_texture(
    vertices: ArrayLike,
    triangles: ArrayLike,
    texture: ArrayLike,
    uv: ArrayLike,
    height: int,
    width: int,
    *,
    background: ArrayLike = 0.0,
    cull: bool = False,
    samples: int = 1,
) -> Float32:
    """Picture (H, W, C) float32 of a texture (h, w, C), looked up bilinearly at uv (V, 2).

    u runs right and v up over the texture: column u (w - 1), row (h - 1) - v (h - 1).
    """
    texture = np.ascontiguousarray(texture, np.float32)
    big = _supersampled(vertices, samples)
    buffer = rasterise(big, triangles, height * samples, width * samples, cull=cull)
    out = np.empty((height * samples, width * samples, texture.shape[2]), np.float32)
    out[...] = _enlarged(background, samples)
    points = texture_points(uv, texture.shape[0], texture.shape[1])
    tri = np.ascontiguousarray(triangles, np.int32)
    _textured(buffer.triangle, buffer.weights, tri, texture, points, out)
    return box_mean(out, samples)


def texture_points(uv: ArrayLike, height: int, width: int) -> Float32:
    """(..., 2) float32 column and row of chart coordinates (..., 2): u (w - 1), (h - 1) - v (h - 1)."""
    scaled = np.asarray(uv, np.float64) * (width - 1, height - 1)
    scaled[..., 1] = (height - 1) - scaled[..., 1]
    return scaled.astype(np.float32)


def vertex_normals(vertices: ArrayLike, triangles: ArrayLike) -> Float32:
    """Unit normals (V, 3) float32, area-weighted over the triangles around each vertex.

    They point outside in a y-up frame. In the y-down image frame the mesh is mirrored: negate them there.
    Vertices without a triangle have the normal 0.
    """
    xyz, tri = _mesh(vertices, triangles)
    normals = np.zeros_like(xyz)
    _normals(xyz, tri, normals)
    return normals


def render_normals(vertices: ArrayLike, triangles: ArrayLike, height: int, width: int) -> Float32:
    """Unit normals (H, W, 3) float32 in the image frame (x right, y down, z to the camera); 0 outside."""
    normals = interpolate(
        rasterise(vertices, triangles, height, width), triangles, -vertex_normals(vertices, triangles)
    )
    length = np.linalg.norm(normals, axis=-1, keepdims=True)
    unit: Float32 = normals / np.maximum(length, np.float32(1e-12))
    return unit


def visible_vertices(
    vertices: ArrayLike, triangles: ArrayLike, buffer: GBuffer, *, tolerance: float = 0.5
) -> NDArray[np.bool_]:
    """Whether each vertex (V,) is seen.

    A vertex is seen if a triangle around it faces the camera and it is not behind all four pixels around it
    by more than ``tolerance`` (in units of z). Vertices outside the picture are not seen.
    """
    xyz, tri = _mesh(vertices, triangles)
    seen = np.zeros(len(xyz), np.bool_)
    _visible(xyz, tri, buffer.depth, np.float32(tolerance), seen)
    return seen


def box_mean(image: Float32, samples: int) -> Float32:
    """Mean over blocks of ``samples`` x ``samples`` pixels of (H s, W s, C)."""
    if samples == 1:
        return image
    out = np.empty((image.shape[0] // samples, image.shape[1] // samples, image.shape[2]), np.float32)
    _box_mean(image, samples, out)
    return out


def _mesh(vertices: ArrayLike, triangles: ArrayLike) -> tuple[Float32, Int32]:
    return np.ascontiguousarray(vertices, np.float32), np.ascontiguousarray(triangles, np.int32)


def _supersampled(vertices: ArrayLike, samples: int) -> Float32:
    """Image points on a grid of ``samples`` times as many pixels: the block of pixel 0 is centred on 0."""
    points = np.array(vertices, np.float32)
    if samples > 1:
        points[:, :2] = points[:, :2] * samples + (samples - 1) / 2
    return points


def _enlarged(background: ArrayLike, samples: int) -> Float32:
    picture = np.asarray(background, np.float32)
    if picture.ndim < 3 or samples == 1:
        return picture
    return picture.repeat(samples, axis=0).repeat(samples, axis=1)


@njit(nogil=True, cache=True)
def _fill(xyz, triangles, cull, depth, ids, weights):  # type: ignore[no-untyped-def]
    """Edge functions in double precision are exact for float32 points, so shared edges leave no gap."""
    height, width = depth.shape
    for t in range(triangles.shape[0]):
        i, j, k = triangles[t, 0], triangles[t, 1], triangles[t, 2]
        x0, y0 = np.float64(xyz[i, 0]), np.float64(xyz[i, 1])
        x1, y1 = np.float64(xyz[j, 0]), np.float64(xyz[j, 1])
        x2, y2 = np.float64(xyz[k, 0]), np.float64(xyz[k, 1])
        left, right = max(ceil(min(x0, x1, x2)), 0), min(floor(max(x0, x1, x2)), width - 1)
        if left > right:
            continue
        top, bottom = max(ceil(min(y0, y1, y2)), 0), min(floor(max(y0, y1, y2)), height - 1)
        if top > bottom:
            continue
        area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
        if not abs(area) > 0.0 or (cull and area > 0.0):
            continue
        turn = 1.0 if area > 0.0 else -1.0
        area *= turn
        scale = 1.0 / area
        ax, ay = (y1 - y2) * turn, (x2 - x1) * turn
        bx, by = (y2 - y0) * turn, (x0 - x2) * turn
        z0, z1, z2 = np.float64(xyz[i, 2]), np.float64(xyz[j, 2]), np.float64(xyz[k, 2])
        for y in range(top, bottom + 1):
            for x in range(left, right + 1):
                a = ax * (x - x2) + ay * (y - y2)
                b = bx * (x - x2) + by * (y - y2)
                c = area - a - b
                if a < 0.0 or b < 0.0 or c < 0.0:
                    continue
                a, b, c = a * scale, b * scale, c * scale
                z = np.float32(a * z0 + b * z1 + c * z2)
                if z > depth[y, x]:
                    depth[y, x] = z
                    ids[y, x] = t
                    weights[y, x, 0] = a
                    weights[y, x, 1] = b
                    weights[y, x, 2] = c


@njit(nogil=True, cache=True)
def _interpolate(ids, weights, triangles, values, out):  # type: ignore[no-untyped-def]
    height, width = ids.shape
    for y in range(height):
        for x in range(width):
            t = ids[y, x]
            if t < 0:
                continue
            i, j, k = triangles[t, 0], triangles[t, 1], triangles[t, 2]
            a, b, c = weights[y, x, 0], weights[y, x, 1], weights[y, x, 2]
            for channel in range(values.shape[1]):
                out[y, x, channel] = a * values[i, channel] + b * values[j, channel] + c * values[k, channel]


@njit(nogil=True, cache=True, inline="always")
def _lookup(texture, column, row, out):  # type: ignore[no-untyped-def]
    height, width, channels = texture.shape
    column = min(max(column, np.float32(0.0)), np.float32(width - 1))
    row = min(max(row, np.float32(0.0)), np.float32(height - 1))
    left, top = int(column), int(row)
    right, below = min(left + 1, width - 1), min(top + 1, height - 1)
    fx, fy = column - np.float32(left), row - np.float32(top)
    for c in range(channels):
        upper = texture[top, left, c] + fx * (texture[top, right, c] - texture[top, left, c])
        lower = texture[below, left, c] + fx * (texture[below, right, c] - texture[below, left, c])
        out[c] = upper + fy * (lower - upper)


@njit(nogil=True, cache=True)
def _bilinear(texture, points, out):  # type: ignore[no-untyped-def]
    for n in range(points.shape[0]):
        _lookup(texture, points[n, 0], points[n, 1], out[n])


@njit(nogil=True, cache=True)
def _textured(ids, weights, triangles, texture, points, out):  # type: ignore[no-untyped-def]
    height, width = ids.shape
    for y in range(height):
        for x in range(width):
            t = ids[y, x]
            if t < 0:
                continue
            i, j, k = triangles[t, 0], triangles[t, 1], triangles[t, 2]
            a, b, c = weights[y, x, 0], weights[y, x, 1], weights[y, x, 2]
            column = a * points[i, 0] + b * points[j, 0] + c * points[k, 0]
            row = a * points[i, 1] + b * points[j, 1] + c * points[k, 1]
            _lookup(texture, column, row, out[y, x])


@njit(nogil=True, cache=True)
def _normals(xyz, triangles, normals):  # type: ignore[no-untyped-def]
    for t in range(triangles.shape[0]):
        i, j, k = triangles[t, 0], triangles[t, 1], triangles[t, 2]
        ux, uy, uz = xyz[j, 0] - xyz[i, 0], xyz[j, 1] - xyz[i, 1], xyz[j, 2] - xyz[i, 2]
        vx, vy, vz = xyz[k, 0] - xyz[i, 0], xyz[k, 1] - xyz[i, 1], xyz[k, 2] - xyz[i, 2]
        nx, ny, nz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
        for v in (i, j, k):
            normals[v, 0] += nx
            normals[v, 1] += ny
            normals[v, 2] += nz
    for v in range(normals.shape[0]):
        length = np.sqrt(normals[v, 0] ** 2 + normals[v, 1] ** 2 + normals[v, 2] ** 2)
        if length > 0:
            normals[v] /= length


@njit(nogil=True, cache=True)
def _visible(xyz, triangles, depth, tolerance, seen):  # type: ignore[no-untyped-def]
    height, width = depth.shape
    for t in range(triangles.shape[0]):
        i, j, k = triangles[t, 0], triangles[t, 1], triangles[t, 2]
        ux, uy = xyz[j, 0] - xyz[i, 0], xyz[j, 1] - xyz[i, 1]
        vx, vy = xyz[k, 0] - xyz[i, 0], xyz[k, 1] - xyz[i, 1]
        if ux * vy - uy * vx < 0:
            seen[i] = seen[j] = seen[k] = True
    for v in range(xyz.shape[0]):
        x, y = xyz[v, 0], xyz[v, 1]
        if not seen[v] or not (-0.5 <= x <= width - 0.5 and -0.5 <= y <= height - 0.5):
            seen[v] = False
            continue
        left, right = max(floor(x), 0), min(ceil(x), width - 1)
        top, bottom = max(floor(y), 0), min(ceil(y), height - 1)
        nearest = min(min(depth[top, left], depth[top, right]), min(depth[bottom, left], depth[bottom, right]))
        seen[v] = xyz[v, 2] >= nearest - tolerance


@njit(nogil=True, cache=True)
def _box_mean(image, samples, out):  # type: ignore[no-untyped-def]
    height, width, channels = out.shape
    share = np.float32(1.0 / (samples * samples))
    for y in range(height):
        for x in range(width):
            for c in range(channels):
                total = np.float32(0.0)
                for dy in range(samples):
                    for dx in range(samples):
                        total += image[y * samples + dy, x * samples + dx, c]
                out[y, x, c] = total * share
