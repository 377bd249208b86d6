"""Things before a face: hands, boxes, microphones and scarves."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from prnbench.synthetic.background import _colour

Float32 = NDArray[np.float32]
Array = NDArray[np.float64]


def draw_occluder(canvas: Float32, box: Array, light: Array, rng: np.random.Generator) -> None:
    """Paint one occluder over part of the face box (left, top, right, bottom) of a linear picture."""
    import cv2

    size = canvas.shape[0]
    mask = np.zeros((size, size), np.float32)
    shading = np.ones((size, size), np.float32)
    w, h = box[2] - box[0], box[3] - box[1]
    x, y = box[0] + w * rng.uniform(-0.1, 1.1), box[1] + h * rng.uniform(0.1, 1.15)
    if rng.random() < 0.5:
        colour = np.array([0.45, 0.26, 0.18]) * rng.lognormal(-0.2, 0.5)
        _hand(mask, shading, x, y, w * rng.uniform(0.16, 0.24), rng)
    else:
        colour = _colour(rng).astype(float)
        size_wh = (float(w * rng.uniform(0.15, 0.6)), float(h * rng.uniform(0.15, 0.6)))
        corners = cv2.boxPoints(((float(x), float(y)), size_wh, float(rng.uniform(-40, 40))))
        cv2.fillPoly(mask, [corners.astype(np.int32)], 1.0, cv2.LINE_AA)
        shading += 0.15 * np.sin(np.arange(size) * rng.uniform(0.05, 0.4))[None].astype(np.float32)
    mask = cv2.GaussianBlur(mask, (0, 0), 0.8)[..., None]
    lit = (colour * (light[0] * 0.28))[None, None].astype(np.float32) * shading[..., None]
    canvas += mask * (lit - canvas)


def _hand(mask: Float32, shading: Float32, x: float, y: float, unit: float, rng: np.random.Generator) -> None:
    """Four fingers and a palm as thick rounded lines, shaded towards their edges."""
    import cv2

    lean = rng.uniform(0, 2 * np.pi)
    up, side = np.array([np.cos(lean), np.sin(lean)]), np.array([-np.sin(lean), np.cos(lean)])
    root = np.array([x, y])
    depth = np.zeros_like(mask)
    for k in range(4):
        start = root + side * (k - 1.5) * unit * 0.52
        end = start + up * unit * (2.0 + 0.35 * (k in (1, 2))) + side * (k - 1.5) * unit * rng.uniform(-0.1, 0.25)
        line = np.zeros_like(mask)
        _line(line, start, end, 0.46 * unit)
        np.maximum(depth, cv2.GaussianBlur(line, (0, 0), 0.13 * unit), out=depth)
        np.maximum(mask, line, out=mask)
    palm = np.zeros_like(mask)
    _line(palm, root, root - up * unit * 2.2, 2.1 * unit)
    np.maximum(mask, palm, out=mask)
    np.maximum(depth, cv2.GaussianBlur(palm, (0, 0), 0.2 * unit), out=depth)
    shading[...] = 0.35 + 0.75 * depth


def _line(image: Float32, start: Array, end: Array, width: float) -> None:
    import cv2

    a, b = (tuple(int(v) for v in p) for p in (start, end))
    cv2.line(image, a, b, 1.0, max(int(width), 2), cv2.LINE_AA)
