"""The HTML page of a run: one self-contained file, no network, nothing in it runs but our own script.

Jinja2 escapes every text; the page's content security policy names the script by its hash, so that markup in a model's
name could not run even if it were let through.
"""

from __future__ import annotations

import base64
import hashlib
import mimetypes
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prnbench import __version__
from prnbench.cards import EvalProtocol
from prnbench.errors import InputError
from prnbench.metrics.ced import THRESHOLDS
from prnbench.report.charts import chart, chart_data
from prnbench.report.figure import DASHES, Figure
from prnbench.report.figures import dataset_figures
from prnbench.report.heat import heat_parts
from prnbench.report.robustness import robustness_part
from prnbench.report.run import SUBSETS, Run, headline_protocols, short_name
from prnbench.report.speed import speed_part
from prnbench.report.tables import Row, accuracy_rows, interval, number
from prnbench.report.verdicts import COMPARISON_NOTE, comparisons, verdict_of

if TYPE_CHECKING:
    from jinja2 import Environment

MOST_FAILURES = 200
FEW_FACES = 30


def report_page(run: Run, *, private: bool = False) -> str:
    """The page as text; ``private`` leaves out every picture of a person."""
    context = {
        "title": _title(run),
        "chips": _chips(run),
        "notices": _notices(run),
        "parts": [_part(run, dataset) for dataset in run.datasets],
        "comparison_note": COMPARISON_NOTE,
        "thresholds": [f"{threshold:g}" for threshold in THRESHOLDS],
        "speed": _speed(run),
        "robustness": _robustness(run, private),
        "gallery": gallery_parts(run, run.gallery, private),
        "private": private,
        "failures": _failures(run),
        "skipped": _skipped(run),
        "left_out": _left_out(run),
        "protocols": [protocol_text(p) for p in _used_protocols(run)],
        "command": run.table.header.get("command", ""),
        "provenance": _provenance(run),
    }
    return render("report.html.j2", **context)


