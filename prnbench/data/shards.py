"""HDF5 shards of faces: the schema, its writer and ``open_shards``, the sequence of Samples.

A data set is a folder::

    manifest.json        schema version, card, face-model fingerprint, pixel convention, store, counts,
                         sha256 and count of every shard, every skipped file with its reason
    shard-00000.h5       up to ``FACES_PER_SHARD`` faces
        id, source, split, group    (N,)  UTF-8 bytes
        jpeg, jpeg_start            the original files' bytes end to end, and (N + 1,) where each begins
        size_px (N, 2)  landmarks_px (N, 68, 3)  pose_deg (N, 3)  pose_params (N, 7)
        shape_params (N, Ns)  expression_params (N, Ne)  visible (N, 68)  and what else the source offers
        position_map (N, 3, R, R) uint16, map_offset (N, 3), map_step (N,)      store = "maps"
        position_map_steps (N, R, R, 3) uint16, map_offset, map_step             store = "fast"
        rgb, rgb_start              decoded pixels (h, w, 3) end to end, (N,) where each begins or -1; store = "fast"

NaN (or 255 for flags) marks a missing value, an absent data set means that no face has it. ``position_map`` is decoded
as :mod:`prnbench.data.codec` says, without prnbench too. Coordinates are original-image pixels, exact convention.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload

import h5py
import hdf5plugin
import numpy as np
from numpy.typing import NDArray

from prnbench.data.codec import (
    QuantisedMaps,
    decode_map,
    difference,
    interleaved,
    quantisation_step,
    quantise_map,
    scaled_steps,
)
from prnbench.errors import FaceModelError, SampleError, SchemaError, ShardError
from prnbench.files import read_json, replacing, sha256_of, write_json
from prnbench.sample import Sample, Scan

SCHEMA_VERSION = 1
FACES_PER_SHARD = 128
MANIFEST = "manifest.json"
PIXEL_CONVENTION = "exact"

_TEXT = ("id", "source", "split", "group")
_FLOATS = {
    "landmarks_px": (68, 3),
    "reannotated_px": (68, 2),
    "points21_px": (21, 2),
    "pose_deg": (3,),
    "pose_params": (7,),
    "shape_params": None,
    "expression_params": None,
}
_FLAGS = {"visible": 68, "visible21": 21}
_LARGE = ("jpeg", "rgb", "position_map", "position_map_steps", "scan_points_mm")


def write_shard(
    path: Path,
    samples: list[Sample],
    attributes: dict[str, Any],
    maps: QuantisedMaps | None = None,
    *,
    fast: bool = False,
) -> None:
    """Write faces to one shard: temporary name, fsync, rename; the same faces give the same bytes.

    Parameters
    ----------
    maps
        The samples' position maps where they are quantised already; by default ``position_map_px`` is.
    fast
        Position maps without delta and filter, and pictures decoded: ten times larger, and quicker to read.
    """
    with replacing(path) as temporary, h5py.File(temporary, "w", libver=("v110", "v110")) as file:
        file.attrs["schema_version"] = SCHEMA_VERSION
        file.attrs["pixel_convention"] = PIXEL_CONVENTION
        for name, value in attributes.items():
            file.attrs[name] = json.dumps(value, sort_keys=True)
        if samples:
            _write_fields(file, samples)
            _write_maps(file, _quantised(samples) if maps is None else maps, fast)
            _write_scans(file, samples)
            if fast:
                _write_decoded(file, samples)


def _write_fields(file: h5py.File, samples: list[Sample]) -> None:
    for name in _TEXT:
        file[name] = np.array([getattr(sample, name).encode() for sample in samples])
    if any(sample.jpeg is not None for sample in samples):
        blobs = [sample.jpeg or b"" for sample in samples]
        file["jpeg"] = np.frombuffer(b"".join(blobs), np.uint8)
        file["jpeg_start"] = np.cumsum([0, *map(len, blobs)], dtype=np.int64)
    if any(sample.size_px for sample in samples):
        file["size_px"] = np.array([sample.size_px or (0, 0) for sample in samples], np.int32)
    for name in _FLOATS:
        _write_rows(file, name, [getattr(sample, name) for sample in samples], np.float32, np.nan)
    for name in _FLAGS:
        _write_rows(file, name, [getattr(sample, name) for sample in samples], np.uint8, 255)
    if any(sample.yaw_aflw_deg is not None for sample in samples):
        yaw = [np.nan if sample.yaw_aflw_deg is None else sample.yaw_aflw_deg for sample in samples]
        file["yaw_aflw_deg"] = np.array(yaw, np.float32)


def _write_rows(file: h5py.File, name: str, rows: list[Any], kind: type, missing: float) -> None:
    known = [row for row in rows if row is not None]
    if not known:
        return
    shape = np.shape(known[0])
    if any(np.shape(row) != shape for row in known):
        raise SampleError(f"{name} has different sizes in one data set", remedy="convert one face model at a time")
    stacked = np.stack([np.full(shape, missing, kind) if row is None else np.asarray(row, kind) for row in rows])
    if stacked.nbytes < 1 << 14:
        file[name] = stacked
    else:
        file.create_dataset(name, data=stacked, chunks=(min(16, len(rows)), *shape), compression="gzip", shuffle=True)


def _write_decoded(file: h5py.File, samples: list[Sample]) -> None:
    """Pixels of every picture; one that does not decode to its stated size has none, and is told of when it is read."""
    sizes = [3 * sample.size_px[0] * sample.size_px[1] if sample.jpeg and sample.size_px else 0 for sample in samples]
    start = np.cumsum([0, *sizes], dtype=np.int64)[:-1]
    data = file.create_dataset("rgb", shape=(sum(sizes),), dtype=np.uint8)
    for i, sample in enumerate(samples):
        image = _decoded(sample) if sizes[i] else None
        if image is None:
            start[i] = -1
        else:
            data[start[i] : start[i] + sizes[i]] = image.ravel()
    file["rgb_start"] = start


def _decoded(sample: Sample) -> NDArray[np.uint8] | None:
    try:
        image = sample.image_rgb()
    except SampleError:
        return None
    return image if image.shape[1::-1] == sample.size_px else None


def map_step(sample: Sample) -> float:
    """Quantisation step of a face's position map in pixels."""
    box = sample.box_px
    return 1 / 128 if box is None else quantisation_step(box)


