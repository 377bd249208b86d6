"""Compiled kernels of the rasteriser.

Most triangles of a face mesh are smaller than a pixel, so the cost is in rejecting them. Blocks of triangles are
tested at the first pixel of their box with no branch, on vector registers; only those that hold it, and those whose
box holds further pixels, are looked at one by one. Edge functions are taken relative to the pixel: for the two
triangles on an edge they are then exact negatives of each other (rounding is symmetric), so no pixel is left out
between them. Pixels found inside are gathered in a list without a branch and written together.
"""

from __future__ import annotations

from math import ceil, floor
from typing import Any

import numpy as np
from numba import njit

_BLOCK, _HITS = 512, 16384
_OPTIONS: dict[str, Any] = {"nogil": True, "cache": True, "error_model": "numpy"}
_FINITE: dict[str, Any] = {**_OPTIONS, "fastmath": {"nnan", "ninf", "nsz"}}  # callers pass finite points only
_f32 = np.float32


@njit(**_FINITE)
def draw(xyz, triangles, cull, depth, ids, weights, values, image):  # type: ignore[no-untyped-def]
    """Draw triangles (F, 3) of points (V, 3) into depth (H W,), a picture of H rows and W columns by its shape.

    With values (V, C) the picture ``image`` (H W, C) is painted; with empty values ``ids`` (H W,) and ``weights``
    (H W, 3) are written instead.
    """
    height, width = depth.shape
    corners = np.empty((6, _BLOCK), np.float32)
    box, edges = np.empty((2, _BLOCK), np.float32), np.empty((3, _BLOCK), np.float32)
    inside, more = np.empty(_BLOCK, np.uint8), np.empty(_BLOCK, np.uint8)
    chosen = np.empty(_BLOCK + 1, np.int32)
    capacity = max(_HITS, width + 1)
    hit_triangle, hit_pixel = np.empty(capacity, np.int32), np.empty(capacity, np.int32)
    hit_weights = np.empty((capacity, 3), np.float32)
    hits = 0
    last_x, last_y = _f32(width - 1), _f32(height - 1)
    for start in range(0, triangles.shape[0], _BLOCK):
        count = min(_BLOCK, triangles.shape[0] - start)
        _gather(xyz, triangles, start, count, corners)
        _test_first_pixel(corners, count, last_x, last_y, cull, box, edges, inside, more)
        for n in range(_compact(inside, count, chosen)):
            m = np.uint32(chosen[n])
            a, b, c = edges[0, m], edges[1, m], edges[2, m]
            scale = _f32(1.0) / (a + b + c)
            hit_triangle[n] = start + m
            hit_pixel[n] = np.int32(box[1, m]) * width + np.int32(box[0, m])
            hit_weights[n, 0], hit_weights[n, 1], hit_weights[n, 2] = a * scale, b * scale, c * scale
            hits = n + 1
        for n in range(_compact(more, count, chosen)):
            m = np.uint32(chosen[n])
            left, y0 = box[0, m], box[1, m]
            right = min(np.floor(max(max(corners[0, m], corners[2, m]), corners[4, m])), last_x)
            below = min(np.floor(max(max(corners[1, m], corners[3, m]), corners[5, m])), last_y)
            ax, ay = np.float64(corners[0, m]) - left, np.float64(corners[1, m]) - y0
            bx, by = np.float64(corners[2, m]) - left, np.float64(corners[3, m]) - y0
            cx, cy = np.float64(corners[4, m]) - left, np.float64(corners[5, m]) - y0
            area = (bx - ax) * (cy - ay) - (cx - ax) * (by - ay)
            if area == 0.0 or (cull and area > 0.0):
                continue
            turn = 1.0 if area > 0.0 else -1.0
            area *= turn
            scale = 1.0 / area
            a_row, b_row = (bx * cy - cx * by) * turn, (cx * ay - ax * cy) * turn
            a_right, b_right = (by - cy) * turn, (cy - ay) * turn
            a_down, b_down = (cx - bx) * turn, (ax - cx) * turn
            columns, lines = int(right - left) + 1, int(below - y0) + 1
            first = int(y0) * width + int(left)
            for pixel in range(first, first + lines * width, width):
                a, b = a_row, b_row
                if hits + columns >= capacity:
                    _store(
                        xyz, triangles, hits, hit_triangle, hit_pixel, hit_weights, depth, ids, weights, values, image
                    )
                    hits = 0
                for column in range(columns):
                    c = area - a - b
                    hit_triangle[hits] = start + m
                    hit_pixel[hits] = pixel + column
                    hit_weights[hits, 0] = a * scale
                    hit_weights[hits, 1] = b * scale
                    hit_weights[hits, 2] = c * scale
                    hits += (a >= 0.0) & (b >= 0.0) & (c >= 0.0)
                    a += a_right
                    b += b_right
                a_row += a_down
                b_row += b_down
        _store(xyz, triangles, hits, hit_triangle, hit_pixel, hit_weights, depth, ids, weights, values, image)
        hits = 0


@njit(**_FINITE)
def _gather(xyz, triangles, start, count, corners):  # type: ignore[no-untyped-def]
    """Image positions of the corners of a block of triangles, one row a coordinate."""
    x0, y0, x1, y1, x2, y2 = corners[0], corners[1], corners[2], corners[3], corners[4], corners[5]
    for m in range(count):
        i, j, k = (
            np.uint32(triangles[start + m, 0]),
            np.uint32(triangles[start + m, 1]),
            np.uint32(triangles[start + m, 2]),
        )
        x0[m], y0[m] = xyz[i, 0], xyz[i, 1]
        x1[m], y1[m] = xyz[j, 0], xyz[j, 1]
        x2[m], y2[m] = xyz[k, 0], xyz[k, 1]


