"""Reader of ICT-FaceKit: the original ``FaceXModel/`` folder of OBJ files, or its arrays in one ``.npz``.

Facts (the kit's README, MIT licence): the face area is vertices 0..9408 and polygons 0..9229 with its own
chart in 0..1; each mode's OBJ holds the full mesh with that mode at 1; 68 Multi-PIE landmarks; centimetres.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prnbench.errors import FaceModelError
from prnbench.files import cache_folder, digest_of
from prnbench.morphable.model import Float32, MorphableModel, outward, read_arrays
from prnbench.progress import progress

NEUTRAL = "generic_neutral_mesh.obj"
FACE_VERTICES, FACE_POLYGONS = 9409, 9230
LICENCE = "ICT Face Model Light: MIT, copyright 2020 USC Institute for Creative Technologies"
WHERE = "get the FaceXModel folder of github.com/ICT-VGL/ICT-FaceKit again (git clone), complete"

LANDMARKS = (
    *(1225, 1888, 1052, 367, 1719, 1722, 2199, 1447, 966, 3661, 4390, 3927, 3924, 2608, 3272, 4088, 3443),
    *(268, 493, 1914, 2044, 1401, 3615, 4240, 4114, 2734, 2509),
    *(978, 4527, 4942, 4857, 1140, 2075, 1147, 4269, 3360),
    *(1507, 1542, 1537, 1528, 1518, 1511, 3742, 3751, 3756, 3721, 3725, 3732),
    *(5708, 5695, 2081, 0, 4275, 6200, 6213, 6346, 6461, 5518, 5957, 5841),
    *(5702, 5711, 5533, 6216, 6207, 6470, 5517, 5966),
)
"""Multi-PIE 68 landmark vertices, as the kit's README lists them."""

_NPZ_ARRAYS = (
    *("mean", "identity", "expression", "expression_names"),
    *("faces", "face_uv", "uv", "face_material", "material_names"),
)
_SHELLS = ("M_LacrimalFluid", "M_EyeBlend", "M_EyeOcclusion", "M_EyeLashes")
"""Transparent materials: they would hide the eyes, so their polygons are left out (their vertices stay)."""
_SKIN = (0.78, 0.62, 0.53)
_COLOURS = {
    "M_GumsTongue": (0.62, 0.30, 0.28),
    "M_Teeth": (0.90, 0.88, 0.80),
}
_EYES = ("M_ScleraLeft", "M_ScleraRight")
_WHITE, _IRIS, _PUPIL = (0.92, 0.90, 0.88), (0.30, 0.20, 0.13), (0.04, 0.04, 0.04)
"""Painted on the eye ball by the distance from its axis: the kit's sclera has a clear cornea before the iris."""


