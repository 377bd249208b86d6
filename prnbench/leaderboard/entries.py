"""Entries of the boards: made from a run and stored with their per-face table.

::

    leaderboards/<data set>/<protocol key>/<model>.json       header of the table, and "entry": values, digests, date
    leaderboards/<data set>/<protocol key>/<model>.parquet    the per-face table of this one protocol

The JSON is the header of the table beside it, so that the two are read by ``PerSampleTable.read`` like any other.
"""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from prnbench.cards import dataset_names
from prnbench.errors import InputError, UsageError
from prnbench.files import digest_of, make_folder, read_json, replacing, sha256_of, write_json
from prnbench.metrics.stats import summary
from prnbench.report.figures import file_stem
from prnbench.report.run import Run, is_region, read_run
from prnbench.table import PerSampleTable

DIGITS = 6
KEPT = ("mean", "ci95_low", "ci95_high", "median", "std", "auc_8", "auc_10", "failure_rate_8", "failure_rate_10")

Values = dict[str, dict[str, float]]


@dataclass(frozen=True)
class Entry:
    """One model on one board.

    Attributes
    ----------
    path
        The JSON file; the table lies beside it.
    header
        Header of the table.
    facts
        The ``entry`` of the header: ``model, dataset, protocol, date, values, digests, trained_on, ...``.
    """

    path: Path
    header: dict[str, Any]
    facts: dict[str, Any]

    @property
    def model(self) -> str:
        """Name of the model."""
        return str(self.facts["model"])

    @property
    def card(self) -> dict[str, Any]:
        """The model's card."""
        card = self.header["models"].get(self.model, {})
        return card if isinstance(card, dict) else {}

    @property
    def is_ceiling(self) -> bool:
        """Whether the model is fitted to the ground truth, so that it bounds methods and is none."""
        return bool(self.card.get("sees_ground_truth"))

    @cached_property
    def table(self) -> PerSampleTable:
        """The per-face table beside the entry."""
        return PerSampleTable.read(self.path.with_suffix(".parquet"))

    def value(self, subset: str, statistic: str = "mean") -> float:
        """A stored value, NaN where there is none."""
        return float(self.facts["values"].get(subset, {}).get(statistic, float("nan")))


def add(run: Path | str, folder: Path | str, *, date: str, budget: str = "") -> list[Path]:
    """Put every model, data set and protocol of a run on its board (regions of the face have none).

    Parameters
    ----------
    run
        Run folder of an evaluation.
    folder
        The boards.
    date
        ISO date of the entry (an argument, so that the same call gives the same bytes).
    budget
        What the training cost, in words (``2 h on 2 cores``); "" takes the model card's ``trained_on`` alone.

    Returns
    -------
    list of Path
        The JSON files written.

    Raises
    ------
    UsageError
        The date is none, the data set has no card, a model was trained on it or has no trained weights.
    """
    if not re.fullmatch(r"\d{4}-\d{2}-\d{2}", date):
        raise UsageError(f"not a date: {date!r}", remedy="give it as 2026-01-31")
    source = read_run(Path(run))
    for dataset, model in source.pairs():
        _refuse_unfit(source, dataset, model)
    written = []
    for dataset, model in source.pairs():
        for protocol in source.offered(dataset):
            if len(source.errors(model, dataset, protocol)) and not is_region(source.protocols[protocol]):
                written.append(_write_entry(source, Path(folder), dataset, model, protocol, date, budget))
    return written


def _refuse_unfit(run: Run, dataset: str, model: str) -> None:
    if dataset not in dataset_names():
        raise UsageError(
            f"there is no card of the data set {dataset!r}", remedy="boards are kept for known data sets only"
        )
    problem = trained_on_test_set(run.table.header, model, dataset)
    if problem:
        raise UsageError(problem, remedy="evaluate it on faces that it has not seen")
    if run.table.header["models"].get(model, {}).get("trained") is False:
        raise UsageError(f"{model} has no trained weights", remedy="train it first: prnbench train")


