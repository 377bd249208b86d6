"""A model over the suite of corruptions: one row a face and condition, nothing averaged here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prnbench.cards import EvalProtocol
from prnbench.errors import SampleError
from prnbench.metrics import Context, errors_of_batch
from prnbench.metrics.context import landmarks_of
from prnbench.robustness.corruptions import Face, corrupted, face_of, generator, shifted
from prnbench.robustness.suite import CLEAN, STEADINESS, Steadiness, Suite
from prnbench.sample import Prediction, Sample

PROTOCOLS = ("nme_2d_68", "nme_3d_68_zmean", "nme_2d_dense")
"""Ids of the protocols that are measured under corruptions: quick ones, in the plane, in space and dense."""

Given = Callable[[], tuple[NDArray[np.uint8], NDArray[np.float64]]]
Predict = Callable[[Sequence[Given]], list[Prediction]]


def robust_protocols(protocols: Sequence[EvalProtocol]) -> tuple[EvalProtocol, ...]:
    """Those of a data set's protocols that are measured under corruptions."""
    return tuple(protocol for protocol in protocols if protocol.id in PROTOCOLS)


def conditions(suite: Suite) -> Iterator[tuple[str, int, float]]:
    """(corruption, severity, level) of every condition, the clean one first."""
    yield CLEAN, 0, float("nan")
    for corruption in suite.corruptions:
        for severity, level in enumerate(corruption.levels, 1):
            yield corruption.id, severity, level


def robustness_rows(
    predict: Predict,
    samples: Sequence[Sample],
    protocols: Sequence[EvalProtocol],
    context: Context,
    suite: Suite,
) -> list[dict[str, Any]]:
    """Rows of the robustness table for some faces.

    Parameters
    ----------
    predict
        A function from functions that give (image_rgb, box_px), or raise SampleError, to Predictions.
    samples
        Faces with pictures and landmarks.
    protocols
        See :func:`robust_protocols`.
    context
        What dense protocols need.
    suite
        Corruptions and steadiness.
    """
    faces = [_Clean(sample) for sample in samples]
    rows = []
    for corruption, severity, level in conditions(suite):
        given = [partial(face.under, corruption, level, suite.seed) for face in faces]
        predictions = predict(given)
        columns = errors_of_batch(protocols, samples, predictions, context)
        for i, (sample, prediction) in enumerate(zip(samples, predictions, strict=True)):
            row = _row(sample, corruption, severity, level, prediction.failed or "")
            rows.append(row | {key: float(values[i]) for key, values in columns.items()})
    return rows + _steadiness_rows(predict, faces, suite.steadiness, context)


def _row(sample: Sample, corruption: str, severity: int, level: float, failed: str) -> dict[str, Any]:
    return {"id": sample.id, "corruption": corruption, "severity": severity, "level": level, "failed": failed}


class _Clean:
    """A face whose picture is decoded once; one that does not decode says so under every condition."""

    def __init__(self, sample: Sample):
        self.sample = sample
        self.face: Face | None = None
        self.error: SampleError | None = None
        try:
            if sample.box_px is None:
                raise SampleError("no face box", file=sample.id)
            self.face = face_of(sample)
        except SampleError as error:
            self.error = error

    def under(self, corruption: str, level: float, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
        face = self._known()
        if corruption != CLEAN:
            face = corrupted(face, corruption, level, generator(seed, self.sample.id, corruption))
        return face.image_rgb, face.box_px

    def moved(self, dx_px: float, dy_px: float) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
        face = shifted(self._known(), dx_px, dy_px)
        return face.image_rgb, face.box_px

    def _known(self) -> Face:
        if self.face is None:
            assert self.error is not None
            raise self.error
        return self.face


def _steadiness_rows(
    predict: Predict, faces: Sequence[_Clean], steadiness: Steadiness, context: Context
) -> list[dict[str, Any]]:
    shifts = sub_pixel_shifts(steadiness)
    seen = [predict([partial(face.moved, dx, dy) for face in faces]) for dx, dy in shifts]
    rows = []
    for face, predictions in zip(faces, zip(*seen, strict=True), strict=True):
        points = [landmarks_of(prediction, context) for prediction in predictions]
        failed = next((prediction.failed for prediction in predictions if prediction.failed is not None), None)
        row = _row(face.sample, STEADINESS, 0, steadiness.radius_px, failed or "")
        if failed is not None:
            value = np.inf
        elif face.face is None or any(p is None for p in points):
            value = np.nan
        else:
            value = jitter(np.stack([p[:, :2] for p in points if p is not None]), shifts, face.face.size_px)
        rows.append(row | {steadiness.key: value})
    return rows


def sub_pixel_shifts(steadiness: Steadiness) -> NDArray[np.float64]:
    """(K, 2) shifts in pixels, evenly on a circle."""
    angles = 2 * np.pi * np.arange(steadiness.shifts) / steadiness.shifts
    shifts: NDArray[np.float64] = steadiness.radius_px * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return shifts


def jitter(landmarks_KP2: NDArray[Any], shifts_K2: NDArray[np.float64], size_px: float) -> float:
    """Root mean square distance of predictions, moved back, from their mean, in per cent of the face size."""
    still = np.asarray(landmarks_KP2, np.float64) - shifts_K2[:, None]
    away = still - still.mean(axis=0)
    value = float(100 * np.sqrt((away**2).sum(axis=-1).mean()) / size_px)
    return value if np.isfinite(value) else np.inf


def without_dense(prediction: Prediction) -> Prediction:
    """A prediction without its dense fields, for a model whose chart is not that of the ground truth."""
    return replace(prediction, position_map_px=None, vertices_px=None)
