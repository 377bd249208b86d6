"""Ranks that group what cannot be told apart: paired comparison of the entries' per-face tables."""

from __future__ import annotations

from collections.abc import Sequence

from prnbench.metrics.comparison import BETTER, WORSE, comparisons
from prnbench.table import PerSampleTable, concatenate

RESAMPLES = 2000
"""Enough to tell whether an interval excludes zero; boards compare many pairs."""


def ranks(tables: Sequence[PerSampleTable], protocol: str) -> list[int]:
    """Rank of each model (one a table): 1 + the number of models that are better beyond chance.

    "Better" is the verdict of :func:`prnbench.metrics.comparison.comparisons` over all faces, corrected over all pairs
    of the board. The tables are of one protocol and of the same faces.
    """
    if len(tables) < 2:
        return [1] * len(tables)
    joined = concatenate(tables)
    names = [str(table.rows["model"].iloc[0]) for table in tables]
    losses = dict.fromkeys(names, 0)
    for record in comparisons(joined, resamples=RESAMPLES):
        if record["protocol"] == protocol and record["subset"] == "all":
            losses[record["model"]] += record["verdict"] == WORSE
            losses[record["other"]] += record["verdict"] == BETTER
    return [1 + losses[name] for name in names]
