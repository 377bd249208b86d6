"""Is one model better than another? Paired on the same faces: interval, Wilcoxon with Holm, effect size, verdict."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from prnbench.cards import EvalProtocol
from prnbench.metrics.bootstrap import RESAMPLES
from prnbench.metrics.stats import SEED, protocol_intervals, yaw_bins

if TYPE_CHECKING:
    from pandas import DataFrame

    from prnbench.table import PerSampleTable

Array = NDArray[np.float64]

BETTER, WORSE, SAME = "better", "worse", "not distinguishable"
LEVEL = 0.05


def comparisons(
    table: PerSampleTable,
    pairs: Iterable[tuple[str, str]] | None = None,
    *,
    seed: int = SEED,
    resamples: int = RESAMPLES,
) -> list[dict[str, Any]]:
    """Compare models pairwise under every protocol that both offer, on the faces that both were given.

    Parameters
    ----------
    table
        Per-sample table with at least two models.
    pairs
        (model, other) names; by default every two models once, in the table's order.

    Returns
    -------
    list of dict
        ``model, other, dataset, protocol, metric, unit, subset``; ``n`` common faces, ``failed`` and ``other_failed``
        among them; ``mean`` and ``other_mean`` over the faces that both predicted, ``difference`` = mean - other_mean
        with its 95 % BCa interval ``ci95_low, ci95_high`` from resampling faces; ``effect_size``, the matched-pairs
        rank-biserial correlation (-1: the model is better on every face); ``p``, Wilcoxon's signed-rank test with a
        failed face as infinitely wrong; ``p_holm``, corrected over all records returned; ``verdict`` on ``model``.

        ``better`` needs p_holm below 5 % and an interval below 0 (with fewer failures than the other, one that is not
        above 0); ``worse`` the mirror image; everything else is ``not distinguishable``. ``balanced`` compares the
        means of the three bin means, with a signed-rank test that ranks within the bins. An interval that is not
        known (of one face) is None.
    """
    names = list(dict.fromkeys(table.rows["model"]))
    records = [
        record
        for model, other in (combinations(names, 2) if pairs is None else pairs)
        for record in _pair(table, model, other, seed, resamples)
    ]
    for record, corrected in zip(records, holm([record["p"] for record in records]), strict=True):
        record["p_holm"] = corrected
        record["verdict"] = _verdict(record)
    return records


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction: p-values that hold for all tests together (Holm, Scand. J. Statist. 6, 1979)."""
    p = np.asarray(p_values, np.float64)
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(stepped, 1.0)
    return [float(value) for value in corrected]


def signed_rank(strata: Sequence[ArrayLike]) -> tuple[float, float]:
    """Wilcoxon's signed-rank test of paired differences, ranked within strata; normal approximation.

    Parameters
    ----------
    strata
        Differences (N_k,) of each stratum; +-inf is larger than any number, zeros are left out. One stratum is the
        ordinary test; several are weighted by 1 / (N_k + 1), so that a large one does not drown a small one (after van
        Elteren 1960).

    Returns
    -------
    p
        Two-sided p-value; 1 without any non-zero difference.
    effect
        Matched-pairs rank-biserial correlation in [-1, 1]: share of rank weight of positive minus negative differences.
    """
    from scipy.stats import norm, rankdata

    signed = variance = total = 0.0
    for differences in strata:
        d = np.asarray(differences, np.float64)
        d = d[d != 0]
        if len(d) == 0:
            continue
        ranks = rankdata(np.abs(d)) / (len(d) + 1)
        signed += float((np.sign(d) * ranks).sum())
        variance += float((ranks**2).sum())
        total += float(ranks.sum())
    if variance == 0:
        return 1.0, 0.0
    return float(2 * norm.sf(abs(signed) / variance**0.5)), signed / total


