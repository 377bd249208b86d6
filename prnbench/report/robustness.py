"""The robustness part of a report: corruption errors, their curves, steadiness; from the robustness table alone."""

from __future__ import annotations

import base64
from functools import lru_cache
from typing import Any

from prnbench.report.figure import Figure, Series, upper_end
from prnbench.report.figures import file_stem
from prnbench.report.run import Run, short_name
from prnbench.report.tables import markdown_row, markdown_text, number
from prnbench.robustness.curves import MEAN, corruption_errors, curves, steadiness
from prnbench.robustness.table import RobustnessTable, read_robustness

Records = list[dict[str, Any]]

SHEET = "robustness.png"
NOTE = (
    "Mean error under a corruption over the clean mean error of the same faces, averaged over five severities; 1 means "
    "unharmed. Brackets are 95 % bootstrap intervals. A poor model can have a small corruption error, as it has little "
    "to lose: read it beside the clean error."
)


def robustness_part(run: Run, private: bool = False) -> dict[str, Any] | None:
    """Tables, figures and the contact sheet for the page, or None where nothing was measured."""
    table = _read(run)
    if table is None:
        return None
    path = run.folder / SHEET
    shown = path.is_file() and not private
    return {
        "suite": {"key": table.suite.key, "title": table.suite.title, "text": table.suite.text.strip()},
        "corruptions": [
            (f"{c.title} ({', '.join(f'{level:g}' for level in c.levels)} {c.unit})", c.text.strip())
            for c in table.suite.corruptions
        ],
        "steadiness": (table.suite.steadiness.title, table.suite.steadiness.text.strip()),
        "tables": [_table(run, table, dataset) for dataset in _datasets(run, table)],
        "note": NOTE,
        "figures": robustness_figures(run),
        "sheet": f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}" if shown else "",
    }


def robustness_markdown(run: Run) -> str:
    """The corruption errors as Markdown, or "" where nothing was measured."""
    table = _read(run)
    if table is None:
        return ""
    lines = ["## Robustness", ""]
    for dataset in _datasets(run, table):
        part = _table(run, table, dataset)
        lines += [f"{markdown_text(dataset)}, {part['faces']} faces, {part['protocol']}. {NOTE}", ""]
        lines += [markdown_row(["corruption", *map(markdown_text, part["models"])])]
        lines += [markdown_row(["---", *["---:"] * len(part["models"])])]
        for row in part["rows"]:
            cells = [f"{cell['value']} {cell['interval']}".strip() for cell in row["cells"]]
            lines.append(markdown_row([markdown_text(row["name"]), *map(markdown_text, cells)]))
        lines.append("")
    return "\n".join(lines)


def robustness_figures(run: Run) -> list[Figure]:
    """Corruption errors side by side, then one curve figure a corruption; data set by data set."""
    table = _read(run)
    if table is None:
        return []
    figures = []
    for dataset in _datasets(run, table):
        key = _headline(table, dataset)
        figures.append(_overview(run, table, dataset, key))
        figures += [_curve(run, table, dataset, key, place) for place in range(len(table.suite.corruptions))]
    return figures


@lru_cache(maxsize=2)
def _read(run: Run) -> RobustnessTable | None:
    return read_robustness(run.folder)


@lru_cache(maxsize=2)
def _errors(table: RobustnessTable) -> Records:
    return corruption_errors(table)


def _datasets(run: Run, table: RobustnessTable) -> list[str]:
    measured = {record["dataset"] for record in _errors(table)}
    return [dataset for dataset in run.datasets if dataset in measured]


def _headline(table: RobustnessTable, dataset: str) -> str:
    """The first protocol that was measured: landmarks in the plane where there are any."""
    keys: set[str] = {record["protocol"] for record in _errors(table) if record["dataset"] == dataset}
    return min(keys, key=lambda key: (table.protocols[key].points != "landmarks_68", table.protocols[key].dims, key))


