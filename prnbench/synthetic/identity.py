"""Identity modes: correlated anthropometric variation turned into principal components.

Named generators (jaw width, nose length, ...) and smooth random fields span the space. Their covariance is then
corrected so that the distances between landmarks have exactly the published spread and correlations (figures
named in NOTICE), and its principal components become the columns: unit norm, standard deviation beside it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from prnbench.landmarks import MIRROR_68
from prnbench.synthetic import anatomy
from prnbench.synthetic.fields import EAR, Rig, Stroke, smoothstep, strokes

Array = NDArray[np.float64]

# name -> strokes at one standard deviation, mm
GENERATORS: dict[str, list[Stroke]] = {
    "jaw width": [((58, -45, -80), (4.0, 0, 0), 24)],
    "jaw angle": [((57, -48, -88), (0.5, 4.5, 0), 20)],
    "chin forward": [((0, -70, -20), (0, 0, 3.6), 19)],
    "chin length": [((0, -80, -28), (0, -4.0, 0.6), 24)],
    "chin width": [((14, -73, -26), (2.6, 0, 0.6), 11)],
    "chin cleft": [((0, -68, -17), (0, 0, -0.8), 4)],
    "cheekbones": [((60, 12, -58), (2.6, 0, 1.2), 19)],
    "cheekbone height": [((55, 8, -52), (0.4, 3.0, 0.4), 15)],
    "full cheeks": [((43, -20, -44), (3.6, -0.8, 3.6), 16)],
    "hollow cheeks": [((50, -18, -56), (-2.2, 0, -1.1), 13)],
    "jowls": [((36, -58, -50), (2.6, -2.2, 1.0), 12)],
    "double chin": [((0, -84, -48), (0, -5.0, 2.0), 20), ((26, -78, -54), (1, -2.5, 0), 16)],
    "forehead slope": [((0, 98, -34), (0, 0, -5.5), 30)],
    "forehead width": [((56, 72, -58), (3.2, 0, 0.6), 22)],
    "forehead bulge": [((0, 78, -24), (0, 0, 1.8), 22)],
    "crown height": [((0, 140, -105), (0, 6, 0), 48)],
    "head width": [((76, 60, -125), (4.5, 0, 0), 42)],
    "brow ridge": [((22, 54, -25), (0, 0, 2.2), 11), ((0, 50, -22), (0, 0, 1.0), 8)],
    "brow height": [((35, 57, -30), (0, 2.2, 0), 14)],
    "brow slant": [((52, 54, -44), (0, 2.0, 0), 10), ((15, 55, -23), (0, -1.2, 0), 9)],
    "nose length": [((0, -6, -8), (0, -2.8, 0), 12)],
    "nose forward": [((0, -1, -2), (0, 0, 2.9), 11)],
    "nose bridge": [((0, 24, -18), (0, 0, 2.4), 9)],
    "nose hump": [((0, 13, -9), (0, 0.0, 1.5), 6.5)],
    "nose root width": [((8, 24, -26), (1.6, 0, 0.4), 7)],
    "nose wings": [((14, -9, -20), (2.0, 0, 0.2), 7)],
    "nose tip width": [((5.5, -2, -7), (1.2, 0, -0.2), 5)],
    "nose tip up": [((0, -4, -3), (0, 2.0, 0.4), 7.5)],
    "columella": [((0, -13, -11), (0, -1.5, 0.4), 5)],
    "nose bend": [((0, 5, -8), (1.1, 0, 0), 9)],
    "eye spacing": [((32, 31, -42), (2.0, 0, 0), 14)],
    "eye length": [((46, 30, -45), (1.5, 0, -0.4), 7), ((18, 28, -39), (-0.9, 0, 0), 6)],
    "eye height": [((32, 31, -42), (0, 1.8, 0), 14)],
    "eye opening": [((33, 36, -35), (0, 0.8, 0), 6), ((33, 26, -37), (0, -0.5, 0), 6)],
    "eye slant": [((45, 30, -45), (0, 1.3, 0), 7), ((18, 28, -39), (0, -0.8, 0), 6)],
    "eye depth": [((32, 31, -40), (0, 0, 2.2), 12)],
    "lid hood": [((35, 41, -34), (0, -1.4, 1.5), 6)],
    "lid fold": [((33, 38.5, -34), (0, 0.4, -0.9), 3.5)],
    "eye bags": [((33, 20, -38), (0, 0, 1.4), 6)],
    "mouth width": [((25, -39, -29), (2.2, 0, -0.9), 9)],
    "mouth height": [((0, -37, -16), (0, 2.2, 0), 19)],
    "mouth corners": [((25, -39, -29), (0, 1.1, 0), 7)],
    "mouth forward": [((0, -36, -15), (0, 0, 2.8), 15)],
    "upper lip forward": [((0, -31, -12), (0, 0, 1.2), 7)],
    "upper lip height": [((0, -29, -12), (0, 1.4, 0.2), 6), ((12, -30, -15), (0, 1.0, 0), 6)],
    "lower lip height": [((0, -48, -15), (0, -1.7, 0.3), 6.5), ((12, -46.5, -18), (0, -1.3, 0), 6)],
    "lips full": [((0, -33, -12), (0, 0.4, 0.9), 5), ((0, -43, -13), (0, -0.4, 1.1), 5),
                  ((11, -44, -17), (0, 0, 0.6), 5)],
    "cupid bow": [((6.5, -28, -12.5), (0, 0.7, 0.2), 3.0), ((0, -28.5, -12.5), (0, -0.6, 0), 2.2)],
    "philtrum": [((0, -23, -15), (0, 0, -0.6), 3), ((5, -24, -15), (0, 0, 0.4), 2.5)],
    "smile folds": [((29, -24, -33), (0, 0, -1.2), 5), ((36, -16, -40), (0, 0, 0.9), 8)],
    "chin furrow": [((0, -55, -19), (0, 0, -1.2), 6)],
    "temples": [((58, 46, -55), (-1.2, 0, -0.5), 13)],
    "chin aside": [((0, -72, -24), (1.4, 0, 0), 26)],
    "mouth aside": [((0, -37, -16), (0.8, 0, 0), 14)],
}  # fmt: skip
_FIELD_COUNT = 40


def identity_modes(rig: Rig, width: int) -> tuple[Array, Array]:
    """Columns (3V, width) of unit norm and their standard deviations (width,) in mm; unused columns are 0."""
    generators = np.stack([rig.with_balls(field).ravel() for field in _generator_fields(rig)], axis=1)
    factor = np.linalg.cholesky(_covariance(rig, generators) + 1e-9 * np.eye(generators.shape[1]))
    columns, std, _ = np.linalg.svd(generators @ factor, full_matrices=False)
    keep = int((std > 1e-3 * std[0]).sum())
    columns = columns[:, :keep]
    one_side = np.repeat(rig.points[:, 0] > 1e-6, 3)  # over both, the largest of a mirrored mode would be a tie
    half = columns[one_side]
    sign = np.sign(half[np.abs(half).argmax(axis=0), range(keep)])
    modes, stds = np.zeros((len(columns), width)), np.zeros(width)
    modes[:, :keep], stds[:keep] = columns * sign, std[:keep]
    return modes, stds


def distances(landmarks: Array) -> Array:
    """The published distances of landmarks (68, 3): the named ones, then the nose tip's lead over its base."""
    pairs = [np.linalg.norm(landmarks[a] - landmarks[b]) for a, b, _, _ in anatomy.DISTANCES.values()]
    return np.array([*pairs, landmarks[30, 2] - landmarks[33, 2]])


