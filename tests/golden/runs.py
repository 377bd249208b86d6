"""Small made-up runs: tables of a few models whose errors depend on yaw, with failures, one without dense output."""

from dataclasses import asdict

import numpy as np
import pandas as pd

from prnbench.cards import load_card
from prnbench.table import PerSampleTable

KEYS = (
    "nme_2d_68-v1", "nme_3d_68_zmean-v1", "nme_3d_68_znone-v1", "nme_2d_dense-v1", "nme_2d_jaw-v1", "nme_2d_eyes-v1",
    "nme_2d_mouth-v1", "pose_mae-v1",
)  # fmt: skip
LEVELS = {"prn": 3.0, "tddfa": 3.1, "mean_face": 9.0}
NO_DENSE = "tddfa"


def made_table(levels=None, faces=60, dataset="synthetic_faces", seed=0, failures=2):
    """Table of models (name -> error level in %) on one data set; ``failures`` faces of the NO_DENSE model fail."""
    levels = LEVELS if levels is None else levels
    rng = np.random.default_rng(seed)
    yaw = np.round(rng.uniform(-90, 90, faces), 3)
    hard = rng.lognormal(0, 0.3, faces) * (1 + np.abs(yaw) / 90)
    parts = [_rows(name, level, dataset, yaw, hard, failures, rng) for name, level in levels.items()]
    return PerSampleTable.make(pd.concat(parts, ignore_index=True), _header(levels, dataset, faces))


def _rows(name, level, dataset, yaw, hard, failures, rng):
    n = len(yaw)
    failed = np.isin(np.arange(n), np.arange(failures) * 7 + 3) & (name == NO_DENSE)
    frame = pd.DataFrame(
        {
            "model": name,
            "dataset": dataset,
            "id": [f"image{i:05d}" for i in range(n)],
            "failed": np.where(failed, "the face box is empty", ""),
            "yaw_fitted_deg": yaw,
            "pitch_deg": 0.0,
            "roll_deg": 0.0,
        }
    )
    error = level / 1.5 * hard * rng.lognormal(0, 0.15, n)
    for place, key in enumerate(KEYS):
        values = np.round(error * (1 + 0.1 * place), 4)
        dense_missing = name == NO_DENSE and "dense" in key
        frame[key] = np.where(dense_missing, np.nan, np.where(failed, np.inf, values))
    return frame


def _header(levels, dataset, faces):
    card = load_card(dataset)
    return {
        "protocols": {key: asdict(card.protocol(key)) for key in KEYS},
        "models": {name: _model(name) for name in levels},
        "datasets": {
            dataset: {
                "digest": "d" * 64, "count": faces, "skipped": 1, "title": card.title, "licence": card.licence,
                "consent": card.consent, "privacy": card.privacy, "citation": card.citation, "source": card.source,
            }
        },
        "environment": {
            "prnbench": "0.1.0", "python": "3.11", "cpu": "a processor", "threads": 1, "code_digest": "c" * 64,
        },
        "command": "prnbench evaluate --model prn --model tddfa --model mean_face",
    }  # fmt: skip


def _model(name):
    learned = name != "mean_face"
    return {
        "name": name, "title": name, "paper": "Somebody, A Paper, 2018", "parameters": 13365508 if learned else 0,
        "macs": 0, "trained": True, "trained_on": "w300lp, seed 1", "licence": "MIT", "offers": ["landmarks"],
        "weights_digest": "e" * 64 if learned else None, "runtime": "eager float32", "notes": ["A made-up model."],
    }  # fmt: skip


def made_timing(models=tuple(LEVELS), scale=1.0, seed=0, noise_percent=2.0):
    """A ``timing.json`` in the shape that prnbench.timing writes."""
    rng = np.random.default_rng(seed)
    return {
        "schema_version": 1,
        "mode": "quick",
        "hardware": {"cpu": "a processor", "cores": 2, "gpus": [], "fingerprint": "f" * 16},
        "software": {"torch": "2.13", "torch_threads": 1, "device": "cpu"},
        "reference": {"median_ms": 5.0, "noise_percent": noise_percent, "runs": 50, "kernel": "4 x matmul 512 float32"},
        "models": {name: _timed(20.0 * (1 + i) * scale, rng) for i, name in enumerate(models)},
    }


def _timed(ms, rng):
    sizes = {"single_stream": (1, 80), "multi_stream": (8, 12), "offline": (16, 8)}
    return {"runtime": "eager", "scenarios": {name: _scenario(ms, *size, rng) for name, size in sizes.items()}}


def _scenario(ms, batch, queries, rng):
    whole = np.round(ms * batch * rng.lognormal(0, 0.03, queries), 4)
    shares = {"preprocess": 0.1, "forward": 0.8, "postprocess": 0.1, "end_to_end": 1.0}
    stages = {stage: {"median_ms": float(np.median(whole) * share)} for stage, share in shares.items()}
    percentiles = {"p90_ms": float(np.sort(whole)[-2])} if queries >= 64 else {}
    return {
        "batch": batch, "queries": queries, "seconds": float(whole.sum() / 1e3), "stages": stages, **percentiles,
        "faces_per_s": float(1e3 * batch * queries / whole.sum()), "latencies_ms": whole.tolist(),
    }  # fmt: skip
