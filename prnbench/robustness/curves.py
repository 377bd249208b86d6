"""What a robustness table says: error curves, corruption errors with intervals, steadiness. Pure functions of it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from prnbench.metrics.bootstrap import bca_interval, resampled_means
from prnbench.robustness.suite import CLEAN, SEVERITIES, STEADINESS, Suite
from prnbench.robustness.table import RobustnessTable

Array = NDArray[np.float64]

MEAN = "mean"
"""Name of the average over all corruptions."""

SEED, RESAMPLES = 0, 2000


def curves(table: RobustnessTable) -> list[dict[str, Any]]:
    """Records ``model, dataset, protocol, unit, corruption, severity, level, value, relative, n, failed``.

    ``value`` is the mean error of the faces that have a prediction both clean and here, ``relative`` that over the
    clean mean of the same faces; severity 0 is the clean picture. ``n`` counts all faces, ``failed`` those without a
    prediction.
    """
    records = []
    for place, suite, grid in _grids(table):
        for c, corruption in enumerate(suite.corruptions):
            for severity in range(SEVERITIES + 1):
                errors = grid[:, 0] if severity == 0 else grid[:, 1 + c * SEVERITIES + severity - 1]
                value, relative = _relative(errors, grid[:, 0])
                if np.isfinite(value):
                    records.append(
                        {
                            **place,
                            "corruption": corruption.id,
                            "severity": severity,
                            "level": None if severity == 0 else corruption.levels[severity - 1],
                            "value": value,
                            "relative": relative,
                            "n": len(errors),
                            "failed": int(np.isinf(errors).sum()),
                        }
                    )
    return records


def corruption_errors(table: RobustnessTable) -> list[dict[str, Any]]:
    """Records ``model, dataset, protocol, corruption, value, low, high, n, failed``; the last corruption is ``mean``.

    ``value`` is the mean over the severities of (mean error / clean mean error), ``mean`` that over all corruptions;
    ``low`` and ``high`` bound its 95 % bootstrap interval (percentile, faces drawn with all their conditions), None
    where no two faces have a prediction everywhere. ``value`` is None where a severity left no face with a prediction:
    failing is no way to a small error. ``failed`` counts face and severity pairs without a prediction.
    """
    records = []
    for place, suite, grid in _grids(table):
        ratios = np.array([_relative(column, grid[:, 0])[1] for column in grid[:, 1:].T])
        bounds = _intervals(grid, len(suite.corruptions))
        lost = np.isinf(grid[:, 1:]).sum(axis=0).reshape(-1, SEVERITIES).sum(axis=1)
        values = ratios.reshape(-1, SEVERITIES).mean(axis=1)
        for i, name in enumerate([*(corruption.id for corruption in suite.corruptions), MEAN]):
            value = values.mean() if name == MEAN else values[i]
            low, high = (None, None) if bounds is None else (float(bounds[0][i]), float(bounds[1][i]))
            counts = {"n": len(grid), "failed": int(lost.sum() if name == MEAN else lost[i])}
            known = float(value) if np.isfinite(value) else None
            records.append({**place, "corruption": name, "value": known, "low": low, "high": high, **counts})
    return records


def steadiness(table: RobustnessTable) -> list[dict[str, Any]]:
    """Records ``model, dataset, key, unit, value, low, high, n, failed``: mean jitter with its 95 % BCa interval."""
    card = table.suite.steadiness
    rows = table.rows[table.rows["corruption"] == STEADINESS]
    records = []
    for (model, dataset), part in rows.groupby(["model", "dataset"], sort=False):
        values = part[card.key].dropna().to_numpy()
        known = values[np.isfinite(values)]
        if len(known):
            low, high = None, None
            if len(known) > 1:
                boot = resampled_means(known[:, None], np.random.default_rng(SEED), RESAMPLES)
                low, high = (float(bound[0]) for bound in bca_interval([known[:, None]], boot))
            place = {"model": str(model), "dataset": str(dataset), "key": card.key, "unit": card.unit}
            counts = {"n": len(values), "failed": len(values) - len(known)}
            records.append({**place, "value": float(known.mean()), "low": low, "high": high, **counts})
    return records


def _grids(table: RobustnessTable) -> list[tuple[dict[str, Any], Suite, Array]]:
    """Errors (faces, 1 + corruptions x severities), the clean column first, by model, data set and protocol."""
    suite = table.suite
    columns = [(CLEAN, 0)] + [(c.id, s) for c in suite.corruptions for s in range(1, SEVERITIES + 1)]
    rows = table.rows[table.rows["corruption"] != STEADINESS]
    grids = []
    for (model, dataset), part in rows.groupby(["model", "dataset"], sort=False):
        for key, protocol in table.protocols.items():
            wide = part.pivot(index="id", columns=["corruption", "severity"], values=key)[columns]
            if wide.notna().any(axis=None):
                place = {"model": str(model), "dataset": str(dataset), "protocol": key, "unit": protocol.unit}
                grids.append((place, suite, wide.to_numpy(np.float64)))
    return grids


def _relative(errors: Array, clean: Array) -> tuple[float, float]:
    """Mean error, and mean error over clean mean error, of the faces that have both."""
    both = np.isfinite(errors) & np.isfinite(clean)
    if not both.any() or clean[both].mean() == 0:
        return np.nan, np.nan
    value = float(errors[both].mean())
    return value, value / float(clean[both].mean())


def _intervals(grid: Array, corruptions: int) -> tuple[Array, Array] | None:
    whole = grid[np.isfinite(grid).all(axis=1)]
    if len(whole) < 2:
        return None
    means = resampled_means(whole, np.random.default_rng(SEED), RESAMPLES)
    ratios = (means[:, 1:] / means[:, :1]).reshape(len(means), corruptions, SEVERITIES).mean(axis=2)
    every = np.concatenate([ratios, ratios.mean(axis=1, keepdims=True)], axis=1)
    low, high = np.quantile(every, [0.025, 0.975], axis=0)
    return low, high
