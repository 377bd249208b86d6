"""Evaluation: predictor x data set x protocols -> per-sample table. One loop, one row a face, nothing averaged here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, overload

import numpy as np

from prnbench.cards import EvalProtocol
from prnbench.errors import InputError, SampleError
from prnbench.models import SeesTruth
from prnbench.sample import Prediction, Sample

if TYPE_CHECKING:
    from prnbench.metrics import Context
    from prnbench.models import Predictor
    from prnbench.table import PerSampleTable
    from prnbench.uv import UvChart

BATCH = 16


class Samples(Protocol):
    """Faces with ground truth: a ShardSet, or a list read from annotations."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Sample]: ...
    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> Samples: ...


@dataclass(frozen=True, slots=True)
class Dataset:
    """Faces under a name, with the protocols their card asks for and what the ground truth can serve."""

    name: str
    samples: Samples
    protocols: tuple[EvalProtocol, ...]
    digest: str
    context: Context
    skipped: int = 0
    card: dict[str, Any] | None = None
    chart: UvChart | None = None

    @property
    def ids(self) -> list[str]:
        """Ids of all faces."""
        column = getattr(self.samples, "column", None)
        return column("id") if column else [sample.id for sample in self.samples]


def possible_protocols(protocols: Sequence[EvalProtocol], sample: Sample) -> tuple[list[EvalProtocol], dict[str, str]]:
    """Protocols that this ground truth can serve, and for the others what to give to get them."""
    from prnbench.metrics import missing_ground_truth

    reasons = {protocol.key: missing_ground_truth(protocol, sample) for protocol in protocols}
    possible = [protocol for protocol in protocols if reasons[protocol.key] is None]
    return possible, {key: reason for key, reason in reasons.items() if reason is not None}


def predict(predictor: Predictor, samples: Sequence[Sample]) -> list[Prediction]:
    """Predictions of a batch; a face that cannot be decoded or cropped is a failed prediction with its reason."""
    return predict_inputs(predictor, [partial(_input_of, predictor, sample) for sample in samples])


def predict_inputs(predictor: Predictor, inputs: Sequence[Callable[[], tuple[Any, Any]]]) -> list[Prediction]:
    """Predictions of a batch given as functions to what ``preprocess`` returns; one that raises SampleError failed."""
    import torch

    values, contexts, failed = [], [], {}
    for i, make in enumerate(inputs):
        try:
            value, context = make()
        except SampleError as error:
            failed[i] = Prediction(failed=str(error))
            continue
        values.append(value)
        contexts.append(context)
    made: Iterator[Prediction] = iter(())
    if values:
        batch = None if values[0] is None else torch.stack([torch.as_tensor(value) for value in values])
        made = iter(predictor.postprocess(predictor.forward(batch), contexts))
    return [failed[i] if i in failed else next(made) for i in range(len(inputs))]


def _input_of(predictor: Predictor, sample: Sample) -> tuple[Any, Any]:
    if isinstance(predictor, SeesTruth):
        return predictor.preprocess_truth(sample)
    box = sample.box_px
    if box is None:
        raise SampleError("no face box", file=sample.id)
    return predictor.preprocess(sample.image_rgb(), box)


def evaluate(
    predict_batch: Callable[[list[Sample]], list[Prediction]],
    model: str,
    dataset: Dataset,
    *,
    offers: frozenset[str] | None = None,
) -> list[dict[str, Any]]:
    """Rows of the per-sample table for one model on one data set.

    Parameters
    ----------
    predict_batch
        A function from a list of Samples to a list of Predictions.
    model
        The name in the table.
    dataset
        Faces with ground truth.
    offers
        Dense fields to keep of a prediction: none for predictors whose chart differs from the ground truth's.
    """
    rows = []
    for batch in _batches(dataset.samples, BATCH):
        rows += batch_rows(model, dataset, batch, [kept(prediction, offers) for prediction in predict_batch(batch)])
    return rows


def batch_rows(
    model: str, dataset: Dataset, samples: list[Sample], predictions: list[Prediction]
) -> list[dict[str, Any]]:
    """One row a face: identity, pose, and its error under every protocol (inf: failed, NaN: not offered)."""
    from prnbench.metrics import errors_of_batch

    columns = errors_of_batch(dataset.protocols, samples, predictions, dataset.context)
    rows = []
    for i, (sample, prediction) in enumerate(zip(samples, predictions, strict=True)):
        pitch, yaw, roll = (np.nan,) * 3 if sample.pose_deg is None else sample.pose_deg
        row = {
            "model": model,
            "dataset": dataset.name,
            "id": sample.id,
            "yaw_fitted_deg": float(yaw),
            "yaw_aflw_deg": np.nan if sample.yaw_aflw_deg is None else sample.yaw_aflw_deg,
            "pitch_deg": float(pitch),
            "roll_deg": float(roll),
            "failed": prediction.failed or "",
        }
        rows.append(row | {key: float(values[i]) for key, values in columns.items()})
    return rows


def table_of(
    rows: list[dict[str, Any]], datasets: Sequence[Dataset], models: dict[str, Any], header: dict[str, Any]
) -> PerSampleTable:
    """The per-sample table of all rows with the header that says how every number was made."""
    import pandas as pd

    from prnbench.table import PerSampleTable

    if not rows:
        raise InputError("no faces to evaluate", remedy="check the data set")
    protocols = {p.key: asdict(p) for dataset in datasets for p in dataset.protocols}
    described = {
        d.name: {"digest": d.digest, "count": len(d.samples), "skipped": d.skipped, **(d.card or {})} for d in datasets
    }
    return PerSampleTable.make(
        pd.DataFrame(rows), {**header, "protocols": protocols, "datasets": described, "models": models}
    )


def kept(prediction: Prediction, offers: frozenset[str] | None) -> Prediction:
    """A prediction with those dense fields only that count; None keeps all."""
    if offers is None or prediction.failed is not None:
        return prediction
    position_map = prediction.position_map_px if "position_map_px" in offers else None
    vertices = prediction.vertices_px if "vertices_px" in offers else None
    return replace(prediction, position_map_px=position_map, vertices_px=vertices)


def _batches(items: Iterable[Sample], size: int) -> Iterator[list[Sample]]:
    batch: list[Sample] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
