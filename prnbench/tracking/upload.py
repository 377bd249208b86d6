"""A run folder into a tracking store: parameters, metrics, data set, per-face table, figures and report."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prnbench.errors import OutputError
from prnbench.files import read_json, write_json
from prnbench.progress import console
from prnbench.table import PerSampleTable
from prnbench.tracking import load
from prnbench.tracking.store import EXPERIMENT, experiment_id, open_client, shown, store_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient

DEADLINE_S = 60.0
"""An upload that takes longer is given up (and can be made later)."""

MOST_FACES = 20_000
"""Longer per-face tables are not shown on MLflow's page; the Parquet file is always there."""

_TABLES = ("per_sample", "robustness")
_ARTIFACTS = ("report.html", "summary.md", "summary.json", "table.csv", "table.tex", "timing.json")


@dataclass(frozen=True, slots=True)
class Tracked:
    """Where a run was logged."""

    uri: str
    experiment_id: str
    run_id: str


def log_run(
    folder: Path, *, store: str | Path | None = None, experiment: str = EXPERIMENT, parent: str | None = None
) -> Tracked | None:
    """Log a finished run folder; a store that is down costs one warning line, never the result.

    Parameters
    ----------
    folder
        Run folder with ``per_sample.parquet`` and the written report.
    store
        See :func:`store_uri`.
    experiment
        MLflow experiment, made if missing.
    parent
        MLflow run id (of the training) to nest the run under.
    """
    try:
        return track(folder, store=store, experiment=experiment, parent=parent)
    except OutputError as error:
        later = f"prnbench track {folder}"
        console().print(
            f"warning: not logged to MLflow ({error.cause}); the result is on disk, upload it with: {later}"
        )
        return None


def track(
    folder: Path, *, store: str | Path | None = None, experiment: str = EXPERIMENT, parent: str | None = None
) -> Tracked:
    """Upload a run folder: one MLflow run, with nested runs if it holds several models or data sets.

    A run that is already in this store is not logged twice.

    Raises
    ------
    OutputError
        The store cannot be reached or did not take the run in time.
    """
    from prnbench.table import PerSampleTable

    table = PerSampleTable.read(folder)
    records = read_json(folder / "summary.json", "summary")
    uri = store_uri(folder, store)
    earlier = _already_tracked(folder, uri)
    if earlier is not None:
        return earlier
    with open_client(uri) as client:
        upload = _Upload(client, folder, table, records, time.monotonic() + DEADLINE_S)
        place = experiment_id(client, experiment, uri)
        tracked = Tracked(uri, place, upload.all(place, parent))
    write_json(folder / "tracking.json", asdict(tracked) | {"uri": shown(uri)})
    return tracked


def _already_tracked(folder: Path, uri: str) -> Tracked | None:
    path = folder / "tracking.json"
    if not path.exists():
        return None
    raw = read_json(path, "tracking record")
    if not isinstance(raw, dict) or raw.get("uri") != shown(uri) or path.stat().st_mtime < _modified(folder):
        return None
    return Tracked(uri, str(raw.get("experiment_id")), str(raw.get("run_id")))


def _modified(folder: Path) -> float:
    return max((path.stat().st_mtime for path in folder.glob("per_sample.*")), default=0.0)


