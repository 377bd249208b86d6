"""Readers of the Basel Face Model 2009: face3d's ``BFM.mat`` and the raw parts, with no MATLAB step.

Facts (face3d's ``generate.py``): the trimmed model keeps 53,215 of the 53,490 vertices (``trimIndex``);
modes are in micrometres with absolute coefficients; ``shapeEV`` and ``sigma_exp`` are standard deviations;
indices are 1-based; mean = shapeMU + expMU.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prnbench.errors import FaceModelError
from prnbench.morphable.model import Float32, Int32, MorphableModel, outward

RAW_VERTICES = 53490
TRIMMED_VERTICES = 53215
WHERE = (
    "get 01_MorphableModel.mat from the Basel Face Model page (faces.dmi.unibas.ch/bfm), model_info.mat and "
    "Model_Expression.mat from the 3DDFA page (cbsr.ia.ac.cn), or BFM.mat by face3d's generate.py from them"
)
LICENCE = "Basel Face Model 2009: non-commercial use only, not redistributable; bring your own copy"

Fields = dict[str, NDArray[Any]]


def read_face3d(path: Path) -> MorphableModel:
    """Read face3d's ``BFM.mat`` (struct ``model``), with ``BFM_UV.mat`` beside it if there is one."""
    fields = _struct(load_mat(path), path)
    need(fields, ["shapeMU", "shapePC", "shapeEV", "expPC", "expEV", "tri", "kpt_ind"], path)
    mean = vector(fields["shapeMU"])
    if "expMU" in fields:
        mean = mean + vector(fields["expMU"])
    return _model(
        path,
        mean=mean,
        identity=fields["shapePC"],
        identity_std=fields["shapeEV"],
        expression=fields["expPC"],
        expression_std=fields["expEV"],
        triangles=fields["tri"],
        landmarks=fields["kpt_ind"],
        mouth=fields.get("tri_mouth"),
        albedo=[fields.get(name) for name in ("texMU", "texPC", "texEV")],
        trim=None,
    )


def read_raw(folder: Path) -> MorphableModel:
    """Read the raw parts: the shape, ``Model_Expression.mat`` and ``model_info.mat``.

    ``01_MorphableModel.mat`` needs ``trimIndex`` from ``model_info.mat``, which also brings the trimmed
    triangles and key points; without it ``Model_Shape.mat``, already trimmed, is read.
    """
    expression_path = _part(folder, "Model_Expression.mat", WHERE)
    expression = load_mat(expression_path)
    need(expression, ["mu_exp", "w_exp", "sigma_exp"], expression_path)
    shape, shape_path, trim = _raw_shape(folder)
    mouth_path = _find(folder, "Model_tri_mouth.mat")
    return _model(
        shape_path,
        mean=vector(shape["mean"]) + _same_size(vector(expression["mu_exp"]), shape["mean"], expression_path),
        identity=shape["identity"],
        identity_std=shape["identity_std"],
        expression=expression["w_exp"],
        expression_std=expression["sigma_exp"],
        triangles=shape["triangles"],
        landmarks=shape["landmarks"],
        mouth=None if mouth_path is None else load_mat(mouth_path).get("tri_mouth"),
        albedo=[shape.get(name) for name in ("albedo", "albedo_modes", "albedo_std")],
        trim=trim,
    )


def _raw_shape(folder: Path) -> tuple[Fields, Path, NDArray[np.int64] | None]:
    """Trimmed shape part under our names, its file, and the trim index (None: trimmed already)."""
    full = _find(folder, "01_MorphableModel.mat")
    if full is None:
        return *_trimmed_shape(folder), None
    info_path = _part(folder, "model_info.mat", WHERE)
    info = load_mat(info_path)
    if "tri" not in info or "keypoints" not in info:
        trimmed = _find(folder, "Model_Shape.mat")
        info = {**(load_mat(trimmed) if trimmed else {}), **info}
    fields = load_mat(full)
    need(info, ["trimIndex", "tri", "keypoints"], info_path)
    need(fields, ["shapeMU", "shapePC", "shapeEV"], full)
    trim = vector(info["trimIndex"]).astype(np.int64) - 1
    vertices = fields["shapeMU"].size // 3
    if trim.min() < 0 or trim.max() >= vertices:
        raise FaceModelError(
            f"shapeMU has {vertices} vertices, trimIndex of {info_path.name} reaches {trim.max() + 1}; "
            f"expected {RAW_VERTICES}",
            file=full,
            remedy=WHERE,
        )
    rows = (3 * trim[:, None] + np.arange(3)).ravel()
    by_vertex = {"mean": "shapeMU", "identity": "shapePC", "albedo": "texMU", "albedo_modes": "texPC"}
    shape = {ours: fields[theirs][rows] for ours, theirs in by_vertex.items() if theirs in fields}
    shape |= {"identity_std": fields["shapeEV"], "landmarks": info["keypoints"], "triangles": info["tri"]}
    return shape | ({"albedo_std": fields["texEV"]} if "texEV" in fields else {}), full, trim


