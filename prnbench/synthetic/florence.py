"""Made-up subjects in Florence's (MICC) layout: textured scans in mm that are not on the model's topology.

A scan is what a stereo scanner would give: points drawn evenly from the surface, triangulated anew, with noise, a
slow warp, holes, and a frame of its own.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from prnbench.geometry import rotation_from_euler
from prnbench.morphable.model import MorphableModel
from prnbench.render import interpolate, rasterise, texture_points
from prnbench.synthetic.bust import bust
from prnbench.synthetic.person import bodies, draw_expression, draw_identity, is_bearded, neutral_face

Array = NDArray[np.float64]
Float32 = NDArray[np.float32]

POINTS = 54_000
TEXTURE_PX = 1024
NOISE_MM = 0.18
NO_SECOND_SCAN = 30
"""The real set's subject without a ``frontal2`` folder."""


def write_subject(model: MorphableModel, index: int, count: int, seed: int, out: Path, flips: bool) -> int:
    """Write both frontal scans of subject ``index`` (0-based); the last of a small set lacks its second scan."""
    number = index + 1
    lacking = NO_SECOND_SCAN if count >= NO_SECOND_SCAN else count
    sides = ("frontal1",) if number == lacking and count > 1 else ("frontal1", "frontal2")
    for k, side in enumerate(sides):
        stamp = f"1107{13 + index % 15:02d}{100000 + 977 * index + 4111 * k:06d}"
        folder = out / f"subject_{number:02d}" / "Model" / side / "obj"
        if not (folder / f"{stamp}.obj").is_file():
            person = np.random.default_rng([seed, index, 30])
            _write_scan(model, folder, stamp, person, np.random.default_rng([seed, index, 31 + k]))
    return 1


def _write_scan(
    model: MorphableModel, folder: Path, stamp: str, person: np.random.Generator, rng: np.random.Generator
) -> None:
    from prnbench.synthetic.camera import encode
    from prnbench.synthetic.layouts import _write

    shape, texture = draw_identity(model, person)
    face = neutral_face(shape, 0.12 * draw_expression(model, rng), texture)
    body = bodies(model, [face])[0]
    mm = body.vertices.astype(np.float64) * model.mm_per_unit
    uv = chart_of(model)
    points, places = _resampled(model, mm, uv, rng)
    triangles = _triangulated(points, places)
    points, triangles, places = _with_holes(points, triangles, places, rng)
    points = _scanned(points, rng)
    picture = _unwrapped(model, body.colours, uv, person, bearded=is_bearded(texture))
    _write(folder / f"{stamp}.jpg", encode(picture, 92))
    material = f"newmtl face\nKa 1 1 1\nKd 1 1 1\nKs 0 0 0\nillum 1\nmap_Kd {stamp}.jpg\n"
    _write(folder / f"{stamp}.mtl", material.encode())
    _write(folder / f"{stamp}.obj", _obj(stamp, points, places, triangles))


def chart_of(model: MorphableModel) -> Float32:
    """(V, 2) chart of the model: its own, or the plane behind the face for a model without one."""
    if model.uv is not None and np.isfinite(model.uv).all():
        return model.uv
    flat = model.mean[:, :2].astype(np.float64)
    angle = np.arctan2(model.mean[:, 0], model.mean[:, 2] - model.mean[:, 2].min() + 1e-6)
    flat[:, 0] = angle
    return np.asarray((flat - flat.min(axis=0)) / np.ptp(flat, axis=0), np.float32)


def _surface(model: MorphableModel, mm: Array) -> NDArray[np.int32]:
    """Triangles that a scanner in front of the face sees: skin, ears and the front of the eye balls."""
    keep = np.ones(len(mm), bool)
    if model.name == "builtin":
        from prnbench.synthetic.head import head_parts

        parts = head_parts()
        ball = (parts.part == 1) & (np.hypot(*parts.local.T) < 0.8)
        keep = (parts.part == 0) | (parts.part == 3) | ball
    ahead = mm[:, 2] > mm[model.landmarks[[0, 16]], 2].mean() - 25
    low = mm[:, 1] > mm[model.landmarks[8], 1] - 32
    return np.asarray(model.triangles[(keep & ahead & low)[model.triangles].all(axis=1)])


def _resampled(model: MorphableModel, mm: Array, uv: Float32, rng: np.random.Generator) -> tuple[Array, Array]:
    """Points drawn evenly by area, with their places on the chart."""
    t = _surface(model, mm)
    a, b, c = mm[t].transpose(1, 0, 2)
    area = np.linalg.norm(np.cross(b - a, c - a), axis=1)
    chosen = t[np.searchsorted(np.cumsum(area) / area.sum(), (np.arange(POINTS) + rng.random(POINTS)) / POINTS)]
    r, s = np.sqrt(rng.random((POINTS, 1))), rng.random((POINTS, 1))
    weights = np.stack([1 - r, r * (1 - s), r * s], axis=1)
    return (mm[chosen] * weights).sum(axis=1), (uv[chosen].astype(np.float64) * weights).sum(axis=1)


