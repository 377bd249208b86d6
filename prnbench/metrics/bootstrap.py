"""BCa bootstrap confidence intervals of means, for many columns at once and stratified; seeded and deterministic."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

RESAMPLES = 10_000
_CHUNK = 1 << 21  # resampled faces held at a time: 16 MiB of indices


def resampled_means(values: ArrayLike, rng: np.random.Generator, resamples: int = RESAMPLES) -> Array:
    """Means (B, P) of ``resamples`` draws with replacement of the rows of ``values`` (N, P).

    One draw serves all columns: how often each row was drawn is counted, and the means are one matrix product.
    Indices come as ``rng.integers(0, N, (B, N))``, which is the stream of ``scipy.stats.bootstrap``.
    """
    x = np.asarray(values, np.float64)
    n = len(x)
    rows = max(1, _CHUNK // n)
    means = np.empty((resamples, x.shape[1]))
    for start in range(0, resamples, rows):
        count = min(rows, resamples - start)
        drawn = rng.integers(0, n, (count, n)) + n * np.arange(count)[:, None]
        times = np.bincount(drawn.ravel(), minlength=count * n).reshape(count, n)
        means[start : start + count] = times.astype(np.float64) @ x / n
    return means


def bca_interval(
    strata: Sequence[ArrayLike], boot: ArrayLike, weights: ArrayLike | None = None, level: float = 0.95
) -> tuple[Array, Array]:
    """Bias-corrected and accelerated interval of a weighted mean of stratum means.

    Parameters
    ----------
    strata
        One (N_k, P) array per stratum (one stratum for a plain mean).
    boot
        (B, P) resampled statistics.
    weights
        (K,) weights of the stratum means; equal by default.
    level
        Confidence level.

    Returns
    -------
    low, high
        (P,) float64; where all values of a column are equal, both are that value.

    References
    ----------
    Efron, Better Bootstrap Confidence Intervals, JASA 82 (1987); DiCiccio & Efron, Statistical Science 11 (1996).
    """
    from scipy.special import ndtr, ndtri

    data = [np.asarray(stratum, np.float64) for stratum in strata]
    w = np.full(len(data), 1.0 / len(data)) if weights is None else np.asarray(weights, np.float64)
    B = np.asarray(boot, np.float64)
    theta = sum(weight * x.mean(axis=0) for weight, x in zip(w, data, strict=True))
    third, second = np.zeros_like(theta), np.zeros_like(theta)
    for weight, x in zip(w, data, strict=True):
        influence = weight * (x - x.mean(axis=0)) / len(x)  # jackknife of a mean in closed form
        third += (influence**3).sum(axis=0)
        second += (influence**2).sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        acceleration = np.where(second > 0, third / (6.0 * second**1.5), 0.0)
    z0 = ndtri(_share_below(B, theta))
    tails = np.array([(1.0 - level) / 2.0, (1.0 + level) / 2.0])[:, None]
    z = z0 + ndtri(tails)
    with np.errstate(invalid="ignore"):
        shares = ndtr(z0 + z / (1.0 - acceleration * z))
    bounds = np.stack([_quantiles(column, share) for column, share in zip(B.T, shares.T, strict=True)], axis=1)
    flat = second <= 0
    return np.where(flat, theta, bounds[0]), np.where(flat, theta, bounds[1])


def _share_below(boot: Array, theta: Array) -> Array:
    """Share of resampled statistics below the observed one, ties half; rounding does not break ties."""
    tie = 1e-12 * np.maximum(1.0, np.abs(theta))
    below, not_above = (boot < theta - tie).mean(axis=0), (boot <= theta + tie).mean(axis=0)
    share: Array = (below + not_above) / 2.0
    return share


def _quantiles(values: Array, shares: Array) -> Array:
    if not np.isfinite(shares).all():
        return np.full(len(shares), np.nan)
    return np.quantile(values, shares)
