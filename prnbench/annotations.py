"""Ground truth without images: AFLW2000-3D's ``.mat`` files and the ``.npy`` files that users hold beside them.

::

    *.mat                                pt3d_68 (3, 68) and Pose_Para (1, 7), one file per image
    AFLW2000-3D.pts68.npy                (N, 3, 68)   pt3d_68 of all images
    AFLW2000-3D-Reannotated.pts68.npy    (N, 2, 68)   the second annotation
    AFLW2000-3D.pose.npy                 (N,)         signed fitted yaw in degrees
    AFLW2000-3D-new.pose.npy             (N,)         absolute AFLW yaw in degrees
    ids.txt                              N lines      file stems in row order

Any of them may be missing. Without ``ids.txt`` the rows are the ``.mat`` stems in sorted order, or ``row00000``,
``row00001``, ... where there are none. Numbers stay float64, so that moving points between conventions loses nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from prnbench.errors import InputError
from prnbench.geometry import convert_convention
from prnbench.sample import Float32, Sample

Float64 = NDArray[np.float64]

POINTS = "AFLW2000-3D.pts68.npy"
REANNOTATED = "AFLW2000-3D-Reannotated.pts68.npy"
POSE = "AFLW2000-3D.pose.npy"
AFLW_POSE = "AFLW2000-3D-new.pose.npy"
IDS = "ids.txt"

_TOLERANCE_PX = 0.01  # between pt3d_68 of a .mat and its row in the .npy file
_ROW_SHAPES: dict[str, tuple[int, ...]] = {POINTS: (3, 68), REANNOTATED: (2, 68), POSE: (), AFLW_POSE: ()}


def read_annotations(folder: Path | str) -> list[Sample]:
    """Samples without images, in sorted-id or row order.

    Landmarks and re-annotated points are moved from the files' 1-based convention to exact pixels; a yaw from
    ``AFLW2000-3D.pose.npy`` goes before that of a ``.mat``; pitch and roll are NaN where no ``.mat`` gives them.

    Raises
    ------
    InputError
        Nothing is there, a file is damaged or has another shape, or the rows cannot be matched with faces.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError("no such annotations folder", file=folder, remedy="check --annotations")
    arrays = {name: _read_rows(folder / name) for name in _ROW_SHAPES if (folder / name).is_file()}
    mats = {path.stem: path for path in sorted(folder.glob("*.mat"))}
    if not arrays and not mats:
        raise _nothing_found(folder)
    faces = {stem: _read_mat(path) for stem, path in mats.items()}
    ids = _row_ids(folder, arrays, list(mats))
    rows = {face: row for row, face in enumerate(ids)}
    order = ids + [stem for stem in mats if stem not in rows]
    return [_sample(face, rows.get(face), arrays, faces.get(face), folder) for face in order]


@dataclass(frozen=True, slots=True)
class _Mat:
    landmarks: Float64
    pose_deg: Float64


def _sample(face: str, row: int | None, arrays: dict[str, Float64], mat: _Mat | None, folder: Path) -> Sample:
    points = None if mat is None else mat.landmarks
    pose = np.full(3, np.nan) if mat is None else mat.pose_deg.copy()
    reannotated = yaw_aflw = None
    if row is not None:
        if POINTS in arrays:
            points = _agreed(arrays[POINTS][row].T, points, face, folder)
        if REANNOTATED in arrays:
            reannotated = arrays[REANNOTATED][row].T
        if POSE in arrays:
            pose[1] = arrays[POSE][row]
        if AFLW_POSE in arrays:
            yaw_aflw = float(arrays[AFLW_POSE][row])
    return Sample(
        id=face,
        landmarks_px=None if points is None else _exact(points),
        reannotated_px=None if reannotated is None else _exact(reannotated),
        pose_deg=None if np.isnan(pose).all() else cast(Float32, pose),
        yaw_aflw_deg=yaw_aflw,
        source=folder.name,
        group=face,
    )


def _exact(points: Float64) -> Float32:
    return cast(Float32, convert_convention(points, "annotation", "exact"))


