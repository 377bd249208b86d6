"""The timing part of a report: latencies by stage, percentiles, throughput, and accuracy against latency."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from prnbench.report.figure import Figure, Series, upper_end
from prnbench.report.run import Run, headline_protocols, short_name
from prnbench.report.tables import LEAN, markdown_row, markdown_text

if TYPE_CHECKING:
    from rich.table import Table

STAGES = ("preprocess", "forward", "postprocess", "end_to_end")
SCENARIOS = {"single_stream": "one by one", "multi_stream": "8 at a time", "offline": "offline"}
HEADS = (
    "model",
    "scenario",
    "batch",
    "preprocess",
    "forward",
    "postprocess",
    "end to end",
    "p90",
    "p99",
    "faces/s",
    "queries",
)
_TERMINAL_LEAVES_OUT = (HEADS.index("batch"), HEADS.index("queries"))
NOTE = (
    "Milliseconds per query of so many faces, medians of each stage; p90 and p99 of the whole query are upper bounds "
    "that hold with 99 % confidence and are left out where too few queries ran. A query begins with decoded pictures "
    "and ends with points in original pixels; the device is synchronised and the warm-up is not counted."
)

Scenario = dict[str, Any]


def speed_part(run: Run) -> dict[str, Any] | None:
    """Table, figures and warnings for the page, or None where nothing was timed."""
    rows = speed_rows(run)
    if not rows:
        return None
    return {
        "heads": HEADS,
        "texts": 2,
        "rows": rows,
        "note": f"{NOTE} {machine(run)}",
        "notices": _notices(run),
        "figures": speed_figures(run),
    }


def _scenarios(run: Run) -> Iterator[tuple[str, str, Scenario]]:
    models = (run.timing or {}).get("models", {})
    for model in run.models:
        for name in SCENARIOS:
            scenario = models.get(model, {}).get("scenarios", {}).get(name)
            if scenario:
                yield model, name, scenario


def single_stream(run: Run) -> dict[str, Scenario]:
    """The single-stream scenario of each timed model."""
    return {model: scenario for model, name, scenario in _scenarios(run) if name == "single_stream"}


def speed_rows(run: Run) -> list[list[str]]:
    """One row a model and scenario, as shown."""
    rows = []
    for model, name, scenario in _scenarios(run):
        stages = [milliseconds(scenario["stages"][stage]["median_ms"]) for stage in STAGES]
        percentiles = [milliseconds(scenario.get(key)) for key in ("p90_ms", "p99_ms")]
        rate = f"{scenario['faces_per_s']:,.{0 if scenario['faces_per_s'] >= 100 else 1}f}"
        rows.append(
            [model, SCENARIOS[name], str(scenario["batch"]), *stages, *percentiles, rate, str(scenario["queries"])]
        )
    return rows


def milliseconds(value: Any) -> str:
    """A latency with three significant digits."""
    if not isinstance(value, int | float) or not math.isfinite(value):
        return "–"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def machine(run: Run) -> str:
    """The machine, its threads and its noise in a sentence."""
    timing = run.timing or {}
    hardware, software, reference = (timing.get(name, {}) for name in ("hardware", "software", "reference"))
    device = (
        ", ".join(hardware.get("gpus") or [])
        or f"{hardware.get('cpu', 'unknown processor')}, {hardware.get('cores', '?')} cores"
    )
    noise = reference.get("noise_percent")
    known = (
        f" Noise of the machine in this run: {noise:.1f} % (a fixed kernel, repeated)."
        if isinstance(noise, int | float)
        else ""
    )
    return f"{device}; {software.get('torch_threads', '?')} threads; torch {software.get('torch', '?')}.{known}"


def _notices(run: Run) -> list[str]:
    timing = run.timing or {}
    noise = timing.get("reference", {}).get("noise_percent")
    notices = []
    if isinstance(noise, int | float) and noise > 10:
        notices.append(
            f"The machine was busy: a fixed kernel varied by {noise:.0f} % during the run. Latencies are rough."
        )
    if timing.get("mode") == "quick":
        notices.append("A quick timing of a few seconds a model; “prnbench benchmark infer” measures for longer.")
    return notices


# -- text --------------------------------------------------------------------------------------------------------------


def speed_markdown(run: Run) -> str:
    """Timing table as Markdown, or "" where nothing was timed."""
    rows = speed_rows(run)
    if not rows:
        return ""
    lines = [markdown_row(list(HEADS)), markdown_row(["---", "---", *["---:"] * (len(HEADS) - 2)])]
    lines += [markdown_row([markdown_text(cell) for cell in row]) for row in rows]
    return "\n".join(["## Speed (ms per query)", "", *lines, "", markdown_text(machine(run)), ""])


def speed_table(run: Run) -> Table | None:
    """Timing table for the terminal, or None where nothing was timed."""
    from rich.table import Table
    from rich.text import Text

    rows = speed_rows(run)
    if not rows:
        return None
    table = Table(title="latency, ms per query", title_justify="left", title_style="bold", **LEAN)
    told = [i for i in range(len(HEADS)) if i not in _TERMINAL_LEAVES_OUT and any(row[i] != "–" for row in rows)]
    for i in told:
        head = HEADS[i].replace("process", "\nprocess").replace("to end", "to\nend")
        table.add_column(head, justify="left" if i < 2 else "right", no_wrap=i > 0, overflow="fold")
    for row in rows:
        table.add_row(*(Text(row[i]) for i in told))
    table.caption = Text(machine(run))
    table.caption_justify = "left"
    return table


# -- figures -----------------------------------------------------------------------------------------------------------


def speed_figures(run: Run) -> list[Figure]:
    """Stages, distribution, and accuracy against latency where several models were timed."""
    timed = single_stream(run)
    if not timed:
        return []
    planes = [_plane_figure(run, dataset, timed) for dataset in run.datasets]
    return [_stage_figure(run, timed), _distribution_figure(run, timed), *(plane for plane in planes if plane)]


def _stage_figure(run: Run, timed: dict[str, Scenario]) -> Figure:
    places = tuple(float(i) for i in range(len(STAGES)))
    series = []
    for model, scenario in timed.items():
        medians = tuple(float(scenario["stages"][stage]["median_ms"]) for stage in STAGES)
        series.append(Series(model, run.models.index(model), places, medians, "bars"))
    return Figure(
        name="latency-stages",
        title="Latency by stage, one face at a time",
        x_label="stage",
        y_label="median, ms",
        x_range=(-0.5, len(STAGES) - 0.5),
        y_range=(0.0, upper_end([value for part in series for value in part.y])),
        series=tuple(series),
        note="Medians of single-stream queries; the stages need not add up to the median of the whole.",
        y_unit=" ms",
        categories=tuple(stage.replace("_", " ") for stage in STAGES),
    )


def _distribution_figure(run: Run, timed: dict[str, Scenario]) -> Figure:
    shares = np.linspace(0.0, 100.0, 101)
    series = []
    for model, scenario in timed.items():
        times = np.asarray(scenario["latencies_ms"], np.float64)
        quantiles = np.quantile(times, shares / 100)
        series.append(Series(model, run.models.index(model), _tuple(shares), _tuple(quantiles)))
    top = upper_end([float(np.quantile(part.y, 0.99)) for part in series])
    return Figure(
        name="latency-distribution",
        title="Latency distribution, one face at a time",
        x_label="share of queries, %",
        y_label="latency at most, ms",
        x_range=(0.0, 100.0),
        y_range=(0.0, top),
        series=tuple(Series(s.name, s.index, s.x, tuple(min(y, top) for y in s.y)) for s in series),
        note="At 90 stands the latency that nine of ten queries stay under. A flat line is a steady model.",
        x_unit=" %",
        y_unit=" ms",
    )


def _plane_figure(run: Run, dataset: str, timed: dict[str, Scenario]) -> Figure | None:
    key = next(iter(headline_protocols(run, dataset)), None)
    if key is None:
        return None
    series = []
    for model in run.offered(dataset)[key]:
        mean, low, high = (run.value(model, dataset, key, "all", name) for name in ("mean", "ci95_low", "ci95_high"))
        if model in timed and math.isfinite(mean):
            x = float(timed[model]["stages"]["end_to_end"]["median_ms"])
            series.append(Series(model, run.models.index(model), (x,), (mean,), "labelled", (), (low,), (high,)))
    if len(series) < 2:
        return None
    series.sort(key=lambda one: one.x)
    series = [replace(one, below=place % 2 == 1) for place, one in enumerate(series)]
    unit = run.protocols[key].unit
    return Figure(
        name=f"accuracy-latency-{run.datasets.index(dataset)}",
        title="Accuracy against latency",
        subtitle=f"{dataset}, {short_name(run.protocols[key])}",
        x_label="median latency of one face, ms",
        y_label=f"mean error, {unit}",
        x_range=(0.0, upper_end([part.x[0] for part in series])),
        y_range=(0.0, upper_end([value for part in series for value in (*part.high, *part.y)])),
        series=tuple(series),
        note="Further down and left is better. Whiskers are 95 % intervals of the mean error.",
        x_unit=" ms",
        y_unit=f" {unit}",
        protocol=key,
    )


def _tuple(values: Any) -> tuple[float, ...]:
    return tuple(float(value) for value in values)
