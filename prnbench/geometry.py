"""Rotations, alignments, crops and pixel conventions: small pure functions on NumPy arrays.

Angles are 3DDFA's: R = Rx(pitch) Ry(yaw) Rz(roll) with the signs of its ``angle2matrix_3ddfa``. Model space has
x right, y up and is 1-based; image space has y down. A crop is a (2, 3) affine map of pixel coordinates.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

PIXEL_CONVENTIONS = ("exact", "face3d", "annotation")
_OFFSET_FROM_EXACT = {"exact": (0.0, 0.0), "face3d": (1.0, -1.0), "annotation": (1.0, 1.0)}


def rotation_from_euler(pitch_yaw_roll_rad: ArrayLike) -> Array:
    """Rotation matrices (..., 3, 3) of 3DDFA angles (..., 3) in radians."""
    angles = np.asarray(pitch_yaw_roll_rad, np.float64)
    cx, cy, cz = np.moveaxis(np.cos(angles), -1, 0)
    sx, sy, sz = np.moveaxis(np.sin(angles), -1, 0)
    rows = [
        [cy * cz, cy * sz, -sy],
        [sx * sy * cz - cx * sz, sx * sy * sz + cx * cz, sx * cy],
        [cx * sy * cz + sx * sz, cx * sy * sz - sx * cz, cx * cy],
    ]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def euler_from_rotation(rotation: ArrayLike) -> Array:
    """Angles (..., 3) in radians of rotation matrices (..., 3, 3); yaw in [-90, 90] degrees.

    At yaw = +-90 degrees pitch and roll are not separable; roll is then 0.
    """
    R = np.asarray(rotation, np.float64)
    yaw = np.arcsin(np.clip(-R[..., 0, 2], -1.0, 1.0))
    locked = np.abs(R[..., 0, 2]) > 1.0 - 1e-9
    pitch = np.where(locked, np.arctan2(-R[..., 2, 1], R[..., 1, 1]), np.arctan2(R[..., 1, 2], R[..., 2, 2]))
    roll = np.where(locked, 0.0, np.arctan2(R[..., 0, 1], R[..., 0, 0]))
    return np.stack([pitch, yaw, roll], axis=-1)


def project(vertices: ArrayLike, pose_params: ArrayLike) -> Array:
    """Pose model vertices (..., V, 3): V = s R S + t in the 1-based y-up frame of 300W-LP.

    ``pose_params`` (..., 7) holds pitch, yaw, roll (rad), tx, ty, tz, scale.
    """
    pose = np.asarray(pose_params, np.float64)
    sR = pose[..., 6, None, None] * rotation_from_euler(pose[..., :3])
    moved: Array = np.asarray(vertices, np.float64) @ np.swapaxes(sR, -1, -2) + pose[..., None, 3:6]
    return moved


def to_image(vertices: ArrayLike, height: float, convention: str = "exact") -> Array:
    """Posed vertices (..., V, 3) of the 1-based y-up frame as image points of a pixel convention.

    exact: (Vx - 1, h - Vy); face3d: (Vx, h - Vy - 1); annotation (``pt3d_68``): (Vx, h + 1 - Vy). z stays.
    """
    out = np.array(vertices, np.float64)
    out[..., 0] -= 1.0
    out[..., 1] = height - out[..., 1]
    return convert_convention(out, "exact", convention)


def convert_convention(points: ArrayLike, source: str, target: str) -> Array:
    """Move image points (..., 2 or 3) from one pixel convention to another."""
    out = np.array(points, np.float64)
    shift = np.subtract(_OFFSET_FROM_EXACT[target], _OFFSET_FROM_EXACT[source])
    out[..., :2] += shift
    return out


def box_of(points: ArrayLike) -> Array:
    """(..., 4) left, top, right, bottom of points (..., N, 2 or 3)."""
    xy = np.asarray(points, np.float64)[..., :2]
    return np.concatenate([xy.min(axis=-2), xy.max(axis=-2)], axis=-1)


def similarity_alignment(source: ArrayLike, target: ArrayLike, *, scale: bool = True) -> tuple[float, Array, Array]:
    """Least-squares s, R, t with s R source + t = target and det R = +1 (Umeyama 1991, eq. 40-42).

    Parameters
    ----------
    source, target
        (N, D) corresponding points.
    scale
        False fixes s = 1 (rigid alignment).

    Returns
    -------
    scale, rotation (D, D), translation (D,)
        A reflection is never returned, so a mirrored face does not align with itself.
    """
    p, q = np.asarray(source, np.float64), np.asarray(target, np.float64)
    p_mean, q_mean = p.mean(axis=0), q.mean(axis=0)
    p0, q0 = p - p_mean, q - q_mean
    U, S, Vt = np.linalg.svd(q0.T @ p0)
    signs = np.ones(p.shape[1])
    signs[-1] = np.sign(np.linalg.det(U) * np.linalg.det(Vt))
    R = (U * signs) @ Vt
    s = float((S * signs).sum() / (p0**2).sum()) if scale else 1.0
    return s, R, q_mean - s * R @ p_mean


def head_pose_deg(landmarks_px: ArrayLike, mean_landmarks: ArrayLike) -> NDArray[np.float32]:
    """Head pose (3,) in degrees of landmarks (68, 3): pitch, yaw, roll of the similarity from the mean face's (68, 3).

    The mouth is left out, since it moves most with the expression. Landmarks are image points (y down), those of the
    mean face the model's own (y up). After PRNet's pose estimate, which aligns the canonical face to the predicted one.
    """
    still = slice(0, 48)
    upright = np.asarray(landmarks_px, np.float64)[still] * (1, -1, 1)
    _, rotation, _ = similarity_alignment(np.asarray(mean_landmarks)[still], upright)
    angles: NDArray[np.float32] = np.rad2deg(euler_from_rotation(rotation)).astype(np.float32)
    return angles


def square_crop(centre: ArrayLike, size_px: float, resolution: int) -> Array:
    """(2, 3) map from original pixels to a crop: box corners go to (0, 0), (0, res - 1), (res - 1, 0).

    This is the similarity transform of face3d's position-map example and of PRNet's inference.
    """
    k = (resolution - 1) / float(size_px)
    cx, cy = np.asarray(centre, np.float64)
    return np.array([[k, 0.0, k * (size_px / 2 - cx)], [0.0, k, k * (size_px / 2 - cy)]])


def prn_crop(box_px: ArrayLike, *, factor: float = 1.6, resolution: int = 256) -> Array:
    """PRNet's inference crop of a landmark box: centre of the box, side int(factor * (w + h) / 2)."""
    left, top, right, bottom = np.asarray(box_px, np.float64)
    old_size = (right - left + bottom - top) / 2
    size = max(int(old_size * factor), 1)
    return square_crop(((left + right) / 2, (top + bottom) / 2), size, resolution)


def transform_points(points: ArrayLike, affine: ArrayLike) -> Array:
    """Apply a (2, 3) similarity to points (..., 2 or 3); z is multiplied by its scale and never shifted."""
    A = np.asarray(affine, np.float64)
    out = np.array(points, np.float64)
    out[..., :2] = out[..., :2] @ A[:, :2].T + A[:, 2]
    if out.shape[-1] == 3:
        out[..., 2] *= affine_scale(A)
    return out


def affine_scale(affine: ArrayLike) -> float:
    """Scale of a (2, 3) similarity."""
    A = np.asarray(affine, np.float64)
    return float(np.sqrt(abs(np.linalg.det(A[:, :2]))))


def invert_affine(affine: ArrayLike) -> Array:
    """Inverse of a (2, 3) affine map."""
    A = np.asarray(affine, np.float64)
    inverse = np.linalg.inv(A[:, :2])
    return np.concatenate([inverse, -inverse @ A[:, 2:]], axis=1)
