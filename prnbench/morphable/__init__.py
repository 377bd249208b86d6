"""Morphable models: one frozen MorphableModel and its readers, chosen by looking at what a path holds."""

from __future__ import annotations

from pathlib import Path

from prnbench.errors import FaceModelError
from prnbench.morphable import bfm, ict
from prnbench.morphable.model import MorphableModel, load_npz, read_arrays

__all__ = ["MorphableModel", "read_face_model"]

EXPECTED = (
    "face3d's BFM.mat (BFM_UV.mat beside it is used), a folder with 01_MorphableModel.mat, model_info.mat "
    "and Model_Expression.mat, ICT-FaceKit's FaceXModel folder, or a .npz array file"
)


def read_face_model(path: str | Path) -> MorphableModel:
    """Read a morphable model, whatever the path holds.

    Parameters
    ----------
    path
        A file or folder of one of the known layouts.

    Raises
    ------
    FaceModelError
        Nothing there, an unknown layout, or a layout whose fields or sizes are wrong.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        return _read_folder(path)
    if not path.is_file():
        raise FaceModelError("no such file or folder", file=path, remedy=f"give {EXPECTED}")
    suffix = path.suffix.lower()
    if suffix == ".npz":
        return _read_npz(path)
    if suffix == ".mat":
        raw = path.name.lower() in (
            "01_morphablemodel.mat",
            "model_shape.mat",
            "model_info.mat",
            "model_expression.mat",
        )
        return bfm.read_raw(path.parent) if raw else bfm.read_face3d(path)
    if suffix == ".obj" and (path.parent / ict.NEUTRAL).is_file():
        return ict.read_folder(path.parent)
    raise FaceModelError(f"{suffix or 'no suffix'} is not a face model layout", file=path, remedy=f"give {EXPECTED}")


def _read_folder(folder: Path) -> MorphableModel:
    for candidate in (folder, folder / "FaceXModel"):
        if (candidate / ict.NEUTRAL).is_file():
            return ict.read_folder(candidate)
    for candidate in (folder, folder / "Out"):
        if (candidate / "BFM.mat").is_file():
            return bfm.read_face3d(candidate / "BFM.mat")
    names = {p.name.lower() for p in [*folder.glob("*.mat"), *folder.glob("*/*.mat")]}
    if names & {"01_morphablemodel.mat", "model_shape.mat", "model_info.mat"}:
        return bfm.read_raw(folder)
    arrays = sorted(folder.glob("*.npz"))
    if len(arrays) == 1:
        return _read_npz(arrays[0])
    held = ", ".join(sorted(p.name for p in folder.iterdir())[:6]) or "nothing"
    raise FaceModelError(f"no known face model in the folder, found {held}", file=folder, remedy=f"give {EXPECTED}")


def _read_npz(path: Path) -> MorphableModel:
    arrays = load_npz(path)
    return ict.read_npz(path, arrays) if "face_uv" in arrays else read_arrays(path)
