"""Did it get less accurate? The same faces before and after; a change counts only beyond tolerance AND chance."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prnbench.cards import YAW_BINS
from prnbench.errors import InputError
from prnbench.metrics.bootstrap import RESAMPLES
from prnbench.metrics.comparison import WORSE, comparisons, holm
from prnbench.metrics.stats import yaw_bins
from prnbench.regression.verdict import PASSED, REGRESSED, Finding
from prnbench.report.run import short_name
from prnbench.table import PerSampleTable, concatenate

Array = NDArray[np.float64]

LEVEL = 0.01
"""Largest corrected p-value that counts as beyond chance: at most 1 % false alarms in a whole check."""
MOST_FACES = 5
_BEFORE, _NOW = "before: ", "now: "


def accuracy_findings(
    baseline: PerSampleTable, candidate: PerSampleTable, tolerance: float, *, resamples: int = RESAMPLES
) -> list[Finding]:
    """One finding per model, data set, protocol and subset (all faces and each yaw bin), and one for failures.

    Parameters
    ----------
    baseline, candidate
        Tables of the same models on the same faces.
    tolerance
        Largest allowed relative increase of a mean error (0.02 is 2 %).
    resamples
        Of the bootstrap.

    Returns
    -------
    list of Finding
        Regressed where the mean error (over the faces that both predicted) rose by more than the tolerance, its
        95 % interval excludes no change, and the corrected p-value is below ``LEVEL``; or where significantly more
        faces fail than before (exact McNemar test).

    Raises
    ------
    InputError
        The runs have no model and data set in common, or were made on other faces or by other protocols.
    """
    common = _common_parts(baseline, candidate)
    joined = concatenate([_marked(baseline, _BEFORE, common), _marked(candidate, _NOW, common)])
    models = list(dict.fromkeys(model for model, _ in common))
    records = comparisons(joined, [(_NOW + model, _BEFORE + model) for model in models], resamples=resamples)
    wanted = [record for record in records if record["subset"] == "all" or record["subset"] in YAW_BINS]
    corrected = holm([record["p"] for record in wanted])
    found = [_finding(record, p, tolerance, joined) for record, p in zip(wanted, corrected, strict=True)]
    return found + list(_failure_findings(joined, common))


def _common_parts(baseline: PerSampleTable, candidate: PerSampleTable) -> list[tuple[str, str]]:
    parts = [_parts(table) for table in (baseline, candidate)]
    common = [part for part in parts[1] if part in parts[0]]
    if not common:
        names = [", ".join(f"{model} on {dataset}" for model, dataset in part) for part in parts]
        raise InputError(
            f"nothing to compare: the baseline holds {names[0]}, the run {names[1]}", remedy="evaluate the same"
        )
    for model, dataset in common:
        before, now = (_ids(table, model, dataset) for table in (baseline, candidate))
        if before != now:
            apart = f"{len(before - now)} faces of the baseline are missing and {len(now - before)} are new"
            example = sorted(before ^ now)[0]
            raise InputError(
                f"{model} on {dataset}: {apart} (such as {example})", remedy="evaluate on the baseline's faces"
            )
    return common


def _parts(table: PerSampleTable) -> list[tuple[str, str]]:
    unique = table.rows[["model", "dataset"]].drop_duplicates()
    return [(str(model), str(dataset)) for model, dataset in unique.itertuples(index=False)]


def _ids(table: PerSampleTable, model: str, dataset: str) -> set[str]:
    rows = table.rows
    return set(rows.loc[(rows["model"] == model) & (rows["dataset"] == dataset), "id"])


def _marked(table: PerSampleTable, mark: str, common: list[tuple[str, str]]) -> PerSampleTable:
    """The common part of a table, its models' names marked with before or now."""
    rows = table.rows
    kept = [part in common for part in zip(rows["model"], rows["dataset"], strict=True)]
    header = dict(table.header)
    header["models"] = {mark + name: card for name, card in header.get("models", {}).items()}
    return PerSampleTable(rows[kept].assign(model=mark + rows[kept]["model"]), header)


