"""A made-up face model at the Basel Face Model's full size, for measuring; its values mean nothing."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from prnbench.morphable import MorphableModel

ROWS, COLUMNS = 367, 145  # 53,215 vertices, as in the trimmed Basel Face Model
IDENTITIES, EXPRESSIONS = 199, 29
_SLIT_ROW, _SLIT_COLUMNS = 250, range(57, 88)

Float32 = NDArray[np.float32]


def made_up_model(identities: int = IDENTITIES, expressions: int = EXPRESSIONS, seed: int = 0) -> MorphableModel:
    """A mask of 53,215 vertices around the front of a head, in micrometres, with smooth random modes.

    Chart and mouth slit are like the real model's: a square without gap, closed by ``mouth_triangles``.
    """
    v, u = np.meshgrid(np.linspace(1, 0, ROWS), np.linspace(0, 1, COLUMNS), indexing="ij")
    mean = _surface(u, v)
    rng = np.random.default_rng(seed)
    triangles, mouth = _topology()
    return MorphableModel(
        name="made-up model",
        source="made up",
        licence="none needed",
        unit="um",
        mean=mean,
        identity=_modes(u, v, identities, rng),
        identity_std=np.linspace(9e5, 2e4, identities, dtype=np.float32),
        expression=_modes(u, v, expressions, rng) * 1e5,
        expression_std=np.linspace(4.0, 0.2, expressions, dtype=np.float32),
        triangles=triangles,
        landmarks=_landmarks(u, v),
        uv=np.stack([u, v], -1).reshape(-1, 2).astype(np.float32),
        mouth_triangles=mouth,
        albedo=np.clip(0.6 + 0.2 * np.sin(mean / 9e3 + np.arange(3)), 0, 1).astype(np.float32),
    )


def _surface(u: NDArray[np.float64], v: NDArray[np.float64]) -> Float32:
    """Half an egg with a nose, eye sockets and lips: (V, 3) micrometres."""
    angle = (u - 0.5) * np.deg2rad(200)
    radius = 75e3 * (0.72 + 0.28 * np.sin(np.pi * (0.12 + 0.8 * v)))

    def bump(centre_u: float, centre_v: float, width: float, height: float) -> NDArray[np.float64]:
        return np.exp(-(((u - centre_u) / width) ** 2) - ((v - centre_v) / height) ** 2)

    relief = 18e3 * bump(0.5, 0.47, 0.05, 0.075) + 9e3 * bump(0.5, 0.55, 0.03, 0.1)
    relief -= 7e3 * (bump(0.39, 0.6, 0.05, 0.03) + bump(0.61, 0.6, 0.05, 0.03))
    relief += 5e3 * bump(0.5, 0.32, 0.09, 0.035)
    x, z = np.sin(angle) * (radius + relief), np.cos(angle) * (1.15 * radius + relief)
    return np.stack([x, (v - 0.5) * 220e3, z], -1).reshape(-1, 3).astype(np.float32)


def _modes(u: NDArray[np.float64], v: NDArray[np.float64], count: int, rng: np.random.Generator) -> Float32:
    """Orthonormal-sized smooth displacement fields (3V, count): products of cosines along u and v."""
    waves_u = np.cos(np.pi * np.arange(8)[:, None, None] * u)
    waves_v = np.cos(np.pi * np.arange(8)[:, None, None] * v)
    waves = (waves_u[:, None] * waves_v[None]).reshape(64, -1).astype(np.float32)
    frequency = np.add.outer(np.arange(8), np.arange(8)).ravel()
    amplitudes = rng.normal(size=(count, 3, 64)) / (1.0 + frequency) ** 1.5
    modes = np.einsum("ncw,wv->vcn", amplitudes.astype(np.float32), waves, optimize=True).reshape(-1, count)
    return np.ascontiguousarray(modes / np.linalg.norm(modes, axis=0))


def _topology() -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Surface triangles, without one row of quads between the lips, and the triangles that close it."""
    corner = np.arange(ROWS * COLUMNS, dtype=np.int32).reshape(ROWS, COLUMNS)
    a, b, c, d = corner[:-1, :-1], corner[:-1, 1:], corner[1:, :-1], corner[1:, 1:]
    quads = np.stack([np.stack([a, c, b], -1), np.stack([b, c, d], -1)], axis=2)
    slit = np.zeros(a.shape, bool)
    slit[_SLIT_ROW, _SLIT_COLUMNS.start : _SLIT_COLUMNS.stop] = True
    return quads[~slit].reshape(-1, 3), quads[slit].reshape(-1, 3)


def _landmarks(u: NDArray[np.float64], v: NDArray[np.float64]) -> NDArray[np.int32]:
    """Nearest vertices to a schematic iBUG layout on the chart."""
    turn = np.linspace(-1, 1, 17)
    jaw = np.stack([0.5 + 0.42 * np.sin(turn * np.pi / 2), 0.58 - 0.42 * np.cos(turn * np.pi / 2)], -1)

    def arc(centre: tuple[float, float], size: tuple[float, float], degrees: list[float]) -> NDArray[np.float64]:
        angles = np.deg2rad(degrees)
        return np.stack([centre[0] + size[0] * np.cos(angles), centre[1] + size[1] * np.sin(angles)], -1)

    brows = [arc((x, 0.63), (0.07, 0.04), [180, 135, 90, 45, 0]) for x in (0.39, 0.61)]
    bridge = np.stack([np.full(4, 0.5), np.linspace(0.6, 0.47, 4)], -1)
    base = np.stack([np.linspace(0.46, 0.54, 5), np.full(5, 0.43)], -1)
    eyes = [arc((x, 0.6), (0.045, 0.015), [180, 120, 60, 0, -60, -120]) for x in (0.39, 0.61)]
    outer = arc((0.5, 0.318), (0.11, 0.035), [180, 150, 120, 90, 60, 30, 0, -36, -72, -90, -108, -144])
    inner = arc((0.5, 0.318), (0.09, 0.008), [180, 135, 90, 45, 0, -45, -90, -135])
    points = np.concatenate([jaw, *brows, bridge, base, *eyes, outer, inner])
    row, column = np.rint((1 - points[:, 1]) * (ROWS - 1)), np.rint(points[:, 0] * (COLUMNS - 1))
    ids: NDArray[np.int32] = (row * COLUMNS + column).astype(np.int32)
    return ids
