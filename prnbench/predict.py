"""One picture in; a mesh, 68 landmarks and an overlay out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from prnbench.errors import InputError
from prnbench.files import make_folder, write_json
from prnbench.geometry import box_of
from prnbench.models import Predictor
from prnbench.models import predict as predict_batch
from prnbench.sample import Prediction, decode_rgb

Image = NDArray[np.uint8]
REFINEMENTS = 3


def predict_picture(
    predictor: Predictor, image_rgb: Image, box_px: ArrayLike | None = None
) -> tuple[Prediction, NDArray[np.float64], str]:
    """Prediction of the one face in a picture (H, W, 3) uint8.

    Parameters
    ----------
    box_px
        (4,) left, top, right, bottom of the face. Without it the middle of the picture is tried, and the box of the
        predicted landmarks is taken for the next try, three times.

    Returns
    -------
    prediction, box used, and where the box came from.
    """
    if box_px is not None:
        box = np.asarray(box_px, np.float64)
        return predict_batch(predictor, [image_rgb], [box])[0], box, "given"
    box = middle_box(image_rgb)
    prediction = predict_batch(predictor, [image_rgb], [box])[0]
    for _ in range(REFINEMENTS):
        if prediction.failed is not None or prediction.landmarks_px is None:
            break
        found = box_of(prediction.landmarks_px)
        if not _plausible(found, image_rgb):
            break
        box = found
        prediction = predict_batch(predictor, [image_rgb], [box])[0]
    return prediction, box, "refined from the middle of the picture"


def middle_box(image_rgb: Image) -> NDArray[np.float64]:
    """A square in the middle of the picture, 0.45 of its shorter side: where 300W-LP's faces are."""
    height, width = image_rgb.shape[:2]
    half = 0.225 * min(height, width)
    return np.array([width / 2 - half, height / 2 - half, width / 2 + half, height / 2 + half])


def _plausible(box: NDArray[np.float64], image_rgb: Image) -> bool:
    height, width = image_rgb.shape[:2]
    inside = box[0] < width and box[1] < height and box[2] > 0 and box[3] > 0
    size = (box[2] - box[0] + box[3] - box[1]) / 2
    return bool(inside and 16 < size < 2 * max(height, width))


def read_picture(path: Path) -> Image:
    """A picture file as (H, W, 3) uint8 RGB."""
    if not path.is_file():
        raise InputError("no such picture", file=path, remedy="check the path")
    return decode_rgb(path.read_bytes(), str(path))


def box_beside(path: Path) -> NDArray[np.float64] | None:
    """Face box from a 300W-LP or AFLW2000-3D ``.mat`` beside the picture, or None."""
    from prnbench.convert.raw import floats, read_mat
    from prnbench.geometry import convert_convention

    mat = path.with_suffix(".mat")
    if not mat.is_file():
        return None
    content = read_mat(mat, ())
    for name in ("pt3d_68", "pt2d"):
        if name in content and np.shape(content[name])[-1] == 68:
            points = floats(content, name, (None, 68), mat)[:2].T
            return box_of(convert_convention(points, "annotation", "exact"))
    return None


def write_prediction(
    path: Path, image_rgb: Image, prediction: Prediction, box_px: ArrayLike, out: Path, predictor: Predictor, mesh: str
) -> list[Path]:
    """Write ``<stem>_landmarks.json``, ``<stem>_overlay.png`` and, if the model gives a surface, ``<stem>.obj|ply``.

    Mesh coordinates are original-image pixels with y turned up, so that viewers show it upright.
    """
    from prnbench.overlay import draw_box, draw_landmarks, draw_mesh, write_image

    make_folder(out)
    written = [out / f"{path.stem}_landmarks.json", out / f"{path.stem}_overlay.png"]
    points = prediction.landmarks_px
    content = {
        "image": path.name,
        "size_px": [image_rgb.shape[1], image_rgb.shape[0]],
        "model": predictor.card.name,
        "trained": predictor.card.trained,
        "box_px": np.asarray(box_px, float).round(3).tolist(),
        "pixel_convention": prediction.pixel_convention,
        "landmarks_px": None if points is None else np.asarray(points, float).round(3).tolist(),
    }
    write_json(written[0], content)
    picture = draw_box(image_rgb, box_px, (86, 180, 233))
    panels = [draw_landmarks(picture, points) if points is not None else picture]
    chart = getattr(predictor, "chart", None)
    if chart is not None and prediction.position_map_px is not None and prediction.vertices_px is not None:
        from prnbench.uv.mesh import write_mesh

        panels.append(draw_mesh(image_rgb, prediction.vertices_px, chart.triangles[: chart.surface_count]))
        written.append(write_mesh(out / f"{path.stem}.{mesh}", prediction.position_map_px, chart, image_rgb))
    write_image(written[1], np.concatenate(panels, axis=1))
    return written
