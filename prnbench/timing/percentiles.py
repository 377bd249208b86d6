"""Percentiles that may be stated: LoadGen's early-stopping estimate, which needs enough queries."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

CONFIDENCE = 0.99


def percentile_bound(latencies: ArrayLike, percentile: float, confidence: float = CONFIDENCE) -> float | None:
    """Upper bound of a latency percentile that holds with the given confidence, or None with too few queries.

    Of n queries, t may be slower than the bound, where t is the largest number (at least 1) for which t or fewer slow
    ones would be seen with probability at most 1 - confidence if the true percentile were higher. With 99 % confidence
    p90 needs 64 queries, p99 662, p99.9 6,636.

    Parameters
    ----------
    latencies
        (n,) independent latencies.
    percentile
        In per cent, 90 for p90.

    References
    ----------
    MLPerf inference, LoadGen, early stopping for single-stream and multi-stream.
    """
    ordered = np.sort(np.asarray(latencies, np.float64))
    allowed = slower_allowed(len(ordered), percentile, confidence)
    return None if allowed < 1 else float(ordered[len(ordered) - 1 - allowed])


def slower_allowed(queries: int, percentile: float, confidence: float = CONFIDENCE) -> int:
    """Number of queries that may be slower than the stated bound; below 1, none may be stated."""
    from scipy.stats import binom

    share = 1.0 - percentile / 100.0
    allowed = int(binom.ppf(1.0 - confidence, queries, share))
    while allowed >= 0 and binom.cdf(allowed, queries, share) > 1.0 - confidence:
        allowed -= 1
    return allowed


def queries_needed(percentile: float, confidence: float = CONFIDENCE) -> int:
    """Fewest queries with which a percentile may be stated."""
    low, high = 1, 2
    while slower_allowed(high, percentile, confidence) < 1:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if slower_allowed(middle, percentile, confidence) >= 1 else (middle, high)
    return high
