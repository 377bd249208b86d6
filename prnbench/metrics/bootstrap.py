"""BCa bootstrap confidence intervals of means, for many columns at once and stratified; seeded and deterministic."""

from __future__ import annotations

from collections.abc import Sequence

import numba
import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

RESAMPLES = 10_000
_CHUNK = 1 << 21  # resampled faces held at a time: 16 MiB of indices


def resampled_means(values: ArrayLike, rng: np.random.Generator, resamples: int = RESAMPLES) -> Array:
    """Means (B, P) of ``resamples`` draws with replacement of the rows of ``values`` (N, P).

    One draw serves all columns. Indices are ``rng.integers(0, N, (B, N))``, the stream of ``scipy.stats.bootstrap``.
    """
    x = np.ascontiguousarray(values, np.float64)
    n = len(x)
    rows = max(1, _CHUNK // n)
    means = np.empty((resamples, x.shape[1]))
    for start in range(0, resamples, rows):
        count = min(rows, resamples - start)
        means[start : start + count] = _sums(rng.integers(0, n, (count, n)), x) / n
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


@numba.njit(cache=True, nogil=True)
def _sums(drawn, x):  # type: ignore[no-untyped-def]
    sums = np.zeros((len(drawn), x.shape[1]))
    for b in range(len(drawn)):
        for i in range(drawn.shape[1]):
            row = drawn[b, i]
            for column in range(x.shape[1]):
                sums[b, column] += x[row, column]
    return sums


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