def published_std() -> Array:
    """Standard deviations of :func:`distances`."""
    return np.array([*(std for *_, std in anatomy.DISTANCES.values()), anatomy.NOSE_TIP_AHEAD[1]])


def _generator_fields(rig: Rig) -> list[Array]:
    p = rig.points
    fields = [strokes(p, wanted) for wanted in GENERATORS.values()]
    fields += _global_fields(p) + _ear_fields(rig) + _random_fields(rig)
    return fields


def _global_fields(p: Array) -> list[Array]:
    centred = p - (0, 0, -60)
    top = smoothstep((p[:, 1] - 50) / 60)[:, None]
    neck = smoothstep((-70 - p[:, 1]) / 40)[:, None]
    low = smoothstep((10 - p[:, 1]) / 70)[:, None] * (1 - 0.6 * neck)
    return [
        0.030 * centred,
        0.034 * centred * (1, 0, 0),
        0.032 * centred * (0, 1, 0),
        0.034 * centred * (0, 0, 1),
        0.030 * centred * (1, 0, 0.3) * low,
        0.050 * (p - (0, 50, -60)) * (0, 1, 0) * top,
        0.070 * (p - (0, 0, -115)) * (1, 0, 1) * neck,
    ]


def _ear_fields(rig: Rig) -> list[Array]:
    from prnbench.synthetic import ear

    out = []
    sign = np.where(rig.points[:, :1] < 0, -1.0, 1.0)
    q = rig.points * np.concatenate([sign, np.ones_like(sign), np.ones_like(sign)], axis=1)
    offset = q - ear.ORIGIN
    height = np.clip(offset @ ear.OUT, 0, None)
    on = ((rig.mesh.part == EAR) * smoothstep(height / 6))[:, None]
    for field in (
        0.07 * offset,
        0.10 * offset * (0, 1, 0),
        np.outer(0.22 * height, ear.OUT),
        np.outer(0.20 * height, ear.FORWARD),
    ):
        moved = on * field
        out.append(moved * np.concatenate([sign, np.ones_like(sign), np.ones_like(sign)], axis=1))
    return out


