"""Scans (OBJ, PLY, VRML) with their texture: reading them safely, their unit, their 68 landmarks (given or found)."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prnbench.errors import SampleError
from prnbench.geometry import similarity_alignment
from prnbench.sample import decode_rgb

Float32 = NDArray[np.float32]
Array = NDArray[np.float64]

HEAD_HEIGHT_MM = (80.0, 600.0)
"""Plausible heights of a face or head scan; a scan that fits only as metres, centimetres or micrometres is rescaled."""

_UNITS = {"mm": 1.0, "m": 1000.0, "cm": 10.0, "um": 1e-3}


@dataclass(frozen=True, slots=True, eq=False)
class ScanMesh:
    """A scan in millimetres: y up, face towards +z.

    Attributes
    ----------
    vertices_mm
        (V, 3) float32, finite.
    triangles
        (F, 3) int32.
    uv, texture
        (V, 2) float32 in 0..1 and (h, w, 3) uint8 RGB; or None where ``colours`` is given.
    colours
        (V, 3) uint8 RGB; or None.
    unit
        The unit of the file: ``mm``, or what it was taken for.
    """

    vertices_mm: Float32
    triangles: NDArray[np.int32]
    uv: Float32 | None = None
    texture: NDArray[np.uint8] | None = None
    colours: NDArray[np.uint8] | None = None
    unit: str = "mm"


@dataclass(frozen=True, slots=True, eq=False)
class ScanLandmarks:
    """68 landmarks on a scan (68, 3) in mm, how they were obtained, and a confidence in 0..1."""

    points_mm: Float32
    method: str
    confidence: float


def read_scan(path: Path, root: Path) -> ScanMesh:
    """Read a scan with its texture: OBJ or PLY through trimesh, VRML (``.wrl``) by :func:`_read_vrml`.

    Files named inside it (``mtllib``, ``map_Kd``, ``url``) are read only if they lie below ``root``.

    Raises
    ------
    SampleError
        The file is empty or damaged, has no triangles or no texture, or is no head in any length unit.
    """
    if path.stat().st_size == 0:
        raise SampleError("the scan is empty", file=path, remedy="copy it again")
    scan = _read_vrml(path, root) if path.suffix.lower() == ".wrl" else _read_through_trimesh(path, root)
    scan = _without_invalid_vertices(scan)
    factor, unit = _millimetres(scan.vertices_mm, path)
    return replace(scan, vertices_mm=scan.vertices_mm * np.float32(factor), unit=unit)


def _read_through_trimesh(path: Path, root: Path) -> ScanMesh:
    import trimesh

    try:
        with path.open("rb") as handle:
            kind = path.suffix[1:].lower()
            mesh: Any = trimesh.load(handle, file_type=kind, process=False, force="mesh", skip_materials=True)
        vertices, triangles = np.asarray(mesh.vertices, np.float32), np.asarray(mesh.faces, np.int32)
    except Exception as error:  # trimesh raises many kinds for damaged files
        raise SampleError(f"not a readable scan ({error})", file=path, remedy="copy it again") from None
    uv, texture = getattr(mesh.visual, "uv", None), _texture_file(path, root)
    uv = None if uv is None or len(uv) != len(vertices) else np.asarray(uv, np.float32)
    colours = np.asarray(mesh.visual.vertex_colors, np.uint8)[:, :3] if mesh.visual.kind == "vertex" else None
    return _with_appearance(ScanMesh(vertices, triangles, uv=uv, colours=colours), texture, path)


def _with_appearance(scan: ScanMesh, texture: Path | None, path: Path) -> ScanMesh:
    if not len(scan.triangles):
        raise SampleError("the scan has no triangles", file=path, remedy="copy it again")
    if scan.uv is not None and texture is not None:
        return replace(scan, texture=decode_rgb(texture.read_bytes(), str(texture)), colours=None)
    if scan.colours is not None:
        return replace(scan, uv=None)
    raise SampleError(
        "the scan has no texture (no image behind mtllib / map_Kd / url, no vertex colours)",
        file=path,
        remedy="put the texture image (and the .mtl) beside the scan",
    )


def _read_vrml(path: Path, root: Path) -> ScanMesh:
    """The one textured ``IndexedFaceSet`` of a VRML 1.0 or 2.0 file.

    trimesh does not read VRML. Of the language only this is understood: coordinates, texture coordinates, their
    indices, ``ccw`` and the texture's file name; what else would move the points (``Transform``) is refused.
    """
    text = path.read_text(encoding="utf-8", errors="replace")
    if not text.startswith("#VRML"):
        raise SampleError("not a VRML file (its first line says so otherwise)", file=path, remedy="copy it again")
    text = re.sub(r'#[^"\n]*$', "", text, flags=re.MULTILINE)
    shapes = len(re.findall(r"\bIndexedFaceSet\b", text))
    if shapes != 1:
        raise SampleError(f"holds {shapes} IndexedFaceSets, one is read", file=path, remedy="merge the shapes")
    if re.search(r"\b(Matrix)?Transform\s*\{[^{}]*\b(translation|rotation|scale|scaleFactor|matrix)\b", text):
        raise SampleError("the scan is moved by a Transform node", file=path, remedy="export it without")
    try:
        points = _vrml_numbers(text, r"\bCoordinate3?\s*\{\s*point").reshape(-1, 3).astype(np.float32)
        corners = _vrml_polygons(_vrml_numbers(text, r"\bcoordIndex").astype(np.int64))
        chart = _vrml_numbers(text, r"\bTextureCoordinate2?\s*\{\s*point").reshape(-1, 2).astype(np.float32)
        own = _vrml_polygons(_vrml_numbers(text, r"\btex(?:ture)?CoordIndex").astype(np.int64))
        if corners.size and (corners.min() < 0 or corners.max() >= len(points)):
            raise ValueError("an index beyond the coordinates")
        mesh = _joined(points, corners, chart, own if own.size else corners)
    except ValueError as error:
        raise SampleError(f"not a readable VRML scan ({error})", file=path, remedy="copy it again") from None
    if re.search(r"\bccw\s+FALSE\b", text):
        mesh = replace(mesh, triangles=np.ascontiguousarray(mesh.triangles[:, ::-1]))
    named = re.search(r'\b(?:url|filename)\s*\[?\s*"([^"]+)"', text)
    return _with_appearance(mesh, _inside(path, named[1], root) if named else None, path)


def _vrml_numbers(text: str, field: str) -> Array:
    """Numbers in the brackets after a field; none if it is not there."""
    found = re.search(field + r"\s*\[([^\]]*)\]", text)
    return np.array(found[1].replace(",", " ").split() if found else [], np.float64)


def _vrml_polygons(indices: NDArray[np.int64]) -> NDArray[np.int64]:
    """Triangles (F, 3) of polygons that end with -1, each cut as a fan."""
    triangles: list[NDArray[np.int64]] = []
    ends = np.flatnonzero(indices == -1)
    sizes = np.diff(np.concatenate([[-1], ends])) - 1
    for size in np.unique(sizes[sizes >= 3]):
        first = ends[sizes == size] - size
        polygons = indices[first[:, None] + np.arange(size)]
        fans = [polygons[:, [0, k, k + 1]] for k in range(1, size - 1)]
        triangles.append(np.stack(fans, axis=1).reshape(-1, 3))
    return np.concatenate(triangles) if triangles else np.empty((0, 3), np.int64)


def _joined(points: Float32, corners: NDArray[np.int64], chart: Float32, chart_corners: NDArray[np.int64]) -> ScanMesh:
    """One vertex for each pair of point and chart position that occurs."""
    if not len(chart):
        return ScanMesh(points, corners.astype(np.int32))
    if chart_corners.shape != corners.shape or chart_corners.min() < 0 or chart_corners.max() >= len(chart):
        raise ValueError("texture indices that do not fit the coordinates")
    pairs = np.stack([corners.ravel(), chart_corners.ravel()], axis=1)
    used, number = np.unique(pairs, axis=0, return_inverse=True)
    return ScanMesh(points[used[:, 0]], number.reshape(-1, 3).astype(np.int32), uv=chart[used[:, 1]])


def _texture_file(path: Path, root: Path) -> Path | None:
    """The image that ``map_Kd`` of the scan's material names, read only if it lies below ``root``."""
    with path.open(encoding="utf-8", errors="replace") as lines:
        library = next((line.split(maxsplit=1)[1].strip() for line in lines if line.startswith("mtllib ")), None)
    material = None if library is None else _inside(path, library, root)
    if material is None:
        return None
    text = material.read_text(encoding="utf-8", errors="replace")
    named = re.findall(r"^\s*map_Kd\s+(.+?)\s*$", text, re.MULTILINE)
    return _inside(path, named[0], root) if named else None


