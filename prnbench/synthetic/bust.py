"""What a picture shows around the morphable head: the back of the skull, neck and shoulders, and glasses."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from prnbench.files import replacing
from prnbench.morphable.model import load_npz
from prnbench.synthetic.chart import CENTRE
from prnbench.synthetic.head import built_in_head, cached_file, head_parts
from prnbench.synthetic.light import COSINE_LOBE, sh_basis, transfer_vectors
from prnbench.synthetic.surface import HeadSurface

Array = NDArray[np.float64]
Float32 = NDArray[np.float32]
Int32 = NDArray[np.int32]

_BACK_ROWS = 16


@dataclass(frozen=True, eq=False)
class Bust:
    """The closed head around the model.

    Attributes
    ----------
    back
        (B, 3) float32 mm, vertices that close the back of the head at the mean.
    link
        (B,) int32 rim vertex of the model whose displacement each of them follows.
    triangles
        (F, 3) int32 of the whole head; ids from V on are the back's. The model's own triangles come first.
    transfer
        (V + B, 9) float32 precomputed light transfer.
    normals
        (V + B, 3) float32 unit normals at the mean.
    """

    back: Float32
    link: Int32
    triangles: Int32
    transfer: Float32
    normals: Float32


@lru_cache(maxsize=1)
def bust() -> Bust:
    """Return the built-in head's surroundings, made once and cached."""
    path = cached_file("bust", "bust", "light")
    if path.is_file():
        return Bust(**load_npz(path))
    made = _build()
    with replacing(path) as temporary, temporary.open("wb") as handle:
        np.savez(handle, **{name: getattr(made, name) for name in Bust.__dataclass_fields__})
    return made


def rim_loop(triangles: NDArray[np.integer], uv: Float32) -> Int32:
    """Ids of the model's boundary in order around the chart."""
    edges = np.sort(np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]]), axis=1)
    unique, counts = np.unique(edges, axis=0, return_counts=True)
    rim = np.unique(unique[counts == 1])
    angle = np.arctan2(uv[rim, 1] - 0.5, uv[rim, 0] - 0.5)
    return np.asarray(rim[np.argsort(angle)], np.int32)


def _build() -> Bust:
    from prnbench.render import vertex_normals

    model, parts = built_in_head(), head_parts()
    mean = model.mean.astype(np.float64) / 1000
    rim = rim_loop(model.triangles, model.uv)  # type: ignore[arg-type]
    back, link = _back_rows(mean[rim], rim)
    grid = np.concatenate([rim[None], len(mean) + np.arange(len(back) - 1).reshape(_BACK_ROWS - 1, -1)])
    tip = len(mean) + len(back) - 1
    around = np.roll(grid, -1, axis=1)
    quads = [(grid[:-1], grid[1:], around[1:]), (grid[:-1], around[1:], around[:-1])]
    rows = [np.stack(q, -1).reshape(-1, 3) for q in quads]
    fan = np.stack([grid[-1], np.full(len(rim), tip), around[-1]], axis=1)
    triangles = np.concatenate([model.triangles, *rows, fan]).astype(np.int32)
    whole = np.concatenate([mean, back])
    transfer = transfer_vectors(whole, triangles)
    transfer[: len(mean)] = _lit_mouth(transfer[: len(mean)], parts.part, parts.local)
    return Bust(back.astype(np.float32), link, triangles, transfer, vertex_normals(whole, triangles).astype(np.float32))


def _lit_mouth(transfer: Float32, part: NDArray[np.int8], local: Float32) -> Float32:
    """The cavity is seen with open lips only: let it see the front, less the deeper it lies."""
    depth = 1 - np.abs(local[:, 1])
    share = np.interp(depth, [0, 0.1, 0.3, 0.42, 0.62, 0.72, 0.85, 1.0], [0.9, 0.7, 0.5, 0.62, 0.72, 0.30, 0.12, 0.02])
    front = sh_basis(np.array([[0.0, -0.25, 0.968]]))[0] * COSINE_LOBE.astype(np.float32)
    return np.where((part == 2)[:, None], share[:, None].astype(np.float32) * front, transfer).astype(np.float32)


def _back_rows(rim_points: Array, rim: Int32) -> tuple[Array, Int32]:
    """Rows from the rim to the pole at the back of the skull, on the surface's own radial function."""
    surface = HeadSurface()
    offset = rim_points - CENTRE
    d = offset / np.linalg.norm(offset, axis=1, keepdims=True)
    polar, azimuth = np.arccos(d[:, 2]), np.arctan2(d[:, 1], d[:, 0])
    jump = rim_points - surface.base(d)
    rows = []
    for k in range(1, _BACK_ROWS):
        t = k / _BACK_ROWS
        psi = polar + (np.pi - polar) * t
        ray = np.stack([np.sin(psi) * np.cos(azimuth), np.sin(psi) * np.sin(azimuth), np.cos(psi)], axis=1)
        rows.append(surface.base(ray) + jump * (1 - t) ** 2)
    tip = surface.base(np.array([[0.0, 0.0, -1.0]]))
    back = np.concatenate([*rows, tip])
    lowest = np.maximum(-150.0 - back[:, 1], 0)
    back[:, 1] += lowest
    return back, np.append(np.tile(rim, _BACK_ROWS - 1), rim[0]).astype(np.int32)


_SHOULDER_ROWS = np.array([
    # y, half width x, front z, back z, squareness
    (-82, 42, -92, -150, 2.0), (-94, 54, -78, -166, 2.0), (-104, 61, -68, -174, 2.0), (-113, 72, -59, -180, 2.1),
    (-122, 96, -50, -188, 2.2), (-134, 140, -44, -196, 2.4), (-150, 180, -36, -205, 2.6), (-175, 205, -28, -212, 2.8),
    (-230, 218, -18, -220, 2.8), (-330, 222, -10, -225, 2.8), (-480, 224, -10, -225, 2.8),
], float)  # fmt: skip
_SHOULDER_SIDES = 64


