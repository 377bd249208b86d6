"""What errors are measured with: the face model's chart, and points of samples and predictions in one convention."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prnbench.geometry import convert_convention
from prnbench.sample import Prediction, Sample

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Context:
    """What dense and surface protocols need of the face model and its chart; all None where there is none.

    Attributes
    ----------
    face_texels
        (T,) flat texel ids (row * map_size + column) of the face area.
    map_size
        Side of the ground truth's position maps in texels.
    triangles
        (F, 3) triangles of the face model, for predictions given as its vertices.
    vertex_count
        Vertices of the face model.
    landmark_vertices
        (68,) vertex ids of the landmarks, for predictions that hold vertices only.
    position_map_of
        Function from vertices (V, 3) to a position map (map_size, map_size, 3).
    landmarks_of_map
        Function from a position map to its 68 landmarks (68, 3).
    """

    face_texels: NDArray[np.int64] | None = None
    map_size: int = 256
    triangles: NDArray[np.int32] | None = None
    vertex_count: int | None = None
    landmark_vertices: NDArray[np.int32] | None = None
    position_map_of: Callable[[Any], Any] | None = None
    landmarks_of_map: Callable[[Any], Any] | None = None

    @cached_property
    def inner_texels(self) -> NDArray[np.int64]:
        """Face-area texels whose four neighbours are in the face area."""
        from prnbench.metrics.dense import inner_texels

        assert self.face_texels is not None
        return inner_texels(self.face_texels, self.map_size)

    @cached_property
    def texel_triangles(self) -> NDArray[np.int32]:
        """Triangles between neighbouring face-area texels, as indices into ``face_texels``."""
        from prnbench.metrics.surface import grid_triangles

        assert self.face_texels is not None
        return grid_triangles(self.face_texels, self.map_size)

    @cached_property
    def texel_rim(self) -> NDArray[np.bool_]:
        """(T,) face-area texels on the border of the face area, or of a hole in it."""
        from prnbench.metrics.surface import rim_of

        assert self.face_texels is not None
        return rim_of(self.texel_triangles, len(self.face_texels))

    @cached_property
    def model_rim(self) -> NDArray[np.bool_]:
        """(V,) vertices on the border of the face model."""
        from prnbench.metrics.surface import rim_of

        assert self.triangles is not None and self.vertex_count is not None
        return rim_of(self.triangles, self.vertex_count)


def true_landmarks(sample: Sample, source: str = "pt3d_68") -> Array:
    """(68, 3) true landmarks in the annotation's convention; NaN where there are none."""
    out = np.full((68, 3), np.nan)
    points = sample.reannotated_px if source == "reannotated" else sample.landmarks_px
    if points is not None:
        out[:, : points.shape[1]] = convert_convention(points, "exact", "annotation")
    return out


def predicted_landmarks(prediction: Prediction, context: Context) -> Array:
    """(68, 3) predicted landmarks in the annotation's convention; NaN where there are none."""
    out = np.full((68, 3), np.nan)
    points = landmarks_of(prediction, context)
    if points is not None:
        out[:, : points.shape[1]] = points
        out[:, :2] += offset_px(prediction, "annotation")
    return out


def landmark_dims(prediction: Prediction, context: Context) -> int:
    """2 or 3 for landmarks in the plane or in space, 0 for none."""
    points = landmarks_of(prediction, context)
    return 0 if points is None else int(points.shape[1])


def landmarks_of(prediction: Prediction, context: Context) -> NDArray[np.float32] | None:
    """Landmarks of a prediction: its own, else those of its vertices or position map."""
    if prediction.failed is not None:
        return None
    if prediction.landmarks_px is not None:
        return prediction.landmarks_px
    if context.landmark_vertices is not None and _has_model_vertices(prediction, context):
        return prediction.vertices_px[context.landmark_vertices]  # type: ignore[index]
    if prediction.position_map_px is not None and context.landmarks_of_map is not None:
        landmarks: NDArray[np.float32] = context.landmarks_of_map(prediction.position_map_px)
        return landmarks
    return None


def predicted_map(prediction: Prediction, context: Context) -> NDArray[np.float32] | None:
    """Position map of a prediction at the ground truth's size: its own, else that of its vertices."""
    from prnbench.metrics.dense import resized_map

    if prediction.position_map_px is not None:
        return resized_map(prediction.position_map_px, context.map_size)
    if context.position_map_of is not None and _has_model_vertices(prediction, context):
        made: NDArray[np.float32] = context.position_map_of(prediction.vertices_px)
        return made
    return None


def _has_model_vertices(prediction: Prediction, context: Context) -> bool:
    return prediction.vertices_px is not None and len(prediction.vertices_px) == context.vertex_count


def offset_px(prediction: Prediction, target: str) -> tuple[float, float]:
    """Shift in x and y from a prediction's pixel convention; numbers "as the annotation has them" stay."""
    if prediction.pixel_convention == "annotation":
        return 0.0, 0.0
    x, y = convert_convention(np.zeros(2), prediction.pixel_convention, target)
    return float(x), float(y)
