"""Did it get slower? Interleaved runs decided by a sequential test, and stored timings scaled by a reference kernel.

Interleaved, each round times baseline and candidate next to each other (in changing order), so that what the machine
does otherwise hits both: the change is the median of the rounds' log ratios, with the distribution-free interval of a
median from order statistics. A slowdown counts only if it is larger than the tolerance AND the interval excludes none.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from prnbench.regression.verdict import PASSED, REGRESSED, UNDECIDED

Array = NDArray[np.float64]

LEVEL = 0.998
"""Confidence of one look; there are several looks, so it is stricter than the 1 % that are allowed in all."""
BLOCK_MS = 25.0
"""Shorter calls are timed in blocks of about this length, so that the scheduler's time slices do not round them."""
EXCLUDED = 1.5
"""To pass, an interval excludes a slowdown of so many times the tolerance (15 % where 10 % are allowed)."""
LOOKS = (24, 48, 96, 192, 384, 768)
"""Rounds after which the interval is looked at."""


@dataclass(frozen=True, slots=True)
class LatencyChange:
    """Median times, relative change with its interval, and the outcome."""

    baseline_ms: float
    candidate_ms: float
    change: float
    low: float
    high: float
    rounds: int
    status: str
    detail: str = ""


def interleaved(
    baseline: Callable[[], object],
    candidate: Callable[[], object],
    *,
    tolerance: float = 0.10,
    seconds: float = 60.0,
    warm_up: int = 3,
) -> LatencyChange:
    """Time two calls round by round until the change is decided or the time is up.

    Parameters
    ----------
    baseline, candidate
        The work of one query each, the device synchronised at their end.
    tolerance
        Largest allowed relative slowdown (0.10 is 10 %).
    seconds
        Time budget; at its end an interval that is still too wide is "undecided".
    warm_up
        Calls of each before the first round, not counted.
    """
    warm = [max(_timed_ms(baseline), _timed_ms(candidate)) for _ in range(max(warm_up, 1))]
    block = max(1, math.ceil(BLOCK_MS / min(warm)))
    return decide(_rounds(baseline, candidate, block, seconds), tolerance)


def _rounds(
    baseline: Callable[[], object], candidate: Callable[[], object], block: int, seconds: float
) -> Iterator[tuple[float, float]]:
    end = time.monotonic() + seconds
    swapped = False
    while time.monotonic() < end:
        first, second = (candidate, baseline) if swapped else (baseline, candidate)
        times = _timed_ms(first, block), _timed_ms(second, block)
        yield (times[1], times[0]) if swapped else times
        swapped = not swapped


def _timed_ms(call: Callable[[], object], block: int = 1) -> float:
    start = time.perf_counter_ns()
    for _ in range(block):
        call()
    return (time.perf_counter_ns() - start) / 1e6 / block


def decide(rounds: Iterator[tuple[float, float]], tolerance: float) -> LatencyChange:
    """Take rounds (baseline ms, candidate ms) until the change is decided, or they end.

    Decided means: the interval lies wholly above or wholly below the tolerance. At the end of the rounds the rule is
    factor AND test: regressed if the median change exceeds the tolerance and the interval excludes no change; passed
    if the median does not exceed it and the interval excludes ``EXCLUDED`` times the tolerance; else undecided.
    """
    pairs: list[tuple[float, float]] = []
    for pair in rounds:
        pairs.append(pair)
        if len(pairs) in LOOKS:
            found = _judged(pairs, tolerance, last=len(pairs) == LOOKS[-1])
            if found.status != UNDECIDED or len(pairs) == LOOKS[-1]:
                return found
    return _judged(pairs, tolerance, last=True)


def _judged(pairs: list[tuple[float, float]], tolerance: float, *, last: bool) -> LatencyChange:
    if len(pairs) < LOOKS[0]:
        nan = math.nan
        return LatencyChange(
            nan, nan, nan, nan, nan, len(pairs), UNDECIDED, f"only {len(pairs)} rounds in the time given"
        )
    times = np.array(pairs, np.float64)
    ratios = np.log(times[:, 1] / times[:, 0])
    middle = float(np.median(ratios))
    low, high = median_interval(ratios)
    limit = math.log1p(tolerance)
    status, detail = UNDECIDED, ""
    if low > limit or (last and middle > limit and low > 0):
        status = REGRESSED
    elif high < limit or (last and middle <= limit and high <= EXCLUDED * limit):
        status = PASSED
    elif last:
        bounds = f"{math.expm1(low):+.1%} and {math.expm1(high):+.1%}"
        detail = f"machine too noisy: after {len(pairs)} rounds the change lies between {bounds}"
    before, after = np.median(times, axis=0)
    change, least, most = (math.expm1(value) for value in (middle, low, high))
    return LatencyChange(float(before), float(after), change, least, most, len(pairs), status, detail)


def median_interval(values: ArrayLike, level: float = LEVEL) -> tuple[float, float]:
    """Distribution-free interval of the median from order statistics (the sign test turned round).

    Infinite where there are too few values for the level. Reference: Conover, Practical Nonparametric Statistics, 3.2.
    """
    from scipy.stats import binom

    ordered = np.sort(np.asarray(values, np.float64))
    n = len(ordered)
    rank = int(binom.ppf((1 - level) / 2, n, 0.5))
    if rank < 1 or 2 * binom.cdf(rank - 1, n, 0.5) > 1 - level:
        return -math.inf, math.inf
    return float(ordered[rank - 1]), float(ordered[n - rank])


def scaled(
    latency_ms: tuple[float, float], reference_ms: tuple[float, float], noise: float, tolerance: float
) -> LatencyChange:
    """Compare two stored timings of different runs as ratios to the reference kernel of each run.

    Parameters
    ----------
    latency_ms
        Typical latency of the baseline and of the candidate.
    reference_ms
        The same fixed kernel, timed in each of the two runs.
    noise
        Relative standard error of the quotient of quotients; the interval is three of them to either side.
    tolerance
        Largest allowed relative slowdown.
    """
    middle = math.log(latency_ms[1] / latency_ms[0]) - math.log(reference_ms[1] / reference_ms[0])
    half = 3.0 * noise
    low, high, limit = middle - half, middle + half, math.log1p(tolerance)
    status, detail = UNDECIDED, ""
    if middle > limit and low > 0:
        status = REGRESSED
    elif middle <= limit and high <= EXCLUDED * limit:
        status = PASSED
    else:
        detail = f"machine too noisy: the two runs can be told apart to {math.expm1(half):.0%} only"
    change, least, most = (math.expm1(value) for value in (middle, low, high))
    adjusted = latency_ms[0] * reference_ms[1] / reference_ms[0]
    return LatencyChange(adjusted, latency_ms[1], change, least, most, 1, status, detail)