def _quantised(samples: list[Sample]) -> QuantisedMaps | None:
    """The samples' float maps; a face without one has the step NaN."""
    known = {i: sample.position_map_px for i, sample in enumerate(samples) if sample.position_map_px is not None}
    if not known:
        return None
    R = next(iter(known.values())).shape[0]
    steps = np.zeros((len(samples), 3, R, R), np.uint16)
    offset, step = np.full((len(samples), 3), np.nan, np.float32), np.full(len(samples), np.nan)
    for i, position_map in known.items():
        one = quantise_map(position_map, map_step(samples[i]), samples[i].id)
        steps[i], offset[i], step[i] = one.steps_N3RR[0], one.offset_N3[0], one.step_N[0]
    return QuantisedMaps(steps, offset, step)


def _write_maps(file: h5py.File, maps: QuantisedMaps | None, fast: bool) -> None:
    if maps is None:
        return
    N, _, R, _ = maps.steps_N3RR.shape
    if fast:
        data = file.create_dataset("position_map_steps", (N, R, R, 3), np.uint16)
        data.attrs["decode"] = "map = map_offset + map_step * x"
    else:
        packing = hdf5plugin.Bitshuffle(cname="lz4")
        data = file.create_dataset("position_map", (N, 3, R, R), np.uint16, chunks=(1, 3, R, R), **packing)
        data.attrs["decode"] = (
            "q = x.cumsum(1, dtype='uint16').cumsum(2, dtype='uint16'); "
            "map = (map_offset[:, None, None] + map_step * q).transpose(1, 2, 0)"
        )
    for start in range(0, N, 16):
        steps = maps.steps_N3RR[start : start + 16]
        data[start : start + 16] = interleaved(steps) if fast else difference(steps)
    file["map_offset"], file["map_step"] = maps.offset_N3, maps.step_N


def _write_scans(file: h5py.File, samples: list[Sample]) -> None:
    if not any(sample.scan for sample in samples):
        return
    scans: list[Any] = [sample.scan for sample in samples]
    counts = [0 if scan is None else len(scan.points_mm) for scan in scans]
    points = [scan.points_mm for scan in scans if scan is not None]
    file.create_dataset("scan_points_mm", data=np.concatenate(points), compression="gzip", shuffle=True)
    file["scan_start"] = np.cumsum([0, *counts], dtype=np.int64)
    _write_rows(file, "scan_camera_px_per_mm", [s and s.camera_px_per_mm for s in scans], np.float32, np.nan)
    _write_rows(file, "scan_landmarks_mm", [s and s.landmarks_mm for s in scans], np.float32, np.nan)
    distance = [np.nan if s is None or s.interocular_mm is None else s.interocular_mm for s in scans]
    file["scan_interocular_mm"] = np.array(distance, np.float32)


