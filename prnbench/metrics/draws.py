"""Balanced subsets drawn over seeds: a paper's "696 faces, equally many per yaw bin", with seeds and ids published."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from prnbench.cards import EvalProtocol
from prnbench.metrics.stats import yaw_bins

if TYPE_CHECKING:
    from pandas import DataFrame

    from prnbench.table import PerSampleTable


def balanced_draws(
    table: PerSampleTable, seeds: Sequence[int] = range(10), per_bin: int | None = None
) -> dict[str, list[dict[str, Any]]]:
    """Draw equally many faces from each yaw bin, without replacement, once per seed, and average.

    PRNet and its successors report a mean over such a subset but publish neither seed nor faces. Here both are part
    of the result, and the spread over the seeds shows what the choice of faces is worth.

    Parameters
    ----------
    table
        Per-sample table.
    seeds
        One draw each.
    per_bin
        Faces per bin; by default as many as the smallest bin holds (232 in AFLW2000-3D by AFLW's yaw: 696 faces).

    Returns
    -------
    dict
        ``draws``: ``dataset, yaw_source, seed, per_bin, ids`` (sorted within a bin, bins in order);
        ``records``: ``model, dataset, protocol, unit, seed, mean, n, failed``, mean over the faces with a prediction.
        Data sets without faces in every bin are left out.
    """
    draws: list[dict[str, Any]] = []
    records: list[dict[str, Any]] = []
    for dataset, rows in table.rows.groupby("dataset", sort=False):
        for source in ("fitted", "aflw"):
            protocols = [p for p in table.protocols.values() if p.yaw_source == source and rows[p.key].notna().any()]
            for draw in _draws(rows, protocols, seeds, per_bin):
                draws.append({"dataset": dataset, "yaw_source": source, **draw})
                records += _means(rows, protocols, draw)
    return {"draws": draws, "records": records}


def _draws(
    rows: DataFrame, protocols: Sequence[EvalProtocol], seeds: Sequence[int], per_bin: int | None
) -> list[dict[str, Any]]:
    if not protocols:
        return []
    faces = rows.drop_duplicates("id").sort_values("id", kind="stable")
    ids = faces["id"].to_numpy()
    members = [ids[inside] for inside in yaw_bins(faces, protocols[0]).values()]
    count = min(map(len, members)) if per_bin is None else per_bin
    if count < 1 or min(map(len, members)) < count:
        return []
    drawn = []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        chosen = [sorted(rng.choice(one_bin, count, replace=False).tolist()) for one_bin in members]
        drawn.append(
            {"seed": int(seed), "per_bin": int(count), "ids": [face for one_bin in chosen for face in one_bin]}
        )
    return drawn


def _means(rows: DataFrame, protocols: Sequence[EvalProtocol], draw: dict[str, Any]) -> list[dict[str, Any]]:
    inside = rows[rows["id"].isin(draw["ids"])]
    records = []
    for model, own in inside.groupby("model", sort=False):
        for protocol in protocols:
            errors = own[protocol.key].dropna().to_numpy()
            predicted = errors[np.isfinite(errors)]
            if len(predicted):
                records.append(
                    {
                        "model": model,
                        "dataset": own["dataset"].iloc[0],
                        "protocol": protocol.key,
                        "unit": protocol.unit,
                        "seed": draw["seed"],
                        "mean": float(predicted.mean()),
                        "n": len(errors),
                        "failed": len(errors) - len(predicted),
                    }
                )
    return records
