"""What stands behind a head: gradients, clouds, out-of-focus shapes and lights."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]


def background(rng: np.random.Generator, size: int) -> Float32:
    """(size, size, 3) float32 linear picture without a face."""
    import cv2

    small = size // 3
    base = _colour(rng)
    kind = rng.choice(5, p=[0.12, 0.2, 0.2, 0.38, 0.1])
    if kind == 0:
        image = np.broadcast_to(base, (small, small, 3)).astype(np.float32).copy()
    else:
        image = _gradient(rng, small, base, _colour(rng))
    if kind == 2:
        image *= _clouds(rng, small)
    if kind >= 3:
        for _ in range(int(rng.integers(3, 26))):
            _shape(rng, image, lights=kind == 4)
        blur = rng.choice([rng.uniform(0.7, 1.5), rng.uniform(1.5, 10)])
        image = cv2.GaussianBlur(image, (0, 0), float(blur))
    return np.ascontiguousarray(cv2.resize(np.clip(image, 0, 1.2), (size, size), interpolation=cv2.INTER_LINEAR))


def studio(size: int) -> Float32:
    """(size, size, 3) plain grey, lighter in the middle."""
    y, x = np.mgrid[0:size, 0:size] / size - 0.5
    grey = 0.30 * np.exp(-2.2 * (x**2 + y**2))
    return np.repeat(grey[..., None], 3, axis=2).astype(np.float32) * np.array([0.95, 1.0, 1.06], np.float32)


def _colour(rng: np.random.Generator) -> Float32:
    value = rng.choice([rng.uniform(0.0, 0.06), rng.uniform(0.06, 0.4), rng.uniform(0.4, 1.0)], p=[0.3, 0.4, 0.3])
    hue = rng.dirichlet([2.0, 2.0, 2.0]) * 3
    mix = rng.beta(1.2, 2.5)
    return np.asarray(value * (1 - mix + mix * hue), np.float32)


def _gradient(rng: np.random.Generator, size: int, a: Float32, b: Float32) -> Float32:
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[0:size, 0:size] / size - 0.5
    t = np.clip((x * np.cos(angle) + y * np.sin(angle)) * rng.uniform(0.6, 2) + 0.5, 0, 1)[..., None]
    return np.asarray((a * (1 - t) + b * t).astype(np.float32))


def _clouds(rng: np.random.Generator, size: int) -> Float32:
    import cv2

    out = np.zeros((size, size, 1), np.float32)
    for cells, weight in ((4, 0.5), (9, 0.3), (20, 0.2), (50, 0.12)):
        layer = rng.normal(0, 1, (cells, cells)).astype(np.float32)
        out[..., 0] += weight * cv2.resize(layer, (size, size), interpolation=cv2.INTER_CUBIC)
    return np.asarray(np.exp(0.9 * out))


def _shape(rng: np.random.Generator, image: Float32, lights: bool) -> None:
    import cv2

    size = image.shape[0]
    colour = [float(c) for c in _colour(rng) * (2.5 if lights else 1.0)]
    x, y = (int(v) for v in rng.integers(-20, size + 20, 2))
    if lights or rng.random() < 0.3:
        cv2.circle(image, (x, y), int(rng.integers(3, 14 if lights else 45)), colour, -1, cv2.LINE_AA)
    elif rng.random() < 0.6:
        w, h = (int(v) for v in rng.integers(6, 90, 2))
        corners = cv2.boxPoints(((x, y), (w, h), float(rng.choice([0, 0, rng.uniform(-40, 40)]))))
        cv2.fillPoly(image, [corners.astype(np.int32)], colour, cv2.LINE_AA)
    else:
        end = tuple(int(v) for v in rng.integers(-20, size + 20, 2))
        cv2.line(image, (x, y), end, colour, int(rng.integers(1, 16)), cv2.LINE_AA)