@lru_cache(maxsize=1)
def shoulders() -> tuple[Float32, Int32, Float32]:
    """Clothed shoulders: vertices (N, 3) mm, triangles, and pattern coordinates (N, 2) in mm."""
    from scipy.interpolate import PchipInterpolator

    t = np.linspace(0, len(_SHOULDER_ROWS) - 1, 34)
    y, half, front, back, square = PchipInterpolator(np.arange(len(_SHOULDER_ROWS)), _SHOULDER_ROWS)(t).T
    angle = np.linspace(0, 2 * np.pi, _SHOULDER_SIDES, endpoint=False)
    c, s = np.cos(angle), np.sin(angle)
    power = 2 / square[:, None]
    x = half[:, None] * np.sign(c) * np.abs(c) ** power
    mid, deep = (front + back)[:, None] / 2, (front - back)[:, None] / 2
    z = mid + deep * np.sign(s) * np.abs(s) ** power
    v_neck = -10.0 * np.exp(-((np.arange(34)[:, None] / 5.0) ** 2)) * np.maximum(s, 0) ** 3
    yy = y[:, None] + v_neck + 0 * x
    points = np.stack([x, yy, z], -1).reshape(-1, 3)
    grid = np.arange(len(points)).reshape(34, -1)
    a, b = grid[:-1], np.roll(grid, -1, axis=1)[:-1]
    c0, d0 = np.roll(grid, -1, axis=1)[1:], grid[1:]
    triangles = np.concatenate([np.stack([a, c0, b], -1).reshape(-1, 3), np.stack([a, d0, c0], -1).reshape(-1, 3)])
    pattern = np.stack([x, -yy - np.abs(z)], -1).reshape(-1, 2)
    return points.astype(np.float32), triangles[:, ::-1].astype(np.int32), pattern.astype(np.float32)


def glasses(rng: np.random.Generator) -> tuple[Float32, Int32, NDArray[np.int8]]:
    """A random pair of glasses on the mean head: vertices (N, 3) mm, triangles, and 0 frame / 1 lens a vertex."""
    width, height = rng.uniform(22, 29), rng.uniform(15, 24)
    square = rng.uniform(2.0, 4.5)
    radius = rng.uniform(0.7, 2.6)
    centre = np.array([33.5, 27.5, -20.0])
    angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    c, s = np.cos(angle), np.sin(angle)
    rim = np.stack([width * np.sign(c) * np.abs(c) ** (2 / square), height * np.sign(s) * np.abs(s) ** (2 / square)], 1)
    wrap = -0.008 * (centre[0] + rim[:, 0]) ** 2 + 9
    right = np.concatenate([centre[:2] + rim, (centre[2] + wrap)[:, None]], axis=1)
    bridge = np.array([(-9.5, 31, -16), (-5, 33.5, -12.5), (0, 34.3, -11.5), (5, 33.5, -12.5), (9.5, 31, -16)], float)
    outer = right[np.argmax(right[:, 0])]
    temple = np.array([outer, (74, 33, -50), (77, 34, -100), (76, 30, -122)], float)
    pieces = [_tube(right, radius, True), _tube(bridge, radius, False), _tube(temple, radius, False)]
    mirrored = [(v * (-1, 1, 1), t[:, ::-1]) for v, t in (pieces[0], pieces[2])]
    kinds = [np.zeros(len(v), np.int8) for v, _ in [*pieces, *mirrored]]
    for sign in (1, -1):
        lens = np.concatenate([right, right.mean(axis=0, keepdims=True)]) * (sign, 1, 1)
        k = np.arange(40)
        fan = np.stack([k, np.roll(k, -1), np.full(40, 40)], axis=1)
        mirrored.append((lens, fan if sign > 0 else fan[:, ::-1]))
        kinds.append(np.ones(41, np.int8))
    everything = [*pieces, *mirrored]
    starts = np.cumsum([0, *(len(v) for v, _ in everything)])
    triangles = np.concatenate([t + o for (_, t), o in zip(everything, starts, strict=False)])
    return (
        np.concatenate([v for v, _ in everything]).astype(np.float32),
        triangles.astype(np.int32),
        np.concatenate(kinds),
    )


def _tube(path: Array, radius: float, closed: bool) -> tuple[Array, NDArray[np.int64]]:
    ahead = np.roll(path, -1, 0) - np.roll(path, 1, 0) if closed else np.gradient(path, axis=0)
    ahead /= np.linalg.norm(ahead, axis=1, keepdims=True)
    side = np.cross(ahead, np.where(np.abs(ahead[:, 2:]) > 0.9, (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)))
    side /= np.linalg.norm(side, axis=1, keepdims=True)
    up = np.cross(side, ahead)
    turn = np.linspace(0, 2 * np.pi, 8, endpoint=False)
    ring = path[:, None] + radius * (np.cos(turn)[:, None] * side[:, None] + np.sin(turn)[:, None] * up[:, None])
    grid = np.arange(ring.shape[0] * 8).reshape(-1, 8)
    rows = np.concatenate([grid, grid[:1]]) if closed else grid
    a, b = rows[:-1], np.roll(rows, -1, axis=1)[:-1]
    c, d = np.roll(rows, -1, axis=1)[1:], rows[1:]
    triangles = np.concatenate([np.stack([a, b, c], -1).reshape(-1, 3), np.stack([a, c, d], -1).reshape(-1, 3)])
    return ring.reshape(-1, 3), triangles
