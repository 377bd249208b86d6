"""Fine detail painted on the chart: brow hairs, skin relief, freckles and stubble, 1024 x 1024, made once."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from prnbench.files import replacing
from prnbench.morphable.model import load_npz
from prnbench.synthetic.chart import points_to_disk
from prnbench.synthetic.head import built_in_head, cached_file

Array = NDArray[np.float64]
SIZE = 1024
VARIANTS = 4


@lru_cache(maxsize=1)
def detail_maps() -> NDArray[np.uint8]:
    """(VARIANTS, SIZE, SIZE, 4) uint8: brow hairs, relief (128 is flat), freckles, stubble; row 0 is v = 1."""
    path = cached_file("detail", "detail")
    if path.is_file():
        return load_npz(path)["maps"]
    maps = np.stack([_paint(seed) for seed in range(VARIANTS)])
    with replacing(path) as temporary, temporary.open("wb") as handle:
        np.savez_compressed(handle, maps=maps)
    return maps


def _paint(seed: int) -> NDArray[np.uint8]:
    from prnbench.render import interpolate, rasterise, texture_points

    model = built_in_head()
    points = texture_points(model.uv, SIZE, SIZE)  # type: ignore[arg-type]
    flat = np.concatenate([points, np.zeros((len(points), 1), np.float32)], axis=1)
    buffer = rasterise(flat, model.triangles, SIZE, SIZE)
    place = interpolate(buffer, model.triangles, model.mean / 1000).astype(np.float64)
    rng = np.random.default_rng([71, seed])
    brow = _brow_hairs(rng)
    relief = _relief(rng, place)
    freckles = _spots(rng)
    stubble = _stubble(rng, place)
    return np.stack([brow, relief, freckles, stubble], axis=-1)


def _brow_hairs(rng: np.random.Generator) -> NDArray[np.uint8]:
    """Short curved strokes that start upright at the nose and lie down towards the temple."""
    import cv2

    canvas = np.zeros((SIZE, SIZE), np.uint8)
    knots = np.array([(9.5, 53.0), (16, 55.2), (24, 57.0), (34, 58.2), (44, 56.6), (53, 52.2), (59, 48.5)])
    for side in (1, -1):
        for _ in range(520):
            t = rng.beta(0.95, 1.25)
            a = knots[0, 0] + t * (knots[-1, 0] - knots[0, 0])
            middle = np.interp(a, knots[:, 0], knots[:, 1])
            half = (4.2 - 2.9 * t**1.3) * (0.6 + 0.4 * min(t / 0.16, 1.0))
            y = middle - 1.2 + half * rng.uniform(-1, 1)
            lean = np.deg2rad(np.interp(t, [0, 0.12, 0.4, 1], [80, 50, 18, -14]) + rng.normal(0, 9)
                              - np.interp(t, [0, 0.5, 1], [6, 14, 4]) * np.sign(y - middle))  # fmt: skip
            length = rng.uniform(5.0, 9.5) * (1 - 0.3 * t)
            steps = np.linspace(0, 1, 6)[:, None]
            ahead = np.array([np.cos(lean), np.sin(lean)])
            bend = np.array([np.cos(lean - 0.35), np.sin(lean - 0.35)])
            path = np.array([a, y]) + length * (steps * ahead * (1 - steps) + steps * steps * bend)
            z = np.interp(path[:, 0], [0, 12, 24, 38, 49, 58, 64], [-22, -23, -26, -32, -41, -52, -62])
            uv = points_to_disk(np.stack([side * path[:, 0], path[:, 1], z], axis=1))
            pixels = np.stack([uv[:, 0] * (SIZE - 1), (1 - uv[:, 1]) * (SIZE - 1)], axis=1)
            layer = (pixels * 16).round().astype(np.int32).reshape(-1, 1, 2)
            cv2.polylines(canvas, [layer], False, int(rng.integers(150, 256)), 1, cv2.LINE_AA, 4)
    soft = cv2.GaussianBlur(canvas, (0, 0), 2.2)
    return np.asarray(
        np.maximum((0.85 * canvas).astype(np.uint8), np.minimum(soft.astype(int) * 12 // 10, 200).astype(np.uint8))
    )


def _relief(rng: np.random.Generator, place: Array) -> NDArray[np.uint8]:
    """Pores and fine lines, with furrows on the brow and lines beside the eyes and on the lips."""
    import cv2

    fine = cv2.GaussianBlur(rng.normal(0, 1, (SIZE, SIZE)).astype(np.float32), (0, 0), 0.9) * 1.8
    middle = cv2.GaussianBlur(rng.normal(0, 1, (SIZE, SIZE)).astype(np.float32), (0, 0), 3.2) * 5.0
    broad = cv2.GaussianBlur(rng.normal(0, 1, (SIZE, SIZE)).astype(np.float32), (0, 0), 11) * 13.0
    x, y, z = np.moveaxis(place, -1, 0)
    wave = 0.9 * np.sin(x * 0.11 + rng.uniform(0, 6)) + 0.25 * broad
    furrow = np.exp(-(((y - 84) / 18) ** 2)) * np.exp(-((x / 40) ** 2)) * (z > -70)
    furrows = -np.maximum(np.cos((y + wave) * 0.75) - 0.72, 0) * 4.0 * furrow
    crow = np.exp(-(((np.abs(x) - 55) / 6) ** 2) - ((y - 28) / 9) ** 2)
    angle = np.arctan2(y - 29, np.abs(x) - 40)
    crows = -np.maximum(np.cos(angle * 17) - 0.6, 0) * 2.0 * crow
    lip = np.exp(-(((y + 38) / 8) ** 2)) * (np.abs(x) < 24) * (z > -40)
    lips = 0.6 * np.sin(x * 2.4 + 0.6 * broad) * lip
    value = 0.55 * fine + 0.45 * middle + 0.35 * broad + furrows + crows + lips
    return np.asarray(np.clip(128 + 34 * value, 0, 255).astype(np.uint8))


def _spots(rng: np.random.Generator) -> NDArray[np.uint8]:
    """Freckles, dense across nose and cheeks, with a few moles."""
    import cv2

    canvas = np.zeros((SIZE, SIZE), np.uint8)
    centre = (0.5 * (SIZE - 1), 0.5 * (SIZE - 1))
    for _ in range(1500):
        x, y = rng.normal(centre[0], 150), rng.normal(centre[1] - 5, 75)
        radius = rng.gamma(2.0, 0.55) + 0.5
        cv2.circle(canvas, (int(x * 16), int(y * 16)), int(radius * 16), int(rng.integers(50, 200)), -1, cv2.LINE_AA, 4)
    for _ in range(int(rng.integers(2, 7))):
        x, y = rng.uniform(0.2, 0.8, 2) * SIZE
        cv2.circle(canvas, (int(x * 16), int(y * 16)), int(rng.uniform(1.5, 3.2) * 16), 255, -1, cv2.LINE_AA, 4)
    return np.asarray(cv2.GaussianBlur(canvas, (0, 0), 0.8))


def _stubble(rng: np.random.Generator, place: Array) -> NDArray[np.uint8]:
    """Beard density with single hairs."""
    import cv2

    from prnbench.synthetic.skin import beard_share

    x, y, z = np.moveaxis(place, -1, 0)
    density = beard_share(np.abs(x), y, z) * (z > -130)
    dots = rng.uniform(0, 1, (SIZE, SIZE)).astype(np.float32)
    hairs = cv2.GaussianBlur((dots > 0.86).astype(np.float32), (0, 0), 0.7) * 2.2
    soft = cv2.GaussianBlur(density.astype(np.float32), (0, 0), 4)
    return np.asarray(np.clip(255 * soft * (0.42 + 0.6 * hairs), 0, 255).astype(np.uint8))
