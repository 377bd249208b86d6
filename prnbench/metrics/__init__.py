"""Errors per face under a protocol: the one place where protocols, samples and predictions meet the pure functions.

A value is finite, inf (the prediction failed or is not finite) or NaN (not offered, or no ground truth).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from prnbench.cards import EvalProtocol
from prnbench.landmarks import REGIONS
from prnbench.metrics.context import (
    Context,
    landmark_dims,
    offset_px,
    predicted_landmarks,
    predicted_map,
    true_landmarks,
)
from prnbench.metrics.nme import align_z, box_size, nme, settled
from prnbench.metrics.pose import pose_mae
from prnbench.sample import Prediction, Sample

__all__ = ["Context", "errors_of", "errors_of_batch", "missing_ground_truth"]

Array = NDArray[np.float64]
Truths = Sequence[Sample]
Predictions = Sequence[Prediction]


def errors_of(
    protocol: EvalProtocol, samples: Truths, predictions: Predictions, context: Context | None = None
) -> Array:
    """Error of each face under one protocol: (N,) float64. See :func:`errors_of_batch`."""
    return errors_of_batch([protocol], samples, predictions, context)[protocol.key]


def errors_of_batch(
    protocols: Sequence[EvalProtocol], samples: Truths, predictions: Predictions, context: Context | None = None
) -> dict[str, Array]:
    """Errors of N faces under several protocols, by protocol key; work that protocols share is done once.

    Parameters
    ----------
    protocols
        Protocols of a data set's card.
    samples, predictions
        N faces and what a model says of each.
    context
        Face model and chart; dense protocols are NaN without it.

    Returns
    -------
    dict of (N,) float64
        inf: a failed or non-finite prediction; NaN: not offered by the model, or no ground truth.
    """
    families: dict[str, list[EvalProtocol]] = {}
    for protocol in protocols:
        dense = protocol.metric == "nme" and protocol.points == "face_area"
        families.setdefault("dense" if dense else protocol.metric, []).append(protocol)
    found: dict[str, Array] = {}
    for family, members in families.items():
        found |= _FAMILIES[family](members, samples, predictions, context or Context())
    return {protocol.key: found[protocol.key] for protocol in protocols}


def missing_ground_truth(protocol: EvalProtocol, sample: Sample) -> str | None:
    """What a sample lacks for a protocol and how to get it, or None if it can be measured."""
    if protocol.yaw_source == "aflw" and sample.yaw_aflw_deg is None:
        return "needs AFLW's yaw: give --annotations with AFLW2000-3D-new.pose.npy"
    if protocol.ground_truth == "reannotated" and sample.reannotated_px is None:
        return "needs the second annotation: give --annotations with AFLW2000-3D-Reannotated.pts68.npy"
    if protocol.ground_truth == "pt3d_68" and not np.isfinite(true_landmarks(sample)[:, : protocol.dims]).all():
        return "needs 68 landmarks" + (" with depth" if protocol.dims == 3 else "")
    if protocol.ground_truth == "position_map" and sample.position_map_px is None:
        return "needs true position maps: give the face model (--face-model BFM.mat) and the images"
    if protocol.ground_truth == "scan" and (sample.scan is None or sample.scan.landmarks_mm is None):
        return "needs a scan with landmarks"
    if protocol.ground_truth == "pose_para" and (sample.pose_deg is None or not np.isfinite(sample.pose_deg).all()):
        return "needs pitch, yaw and roll: give the .mat files"
    return None


def landmark_errors(
    protocols: Sequence[EvalProtocol], samples: Truths, predictions: Predictions, context: Context
) -> dict[str, Array]:
    """NME of the 68 landmarks or a region of them, in the annotation's pixel convention."""
    predicted = np.stack([predicted_landmarks(prediction, context) for prediction in predictions])
    truths = {
        source: np.stack([true_landmarks(sample, source) for sample in samples])
        for source in {protocol.ground_truth for protocol in protocols}
    }
    failed = np.array([prediction.failed is not None for prediction in predictions])
    dims = np.array([landmark_dims(prediction, context) for prediction in predictions])
    found = {}
    for protocol in protocols:
        points = list(REGIONS.get(protocol.points, range(68)))
        truth = truths[protocol.ground_truth]
        p, g = predicted[:, points, : protocol.dims], truth[:, points, : protocol.dims]
        if protocol.dims == 3:
            p, g = align_z(p, protocol.z_align), align_z(g, protocol.z_align)
        error = nme(p, g, box_size(truth))
        found[protocol.key] = np.where(failed | (dims >= protocol.dims), error, np.nan)
    return found