def _inside(path: Path, name: str, root: Path) -> Path | None:
    target = (path.parent / name.replace("\\", "/")).resolve()
    if not target.is_relative_to(root.resolve()):
        raise SampleError(f"names the file {name!r} outside the data set", file=path, remedy="do not trust this scan")
    return target if target.is_file() else None


def _without_invalid_vertices(scan: ScanMesh) -> ScanMesh:
    good = np.asarray(np.isfinite(scan.vertices_mm).all(axis=1))
    if good.all():
        return scan
    number = np.cumsum(good) - 1
    triangles = number[scan.triangles[good[scan.triangles].all(axis=1)]].astype(np.int32)
    uv = None if scan.uv is None else scan.uv[good]
    colours = None if scan.colours is None else scan.colours[good]
    return replace(scan, vertices_mm=scan.vertices_mm[good], triangles=triangles, uv=uv, colours=colours)


def _millimetres(vertices: Float32, path: Path) -> tuple[float, str]:
    if not len(vertices):
        raise SampleError("the scan has no finite vertices", file=path, remedy="copy it again")
    height = float(np.ptp(np.percentile(vertices[:, 1], (1, 99))))
    for unit, factor in _UNITS.items():
        if HEAD_HEIGHT_MM[0] <= height * factor <= HEAD_HEIGHT_MM[1]:
            return factor, unit
    raise SampleError(
        f"the scan is {height:.3g} units high: no head in mm, cm, m or um",
        file=path,
        remedy="check the scan's unit",
    )