def _table(run: Run, table: RobustnessTable, dataset: str) -> dict[str, Any]:
    key = _headline(table, dataset)
    found = {
        (r["model"], r["corruption"]): r for r in _errors(table) if (r["dataset"], r["protocol"]) == (dataset, key)
    }
    models = [model for model in run.models if (model, MEAN) in found]
    names = {**{c.id: c.title for c in table.suite.corruptions}, MEAN: "mean corruption error"}
    rows = [{"name": title, "cells": [_cell(found.get((m, name))) for m in models]} for name, title in names.items()]
    clean = [r for r in curves(table) if (r["dataset"], r["protocol"], r["severity"]) == (dataset, key, 0)]
    means = {r["model"]: r for r in clean}
    unit = table.protocols[key].unit
    rows.append({"name": f"clean error, {unit}", "cells": [_cell(means.get(model)) for model in models]})
    still = {r["model"]: r for r in steadiness(table) if r["dataset"] == dataset}
    jitter = f"jitter, {table.suite.steadiness.unit} of face size"
    rows.append({"name": jitter, "cells": [_cell(still.get(model)) for model in models]})
    return {
        "dataset": dataset,
        "faces": next(iter(found.values()))["n"],
        "protocol": short_name(table.protocols[key]),
        "models": models,
        "rows": rows,
    }


def _cell(record: dict[str, Any] | None) -> dict[str, str]:
    if record is None:
        return {"value": "–", "interval": ""}
    low, high = record.get("low"), record.get("high")
    bounds = "" if low is None or high is None else f"[{number(low)}, {number(high)}]"
    failed = f" ({record['failed']} failed)" if record["failed"] else ""
    value = "–" if record["value"] is None else number(record["value"])
    return {"value": value, "interval": bounds + failed}


def _overview(run: Run, table: RobustnessTable, dataset: str, key: str) -> Figure:
    names = [c.id for c in table.suite.corruptions]
    series = []
    for model in run.models:
        own = [r for r in _errors(table) if (r["model"], r["dataset"], r["protocol"]) == (model, dataset, key)]
        found = {r["corruption"]: r for r in own}
        if found:
            records = [found.get(name, {}) for name in names]
            ends = [tuple(_number(r.get(end)) for r in records) for end in ("value", "low", "high")]
            places = tuple(float(i) for i in range(len(names)))
            series.append(Series(model, run.models.index(model), places, ends[0], "bars", low=ends[1], high=ends[2]))
    return Figure(
        name=file_stem("robustness", dataset),
        title=f"{dataset}: error under corruptions over the clean error",
        subtitle=short_name(table.protocols[key]),
        x_label="corruption",
        y_label="corruption error",
        x_range=(-0.5, len(names) - 0.5),
        y_range=(0.0, upper_end([value for part in series for value in (*part.high, *part.y)], 1.0)),
        series=tuple(series),
        note="Average over five severities; 1 means unharmed. Whiskers are 95 % intervals.",
        categories=tuple(_SHORT.get(name, name) for name in names),
        protocol=key,
    )


_SHORT = {
    "resolution": "small",
    "darkness": "dark",
    "over_exposure": "bright",
    "colour_cast": "cast",
    "occlusion_eyes": "eyes",
    "occlusion_mouth": "mouth",
    "occlusion_half": "half",
    "box_shift": "box",
    "box_scale": "size",
}
"""Names that fit below bars."""


def _curve(run: Run, table: RobustnessTable, dataset: str, key: str, place: int) -> Figure:
    corruption = table.suite.corruptions[place]
    series = []
    for model in run.models:
        own = [
            r
            for r in _curves(table)
            if (r["model"], r["dataset"], r["protocol"], r["corruption"]) == (model, dataset, key, corruption.id)
        ]
        if own:
            x, y = (tuple(float(r[name]) for r in own) for name in ("severity", "value"))
            labels = tuple("clean" if r["level"] is None else f"{r['level']:g} {corruption.unit}" for r in own)
            series.append(Series(model, run.models.index(model), x, y, labels=labels))
    unit = table.protocols[key].unit
    top = [r["value"] for r in _curves(table) if (r["dataset"], r["protocol"]) == (dataset, key)]
    return Figure(
        name=file_stem("robustness", dataset, corruption.id),
        title=f"{dataset}: {corruption.title}",
        subtitle=f"{', '.join(f'{level:g}' for level in corruption.levels)} {corruption.unit}",
        x_label="severity",
        y_label=f"mean error, {unit}",
        x_range=(0.0, float(len(corruption.levels))),
        y_range=(0.0, upper_end(top)),
        series=tuple(series),
        note="Severity 0 is the clean picture. All corruptions share one scale.",
        y_unit=f" {unit}",
        protocol=key,
        x_ticks=tuple(float(i) for i in range(len(corruption.levels) + 1)),
    )


@lru_cache(maxsize=2)
def _curves(table: RobustnessTable) -> Records:
    return curves(table)


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)