def _trimmed_shape(folder: Path) -> tuple[Fields, Path]:
    path = _part(folder, "Model_Shape.mat", WHERE)
    info_path = _find(folder, "model_info.mat")
    fields = {**(load_mat(info_path) if info_path else {}), **load_mat(path)}
    names = {
        "mean": "mu_shape",
        "identity": "w",
        "identity_std": "sigma",
        "triangles": "tri",
        "landmarks": "keypoints",
    }
    need(fields, list(names.values()), path)
    return {ours: fields[theirs] for ours, theirs in names.items()}, path


def _model(
    path: Path,
    *,
    mean: NDArray[Any],
    identity: NDArray[Any],
    identity_std: NDArray[Any],
    expression: NDArray[Any],
    expression_std: NDArray[Any],
    triangles: NDArray[Any],
    landmarks: NDArray[Any],
    mouth: NDArray[Any] | None,
    albedo: list[NDArray[Any] | None],
    trim: NDArray[np.int64] | None,
) -> MorphableModel:
    count = mean.size // 3
    if mean.size != 3 * TRIMMED_VERTICES:
        raise FaceModelError(
            f"the mean shape has {count} vertices, expected {TRIMMED_VERTICES} (trimmed BFM 2009)",
            file=path,
            remedy=WHERE,
        )
    for name, modes in (("identity", identity), ("expression", expression)):
        if modes.ndim != 2 or modes.shape[0] != mean.size:
            raise FaceModelError(
                f"the {name} modes have the shape {modes.shape}, expected ({mean.size}, n)",
                file=path,
                remedy=WHERE,
            )
    points = mean.reshape(-1, 3).astype(np.float32)
    colour, colour_modes, colour_std = albedo
    return MorphableModel(
        name="BFM 2009",
        source=str(path),
        licence=LICENCE,
        unit="um",
        mean=points,
        identity=identity.astype(np.float32),
        identity_std=vector(identity_std),
        expression=expression.astype(np.float32),
        expression_std=vector(expression_std),
        triangles=outward(one_based(triangles), points),
        landmarks=vector(landmarks).astype(np.int32) - 1,
        uv=_chart(path, count, trim),
        mouth_triangles=None if mouth is None or mouth.size == 0 else one_based(mouth),
        albedo=None if colour is None else np.clip(vector(colour).reshape(-1, 3) / 255.0, 0.0, 1.0),
        albedo_modes=None if colour_modes is None else colour_modes.astype(np.float32) / np.float32(255.0),
        albedo_std=None if colour_modes is None or colour_std is None else vector(colour_std),
    )


def _chart(model_path: Path, vertices: int, trim: NDArray[np.int64] | None) -> Float32 | None:
    path = _find(model_path.parent, "BFM_UV.mat")
    if path is None:
        return None
    fields = load_mat(path)
    need(fields, ["UV"], path)
    uv = fields["UV"] if fields["UV"].shape[-1] == 2 else fields["UV"].T
    if trim is not None and len(uv) > vertices and trim.max() < len(uv):
        uv = uv[trim]  # the published file covers the untrimmed 53,490 vertices
    if uv.shape != (vertices, 2) or not (np.nanmin(uv) >= -1e-6 and np.nanmax(uv) <= 1 + 1e-6):
        raise FaceModelError(
            f"UV has the shape {fields['UV'].shape} and values {np.nanmin(uv):.3g}..{np.nanmax(uv):.3g}, "
            f"expected ({vertices}, 2) in 0..1",
            file=path,
            remedy="use the BFM_UV.mat made with this BFM.mat, or remove it: the chart is then computed",
        )
    return np.clip(uv, 0.0, 1.0).astype(np.float32)