def _agreed(row: Float64, mat: Float64 | None, face: str, folder: Path) -> Float64:
    """The row, after a check that it belongs to the face whose .mat is there too."""
    if mat is not None and np.abs(row - mat).max() > _TOLERANCE_PX:
        cause = f"the points of {face} differ from those in {face}.mat: the rows are in another order"
        raise InputError(cause, file=folder / POINTS, remedy=f"add {IDS} with one file stem a line, in row order")
    return row


def _row_ids(folder: Path, arrays: dict[str, Float64], stems: list[str]) -> list[str]:
    if not arrays:
        return []
    counts = {name: len(array) for name, array in arrays.items()}
    count = next(iter(counts.values()))
    if len(set(counts.values())) > 1:
        raise InputError(f"files of different length: {counts}", file=folder, remedy="keep files of one data set only")
    if (folder / IDS).is_file():
        return _read_ids(folder / IDS, count)
    if not stems:
        return [f"row{row:05d}" for row in range(count)]
    if len(stems) != count:
        cause = f"{len(stems)} .mat files but {count} rows in {', '.join(counts)}"
        raise InputError(cause, file=folder, remedy=f"add {IDS} with one file stem a line, in row order")
    return stems


def _read_ids(path: Path, count: int) -> list[str]:
    lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    ids = [Path(line.strip()).name for line in lines if line.strip()]
    ids = [Path(name).stem if name.lower().endswith((".jpg", ".jpeg", ".png", ".mat")) else name for name in ids]
    if len(ids) != count:
        raise InputError(f"{len(ids)} ids for {count} rows", file=path, remedy="give one file stem a line")
    if twice := _repeated(ids):
        raise InputError(f"id {twice!r} occurs twice", file=path, remedy="give every face its own id")
    return ids


def _repeated(ids: Sequence[str]) -> str | None:
    seen: set[str] = set()
    return next((face for face in ids if face in seen or seen.add(face)), None)  # type: ignore[func-returns-value]


def _read_rows(path: Path) -> Float64:
    shape = _ROW_SHAPES[path.name]
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"not a readable .npy file ({error})", file=path, remedy="copy it again") from None
    wanted = "x".join(["N", *map(str, shape)])
    if (
        not isinstance(array, np.ndarray)
        or array.shape[1:] != shape
        or array.ndim == 0
        or array.dtype.kind not in "fiu"
    ):
        found = f"{array.dtype} {'x'.join(map(str, array.shape))}" if isinstance(array, np.ndarray) else "an archive"
        raise InputError(f"expected numbers {wanted}, found {found}", file=path, remedy="copy it again")
    if not np.isfinite(array).all():
        row = int(np.argmax(~np.isfinite(array).reshape(len(array), -1).all(axis=1)))
        raise InputError(f"row {row} holds NaN or infinite values", file=path, remedy="copy it again")
    rows: Float64 = array.astype(np.float64)
    return rows


def _read_mat(path: Path) -> _Mat:
    from scipy.io import loadmat

    wanted = {"pt3d_68": (3, 68), "Pose_Para": (1, 7)}
    try:
        content = loadmat(path, variable_names=list(wanted))
    except Exception as error:  # SciPy raises many kinds for damaged files
        raise InputError(f"not a readable .mat file ({error})", file=path, remedy="copy it again") from None
    for name, shape in wanted.items():
        found = np.shape(content[name]) if name in content else "nothing"
        if found != shape or content[name].dtype.kind not in "fiu" or not np.isfinite(content[name]).all():
            cause = f"expected finite numbers {name} {shape}, found {found}"
            raise InputError(cause, file=path, remedy="remove the file or copy it again")
    return _Mat(content["pt3d_68"].T.astype(np.float64), np.rad2deg(content["Pose_Para"][0, :3].astype(np.float64)))


def _nothing_found(folder: Path) -> InputError:
    names = sorted(entry.name for entry in folder.iterdir())
    there = ", ".join(names[:6]) + (", ..." if len(names) > 6 else "") if names else "nothing"
    looked = f"*.mat, {', '.join(_ROW_SHAPES)}"
    return InputError(
        f"found no annotations: looked for {looked}; the folder holds {there}",
        file=folder,
        remedy="check --annotations",
    )
