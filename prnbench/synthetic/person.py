"""Who is seen and how: shape, albedo, expression and pose of one face, drawn at random, in the .mat files' units."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prnbench.geometry import rotation_from_euler
from prnbench.morphable.model import MorphableModel

Array = NDArray[np.float64]
Float32 = NDArray[np.float32]

SIZE_PX = 450
_BEARD = 11
_ONE_SIDED = [4, 9, 10, 11, 12, 13, 14]  # brows, flushes, beard, circles, freckles and eye shadow


@dataclass(frozen=True, eq=False)
class Face:
    """Ground truth of one picture, in the units of the ``.mat`` files."""

    shape: Array
    expression: Array
    texture: Array
    pose: Array
    illumination: Array
    colour: Array


def draw_identity(model: MorphableModel, rng: np.random.Generator) -> tuple[Array, Array]:
    """Shape and albedo coefficients of one person."""
    shape = np.clip(rng.normal(0, 1, len(model.identity_std)), -2.4, 2.4) * model.identity_std
    if model.albedo_std is None:
        return shape, np.zeros(199)
    texture = np.clip(rng.normal(0, 1, len(model.albedo_std)), -2.5, 2.5) * model.albedo_std
    if model.name == "builtin":
        tone = rng.choice(
            [rng.uniform(-2.2, -0.6), rng.uniform(-0.8, 0.7), rng.uniform(0.3, 1.25)], p=[0.28, 0.32, 0.40]
        )
        texture[0] = tone
        texture[1] = 0.9 * np.clip(tone, 0.0, 1.2) + rng.normal(0, 0.5)
        texture[_ONE_SIDED] = np.abs(texture[_ONE_SIDED])
        texture[_BEARD] *= 1.0 if rng.random() < 0.52 else 0.08
        texture[5:7] = np.clip(texture[5:7], -0.7, 2.0)
        texture[2:] *= np.clip(0.72 + 0.30 * tone, 0.12, 1.0)  # pigment hides blood
    return shape, texture


def is_bearded(texture: Array) -> bool:
    """Whether a person of the built-in head has any beard growth; hair styles go by it."""
    return bool(texture[_BEARD] > 0.2)


_OPENING = ("jawOpen", "mouthUpperUp", "mouthLowerDown", "mouthFunnel")


def draw_expression(model: MorphableModel, rng: np.random.Generator) -> Array:
    """Expression coefficients: mostly mild, sometimes a smile, talk, surprise, frown or closed eyes."""
    count = len(model.expression_std)
    if model.expression_names is None or "jawOpen" not in model.expression_names:
        return np.asarray(rng.normal(0, 0.6, count) * model.expression_std)
    at = {name: k for k, name in enumerate(model.expression_names)}
    full = 3.0 if model.name == "builtin" else 1.0
    b = np.zeros(count)
    for k in rng.choice(count, 5, replace=False):
        b[k] = full * 0.16 * rng.beta(1, 2.5)
    strength = full * rng.beta(2, 2)
    aside = rng.normal(0, 0.12)

    def both(name: str, amount: float) -> None:
        for suffix, sign in (("_L", 1), ("_R", -1), ("", 0)):
            if name + suffix in at:
                b[at[name + suffix]] += max(amount * (1 + sign * aside), 0.0)

    kind = rng.choice(8, p=[0.26, 0.30, 0.14, 0.08, 0.08, 0.05, 0.05, 0.04])
    if kind == 1:
        both("mouthSmile", strength)
        both("cheekSquint", 0.6 * strength)
        both("eyeSquint", 0.4 * strength)
        both("mouthUpperUp", 0.35 * strength * rng.random())
        both("jawOpen", 0.3 * strength * rng.random() ** 2)
    elif kind == 2:
        both("jawOpen", 0.35 * strength * rng.random())
        both(str(rng.choice(["mouthFunnel", "mouthPucker", "mouthLowerDown", "mouthStretch"])), 0.5 * strength)
    elif kind == 3:
        both("jawOpen", 0.85 * strength)
        both("browInnerUp", 0.7 * strength)
        both("browOuterUp", 0.7 * strength)
        both("eyeWide", 0.8 * strength)
    elif kind == 4:
        both("browDown", strength)
        both("mouthFrown", 0.6 * strength)
        both("mouthPress", 0.4 * strength)
        both("noseSneer", 0.4 * strength * rng.random())
    elif kind == 5:
        both("eyeBlink", full * rng.uniform(0.7, 1.0))
    elif kind == 6:
        both("mouthPucker", strength)
        both("cheekPuff", 0.5 * strength * rng.random())
    elif kind == 7:
        both("jawOpen", strength)
        both("mouthStretch", 0.5 * strength)
        both("browDown", 0.5 * strength)
    b[at["jawLeft"]] += full * rng.normal(0, 0.06)
    both("eyeBlink", full * 0.34 * rng.beta(2, 3))
    if rng.random() < 0.6 and kind in (0, 1, 4):  # lips closed
        b[[k for name, k in at.items() if name.startswith(_OPENING)]] = 0.0
    return b


def draw_pose(
    model: MorphableModel, shape: Array, expression: Array, yaw_deg: float, rng: np.random.Generator
) -> Array:
    """Pose_Para (7,): the given yaw, drawn pitch and roll, a 68-point box of about 189 px near the middle."""
    pitch = np.clip(rng.normal(2.0, 11.0), -34, 40)
    roll = np.clip(rng.normal(0.0, 9.0 + 0.06 * abs(yaw_deg)), -42, 42)
    angles = np.deg2rad([pitch, yaw_deg, roll])
    scale = float(np.clip(rng.normal(1.31e-3, 0.14e-3), 0.95e-3, 1.65e-3))
    if model.unit != "um" or abs(_interocular(model) - 89.2e3) > 15e3:
        scale *= 89.2e3 / _interocular(model)
    return centred_pose(model, shape, expression, angles, scale, rng.normal((2, 42), (9, 10)))


def centred_pose(
    model: MorphableModel, shape: Array, expression: Array, angles_rad: Array, scale: float, shift_px: Array
) -> Array:
    """Pose_Para (7,) that puts the box of the 68 landmarks ``shift_px`` right of and below the picture's middle."""
    points = landmarks_of(model, shape, expression)
    turned = points @ rotation_from_euler(angles_rad).T
    low, high = turned[:, :2].min(axis=0), turned[:, :2].max(axis=0)
    middle = (SIZE_PX + 1) / 2 + np.multiply(shift_px, (1, -1))
    t = np.append(middle - scale * (low + high) / 2, -scale * turned[:, 2].mean())
    return np.array([*angles_rad, *t, scale], np.float64)


