"""MorphableModel: mean, modes, triangles, landmarks and chart of a linear face model, and its array file."""

from __future__ import annotations

import hashlib
import json
import zipfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from prnbench.errors import FaceModelError
from prnbench.files import replacing

Float32 = NDArray[np.float32]
Int32 = NDArray[np.int32]

MM_PER_UNIT = {"um": 1e-3, "mm": 1.0, "cm": 10.0, "m": 1000.0}
SCHEMA = 1

_REQUIRED = ("mean", "identity", "identity_std", "expression", "expression_std", "triangles", "landmarks")
_ARRAYS = (*_REQUIRED, "uv", "mouth_triangles", "albedo", "albedo_modes", "albedo_std")
_INTEGER = ("triangles", "landmarks", "mouth_triangles")
_TEXTS = ("name", "source", "licence", "unit")
_NAMES = ("identity_names", "expression_names")


@dataclass(frozen=True, eq=False)
class MorphableModel:
    """A linear face model: vertices = mean + identity a + expression b.

    Attributes
    ----------
    name, source, licence
        What it is, where it comes from, what may be done with it.
    unit
        Length unit of the vertices: ``um``, ``mm``, ``cm`` or ``m``.
    mean
        (V, 3) float32, x right in the picture, y up, z out of the face.
    identity, expression
        (3V, Ni), (3V, Ne) float32, rows x0 y0 z0 x1 ...
    identity_std, expression_std
        (Ni,), (Ne,) float32 standard deviations of the coefficients; 1 for blend shapes, which run 0..1.
    triangles
        (F, 3) int32, 0-based, counter-clockwise seen from outside.
    landmarks
        (68,) int32 vertex ids in iBUG order.
    uv
        (V, 2) float32 in 0..1, NaN for vertices off the chart (eye balls, teeth); None without a chart.
    mouth_triangles
        (M, 3) int32 that close the mouth slit on the chart; they are not part of the surface.
    albedo, albedo_modes, albedo_std
        (V, 3) float32 0..1, (3V, Na) float32 and (Na,) float32.
    identity_names, expression_names
        One name a mode, where modes have names.
    version
        For a model that code makes: it stands for the arrays, whose last digits differ between machines.

    Raises
    ------
    FaceModelError
        The arrays do not fit together; the message names the field, what was expected and what was found.
    """

    name: str
    source: str
    licence: str
    unit: str
    mean: Float32
    identity: Float32
    identity_std: Float32
    expression: Float32
    expression_std: Float32
    triangles: Int32
    landmarks: Int32
    uv: Float32 | None = None
    mouth_triangles: Int32 | None = None
    albedo: Float32 | None = None
    albedo_modes: Float32 | None = None
    albedo_std: Float32 | None = None
    identity_names: tuple[str, ...] | None = None
    expression_names: tuple[str, ...] | None = None
    version: str = ""

    def __post_init__(self) -> None:
        for name in _ARRAYS:
            value = getattr(self, name)
            kind = np.int32 if name in _INTEGER else np.float32
            if value is not None:
                object.__setattr__(self, name, np.ascontiguousarray(value, kind))
        _check(self)

    @property
    def vertex_count(self) -> int:
        """Number of vertices V."""
        return len(self.mean)

    @property
    def mm_per_unit(self) -> float:
        """Factor from the model's unit to millimetres."""
        return MM_PER_UNIT[self.unit]

    @cached_property
    def fingerprint(self) -> str:
        """Hex sha256 of all arrays (names and texts do not count), or of name and version where there is one."""
        digest = hashlib.sha256()
        if self.version:
            digest.update(f"{self.name} {self.version}".encode())
            return digest.hexdigest()
        for name in _ARRAYS:
            array = getattr(self, name)
            if array is not None:
                digest.update(f"{name} {array.dtype} {array.shape};".encode())
                digest.update(array.data)
        return digest.hexdigest()

    def vertices(self, shape: ArrayLike | None = None, expression: ArrayLike | None = None) -> Float32:
        """Vertices of faces.

        Parameters
        ----------
        shape, expression
            (..., Ni') and (..., Ne') coefficients in the model's own units; leading axes broadcast, shorter
            vectors are padded with zeros, None is zero.

        Returns
        -------
        (..., V, 3) float32 in the model's unit.

        Raises
        ------
        FaceModelError
            More coefficients than the model has modes.
        """
        a = self._coefficients(shape, self.identity, "shape")
        b = self._coefficients(expression, self.expression, "expression")
        leading = np.broadcast_shapes(a.shape[:-1], b.shape[:-1])
        moved = a @ self.identity[:, : a.shape[-1]].T + b @ self.expression[:, : b.shape[-1]].T
        return (moved + self.mean.ravel()).reshape(*leading, -1, 3)

    def colours(self, albedo_params: ArrayLike | None = None) -> Float32:
        """Albedo (..., V, 3) float32 in 0..1 of coefficients (..., Na'); plain skin without albedo."""
        if self.albedo is None:
            return np.full_like(self.mean, (0.78, 0.62, 0.53))
        if albedo_params is None or self.albedo_modes is None:
            return self.albedo
        c = self._coefficients(albedo_params, self.albedo_modes, "albedo")
        moved = c @ self.albedo_modes[:, : c.shape[-1]].T + self.albedo.ravel()
        clipped: Float32 = np.clip(moved, 0.0, 1.0).reshape(*c.shape[:-1], -1, 3)
        return clipped

    def _coefficients(self, values: ArrayLike | None, modes: Float32, what: str) -> Float32:
        given = np.zeros(0, np.float32) if values is None else np.asarray(values, np.float32)
        if given.shape[-1] > modes.shape[1]:
            raise FaceModelError(
                f"{given.shape[-1]} {what} coefficients for the {modes.shape[1]} {what} modes of {self.name}",
                remedy="give the face model that the coefficients were made with",
            )
        return given

    def save(self, path: Path) -> None:
        """Write the model as one ``.npz`` array file (no pickle) that :func:`read_arrays` reads back."""
        header = {"schema": SCHEMA, **{name: getattr(self, name) for name in (*_TEXTS, *_NAMES, "version")}}
        arrays = {name: getattr(self, name) for name in _ARRAYS if getattr(self, name) is not None}
        with replacing(path) as temporary, temporary.open("wb") as handle:
            np.savez(handle, header=np.array(json.dumps(header)), **arrays)