def shard_attributes(path: Path) -> dict[str, Any] | None:
    """Attributes given to :func:`write_shard`, or None if the file is no readable shard."""
    try:
        with h5py.File(path, "r") as file:
            known = {k: v for k, v in file.attrs.items() if k not in ("schema_version", "pixel_convention")}
            return {name: json.loads(value) for name, value in known.items()}
    except (OSError, ValueError):
        return None


def write_manifest(folder: Path, manifest: dict[str, Any]) -> Path:
    """Complete a data set with its manifest; a folder without one is unfinished."""
    write_json(
        folder / MANIFEST,
        {"schema_version": SCHEMA_VERSION, "pixel_convention": PIXEL_CONVENTION, **manifest},
    )
    return folder / MANIFEST


def read_manifest(folder: Path) -> dict[str, Any]:
    """Manifest of a data set.

    Raises
    ------
    ShardError
        There is none: no data set, or an unfinished conversion.
    SchemaError
        A newer prnbench wrote it.
    """
    path = folder / MANIFEST
    if not path.is_file():
        unfinished = folder.is_dir() and any(folder.glob("shard-*.h5"))
        cause = "an unfinished conversion (no manifest.json)" if unfinished else "no shards here (no manifest.json)"
        remedy = (
            "run the same `prnbench convert` again" if unfinished else "give the --out folder of `prnbench convert`"
        )
        raise ShardError(cause, file=folder, remedy=remedy)
    manifest: dict[str, Any] = read_json(path, "manifest")
    _check_schema(manifest.get("schema_version"), path)
    return manifest


def _check_schema(version: Any, path: Path) -> None:
    if not isinstance(version, int | np.integer):
        raise ShardError("no schema version", file=path, remedy="convert the data set again")
    if version > SCHEMA_VERSION:
        raise SchemaError(
            f"schema version {version}; this prnbench reads up to {SCHEMA_VERSION}",
            file=path,
            remedy="update prnbench, or convert the data set again",
        )


def open_shards(path: str | os.PathLike[str], face_model: Any = None, *, maps: bool = True) -> ShardSet:
    """Open a converted data set as a sequence of :class:`prnbench.Sample`.

    Parameters
    ----------
    path
        The folder that ``prnbench convert`` wrote.
    face_model
        Path or MorphableModel, needed only for shards of parameters whose model is not the built-in head.
    maps
        False leaves ``position_map_px`` of a parameter store None, so that no face model is needed.

    Returns
    -------
    ShardSet
        ``len``, indices, slices and iteration; ``position_map_px`` is (256, 256, 3) float32 in original-image
        pixels (row = v, column = u) or None, ``landmarks_px`` (68, 3) float32.

    Raises
    ------
    ShardError, SchemaError
        The folder is unfinished, damaged or newer than this prnbench.
    FaceModelError
        Shards of parameters need another face model than the one given.
    """
    folder = Path(path)
    manifest = read_manifest(folder)
    rows = [(shard, row) for shard, entry in enumerate(manifest["shards"]) for row in range(entry["count"])]
    made = maps and manifest["store"] == "parameters"
    return ShardSet(folder, manifest, rows, _MapMaker(manifest, folder, face_model) if made else None)