def read_folder(folder: Path) -> MorphableModel:
    """Read the folder of OBJ files; the first read is cached as one array file."""
    files = sorted(folder.glob("*.obj"))
    stamps = [(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files]
    cached = cache_folder("face_models") / f"ict_{digest_of(2, str(folder.resolve()), stamps)[:24]}.npz"
    if cached.is_file():
        try:
            return read_arrays(cached)
        except FaceModelError:
            cached.unlink()  # damaged or of another version: read the folder again
    model = _read_objs(folder, files)
    model.save(cached)
    return model


def _read_objs(folder: Path, files: list[Path]) -> MorphableModel:
    identity = [f for f in files if re.fullmatch(r"identity\d+\.obj", f.name)]
    expression = [f for f in files if f not in identity and f.name != NEUTRAL]
    if not identity or not expression:
        raise FaceModelError(
            f"{len(identity)} identity and {len(expression)} expression files, expected 100 and 53",
            file=folder,
            remedy=WHERE,
        )
    mean, uv, polygons, polygon_uv, materials = _read_mesh(folder / NEUTRAL)
    count = 3 * len(mean)
    modes = np.empty((len(identity) + len(expression), count), np.float32)
    for row, path in enumerate(progress([*identity, *expression], "Reading ICT-FaceKit", unit="files")):
        modes[row] = (_read_vertices(path, len(mean)) - mean).ravel()
    return _model(
        source=folder,
        mean=mean,
        identity=modes[: len(identity)],
        expression=modes[len(identity) :],
        expression_names=[path.stem for path in expression],
        polygons=polygons,
        polygon_uv=polygon_uv,
        materials=materials,
        uv=uv,
    )


def read_npz(path: Path, arrays: dict[str, NDArray[Any]]) -> MorphableModel:
    """The model from its arrays in one file (mean, identity, expression, faces, face_uv, uv, ...)."""
    missing = [name for name in _NPZ_ARRAYS if name not in arrays]
    if missing:
        raise FaceModelError(f"the arrays {missing} are missing", file=path, remedy=WHERE)
    flat = {name: arrays[name].astype(np.float32).reshape(len(arrays[name]), -1) for name in ("identity", "expression")}
    return _model(
        source=path,
        mean=arrays["mean"].astype(np.float32),
        identity=flat["identity"],
        expression=flat["expression"],
        expression_names=[str(name) for name in arrays["expression_names"]],
        polygons=arrays["faces"],
        polygon_uv=arrays["face_uv"],
        materials=arrays["material_names"][arrays["face_material"]],
        uv=arrays["uv"],
    )


def _model(
    *,
    source: Path,
    mean: Float32,
    identity: Float32,
    expression: Float32,
    expression_names: Iterable[str],
    polygons: NDArray[Any],
    polygon_uv: NDArray[Any],
    materials: NDArray[Any],
    uv: NDArray[Any],
) -> MorphableModel:
    if len(mean) < FACE_VERTICES or len(polygons) < FACE_POLYGONS:
        raise FaceModelError(
            f"{len(mean)} vertices and {len(polygons)} polygons, expected 26719 and 26384 "
            f"(at least the face area's {FACE_VERTICES} and {FACE_POLYGONS})",
            file=source,
            remedy=WHERE,
        )
    opaque = ~np.isin(materials, _SHELLS)
    return MorphableModel(
        name="ICT-FaceKit Light",
        source=str(source),
        licence=LICENCE,
        unit="cm",
        mean=mean,
        identity=identity.T,
        identity_std=np.ones(len(identity), np.float32),
        expression=expression.T,
        expression_std=np.ones(len(expression), np.float32),
        triangles=outward(_split_quads(polygons[opaque]), mean),
        landmarks=np.array(LANDMARKS, np.int32),
        uv=_face_chart(polygons[:FACE_POLYGONS], polygon_uv[:FACE_POLYGONS], uv, len(mean)),
        albedo=_albedo(polygons, materials, mean),
        expression_names=tuple(expression_names),
    )


def _face_chart(polygons: NDArray[Any], polygon_uv: NDArray[Any], uv: NDArray[Any], vertices: int) -> Float32:
    """Texture coordinates of the face area by vertex; NaN elsewhere. The chart has no seam: copies agree."""
    chart = np.full((vertices, 2), np.nan, np.float32)
    used = polygons >= 0
    chart[polygons[used]] = uv[polygon_uv[used]]
    return chart


def _albedo(polygons: NDArray[Any], materials: NDArray[Any], mean: Float32) -> Float32:
    """Colours (V, 3) by material, since the kit's textures are not part of its mesh files."""
    colours = np.full(mean.shape, _SKIN, np.float32)
    for name, colour in _COLOURS.items():
        colours[_vertices_of(polygons[materials == name])] = colour
    for name in _EYES:
        ball = _vertices_of(polygons[materials == name])
        if not len(ball):
            continue
        low, high = mean[ball].min(axis=0), mean[ball].max(axis=0)
        offset = (mean[ball] - (low + high) / 2) / ((high - low) / 2)
        off_axis = np.where(offset[:, 2] > 0, np.hypot(offset[:, 0], offset[:, 1]), 1.0)
        colours[ball] = _WHITE
        colours[ball[off_axis < 0.48]] = _IRIS
        colours[ball[off_axis < 0.18]] = _PUPIL
    return colours


def _vertices_of(polygons: NDArray[Any]) -> NDArray[Any]:
    ids = np.unique(polygons)
    return ids[ids >= 0]


def _split_quads(polygons: NDArray[Any]) -> NDArray[np.int32]:
    """Quads (n, 4), fourth entry -1 for a triangle, as triangles."""
    quads = polygons[polygons[:, 3] >= 0]
    return np.concatenate([polygons[:, :3], quads[:, [0, 2, 3]]]).astype(np.int32)


def _read_vertices(path: Path, expected: int) -> Float32:
    lines = re.findall(rb"^v[ \t]+([^\r\n]*)", path.read_bytes(), re.MULTILINE)
    numbers = _numbers(lines, path)
    if numbers.shape[0] != expected or numbers.shape[1] < 3:
        raise FaceModelError(
            f"{numbers.shape[0]} vertices, expected {expected} as in {NEUTRAL}", file=path, remedy=WHERE
        )
    return numbers[:, :3]


def _numbers(lines: list[bytes], path: Path) -> Float32:
    columns = len(lines[0].split()) if lines else 3
    try:
        return np.array(b" ".join(lines).split(), np.float32).reshape(-1, columns)
    except ValueError as error:
        raise FaceModelError(f"not a readable OBJ file ({error})", file=path, remedy=WHERE) from None


def _read_mesh(path: Path) -> tuple[Float32, Float32, NDArray[np.int32], NDArray[np.int32], NDArray[np.str_]]:
    """Vertices, texture coordinates, polygons and their texture ids (n, 4, -1 padded), materials (n,)."""
    polygons: list[list[int]] = []
    polygon_uv: list[list[int]] = []
    materials: list[str] = []
    material = ""
    text = path.read_bytes()
    for line in re.findall(rb"^(?:f|usemtl)[ \t]+[^\r\n]*", text, re.MULTILINE):
        key, *words = line.split()
        if key == b"usemtl":
            material = words[0].decode("utf-8", "replace")
            continue
        corners = [word.split(b"/") for word in words]
        if len(corners) not in (3, 4) or any(len(c) < 2 or not c[1] for c in corners):
            raise FaceModelError(f"a polygon {line[:60]!r} is not 'f v/vt ...' of 3 or 4", file=path, remedy=WHERE)
        pad = [0] * (4 - len(corners))
        polygons.append([int(c[0]) for c in corners] + pad)
        polygon_uv.append([int(c[1]) for c in corners] + pad)
        materials.append(material)
    vertices = _numbers(re.findall(rb"^v[ \t]+([^\r\n]*)", text, re.MULTILINE), path)[:, :3]
    uv = _numbers(re.findall(rb"^vt[ \t]+([^\r\n]*)", text, re.MULTILINE), path)[:, :2]
    faces = np.array(polygons, np.int32).reshape(-1, 4) - 1
    return vertices, uv, faces, np.array(polygon_uv, np.int32).reshape(-1, 4) - 1, np.array(materials)