@dataclass(frozen=True, slots=True)
class _Upload:
    client: MlflowClient
    folder: Path
    table: PerSampleTable
    records: list[dict[str, Any]]
    deadline: float

    def all(self, experiment_id: str, parent: str | None) -> str:
        pairs = self.table.rows[["model", "dataset"]].drop_duplicates().itertuples(index=False)
        parts = [(str(model), str(dataset)) for model, dataset in pairs]
        if len(parts) == 1:
            return self.one(experiment_id, *parts[0], parent=parent, whole=True)
        models = list(dict.fromkeys(model for model, _ in parts))
        run_id = self.start(experiment_id, f"{', '.join(models)[:200]}", parent, {"prnbench.kind": "comparison"})
        self.step(self.params, run_id, self.common_params())
        self.step(self.artifacts, run_id)
        self.step(self.load, run_id)
        for model, dataset in parts:
            self.one(experiment_id, model, dataset, parent=run_id, whole=False)
        self.client.set_terminated(run_id)
        return run_id

    def one(self, experiment_id: str, model: str, dataset: str, *, parent: str | None, whole: bool) -> str:
        """Log one model on one data set as one run."""
        run_id = self.start(experiment_id, f"{model} on {dataset}"[:250], parent, self.tags(model, dataset))
        own = {"model": model, "dataset": dataset} | _flat(self.table.header["models"].get(model, {}), "model")
        self.step(self.params, run_id, own | self.common_params())
        self.step(self.metrics, run_id, model, dataset)
        self.step(self.dataset, run_id, dataset)
        self.step(self.faces, run_id, model, dataset)
        if whole:
            self.step(self.artifacts, run_id)
            self.step(self.load, run_id)
        self.client.set_terminated(run_id)
        return run_id

    def step(self, action: Callable[..., None], *arguments: Any) -> None:
        if time.monotonic() > self.deadline:
            raise TimeoutError(f"not done within {DEADLINE_S:g} s")
        action(*arguments)

    def start(self, experiment_id: str, name: str, parent: str | None, tags: dict[str, str]) -> str:
        nested = {"mlflow.parentRunId": parent} if parent else {}
        source = {"mlflow.source.name": "prnbench evaluate", "mlflow.note.content": self.note()}
        run = self.client.create_run(experiment_id, run_name=name, tags={**tags, **nested, **source})
        return str(run.info.run_id)

    def note(self) -> str:
        path = self.folder / "summary.md"
        return path.read_text(encoding="utf-8")[:7500] if path.exists() else ""

    def tags(self, model: str, dataset: str) -> dict[str, str]:
        header = self.table.header
        digests = {
            "data": header["datasets"].get(dataset, {}).get("digest"),
            "weights": header["models"].get(model, {}).get("weights_digest"),
            "code": header["environment"].get("code_digest"),
        }
        known = {f"prnbench.digest.{name}": str(value) for name, value in digests.items() if value}
        return {"prnbench.kind": "evaluation", "prnbench.model": model, "prnbench.dataset": dataset} | known

    def common_params(self) -> dict[str, Any]:
        return {"command": self.table.header.get("command", "")} | _flat(self.table.header["environment"], "env")

    def params(self, run_id: str, values: dict[str, Any]) -> None:
        from mlflow.entities import Param

        items = [Param(_name(key), str(value)[:6000]) for key, value in values.items() if value not in (None, "")]
        for start in range(0, len(items), 100):
            self.client.log_batch(run_id, params=items[start : start + 100])

    def metrics(self, run_id: str, model: str, dataset: str) -> None:
        """One batch; infinite and missing values have no place on MLflow's charts and stay in the table."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        own = [r for r in self.records if r["model"] == model and r["dataset"] == dataset]
        values = {_name(f"{r['protocol']}/{r['subset']}/{r['statistic']}"): r["value"] for r in own}
        counts = {_name(f"{r['protocol']}/{r['subset']}/failed"): float(r["failed"]) for r in own}
        finite = {k: float(v) for k, v in (values | counts).items() if v is not None and math.isfinite(v)}
        self.batches(run_id, [Metric(key, value, now, 0) for key, value in finite.items()])

    def load(self, run_id: str) -> None:
        """The machine's load during the evaluation: MLflow's system metrics."""
        from mlflow.entities import Metric

        path = self.folder / load.FILE
        samples = read_json(path, "machine load") if path.exists() else []
        metrics = [
            Metric(name, value, int(sample["time_ms"]), step)
            for step, sample in enumerate(samples)
            for name, value in sample.items()
            if name != "time_ms"
        ]
        self.batches(run_id, metrics)

    def batches(self, run_id: str, metrics: list[Any]) -> None:
        for start in range(0, len(metrics), 1000):
            self.client.log_batch(run_id, metrics=metrics[start : start + 1000])

    def dataset(self, run_id: str, name: str) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        entry = self.table.header["datasets"].get(name, {})
        digest = str(entry.get("digest") or "unknown")[:36]
        kind, source = _source(str(entry.get("source") or name)[:60000])
        profile = json.dumps({"faces": int(entry.get("count") or 0)})
        described = Dataset(name[:500], digest, kind, source, profile=profile)
        self.client.log_inputs(run_id, [DatasetInput(described, [InputTag("mlflow.data.context", "evaluation")])])

    def faces(self, run_id: str, model: str, dataset: str) -> None:
        rows = self.table.rows
        own = rows[(rows["model"] == model) & (rows["dataset"] == dataset)].head(MOST_FACES).reset_index(drop=True)
        self.client.log_table(run_id, own.astype(object).where(own.notna(), None), "faces.json")

    def artifacts(self, run_id: str) -> None:
        present = [path for name in _ARTIFACTS if (path := self.folder / name).exists()]
        present += [path for stem in _TABLES for path in sorted(self.folder.glob(f"{stem}.*")) if path.suffix != ".png"]
        for path in present:
            self.step(self.client.log_artifact, run_id, str(path))
        if (self.folder / "figures").is_dir():
            self.step(self.client.log_artifacts, run_id, str(self.folder / "figures"), "figures")


def _source(text: str) -> tuple[str, str]:
    """MLflow's name for a kind of source, and the source as its JSON: an address, or made by code."""
    if text.startswith(("http://", "https://")):
        return "http", json.dumps({"url": text})
    return "code", json.dumps({"tags": {"mlflow.source.name": text}})


def _flat(value: dict[str, Any], prefix: str) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, item in value.items():
        nested = _flat(item, f"{prefix}.{key}") if isinstance(item, dict) else {f"{prefix}.{key}": item}
        flat |= nested
    return flat


def _name(text: str) -> str:
    """A name that MLflow takes: letters, digits and ``_-. /``, at most 250 of them."""
    allowed = "".join(c if c.isascii() and (c.isalnum() or c in "_-. /") else "_" for c in text)
    return allowed.strip("/")[:250] or "_"