def load_mat(path: Path) -> Fields:
    """All variables of a ``.mat`` file, of version 7.3 (HDF5) too."""
    import scipy.io

    try:
        with path.open("rb") as handle:
            start = handle.read(8)
        if start.startswith((b"\x89HDF", b"MATLAB 7")) and _is_hdf5(path):
            return _load_hdf5(path)
        loaded = scipy.io.loadmat(path)
    except OSError as error:
        raise FaceModelError(f"cannot be read ({error})", file=path, remedy="check the path") from None
    except Exception as error:  # SciPy raises its own, ValueError, TypeError and zlib errors on damaged files
        raise FaceModelError(f"not a readable .mat file ({error})", file=path, remedy="copy the file again") from None
    return {name: value for name, value in loaded.items() if not name.startswith("__")}


def _is_hdf5(path: Path) -> bool:
    import h5py

    return bool(h5py.is_hdf5(path))


def _load_hdf5(path: Path) -> Fields:
    """Variables of a v7.3 file, whose arrays are stored transposed and whose struct is a group."""
    import h5py

    out: Fields = {}
    with h5py.File(path, "r") as stored:
        group = stored["model"] if "model" in stored and isinstance(stored["model"], h5py.Group) else stored
        for name, item in group.items():
            if isinstance(item, h5py.Dataset) and item.dtype.kind in "fiu":
                out[name] = np.ascontiguousarray(item[()].T)
    return out


def _struct(variables: Fields, path: Path) -> Fields:
    if "model" not in variables:
        if "shapeMU" in variables and "kpt_ind" in variables:
            return variables  # a v7.3 struct, already opened
        raise FaceModelError(
            f"no struct 'model' but {sorted(variables)}; this is not face3d's BFM.mat",
            file=path,
            remedy=WHERE,
        )
    struct = variables["model"]
    if struct.dtype.names is None:
        raise FaceModelError("'model' is not a struct", file=path, remedy=WHERE)
    return {name: struct[name].flat[0] for name in struct.dtype.names}


def need(fields: Fields, names: list[str], path: Path) -> None:
    """Refuse a file without these fields, naming those it has."""
    missing = [name for name in names if name not in fields]
    if missing:
        raise FaceModelError(f"the fields {missing} are missing, found {sorted(fields)}", file=path, remedy=WHERE)


def vector(array: NDArray[Any]) -> Float32:
    """A MATLAB row or column as a flat float32 vector."""
    return np.asarray(array, np.float32).ravel()


def one_based(array: NDArray[Any]) -> Int32:
    """1-based (3, n) or (n, 3) MATLAB indices as 0-based (n, 3)."""
    rows = array.T if array.shape[0] == 3 and array.shape[1] != 3 else array
    return rows.astype(np.int32) - 1


def _same_size(values: Float32, like: NDArray[Any], path: Path) -> Float32:
    if values.size != like.size:
        raise FaceModelError(
            f"mu_exp has {values.size // 3} vertices, the shape part {like.size // 3}; expected {TRIMMED_VERTICES}",
            file=path,
            remedy="use Model_Expression.mat of 300W-LP's 29 modes (Exp_Pca.bin is another basis). " + WHERE,
        )
    return values


def _find(folder: Path, name: str) -> Path | None:
    """A file by name, ignoring case, in the folder or one below it (``raw/``, ``3ddfa/``, ``stn/``)."""
    for candidate in sorted([*folder.glob("*.mat"), *folder.glob("*/*.mat")], key=lambda p: (len(p.parts), str(p))):
        if candidate.name.lower() == name.lower():
            return candidate
    return None


def _part(folder: Path, name: str, remedy: str) -> Path:
    found = _find(folder, name)
    if found is None:
        held = ", ".join(sorted(p.name for p in folder.glob("*.mat"))[:8]) or "no .mat file"
        raise FaceModelError(f"{name} is missing, found {held}", file=folder, remedy=remedy)
    return found
