"""Weight mask 16:4:3:0, face area and landmark texels: from a model's own chart, or PRNet's own files.

The paper weighs the 68 landmarks : eyes, nose, mouth : rest of the face : neck as 16 : 4 : 3 : 0. PRNet's
``uv_weight_mask.png`` holds 255, 64 and 48 and does not zero the neck; its product with ``uv_face_mask.png`` does.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from prnbench.errors import InputError
from prnbench.landmarks import PARTS, REGIONS
from prnbench.morphable import MorphableModel
from prnbench.uv.chart import UvChart, texel_positions

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

LANDMARK, FEATURE, FACE = 16.0, 4.0, 3.0
FOREHEAD = 0.4
"""The face ends this share of the brow-chin height above the brows, about where hair begins."""
_FEATURES = (
    (PARTS["right_brow"] + PARTS["right_eye"], 1.3),
    (PARTS["left_brow"] + PARTS["left_eye"], 1.3),
    (REGIONS["nose"], 1.6),
    (PARTS["outer_lips"], 1.5),
)
WHERE = "take the files of PRNet's Data/uv-data folder unchanged"


def weight_mask(model: MorphableModel, chart: UvChart, resolution: int = 256) -> Float32:
    """Loss weights (R, R) float32: 16 at landmark texels, 4 on eyes, nose, mouth, 3 on the face, 0 elsewhere.

    Everything is found from the model's landmarks: the features are the grown hulls of their landmarks on the
    chart, the face is :func:`face_area`.
    """
    face = face_mask(model, chart, resolution)
    weights = np.where(face, FACE, 0.0).astype(np.float32)
    centres = _texel_centres(resolution)
    for landmarks, growth in _FEATURES:
        points = texel_positions(chart.landmark_uv[list(landmarks)], resolution)
        weights[inside_hull(centres, points, growth) & face] = FEATURE
    rows, columns = chart.landmark_texels(resolution).T
    weights[rows, columns] = LANDMARK
    return weights


def face_area(model: MorphableModel, chart: UvChart, resolution: int = 256) -> NDArray[np.int64]:
    """Flat texel ids (row x R + column), sorted, of the face area; PRNet's own list has 43,867 of them."""
    return np.flatnonzero(face_mask(model, chart, resolution))


def face_mask(model: MorphableModel, chart: UvChart, resolution: int = 256) -> NDArray[np.bool_]:
    """Texels (R, R) of the face: above the jaw line on the chart, in front of the ears, below the hair."""
    raster = chart.raster(resolution)
    mean = raster.position_map(model.mean)
    points = model.mean[model.landmarks]
    brow, chin = points[list(REGIONS["brows"]), 1].mean(), points[8, 1]
    ears = points[[0, 16], 2].mean()
    depth = points[30, 2] - ears
    jaw = texel_positions(chart.landmark_uv[list(REGIONS["jaw"])], resolution)
    centre = texel_positions(chart.landmark_uv[[30]], resolution)
    jaw = centre + (jaw - centre) * 1.02
    lowest = np.interp(np.arange(resolution), np.maximum.accumulate(jaw[:, 0]), jaw[:, 1])
    above_jaw = np.arange(resolution)[:, None] <= lowest[None, :]
    in_front = mean[..., 2] >= ears - 0.05 * depth
    below_hair = mean[..., 1] <= brow + FOREHEAD * (brow - chin)
    face: NDArray[np.bool_] = raster.covered & above_jaw & in_front & below_hair
    return face


def inside_hull(points: Float64, corners: Float64, growth: float) -> NDArray[np.bool_]:
    """Whether points (..., 2) lie in the convex hull of corners (n, 2), grown about its middle by a factor."""
    from scipy.spatial import ConvexHull

    hull = corners[ConvexHull(corners).vertices]
    middle = (hull.min(axis=0) + hull.max(axis=0)) / 2
    hull = middle + (hull - middle) * growth
    inside = np.ones(points.shape[:-1], bool)
    for a, b in zip(hull, np.roll(hull, -1, axis=0), strict=True):  # Qhull orders counter-clockwise
        inside &= (b[0] - a[0]) * (points[..., 1] - a[1]) - (b[1] - a[1]) * (points[..., 0] - a[0]) >= 0
    return inside


@dataclass(frozen=True, slots=True, eq=False)
class PrnetFiles:
    """PRNet's own mask files: weights (R, R) float32, face texels (n,) flat ids, landmark (68, 2) row, column."""

    weight_mask: Float32
    face_area: NDArray[np.int64]
    landmark_texels: NDArray[np.int64]


def read_prnet_files(folder: Path) -> PrnetFiles:
    """Read ``uv_weight_mask.png`` x ``uv_face_mask.png``, ``face_ind.txt`` and ``uv_kpt_ind.txt``.

    Raises
    ------
    InputError
        A file is missing, or sizes and indices do not fit together.
    """
    weights, face = (_grey(folder / name) for name in ("uv_weight_mask.png", "uv_face_mask.png"))
    if weights.shape != face.shape or weights.shape[0] != weights.shape[1]:
        raise InputError(f"masks of {weights.shape} and {face.shape} pixels", file=folder, remedy=WHERE)
    area = _numbers(folder / "face_ind.txt").ravel()
    if not np.array_equal(area, np.flatnonzero(face)):
        raise InputError(
            f"face_ind.txt lists {len(area)} texels, uv_face_mask.png has {np.count_nonzero(face)} or others",
            file=folder,
            remedy=WHERE,
        )
    landmarks = _numbers(folder / "uv_kpt_ind.txt")
    if landmarks.shape != (2, 68) or landmarks.min() < 0 or landmarks.max() >= len(face):
        raise InputError(
            f"uv_kpt_ind.txt has the shape {landmarks.shape}, expected (2, 68) of texels below {len(face)}",
            file=folder,
            remedy=WHERE,
        )
    graded = np.ceil(weights / 16.0) * (face > 0)  # 255, 128, 64, 48 -> 16, 8, 4, 3
    return PrnetFiles(graded.astype(np.float32), area, landmarks[::-1].T.copy())


def _texel_centres(resolution: int) -> Float64:
    columns, rows = np.meshgrid(np.arange(resolution, dtype=np.float64), np.arange(resolution, dtype=np.float64))
    return np.stack([columns, rows], axis=-1)


def _grey(path: Path) -> NDArray[np.uint8]:
    import cv2

    raw = np.fromfile(path, np.uint8) if path.is_file() else np.empty(0, np.uint8)
    image = cv2.imdecode(raw, cv2.IMREAD_GRAYSCALE) if raw.size else None
    if image is None:
        raise InputError("missing or not a picture", file=path, remedy=WHERE)
    grey: NDArray[np.uint8] = image
    return grey


def _numbers(path: Path) -> NDArray[np.int64]:
    try:
        return np.loadtxt(path).astype(np.int64)
    except (OSError, ValueError) as error:
        raise InputError(f"not a readable list of numbers ({error})", file=path, remedy=WHERE) from None
