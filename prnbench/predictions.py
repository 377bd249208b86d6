"""Predictions made elsewhere: one NPZ, HDF5 or JSON file, or a folder of per-image files as public code writes them.

A file holds columns of N faces, in original-image pixels, y down, 0-based unless it says ``origin = 1``::

    id                N strings: file stems such as image00050
    landmarks_px      (N, 68, 2 or 3)
    vertices_px       (N, V, 3)
    position_map_px   (N, H, W, 3)
    pose_deg          (N, 3)        pitch, yaw, roll after 3DDFA
    failed            (N,) bool     faces without a prediction
    latency_ms        (N,)
    origin            0 or 1        1: one is subtracted from x and y
    pixel_convention  annotation (default: compared as the numbers are), exact or face3d
    model             name in the tables

``id`` and one of the four quantities are needed. A face that the file does not hold counts as failed. JSON has the same
keys, or is a list of objects, one a face.

In a folder, files that belong to a face are named by its id, with or without an ending (``image00050.npy``,
``image00050_kpt.txt``, ``image00050_0.mat``); what they hold is told by shape: (68, 2 or 3) or transposed is
landmarks, (V, 3) or transposed is vertices, (H, W, 3) is a position map. A file ``predictions.json`` in the folder may
give ``origin``, ``pixel_convention``, ``model``, and, as public code often writes meshes with y up, ``obj_y_up`` = the
number that a ``.obj`` file's y is subtracted from (image height - 1 for PRNet's, image height for 3DDFA_V2's).
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prnbench.errors import TableError
from prnbench.files import digest_of_files, sha256_of
from prnbench.geometry import PIXEL_CONVENTIONS
from prnbench.sample import Prediction

QUANTITIES: dict[str, tuple[int | None, ...]] = {
    "landmarks_px": (68, None),
    "vertices_px": (None, 3),
    "position_map_px": (None, None, 3),
    "pose_deg": (3,),
}
"""Field of a Prediction -> its shape (None: any)."""

MISSING = "missing from the predictions file"
_OTHER = ("id", "failed", "latency_ms", "origin", "pixel_convention", "model")
_IMAGES = (".jpg", ".jpeg", ".png", ".bmp")
_BLOCK_BYTES = 1 << 27  # read ahead in HDF5 files


@dataclass(frozen=True, eq=False)
class Predictions:
    """Predictions by face id; read when asked for, so that memory does not grow with the number of faces.

    Attributes
    ----------
    name
        Name of the model: the file's ``model``, else the file's own name.
    ids
        Faces that the file or folder holds.
    read
        Function from an id among ``ids`` to its Prediction.
    latency_ms
        Measured latency by id, where given.
    digest
        sha256 of the file, or of the names and contents of the folder's files.
    """

    name: str
    ids: tuple[str, ...]
    read: Callable[[str], Prediction]
    latency_ms: Mapping[str, float] = field(default_factory=dict)
    digest: str = ""

    def of(self, ids: Sequence[str]) -> list[Prediction]:
        """Predictions of these faces; a face that is not held is a failed one."""
        held = frozenset(self.ids)
        missing = Prediction(failed=MISSING, pixel_convention="annotation")
        return [self.read(face) if face in held else missing for face in ids]


def read_predictions(path: Path | str, ids: Sequence[str]) -> Predictions:
    """Open a predictions file or folder for the faces ``ids`` of a data set.

    Parameters
    ----------
    path
        ``.npz``, ``.h5``/``.hdf5`` or ``.json`` file, or a folder of per-image files.
    ids
        Faces to be scored; the file may hold fewer (they failed) or more (they are ignored).

    Raises
    ------
    TableError
        It cannot be read, a column is missing or has another shape, an id occurs twice, or none of ``ids`` is held.
    """
    path = Path(path)
    readers = {".npz": _read_npz, ".json": _read_json, ".h5": _read_hdf5, ".hdf5": _read_hdf5}
    if path.is_dir():
        predictions = _from_folder(path, ids)
    elif path.is_file() and path.suffix.lower() in readers:
        predictions = _from_columns(readers[path.suffix.lower()](path), path)
    else:
        remedy = "give a .npz, .h5 or .json file, or a folder of per-image files"
        raise TableError("no predictions file there", file=path, remedy=remedy)
    if not set(ids) & set(predictions.ids):
        have = repr(predictions.ids[0]) if predictions.ids else "none"
        cause = f"holds none of the {len(ids)} faces of the data set (it has {have}, the data set {ids[0]!r})"
        raise TableError(cause, file=path, remedy="name faces by their file stems")
    return predictions


def _from_columns(columns: Mapping[str, Any], path: Path) -> Predictions:
    unknown = set(columns) - set(QUANTITIES) - set(_OTHER)
    if unknown:
        known = ", ".join((*_OTHER, *QUANTITIES))
        raise TableError(f"unknown keys {', '.join(sorted(unknown))}", file=path, remedy=f"use {known}")
    if "id" not in columns or not set(columns) & set(QUANTITIES):
        have = ", ".join(sorted(columns)) or "nothing"
        raise TableError(f"has {have}", file=path, remedy=f"give id and one of {', '.join(QUANTITIES)}")
    ids = _ids(columns["id"], path)
    convention, origin = _convention(columns, path)
    given = {name: _quantity(columns[name], name, len(ids), path) for name in QUANTITIES if name in columns}
    failed = _column(columns.get("failed", np.zeros(len(ids), bool)), "failed", len(ids), path).astype(bool)
    rows = {face: row for row, face in enumerate(ids)}

    def read(face: str) -> Prediction:
        row = rows[face]
        if failed[row]:
            return Prediction(failed="failed, says the predictions file", pixel_convention=convention)
        return _prediction({name: column[row] for name, column in given.items()}, convention, origin)

    latency = {}
    if "latency_ms" in columns:
        measured = _column(columns["latency_ms"], "latency_ms", len(ids), path)
        latency = {face: float(ms) for face, ms in zip(ids, measured, strict=True) if np.isfinite(ms)}
    return Predictions(str(_scalar(columns.get("model", path.stem))), tuple(ids), read, latency, sha256_of(path))


def _prediction(fields: Mapping[str, NDArray[Any]], convention: str, origin: int) -> Prediction:
    """One face in 0-based numbers; a face without a finite number is a failed one."""
    if not any(np.isfinite(value).any() for value in fields.values()):
        return Prediction(failed="holds no finite number", pixel_convention=convention)
    moved: dict[str, Any] = {}
    for name, value in fields.items():
        moved[name] = np.array(value, np.float32 if value.dtype == np.float32 else np.float64)
        if name != "pose_deg":
            moved[name][..., :2] -= origin
    return Prediction(**moved, pixel_convention=convention)


def _convention(notes: Mapping[str, Any], path: Path) -> tuple[str, int]:
    """Pixel convention, and the number of the first pixel."""
    origin, convention = _scalar(notes.get("origin", 0)), _scalar(notes.get("pixel_convention", "annotation"))
    if origin not in (0, 1):
        raise TableError(f"origin is {origin!r}", file=path, remedy="give 0 or 1, the number of the first pixel")
    if convention not in PIXEL_CONVENTIONS:
        remedy = f"give one of {', '.join(PIXEL_CONVENTIONS)}"
        raise TableError(f"pixel_convention is {convention!r}", file=path, remedy=remedy)
    return str(convention), int(origin)


def _scalar(value: Any) -> Any:
    if isinstance(value, (np.ndarray, np.generic)) and value.size == 1:
        value = value.reshape(()).item()
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _ids(value: Any, path: Path) -> list[str]:
    raw = np.ravel(np.asarray(value[:])).tolist()
    names = [name.decode("utf-8", "replace") if isinstance(name, bytes) else name for name in raw]
    if not names or not all(isinstance(name, str) for name in names):
        raise TableError("id is not a list of strings", file=path, remedy="give file stems such as image00050")
    ids = [Path(name).stem if name.lower().endswith(_IMAGES) else name for name in names]
    seen: set[str] = set()
    for face in ids:
        if face in seen:
            raise TableError(f"id {face!r} occurs twice", file=path, remedy="give each face once")
        seen.add(face)
    return ids


def _quantity(value: Any, name: str, count: int, path: Path) -> Any:
    column = _numbers(value, name, path)
    shape = (count, *QUANTITIES[name])
    fits = column.ndim == len(shape) and all(w in (None, h) for w, h in zip(shape, column.shape, strict=True))
    if not fits or (name == "landmarks_px" and column.shape[2] not in (2, 3)):
        sides = ["2 or 3" if name == "landmarks_px" and side is None else str(side or "any") for side in shape]
        found = " x ".join(map(str, column.shape))
        raise TableError(f"{name} is {found}, expected {' x '.join(sides)}", file=path, remedy="write it anew")
    return column


def _column(value: Any, name: str, count: int, path: Path) -> NDArray[Any]:
    column = _numbers(value, name, path)
    if column.shape != (count,):
        cause = f"{name} has shape {column.shape}, expected ({count},) as there are {count} ids"
        raise TableError(cause, file=path, remedy="write it anew")
    return np.asarray(column[:])


def _numbers(value: Any, name: str, path: Path) -> Any:
    """The value as something with shape, dtype and rows; lists may hold None for a face without it."""
    column = _filled(value) if isinstance(value, list) else value
    if getattr(column, "dtype", np.dtype(object)).kind not in "fiub":
        raise TableError(f"{name} does not hold numbers of one shape", file=path, remedy="write it anew")
    return column


def _filled(rows: list[Any]) -> NDArray[Any] | None:
    try:
        given = np.asarray([row for row in rows if row is not None], np.float64)
    except (TypeError, ValueError):
        return None
    out = np.full((len(rows), *given.shape[1:]), np.nan)
    out[[row is not None for row in rows]] = given
    return out


def _read_npz(path: Path) -> dict[str, Any]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, KeyError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        remedy = "write it with np.savez, strings as a string array and not as objects"
        raise TableError(f"not a readable .npz file ({error})", file=path, remedy=remedy) from None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise TableError(f"not a readable JSON file ({error})", file=path, remedy="write it anew") from None
    if isinstance(content, list) and content and all(isinstance(face, dict) for face in content):
        names = dict.fromkeys(name for face in content for name in face)
        columns = {name: [face.get(name) for face in content] for name in names}
        if "failed" in columns:
            columns["failed"] = [bool(value) for value in columns["failed"]]
        return columns
    if not isinstance(content, dict):
        raise TableError("holds neither columns nor faces", file=path, remedy="see the documentation of the format")
    return content


def _read_hdf5(path: Path) -> dict[str, Any]:
    import h5py

    try:
        with h5py.File(path, "r") as file:
            columns: dict[str, Any] = {name: _scalar(value) for name, value in file.attrs.items()}
            for name in file:
                item = file.get(name, getlink=True)
                if (
                    not isinstance(item, h5py.HardLink)
                    or not isinstance(file[name], h5py.Dataset)
                    or file[name].external
                ):
                    remedy = "store arrays at the top of the file itself"
                    raise TableError(f"{name} is a group or leads to another file", file=path, remedy=remedy)
                data = file[name]
                columns[name] = _Hdf5Column(path, name, data) if name in QUANTITIES else data[()]
            return columns
    except OSError as error:
        raise TableError(f"not a readable HDF5 file ({error})", file=path, remedy="write it anew") from None


class _Hdf5Column:
    """Rows of one data set, read in blocks: the file is open only while it is read."""

    def __init__(self, path: Path, name: str, data: Any):
        self.path, self.name = path, name
        self.shape, self.dtype, self.ndim = data.shape, data.dtype, data.ndim
        self._rows = max(1, _BLOCK_BYTES // max(1, data.dtype.itemsize * int(np.prod(data.shape[1:]))))
        self._start, self._block = 0, np.empty((0, *data.shape[1:]), data.dtype)

    def __getitem__(self, row: int) -> NDArray[Any]:
        if not self._start <= row < self._start + len(self._block):
            import h5py

            self._start = row - row % self._rows
            with h5py.File(self.path, "r") as file:
                self._block = file[self.name][self._start : self._start + self._rows]
        value: NDArray[Any] = self._block[row - self._start]
        return value


def _from_folder(folder: Path, ids: Sequence[str]) -> Predictions:
    notes = _read_json(folder / "predictions.json") if (folder / "predictions.json").is_file() else {}
    unknown = set(notes) - {"origin", "pixel_convention", "model", "obj_y_up"}
    if unknown:
        remedy = "use origin, pixel_convention, model, obj_y_up"
        raise TableError(f"unknown keys {sorted(unknown)}", file=folder / "predictions.json", remedy=remedy)
    convention, origin = _convention(notes, folder / "predictions.json")
    files = _files_of(folder, ids)

    def read(face: str) -> Prediction:
        fields: dict[str, NDArray[Any]] = {}
        for path in files[face]:
            for value in _arrays_of(path, notes.get("obj_y_up")):
                if (recognised := _by_shape(value)) is not None:
                    fields.setdefault(*recognised)
        if not fields:
            cause = "holds no landmarks, vertices or position map"
            raise TableError(cause, file=files[face][0], remedy="see which shapes are read, or remove the file")
        return _prediction(fields, convention, origin)

    digest = digest_of_files(folder, sorted(path for paths in files.values() for path in paths))
    return Predictions(str(notes.get("model", folder.name)), tuple(files), read, digest=digest)


def _files_of(folder: Path, ids: Sequence[str]) -> dict[str, list[Path]]:
    """Files of each face: its stem is the id, or the id, ``_`` and an ending (the longest id wins)."""
    known = frozenset(ids)
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in _ARRAYS or path.name == "predictions.json" or not path.is_file():
            continue
        parts = path.stem.split("_")
        stems = ("_".join(parts[:length]) for length in range(len(parts), 0, -1))
        face = next((stem for stem in stems if stem in known), None)
        if face is not None:
            found.setdefault(face, []).append(path)
    return found


def _by_shape(value: NDArray[Any]) -> tuple[str, NDArray[Any]] | None:
    """Name and rows-first form of an array: landmarks, vertices or position map; None for anything else."""
    if value.ndim == 3 and value.shape[2] == 3 and min(value.shape[:2]) > 3:
        return "position_map_px", value
    if value.ndim != 2:
        return None
    points = value.T if value.shape[0] in (2, 3) and value.shape[1] > 3 else value
    if points.shape in ((68, 2), (68, 3)):
        return "landmarks_px", points
    return ("vertices_px", points) if points.shape[1] == 3 and len(points) > 68 else None


def _arrays_of(path: Path, obj_y_up: Any) -> Iterator[NDArray[Any]]:
    """Numeric arrays that a file holds."""
    try:
        for value in _ARRAYS[path.suffix.lower()](path):
            if isinstance(value, np.ndarray) and value.dtype.kind in "fiu":
                yield _y_down(value, obj_y_up) if path.suffix.lower() == ".obj" and obj_y_up is not None else value
    except Exception as error:  # the readers raise many kinds for damaged files
        cause = f"not a readable {path.suffix} file ({error})"
        raise TableError(cause, file=path, remedy="write it anew or remove it") from None


def _y_down(vertices: NDArray[Any], top: float) -> NDArray[Any]:
    out = vertices.copy()
    out[:, 1] = float(top) - out[:, 1]
    return out


def _read_mat(path: Path) -> list[Any]:
    from scipy.io import loadmat

    others = ("_", "tri", "col", "tex")  # PRNet's *_mesh.mat holds colours and triangles beside the vertices
    return [value for name, value in loadmat(path).items() if not name.lower().startswith(others)]


def _read_obj(path: Path) -> list[Any]:
    with path.open(encoding="utf-8", errors="replace") as lines:
        vertices = [line.split()[1:4] for line in lines if line.startswith("v ")]
    return [np.array(vertices, np.float64)]


_ARRAYS: dict[str, Callable[[Path], list[Any]]] = {
    ".npy": lambda path: [np.load(path, allow_pickle=False)],
    ".mat": _read_mat,
    ".obj": _read_obj,
    ".txt": lambda path: [np.loadtxt(path, ndmin=2)],
}