def read_arrays(path: Path) -> MorphableModel:
    """Read a model that :meth:`MorphableModel.save` wrote."""
    arrays: dict[str, Any] = load_npz(path)
    header: dict[str, Any] = json.loads(str(arrays.pop("header", "{}")))
    if header.get("schema") != SCHEMA:
        raise FaceModelError(
            f"not a face model array file of version {SCHEMA}, found version {header.get('schema', 'none')}",
            file=path,
            remedy="save the model again with this version of prnbench",
        )
    missing = [name for name in (*_REQUIRED, *_TEXTS) if name not in arrays and name not in header]
    if missing:
        raise FaceModelError(f"{missing} are missing", file=path, remedy="save the model again")
    fields = {name: header[name] for name in _TEXTS}
    fields |= {name: tuple(header[name]) for name in _NAMES if header.get(name)}
    fields["version"] = header.get("version", "")
    return MorphableModel(**fields, **{name: arrays[name] for name in _ARRAYS if name in arrays})


def load_npz(path: Path) -> dict[str, NDArray[Any]]:
    """All arrays of an ``.npz`` file, never unpickling."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except (OSError, ValueError, zipfile.BadZipFile, EOFError, KeyError) as error:
        raise FaceModelError(
            f"not a readable array file ({error})", file=path, remedy="copy the file again or make it anew"
        ) from None


def outward(triangles: NDArray[Any], vertices: NDArray[Any]) -> Int32:
    """Triangles turned so that the surface is counter-clockwise seen from outside.

    The sign is that of the volume enclosed with the centroid, so it also holds for a mask with an open back.
    """
    p = (vertices - vertices.mean(axis=0)).astype(np.float64)[triangles]
    volume = np.einsum("ij,ij->", p[:, 0], np.cross(p[:, 1], p[:, 2]))
    return np.ascontiguousarray(triangles if volume >= 0 else triangles[:, ::-1], np.int32)


def _check(model: MorphableModel) -> None:
    V = len(model.mean)
    identities, expressions = model.identity.shape[-1], model.expression.shape[-1]
    expected: dict[str, tuple[int | None, ...]] = {
        "mean": (V, 3),
        "identity": (3 * V, identities),
        "identity_std": (identities,),
        "expression": (3 * V, expressions),
        "expression_std": (expressions,),
        "triangles": (None, 3),
        "landmarks": (68,),
        "uv": (V, 2),
        "mouth_triangles": (None, 3),
        "albedo": (V, 3),
        "albedo_modes": (3 * V, None),
    }
    for name, shape in expected.items():
        value = getattr(model, name)
        if value is not None and not _fits(value.shape, shape):
            raise _wrong(model, f"{name} has the shape {value.shape}, expected {shape} for {V} vertices")
    for name in _INTEGER:
        ids = getattr(model, name)
        if ids is not None and ids.size and (ids.min() < 0 or ids.max() >= V):
            raise _wrong(model, f"{name} name the vertices {ids.min()}..{ids.max()}, there are 0..{V - 1}")
    for name in ("mean", "identity", "identity_std", "expression", "expression_std"):
        if not np.isfinite(getattr(model, name)).all():
            raise _wrong(model, f"{name} holds values that are not finite")
    if model.unit not in MM_PER_UNIT:
        raise _wrong(model, f"the unit {model.unit!r} is none of {', '.join(MM_PER_UNIT)}")
    for name, modes in (("identity_names", identities), ("expression_names", expressions)):
        names = getattr(model, name)
        if names is not None and len(names) != modes:
            raise _wrong(model, f"{len(names)} {name} for {modes} modes")


def _fits(shape: tuple[int, ...], expected: tuple[int | None, ...]) -> bool:
    return len(shape) == len(expected) and all(e is None or s == e for s, e in zip(shape, expected, strict=True))


def _wrong(model: MorphableModel, cause: str) -> FaceModelError:
    return FaceModelError(cause, file=model.source or model.name, remedy="give a complete copy of the face model")