def _interocular(model: MorphableModel) -> float:
    corners = model.mean[model.landmarks[[36, 45]]].astype(np.float64)
    return float(np.linalg.norm(corners[0] - corners[1]))


def landmarks_of(model: MorphableModel, shape: Array, expression: Array) -> Array:
    """(68, 3) landmarks in the model's unit, before posing."""
    rows = (3 * model.landmarks.astype(np.int64)[:, None] + np.arange(3)).ravel()
    moved = model.identity[rows] @ shape + model.expression[rows] @ expression
    return np.asarray((model.mean.reshape(-1)[rows] + moved).reshape(68, 3), np.float64)


def draw_face(
    model: MorphableModel, yaw_deg: float, rng: np.random.Generator, person: np.random.Generator | None = None
) -> Face:
    """Draw the ground truth of one picture; ``person`` is the random stream of shape and albedo."""
    shape, texture = draw_identity(model, person or rng)
    expression = draw_expression(model, rng)
    pose = draw_pose(model, shape, expression, yaw_deg, rng)
    ambient = np.clip(rng.normal(0.62, 0.16) * rng.normal(1, 0.05, 3), 0.25, 1.1)
    key = np.clip(rng.gamma(2.6, 0.22) * rng.normal(1, 0.06, 3), 0.05, 1.6)
    illumination = np.array([*ambient, *key, rng.uniform(-0.5, 1.2), rng.uniform(-1.9, 1.9), 0.0, 20.0])
    gain = np.clip(rng.normal(1, 0.045, 3) * rng.lognormal(0, 0.16), 0.5, 1.6)
    colour = np.array([*gain, *rng.normal(0, 0.02, 3), 1.0])
    return Face(shape, expression, texture, pose, illumination, colour)