def trained_on_test_set(header: dict[str, Any], model: str, dataset: str) -> str:
    """Say so if a model's card names the data set (or its digest) as training data, else ""."""
    trained_on = str(header.get("models", {}).get(model, {}).get("trained_on") or "")
    digest = str(header.get("datasets", {}).get(dataset, {}).get("digest") or "")
    words = re.findall(r"[\w-]+", trained_on)
    if dataset in words or (digest and digest in words):
        return f"{model} was trained on the test set ({trained_on})"
    return ""


def _write_entry(run: Run, folder: Path, dataset: str, model: str, protocol: str, date: str, budget: str) -> Path:
    stem = folder / file_stem(dataset) / protocol / file_stem(model)
    path = stem.with_name(f"{stem.name}.json")
    if path.exists() and read_entry(path).model != model:
        raise UsageError(f"{path.name} holds the model {read_entry(path).model!r}", remedy=f"rename {model!r}")
    table = _part(run.table, dataset, model, protocol)
    table_digest = _write_table(table, path.with_suffix(".parquet"))
    header = table.header
    facts = {
        "model": model,
        "dataset": dataset,
        "protocol": protocol,
        "date": date,
        "values": values_of(table),
        "trained_on": header["models"].get(model, {}).get("trained_on") or "",
        "budget": budget,
        "hardware": _hardware(run),
        "digests": {
            "table": table_digest,
            "data": header["datasets"].get(dataset, {}).get("digest"),
            "weights": header["models"].get(model, {}).get("weights_digest"),
            "code": header.get("environment", {}).get("code_digest"),
        },
    }
    facts["digest"] = digest_of_entry(header, facts)
    write_json(path, {**header, "entry": facts})
    return path


def _part(table: PerSampleTable, dataset: str, model: str, protocol: str) -> PerSampleTable:
    """The rows and the header of one model, data set and protocol."""
    rows = table.rows[(table.rows["model"] == model) & (table.rows["dataset"] == dataset)]
    header = {name: value for name, value in table.header.items() if name != "entry"}
    header["protocols"] = {protocol: table.header["protocols"][protocol]}
    header["models"] = {model: table.header.get("models", {}).get(model, {})}
    header["datasets"] = {dataset: table.header.get("datasets", {}).get(dataset, {})}
    return PerSampleTable.make(rows.reset_index(drop=True), header)


def _write_table(table: PerSampleTable, path: Path) -> str:
    make_folder(path.parent)
    with tempfile.TemporaryDirectory() as scratch:
        made = table.write(Path(scratch))
        with replacing(path) as temporary:
            temporary.write_bytes(made.read_bytes())
    return sha256_of(path)


def values_of(table: PerSampleTable) -> dict[str, dict[str, float]]:
    """Values of an entry by subset and statistic, with ``n`` and ``failed``, rounded to six digits."""
    values: dict[str, dict[str, float]] = {}
    for record in summary(table):
        if record["statistic"] in KEPT:
            subset = values.setdefault(record["subset"], {"n": record["n"], "failed": record["failed"]})
            subset[record["statistic"]] = round(record["value"], DIGITS)
    return values


def _hardware(run: Run) -> dict[str, Any]:
    timed = (run.timing or {}).get("hardware")
    return timed if isinstance(timed, dict) else {}


def digest_of_entry(header: dict[str, Any], facts: dict[str, Any]) -> str:
    """Digest of everything in an entry but the digest itself."""
    return digest_of(
        {k: v for k, v in header.items() if k != "entry"}, {k: v for k, v in facts.items() if k != "digest"}
    )


def read_entry(path: Path) -> Entry:
    """Read one entry.

    Raises
    ------
    InputError
        The file is no entry.
    """
    raw = read_json(path, "entry")
    facts = raw.get("entry") if isinstance(raw, dict) else None
    needed = {"model", "dataset", "protocol", "date", "values", "digests", "digest"}
    if not isinstance(facts, dict) or not needed <= set(facts) or not isinstance(facts["values"], dict):
        raise InputError("not an entry of a board", file=path, remedy="add the run again: prnbench leaderboard add")
    return Entry(path, raw, facts)


def entry_files(folder: Path) -> list[Path]:
    """All entries below the boards' folder, sorted."""
    return sorted(Path(folder).glob("*/*/*.json"))
