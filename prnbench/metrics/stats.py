"""The records of ``summary.json``: means, medians, spreads, intervals, AUC and failure rates per yaw bin.

Every record has ``model, dataset, protocol, metric, unit, subset, statistic, value, n, failed``. A statistic
that is not a finite number (the interval of one face, the median when most faces failed) is left out, and so is a
subset without faces.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from prnbench.cards import YAW_BINS, EvalProtocol
from prnbench.metrics.bootstrap import RESAMPLES, bca_interval, resampled_means
from prnbench.metrics.ced import THRESHOLDS, auc, failure_rate

if TYPE_CHECKING:
    from pandas import DataFrame

    from prnbench.table import PerSampleTable

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

SEED = 0
STATISTICS = (
    "mean",
    "median",
    "std",
    "ci95_low",
    "ci95_high",
    *(f"auc_{threshold:g}" for threshold in THRESHOLDS),
    *(f"failure_rate_{threshold:g}" for threshold in THRESHOLDS),
)
SUBSETS = ("all", *YAW_BINS, "balanced")


def summary(table: PerSampleTable, *, seed: int = SEED, resamples: int = RESAMPLES) -> list[dict[str, Any]]:
    """All records of a table, in the table's order of models and data sets.

    ``n`` counts the faces that the protocol covers (whose column is not NaN), ``failed`` those among them without a
    prediction. Mean, std (of the sample, N - 1) and the 95 % BCa interval of the mean are over the faces with a
    prediction; median, AUC and failure rates count a failed face as infinitely wrong. ``balanced`` is the mean of the
    three bin means, its std the sample standard deviation of the three, its interval from a bootstrap within each bin.
    """
    protocols = table.protocols
    records: list[dict[str, Any]] = []
    for (model, dataset), rows in table.rows.groupby(["model", "dataset"], sort=False):
        columns = {key: protocol for key, protocol in protocols.items() if rows[key].notna().any()}
        intervals = protocol_intervals(rows, columns, seed, resamples)
        for key, protocol in columns.items():
            errors, bins = rows[key].to_numpy(), yaw_bins(rows, protocol)
            for subset, statistic, value, n, failed in _statistics(errors, bins, intervals[key]):
                if np.isfinite(value):
                    records.append(
                        {
                            "model": model,
                            "dataset": dataset,
                            "protocol": key,
                            "metric": protocol.metric,
                            "unit": protocol.unit if statistic in STATISTICS[:5] else "%",
                            "subset": subset,
                            "statistic": statistic,
                            "value": float(value),
                            "n": int(n),
                            "failed": int(failed),
                        }
                    )
    return records


def yaw_bins(rows: DataFrame, protocol: EvalProtocol) -> dict[str, Mask]:
    """Faces of each yaw bin, (N,) bool by subset name, by the protocol's yaw source."""
    source = "yaw_aflw_deg" if protocol.yaw_source == "aflw" else "yaw_fitted_deg"
    return bins_of(rows[source].to_numpy())


def bins_of(yaw_deg: Array) -> dict[str, Mask]:
    """Faces with |yaw| in [0, 30], (30, 60] and above 60 degrees; a face without yaw is in no bin."""
    magnitude = np.abs(yaw_deg)
    return {
        name: (magnitude <= upper) & ((magnitude > lower) | (lower == 0)) for name, (lower, upper) in YAW_BINS.items()
    }


def balanced(bin_means: Array) -> tuple[float, float]:
    """Mean and sample standard deviation of the bin means, the "Mean" and "Std" of the published tables."""
    return float(np.mean(bin_means)), float(np.std(bin_means, ddof=1))


def _statistics(
    errors: Array, bins: Mapping[str, Mask], intervals: Mapping[str, tuple[float, float]]
) -> Iterator[tuple[str, str, float, int, int]]:
    covered = ~np.isnan(errors)
    for subset, inside in {"all": np.ones(len(errors), bool), **bins}.items():
        values = errors[covered & inside]
        n, failed = len(values), int(np.isinf(values).sum())
        if n:
            for statistic, value in _of_faces(values, intervals.get(subset)):
                yield subset, statistic, value, n, failed
    parts = [errors[covered & inside] for inside in bins.values()]
    if all(np.isfinite(part).any() for part in parts):
        n, failed = sum(map(len, parts)), int(sum(np.isinf(part).sum() for part in parts))
        mean, std = balanced(np.array([part[np.isfinite(part)].mean() for part in parts]))
        low, high = intervals.get("balanced", (np.nan, np.nan))
        for statistic, value in (("mean", mean), ("std", std), ("ci95_low", low), ("ci95_high", high)):
            yield "balanced", statistic, value, n, failed


def _of_faces(values: Array, interval: tuple[float, float] | None) -> Iterator[tuple[str, float]]:
    predicted = values[np.isfinite(values)]
    low, high = interval or (np.nan, np.nan)
    yield "mean", predicted.mean() if len(predicted) else np.nan
    yield "median", float(np.median(values))
    yield "std", predicted.std(ddof=1) if len(predicted) > 1 else np.nan
    yield "ci95_low", low
    yield "ci95_high", high
    for threshold in THRESHOLDS:
        yield f"auc_{threshold:g}", auc(values, threshold)
    for threshold in THRESHOLDS:
        yield f"failure_rate_{threshold:g}", failure_rate(values, threshold)


def protocol_intervals(
    rows: DataFrame, protocols: Mapping[str, EvalProtocol], seed: int, resamples: int
) -> dict[str, dict[str, tuple[float, float]]]:
    """Intervals by protocol and subset; columns with the same faces and bins share their draws."""
    groups: dict[tuple[bytes, str], list[str]] = {}
    for key, protocol in protocols.items():
        finite = np.isfinite(rows[key].to_numpy())
        groups.setdefault((finite.tobytes(), protocol.yaw_source), []).append(key)
    found: dict[str, dict[str, tuple[float, float]]] = {key: {} for key in protocols}
    for keys in groups.values():
        values = rows[keys].to_numpy(np.float64)
        finite = np.isfinite(values[:, 0])
        bins = [finite & inside for inside in yaw_bins(rows, protocols[keys[0]]).values()]
        for subset, (low, high) in _interval_columns(values, finite, bins, seed, resamples).items():
            for key, one_low, one_high in zip(keys, low, high, strict=True):
                found[key][subset] = (float(one_low), float(one_high))
    return found


def _interval_columns(
    values: Array, finite: Mask, bins: list[Mask], seed: int, resamples: int
) -> dict[str, tuple[Array, Array]]:
    out = {}
    if finite.sum() > 1:
        boot = resampled_means(values[finite], np.random.default_rng(seed), resamples)
        out["all"] = bca_interval([values[finite]], boot)
    rng = np.random.default_rng(seed)
    boots = [resampled_means(values[inside], rng, resamples) if inside.any() else None for inside in bins]
    for subset, inside, bin_boot in zip(YAW_BINS, bins, boots, strict=True):
        if bin_boot is not None and inside.sum() > 1:
            out[subset] = bca_interval([values[inside]], bin_boot)
    whole = [bin_boot for bin_boot in boots if bin_boot is not None]
    if len(whole) == len(bins) and finite.sum() > len(bins):
        out["balanced"] = bca_interval([values[inside] for inside in bins], sum(whole) / len(whole))
    return out
