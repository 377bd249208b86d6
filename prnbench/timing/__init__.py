"""Latency and throughput after MLPerf LoadGen: single stream, multi stream, offline; stages, noise, memory.

The result of :func:`measure`, which is also ``timing.json``::

    schema_version    1
    mode              quick or full
    hardware          cpu, instructions, cores, memory_gib, gpus, fingerprint (compare latencies within one only)
    software          torch, numpy, torch_threads, OMP_NUM_THREADS, device; cuda, cudnn, driver on a GPU
    reference         median_ms, noise_percent, runs of a fixed kernel run between the queries: differences between
                      latencies below a few times the noise mean nothing
    models            name -> runtime, device, parameters, macs, notes
                              warmup       queries, first_ms, seconds: done before and left out of everything else
                              memory       process_mib, and device_mib on a GPU: peak during the runs
                              scenarios    single_stream, multi_stream, offline -> a scenario

    a scenario        batch         faces per query (single stream 1, multi stream 8)
                      queries, seconds, faces_per_s
                      stages        preprocess, forward, postprocess, end_to_end -> median_ms, mean_ms, std_ms, min_ms
                                    of a query
                      p90_ms, p99_ms, p99_9_ms    of a query end to end, 99 % confidence; only when enough ran
                      latencies_ms  end to end, in the order of the queries

A query begins with decoded images and boxes and ends with Predictions in original pixels. The next query begins
when the last has ended; faces come in a fixed shuffled order and nothing is kept between queries.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from prnbench.errors import InputError, SampleError
from prnbench.timing.hardware import (
    ReferenceKernel,
    hardware,
    peak_memory,
    pinned,
    reset_peak_memory,
    software,
    synchronise,
)
from prnbench.timing.percentiles import percentile_bound

__all__ = ["Plan", "hardware", "measure", "next_query", "quick"]

SCHEMA_VERSION = 1
STAGES = ("preprocess", "forward", "postprocess", "end_to_end")
PERCENTILES = {"p90_ms": 90.0, "p99_ms": 99.0, "p99_9_ms": 99.9}
_REFERENCE_EVERY_S = 0.1

Face = tuple[NDArray[np.uint8], ArrayLike]


class Predictor(Protocol):
    """The three stages of a model, see ``prnbench.models.Predictor``."""

    card: Any

    def preprocess(self, image_rgb: Any, box_px: Any) -> tuple[Any, Any]: ...

    def forward(self, batch: Any) -> Any: ...

    def postprocess(self, raw: Any, contexts: Any) -> Any: ...


@dataclass(frozen=True, slots=True)
class Plan:
    """How long to measure: a scenario runs for at least ``seconds`` and ``queries``, but not beyond ``limit_s``."""

    seconds: float = 10.0
    queries: int = 64
    limit_s: float = 120.0
    multi_stream: int = 8
    offline: int = 16
    warmup_s: float = 1.0
    mode: str = "full"


QUICK = Plan(seconds=1.0, queries=5, limit_s=4.0, offline=8, warmup_s=0.2, mode="quick")


def quick(predictors: Mapping[str, Predictor], faces: Sequence[Face]) -> dict[str, Any]:
    """Measure a few seconds per model, for every evaluation; see :func:`measure`."""
    return measure(predictors, faces, QUICK)


def measure(
    predictors: Mapping[str, Predictor], faces: Sequence[Face], plan: Plan | None = None, *, threads: int | None = None
) -> dict[str, Any]:
    """Time models on faces; the JSON-able result is described in the module's text.

    Parameters
    ----------
    predictors
        Models by the name they are reported under.
    faces
        (image_rgb (H, W, 3) uint8, box_px (4,)) pairs; a face that a model cannot crop is left out for it.
    plan
        Durations and batch sizes; full by default.
    threads
        Cores and torch threads to pin to; None measures with the settings as they are.

    Raises
    ------
    InputError
        No face can be used.
    """
    plan = plan or Plan()
    with pinned(threads):
        devices = {name: str(getattr(predictor, "device", "cpu")) for name, predictor in predictors.items()}
        shared = next(iter(devices.values()), "cpu")
        reference = ReferenceKernel(shared)
        models = {
            name: _model(predictor, _usable(predictor, faces), plan, devices[name], reference)
            for name, predictor in predictors.items()
        }
        return {
            "schema_version": SCHEMA_VERSION,
            "mode": plan.mode,
            "hardware": hardware(),
            "software": software(shared),
            "reference": reference.report(),
            "models": models,
        }


def next_query(predictor: Predictor, faces: Sequence[Face]) -> Callable[[], None]:
    """A call that runs one face after the other, end to end, in the fixed shuffled order: the single-stream query."""
    device = str(getattr(predictor, "device", "cpu"))
    order = _shuffled(_usable(predictor, faces), 1)

    def run() -> None:
        _query(predictor, next(order), device)

    return run


def _model(
    predictor: Predictor, faces: Sequence[Face], plan: Plan, device: str, reference: ReferenceKernel
) -> dict[str, Any]:
    card = predictor.card
    warmup = _warm_up(predictor, faces, plan, device)
    reset_peak_memory(device)
    sizes = {"single_stream": 1, "multi_stream": plan.multi_stream, "offline": plan.offline}
    scenarios = {name: _scenario(predictor, faces, size, plan, device, reference) for name, size in sizes.items()}
    return {
        "runtime": getattr(card, "runtime", ""),
        "device": device,
        "parameters": getattr(card, "parameters", None),
        "macs": getattr(card, "macs", None),
        "notes": list(getattr(card, "notes", ())),
        "warmup": warmup,
        "memory": peak_memory(device),
        "scenarios": scenarios,
    }


def _warm_up(predictor: Predictor, faces: Sequence[Face], plan: Plan, device: str) -> dict[str, Any]:
    """Run every batch size once, then single faces until the time is up; the first query is reported apart."""
    start = time.perf_counter()
    order = _shuffled(faces, plan.offline)
    first_ms = float(_query(predictor, next(order)[:1], device)[-1])
    queries = 1
    for size in sorted({plan.multi_stream, plan.offline}):
        _query(predictor, next(order)[:size], device)
        queries += 1
    while time.perf_counter() - start < plan.warmup_s:
        _query(predictor, next(order)[:1], device)
        queries += 1
    return {"queries": queries, "first_ms": first_ms, "seconds": time.perf_counter() - start}


def _scenario(
    predictor: Predictor, faces: Sequence[Face], batch: int, plan: Plan, device: str, reference: ReferenceKernel
) -> dict[str, Any]:
    rows: list[NDArray[np.float64]] = []
    busy_s = since_reference = 0.0
    reference.run()
    for query in _shuffled(faces, batch):
        stages = _query(predictor, query, device)
        rows.append(stages)
        busy_s += stages[-1] / 1e3
        since_reference += stages[-1] / 1e3
        if since_reference >= _REFERENCE_EVERY_S:
            reference.run()
            since_reference = 0.0
        if (busy_s >= plan.seconds and len(rows) >= plan.queries) or busy_s >= plan.limit_s:
            break
    times = np.stack(rows)
    bounds = {name: percentile_bound(times[:, -1], percentile) for name, percentile in PERCENTILES.items()}
    return {
        "batch": batch,
        "queries": len(times),
        "seconds": busy_s,
        "faces_per_s": batch * len(times) / busy_s,
        "stages": {stage: _moments(column) for stage, column in zip(STAGES, times.T, strict=True)},
        **{name: bound for name, bound in bounds.items() if bound is not None},
        "latencies_ms": [round(float(ms), 4) for ms in times[:, -1]],
    }


def _moments(ms: NDArray[np.float64]) -> dict[str, float]:
    return {
        "median_ms": float(np.median(ms)),
        "mean_ms": float(ms.mean()),
        "std_ms": float(ms.std(ddof=1)) if len(ms) > 1 else 0.0,
        "min_ms": float(ms.min()),
    }


def _query(predictor: Predictor, faces: Sequence[Face], device: str) -> NDArray[np.float64]:
    """Milliseconds of preprocess, forward, postprocess and all of one query."""
    import torch

    start = time.perf_counter_ns()
    pairs = [predictor.preprocess(image, box) for image, box in faces]
    inputs = [value for value, _ in pairs if value is not None]
    batch = torch.from_numpy(np.stack(inputs)) if inputs else None
    prepared = time.perf_counter_ns()
    raw = predictor.forward(batch)
    synchronise(device)
    ran = time.perf_counter_ns()
    predictor.postprocess(raw, [context for _, context in pairs])
    synchronise(device)
    done = time.perf_counter_ns()
    return np.array([prepared - start, ran - prepared, done - ran, done - start]) / 1e6


def _usable(predictor: Predictor, faces: Sequence[Face]) -> list[Face]:
    usable = []
    for face in faces:
        try:
            predictor.preprocess(*face)
        except SampleError:
            continue
        usable.append(face)
    if not usable:
        raise InputError("no face to time on", remedy="give decodable images with face boxes")
    return usable


def _shuffled(faces: Sequence[Face], batch: int, seed: int = 0) -> Iterator[list[Face]]:
    """Endless queries of ``batch`` faces in a fixed shuffled order."""
    rng = np.random.default_rng(seed)
    waiting: list[int] = []
    while True:
        while len(waiting) < batch:
            waiting += rng.permutation(len(faces)).tolist()
        yield [faces[i] for i in waiting[:batch]]
        waiting = waiting[batch:]
