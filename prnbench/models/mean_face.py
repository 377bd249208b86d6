"""mean_face: the training set's mean face placed into the face box; the floor on every board."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from prnbench import geometry
from prnbench.environment import code_digest
from prnbench.errors import InputError, WeightsError
from prnbench.files import cache_folder, replacing, sha256_of
from prnbench.models import ModelCard
from prnbench.morphable import MorphableModel
from prnbench.sample import Prediction, Sample

if TYPE_CHECKING:
    from prnbench.uv import UvChart

DRAWN_FACES, BATCH, IMAGE_HEIGHT = 1000, 50, 450


@dataclass(frozen=True, slots=True, eq=False)
class MeanFace:
    """Mean of box-normalised faces: x in box widths, y in heights, z in sqrt(width height).

    Attributes
    ----------
    landmarks
        (68, 3) float32.
    position_map
        (R, R, 3) float32 or None.
    faces, source
        How many faces were averaged, and of what.
    """

    landmarks: NDArray[np.float32]
    position_map: NDArray[np.float32] | None
    faces: int
    source: str


def normalised(points: ArrayLike, box_px: ArrayLike, z_origin: float) -> NDArray[np.float64]:
    """Points (..., 3) in pixels to box coordinates: the box's corners are (0, 0) and (1, 1)."""
    left, top, right, bottom = np.asarray(box_px, np.float64)
    width, height = right - left, bottom - top
    origin = np.array([left, top, z_origin])
    result: NDArray[np.float64] = (np.asarray(points) - origin) / [width, height, np.sqrt(width * height)]
    return result


def placed(points: NDArray[np.float32], box_px: ArrayLike) -> NDArray[np.float32]:
    """Box coordinates (..., 3) to pixels: the inverse of :func:`normalised` with z from 0."""
    left, top, right, bottom = np.asarray(box_px, np.float64)
    width, height = right - left, bottom - top
    size = np.array([width, height, np.sqrt(width * height)])
    pixels: NDArray[np.float32] = (points * size + [left, top, 0.0]).astype(np.float32)
    return pixels


def mean_of(faces: Iterable[tuple[NDArray[Any], NDArray[Any] | None]], source: str) -> MeanFace:
    """Average faces given as landmarks (68, 3) and position map (R, R, 3) or None, in pixels.

    The map's mean is over the faces that have one.
    """
    landmarks = np.zeros((68, 3))
    total: NDArray[np.float64] | None = None
    count = maps = 0
    for points, position_map in faces:
        box, z = geometry.box_of(points), float(points[:, 2].mean())
        landmarks += normalised(points, box, z)
        count += 1
        if position_map is not None:
            part = normalised(position_map, box, z)
            total, maps = (part if total is None else total + part), maps + 1
    if not count:
        raise InputError("no face with landmarks to average", file=source, remedy="give a converted training set")
    mean_map = None if total is None else (total / maps).astype(np.float32)
    return MeanFace((landmarks / count).astype(np.float32), mean_map, count, source)


def fit(samples: Sequence[Sample], out: Path, source: str) -> MeanFace:
    """Average a training set and write it as ``.npz``: what ``prnbench train --config mean_face`` does."""
    from prnbench.progress import progress

    faces = ((s.landmarks_px, s.position_map_px) for s in progress(samples, "mean face") if s.landmarks_px is not None)
    mean = mean_of(faces, source)
    write_mean(mean, out)
    return mean


def write_mean(mean: MeanFace, path: Path) -> None:
    """Write the ``.npz`` that :func:`read_mean` reads."""
    arrays = {"landmarks": mean.landmarks, "faces": np.int64(mean.faces), "source": np.str_(mean.source)}
    if mean.position_map is not None:
        arrays["position_map"] = mean.position_map
    with replacing(path) as temporary, temporary.open("wb") as handle:
        np.savez(handle, **arrays)  # type: ignore[arg-type]


def read_mean(path: Path) -> MeanFace:
    """Read what :func:`fit` wrote."""
    remedy = "make it with `prnbench train --config mean_face --data SHARDS`"
    try:
        with np.load(path, allow_pickle=False) as file:
            landmarks, position_map = file["landmarks"], file.get("position_map")
            faces, source = int(file["faces"]), str(file["source"])
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise WeightsError(f"not a mean face ({error})", file=path, remedy=remedy) from None
    if landmarks.shape != (68, 3) or not np.isfinite(landmarks).all():
        raise WeightsError(f"landmarks are {landmarks.shape}, expected finite (68, 3)", file=path, remedy=remedy)
    return MeanFace(landmarks, position_map, faces, source)