def _triangulated(points: Array, places: Array) -> NDArray[np.int64]:
    """Delaunay triangles of the chart without those that bridge gaps, counter-clockwise."""
    from scipy.spatial import Delaunay

    t = Delaunay(places).simplices.astype(np.int64)
    a, b, c = places[t].transpose(1, 0, 2)
    clockwise = (b - a)[:, 0] * (c - a)[:, 1] < (b - a)[:, 1] * (c - a)[:, 0]
    t[clockwise] = t[clockwise][:, ::-1]
    sides = np.linalg.norm(points[t] - points[np.roll(t, -1, axis=1)], axis=2).max(axis=1)
    return np.asarray(t[sides < 9.0])


def _with_holes(
    points: Array, triangles: NDArray[np.int64], places: Array, rng: np.random.Generator
) -> tuple[Array, NDArray[np.int64], Array]:
    """Drop patches that the scanner missed: behind the ears, under the chin, and a few anywhere but in the middle."""
    far = np.linalg.norm(points - points[points[:, 2].argmax()], axis=1)
    outer = np.flatnonzero(far > 75)
    lost = np.zeros(len(points), bool)
    for centre in points[rng.choice(outer, int(rng.integers(4, 12)))]:
        lost |= np.linalg.norm(points - centre, axis=1) < rng.uniform(2, 9)
    lost |= rng.random(len(points)) < 0.002
    kept = triangles[~lost[triangles].any(axis=1)]
    used = np.unique(kept)
    new = np.full(len(points), -1)
    new[used] = np.arange(len(used))
    return points[used], new[kept], places[used]


def _scanned(points: Array, rng: np.random.Generator) -> Array:
    """Noise, a slow warp of the calibration, and the scanner's own frame."""
    waves = rng.normal(0, 1 / 60, (6, 3))
    warp = np.cos(points @ waves.T + rng.uniform(0, 6, 6)) @ rng.normal(0, 0.10, (6, 3))
    noisy = points + warp + rng.normal(0, NOISE_MM, points.shape)
    turn = rotation_from_euler(np.deg2rad(rng.normal(0, (4, 5, 2))))
    return noisy @ turn.T + rng.normal(0, (10, 15, 25))


def _unwrapped(
    model: MorphableModel, colours: Float32, uv: Float32, rng: np.random.Generator, *, bearded: bool
) -> NDArray[np.uint8]:
    """Texture picture of the chart: albedo with brows and relief, and hair above the hairline."""
    size = TEXTURE_PX
    flat = np.concatenate([texture_points(uv, size, size), np.zeros((len(uv), 1), np.float32)], axis=1)
    buffer = rasterise(flat, model.triangles, size, size)
    if model.name == "builtin":
        colours = colours * np.clip(bust().transfer[: len(uv), :1] / 0.282, 0.25, 1.0) ** np.float32(0.6)
    picture = interpolate(buffer, model.triangles, colours, colours.mean(axis=0))
    if model.name == "builtin":
        from prnbench.synthetic.detail import VARIANTS, detail_maps
        from prnbench.synthetic.hair import draw_style, hairline_distance

        style = draw_style(rng, float(rng.beta(1, 3)), bearded=bearded)
        inside = hairline_distance(model.mean / np.float32(1000), style)
        inside[_hairless()] = -20
        share = interpolate(buffer, model.triangles, inside[:, None])
        brow, relief = np.moveaxis(detail_maps()[int(rng.integers(VARIANTS))][..., :2] / np.float32(255), -1, 0)
        picture = picture * (1 + 0.25 * (relief - 0.5))[..., None]
        hair = np.asarray(style.colour, np.float32) ** np.float32(1 / 2.2)
        cover = np.maximum(0.8 * brow[..., None], np.clip(share / 14 + 0.3 + 3 * (relief[..., None] - 0.5), 0, 1))
        picture = picture + cover * (hair * (0.7 + 0.6 * relief[..., None]) - picture)
    return np.clip(picture * 255, 0, 255).astype(np.uint8)


def _hairless() -> NDArray[np.bool_]:
    from prnbench.synthetic.head import head_parts

    return np.asarray(head_parts().part != 0)


def _obj(stamp: str, points: Array, places: Array, triangles: NDArray[np.int64]) -> bytes:
    lines = [f"mtllib {stamp}.mtl", "usemtl face"]
    lines += [f"v {x:.4f} {y:.4f} {z:.4f}" for x, y, z in points.tolist()]
    lines += [f"vt {u:.6f} {v:.6f}" for u, v in places.tolist()]
    lines += [f"f {a}/{a} {b}/{b} {c}/{c}" for a, b, c in (triangles + 1).tolist()]
    return ("\n".join(lines) + "\n").encode()
