"""Checking the boards: every value again from its table, every page again from its entries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prnbench.cards import dataset_names, load_card
from prnbench.errors import PrnbenchError
from prnbench.files import sha256_of
from prnbench.leaderboard.boards import stale
from prnbench.leaderboard.entries import (
    Entry,
    digest_of_entry,
    entry_files,
    read_entry,
    trained_on_test_set,
    values_of,
)
from prnbench.report.figures import file_stem

TOLERANCE = 2e-6
"""Entries are rounded to six digits."""


def verify(folder: Path | str) -> list[str]:
    """Problems of all entries, each with its file; nothing is trusted but the per-face tables.

    Every value is computed again from the table beside the entry; a changed entry or table, a protocol that is no
    longer what its key stands for, a misplaced file and a model trained on the test set are problems.
    """
    folder = Path(folder)
    problems = []
    for path in entry_files(folder):
        try:
            found = _problems(read_entry(path))
        except PrnbenchError as error:
            found = [str(error).removeprefix(f"{path}: ")]
        problems += [f"{path.relative_to(folder)}: {problem}" for problem in found]
    problems += [
        f"{path.relative_to(folder)}: is not what renders from the entries" for path in _stale(folder, problems)
    ]
    known = {path.with_suffix(".parquet") for path in entry_files(folder)}
    strays = sorted(set(folder.glob("*/*/*.parquet")) - known)
    return problems + [f"{path.relative_to(folder)}: a table without an entry" for path in strays]


def _stale(folder: Path, problems: list[str]) -> list[Path]:
    """Generated pages that are out of date; not looked for while entries are wrong."""
    return [] if problems else stale(folder)


def _problems(entry: Entry) -> list[str]:
    facts, path = entry.facts, entry.path
    problems = []
    if path.parts[-3:-1] != (file_stem(facts["dataset"]), facts["protocol"]) or path.stem != file_stem(entry.model):
        problems.append("lies in the wrong place for its data set, protocol or model")
    if digest_of_entry(entry.header, facts) != facts["digest"]:
        problems.append("was edited after it was added")
    table = path.with_suffix(".parquet")
    if not table.is_file():
        return [*problems, f"its table {table.name} is missing"]
    if sha256_of(table) != facts["digests"].get("table"):
        problems.append("its table is not the one that was added")
    stale = _stale_protocol(entry)
    if stale:
        return [*problems, stale]
    trained = trained_on_test_set(entry.header, entry.model, facts["dataset"])
    problems += [trained] if trained else []
    return problems + _wrong_values(entry)


def _stale_protocol(entry: Entry) -> str:
    key, dataset = entry.facts["protocol"], entry.facts["dataset"]
    if dataset not in dataset_names():
        return f"there is no card of the data set {dataset!r}"
    known = {protocol.key: protocol for protocol in load_card(dataset).protocols}
    if key not in known:
        return f"{dataset} has no protocol {key}"
    return (
        "" if entry.table.protocols[key].identity() == known[key].identity() else f"{key} has changed its meaning since"
    )


def _wrong_values(entry: Entry) -> list[str]:
    rows = entry.table.rows
    if set(rows["model"]) != {entry.model} or set(rows["dataset"]) != {entry.facts["dataset"]}:
        return ["its table is of another model or data set"]
    stated, computed = entry.facts["values"], values_of(entry.table)
    wrong = []
    for subset in sorted({*stated, *computed}):
        one, other = stated.get(subset, {}), computed.get(subset, {})
        names = sorted({*one, *other})
        wrong += [
            f"{subset} {name} is {one.get(name)}, the table says {other.get(name)}"
            for name in names
            if _differ(one.get(name), other.get(name))
        ]
    return wrong


def _differ(one: Any, other: Any) -> bool:
    if not isinstance(one, int | float) or not isinstance(other, int | float):
        return True
    return abs(one - other) > TOLERANCE * max(1.0, abs(other))
