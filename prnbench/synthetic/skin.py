"""Albedo of the built-in head: where lips, brows, irises, beard and flush lie, and the linear modes of their colour.

Colours are display (sRGB) values 0..1. One unit of a mode's coefficient is one standard deviation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline

from prnbench.synthetic import anatomy
from prnbench.synthetic.fields import EAR, EYE, MOUTH, SKIN, Rig, gum_and_teeth, smoothstep

Array = NDArray[np.float64]

MEAN_TONE: Array = np.array([0.70, 0.525, 0.435])
LIGHTER: Array = np.array([0.185, 0.158, 0.135])
IRIS_EDGE = anatomy.IRIS_RADIUS_MM / anatomy.EYE_RADIUS_MM
PUPIL_EDGE = 0.19


@dataclass(frozen=True, eq=False)
class Masks:
    """(V,) shares 0..1 of each kind of surface."""

    lips: Array
    brows: Array
    beard: Array
    cheeks: Array
    flush: Array
    under_eye: Array
    lid: Array
    freckles: Array
    sclera: Array
    iris: Array
    pupil: Array
    wet: Array
    gum: Array
    tooth: Array
    tongue: Array
    throat: Array
    nostril: Array


def skin_masks(rig: Rig) -> Masks:
    """Where each kind of surface lies on the mean head."""
    part, local = rig.mesh.part, rig.mesh.local
    x, y, z = rig.points.T
    a = np.abs(x)
    skin = (part == SKIN).astype(float)
    gum, tooth, tongue = gum_and_teeth(rig.mesh)
    depth = np.where(part == MOUTH, 1 - np.abs(local[:, 1]), 0.0)
    radius = np.hypot(*local.T)
    ball = rig.on_ball.astype(float)
    corner = ball * smoothstep((22.5 - a) / 2.5)
    iris = ball * smoothstep((IRIS_EDGE + 0.015 - radius) / 0.03)
    pupil = ball * smoothstep((PUPIL_EDGE + 0.02 - radius) / 0.04)
    wet = np.where(part == EYE, 1 - ball, 0.0) + corner
    front = skin * smoothstep((z + 75) / 10)
    return Masks(
        lips=_lips(a, y, z) * skin + np.where((part == MOUTH) & (depth < 0.25), 1 - depth / 0.25, 0.0),
        brows=brow_share(a, y) * front,
        beard=beard_share(a, y, z) * skin * (1 - _lips(a, y, z)),
        cheeks=_bump(a, y, z, (40, -6, -40), 14) * front,
        flush=np.clip(_bump(a, y, z, (0, -3, -4), 9) + 0.8 * (part == EAR), 0, 1),
        under_eye=_bump(a, y, z, (30, 21.5, -38), 5.5) * front,
        lid=_lid_shade(a, y) * front,
        freckles=np.clip(_bump(a, y, z, (24, 4, -30), 18) + 0.25 * front, 0, 1) * front,
        sclera=ball * (1 - iris) * (1 - corner),
        iris=iris * (1 - pupil),
        pupil=pupil,
        wet=np.clip(wet, 0, 1),
        gum=gum,
        tooth=tooth,
        tongue=tongue,
        throat=smoothstep((depth - 0.8) / 0.2),
        nostril=np.clip(1.3 * _bump(a, y, z, (6.8, -8.5, -19), 3.4), 0, 1) * skin,
    )


def albedo_modes(rig: Rig) -> tuple[Array, Array, Array, tuple[str, ...]]:
    """Mean (V, 3), modes (3V, Na), their standard deviations (Na,) and names."""
    m = skin_masks(rig)
    eye_or_tooth = np.clip(m.sclera + m.iris + m.pupil + m.tooth, 0, 1)
    inside = np.clip(m.gum + m.tongue + m.throat + m.wet, 0, 1)
    skin = (1 - eye_or_tooth) * (1 - 0.85 * inside)
    rng = np.random.default_rng(7)
    modes: dict[str, Array] = {
        "lighter": _outer(skin * (1 - 0.15 * m.lips), LIGHTER),
        "paler": _outer(skin, (0.004, 0.030, 0.042)),
        "redder": _outer(skin, (0.022, -0.012, -0.010)),
        "more olive": _outer(skin, (-0.004, 0.008, -0.022)),
        "darker brows": _outer(m.brows, (-0.16, -0.14, -0.12)),
        "redder lips": _outer(m.lips, (0.030, -0.034, -0.024)),
        "darker lips": _outer(m.lips, (-0.055, -0.040, -0.030)),
        "bluer irises": _outer(m.iris, (-0.02, 0.06, 0.13)),
        "lighter irises": _outer(m.iris, (0.10, 0.08, 0.05)),
        "flushed cheeks": _outer(m.cheeks, (0.018, -0.020, -0.015)),
        "flushed nose and ears": _outer(m.flush, (0.014, -0.022, -0.018)),
        "beard shadow": _outer(m.beard, (-0.075, -0.060, -0.045)),
        "dark circles": _outer(m.under_eye, (-0.055, -0.060, -0.040)),
        "freckles": _outer(m.freckles * skin, (-0.018, -0.028, -0.032)),
        "eye shadow": _outer(m.lid, (-0.060, -0.065, -0.045)),
        "yellower eyes": _outer(m.sclera, (-0.03, -0.04, -0.07)),
    }
    for k in range(8):
        blotch = _blotch(rig.points, rng, 34.0 / (1 + 0.6 * k)) * skin
        modes[f"blotch {k + 1}"] = _outer(blotch, (0.005, 0.007, 0.006) if k % 2 else (0.006, 0.001, 0.001))
    columns = np.stack([field.ravel() for field in modes.values()], axis=1)
    return _mean(m, len(rig.points)), columns, np.ones(len(modes)), tuple(modes)


def brow_share(a: Array, y: Array, spread: float = 1.0) -> Array:
    """Share of brow at a = |x| and y: a band along the brow landmarks, thick inside and thin outside."""
    knots = np.array([(9.5, 53.5), (16, 55.8), (24, 57.6), (34, 58.8), (44, 57.4), (53, 53.0), (58, 49.5)])
    t = np.clip((a - knots[0, 0]) / (knots[-1, 0] - knots[0, 0]), 0, 1)
    centre = CubicSpline(knots[:, 0], knots[:, 1])(np.clip(a, knots[0, 0], knots[-1, 0])) - 1.0
    half = (4.0 - 2.6 * t**1.3) * spread * (0.55 + 0.45 * smoothstep((a - 7) / 9))
    ends = smoothstep((a - 7.0) / 4.0) * smoothstep((60.0 - a) / 7.0)
    return np.asarray(smoothstep(1.5 - np.abs(y - centre) / half) * ends)


def _mean(m: Masks, count: int) -> Array:
    colour = np.broadcast_to(MEAN_TONE, (count, 3)).copy()
    for share, target in (
        (0.85 * m.lips, (0.63, 0.40, 0.37)),
        (0.14 * m.cheeks, (0.74, 0.46, 0.41)),
        (0.22 * m.flush, (0.76, 0.46, 0.40)),
        (0.25 * m.under_eye, (0.55, 0.39, 0.35)),
        (0.18 * m.lid, (0.55, 0.38, 0.33)),
        (0.40 * m.brows, (0.26, 0.18, 0.13)),
        (0.16 * m.beard, (0.45, 0.36, 0.33)),
        (0.75 * m.nostril, (0.22, 0.10, 0.08)),
        (m.wet, (0.74, 0.45, 0.42)),
        (m.sclera, (0.86, 0.84, 0.81)),
        (m.iris, (0.30, 0.20, 0.12)),
        (m.pupil, (0.02, 0.02, 0.02)),
        (m.gum, (0.62, 0.30, 0.31)),
        (m.tongue, (0.68, 0.32, 0.31)),
        (m.tooth, (0.88, 0.85, 0.77)),
        (0.85 * m.throat, (0.16, 0.04, 0.04)),
    ):
        colour += share[:, None] * (np.array(target) - colour)
    return colour


def _lips(a: Array, y: Array, z: Array) -> Array:
    u = np.minimum(a, anatomy.MOUTH_CORNER_X)
    upper = CubicSpline(anatomy.LIP_X, anatomy.UPPER_LIP_Y, bc_type=((1, 0.0), (2, 0.0)))(u)
    lower = CubicSpline(anatomy.LIP_X, anatomy.LOWER_LIP_Y, bc_type=((1, 0.0), (2, 0.0)))(u)
    soft = 1.3
    inside = smoothstep((upper - y) / soft + 0.5) * smoothstep((y - lower) / (1.6 * soft) + 0.5)
    return np.asarray(inside * smoothstep((anatomy.MOUTH_CORNER_X + 0.5 - a) / 1.2) * (z > -45))


def beard_share(a: Array, y: Array, z: Array) -> Array:
    """Density of beard: moustache, chin, jaw up to the sideburns, and fading down the neck."""
    line = np.interp(a, [0, 10, 22, 30, 40, 50, 60, 68, 76], [-18, -18, -21, -27, -30, -28, -18, 2, 14])
    top = smoothstep((line - y) / (6 + 0.16 * a))
    neck = smoothstep((y + 112) / 34)
    back = smoothstep((z + 104) / 16)
    philtrum = 1 - 0.5 * np.exp(-((a / 4) ** 2) - ((y + 23) / 5) ** 2)
    below_lip = 1 - 0.55 * np.exp(-(((a - 13) / 6) ** 2) - ((y + 53) / 5) ** 2)
    return np.asarray(top * neck * back * philtrum * below_lip)


def _lid_shade(a: Array, y: Array) -> Array:
    upper = CubicSpline(anatomy.UPPER_LID[:, 0], anatomy.UPPER_LID[:, 1])(np.clip(a, 18, 45))
    return np.asarray(smoothstep((y - upper + 0.6) / 0.8) * smoothstep((upper + 6.0 - y) / 4) * smoothstep((a - 16) / 4)
                      * smoothstep((49 - a) / 4))  # fmt: skip


def _bump(a: Array, y: Array, z: Array, centre: tuple[float, float, float], size: float) -> Array:
    squared = (a - centre[0]) ** 2 + (y - centre[1]) ** 2 + (z - centre[2]) ** 2
    return np.asarray(np.exp(-0.5 * squared / size**2))


def _blotch(points: Array, rng: np.random.Generator, length: float) -> Array:
    waves = rng.normal(0, 1 / length, (24, 3))
    return np.asarray(np.cos(points @ waves.T + rng.uniform(0, 2 * np.pi, 24)).sum(axis=1) / np.sqrt(12))


def _outer(share: Array, colour: tuple[float, float, float] | Array) -> Array:
    return np.outer(share, np.asarray(colour, float))