@dataclass(slots=True)
class ShardSet(Sequence[Sample]):
    """A data set on disk; picklable, opens each file lazily and checks its sha256 when it first does."""

    folder: Path
    manifest: dict[str, Any]
    rows: list[tuple[int, int]]
    maps: _MapMaker | None = None
    _open: dict[int, _Shard] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> ShardSet: ...
    def __getitem__(self, index: int | slice) -> Sample | ShardSet:
        if isinstance(index, slice):
            return self.take(range(len(self))[index])
        shard, row = self.rows[index]
        sample = self._shard(shard).sample(row)
        return sample if self.maps is None else self.maps.fill([sample])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Sample]:
        """Several samples at once: position maps of a parameter store are made in one matrix product."""
        samples = [self._shard(shard).sample(row) for shard, row in (self.rows[i] for i in indices)]
        return samples if self.maps is None else self.maps.fill(samples)

    def __iter__(self) -> Iterator[Sample]:
        for start in range(0, len(self), 32):
            yield from self.__getitems__(range(start, min(start + 32, len(self))))

    def take(self, indices: Sequence[int]) -> ShardSet:
        """A view of these faces, in this order."""
        return replace(self, rows=[self.rows[i] for i in indices], _open=None)

    def split(self, name: str) -> ShardSet:
        """A view of one split (``train``, ``val``, ``test``)."""
        splits = self.column("split")
        return self.take([i for i, value in enumerate(splits) if value == name])

    def column(self, name: str) -> list[Any]:
        """One small field of every face (text fields as str, arrays as arrays), without reading images or maps."""
        return [self._shard(shard).value(name, row) for shard, row in self.rows]

    @property
    def name(self) -> str:
        """Name of the data-set card."""
        return str(self.manifest["dataset"])

    @property
    def face_model_fingerprint(self) -> str | None:
        """Fingerprint of the face model behind the position maps."""
        value = self.manifest.get("face_model_fingerprint")
        return None if value is None else str(value)

    def _shard(self, index: int) -> _Shard:
        if self._open is None:
            self._open = {}
        if index not in self._open:
            self._open[index] = _Shard.open(self.folder, self.manifest["shards"][index])
        return self._open[index]

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "manifest": self.manifest, "rows": self.rows, "maps": self.maps}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)
        self._open = None


class _Shard:
    """One open file: small fields in memory, images and maps read on demand."""

    def __init__(self, file: h5py.File):
        self.file = file
        self.small = {name: data[()] for name, data in file.items() if name not in _LARGE}
        self.large = {name: _in_place(file, name) for name in _LARGE if name in file}
        self.missing = {name: _missing(values) for name, values in self.small.items()}

    @classmethod
    def open(cls, folder: Path, entry: dict[str, Any]) -> _Shard:
        path = folder / Path(entry["file"]).name
        check_shard(path, entry)
        return cls(h5py.File(path, "r"))

    def value(self, name: str, row: int) -> Any:
        if name not in self.small or self.missing[name][row]:
            return None
        raw = self.small[name][row]
        if name in _TEXT:
            return raw.decode()
        return raw.astype(bool) if name in _FLAGS else raw

    def sample(self, row: int) -> Sample:
        fields: dict[str, Any] = {name: self.value(name, row) for name in (*_TEXT, *_FLOATS, *_FLAGS)}
        yaw = self.value("yaw_aflw_deg", row)
        return Sample(
            **fields,
            yaw_aflw_deg=None if yaw is None else float(yaw),
            size_px=self._size(row),
            jpeg=self._jpeg(row),
            position_map_px=self._map(row),
            scan=self._scan(row),
            decoded_rgb=self._decoded(row),
        )

    def _size(self, row: int) -> tuple[int, int] | None:
        if "size_px" not in self.small:
            return None
        width, height = self.small["size_px"][row].tolist()
        return (width, height) if width else None

    def _jpeg(self, row: int) -> bytes | None:
        if "jpeg" not in self.large:
            return None
        start, end = self.small["jpeg_start"][row : row + 2].tolist()
        return self.large["jpeg"][start:end].tobytes() or None

    def _decoded(self, row: int) -> NDArray[np.uint8] | None:
        size = self._size(row)
        if "rgb" not in self.large or size is None or (start := int(self.small["rgb_start"][row])) < 0:
            return None
        width, height = size
        pixels: NDArray[np.uint8] = self.large["rgb"][start : start + 3 * width * height]
        return pixels.reshape(height, width, 3)

    def _map(self, row: int) -> NDArray[np.float32] | None:
        if "map_step" not in self.small or np.isnan(self.small["map_step"][row]):
            return None
        offset, step = self.small["map_offset"][row], self.small["map_step"][row]
        if "position_map_steps" in self.large:
            return scaled_steps(self.large["position_map_steps"][row], offset, step)
        return decode_map(self.large["position_map"][row], offset, step)

    def _scan(self, row: int) -> Scan | None:
        if "scan_points_mm" not in self.large:
            return None
        start, end = (int(value) for value in self.small["scan_start"][row : row + 2])
        if start == end:
            return None
        interocular = self.value("scan_interocular_mm", row)
        return Scan(
            points_mm=self.large["scan_points_mm"][start:end],
            camera_px_per_mm=self.value("scan_camera_px_per_mm", row),
            landmarks_mm=self.value("scan_landmarks_mm", row),
            interocular_mm=None if interocular is None else float(interocular),
        )


