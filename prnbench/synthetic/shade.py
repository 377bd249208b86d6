"""Compiled pixel kernels: deferred shading of the head, edge smoothing, soft focus, and noise.

Shapes: H rows, W columns, V vertices, F triangles, A attributes. Colours are linear light until ``to_display``.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
UInt8 = NDArray[np.uint8]

# columns of the attribute table
ALBEDO, LIGHT, NORMAL, UV, LOCAL, KIND, GLOSS = 0, 3, 6, 9, 11, 13, 14
ATTRIBUTES = 16  # one cache line a vertex
_f32 = np.float32
SKIN, BALL, MOUTH, CLOTH, PLAIN = 0.0, 1.0, 2.0, 3.0, 4.0


@njit(cache=True, nogil=True, fastmath=True)
def shade(ids, weights, triangles, table, detail, look, eyes, lamp, lamp_colour, out):  # type: ignore[no-untyped-def]
    """Colour the covered pixels of a G-buffer into ``out`` (H, W, 3) float32.

    ``detail`` (T, T, 4) uint8: brow hairs, relief, freckles, stubble on the chart; ``look`` (16,) their strengths,
    the colours of brow, stubble and skin, the clothes' pattern and neckline; ``eyes`` (8,) gaze x, y, iris colour,
    iris size, redness, pupil; ``lamp`` (3,) direction of the half vector, ``lamp_colour`` (3,) strength of the gloss.
    """
    size, last = _f32(detail.shape[0]), _f32(detail.shape[0] - 1)
    for row in range(ids.shape[0]):
        for col in range(ids.shape[1]):
            t = ids[row, col]
            if t < 0:
                continue
            a, b, c = np.uint32(triangles[t, 0]), np.uint32(triangles[t, 1]), np.uint32(triangles[t, 2])
            wa, wb, wc = weights[row, col, 0], weights[row, col, 1], weights[row, col, 2]
            kind = max(table[a, KIND], table[b, KIND], table[c, KIND])
            nx = wa * table[a, 6] + wb * table[b, 6] + wc * table[c, 6]
            ny = wa * table[a, 7] + wb * table[b, 7] + wc * table[c, 7]
            nz = wa * table[a, 8] + wb * table[b, 8] + wc * table[c, 8]
            length = _f32(1) / np.sqrt(nx * nx + ny * ny + nz * nz + _f32(1e-12))
            nx, ny, nz = nx * length, ny * length, nz * length
            red = wa * table[a, 0] + wb * table[b, 0] + wc * table[c, 0]
            green = wa * table[a, 1] + wb * table[b, 1] + wc * table[c, 1]
            blue = wa * table[a, 2] + wb * table[b, 2] + wc * table[c, 2]
            gloss = wa * table[a, GLOSS] + wb * table[b, GLOSS] + wc * table[c, GLOSS]
            local_x = wa * table[a, LOCAL] + wb * table[b, LOCAL] + wc * table[c, LOCAL]
            local_y = wa * table[a, LOCAL + 1] + wb * table[b, LOCAL + 1] + wc * table[c, LOCAL + 1]
            facing = max(nx * lamp[0] + ny * lamp[1] + nz * lamp[2], 0.0)
            narrow = facing * facing
            narrow *= narrow
            wide = narrow * facing
            narrow *= narrow
            narrow *= narrow
            if kind == BALL and table[a, KIND] == BALL and table[b, KIND] == BALL and table[c, KIND] == BALL:
                red, green, blue = _eye(local_x, local_y, red, green, blue, eyes)
                wide = 0.2 * narrow
                narrow *= narrow
                narrow *= narrow
                narrow *= narrow
                narrow *= narrow
                gloss = 0.9
            elif kind == BALL:  # the inside of the lids, drawn out between margin and ball
                red, green, blue = 0.45 * red, 0.30 * green, 0.28 * blue
            elif kind == MOUTH and local_y != 0.0:
                depth = 1.0 - abs(local_y)
                gloss = 0.06
                if 0.40 < depth < 0.66:
                    s = abs(local_x) * 5.4
                    gap = abs(s - np.floor(s + 0.5))
                    dark = 1.0 - 0.5 * np.exp(-((gap / 0.07) ** 2))
                    red, green, blue = red * dark, green * dark, blue * dark
                    wide = 0.3 * narrow
                    narrow *= narrow
                    gloss = 0.4
            elif kind == CLOTH:
                high = wa * table[a, UV] + wb * table[b, UV] + wc * table[c, UV]
                ahead = wa * table[a, UV + 1] + wb * table[b, UV + 1] + wc * table[c, UV + 1]
                red, green, blue = _cloth(local_x, local_y, high, ahead, red, green, blue, look)
            elif kind == SKIN:
                x = (wa * table[a, UV] + wb * table[b, UV] + wc * table[c, UV]) * last
                y = (_f32(1) - wa * table[a, UV + 1] - wb * table[b, UV + 1] - wc * table[c, UV + 1]) * last
                relief = _fetch(detail, x, y, 1) - 0.5
                brow = 0.0
                if 0.24 * size < y < 0.42 * size:
                    brow = look[0] * _fetch(detail, x, y, 0)
                if look[1] > 0.02:
                    fade = 1.0 - look[1] * _fetch(detail, x, y, 2)
                    red, green, blue = red * (0.7 + 0.3 * fade), green * (0.25 + 0.75 * fade), blue * fade
                if look[2] > 0.02 and y > 0.5 * size:
                    m = look[2] * _fetch(detail, x, y, 3)
                    red, green, blue = (
                        red + m * (look[6] - red),
                        green + m * (look[7] - green),
                        blue + m * (look[8] - blue),
                    )
                if brow > 0:
                    red, green, blue = (
                        red + brow * (look[3] - red),
                        green + brow * (look[4] - green),
                        blue + brow * (look[5] - blue),
                    )
                gain = 1.0 + look[9] * relief
                red, green, blue = red * gain, green * gain, blue * gain
                gloss *= max(0.0, 1.0 - brow) * (1.0 + 1.6 * relief)
            rim = 1.0 - max(nz, 0.0)
            shine = gloss * (narrow + 0.30 * wide + 0.08 * rim * rim * rim)
            lit_red = wa * table[a, 3] + wb * table[b, 3] + wc * table[c, 3]
            lit_green = wa * table[a, 4] + wb * table[b, 4] + wc * table[c, 4]
            lit_blue = wa * table[a, 5] + wb * table[b, 5] + wc * table[c, 5]
            out[row, col, 0] = red * lit_red + shine * lamp_colour[0]
            out[row, col, 1] = green * lit_green + shine * lamp_colour[1]
            out[row, col, 2] = blue * lit_blue + shine * lamp_colour[2]


@njit(cache=True, nogil=True, fastmath=True)
def _fetch(detail, x, y, channel):  # type: ignore[no-untyped-def]
    x0, y0 = np.uint32(x), np.uint32(y)
    x1, y1 = min(x0 + 1, np.uint32(detail.shape[1] - 1)), min(y0 + 1, np.uint32(detail.shape[0] - 1))
    fx, fy = x - _f32(x0), y - _f32(y0)
    a, b = _f32(detail[y0, x0, channel]), _f32(detail[y0, x1, channel])
    c, d = _f32(detail[y1, x0, channel]), _f32(detail[y1, x1, channel])
    top, low = a + (b - a) * fx, c + (d - c) * fx
    return (top + (low - top) * fy) * _f32(1 / 255)


@njit(cache=True, nogil=True, fastmath=True)
def _eye(x, y, red, green, blue, eyes):  # type: ignore[no-untyped-def]
    gx, gy = x - eyes[0], y - eyes[1]
    r = np.sqrt(gx * gx + gy * gy)
    edge = eyes[5]
    white = 0.58 - 0.30 * max(0.0, y - 0.12) ** 0.7 - 0.16 * abs(x)
    vein = eyes[6] * (0.4 + abs(x))
    red, green, blue = white, white * (0.97 - vein), white * (0.93 - vein)
    if r < edge + 0.05:
        angle = np.arctan2(gy, gx)
        fibre = 0.75 + 0.16 * np.sin(angle * 23 + 3 * np.sin(angle * 5)) + 0.14 * np.sin(angle * 41 + 1.3)
        ring = min(max((edge - r) / 0.09, 0.0), 1.0)
        near = 1.0 + 0.55 * max(0.0, 1 - abs(r - eyes[7] - 0.06) / 0.10)
        tone = fibre * (0.30 + 0.70 * ring) * near
        share = min(max((edge + 0.02 - r) / 0.04, 0.0), 1.0)
        red, green, blue = (
            red + share * (eyes[2] * tone - red),
            green + share * (eyes[3] * tone - green),
            blue + share * (eyes[4] * tone - blue),
        )
        hole = min(max((eyes[7] + 0.015 - r) / 0.03, 0.0), 1.0)
        red, green, blue = red * (1 - hole) + 0.004, green * (1 - hole) + 0.004, blue * (1 - hole) + 0.004
    return red, green, blue


@njit(cache=True, nogil=True, fastmath=True)
def _cloth(x, y, high, ahead, red, green, blue, look):  # type: ignore[no-untyped-def]
    front = min(max((ahead + 150.0) / 70.0, 0.0), 1.0)
    line = -108.0 - front * look[15] * max(0.0, 1.0 - abs(x) / 62.0)
    if look[15] > -20.0 and high > line:
        return look[12], look[13], look[14]
    weave = min(max(0.55 + (-88.0 - high) * 0.016, 0.55), 1.0)
    weave *= 1.0 + 0.06 * np.sin(x * 2.9) * np.sin(y * 3.1)
    period = look[10]
    if period > 0:
        stripe = 0.5 + 0.5 * np.tanh(4 * np.sin(2 * np.pi * (y * look[11] + x * (1 - look[11])) / period))
        weave *= 0.45 + 0.85 * stripe
    return red * weave, green * weave, blue * weave


@njit(cache=True, nogil=True, fastmath=True)
def smooth_edges(image, out):  # type: ignore[no-untyped-def]
    """Blend pixels across strong luminance edges, after the idea of FXAA (Lottes 2009)."""
    h, w = image.shape[:2]
    for row in range(h):
        up, down = max(row - 1, 0), min(row + 1, h - 1)
        for col in range(w):
            left, right = max(col - 1, 0), min(col + 1, w - 1)
            m = image[row, col, 1]
            n, s, e, wst = image[up, col, 1], image[down, col, 1], image[row, right, 1], image[row, left, 1]
            low = min(m, min(min(n, s), min(e, wst)))
            high = max(m, max(max(n, s), max(e, wst)))
            contrast = high - low
            if contrast < max(0.05, 0.16 * high):
                for k in range(3):
                    out[row, col, k] = image[row, col, k]
                continue
            share = abs(0.25 * (n + s + e + wst) - m) / contrast
            share = min(share * 2.0, 1.0)
            share = 0.75 * share * share * (3 - 2 * share)
            vertical = abs(n + s - 2 * m) >= abs(e + wst - 2 * m)
            for k in range(3):
                if vertical:
                    other = 0.5 * (image[up, col, k] + image[down, col, k])
                else:
                    other = 0.5 * (image[row, left, k] + image[row, right, k])
                out[row, col, k] = image[row, col, k] + share * (other - image[row, col, k])


@njit(cache=True, nogil=True, fastmath=True)
def to_display(image, gain, gamma_table, noise, noise_offset, strength, out):  # type: ignore[no-untyped-def]
    """Linear (H, W, 3) to display uint8: exposure and cast ``gain`` (3,), film curve table, sensor noise."""
    h, w = image.shape[:2]
    last = gamma_table.shape[0] - 1
    red, green, blue = gain[0], gain[1], gain[2]
    span = noise.shape[0] - 3 * w
    for row in range(h):
        start = (noise_offset + row * 7919) % span
        for col in range(w):
            n = start + 3 * col
            r = min(max(image[row, col, 0] * red, np.float32(0)), np.float32(1))
            g = min(max(image[row, col, 1] * green, np.float32(0)), np.float32(1))
            b = min(max(image[row, col, 2] * blue, np.float32(0)), np.float32(1))
            r = gamma_table[int(np.sqrt(r) * last)] + strength * noise[n]
            g = gamma_table[int(np.sqrt(g) * last)] + strength * noise[n + 1]
            b = gamma_table[int(np.sqrt(b) * last)] + strength * noise[n + 2]
            out[row, col, 0] = np.uint8(min(max(r, np.float32(0)), np.float32(255)))
            out[row, col, 1] = np.uint8(min(max(g, np.float32(0)), np.float32(255)))
            out[row, col, 2] = np.uint8(min(max(b, np.float32(0)), np.float32(255)))


@njit(cache=True, nogil=True, fastmath=True)
def light_vertices(normals, light, red_soft, mean_normals, transfer, turned, out):  # type: ignore[no-untyped-def]
    """Light (N, 3) at vertices: irradiance with a soft red lobe, times the share of the light that is not hidden.

    ``light`` (9, 3) is already multiplied by the cosine lobe, ``red_soft`` (9,) by the soft one; ``turned`` (2, 9) is
    the grey light in the head's frame, times the cosine lobe and as it is. An empty ``transfer`` leaves out shadows.
    """
    basis = np.empty(9, np.float32)
    shadowed = transfer.shape[0] > 0
    for i in range(normals.shape[0]):
        _basis(normals[i, 0], normals[i, 1], normals[i, 2], basis)
        red = green = blue = soft = np.float32(0)
        for k in range(9):
            red += basis[k] * light[k, 0]
            green += basis[k] * light[k, 1]
            blue += basis[k] * light[k, 2]
            soft += basis[k] * red_soft[k]
        red = np.float32(0.55) * red + np.float32(0.45) * soft
        if shadowed:
            _basis(mean_normals[i, 0], mean_normals[i, 1], mean_normals[i, 2], basis)
            whole = seen = np.float32(0)
            for k in range(9):
                whole += basis[k] * turned[0, k]
                seen += transfer[i, k] * turned[1, k]
            share = min(max(seen / max(whole, np.float32(0.12)), np.float32(0.02)), np.float32(1.15))
            red *= share * (np.float32(1.15) - np.float32(0.15) * share)  # light leaks red under the skin
            green *= share
            blue *= share
        out[i, 0] = max(red, np.float32(0.015))
        out[i, 1] = max(green, np.float32(0.015))
        out[i, 2] = max(blue, np.float32(0.015))


@njit(cache=True, inline="always")
def _basis(x, y, z, out):  # type: ignore[no-untyped-def]
    out[0] = np.float32(0.282095)
    out[1] = np.float32(0.488603) * y
    out[2] = np.float32(0.488603) * z
    out[3] = np.float32(0.488603) * x
    out[4] = np.float32(1.092548) * x * y
    out[5] = np.float32(1.092548) * y * z
    out[6] = np.float32(0.315392) * (3 * z * z - 1)
    out[7] = np.float32(1.092548) * x * z
    out[8] = np.float32(0.546274) * (x * x - y * y)