def dense_errors(
    protocols: Sequence[EvalProtocol], samples: Truths, predictions: Predictions, context: Context
) -> dict[str, Array]:
    """NME over the face area of the position maps, in exact pixels."""
    from prnbench.metrics.dense import dense_distances

    ready, found = _start(protocols, samples, predictions, context)
    if not ready:
        return found
    assert context.face_texels is not None
    maps = [predicted_map(predictions[i], context) for i in ready]
    truths = [samples[i].position_map_px for i in ready]
    offsets = [offset_px(predictions[i], "exact") for i in ready]
    distances = dense_distances(maps, truths, context.face_texels, offsets)  # type: ignore[arg-type]
    size_68 = box_size(np.stack([true_landmarks(samples[i]) for i in ready]))
    for protocol in protocols:
        distance = distances.xy if protocol.dims == 2 else getattr(distances, f"xyz_{protocol.z_align}")
        size = size_68 if protocol.normaliser == "sqrt_box_68" else distances.own_size
        found[protocol.key][ready] = settled(100.0 * distance / size, size)
    return found


def normal_errors(
    protocols: Sequence[EvalProtocol], samples: Truths, predictions: Predictions, context: Context
) -> dict[str, Array]:
    """Mean angle between the surface normals of predicted and true position map, in degrees."""
    from prnbench.metrics.dense import normal_error

    ready, found = _start(protocols, samples, predictions, context)
    for i in ready:
        truth = samples[i].position_map_px
        angle = normal_error(predicted_map(predictions[i], context), truth, context.inner_texels)  # type: ignore[arg-type]
        for protocol in protocols:
            found[protocol.key][i] = settled(angle, 0.0)
    return found


def pose_errors(
    protocols: Sequence[EvalProtocol], samples: Truths, predictions: Predictions, context: Context
) -> dict[str, Array]:
    """Mean absolute error of pitch, yaw and roll in degrees."""
    missing = np.full(3, np.nan)
    truth = np.stack([missing if sample.pose_deg is None else sample.pose_deg for sample in samples])
    angles = [missing if p.pose_deg is None or p.failed is not None else p.pose_deg for p in predictions]
    offered = np.array([p.pose_deg is not None or p.failed is not None for p in predictions])
    error = np.where(offered, pose_mae(np.stack(angles), truth), np.nan)
    return {protocol.key: error for protocol in protocols}


def reconstruction_errors(
    protocols: Sequence[EvalProtocol], samples: Truths, predictions: Predictions, context: Context
) -> dict[str, Array]:
    """Distances after alignment, in per cent of the outer-interocular distance; faces in parallel."""
    from concurrent.futures import ThreadPoolExecutor

    from prnbench.metrics.reconstruction import reconstruction_errors_of_face

    with ThreadPoolExecutor(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None) as pool:
        measure = partial(reconstruction_errors_of_face, protocols, context=context)
        rows = list(pool.map(measure, samples, predictions))
    return {protocol.key: np.array([row[protocol.key] for row in rows]) for protocol in protocols}


_FAMILIES = {
    "nme": landmark_errors,
    "dense": dense_errors,
    "normal_error": normal_errors,
    "pose_mae": pose_errors,
    "reconstruction": reconstruction_errors,
}


def _start(
    protocols: Sequence[EvalProtocol], samples: Truths, predictions: Predictions, context: Context
) -> tuple[list[int], dict[str, Array]]:
    """Faces whose maps can be compared, and columns that say inf or NaN for the others."""
    has_truth = [sample.position_map_px is not None and context.face_texels is not None for sample in samples]
    column = np.full(len(samples), np.nan)
    ready = []
    for i, prediction in enumerate(predictions):
        if has_truth[i] and prediction.failed is not None:
            column[i] = np.inf
        elif has_truth[i] and predicted_map(prediction, context) is not None:
            ready.append(i)
    return ready, {protocol.key: column.copy() for protocol in protocols}
