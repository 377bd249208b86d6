"""UvChart: where each vertex of a face model lies on the unit square, and which triangles cover it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from prnbench.errors import FaceModelError
from prnbench.morphable import MorphableModel
from prnbench.uv.raster import Border, ChartRaster, rasterise_chart
from prnbench.uv.topology import Float64, Int32, boundary_loops, directed_edges, piece_with, triangulate_loop
from prnbench.uv.tutte import Boundary, Weights, signed_areas, tutte_embedding

Holes = Literal["filled", "kept"]

_charts: WeakKeyDictionary[MorphableModel, dict[Holes, UvChart]] = WeakKeyDictionary()


@dataclass(frozen=True, eq=False)
class UvChart:
    """A chart of a face model.

    Attributes
    ----------
    uv
        (V, 2) float64 in 0..1, u right, v up; NaN for vertices off the chart.
    triangles
        (T, 3) int32: first the surface's, counter-clockwise on the chart, then those that fill its holes.
    surface_count
        Number of surface triangles.
    landmarks
        (68,) int32 vertex ids.
    mean
        (V, 3) float32 vertices of the model's mean face.
    source
        ``model`` (texture coordinates came with the model) or ``tutte``.
    repaired
        Vertices whose coordinates were broken (they folded the chart) and became the mean of their neighbours.
    """

    uv: Float64
    triangles: Int32
    surface_count: int
    landmarks: Int32
    mean: NDArray[np.float32]
    source: str
    repaired: Int32 = field(default_factory=lambda: np.empty(0, np.int32))
    _rasters: dict[tuple[int, Border], ChartRaster] = field(default_factory=dict, repr=False)

    @property
    def landmark_uv(self) -> Float64:
        """(68, 2) chart coordinates of the landmarks."""
        return self.uv[self.landmarks]

    @property
    def on_chart(self) -> NDArray[np.bool_]:
        """(V,) vertices that the chart shows."""
        return ~np.isnan(self.uv[:, 0])

    @property
    def folded(self) -> int:
        """Number of surface triangles turned the wrong way on the chart; 0 for a one-to-one chart."""
        return int((signed_areas(self.uv, self.triangles[: self.surface_count]) < -1e-12).sum())

    def landmark_texels(self, resolution: int) -> Int32:
        """(68, 2) row and column of the texel nearest to each landmark."""
        column_row = texel_positions(self.landmark_uv, resolution)
        return np.rint(column_row[:, ::-1]).astype(np.int32)

    def raster(self, resolution: int = 256, border: Border = "exact") -> ChartRaster:
        """The chart as a fixed linear map from vertices to texels; made once for each resolution and border."""
        key = resolution, border
        if key not in self._rasters:
            positions = texel_positions(self.uv, resolution)
            self._rasters[key] = rasterise_chart(positions, self.triangles, resolution, border, self.mean)
        return self._rasters[key]


def texel_positions(uv: NDArray[np.floating], resolution: int) -> Float64:
    """Column and row (..., 2) of chart coordinates: u (R - 1), (R - 1) - v (R - 1), as face3d and PRNet have it."""
    positions = np.asarray(uv, np.float64) * (resolution - 1)
    positions[..., 1] = (resolution - 1) - positions[..., 1]
    return positions


def chart_of(model: MorphableModel, holes: Holes = "filled") -> UvChart:
    """The chart of a face model: its own texture coordinates, else a Tutte embedding; made once per model.

    Parameters
    ----------
    holes
        ``filled``: mouth slit and eye holes are closed on the chart (by the model's ``mouth_triangles`` where it
        has them), so that a position map has no gap; ``kept``: they stay uncovered.
    """
    known = _charts.setdefault(model, {})
    if holes not in known:
        known[holes] = _own_chart(model, holes) if model.uv is not None else tutte_chart(model, holes=holes)
    return known[holes]


def tutte_chart(
    model: MorphableModel,
    *,
    weights: Weights = "uniform",
    boundary: Boundary = "square",
    holes: Holes = "filled",
) -> UvChart:
    """Tutte chart of the piece of the mesh that holds the landmarks (eye balls and teeth stay off the chart)."""
    piece = piece_with(model.triangles, model.landmarks)
    uv = np.full((model.vertex_count, 2), np.nan)
    used = np.unique(piece)
    local = np.full(model.vertex_count, -1, np.int32)
    local[used] = np.arange(len(used), dtype=np.int32)
    uv[used] = tutte_embedding(model.mean[used], local[piece], weights=weights, boundary=boundary)
    return _chart(model, uv, piece, holes, "tutte")


def _own_chart(model: MorphableModel, holes: Holes) -> UvChart:
    uv = np.asarray(model.uv, np.float64)
    on = ~np.isnan(uv[:, 0])
    surface = model.triangles[on[model.triangles].all(axis=1)]
    if not len(surface) or not on[model.landmarks].all():
        raise FaceModelError(
            f"the chart holds {len(surface)} triangles and {on[model.landmarks].sum()} of 68 landmarks",
            file=model.source,
            remedy="give a face model with texture coordinates over the whole face, or without any",
        )
    uv, repaired = repair_chart(uv, surface)
    return _chart(model, uv, surface, holes, "model", repaired)


def _chart(
    model: MorphableModel, uv: Float64, surface: Int32, holes: Holes, source: str, repaired: Int32 | None = None
) -> UvChart:
    mouth = model.mouth_triangles if model.mouth_triangles is not None else np.empty((0, 3), np.int32)
    fill = _fillers(uv, surface, mouth) if holes == "filled" else np.empty((0, 3), np.int32)
    none = np.empty(0, np.int32)
    return UvChart(
        uv,
        np.concatenate([surface, fill]),
        len(surface),
        model.landmarks,
        model.mean,
        source,
        none if repaired is None else repaired,
    )


def repair_chart(uv: Float64, triangles: Int32, rounds: int = 5) -> tuple[Float64, Int32]:
    """Move vertices that fold the chart to the mean of their neighbours.

    The published BFM_UV.mat has three such vertices. A vertex counts as broken when at least half of the triangles
    around it are turned the wrong way; a chart with more than one in a thousand is left as it is.

    Returns
    -------
    uv (V, 2), ids of the moved vertices
    """
    uv, moved = uv.copy(), np.zeros(len(uv), bool)
    around = np.bincount(triangles.ravel(), minlength=len(uv))
    edges = directed_edges(triangles)
    edges = np.concatenate([edges, edges[:, ::-1]])
    for _ in range(rounds):
        areas = signed_areas(uv, triangles)
        wrong = areas * np.sign(np.median(areas)) < -1e-12
        folded = np.bincount(triangles[wrong].ravel(), minlength=len(uv))
        broken = (folded > 0) & (2 * folded >= around)
        if not broken.any() or broken.sum() > max(10, len(uv) // 1000):
            break
        into = edges[broken[edges[:, 0]] & ~broken[edges[:, 1]]]
        total = np.bincount(into[:, 0], minlength=len(uv))
        for axis in range(2):
            sums = np.bincount(into[:, 0], uv[into[:, 1], axis], minlength=len(uv))
            uv[broken & (total > 0), axis] = (sums / np.maximum(total, 1))[broken & (total > 0)]
        moved |= broken
    return uv, np.flatnonzero(moved).astype(np.int32)


def _fillers(uv: Float64, surface: Int32, mouth: Int32) -> Int32:
    """Triangles that close the holes: the model's own for the mouth, ears cut on the chart for the others."""
    try:
        loops = boundary_loops(surface)
    except FaceModelError:  # folded or doubled triangles: the model's own chart still serves, with what it closes
        return mouth
    outer = max(loops, key=lambda loop: np.ptp(uv[loop], axis=0).prod())
    inside = set(np.unique(mouth).tolist())
    fill = [mouth]
    for loop in loops:
        if loop is not outer and len(inside.intersection(loop.tolist())) < len(loop) // 2:
            fill.append(triangulate_loop(loop, uv))
    return np.concatenate(fill)
