"""The check of a run against a baseline: accuracy from the tables, latency from timings or interleaved calls."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from prnbench.regression.accuracy import accuracy_findings
from prnbench.regression.baseline import Stored, read_stored
from prnbench.regression.latency import LatencyChange, interleaved, scaled
from prnbench.regression.verdict import Finding, Verdict

Calls = tuple[Callable[[], object], Callable[[], object]]
"""The query of the baseline and of the candidate, to be timed in turns."""


def check(
    run: Path | str,
    baseline: Path | str,
    *,
    max_nme_increase: float = 0.02,
    max_latency_increase: float = 0.10,
    calls: Mapping[str, Calls] | None = None,
    seconds: float = 60.0,
) -> Verdict:
    """Compare a run with a baseline; where each holds one model, the two are compared whatever they are called.

    Parameters
    ----------
    run, baseline
        Run folders, or a baseline folder (or a file in it).
    max_nme_increase
        Largest allowed relative increase of a mean error.
    max_latency_increase
        Largest allowed relative slowdown.
    calls
        Model name -> (baseline query, candidate query), where both can be run now: they are timed interleaved
        and the stored timings of that model are not used.
    seconds
        Time budget of each interleaved comparison.

    Returns
    -------
    Verdict
        With ``exit_code`` 0 passed, 1 regressed, 3 undecided.

    Raises
    ------
    InputError, TableError
        A folder cannot be used, or the runs do not compare.
    """
    now, before = read_stored(run), read_stored(baseline)
    renamed = len(now.models) == len(before.models) == 1 and now.models != before.models
    if renamed:
        names = f"The baseline is {before.models[0]}, the run {now.models[0]}."
        before = before.renamed(before.models[0], now.models[0])
    findings = accuracy_findings(before.table, now.table, max_nme_increase)
    live = {
        model: interleaved(*pair, tolerance=max_latency_increase, seconds=seconds)
        for model, pair in (calls or {}).items()
    }
    findings += [_latency_finding(model, "interleaved", change, max_latency_increase) for model, change in live.items()]
    stored, notes = _stored_latencies(before, now, max_latency_increase, set(live))
    notes = [names, *notes] if renamed else notes
    return Verdict(tuple(findings + stored), str(before.folder), before.reason, tuple(notes))


def _stored_latencies(before: Stored, now: Stored, tolerance: float, done: set[str]) -> tuple[list[Finding], list[str]]:
    if before.timing is None or now.timing is None:
        which = "baseline" if before.timing is None else "run"
        return [], [] if done else [f"Latency was not compared: the {which} holds no timings."]
    reason = _why_not_comparable(before.timing, now.timing)
    if reason:
        return [], [] if done else [f"Latency was not compared: {reason}."]
    names = [
        name for name in now.timing.get("models", {}) if name in before.timing.get("models", {}) and name not in done
    ]
    found = [_scaled_finding(name, before.timing, now.timing, tolerance) for name in names]
    return [finding for finding in found if finding], []


def _why_not_comparable(before: dict[str, Any], now: dict[str, Any]) -> str:
    """Why two timings cannot be compared, or "": other hardware, other threads or device."""
    hardware = [timing.get("hardware", {}) for timing in (before, now)]
    if hardware[0].get("fingerprint") != hardware[1].get("fingerprint"):
        return f"the baseline was timed on other hardware ({hardware[0].get('cpu')}, {hardware[0].get('cores')} cores)"
    for name in ("torch_threads", "device"):
        values = [timing.get("software", {}).get(name) for timing in (before, now)]
        if values[0] != values[1]:
            return f"{name.replace('_', ' ')} was {values[0]} for the baseline and is {values[1]} now"
    return ""


def _scaled_finding(model: str, before: dict[str, Any], now: dict[str, Any], tolerance: float) -> Finding | None:
    streams = [timing["models"][model].get("scenarios", {}).get("single_stream") for timing in (before, now)]
    if not all(streams):
        return None
    medians = [float(stream["stages"]["end_to_end"]["median_ms"]) for stream in streams]
    references = [float(timing["reference"]["median_ms"]) for timing in (before, now)]
    change = scaled((medians[0], medians[1]), (references[0], references[1]), _noise(streams, (before, now)), tolerance)
    return _latency_finding(model, "scaled by the reference kernel", change, tolerance)


def _noise(streams: list[dict[str, Any]], timings: tuple[dict[str, Any], dict[str, Any]]) -> float:
    """Relative standard error of the scaled change.

    Of each run: the standard error of its median latency, and the machine's repeatability as the reference kernel
    shows it, which is not divided by the number of runs, since it drifts over the run rather than averaging out.
    """
    medians = [_median_error(np.asarray(stream["latencies_ms"], np.float64)) for stream in streams]
    machine = [float(timing["reference"]["noise_percent"]) / 100 for timing in timings]
    return math.sqrt(sum(value**2 for value in (*medians, *machine)))


def _median_error(latencies_ms: Any) -> float:
    """Relative standard error of a median: 1.2533 robust standard deviations over the root of n."""
    middle = float(np.median(latencies_ms))
    spread = 1.4826 * float(np.median(np.abs(latencies_ms - middle)))
    return 1.2533 * spread / math.sqrt(len(latencies_ms)) / middle


def _latency_finding(model: str, how: str, change: LatencyChange, tolerance: float) -> Finding:
    return Finding(
        kind="latency",
        model=model,
        dataset="",
        what=f"latency of one face, {how}",
        unit="ms",
        baseline=change.baseline_ms,
        candidate=change.candidate_ms,
        change=change.change,
        low=change.low,
        high=change.high,
        p=math.nan,
        tolerance=tolerance,
        status=change.status,
        detail=change.detail,
    )