def landmarks_of(scan: ScanMesh, path: Path, annotations: Path | None = None) -> ScanLandmarks:
    """Landmarks from a ``.ljson``, ``.json`` or ``.csv`` file of the scan's stem, else found on its geometry.

    Files are looked for beside the scan, then in the folder of annotations.
    """
    for folder in (path.parent, annotations):
        for suffix in (".ljson", ".json", ".csv"):
            if folder is not None and (file := folder / f"{path.stem}{suffix}").is_file():
                return ScanLandmarks(read_landmarks(file), f"given ({suffix[1:]})", 1.0)
    return find_landmarks(scan)


def read_landmarks(path: Path) -> Float32:
    """68 points (68, 3) of a Menpo ``.ljson`` (versions 1-3), a JSON list or ``{"landmarks": ...}``, or x,y,z CSV.

    Raises
    ------
    SampleError
        The file does not hold 68 finite 3D points.
    """
    try:
        if path.suffix == ".csv":
            points = np.genfromtxt(path, delimiter=",", dtype=np.float64)
            points = points[np.isfinite(points).all(axis=1)][:, -3:]
        else:
            points = np.asarray(_points_in(json.loads(path.read_text(encoding="utf-8"))), np.float64)
    except (ValueError, KeyError, TypeError, IndexError, StopIteration) as error:
        raise SampleError(f"not a landmark file ({error})", file=path, remedy="give 68 points x, y, z") from None
    if points.shape != (68, 3) or not np.isfinite(points).all():
        raise SampleError(f"holds points {points.shape}, expected 68 x 3", file=path, remedy="give 68 points x, y, z")
    return points.astype(np.float32)