def built_in_mean() -> Path:
    """File of the mean over 1,000 faces drawn as the synthetic training set draws them (seed 0); made on first use."""
    from prnbench.facemodel import load_face_model

    model = load_face_model()
    path = cache_folder("mean_face") / f"{model.fingerprint[:16]}-{code_digest()[:8]}.npz"
    if not path.is_file():
        write_mean(mean_of(_drawn_faces(model), "the synthetic training distribution, seed 0"), path)
    return path


def built_in_chart() -> UvChart:
    """Chart that the built-in mean's position map follows."""
    from prnbench.facemodel import load_face_model
    from prnbench.uv import chart_of

    return chart_of(load_face_model())


def _drawn_faces(model: MorphableModel) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """Landmarks and position maps of faces in pictures of 450 pixels."""
    from prnbench.progress import progress
    from prnbench.synthetic.layouts import VARIANTS, training_yaw
    from prnbench.synthetic.person import draw_face, landmarks_of
    from prnbench.uv import UvBasis, chart_of

    basis = UvBasis(model, chart_of(model).raster(256))
    for start in progress(range(0, DRAWN_FACES, BATCH), "mean face", DRAWN_FACES, size=lambda _: BATCH):
        faces = [
            draw_face(model, training_yaw(0, *divmod(i, VARIANTS)), np.random.default_rng([0, i]))
            for i in range(start, start + BATCH)
        ]
        shape, expression, pose = (np.stack([getattr(f, k) for f in faces]) for k in ("shape", "expression", "pose"))
        maps = basis.position_maps(shape, expression, pose, np.full(len(faces), IMAGE_HEIGHT))
        for face, position_map in zip(faces, maps, strict=True):
            vertices = landmarks_of(model, face.shape, face.expression)
            yield geometry.to_image(geometry.project(vertices, face.pose), IMAGE_HEIGHT), position_map


class MeanFacePredictor:
    """The mean face behind the Predictor methods; it looks at no pixels."""

    def __init__(self, mean: MeanFace, card: ModelCard, chart: UvChart | None = None):
        self.mean, self.card, self.chart = mean, card, chart

    def preprocess(self, image_rgb: NDArray[np.uint8], box_px: ArrayLike) -> tuple[None, NDArray[np.float64]]:
        """Keep the box."""
        return None, np.asarray(box_px, np.float64)

    def forward(self, batch: Any) -> None:
        """Nothing to run."""

    def postprocess(self, raw: None, contexts: Sequence[NDArray[np.float64]]) -> list[Prediction]:
        """Place the mean into each box."""
        return [self._place(box) for box in contexts]

    def _place(self, box: NDArray[np.float64]) -> Prediction:
        if not (box[2] > box[0] and box[3] > box[1]):
            return Prediction(failed="the face box is empty")
        mean_map = self.mean.position_map
        return Prediction(
            landmarks_px=placed(self.mean.landmarks, box),
            position_map_px=None if mean_map is None else placed(mean_map, box),
        )


def build(weights: Path | None = None, device: str = "cpu", face_model: str | Path | None = None) -> MeanFacePredictor:
    """Build the mean face from a file of ``prnbench train --config mean_face``.

    Parameters
    ----------
    weights
        ``.npz`` of a training set's mean; without it, the mean of the synthetic training distribution, made once.
    device, face_model
        Accepted for uniformity; there is nothing to compute.
    """
    chart = built_in_chart() if weights is None else None
    weights = weights or built_in_mean()
    mean = read_mean(weights)
    offers = ("landmarks",) if mean.position_map is None else ("landmarks", "position_map")
    card = ModelCard(
        name="mean_face",
        title="Mean face",
        paper="none: the floor that every model must beat",
        trained_on=f"mean of {mean.faces} faces of {mean.source}",
        weights_digest=sha256_of(weights),
        licence="MIT",
        offers=offers,
        notes=("looks at the face box only, never at the image",),
    )
    return MeanFacePredictor(mean, card, chart)
