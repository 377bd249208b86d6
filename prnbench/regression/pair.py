"""Baseline and candidate loaded side by side, as the queries that an interleaved comparison times."""

from __future__ import annotations

from pathlib import Path

from prnbench.errors import UsageError
from prnbench.evaluation import Request, load_dataset, timed_faces
from prnbench.models import Predictor, load_model
from prnbench.regression.baseline import Stored, read_stored
from prnbench.regression.check import Calls
from prnbench.timing import next_query


def interleaved_calls(baseline_model: str, candidate_model: str, baseline: Path, run: Path) -> dict[str, Calls]:
    """Queries of the baseline's model and of the candidate's on the same built-in faces, for :func:`check`.

    Parameters
    ----------
    baseline_model, candidate_model
        As for ``--model``: a name, a weights file, or ``package.module:build``.
    baseline, run
        The folders that are compared; each must hold one model, and these weights.

    Raises
    ------
    UsageError
        A folder holds several models, or was made with other weights.
    """
    before, now = read_stored(baseline), read_stored(run)
    pair = _the_model_of(before, baseline_model), _the_model_of(now, candidate_model)
    faces = timed_faces(load_dataset("synthetic_faces", Request()))
    return {now.models[0]: (next_query(pair[0], faces), next_query(pair[1], faces))}


def _the_model_of(stored: Stored, name: str) -> Predictor:
    if len(stored.models) != 1:
        cause = f"holds {len(stored.models)} models, and {name} can stand for one only"
        raise UsageError(cause, file=stored.folder, remedy="leave out --baseline-model, or check each model apart")
    predictor = load_model(name)
    card = stored.table.header.get("models", {}).get(stored.models[0], {})
    own, wanted = predictor.card.weights_digest, card.get("weights_digest")
    if own and wanted and own != wanted:
        cause = f"was evaluated with other weights than those of {name} ({wanted[:12]}, not {own[:12]})"
        raise UsageError(cause, file=stored.folder, remedy="give the weights that it was evaluated with")
    return predictor
