"""False-alarm and miss rates of the check, by simulation: made-up errors and latencies through the real decisions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict

import numpy as np

from prnbench.cards import load_card
from prnbench.progress import progress
from prnbench.regression.accuracy import accuracy_findings
from prnbench.regression.latency import LOOKS, decide
from prnbench.regression.verdict import PASSED, REGRESSED, UNDECIDED, Verdict
from prnbench.table import PerSampleTable

RESAMPLES = 2000
"""Enough for a decision; the check itself takes more."""

PROTOCOLS = ("nme_2d_68-v1", "nme_3d_68_zmean-v1", "nme_2d_dense-v1")


def simulate(
    *,
    repeats: int = 200,
    faces: int = 400,
    face_noise: float = 0.05,
    nme_increase: float = 0.03,
    latency_noise: float = 0.10,
    slowdown: float = 0.15,
    max_nme_increase: float = 0.02,
    max_latency_increase: float = 0.10,
    seed: int = 0,
) -> dict[str, dict[str, float]]:
    """Rates of passed, regressed and undecided checks for an unchanged and a worsened model.

    Parameters
    ----------
    repeats
        Simulated checks of each kind.
    faces
        Faces of the test set, yaw spread evenly.
    face_noise
        Relative standard deviation, face by face, of equally good models (retrained with another seed, other
        rounding); an identical model has none and cannot fail.
    nme_increase, slowdown
        What the worsened model loses.
    latency_noise
        Standard deviation of the log of one query's time, on top of a drift that both models share and of occasional
        interruptions (one query in ten, half again as long on average).

    Returns
    -------
    dict
        ``accuracy_unchanged``, ``accuracy_worsened``, ``latency_unchanged``, ``latency_slowed`` -> rates by outcome.
    """
    rng = np.random.default_rng(seed)
    kinds = {"accuracy_unchanged": 0.0, "accuracy_worsened": nme_increase}
    rates = {}
    for name, change in kinds.items():
        outcomes = [
            _accuracy_outcome(rng, faces, face_noise, change, max_nme_increase)
            for _ in progress(range(repeats), name.replace("_", " "), unit="checks")
        ]
        rates[name] = _rates(outcomes)
    for name, change in {"latency_unchanged": 0.0, "latency_slowed": slowdown}.items():
        outcomes = [decide(_rounds(rng, latency_noise, change), max_latency_increase).status for _ in range(repeats)]
        rates[name] = _rates(outcomes)
    return rates


def _rates(outcomes: list[str]) -> dict[str, float]:
    counts = Counter(outcomes)
    return {status: counts[status] / len(outcomes) for status in (PASSED, REGRESSED, UNDECIDED)}


def _accuracy_outcome(rng: np.random.Generator, faces: int, noise: float, increase: float, tolerance: float) -> str:
    yaw = rng.uniform(-90, 90, faces)
    truth = 3.0 * rng.lognormal(0, 0.35, faces) * (1 + np.abs(yaw) / 90)
    before, now = (truth * rng.lognormal(0, noise, faces) for _ in range(2))
    tables = [_table(yaw, before), _table(yaw, now * (1 + increase))]
    return Verdict(tuple(accuracy_findings(tables[0], tables[1], tolerance, resamples=RESAMPLES)), "").status


def _table(
    yaw: np.ndarray[tuple[int], np.dtype[np.float64]], error: np.ndarray[tuple[int], np.dtype[np.float64]]
) -> PerSampleTable:
    import pandas as pd

    card = load_card("synthetic_faces")
    columns = {key: error * (1 + 0.2 * i) for i, key in enumerate(PROTOCOLS)}
    rows = {"model": "m", "dataset": "d", "id": [str(i) for i in range(len(yaw))], "failed": "", "yaw_fitted_deg": yaw}
    header = {"protocols": {key: asdict(card.protocol(key)) for key in PROTOCOLS}, "models": {}, "datasets": {}}
    return PerSampleTable.make(pd.DataFrame({**rows, **columns}), header)


def _rounds(rng: np.random.Generator, noise: float, slowdown: float) -> Iterator[tuple[float, float]]:
    drift = 0.0
    for _ in range(LOOKS[-1]):
        drift = 0.9 * drift + 0.05 * rng.normal()
        times = [
            10 * np.exp(drift + noise * rng.normal()) * (1 + (rng.random() < 0.1) * rng.exponential(0.5))
            for _ in range(2)
        ]
        yield float(times[0]), float(times[1] * (1 + slowdown))
