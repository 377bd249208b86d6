"""Where on the face a model errs: the mean 2D error of each texel, with the mean face to show it on.

::

    error_maps.npz   names (N, 2)      model and data set of each map
                     faces (N,)        faces averaged
                     0_error (R, R)    float32, per cent of the face size; NaN outside the face area
                     0_mean (R, R, 3)  float32, the face model's mean face in its unit, y up; NaN off the chart
                     1_error, ...
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from prnbench.errors import InputError
from prnbench.evaluate import BATCH, Dataset
from prnbench.files import replacing
from prnbench.metrics.context import Context, offset_px, predicted_map, true_landmarks
from prnbench.metrics.nme import box_size
from prnbench.sample import Prediction, Sample

MOST_FACES = 64
FILE = "error_maps.npz"

Float32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class ErrorMap:
    """Mean error of one model on one data set; the arrays are described in the module's text."""

    model: str
    dataset: str
    faces: int
    error_percent: Float32
    mean_face: Float32


def measure(
    predict_batch: Callable[[list[Sample]], Sequence[Prediction]], model: str, dataset: Dataset
) -> ErrorMap | None:
    """Mean over at most ``MOST_FACES`` faces, taken evenly; None without position maps on either side.

    The error of a texel is that of ``nme_2d_dense``: distance in the picture over sqrt(w h) of the landmarks' box.
    Failed predictions are left out.
    """
    context, chart = dataset.context, dataset.chart
    if chart is None or context.face_texels is None or context.position_map_of is None:
        return None
    total = len(dataset.samples)
    count = min(MOST_FACES, total)
    samples = [dataset.samples[i * total // count] for i in range(count)]
    errors = [
        error
        for start in range(0, count, BATCH)
        for error in _errors(predict_batch, samples[start : start + BATCH], dataset)
    ]
    if not errors:
        return None
    side = context.map_size
    error_map = np.full(side * side, np.nan, np.float32)
    error_map[context.face_texels] = np.mean(errors, axis=0)
    covered = chart.raster(side).covered[..., None]
    mean_face = np.where(covered, context.position_map_of(chart.mean), np.nan).astype(np.float32)
    return ErrorMap(model, dataset.name, len(errors), error_map.reshape(side, side), mean_face)


def _errors(
    predict_batch: Callable[[list[Sample]], Sequence[Prediction]], samples: list[Sample], dataset: Dataset
) -> list[NDArray[np.float64]]:
    found = zip(samples, predict_batch(samples), strict=True)
    errors = [face_error(sample, prediction, dataset.context) for sample, prediction in found]
    return [error for error in errors if error is not None]


def face_error(sample: Sample, prediction: Prediction, context: Context) -> NDArray[np.float64] | None:
    """Error (T,) over the texels of the face area, in per cent; None without position maps or a prediction."""
    found = None if prediction.failed is not None else predicted_map(prediction, context)
    if found is None or sample.position_map_px is None or context.face_texels is None:
        return None
    apart = (found - sample.position_map_px).reshape(-1, 3)[context.face_texels, :2] + offset_px(prediction, "exact")
    size = float(box_size(true_landmarks(sample)[None])[0])
    error: NDArray[np.float64] = 100 * np.linalg.norm(apart.astype(np.float64), axis=1) / size
    return error if np.isfinite(error).all() else None


def write_error_maps(folder: Path, maps: Sequence[ErrorMap]) -> None:
    """Write ``error_maps.npz``, or remove that of an earlier evaluation where there are none."""
    path = folder / FILE
    if not maps:
        path.unlink(missing_ok=True)
        return
    arrays = {f"{i}_error": m.error_percent for i, m in enumerate(maps)}
    arrays |= {f"{i}_mean": m.mean_face for i, m in enumerate(maps)}
    names = np.array([(m.model, m.dataset) for m in maps])
    with replacing(path) as temporary, temporary.open("wb") as handle:
        np.savez_compressed(handle, names=names, faces=np.array([m.faces for m in maps]), **arrays)  # type: ignore[arg-type]


def read_error_maps(folder: Path) -> list[ErrorMap]:
    """Read ``error_maps.npz``; an empty list where there is none.

    Raises
    ------
    InputError
        The file is damaged.
    """
    path = folder / FILE
    if not path.is_file():
        return []
    try:
        with np.load(path, allow_pickle=False) as file:
            named = zip(file["names"], file["faces"], strict=True)
            maps = [
                ErrorMap(str(n[0]), str(n[1]), int(count), file[f"{i}_error"], file[f"{i}_mean"])
                for i, (n, count) in enumerate(named)
            ]
    except (OSError, ValueError, KeyError, EOFError, IndexError, TypeError, BadZipFile) as error:
        raise InputError(f"not readable ({type(error).__name__})", file=path, remedy="evaluate again") from None
    for entry in maps:
        if entry.error_percent.ndim != 2 or entry.mean_face.shape != (*entry.error_percent.shape, 3):
            raise InputError("its arrays have other shapes than expected", file=path, remedy="evaluate again")
    return maps
