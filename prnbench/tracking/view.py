"""Columns and charts of the experiment's page: a view that MLflow's pages load from a tag of the experiment."""

from __future__ import annotations

import json
from typing import Any

KEY = "prnbench"
TAG = f"mlflow.sharedViewState.{KEY}"

METRICS = {
    "nme_2d_68-v1": "NME, 68 points in 2D",
    "nme_3d_68_zmean-v1": "NME, 68 points in 3D",
    "nme_2d_dense-v1": "NME, dense 2D",
    "reconstruction_aflw-v1": "shape error",
}
"""Headline protocols; those that a run does not have stay empty."""

SUBSETS = {"balanced": "mean of the yaw bins", "all": "all faces", "yaw_60_90": "yaw over 60 degrees"}
_SECTION = "prnbench-accuracy"


def address(base: str, experiment_id: str) -> str:
    """Page of an experiment's runs with this view."""
    return f"{base}/#/experiments/{experiment_id}/runs?viewStateShareKey={KEY}"


def state() -> str:
    """The view as MLflow's pages read it (``ExperimentPageUIState`` in its sources)."""
    keys = {f"{protocol}/{subset}/mean": (protocol, subset) for protocol in METRICS for subset in SUBSETS}
    shown = [key for key, (protocol, subset) in keys.items() if subset != "all" or protocol == "nme_2d_68-v1"]
    params = ["params.`model`", "params.`dataset`"]
    columns = [*params, *(f"metrics.`{key}`" for key in shown)]
    charts = [_bars(key, METRICS[protocol], SUBSETS[subset]) for key, (protocol, subset) in keys.items()]
    section = {"uuid": _SECTION, "name": "Mean error, smaller is better", "display": True, "isReordered": True}
    view: dict[str, Any] = {
        "selectedColumns": columns,
        "orderByKey": f"metrics.`{next(iter(METRICS))}/balanced/mean`",
        "orderByAsc": True,
        "compareRunCharts": charts,
        "compareRunSections": [section],
    }
    return json.dumps(view)


def _bars(key: str, what: str, where: str) -> dict[str, Any]:
    return {
        "uuid": key,
        "type": "BAR",
        "metricKey": key,
        "metricSectionId": _SECTION,
        "runsCountToCompare": 20,
        "deleted": False,
        "isGenerated": False,
        "displayName": f"{what}: {where}",
    }
