"""Comparing runs: one page of differences with paired statistics, and the faces that changed most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from prnbench.errors import UsageError
from prnbench.files import make_folder, write_text
from prnbench.report.figure import Figure, Series, upper_end
from prnbench.report.figures import DOTS, ced_figure, file_stem
from prnbench.report.page import figure_part, gallery_parts, protocol_text, render
from prnbench.report.plots import write_figures
from prnbench.report.run import Run, headline_protocols, read_run, short_name
from prnbench.report.tables import number
from prnbench.report.verdicts import COMPARISON_NOTE, comparison, comparison_row, difference_unit, signed
from prnbench.table import PerSampleTable, concatenate

MOST_CHANGED = 8

Pair = tuple[str, str]


def compare(folders: Sequence[Path | str], out: Path | str, *, private: bool = False) -> Path:
    """Write ``comparison.html`` and its figures: every run against the first.

    Parameters
    ----------
    folders
        Two or more run folders, the reference first. A model is compared with the model of the same name in the
        reference, or with the reference's first model if there is none.
    out
        Folder for the page.
    private
        Leave out every picture of a person.

    Raises
    ------
    UsageError
        There are fewer than two runs, or they have no data set and protocol in common.
    TableError
        A run cannot be read, or the runs mean different things by one protocol key.
    """
    if len(folders) < 2:
        raise UsageError(
            "a comparison needs two runs", remedy="give the folders of two evaluations, the reference first"
        )
    runs = [read_run(Path(folder)) for folder in folders]
    joined, pairs = join(runs)
    parts = [_part(joined, dataset, pair, runs, private) for dataset in joined.datasets for pair in pairs]
    parts = [part for part in parts if part["rows"]]
    if not parts:
        raise UsageError("the runs have no data set and protocol in common", remedy="evaluate both on the same faces")
    folder = Path(out)
    make_folder(folder)
    write_figures([figure for part in parts for figure in part["figures"]], folder / "figures")
    for part in parts:
        part["figures"] = [figure_part(figure) for figure in part["figures"]]
    protocols = {key for dataset in joined.datasets for key in headline_protocols(joined, dataset)}
    page = folder / "comparison.html"
    context = {
        "title": f"{', '.join(new for _, new in pairs)} against {', '.join(dict.fromkeys(old for old, _ in pairs))}",
        "note": COMPARISON_NOTE,
        "parts": parts,
        "protocols": [protocol_text(p) for key, p in joined.protocols.items() if key in protocols],
        "runs": [{"folder": run.folder.name, "command": run.table.header.get("command", "")} for run in runs],
        "private": private,
    }
    write_text(page, render("comparison.html.j2", **context))
    return page


def join(runs: Sequence[Run]) -> tuple[Run, list[Pair]]:
    """One run of all models under different names, and the (reference, other) pairs to compare."""
    names = _names(runs)
    joined = Run(
        runs[0].folder, concatenate([_renamed(run, own) for run, own in zip(runs, names, strict=True)]), None, []
    )
    first = names[0]
    default = next(iter(first.values()))
    pairs = [(first.get(model, default), name) for own in names[1:] for model, name in own.items()]
    return joined, pairs


def _names(runs: Sequence[Run]) -> list[dict[str, str]]:
    """For each run its models' names in the comparison: as they are where unique, else with the run's folder."""
    every = [model for run in runs for model in run.models]
    taken: set[str] = set()
    names = []
    for run in runs:
        own = {}
        for model in run.models:
            name = model if every.count(model) == 1 else f"{model} ({run.folder.resolve().name})"
            while name in taken:
                name = f"{name}'"
            taken.add(name)
            own[model] = name
        names.append(own)
    return names


def _renamed(run: Run, names: dict[str, str]) -> PerSampleTable:
    header = dict(run.table.header)
    header["models"] = {names[model]: card for model, card in header.get("models", {}).items() if model in names}
    rows = run.table.rows.assign(model=run.table.rows["model"].map(names))
    return PerSampleTable(rows, header)


def _part(run: Run, dataset: str, pair: Pair, runs: Sequence[Run], private: bool) -> dict[str, Any]:
    old, new = pair
    keys = [key for key in headline_protocols(run, dataset) if comparison(run, dataset, key, new, old) is not None]
    figures = [_against_figure(run, dataset, key, pair) for key in keys[:1]]
    figures += [_narrowed(ced_figure(run, dataset, key), pair) for key in keys if run.protocols[key].unit == "%"]
    return {
        "name": dataset,
        "old": old,
        "new": new,
        "rows": [_row(run, dataset, key, pair) for key in keys],
        "figures": figures,
        "changed": _changed(run, dataset, keys[0], pair) if keys else None,
        "gallery": _pictures(run, dataset, keys[0], pair, runs, private) if keys else [],
        "only": _only_in_one(run, dataset, pair),
    }


def _row(run: Run, dataset: str, key: str, pair: Pair) -> dict[str, Any]:
    record = comparison(run, dataset, key, pair[1], pair[0])
    assert record is not None
    unit = record["unit"]
    relative = record["difference"] / record["other_mean"] if record["other_mean"] else float("nan")
    return comparison_row(run, record) | {
        "old": number(record["other_mean"], unit),
        "new": number(record["mean"], unit),
        "relative": f"{signed(100 * relative)} %",
        "n": record["n"],
        "failed": f"{record['other_failed']} → {record['failed']}",
    }


def _narrowed(figure: Figure, pair: Pair) -> Figure:
    """Only the two models of the pair, under a name of its own."""
    kept = tuple(series for series in figure.series if series.name in pair)
    return replace(figure, series=kept, name=file_stem(figure.name, *pair))


def _both(run: Run, dataset: str, key: str, pair: Pair) -> Any:
    """Rows of the faces that both models were given: id, yaw, old and new error."""
    old, new = (run.rows(model, dataset).set_index("id") for model in pair)
    ids = old.index.intersection(new.index)
    both = old.loc[ids, ["yaw_fitted_deg"]].assign(old=old.loc[ids, key], new=new.loc[ids, key])
    return both[both["old"].notna() & both["new"].notna()]


def _against_figure(run: Run, dataset: str, key: str, pair: Pair) -> Figure:
    """Every face's new error against its old one."""
    both = _both(run, dataset, key, pair)
    finite = both[np.isfinite(both["old"]) & np.isfinite(both["new"])]
    kept = finite.iloc[np.linspace(0, len(finite) - 1, min(len(finite), DOTS)).astype(int)] if len(finite) else finite
    unit = run.protocols[key].unit
    top = upper_end([float(np.quantile(finite[name], 0.99)) for name in ("old", "new") if len(finite)])
    old, new = (tuple(float(min(value, top)) for value in kept[name]) for name in ("old", "new"))
    index = run.models.index(pair[1])
    dots = Series(pair[1], index, old, new, "dots", tuple(str(name) for name in kept.index))
    return Figure(
        name=file_stem("against", dataset, key, *pair),
        title=f"{dataset}: every face, new against old",
        subtitle=short_name(run.protocols[key]),
        x_label=f"{pair[0]}, {unit}",
        y_label=f"{pair[1]}, {unit}",
        x_range=(0.0, top),
        y_range=(0.0, top),
        series=(dots, Series("no change", 6, (0.0, top), (0.0, top))),
        note=f"Below the line {pair[1]} is better. Values above {top:g} {unit} are drawn at the edge.",
        x_unit=f" {unit}",
        y_unit=f" {unit}",
        protocol=key,
    )