def neutral_face(shape: Array, expression: Array, texture: Array, pose: Array | None = None) -> Face:
    """A face in even light; the pose defaults to the frontal one at the origin."""
    pose = np.array([0, 0, 0, 0, 0, 0, 1.0]) if pose is None else pose
    illumination = np.array([0.62, 0.62, 0.62, 0.45, 0.45, 0.45, 0.55, 0.6, 0.0, 20.0])
    return Face(shape, expression, texture, pose, illumination, np.array([1.0, 1, 1, 0, 0, 0, 1]))


@dataclass(frozen=True, eq=False)
class Body:
    """Vertices (V, 3) float32 in the model's unit and display colours (V, 3) of one face."""

    vertices: Float32
    colours: Float32


def bodies(model: MorphableModel, faces: list[Face]) -> list[Body]:
    """Vertices and colours of faces as one matrix product each, over the columns that are not zero."""
    basis, colour_basis = _bases(model)
    count = len(faces)
    moved = np.stack([np.concatenate([f.shape, f.expression]) for f in faces])[:, basis.used].astype(np.float32)
    vertices = (moved @ basis.columns + model.mean.ravel()).reshape(count, -1, 3)
    if colour_basis is None:
        return [Body(v, model.colours()) for v in vertices]
    tints = np.stack([f.texture[: colour_basis.width] for f in faces])[:, colour_basis.used].astype(np.float32)
    colours = np.clip(tints @ colour_basis.columns + model.colours().ravel(), 0, 1).reshape(count, -1, 3)
    return [Body(v, c) for v, c in zip(vertices, colours, strict=True)]


@dataclass(frozen=True, eq=False)
class _Basis:
    used: NDArray[np.int64]
    columns: Float32
    width: int


_BASES: dict[int, tuple[MorphableModel, _Basis, _Basis | None]] = {}


def _bases(model: MorphableModel) -> tuple[_Basis, _Basis | None]:
    """The model's modes as contiguous rows without the empty ones, kept per model."""
    if id(model) not in _BASES:
        shape = _compact(model.identity, model.expression)
        _BASES[id(model)] = (model, shape, None if model.albedo_modes is None else _compact(model.albedo_modes))
    return _BASES[id(model)][1:]


def _compact(*groups: Float32) -> _Basis:
    used = [np.flatnonzero(modes.any(axis=0)) for modes in groups]
    columns = [modes.T[kept] for modes, kept in zip(groups, used, strict=True)]
    starts = np.cumsum([0] + [modes.shape[1] for modes in groups])
    ids = np.concatenate([start + kept for start, kept in zip(starts[:-1], used, strict=True)])
    return _Basis(ids, np.concatenate(columns), int(starts[-1]))


def camera_points(vertices: Float32, pose: Array) -> Float32:
    """Exact image points (V, 3) of vertices (V, 3): project and to_image as one float32 product, for pictures."""
    flip = np.array([1.0, -1.0, 1.0])
    turn = pose[6] * rotation_from_euler(pose[:3]) * flip[:, None]
    shift = pose[3:6] * flip + (-1.0, SIZE_PX, 0.0)
    return np.asarray(vertices @ turn.T.astype(np.float32) + shift.astype(np.float32))
