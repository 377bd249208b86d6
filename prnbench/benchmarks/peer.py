"""The straightforward per-face way that the face benchmark measures against: compiled, but triangle by triangle.

Written after the published description of face3d's position-map example (PROTOCOLS in the documentation): one
matrix-vector product a face, transforms in NumPy, and a rasteriser that walks over the triangles, tests each pixel
of a triangle's box by dot products and writes what is nearer at once.
"""

from __future__ import annotations

from math import ceil, floor
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from prnbench.geometry import rotation_from_euler
from prnbench.morphable import MorphableModel

Float32 = NDArray[np.float32]


def position_map(
    model: MorphableModel,
    shape: Float32,
    expression: Float32,
    pose: NDArray[Any],
    height: int,
    crop: NDArray[Any],
    chart_points: Float32,
    triangles: NDArray[np.int32],
    resolution: int,
) -> Float32:
    """One position map (R, R, 3): product, pose, pixels, crop, then every triangle drawn at its chart positions."""
    vertices = (model.mean.ravel() + model.identity @ shape + model.expression @ expression).reshape(-1, 3)
    rotation = rotation_from_euler(pose[:3]).astype(np.float32)
    posed = np.float32(pose[6]) * vertices @ rotation.T + pose[None, 3:6].astype(np.float32)
    posed[:, 0] -= 1
    posed[:, 1] = height - posed[:, 1]
    homogeneous = posed.copy()
    homogeneous[:, 2] = 1
    position = homogeneous @ np.vstack([crop, [0, 0, 1]]).T.astype(np.float32)
    position[:, 2] = posed[:, 2] * np.float32(crop[0, 0])
    out = np.zeros((resolution, resolution, 3), np.float32)
    depth = np.full((resolution, resolution), -999999.0, np.float32)
    draw(chart_points, triangles, position, depth, out, 2)
    return out


def draw_colours(vertices: Float32, triangles: NDArray[np.int32], colours: Float32, size: int) -> Float32:
    """A picture (size, size, C) of coloured vertices by the plain loop."""
    out = np.zeros((size, size, colours.shape[1]), np.float32)
    draw(vertices, triangles, colours, np.full((size, size), -999999.0, np.float32), out, 0)
    return out


@njit(nogil=True, cache=True)
def draw(vertices, triangles, colours, depth, image, border):  # type: ignore[no-untyped-def]
    """The plain loop; within ``border`` pixels of the edge any triangle whose box holds the pixel counts."""
    height, width, channels = image.shape
    for t in range(triangles.shape[0]):
        i, j, k = triangles[t, 0], triangles[t, 1], triangles[t, 2]
        x0, y0, z0 = vertices[i, 0], vertices[i, 1], vertices[i, 2]
        x1, y1, z1 = vertices[j, 0], vertices[j, 1], vertices[j, 2]
        x2, y2, z2 = vertices[k, 0], vertices[k, 1], vertices[k, 2]
        left, right = max(ceil(min(x0, min(x1, x2))), 0), min(floor(max(x0, max(x1, x2))), width - 1)
        top, bottom = max(ceil(min(y0, min(y1, y2))), 0), min(floor(max(y0, max(y1, y2))), height - 1)
        if right < left or bottom < top:
            continue
        for y in range(top, bottom + 1):
            for x in range(left, right + 1):
                ax, ay, bx, by = x2 - x0, y2 - y0, x1 - x0, y1 - y0
                px, py = np.float32(x) - x0, np.float32(y) - y0
                aa, ab, ap = ax * ax + ay * ay, ax * bx + ay * by, ax * px + ay * py
                bb, bp = bx * bx + by * by, bx * px + by * py
                determinant = aa * bb - ab * ab
                inverse = np.float32(0.0) if determinant == 0 else np.float32(1.0) / determinant
                u, v = (bb * ap - ab * bp) * inverse, (aa * bp - ab * ap) * inverse
                edge = x < border or x > width - 1 - border or y < border or y > height - 1 - border
                if not edge and (u < 0 or v < 0 or u + v >= 1):
                    continue
                w = np.float32(1.0) - u - v
                z = w * z0 + v * z1 + u * z2
                if z > depth[y, x]:
                    depth[y, x] = z
                    for c in range(channels):
                        image[y, x, c] = w * colours[i, c] + v * colours[j, c] + u * colours[k, c]
