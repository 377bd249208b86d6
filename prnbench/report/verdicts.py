"""Which differences between models are more than chance: the paired comparison of a run, in words."""

from __future__ import annotations

from typing import Any

from prnbench.metrics.comparison import BETTER, SAME, WORSE
from prnbench.report.run import Run, headline_protocols, short_name
from prnbench.report.tables import number

COMPARISON_NOTE = (
    "Compared on the same faces: difference of means with its 95 % bootstrap interval; Wilcoxon's signed-rank test "
    "with a failed face as infinitely wrong, p-values corrected (Holm) for all comparisons of this report. "
    "pp: percentage points. “Not distinguishable” is not “equal”."
)
MOST_PAIRS = 10
_OPPOSITE = {BETTER: WORSE, WORSE: BETTER, SAME: SAME}


def verdict_of(run: Run, dataset: str, model: str, protocol: str) -> dict[str, str] | None:
    """How a model stands against the best one; None where it is alone."""
    if model in run.ceilings:
        return {"kind": "", "text": "ceiling: fitted to the truth"}
    rivals = _rivals(run, dataset, protocol)
    if len(rivals) < 2:
        return None
    best = best_model(run, dataset, protocol)
    if model == best:
        tied = [rival for rival in rivals if rival != best and _between(run, dataset, protocol, rival, best) == SAME]
        if tied:
            return {"kind": "tied", "text": f"lowest, not distinguishable from {_names(tied)}"}
        return {"kind": "best", "text": "best"}
    verdict = _between(run, dataset, protocol, model, best)
    if verdict == SAME:
        return {"kind": "tied", "text": f"not distinguishable from {best}"}
    return {"kind": "worse" if verdict == WORSE else "best", "text": f"{verdict} than {best}"}


def _rivals(run: Run, dataset: str, protocol: str) -> list[str]:
    return [model for model in run.offered(dataset)[protocol] if model not in run.ceilings]


def _names(models: list[str]) -> str:
    return ", ".join(models) if len(models) <= 2 else f"{models[0]} and {len(models) - 1} others"


def best_model(run: Run, dataset: str, protocol: str) -> str:
    """The model with the smallest mean over all faces, ceilings left out."""
    return min(
        _rivals(run, dataset, protocol),
        key=lambda model: (_nan_last(run.value(model, dataset, protocol, "all", "mean")), run.models.index(model)),
    )


def _nan_last(value: float) -> float:
    return value if value == value else float("inf")


def _between(run: Run, dataset: str, protocol: str, model: str, other: str) -> str:
    record = comparison(run, dataset, protocol, model, other)
    return SAME if record is None else str(record["verdict"])


def comparison(run: Run, dataset: str, protocol: str, model: str, other: str) -> dict[str, Any] | None:
    """The record of metrics.comparison over all faces, turned so that it speaks of ``model``."""
    if (record := run.compared.get((dataset, protocol, model, other))) is not None:
        return record
    record = run.compared.get((dataset, protocol, other, model))
    return None if record is None else _turned(record)


def _turned(record: dict[str, Any]) -> dict[str, Any]:
    """The same comparison seen from the other model."""
    low, high = record["ci95_low"], record["ci95_high"]
    return record | {
        "model": record["other"],
        "other": record["model"],
        "mean": record["other_mean"],
        "other_mean": record["mean"],
        "failed": record["other_failed"],
        "other_failed": record["failed"],
        "difference": -record["difference"],
        "ci95_low": None if high is None else -high,
        "ci95_high": None if low is None else -low,
        "effect_size": -record["effect_size"],
        "verdict": _OPPOSITE[record["verdict"]],
    }


def comparisons(run: Run, dataset: str) -> list[dict[str, Any]]:
    """Rows of the page's table: every two models of a headline protocol, or each against the best if they are many."""
    rows = []
    for protocol in headline_protocols(run, dataset):
        for model, other in _pairs(run, dataset, protocol):
            record = comparison(run, dataset, protocol, model, other)
            if record is not None:
                rows.append(comparison_row(run, record))
    return rows


def _pairs(run: Run, dataset: str, protocol: str) -> list[tuple[str, str]]:
    models = _rivals(run, dataset, protocol)
    pairs = [(model, other) for i, model in enumerate(models) for other in models[i + 1 :]]
    if len(pairs) <= MOST_PAIRS:
        return pairs
    best = best_model(run, dataset, protocol)
    return [(model, best) for model in models if model != best]


def comparison_row(run: Run, record: dict[str, Any]) -> dict[str, Any]:
    """A comparison as the pages show it."""
    low, high = record["ci95_low"], record["ci95_high"]
    kinds = {BETTER: "best", WORSE: "worse", SAME: "tied"}
    between = f"{record['model']} and {record['other']} are {SAME}"
    sentence = (
        between if record["verdict"] == SAME else f"{record['model']} is {record['verdict']} than {record['other']}"
    )
    return {
        "protocol": short_name(run.protocols[record["protocol"]]),
        "models": f"{record['model']} − {record['other']}",
        "difference": signed(record["difference"], difference_unit(record["unit"])),
        "interval": "" if low is None or high is None else f"[{signed(low)}, {signed(high)}]",
        "p": "< 0.0001" if record["p_holm"] < 1e-4 else f"{record['p_holm']:.4f}",
        "kind": kinds[record["verdict"]],
        "verdict": sentence,
        "short": record["verdict"],
    }


def difference_unit(unit: str) -> str:
    """Unit of a difference: percentage points of percentages, so that it is not taken for a relative change."""
    return "pp" if unit == "%" else unit


def signed(value: float, unit: str = "") -> str:
    """A difference with its sign."""
    return f"+{number(value, unit)}" if value > 0 else number(value, unit)