def _finding(record: dict[str, Any], p: float, tolerance: float, table: PerSampleTable) -> Finding:
    before, now = record["other_mean"], record["mean"]
    change, low, high = (_relative(record[name], before) for name in ("difference", "ci95_low", "ci95_high"))
    worse = change > tolerance and low > 0 and p < LEVEL and record["verdict"] == WORSE
    protocol = table.protocols[record["protocol"]]
    model = str(record["model"]).removeprefix(_NOW)
    return Finding(
        kind="accuracy",
        model=model,
        dataset=record["dataset"],
        what=f"{short_name(protocol)} · {record['subset']}",
        unit=record["unit"],
        baseline=before,
        candidate=now,
        change=change,
        low=low,
        high=high,
        p=p,
        tolerance=tolerance,
        status=REGRESSED if worse else PASSED,
        detail=_where(table, record) if worse else "",
    )


def _relative(value: float | None, mean: float) -> float:
    if value is None:
        return math.nan
    return value / mean if mean > 0 else math.copysign(math.inf, value) if value else 0.0


def _where(table: PerSampleTable, record: dict[str, Any]) -> str:
    """The worst yaw bin and the faces that got worse by most."""
    before, now, rows = _both(table, record)
    with np.errstate(invalid="ignore"):
        change = np.where(
            np.isfinite(before) & np.isfinite(now), now - before, np.where(np.isinf(now), np.inf, -np.inf)
        )
    inside = yaw_bins(rows, table.protocols[record["protocol"]])
    if record["subset"] in inside:
        change = np.where(inside[record["subset"]], change, -np.inf)
    order = np.argsort(-change, kind="stable")[:MOST_FACES]
    shown = [_face(str(rows["id"].iloc[i]), before[i], now[i], record["unit"]) for i in order if change[i] > 0]
    return f"{_worst_bin(before, now, inside)}Faces that got worse by most: {', '.join(shown) or 'none'}."


def _face(name: str, before: float, now: float, unit: str) -> str:
    after = "failed" if np.isinf(now) else f"{now:.2f}"
    return f"{name} ({before:.2f} -> {after} {unit})"


def _worst_bin(before: Array, now: Array, bins: dict[str, NDArray[np.bool_]]) -> str:
    both = np.isfinite(before) & np.isfinite(now)
    changes = {
        name: float(now[both & inside].mean() / before[both & inside].mean() - 1)
        for name, inside in bins.items()
        if before[both & inside].sum() > 0
    }
    if not changes:
        return ""
    worst = max(changes, key=lambda name: changes[name])
    return f"Worst bin: {worst} ({100 * changes[worst]:+.1f} %). "


def _both(table: PerSampleTable, record: dict[str, Any]) -> tuple[Array, Array, Any]:
    rows = table.rows[table.rows["dataset"] == record["dataset"]]
    before, now = (rows[rows["model"] == record[name]].set_index("id", drop=False) for name in ("other", "model"))
    before = before.loc[now.index]
    key = record["protocol"]
    return before[key].to_numpy(np.float64), now[key].to_numpy(np.float64), now


def _failure_findings(table: PerSampleTable, common: list[tuple[str, str]]) -> Iterator[Finding]:
    rows = table.rows
    for model, dataset in common:
        parts = [rows[(rows["model"] == mark + model) & (rows["dataset"] == dataset)] for mark in (_BEFORE, _NOW)]
        before, now = (set(part.loc[part["failed"] != "", "id"]) for part in parts)
        yield failure_finding(model, dataset, before, now, len(parts[0]))


def failure_finding(model: str, dataset: str, before: set[str], now: set[str], faces: int) -> Finding:
    """Exact one-sided McNemar test of the faces that fail now and did not before against the other way round."""
    from scipy.stats import binom

    new, fixed = sorted(now - before), len(before - now)
    p = float(binom.sf(len(new) - 1, len(new) + fixed, 0.5)) if new else 1.0
    named = ", ".join(new[:MOST_FACES]) + (" ..." if len(new) > MOST_FACES else "")
    share_before, share_now = (100 * len(failed) / max(faces, 1) for failed in (before, now))
    return Finding(
        kind="failures",
        model=model,
        dataset=dataset,
        what="faces without a prediction",
        unit="%",
        baseline=share_before,
        candidate=share_now,
        change=math.nan,
        low=math.nan,
        high=math.nan,
        p=p,
        tolerance=0.0,
        status=REGRESSED if p < LEVEL else PASSED,
        detail=f"{len(new)} faces fail that did not before: {named}." if new else "",
    )