def _points_in(content: Any) -> Any:
    if isinstance(content, list):
        return content
    if "groups" in content:  # ljson 1: a list of groups, ljson 3: a dict of groups
        groups = content["groups"]
        first = next(iter(groups.values())) if isinstance(groups, dict) else groups[0]
        return _points_in(first)
    held = content["landmarks"]
    if isinstance(held, dict):
        return held["points"]
    return [entry["point"] if isinstance(entry, dict) else entry for entry in held]


def find_landmarks(scan: ScanMesh) -> ScanLandmarks:
    """Landmarks by fitting the built-in head to the scan.

    It starts at the nose tip; closest points then give a similarity and identity modes in turn. The confidence is the
    share of the fitted face within 3 mm of the scan. The landmarks are the scan's points nearest to the fitted ones.
    """
    from scipy.spatial import cKDTree

    model = _face_part()
    tree = cKDTree(scan.vertices_mm)
    start = nose_tip(scan.vertices_mm) - model.mean[model.nose]
    placed = model.mean + start
    shape = np.zeros(model.modes.shape[1])
    for step in range(40):
        distance, nearest = tree.query(placed)
        near = distance < max(30.0 * 0.85**step, np.percentile(distance, 80), 3.0)
        target = scan.vertices_mm[nearest[near]].astype(np.float64)
        posed = model.mean + (model.modes @ shape).reshape(-1, 3)
        s, R, t = similarity_alignment(posed[near], target)
        if step >= 15:
            shape = _regularised_shape(model, near, (target - t) @ R / s)
            posed = model.mean + (model.modes @ shape).reshape(-1, 3)
        placed = s * posed @ R.T + t
    distance, _ = tree.query(placed)
    _, at = tree.query(placed[model.landmarks])
    return ScanLandmarks(scan.vertices_mm[at], "fit of the built-in head", float((distance < 3.0).mean()))


@dataclass(frozen=True, slots=True, eq=False)
class _FacePart:
    """The built-in head within 95 mm of the nose tip, thinned: mean (n, 3), modes (3n, k) times std, landmarks."""

    mean: Array
    modes: Array
    landmarks: NDArray[np.intp]
    nose: int


@cache
def _face_part() -> _FacePart:
    from prnbench.facemodel import load_face_model

    model = load_face_model()
    mean = model.mean.astype(np.float64) * model.mm_per_unit
    near = np.linalg.norm(mean - mean[model.landmarks[30]], axis=1) < 95
    chosen = np.union1d(np.flatnonzero(near)[::8], model.landmarks)
    modes = model.identity.reshape(len(mean), 3, -1)[chosen][:, :, :30] * model.identity_std[:30] * model.mm_per_unit
    landmarks = np.searchsorted(chosen, model.landmarks)
    return _FacePart(mean[chosen], modes.reshape(-1, modes.shape[2]).astype(np.float64), landmarks, int(landmarks[30]))


def _regularised_shape(model: _FacePart, near: NDArray[np.bool_], target: Array, noise_mm: float = 3.0) -> Array:
    """Maximum a posteriori coefficients in standard deviations, for points with ``noise_mm`` of noise."""
    rows = np.repeat(near, 3)
    A = model.modes[rows]
    b = (target - model.mean[near]).ravel()
    normal = A.T @ A + noise_mm**2 * 20.0 * np.eye(A.shape[1])
    return np.asarray(np.linalg.solve(normal, A.T @ b), np.float64)


def nose_tip(vertices_mm: Float32) -> Array:
    """The most forward point of a frontal scan (y up, face towards +z) near its vertical middle line, (3,) in mm."""
    points = np.asarray(vertices_mm, np.float64)
    low, high = np.percentile(points, (2, 98), axis=0)
    middle = np.abs(points[:, 0] - (low[0] + high[0]) / 2) < 0.25 * (high[0] - low[0])
    central = middle & (points[:, 1] > low[1] + 0.15 * (high[1] - low[1]))
    candidates = points[central]
    front = candidates[candidates[:, 2] >= np.percentile(candidates[:, 2], 99.9)]
    tip: Array = front.mean(axis=0)
    return tip
