"""Pictures of an evaluation's best, median and worst faces, and contact sheets of a data set."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prnbench.evaluate import Dataset, predict
from prnbench.files import write_json
from prnbench.geometry import transform_points
from prnbench.models import Predictor
from prnbench.overlay import PREDICTION_RGB, TRUTH_RGB, contact_sheet, draw_landmarks, square_around, write_image
from prnbench.sample import Prediction, Sample
from prnbench.table import PerSampleTable

Image = NDArray[np.uint8]

FACES_PER_PLACE = 3
SIDE_PX = 224
ERROR_RANGE_PERCENT = 10.0
_RANKING = ("nme_2d_68-v1", "nme_2d_68_reannotated-v1", "nme_2d_dense-v1")


def write_gallery(
    folder: Path, table: PerSampleTable, predictors: dict[str, Predictor], datasets: Sequence[Dataset]
) -> None:
    """Write ``gallery/*.jpg`` and its index: input, prediction, ground truth and error of the chosen faces."""
    entries: list[dict[str, Any]] = []
    for model, predictor in predictors.items():
        for dataset in datasets:
            entries += _faces(folder, table, model, predictor, dataset)
    write_json(folder / "gallery" / "index.json", entries)


def _faces(
    folder: Path, table: PerSampleTable, model: str, predictor: Predictor, dataset: Dataset
) -> list[dict[str, Any]]:
    protocol = next((key for key in _RANKING if key in table.protocols), None)
    if protocol is None:
        return []
    rows = table.rows
    own = rows[(rows["model"] == model) & (rows["dataset"] == dataset.name) & np.isfinite(rows[protocol])]
    chosen = chosen_places(own[protocol].to_numpy(), own["id"].tolist())
    samples = {s.id: s for s in _with_ids(dataset.samples, {name for _, name, _ in chosen})}
    entries = []
    for place, name, value in chosen:
        sample = samples[name]
        if sample.jpeg is None:
            continue
        pictures = face_pictures(sample, predict(predictor, [sample])[0], dataset)
        files = []
        for title, image in pictures:
            file = f"{model}-{dataset.name}-{name}-{title}.jpg".replace(" ", "_").replace("/", "_")
            write_image(folder / "gallery" / file, image)
            files.append({"title": title, "file": file, "person": True})
        entry = {"model": model, "dataset": dataset.name, "id": name, "place": place, "protocol": protocol}
        entries.append({**entry, "value": round(value, 4), "pictures": files})
    return entries


def chosen_places(errors: NDArray[np.float64], ids: Sequence[str]) -> list[tuple[str, str, float]]:
    """(place, id, error) of the best, median and worst faces; each face once, fewer where there are few."""
    order = np.argsort(errors, kind="stable")
    count = min(FACES_PER_PLACE, len(order) // 3) or min(len(order), 1)
    middle = len(order) // 2 - count // 2
    places = {"best": order[:count], "median": order[middle : middle + count], "worst": order[::-1][:count]}
    if len(order) < 3:
        places = {"best": order[:1], "worst": order[1:]}
    return [(place, ids[i], float(errors[i])) for place, indices in places.items() for i in indices]


def _with_ids(samples: Any, wanted: set[str]) -> Iterable[Sample]:
    if hasattr(samples, "take"):
        names = samples.column("id")
        return list(samples.take([i for i, name in enumerate(names) if name in wanted]))
    return (sample for sample in samples if sample.id in wanted)


def face_pictures(sample: Sample, prediction: Prediction, dataset: Dataset) -> list[tuple[str, Image]]:
    """Input, prediction, ground truth and, with position maps, the error over the face, as squares."""
    box = sample.box_px
    assert box is not None
    square, crop = square_around(sample.image_rgb(), box, SIDE_PX)
    pictures = [("input", square)]
    if prediction.landmarks_px is not None:
        pictures.append(("prediction", draw_landmarks(square, _moved(prediction.landmarks_px, crop), PREDICTION_RGB)))
    if sample.landmarks_px is not None:
        pictures.append(("ground truth", draw_landmarks(square, _moved(sample.landmarks_px, crop), TRUTH_RGB)))
    texels = dataset.context.face_texels
    truth, found = sample.position_map_px, prediction.position_map_px
    if truth is not None and found is not None and texels is not None and truth.shape == found.shape:
        pictures.append(("error", _error_picture(square, truth, found, crop, texels, box)))
    return pictures


def _moved(points: Any, crop: NDArray[np.float64]) -> NDArray[np.float64]:
    xy = np.asarray(points, np.float64)[:, :2]
    return transform_points(xy, crop)


def _error_picture(
    square: Image, truth: Any, found: Any, crop: NDArray[np.float64], texels: NDArray[np.int64], box: Any
) -> Image:
    """The true face points coloured by their 2D error, dark to bright for 0 to 10 % of the box."""
    import matplotlib

    left, top, right, bottom = (float(v) for v in box)
    size = np.sqrt((right - left) * (bottom - top))
    points, other = truth.reshape(-1, 3)[texels], found.reshape(-1, 3)[texels]
    error = 100 * np.linalg.norm((points - other)[:, :2], axis=1) / size
    colours = matplotlib.colormaps["viridis"](np.clip(error / ERROR_RANGE_PERCENT, 0, 1))[:, :3] * 255
    moved = transform_points(points, crop)
    at = np.round(moved[:, :2]).astype(int)
    inside = ((at >= 0) & (at < SIDE_PX)).all(axis=1)
    order = np.argsort(moved[inside, 2], kind="stable")
    out = (square * 0.35).astype(np.uint8)
    x, y = at[inside][order].T
    out[y, x] = colours[inside][order].astype(np.uint8)
    return out


def dataset_sheet(samples: Sequence[Sample], columns: int = 6) -> Image:
    """Contact sheet of faces with their landmarks, labelled by id and yaw."""
    tiles, labels = [], []
    for sample in samples:
        box = sample.box_px
        if box is None or sample.jpeg is None:
            continue
        square, crop = square_around(sample.image_rgb(), box, SIDE_PX)
        tiles.append(draw_landmarks(square, _moved(sample.landmarks_px, crop), TRUTH_RGB))
        yaw = "" if sample.yaw_deg is None else f" {sample.yaw_deg:+.0f} deg"
        labels.append(f"{sample.id[-18:]}{yaw}")
    return contact_sheet(tiles, min(columns, len(tiles)), labels)