def render(template: str, **context: Any) -> str:
    """Fill a template of this package; style and script are put in, the script is named by its hash."""
    script = _asset("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    from markupsafe import Markup

    fixed = {
        "style": Markup(_asset("style.css")),
        "script": Markup(script),
        "script_hash": f"sha256-{digest}",
        "version": __version__,
        "dash": lambda index: " ".join(f"{length:g}" for length in DASHES[index % len(DASHES)]),
    }
    text: str = _environment().get_template(template).render(**fixed, **context)
    return text


@cache
def _asset(name: str) -> str:
    return files("prnbench.report").joinpath("templates", name).read_text(encoding="utf-8")


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("prnbench.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def figure_part(figure: Figure, legend: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    """A figure as the template takes it."""
    title = figure.title.partition(": ")[2] or figure.title
    lines = [s for s in figure.series if s.style in ("line", "bars")] or []
    named = legend or [{"name": s.name, "index": s.index, "text": ""} for s in lines]
    return {
        "title": title[:1].upper() + title[1:],
        "subtitle": figure.subtitle,
        "svg": chart(figure),
        "data": chart_data(figure),
        "note": figure.note,
        "idle": "Point at the figure, or use the arrow keys, to read values.",
        "protocol": figure.protocol,
        "legend": named,
    }


def protocol_text(protocol: EvalProtocol) -> dict[str, Any]:
    """A protocol as the template takes it."""
    return {
        "key": protocol.key,
        "short": short_name(protocol),
        "title": protocol.title,
        "text": protocol.text.strip(),
        "identity": protocol.identity(),
    }


# -- head --------------------------------------------------------------------------------------------------------------


def _title(run: Run) -> str:
    models = run.models if len(run.models) <= 4 else [*run.models[:3], f"{len(run.models) - 3} more models"]
    return f"{', '.join(models)} on {', '.join(run.datasets)}"


def _chips(run: Run) -> list[str]:
    environment = run.table.header.get("environment", {})
    known = [f"{name} {environment[name]}" for name in ("prnbench", "torch", "date") if environment.get(name)]
    return [_count(len(run.models), "model"), _count(len(run.datasets), "data set"), *known]


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _notices(run: Run) -> list[dict[str, str]]:
    """What a reader must know before the first number."""
    header = run.table.header
    notices = [
        f"{name}: no trained weights. These are the numbers of random initial values and say nothing about the method."
        for name in run.models
        if header.get("models", {}).get(name, {}).get("trained") is False
    ]
    for dataset in run.datasets:
        if run.faces(dataset) < FEW_FACES:
            notices.append(
                f"{dataset}: only {_count(run.faces(dataset), 'face')}; intervals are rough and rankings mean little."
            )
    warnings = [{"kind": "warn", "text": text} for text in notices]
    return warnings + [{"kind": "info", "text": text} for text in (*_ceilings(run), *_consent(run))]


def _ceilings(run: Run) -> list[str]:
    names = ", ".join(name for name in run.models if name in run.ceilings)
    return [f"Ceilings, fitted to the ground truth and never ranked: {names}."] if names else []


def _consent(run: Run) -> list[str]:
    cards = {name: run.table.header.get("datasets", {}).get(name, {}) for name in run.datasets}
    return [
        f"{name}: {card['consent']} {card.get('privacy', '')}".strip()
        for name, card in cards.items()
        if card.get("consent")
    ]


# -- one data set ------------------------------------------------------------------------------------------------------


def _part(run: Run, dataset: str) -> dict[str, Any]:
    models = [model for place, model in run.pairs() if place == dataset]
    rows, main = accuracy_rows(run, dataset), headline_protocols(run, dataset)
    return {
        "name": dataset,
        "faces": run.faces(dataset),
        "several": len(models) > 1,
        "headline": [_headline(run, dataset, model) for model in models],
        "table": _table(run, [row for row in rows if row.protocol in main]),
        "more": _table(run, [row for row in rows if row.protocol not in main]),
        "regions": _table(run, accuracy_rows(run, dataset, regions=True)),
        "spread": _spread(run, dataset),
        "comparisons": comparisons(run, dataset),
        "figures": [figure_part(figure, _ced_legend(run, dataset, figure)) for figure in dataset_figures(run, dataset)],
        "heat": heat_parts(run, dataset),
    }


def _headline(run: Run, dataset: str, model: str) -> dict[str, Any]:
    card = run.table.header.get("models", {}).get(model, {})
    return {
        "model": model,
        "title": "" if card.get("title") in (None, model) else card["title"],
        "index": run.models.index(model),
        "untrained": card.get("trained") is False,
        "tiles": [_tile(run, dataset, model, key) for key in headline_protocols(run, dataset)],
    }


def _tile(run: Run, dataset: str, model: str, key: str) -> dict[str, Any]:
    protocol = run.protocols[key]
    row = next(r for r in accuracy_rows(run, dataset) if r.model == model and r.protocol == key)
    offered = row.offered
    return {
        "what": short_name(protocol),
        "value": number(row.all_faces.value) if offered else "",
        "unit": protocol.unit,
        "interval": _interval_text(row) if offered else "",
        "verdict": verdict_of(run, dataset, model, key) if offered else None,
    }


def _interval_text(row: Row) -> str:
    cell = row.all_faces
    failed = f", {cell.failed} failed" if cell.failed else ""
    bounds = interval(cell)
    return f"95 %: {bounds}{failed}" if bounds else f"{_count(cell.n, 'face')}{failed}"


def _table(run: Run, rows: list[Row]) -> dict[str, Any] | None:
    if not rows:
        return None
    groups = []
    for key in dict.fromkeys(row.protocol for row in rows):
        mine = [row for row in rows if row.protocol == key]
        groups.append(
            {
                "protocol": protocol_text(run.protocols[key]),
                "unit": f"in {mine[0].unit}",
                "rows": [_table_row(run, row) for row in mine],
            }
        )
    return {"columns": list(SUBSETS.values()), "groups": groups}


def _table_row(run: Run, row: Row) -> dict[str, Any]:
    shown = {"model": row.model, "index": run.models.index(row.model), "cells": [], "n": "", "failed": ""}
    if not row.offered:
        return shown
    cells = []
    for subset in SUBSETS:
        cell = row.cells.get(subset)
        text = {"value": "–", "interval": "", "best": False}
        cells.append(
            text if cell is None else {"value": number(cell.value), "interval": interval(cell), "best": cell.best}
        )
    return shown | {"cells": cells, "n": row.all_faces.n, "failed": row.all_faces.failed}


def _spread(run: Run, dataset: str) -> list[dict[str, Any]]:
    names = ["median", "std", *(f"auc_{t:g}" for t in THRESHOLDS), *(f"failure_rate_{t:g}" for t in THRESHOLDS)]
    rows = []
    for row in accuracy_rows(run, dataset) + accuracy_rows(run, dataset, regions=True):
        if row.offered:
            values = [run.value(row.model, dataset, row.protocol, "all", name) for name in names]
            protocol = f"{short_name(run.protocols[row.protocol])}, {row.unit}"
            rows.append({"model": row.model, "protocol": protocol, "cells": [number(value) for value in values]})
    return rows


def _ced_legend(run: Run, dataset: str, figure: Figure) -> list[dict[str, Any]] | None:
    """Legend of a CED with the area under it and the failure rate, which belong to it."""
    if not figure.name.startswith("ced-"):
        return None
    legend = []
    for series in figure.series:
        place = (series.name, dataset, figure.protocol, "all")
        area, over = run.value(*place, "auc_8"), run.value(*place, "failure_rate_8")
        text = f"AUC at 8 %: {number(area)}, over 8 %: {number(over)} %"
        legend.append({"name": series.name, "index": series.index, "text": text})
    return legend


# -- the rest ----------------------------------------------------------------------------------------------------------


def _speed(run: Run) -> dict[str, Any] | None:
    part = speed_part(run)
    return None if part is None else {**part, "figures": [figure_part(figure) for figure in part["figures"]]}


def _robustness(run: Run, private: bool) -> dict[str, Any] | None:
    part = robustness_part(run, private)
    return None if part is None else {**part, "figures": [figure_part(figure) for figure in part["figures"]]}


def gallery_parts(run: Run, gallery: list[dict[str, Any]], private: bool) -> list[dict[str, Any]]:
    """Gallery entries as the template takes them; ``private`` leaves out the pictures of persons."""
    entries = []
    for entry in gallery:
        shown = [p for p in entry["pictures"] if isinstance(p, dict) and not (private and p.get("person", True))]
        pictures = [{"title": str(p.get("title", "")), "source": _picture(run.folder / "gallery", p)} for p in shown]
        if pictures:
            entries.append({**_caption(run, entry), "pictures": pictures})
    return entries


def _caption(run: Run, entry: dict[str, Any]) -> dict[str, str]:
    model, dataset, face = (str(entry.get(name, "")) for name in ("model", "dataset", "id"))
    protocol = run.protocols.get(str(entry.get("protocol", "")))
    value = entry.get("value")
    error = ""
    if protocol is not None and isinstance(value, int | float):
        error = f"{number(float(value), protocol.unit)} {short_name(protocol)}"
    return {
        "place": str(entry.get("place", "")),
        "title": model,
        "caption": " · ".join(filter(None, (face, dataset, error))),
    }


def _picture(folder: Path, picture: dict[str, Any]) -> str:
    """A picture as a data URI; only plain names inside the gallery folder are read."""
    name = str(picture.get("file", ""))
    kind = mimetypes.guess_type(name)[0]
    path = folder / name
    if name != path.name or kind not in ("image/png", "image/jpeg", "image/webp") or not path.is_file():
        raise InputError(f"{name!r} is no picture in it", file=folder, remedy="evaluate again")
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def _failures(run: Run) -> dict[str, Any]:
    rows = run.table.rows
    failed = rows[rows["failed"] != ""]
    shown = failed.head(MOST_FAILURES)
    listed = [
        {
            "model": row["model"],
            "dataset": row["dataset"],
            "id": row["id"],
            "yaw": number(float(row["yaw_fitted_deg"]), "°"),
            "reason": row["failed"],
        }
        for _, row in shown.iterrows()
    ]
    cut = f"The first {len(shown)}; all are in the per-sample table" if len(failed) > len(shown) else "All of them"
    return {"count": len(failed), "rows": listed, "shown": cut}


def _left_out(run: Run) -> list[dict[str, Any]]:
    """Protocols that the ground truth could not serve, with what to give to get them."""
    datasets = run.table.header.get("datasets", {})
    found = {name: datasets.get(name, {}).get("left_out") for name in run.datasets}
    return [
        {"dataset": name, "rows": list(reasons.items())}
        for name, reasons in found.items()
        if isinstance(reasons, dict) and reasons
    ]


def _skipped(run: Run) -> list[str]:
    datasets = run.table.header.get("datasets", {})
    counts = {name: datasets.get(name, {}).get("skipped") for name in run.datasets}
    return [
        f"{name}: {_count(count, 'face')} could not be converted and are in no number here."
        for name, count in counts.items()
        if count
    ]


def _used_protocols(run: Run) -> list[EvalProtocol]:
    used = {key for dataset in run.datasets for key in run.offered(dataset)}
    return [protocol for key, protocol in run.protocols.items() if key in used]


def _provenance(run: Run) -> list[dict[str, Any]]:
    header = run.table.header
    parts = [{"name": "Environment", "rows": _rows(header.get("environment", {}))}]
    parts += [{"name": f"Model {name}", "rows": _rows(header.get("models", {}).get(name, {}))} for name in run.models]
    parts += [
        {"name": f"Data set {name}", "rows": _rows(header.get("datasets", {}).get(name, {}))} for name in run.datasets
    ]
    return [part for part in parts if part["rows"]]


def _rows(value: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for name, item in value.items():
        label = f"{prefix}{name}".replace("_", " ")
        if isinstance(item, dict):
            rows += _rows(item, f"{label}: ")
        elif isinstance(item, list | tuple):
            rows.append((label, "; ".join(str(part) for part in item) or "–"))
        else:
            rows.append((label, _plain(item)))
    return rows


def _plain(item: Any) -> str:
    if item is None or item == "":
        return "–"
    return f"{item:,}" if isinstance(item, int) and not isinstance(item, bool) and abs(item) >= 10_000 else str(item)
