"""Pictures of an evaluation's best, median and worst faces, and contact sheets of a data set."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prnbench.error_maps import face_error
from prnbench.evaluate import Dataset, predict
from prnbench.files import write_json
from prnbench.geometry import transform_points
from prnbench.metrics import Context
from prnbench.metrics.surface import grid_triangles
from prnbench.models import Predictor
from prnbench.overlay import PREDICTION_RGB, TRUTH_RGB, contact_sheet, draw_landmarks, square_around, write_image
from prnbench.sample import Prediction, Sample
from prnbench.table import PerSampleTable

Image = NDArray[np.uint8]

FACES_PER_PLACE = 3
SIDE_PX = 224
ERROR_RANGE_PERCENT = 10.0
GROUND = 34
"""Grey of the ground that geometry is drawn on."""
_RANKING = ("nme_2d_68-v1", "nme_2d_68_reannotated-v1", "nme_2d_dense-v1")


def write_gallery(
    folder: Path,
    table: PerSampleTable,
    predictors: dict[str, Predictor],
    datasets: Sequence[Dataset],
    *,
    persons: bool = True,
) -> None:
    """Write ``gallery/*.jpg`` and its index: input, prediction, ground truth and error of the chosen faces.

    Without ``persons`` no picture of a person is written: landmarks and error as geometry only.
    """
    entries: list[dict[str, Any]] = []
    for model, predictor in predictors.items():
        for dataset in datasets:
            entries += _faces(folder, table, model, predictor, dataset, persons)
    write_json(folder / "gallery" / "index.json", entries)


def _faces(
    folder: Path, table: PerSampleTable, model: str, predictor: Predictor, dataset: Dataset, persons: bool
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
        files = []
        for title, image, person in face_pictures(sample, predict(predictor, [sample])[0], dataset):
            if person and not persons:
                continue
            file = f"{model}-{dataset.name}-{name}-{title}.jpg".replace(" ", "_").replace("/", "_")
            write_image(folder / "gallery" / file, image)
            files.append({"title": title, "file": file, "person": person})
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


def face_pictures(sample: Sample, prediction: Prediction, dataset: Dataset) -> list[tuple[str, Image, bool]]:
    """Squares of a face, each with its title and whether it shows a person.

    Input, prediction, ground truth; both sets of landmarks on a plain ground; with position maps the error on the
    true face.
    """
    box = sample.box_px
    assert box is not None
    square, crop = square_around(sample.image_rgb(), box, SIDE_PX)
    plain = np.full_like(square, GROUND)
    pictures = [("input", square, True)]
    truth, found = (_moved(points, crop) for points in (sample.landmarks_px, prediction.landmarks_px))
    if found is not None:
        pictures.append(("prediction", draw_landmarks(square, found, PREDICTION_RGB), True))
    if truth is not None:
        pictures.append(("ground truth", draw_landmarks(square, truth, TRUTH_RGB), True))
    if truth is not None and found is not None:
        both = draw_landmarks(draw_landmarks(plain, truth, TRUTH_RGB), found, PREDICTION_RGB)
        pictures.append(("landmarks", both, False))
    error = face_error(sample, prediction, dataset.context)
    if error is not None:
        pictures.append(("error", _error_picture(plain, sample, error, crop, dataset.context), False))
    return pictures


def _moved(points: Any, crop: NDArray[np.float64]) -> NDArray[np.float64] | None:
    return None if points is None else transform_points(np.asarray(points, np.float64)[:, :2], crop)


def _error_picture(
    ground: Image, sample: Sample, error_percent: NDArray[np.float64], crop: NDArray[np.float64], context: Context
) -> Image:
    """The true face area, lightly shaded, coloured by its error, dark to bright for 0 to ``ERROR_RANGE_PERCENT``."""
    import matplotlib

    from prnbench.render import render_colours, vertex_normals

    assert sample.position_map_px is not None and context.face_texels is not None
    points = sample.position_map_px.reshape(-1, 3)[context.face_texels].astype(np.float64)
    scale = np.sqrt(abs(np.linalg.det(crop[:, :2])))
    placed = np.column_stack([transform_points(points[:, :2], crop), scale * points[:, 2]])
    triangles = grid_triangles(context.face_texels, sample.position_map_px.shape[1])
    colours = matplotlib.colormaps["viridis"](np.clip(error_percent / ERROR_RANGE_PERCENT, 0, 1))
    colours[:, :3] *= 0.72 + 0.28 * np.abs(vertex_normals(placed, triangles)[:, 2:])
    drawn = render_colours(placed, triangles, colours, *ground.shape[:2], samples=2)
    mixed = 255 * drawn[..., :3] + (1 - drawn[..., 3:]) * ground
    return np.asarray(np.rint(np.clip(mixed, 0, 255)), np.uint8)


def dataset_sheet(samples: Sequence[Sample], columns: int = 6) -> Image:
    """Contact sheet of faces with their landmarks, labelled by id and yaw."""
    tiles, labels = [], []
    for sample in samples:
        box = sample.box_px
        if box is None or sample.jpeg is None:
            continue
        square, crop = square_around(sample.image_rgb(), box, SIDE_PX)
        points = _moved(sample.landmarks_px, crop)
        tiles.append(square if points is None else draw_landmarks(square, points, TRUTH_RGB))
        yaw = "" if sample.yaw_deg is None else f" {sample.yaw_deg:+.0f} deg"
        labels.append(f"{sample.id[-18:]}{yaw}")
    return contact_sheet(tiles, min(columns, len(tiles)), labels)
