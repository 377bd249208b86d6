"""Shape error after alignment: landmark similarity, ICP, then distances over the outer-interocular distance.

Public protocol of the PRNet family (Florence, 19K scan points) and of SADRNet (AFLW2000-3D); every step is a field of
the EvalProtocol.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from prnbench.cards import EvalProtocol
from prnbench.geometry import similarity_alignment
from prnbench.landmarks import OUTER_EYE_CORNERS
from prnbench.metrics.context import Context, landmarks_of, predicted_map
from prnbench.metrics.icp import Alignment, icp
from prnbench.metrics.nearest import nearest, point_grid
from prnbench.metrics.surface import cloud_normals, distance_to_surface, vertex_normals
from prnbench.sample import Prediction, Sample

Array = NDArray[np.float64]

CROP_MM = 95.0
"""Scan points, and predicted points that look for them, lie within this distance of the nose tip."""

TOLERANCE = 1e-4
"""ICP stops when no true point moves by more than this share of the outer-interocular distance."""

_INNER = slice(17, 68)  # landmarks without the jaw line, which has no fixed place on a face
_NOSE_TIP = 30


@dataclass(frozen=True)
class Truth:
    """What a reconstruction is measured against.

    Attributes
    ----------
    points
        (N, 3).
    landmarks
        (68, 3); those not known are NaN.
    used
        Landmarks of the first alignment.
    interocular
        Distance between the outer eye corners, in the unit of ``points``.
    mirrored
        True if image coordinates (y down) have to be mirrored to become the truth's.
    crop
        Centre and radius for predicted points in the reverse direction, or None.
    """

    points: Array
    landmarks: Array
    used: slice
    interocular: float
    mirrored: bool = False
    crop: tuple[Array, float] | None = None


@dataclass(frozen=True)
class Surface:
    """A predicted surface: points (P, 3), triangles (F, 3) or None, rim (P,) or None, landmarks (68, 3)."""

    points: Array
    triangles: NDArray[np.int32] | None
    rim: NDArray[np.bool_] | None
    landmarks: Array


def reconstruction_errors_of_face(
    protocols: Sequence[EvalProtocol], sample: Sample, prediction: Prediction, context: Context
) -> dict[str, float]:
    """Error of one face under each protocol in per cent; alignments are shared between protocols."""
    errors: dict[str, float] = {}
    aligned: dict[str, tuple[Truth, Surface, Alignment | None]] = {}
    for protocol in protocols:
        truth = truth_of(sample, protocol.ground_truth, context)
        surface = None if truth is None else surface_of(prediction, truth, context)
        if truth is None or (prediction.failed is None and surface is None):
            errors[protocol.key] = np.nan
        elif surface is None:
            errors[protocol.key] = np.inf
        else:
            key = f"{protocol.ground_truth} {protocol.alignment}"
            if key not in aligned:
                scale = protocol.alignment.endswith("similarity_icp")
                aligned[key] = truth, surface, align(surface, truth, scale=scale)
            errors[protocol.key] = distance(*aligned[key], protocol)
    return errors


def align(surface: Surface, truth: Truth, *, scale: bool) -> Alignment | None:
    """Landmark similarity, then rigid or (``scale``) similarity ICP; None if the prediction cannot be aligned."""
    p, g = surface.landmarks[truth.used], truth.landmarks[truth.used]
    known = np.isfinite(g).all(axis=1)
    p, g = p[known], g[known]
    if not (np.isfinite(surface.points).all() and np.isfinite(p).all()) or min(p.var(), surface.points.var()) <= 0:
        return None
    start = Alignment(*similarity_alignment(p, g))
    if surface.triangles is None:
        normals = cloud_normals(surface.points)
    else:
        normals = vertex_normals(surface.points, surface.triangles)
    tolerance = TOLERANCE * truth.interocular
    return icp(
        surface.points, truth.points, normals=normals, rim=surface.rim, scale=scale, start=start, tolerance=tolerance
    )


def distance(truth: Truth, surface: Surface, alignment: Alignment | None, protocol: EvalProtocol) -> float:
    """Mean distance of aligned surface and truth in per cent of the outer-interocular distance."""
    if alignment is None:
        return np.inf
    if protocol.direction == "prediction_to_truth":
        moved = alignment.apply(surface.points)
        if truth.crop is not None:
            centre, radius = truth.crop
            moved = moved[((moved - centre) ** 2).sum(axis=1) <= radius**2]
        mean = point_distances(moved, truth.points).mean() if len(moved) else np.inf
    else:
        distances = alignment.distances
        if protocol.aggregation == "point_to_surface":
            if surface.triangles is None:
                return np.nan
            back, bound = alignment.undo(truth.points), distances / alignment.scale
            distances = alignment.scale * distance_to_surface(back, surface.points, surface.triangles, bound)
        mean = distances.mean()
    return float(100.0 * mean / truth.interocular)


def point_distances(points: ArrayLike, cloud: ArrayLike) -> Array:
    """Distance (N,) from each point to the nearest point of a cloud."""
    return nearest(point_grid(cloud), points)[0]


def truth_of(sample: Sample, source: str, context: Context) -> Truth | None:
    """The scan in mm, or the face area of the true position map in pixels; None if the sample has none."""
    if source == "scan":
        scan = sample.scan
        if scan is None or scan.landmarks_mm is None:
            return None
        landmarks = np.asarray(scan.landmarks_mm, np.float64)
        mirrored = bool(np.linalg.det(scan.camera_px_per_mm[:, :3].astype(np.float64)) < 0)
        interocular = scan.interocular_mm or interocular_of(landmarks)
        crop = (landmarks[_NOSE_TIP], CROP_MM)
        return Truth(scan.points_mm.astype(np.float64), landmarks, _INNER, interocular, mirrored, crop)
    if sample.position_map_px is None or sample.landmarks_px is None or context.face_texels is None:
        return None
    points = sample.position_map_px.reshape(-1, 3)[context.face_texels].astype(np.float64)
    landmarks = np.asarray(sample.landmarks_px, np.float64)
    return Truth(points, landmarks, slice(0, 68), interocular_of(landmarks))


def interocular_of(landmarks: ArrayLike) -> float:
    """Distance in space between the outer eye corners (iBUG 36 and 45) of (68, 3) landmarks."""
    right, left = np.asarray(landmarks, np.float64)[list(OUTER_EYE_CORNERS)]
    return float(np.linalg.norm(right - left))


def surface_of(prediction: Prediction, truth: Truth, context: Context) -> Surface | None:
    """The predicted face area, or vertices, with landmarks; None if the prediction has no shape in space."""
    landmarks = landmarks_of(prediction, context)
    if landmarks is None or landmarks.shape[1] != 3:
        return None
    flip = np.array([1.0, -1.0, 1.0]) if truth.mirrored else np.ones(3)
    position_map = None if context.face_texels is None else predicted_map(prediction, context)
    if position_map is not None:
        assert context.face_texels is not None
        points = position_map.reshape(-1, 3)[context.face_texels]
        return Surface(points * flip, context.texel_triangles, context.texel_rim, landmarks * flip)
    if prediction.vertices_px is None:
        return None
    known = context.triangles is not None and len(prediction.vertices_px) == context.vertex_count
    triangles, rim = (context.triangles, context.model_rim) if known else (None, None)
    return Surface(prediction.vertices_px * flip, triangles, rim, landmarks * flip)