def _pair(table: PerSampleTable, model: str, other: str, seed: int, resamples: int) -> Iterator[dict[str, Any]]:
    for dataset in dict.fromkeys(table.rows["dataset"]):
        first, second = _common(table, dataset, model, other)
        offered = {
            key: protocol
            for key, protocol in table.protocols.items()
            if (first[key].notna() & second[key].notna()).any()
        }
        differences = _differences(first, second, offered)
        intervals = protocol_intervals(differences, offered, seed, resamples)
        for key, protocol in offered.items():
            head = {"model": model, "other": other, "dataset": dataset, "protocol": key}
            head |= {"metric": protocol.metric, "unit": protocol.unit}
            for record in _subsets(first[key].to_numpy(), second[key].to_numpy(), yaw_bins(first, protocol)):
                low, high = intervals[key].get(record["subset"], (np.nan, np.nan))
                known = bool(np.isfinite([low, high]).all())
                yield head | record | {"ci95_low": low if known else None, "ci95_high": high if known else None}


def _common(table: PerSampleTable, dataset: str, model: str, other: str) -> tuple[DataFrame, DataFrame]:
    rows = table.rows[table.rows["dataset"] == dataset]
    first, second = (rows[rows["model"] == name].set_index("id") for name in (model, other))
    ids = first.index.intersection(second.index)
    return first.loc[ids], second.loc[ids]


def _differences(first: DataFrame, second: DataFrame, protocols: dict[str, EvalProtocol]) -> DataFrame:
    """Rows with the finite differences of each protocol; NaN where one of the two has no prediction."""
    out = first.copy()
    for key in protocols:
        a, b = first[key].to_numpy(), second[key].to_numpy()
        with np.errstate(invalid="ignore"):
            out[key] = np.where(np.isfinite(a) & np.isfinite(b), a - b, np.nan)
    return out


def _subsets(a: Array, b: Array, bins: dict[str, NDArray[np.bool_]]) -> Iterator[dict[str, Any]]:
    common = ~np.isnan(a) & ~np.isnan(b)
    for subset, inside in {"all": common, **{name: common & inside for name, inside in bins.items()}}.items():
        if (np.isfinite(a) & np.isfinite(b) & inside).any():
            yield _record(subset, [(a[inside], b[inside])])
    strata = [(a[common & inside], b[common & inside]) for inside in bins.values()]
    if all((np.isfinite(x) & np.isfinite(y)).any() for x, y in strata):
        yield _record("balanced", strata)


def _record(subset: str, strata: list[tuple[Array, Array]]) -> dict[str, Any]:
    means = np.array([[column[np.isfinite(x) & np.isfinite(y)].mean() for column in (x, y)] for x, y in strata])
    mean, other_mean = (float(value) for value in means.mean(axis=0))
    p, effect = signed_rank([_ranked_differences(x, y) for x, y in strata])
    return {
        "subset": subset,
        "n": sum(len(x) for x, _ in strata),
        "failed": int(sum(np.isinf(x).sum() for x, _ in strata)),
        "other_failed": int(sum(np.isinf(y).sum() for _, y in strata)),
        "mean": mean,
        "other_mean": other_mean,
        "difference": mean - other_mean,
        "effect_size": effect,
        "p": p,
    }


def _ranked_differences(a: Array, b: Array) -> Array:
    """Differences with a failed face as infinitely wrong; failing both is a tie."""
    both = np.isinf(a) & np.isinf(b)
    return np.where(both, 0.0, np.where(both, 0.0, a) - np.where(both, 0.0, b))


def _verdict(record: dict[str, Any]) -> str:
    low, high = record["ci95_low"], record["ci95_high"]
    if record["p_holm"] >= LEVEL or low is None or high is None:
        return SAME
    fewer = record["failed"] < record["other_failed"]
    more = record["failed"] > record["other_failed"]
    if record["effect_size"] < 0 and (high < 0 or (fewer and low <= 0)):
        return BETTER
    if record["effect_size"] > 0 and (low > 0 or (more and high >= 0)):
        return WORSE
    return SAME