def _changed(run: Run, dataset: str, key: str, pair: Pair) -> dict[str, Any]:
    """The faces that got worse and better by most; failing counts as the largest change."""
    both = _both(run, dataset, key, pair)
    with np.errstate(invalid="ignore"):
        change = (both["new"] - both["old"]).fillna(0.0)
    ordered = both.assign(change=change).sort_values("change", kind="stable")
    unit = run.protocols[key].unit
    worse = ordered[ordered["change"] > 0].iloc[::-1].head(MOST_CHANGED)
    better = ordered[ordered["change"] < 0].head(MOST_CHANGED)
    return {
        "protocol": short_name(run.protocols[key]),
        "worse": [_face(str(name), row, unit) for name, row in worse.iterrows()],
        "better": [_face(str(name), row, unit) for name, row in better.iterrows()],
        "counts": [int((change > 0).sum()), int((change < 0).sum()), int((change == 0).sum())],
    }


def _face(name: str, row: Any, unit: str) -> dict[str, str]:
    shown = {place: "failed" if np.isinf(row[place]) else number(float(row[place]), unit) for place in ("old", "new")}
    change = signed(float(row["change"]), difference_unit(unit)) if np.isfinite(row["change"]) else ""
    return {"id": name, "yaw": number(float(row["yaw_fitted_deg"]), "°"), "change": change, **shown}


def _pictures(run: Run, dataset: str, key: str, pair: Pair, runs: Sequence[Run], private: bool) -> list[dict[str, Any]]:
    """Gallery pictures that the two models of the pair have of the most changed faces, face by face."""
    changed = _changed(run, dataset, key, pair)
    wanted = [face["id"] for face in (*changed["worse"], *changed["better"])]
    found = [
        (source, {**entry, "model": own[entry["model"]]})
        for source, own in zip(runs, _names(runs), strict=True)
        for entry in source.gallery
        if entry.get("dataset") == dataset and entry.get("id") in wanted and own.get(str(entry.get("model"))) in pair
    ]
    found.sort(key=lambda item: wanted.index(item[1]["id"]))
    return [part for source, entry in found for part in gallery_parts(source, [entry], private)]


def _only_in_one(run: Run, dataset: str, pair: Pair) -> str:
    old, new = (set(run.rows(model, dataset)["id"]) for model in pair)
    if old == new or not old or not new:
        return ""
    apart = f"{len(old - new)} faces only in the reference, {len(new - old)} only in the other"
    return f"{apart}; compared are the {len(old & new)} in both."
