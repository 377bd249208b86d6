"""Z-buffer rasteriser: triangles to G-buffer, colour, texture, normals and visibility.

The camera is the field's orthographic one: vertices are image points, x right, y down, pixel centres at
integer coordinates, larger z nearer to the camera. Triangles are counter-clockwise seen from outside in a
y-up frame, so that a negative signed area on the image means front-facing. The kernels are compiled (Numba,
cached) and release the GIL.

Shapes: V vertices, F triangles, H rows, W columns, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from prnbench.render import kernels

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
    """Draw triangles into a G-buffer, nearest first; at equal depths either may win.

    Parameters
    ----------
    vertices
        (V, 3) image points.
    triangles
        (F, 3) vertex ids. Triangles with a corner that is not finite are left out.
    cull
        Leave out triangles that face away from the camera.

    Returns
    -------
    GBuffer of (H, W).
    """
    xyz, tri = _drawable(vertices, triangles)
    depth = np.full((height, width), -np.inf, np.float32)
    ids = np.full((height, width), -1, np.int32)
    weights = np.empty((height, width, 3), np.float32)
    none = np.empty((0, 0), np.float32)
    kernels.draw(xyz, tri, cull, depth, ids.reshape(-1), weights.reshape(-1, 3), none, none)
    return GBuffer(ids, weights, depth)


def interpolate(buffer: GBuffer, triangles: ArrayLike, values: ArrayLike, background: ArrayLike = 0.0) -> Float32:
    """Per-vertex values (V, C) at each pixel of a G-buffer: (H, W, C) float32.

    ``background`` is a number, a colour (C,) or a picture (H, W, C) for the pixels without a triangle.
    """
    values = np.ascontiguousarray(values, np.float32)
    out = np.empty((*buffer.triangle.shape, values.shape[1]), np.float32)
    out[...] = background
    kernels.interpolate(buffer.triangle, buffer.weights, np.ascontiguousarray(triangles, np.int32), values, out)
    return out


def sample_texture(texture: ArrayLike, column_row: ArrayLike) -> Float32:
    """Bilinear values (..., C) of a texture (h, w, C) at (..., 2) column and row, clamped to its edge."""
    texture = np.ascontiguousarray(texture, np.float32)
    points = np.ascontiguousarray(column_row, np.float32)
    out = np.full((points.size // 2, texture.shape[2]), np.nan, np.float32)
    kernels.bilinear(texture, points.reshape(-1, 2), out)
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
    xyz, tri = _drawable(_supersampled(vertices, samples), triangles)
    values = np.ascontiguousarray(colours, np.float32)
    depth = np.full((height * samples, width * samples), -np.inf, np.float32)
    out = np.empty((*depth.shape, values.shape[1]), np.float32)
    out[...] = _enlarged(background, samples)
    no_ids, no_weights = np.empty(0, np.int32), np.empty((0, 3), np.float32)
    kernels.draw(xyz, tri, cull, depth, no_ids, no_weights, values, out.reshape(-1, values.shape[1]))
    return box_mean(out, samples)


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
    points = render_colours(
        _supersampled(vertices, samples),
        triangles,
        texture_points(uv, texture.shape[0], texture.shape[1]),
        height * samples,
        width * samples,
        background=np.nan,
        cull=cull,
    )
    out = np.empty((*points.shape[:2], texture.shape[2]), np.float32)
    out[...] = _enlarged(background, samples)
    kernels.bilinear(texture, points.reshape(-1, 2), out.reshape(-1, texture.shape[2]))
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
    kernels.normals(xyz, tri, normals)
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
    kernels.visible(xyz, tri, buffer.depth, np.float32(tolerance), seen)
    return seen


def box_mean(image: Float32, samples: int) -> Float32:
    """Mean over blocks of ``samples`` x ``samples`` pixels of (H s, W s, C)."""
    if samples == 1:
        return image
    out = np.empty((image.shape[0] // samples, image.shape[1] // samples, image.shape[2]), np.float32)
    kernels.box_mean(image, samples, out)
    return out


def _mesh(vertices: ArrayLike, triangles: ArrayLike) -> tuple[Float32, Int32]:
    return np.ascontiguousarray(vertices, np.float32), np.ascontiguousarray(triangles, np.int32)


def _drawable(vertices: ArrayLike, triangles: ArrayLike) -> tuple[Float32, Int32]:
    """The mesh with triangles collapsed that have a corner which is not finite."""
    xyz, tri = _mesh(vertices, triangles)
    if np.isfinite(xyz.sum()):
        return xyz, tri
    finite: NDArray[np.bool_] = np.asarray(np.isfinite(xyz).all(axis=1))
    xyz = np.where(finite[:, None], xyz, np.float32(0))
    return xyz, np.where(finite[tri].all(axis=1, keepdims=True), tri, tri[:, :1]).astype(np.int32)


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