def _random_fields(rig: Rig) -> list[Array]:
    """Smooth random fields, finer ones weaker; two in three are mirror-symmetric, the others antisymmetric."""
    rng = np.random.default_rng(20)
    p = rig.points
    mirrored = p * (-1, 1, 1)
    out = []
    for k in range(_FIELD_COUNT):
        length = 70.0 * (12.0 / 70.0) ** (k / (_FIELD_COUNT - 1))
        waves = rng.normal(0, 1 / length, (12, 3))
        phases = rng.uniform(0, 2 * np.pi, 12)
        amplitudes = rng.normal(0, 1, (12, 3)) * 0.0065 * length**0.95
        field, other = (np.cos(q @ waves.T + phases) @ amplitudes for q in (p, mirrored))
        sign = 1.0 if k % 3 else -1.0
        out.append((0.5 if k % 3 else 0.25) * (field + sign * other * (-1, 1, 1)))
    return out


def _covariance(rig: Rig, generators: Array) -> Array:
    """Covariance of the generators' weights that reproduces the published spread of the distances.

    With a prior C and distances d = A w, C + C A' (A C A')^-1 (T - A C A') (A C A')^-1 A C has A cov A' = T.
    """
    A = _response(rig, generators)
    prior = np.eye(generators.shape[1])
    target_std = published_std()
    first = len(anatomy.CORRELATIONS)
    six = anatomy.CORRELATIONS * np.outer(target_std[:first], target_std[:first])
    cov = _conditioned(prior, A[:first], six)
    now = A @ cov @ A.T
    scale = target_std / np.sqrt(np.diag(now))
    scale[:first] = 1.0
    return _conditioned(cov, A, now * np.outer(scale, scale))


def _conditioned(cov: Array, A: Array, target: Array) -> Array:
    now = A @ cov @ A.T
    gain = np.linalg.solve(now, A @ cov).T
    fixed: Array = cov + gain @ (target - now) @ gain.T
    return 0.5 * (fixed + fixed.T)


def _response(rig: Rig, generators: Array) -> Array:
    """(distances, generators) derivative of the distances by the generators' weights, at the mean."""
    mean = rig.points[rig.mesh.landmarks]
    moved = generators.reshape(len(rig.points), 3, -1)[rig.mesh.landmarks]
    # the symmetric part only: some distances are of one side, and must not tie asymmetry to symmetric modes
    moved = 0.5 * (moved + moved[list(MIRROR_68)] * np.array([-1.0, 1.0, 1.0])[:, None])
    step = 1e-3
    columns = [(distances(mean + step * moved[..., k]) - distances(mean - step * moved[..., k])) / (2 * step)
               for k in range(moved.shape[-1])]  # fmt: skip
    return np.stack(columns, axis=1)