def _missing(values: NDArray[Any]) -> NDArray[np.bool_]:
    """(N,) rows that are NaN, or 255 in a field of flags, throughout."""
    if values.dtype.kind not in "fu" or not values.size:
        return np.zeros(len(values), bool)
    absent = np.isnan(values) if values.dtype.kind == "f" else values == 255
    return np.asarray(absent.reshape(len(values), -1).all(axis=1))


def _in_place(file: h5py.File, name: str) -> Any:
    """A stored array as it lies in the file, mapped into memory where it is neither chunked nor empty."""
    data = file[name]
    offset = data.id.get_offset()
    if offset is None:
        return data
    return np.asarray(np.memmap(file.filename, data.dtype, "r", offset, data.shape))


def check_shard(path: Path, entry: dict[str, Any]) -> None:
    """Compare a shard with its manifest entry.

    Raises
    ------
    ShardError
        It is missing, or its size or sha256 differ: truncated or edited.
    """
    remedy = "delete it and run the same `prnbench convert` again"
    if not path.is_file():
        raise ShardError("the shard is missing", file=path, remedy="run the same `prnbench convert` again")
    size = path.stat().st_size
    if size != entry["bytes"]:
        raise ShardError(
            f"truncated or edited: {size} bytes, the manifest says {entry['bytes']}", file=path, remedy=remedy
        )
    if sha256_of(path) != entry["sha256"]:
        raise ShardError("edited or damaged: its sha256 differs from the manifest's", file=path, remedy=remedy)
    with h5py.File(path, "r") as file:
        _check_schema(file.attrs.get("schema_version"), path)


class _MapMaker:
    """Position maps from the parameters of a parameter store, in one matrix product a batch."""

    def __init__(self, manifest: dict[str, Any], folder: Path, face_model: Any):
        from prnbench.facemodel import load_face_model
        from prnbench.morphable import MorphableModel

        wanted = manifest["face_model_fingerprint"]
        self.resolution = int(manifest["resolution"])
        self.model = face_model if isinstance(face_model, MorphableModel) else load_face_model(face_model)
        if self.model.fingerprint != wanted:
            raise FaceModelError(
                f"these shards hold parameters of {manifest['face_model']!r}, not of {self.model.name!r}",
                file=folder,
                remedy="give that model with --face-model (open_shards(..., face_model=...))",
            )
        self._basis: Any = None

    def fill(self, samples: list[Sample]) -> list[Sample]:
        from prnbench.uv import UvBasis, chart_of

        ready = [i for i, s in enumerate(samples) if s.shape_params is not None and s.pose_params is not None]
        if not ready:
            return samples
        if self._basis is None:
            self._basis = UvBasis(self.model, chart_of(self.model).raster(self.resolution))
        chosen: list[Any] = [samples[i] for i in ready]
        maps = self._basis.position_maps(
            np.stack([s.shape_params for s in chosen]),
            np.stack([s.expression_params for s in chosen]),
            np.stack([s.pose_params for s in chosen]),
            np.array([s.size_px[1] for s in chosen]),
        )
        out = list(samples)
        for i, position_map in zip(ready, maps, strict=True):
            out[i] = replace(samples[i], position_map_px=position_map)
        return out

    def __getstate__(self) -> dict[str, Any]:
        return {"resolution": self.resolution, "model": self.model, "_basis": None}


def verify(folder: Path) -> list[str]:
    """Every problem of a data set against its manifest, one line each; an empty list when it is whole."""
    manifest = read_manifest(folder)
    problems = []
    for entry in manifest["shards"]:
        try:
            check_shard(folder / Path(entry["file"]).name, entry)
        except ShardError as error:
            problems.append(str(error))
    listed = {Path(entry["file"]).name for entry in manifest["shards"]}
    problems += [
        f"{path}: not in the manifest. Delete it." for path in sorted(folder.glob("*.h5")) if path.name not in listed
    ]
    counted = sum(entry["count"] for entry in manifest["shards"])
    if counted != manifest["count"]:
        problems.append(
            f"{folder / MANIFEST}: says {manifest['count']} faces, its shards hold {counted}. Convert again."
        )
    return problems
