"""Spherical-harmonics light of the second order, and how much of it each point of the head sees.

Real basis of bands 0..2 in the order 1, y, z, x, xy, yz, 3z^2-1, xz, x^2-y^2; cosine-lobe factors pi, 2 pi/3, pi/4
after Ramamoorthi and Hanrahan (2001). The transfer vectors are those of precomputed radiance transfer (Sloan,
Kautz and Snyder 2002) without interreflection.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from prnbench.render import rasterise, vertex_normals

Array = NDArray[np.float64]
Float32 = NDArray[np.float32]

_BANDS = np.array([0, 1, 1, 1, 2, 2, 2, 2, 2])
COSINE_LOBE: Array = np.array([1.0, 2 / 3, 1 / 4])[_BANDS]  # over pi, so that a white furnace gives 1
SOFT_LOBE: Array = np.array([1.0, 0.72, 0.30])[_BANDS]
_DIRECTIONS, _SIZE = 200, 220


def sh_basis(directions: NDArray[np.floating]) -> Float32:
    """(N, 9) basis functions of unit directions (N, 3)."""
    x, y, z = np.asarray(directions, np.float32).T
    return np.stack(
        [
            np.full_like(x, 0.282095),
            0.488603 * y,
            0.488603 * z,
            0.488603 * x,
            1.092548 * x * y,
            1.092548 * y * z,
            0.315392 * (3 * z * z - 1),
            1.092548 * x * z,
            0.546274 * (x * x - y * y),
        ],
        axis=1,
    ).astype(np.float32)


def fibonacci_sphere(count: int) -> Array:
    """(count, 3) evenly spread unit directions."""
    k = np.arange(count) + 0.5
    z = 1 - 2 * k / count
    phi = np.pi * (1 + np.sqrt(5)) * k
    r = np.sqrt(1 - z * z)
    return np.stack([r * np.cos(phi), r * np.sin(phi), z], axis=1)


def transfer_vectors(vertices: NDArray[np.floating], triangles: NDArray[np.integer]) -> Float32:
    """(V, 9) visibility-weighted cosine lobes of a mesh: irradiance / pi = transfer . light.

    Each of 200 directions is one depth picture of the mesh; a vertex sees the direction if nothing lies before it.
    """
    v = np.asarray(vertices, np.float64)
    normals = vertex_normals(v, triangles).astype(np.float64)
    directions = fibonacci_sphere(_DIRECTIONS)
    basis = sh_basis(directions).astype(np.float64)
    extent = 2.05 * np.linalg.norm(v - v.mean(axis=0), axis=1).max()
    out = np.zeros((len(v), 9))
    for d, y in zip(directions, basis, strict=True):
        facing = normals @ d
        p = _seen_from(v, d, extent)
        depth = rasterise(p, triangles, _SIZE, _SIZE).depth
        col, row = (np.clip(p[:, k].round().astype(int), 0, _SIZE - 1) for k in (0, 1))
        bias = 1.6 + 1.2 * np.sqrt(np.maximum(1 - facing**2, 0)) / np.maximum(facing, 0.15)
        seen = np.clip((p[:, 2] + bias - depth[row, col]) / 1.5 + 1, 0, 1)
        out += (np.maximum(facing, 0) * seen)[:, None] * y
    return (out * 4 / _DIRECTIONS).astype(np.float32)


def _seen_from(v: Array, d: Array, extent: float) -> Array:
    helper = np.array([1.0, 0, 0]) if abs(d[0]) < 0.9 else np.array([0, 1.0, 0])
    right = np.cross(helper, d)
    right /= np.linalg.norm(right)
    up = np.cross(d, right)
    scale = _SIZE / extent
    c = v - v.mean(axis=0)
    return np.stack([_SIZE / 2 + scale * (c @ right), _SIZE / 2 - scale * (c @ up), c @ d], axis=1)


def directional(direction: Array, sharp: float = 1.0) -> Array:
    """(9,) projection of a distant lamp; ``sharp`` below 1 spreads it."""
    window = np.array([1.0, sharp, sharp**3])[_BANDS]
    return np.asarray(np.pi * sh_basis(direction[None])[0] * window, np.float64)


def ambient() -> Array:
    """(9,) projection of light of strength 1 from everywhere."""
    out = np.zeros(9)
    out[0] = 1 / 0.282095
    return out


def irradiance(basis: Float32, light: Array, lobe: Array = COSINE_LOBE) -> Float32:
    """(N, 3) irradiance over pi of basis values (N, 9) under a light (9, 3)."""
    return basis @ (light * lobe[:, None]).astype(np.float32)
