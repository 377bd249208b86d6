"""The face model that a user names: a file, a folder or the built-in head; what it is and how it looks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from prnbench.geometry import box_of, rotation_from_euler
from prnbench.morphable import MorphableModel, read_face_model
from prnbench.render import rasterise, render_colours, vertex_normals, visible_vertices

Float32 = NDArray[np.float32]

VIEWS_DEG = (0.0, 40.0, 85.0)
"""Yaw of the views in a face model's picture."""


def load_face_model(path: str | Path | None = None) -> MorphableModel:
    """Load a morphable model; None or ``builtin`` is the built-in head.

    Raises
    ------
    FaceModelError
        The path holds no face model, or one with wrong fields or sizes.
    """
    if path is None or str(path) == "builtin":
        from prnbench.synthetic.head import built_in_head

        return built_in_head()
    return read_face_model(path)


def describe(model: MorphableModel) -> dict[str, str | int]:
    """What a user wants to know of a face model, in the order to show it."""
    from prnbench.uv import chart_of

    chart = chart_of(model)
    raster = chart.raster(256)
    made = "texture coordinates of the model" if chart.source == "model" else "Tutte embedding, computed"
    fillers = len(chart.triangles) - chart.surface_count
    median, high = np.percentile(_round_trip_px(model), [50, 99])
    return {
        "name": model.name,
        "source": model.source,
        "licence": model.licence,
        "unit": model.unit,
        "vertices": model.vertex_count,
        "triangles": len(model.triangles),
        "identity modes": model.identity.shape[1],
        "expression modes": _named(model.expression.shape[1], model.expression_names),
        "albedo": "none" if model.albedo is None else f"mean and {_columns(model.albedo_modes)} modes",
        "landmarks": f"{len(model.landmarks)} (iBUG order)",
        "chart": f"{made}: {chart.on_chart.sum()} vertices, {chart.folded} folded triangles, "
        f"{len(chart.repaired)} repaired vertices, {fillers} triangles close its holes",
        "chart at 256 x 256": f"{raster.covered.mean():.1%} of the texels covered; vertices of the face read back "
        f"from a map of the mean face are {median:.2f} px (median), {high:.2f} px (99 %) off",
        "fingerprint": model.fingerprint,
    }


def picture(model: MorphableModel, size: int = 360) -> NDArray[np.uint8]:
    """The mean face in three shaded views, the first with its landmarks: (size, 3 size, 3) uint8 RGB."""
    views = [_view(model, yaw, size) for yaw in VIEWS_DEG]
    return np.concatenate(views, axis=1)


def _view(model: MorphableModel, yaw_deg: float, size: int) -> NDArray[np.uint8]:
    rotation = rotation_from_euler(np.deg2rad([0.0, yaw_deg, 0.0]))
    posed = (model.mean - model.mean[model.landmarks[30]]) @ rotation.T
    points = _fitted(model, posed, size)
    shade = _shading(vertex_normals(posed, model.triangles))
    colours = np.clip(model.colours() * shade[:, None] * 1.1, 0, 1) ** (1 / 1.4)
    image = render_colours(points, model.triangles, colours, size, size, background=1.0, samples=3)
    if yaw_deg == 0:
        _mark(image, points[model.landmarks, :2])
    return np.rint(image * 255).astype(np.uint8)


def _fitted(model: MorphableModel, posed: NDArray[np.floating], size: int) -> NDArray[np.float64]:
    """Image points with the landmark box of the frontal mean face over 45 % of the picture's height."""
    left, top, right, bottom = box_of(model.mean[model.landmarks])
    scale = 0.45 * size / max(bottom - top, right - left)
    points: NDArray[np.float64] = np.asarray(posed, np.float64) * (scale, -scale, scale)
    face, head = box_of(points[model.landmarks]), box_of(points)
    points[:, 0] += 0.5 * size - (face[0] + face[2] + head[0] + head[2]) / 4
    points[:, 1] += 0.55 * size - (face[1] + face[3]) / 2
    return points


def _shading(normals: Float32) -> Float32:
    """Lambert light from the upper left and a weak sky, (V,)."""
    key = np.array([-0.35, 0.45, 0.82], np.float32)
    shade: Float32 = 0.75 * np.clip(normals @ key, 0, None) + 0.25 * (0.7 + 0.3 * normals[:, 1])
    return shade


def _mark(image: Float32, points: NDArray[np.float64]) -> None:
    """Draw 2-pixel blue dots with a white rim, in place."""
    rows, columns = np.mgrid[: image.shape[0], : image.shape[1]]
    for x, y in points:
        distance = np.hypot(columns - x, rows - y)
        image[distance < 2.6] = 1.0
        image[distance < 1.7] = (0.0, 0.35, 0.70)


def visible_face_vertices(model: MorphableModel) -> NDArray[np.intp]:
    """Ids of the vertices of the face area that are seen from the front on the mean face (no nostrils, no mouth)."""
    from prnbench.uv import chart_of
    from prnbench.uv.masks import face_mask

    chart, size = chart_of(model), 512
    column_row = np.rint(np.nan_to_num(chart.raster(256).positions)).astype(int)
    in_area = chart.on_chart & face_mask(model, chart, 256)[column_row[:, 1], column_row[:, 0]]
    points = _fitted(model, model.mean, size)
    seen = visible_vertices(points, model.triangles, rasterise(points, model.triangles, size, size))
    return np.flatnonzero(in_area & seen)


def _round_trip_px(model: MorphableModel) -> NDArray[np.float64]:
    """Distance of each face vertex of the mean face to itself read back from its 256-pixel map, in map pixels."""
    from prnbench.uv import chart_of

    chart, face = chart_of(model), visible_face_vertices(model)
    left, top, right, bottom = box_of(model.mean[model.landmarks])
    vertices = model.mean * (256 / (1.5 * (right - left + bottom - top) / 2))
    raster = chart.raster(256)
    back = raster.sample(raster.position_map(vertices), face)
    distance: NDArray[np.float64] = np.linalg.norm(back - vertices[face], axis=1)
    return distance


def _named(count: int, names: tuple[str, ...] | None) -> str:
    return f"{count} ({names[0]} ... {names[-1]})" if names else str(count)


def _columns(modes: Float32 | None) -> int:
    return 0 if modes is None else modes.shape[1]