@njit(**_FINITE)
def _test_first_pixel(corners, count, last_x, last_y, cull, box, edges, inside, more):  # type: ignore[no-untyped-def]
    """First pixel of each triangle's box, its edge functions there, whether it is inside, whether there are more."""
    x0, y0, x1, y1, x2, y2 = corners[0], corners[1], corners[2], corners[3], corners[4], corners[5]
    left, top = box[0], box[1]
    a, b, c = edges[0], edges[1], edges[2]
    zero = _f32(0.0)
    for m in range(count):
        first_x = max(np.ceil(min(min(x0[m], x1[m]), x2[m])), zero)
        first_y = max(np.ceil(min(min(y0[m], y1[m]), y2[m])), zero)
        right = min(np.floor(max(max(x0[m], x1[m]), x2[m])), last_x)
        bottom = min(np.floor(max(max(y0[m], y1[m]), y2[m])), last_y)
        ax, ay, bx, by = x0[m] - first_x, y0[m] - first_y, x1[m] - first_x, y1[m] - first_y
        cx, cy = x2[m] - first_x, y2[m] - first_y
        ea, eb, ec = bx * cy - cx * by, cx * ay - ax * cy, ax * by - bx * ay
        lowest, highest = min(min(ea, eb), ec), max(max(ea, eb), ec)
        some = (first_x <= right) & (first_y <= bottom)
        front, back = highest <= zero, (lowest >= zero) & (not cull)
        several = (first_x < right) | (first_y < bottom)
        inside[m] = some & (front | back) & (ea + eb + ec != zero) & (not several)
        more[m] = some & several
        left[m], top[m] = first_x, first_y
        a[m], b[m], c[m] = ea, eb, ec


@njit(**_OPTIONS)
def _compact(flags, count, chosen):  # type: ignore[no-untyped-def]
    """Write the positions of the set flags to ``chosen``; returns how many."""
    found = 0
    for m in range(count):
        chosen[found] = m
        found += flags[m]
    return found


@njit(**_OPTIONS)
def _store(xyz, triangles, hits, hit_triangle, hit_pixel, hit_weights, depth, ids, weights, values, image):  # type: ignore[no-untyped-def]
    """Write pixels of triangles that are nearer than what is there."""
    flat = depth.reshape(-1)
    for n in range(hits):
        t, pixel = hit_triangle[n], np.uint32(hit_pixel[n])
        i, j, k = np.uint32(triangles[t, 0]), np.uint32(triangles[t, 1]), np.uint32(triangles[t, 2])
        a, b, c = hit_weights[n, 0], hit_weights[n, 1], hit_weights[n, 2]
        z = a * xyz[i, 2] + b * xyz[j, 2] + c * xyz[k, 2]
        if z <= flat[pixel]:
            continue
        flat[pixel] = z
        if values.shape[1] == 0:
            ids[pixel] = t
            weights[pixel, 0], weights[pixel, 1], weights[pixel, 2] = a, b, c
        for channel in range(values.shape[1]):
            image[pixel, channel] = a * values[i, channel] + b * values[j, channel] + c * values[k, channel]


@njit(**_OPTIONS)
def interpolate(ids, weights, triangles, values, out):  # type: ignore[no-untyped-def]
    """Values of the three corners by their weights, for pixels with a triangle."""
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


@njit(**_OPTIONS)
def bilinear(texture, points, out):  # type: ignore[no-untyped-def]
    """Bilinear lookups at (P, 2) column and row, clamped to the texture; NaN leaves ``out`` (P, C) as it is."""
    height, width, channels = texture.shape
    last_x, last_y = _f32(width - 1), _f32(height - 1)
    for n in range(points.shape[0]):
        x, y = points[n, 0], points[n, 1]
        if x != x or y != y:
            continue
        x, y = min(max(x, _f32(0.0)), last_x), min(max(y, _f32(0.0)), last_y)
        left, top = np.uint32(x), np.uint32(y)
        right, below = min(left + np.uint32(1), np.uint32(width - 1)), min(top + np.uint32(1), np.uint32(height - 1))
        fx, fy = x - _f32(left), y - _f32(top)
        for c in range(channels):
            upper = texture[top, left, c] + fx * (texture[top, right, c] - texture[top, left, c])
            lower = texture[below, left, c] + fx * (texture[below, right, c] - texture[below, left, c])
            out[n, c] = upper + fy * (lower - upper)


@njit(**_OPTIONS)
def normals(xyz, triangles, normals):  # type: ignore[no-untyped-def]
    """Area-weighted unit normals of vertices, into zeros."""
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
            normals[v, 0] /= length
            normals[v, 1] /= length
            normals[v, 2] /= length


@njit(**_OPTIONS)
def visible(xyz, triangles, depth, tolerance, seen):  # type: ignore[no-untyped-def]
    """Whether a vertex faces the camera and is not behind the four pixels around it."""
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


@njit(**_OPTIONS)
def box_mean(image, samples, out):  # type: ignore[no-untyped-def]
    """Mean over blocks of samples x samples pixels."""
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
