"""Hair: a shell over the scalp, a curtain for long hair, and the compiled kernel that draws strands on them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numba import njit
from numpy.typing import NDArray

from prnbench.synthetic.bust import bust
from prnbench.synthetic.fields import smoothstep
from prnbench.synthetic.head import built_in_head, head_parts

Array = NDArray[np.float64]
Float32 = NDArray[np.float32]
Int32 = NDArray[np.int32]

# linear colours, and how often they are drawn
COLOURS: list[tuple[str, tuple[float, float, float], float]] = [
    ("black", (0.010, 0.009, 0.009), 0.30),
    ("dark brown", (0.030, 0.018, 0.011), 0.24),
    ("brown", (0.075, 0.042, 0.023), 0.16),
    ("auburn", (0.12, 0.045, 0.020), 0.05),
    ("dark blond", (0.20, 0.135, 0.070), 0.08),
    ("blond", (0.40, 0.29, 0.16), 0.06),
    ("grey", (0.22, 0.22, 0.22), 0.06),
    ("white", (0.55, 0.54, 0.52), 0.05),
]
CROWN: Array = np.array([0.0, 128.0, -135.0])
_CURTAIN_SIDES, _CURTAIN_ROWS = 84, 26


# shares of bald, crop, medium, long, afro, fringe, tied
_BEARDED = (0.12, 0.42, 0.22, 0.05, 0.05, 0.10, 0.04)
_SMOOTH = (0.02, 0.12, 0.16, 0.38, 0.05, 0.17, 0.10)


@dataclass(frozen=True)
class HairStyle:
    """Random numbers that make one head of hair; lengths in mm."""

    kind: str
    colour: tuple[float, float, float]
    top: float
    sides: float
    hairline: float
    recess: float
    fringe: float
    length: float
    wave: float
    front_angle: float
    part: float


def draw_style(rng: np.random.Generator, old: float, *, dark: bool = False, bearded: bool = False) -> HairStyle:
    """Draw a hair style.

    ``old`` in 0..1 makes grey and receding hair likelier, ``dark`` black and brown hair, ``bearded`` short hair.
    """
    kinds = ["bald", "crop", "medium", "long", "afro", "fringe", "tied"]
    kind = str(rng.choice(kinds, p=_BEARDED if bearded else _SMOOTH))
    weights = np.array([c[2] for c in COLOURS]) * np.where(np.arange(len(COLOURS)) >= 6, 0.15 + 3 * old, 1.0)
    if dark:
        weights[2:6] *= 0.12
    colour = np.array(COLOURS[int(rng.choice(len(COLOURS), p=weights / weights.sum()))][1])
    colour = colour * rng.lognormal(0, 0.22) * rng.normal(1, 0.04, 3)
    top = {"bald": 1.0, "crop": rng.uniform(2, 9), "medium": rng.uniform(9, 24), "long": rng.uniform(8, 20),
           "afro": rng.uniform(28, 58), "fringe": rng.uniform(8, 20), "tied": rng.uniform(4, 9)}[kind]  # fmt: skip
    sides = top * {"afro": rng.uniform(0.7, 1.0), "crop": rng.uniform(0.3, 1.0)}.get(kind, rng.uniform(0.4, 0.8))
    return HairStyle(
        kind=kind,
        colour=(float(colour[0]), float(colour[1]), float(colour[2])),
        top=top,
        sides=max(sides, 1.5),
        hairline=float(rng.normal(94, 5)) + (14 * old if kind == "crop" else 0),
        recess=float(np.clip(rng.normal(5, 8) + 16 * old, 0, 34)) if kind != "long" else float(rng.uniform(0, 8)),
        fringe=float(rng.uniform(18, 42)) if kind == "fringe" or (kind == "long" and rng.random() < 0.35) else 0.0,
        length=float(rng.uniform(40, 300)) if kind == "long" else 0.0,
        wave=float(rng.gamma(1.2, 2.0)) if kind != "afro" else 7.0,
        front_angle=float(rng.uniform(48, 92)),
        part=float(rng.uniform(-30, 30)),
    )


@dataclass(frozen=True, eq=False)
class Scalp:
    """Vertices of the whole head that can carry hair."""

    ids: Int32
    triangles: Int32
    mean: Float32


@lru_cache(maxsize=1)
def scalp() -> Scalp:
    """Return the part of the head that hair may cover."""
    whole = np.concatenate([built_in_head().mean / 1000, bust().back])
    part = np.concatenate([head_parts().part, np.zeros(len(bust().back), np.int8)])
    y, z = whole[:, 1], whole[:, 2]
    keep = (part == 0) & (y > np.interp(z, [-170, -120, -100, -60, -45, -20], [-80, -60, -25, 20, 56, 58]))
    new = np.full(len(whole), -1)
    new[keep] = np.arange(keep.sum())
    t = new[bust().triangles]
    return Scalp(np.flatnonzero(keep).astype(np.int32), t[(t >= 0).all(axis=1)].astype(np.int32), whole[keep])


def hairline_distance(p: Float32, style: HairStyle) -> Float32:
    """(N,) mm that points of the mean head lie inside the hairline; negative on the face."""
    a, y, z = np.abs(p[:, 0]), p[:, 1], p[:, 2]
    front = style.hairline - style.fringe * smoothstep((58 - a) / 26)
    front = front + style.recess * np.exp(-(((a - 38) / 14) ** 2)) - 3 * np.exp(-((a / 8) ** 2))
    side = np.interp(z, [-165, -150, -136, -126, -121, -104, -100, -92, -84, -76, -66, -56],
                     [-64, -56, -28, 6, 40, 44, 20, 12, 26, 52, 66, 80])  # fmt: skip
    blend = smoothstep((z + 70) / 26)
    line = blend * front + (1 - blend) * side
    inside = y - line
    if style.kind == "bald":
        inside = np.minimum(inside, 52 - y + 0.25 * (z + 190))
    return np.asarray(inside.astype(np.float32))


def shell(whole: Float32, normals: Float32, style: HairStyle) -> tuple[Float32, Int32, Float32]:
    """Hair over the scalp of a head ``whole`` (V + B, 3) mm with unit normals.

    Returns
    -------
    vertices (N, 3) mm, triangles (F, 3), strand attributes (N, 4): distance inside the hairline, x and z about the
    crown, distance from the crown.
    """
    s = scalp()
    p, n, mean = whole[s.ids], normals[s.ids], s.mean
    inside = hairline_distance(mean, style)
    up = smoothstep((mean[:, 1] - 40) / 70)
    thick = style.sides + (style.top - style.sides) * up
    rise = smoothstep(inside / (8 + 0.6 * thick)) ** 0.7
    lumps = np.sin(mean[:, 0] * 0.13 + style.part) * np.sin(mean[:, 1] * 0.11) * np.sin(mean[:, 2] * 0.09 + style.wave)
    parting = 1 - 0.35 * np.exp(-(((mean[:, 0] - style.part) / 5) ** 2)) * up * (style.top > 7)
    height = thick * rise * (1 + 0.22 * lumps) * parting + 0.8
    if style.fringe > 0:
        height = height + 3.0 * smoothstep((mean[:, 2] + 60) / 20) * smoothstep(inside / 6)
    lift = n * height[:, None].astype(np.float32)
    lift[:, 1] += (0.25 * height * up).astype(np.float32)
    around = mean - CROWN.astype(np.float32)
    strands = np.stack([inside, around[:, 0], around[:, 2], np.linalg.norm(around, axis=1)], axis=1)
    return (p + lift).astype(np.float32), s.triangles, strands.astype(np.float32)


def curtain(width: float, style: HairStyle, rng: np.random.Generator) -> tuple[Float32, Int32, Float32]:
    """Long hair that hangs from ear height; ``width`` scales it to the head. Returns as :func:`shell`."""
    start = np.deg2rad(style.front_angle)
    angle = np.linspace(start, 2 * np.pi - start, _CURTAIN_SIDES)[None]
    t = np.linspace(0, 1, _CURTAIN_ROWS)[:, None]
    bottom = -20 - style.length
    top = 86.0 - 10 * np.cos(angle)
    y = top + (bottom - top) * t
    drop = top - y
    out = style.sides + 3 + 9 * smoothstep(drop / 90) + 0.05 * np.maximum(drop - 90, 0)
    taper = np.maximum(drop - 60, 0) * 0.04 * (style.length < 120)
    waves = style.wave * np.sin(drop / 16 + 5 * angle + style.part) * smoothstep(drop / 70)
    lumps = 2.5 * np.sin(9 * angle + style.part) + 2.0 * np.sin(17 * angle + 1.7 * style.part)
    r = out - taper + 0.6 * waves + lumps * smoothstep(drop / 60)
    above = 1 - 0.28 * smoothstep((y - 40) / 70)
    if style.front_angle < 78:  # over the ears
        aside = np.exp(-(((np.minimum(angle, 2 * np.pi - angle) - 1.75) / 0.38) ** 2))
        r = r + 14 * aside * smoothstep((y + 60) / 40) * smoothstep((66 - y) / 25)
    x = (74 * above + r) * np.sin(angle) * width
    z = -118 + (92 * above + r) * np.cos(angle) * np.where(np.cos(angle) > 0, 0.62, 1.0)
    fall = smoothstep((-95 - y) / 60)
    z = z + fall * 26 * np.where(np.cos(angle) > -0.2, 1.0, -0.6)
    points = np.stack([x, y, z], -1).reshape(-1, 3)
    grid = np.arange(len(points)).reshape(_CURTAIN_ROWS, _CURTAIN_SIDES)
    a, b, c, d = grid[:-1, :-1], grid[:-1, 1:], grid[1:, 1:], grid[1:, :-1]
    triangles = np.concatenate([np.stack([a, c, b], -1).reshape(-1, 3), np.stack([a, d, c], -1).reshape(-1, 3)])
    from_front = np.minimum(angle - start, 2 * np.pi - start - angle) * 80
    from_bottom = y - bottom - rng.uniform(0, 20)
    inside = np.minimum(np.minimum(from_front, 0.6 * from_bottom), 14.0) + 0 * y
    strands = np.stack([inside, np.sin(angle) * 100 + 0 * y, np.cos(angle) * 100 + 0 * y, 150 + drop], -1)
    return points.astype(np.float32), triangles.astype(np.int32), strands.reshape(-1, 4).astype(np.float32)


@lru_cache(maxsize=1)
def strand_noise() -> Float32:
    """(256, 2048) float32 noise, fine across the strands, drawn out along them; mean 0, tileable across."""
    rng = np.random.default_rng(11)
    out = np.zeros((256, 2048), np.float32)
    for width, length, weight in ((0.7, 26, 0.7), (2, 40, 0.6), (5, 60, 0.45), (16, 90, 0.28)):
        layer = rng.normal(0, 1, out.shape)
        spectrum = np.fft.rfft2(layer)
        fy = np.fft.fftfreq(256)[:, None] * length
        fx = np.fft.rfftfreq(2048)[None] * width
        layer = np.fft.irfft2(spectrum * np.exp(-2 * (fx**2 + fy**2) * 3), s=out.shape)
        out += (weight * layer / layer.std()).astype(np.float32)
    return np.asarray((out / out.std()).astype(np.float32))


@njit(cache=True, nogil=True, fastmath=True)
def draw_hair(ids, weights, depth, behind, triangles, table, noise, colour, look, lamp, lamp_colour, out):  # type: ignore[no-untyped-def]
    """Blend hair over ``out`` where it lies before ``behind`` (H, W) depth.

    ``table`` (N, 13): inside, x, z, along, normal (3), tangent (3), light (3). ``look``: wave, edge noise, softness,
    strand contrast.
    """
    rows, cols = noise.shape
    values = np.empty(13, np.float32)
    beyond = -5 * look[1]  # the noise has unit deviation and stays under 4.3
    for row in range(ids.shape[0]):
        for col in range(ids.shape[1]):
            t = ids[row, col]
            if t < 0 or depth[row, col] < behind[row, col]:
                continue
            a, b, c = np.uint32(triangles[t, 0]), np.uint32(triangles[t, 1]), np.uint32(triangles[t, 2])
            wa, wb, wc = weights[row, col, 0], weights[row, col, 1], weights[row, col, 2]
            if wa * table[a, 0] + wb * table[b, 0] + wc * table[c, 0] < beyond:
                continue
            for k in range(13):
                values[k] = wa * table[a, k] + wb * table[b, k] + wc * table[c, k]
            along = values[3]
            phi = np.arctan2(values[1], values[2]) + 0.012 * look[0] * np.sin(
                along * 0.09 + 4 * np.sin(phi_seed(values[1]))
            )
            u = phi * (cols / (2 * np.pi))
            v = along * 0.55
            u0, v0 = int(np.floor(u)), int(np.floor(v))
            fu = u - u0
            u0 &= cols - 1
            u1 = (u0 + 1) & (cols - 1)
            v0 &= rows - 1
            strand = noise[v0, u0] * (1 - fu) + noise[v0, u1] * fu
            cover = (values[0] + look[1] * strand) / look[2]
            if cover <= 0:
                continue
            cover = min(cover, 1.0)
            nx, ny, nz = values[4], values[5], values[6]
            length = 1.0 / np.sqrt(nx * nx + ny * ny + nz * nz + 1e-12)
            nx, ny, nz = nx * length, ny * length, nz * length
            inner = 1.0 if nz > 0 else 0.45
            tx, ty, tz = values[7], values[8], values[9]
            length = 1.0 / np.sqrt(tx * tx + ty * ty + tz * tz + 1e-12)
            th = (tx * lamp[0] + ty * lamp[1] + tz * lamp[2]) * length + 0.10 * strand
            shine = np.sqrt(max(1.0 - th * th, 0.0)) ** 22
            facing = max(nx * lamp[0] + ny * lamp[1] + nz * lamp[2], 0.0)
            shine *= facing * look[3] * (0.6 + 0.3 * strand)
            gain = inner * max(0.25, 1.0 + 0.26 * strand) * (0.55 + 0.45 * min(1.0, max(values[0], 0.0) / 12.0))
            for k in range(3):
                value = colour[k] * gain * values[10 + k] + shine * lamp_colour[k] * (0.05 + 0.6 * colour[k])
                out[row, col, k] += cover * (max(value, 0.0) - out[row, col, k])


@njit(cache=True, inline="always")
def phi_seed(x):  # type: ignore[no-untyped-def]
    """Slow variation of the wave's phase across the head."""
    return x * 0.03
