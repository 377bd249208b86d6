"""The figures of a run: what they show, made from the per-sample table once, for the page and for the files."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from prnbench.metrics.ced import ced
from prnbench.report.figure import Figure, Series, upper_end
from prnbench.report.run import REGIONS, Run, headline_protocols, is_region, short_name

Array = NDArray[np.float64]

DOTS = 1500
"""At most so many dots a model; a larger table is thinned evenly, the median line is of all faces."""

LEVELS = 201
"""Points of a CED curve; reading off between them is exact to half a level."""


_SIZES = {"sqrt_box_68": "face size", "sqrt_box_points": "face size", "outer_interocular_3d": "eye distance"}


def run_figures(run: Run) -> list[Figure]:
    """All figures of the accuracy part of a report, data set by data set."""
    return [figure for dataset in run.datasets for figure in dataset_figures(run, dataset)]


def dataset_figures(run: Run, dataset: str) -> list[Figure]:
    """CED of each headline protocol, error against yaw, and the regions where they were measured."""
    protocols = headline_protocols(run, dataset)
    figures = [ced_figure(run, dataset, key) for key in protocols if run.protocols[key].unit == "%"]
    figures += [yaw_figure(run, dataset, key) for key in protocols if _has_yaw(run, dataset)]
    regions = region_figure(run, dataset)
    return figures + ([regions] if regions else [])


def file_stem(*parts: str) -> str:
    """A file name made of any texts: letters, digits, ``_`` and ``-`` only."""
    return "-".join(re.sub(r"[^A-Za-z0-9_.-]+", "_", part).strip("_.")[:60] or "x" for part in parts)


def ced_figure(run: Run, dataset: str, protocol: str) -> Figure:
    """Cumulative share of faces under each error; faces without a prediction never come in."""
    models = run.offered(dataset)[protocol]
    errors = {model: run.errors(model, dataset, protocol) for model in models}
    end = _ced_end(errors.values())
    levels = np.linspace(0.0, end, LEVELS)
    series = [
        Series(model, run.models.index(model), _tuple(levels), _tuple(ced(errors[model], levels))) for model in models
    ]
    return Figure(
        name=file_stem("ced", dataset, protocol),
        title=f"{dataset}: share of faces under an error",
        subtitle=short_name(run.protocols[protocol]),
        x_label=f"error, % of {_SIZES.get(run.protocols[protocol].normaliser, 'size')}",
        y_label="faces, %",
        x_range=(0.0, end),
        y_range=(0.0, 100.0),
        series=tuple(series),
        note="Further up and left is better. Faces without a prediction count as infinitely wrong.",
        x_unit=" %",
        y_unit=" %",
        protocol=protocol,
    )


def _ced_end(errors: Iterable[Array]) -> float:
    """The usual 10 %, or more where even the best model's better half would not show."""
    medians = [float(np.median(values)) for values in errors]
    least = min((median for median in medians if math.isfinite(median)), default=0.0)
    return 10.0 if least < 6.0 else upper_end([1.7 * least])


def _has_yaw(run: Run, dataset: str) -> bool:
    rows = run.table.rows
    return bool(rows.loc[rows["dataset"] == dataset, "yaw_fitted_deg"].notna().any())


def yaw_figure(run: Run, dataset: str, protocol: str) -> Figure:
    """Every face's error against its signed yaw, with the running median of each model."""
    series: list[Series] = []
    medians: list[Series] = []
    unit = run.protocols[protocol].unit
    column = "yaw_aflw_deg" if run.protocols[protocol].yaw_source == "aflw" else "yaw_fitted_deg"
    for model in run.offered(dataset)[protocol]:
        rows = run.rows(model, dataset)
        rows = rows[rows[protocol].notna() & rows[column].notna()]
        yaw, error = rows[column].to_numpy(np.float64), rows[protocol].to_numpy(np.float64)
        kept = _thinned(np.flatnonzero(np.isfinite(error)), DOTS)
        labels = tuple(str(name) for name in rows["id"].to_numpy()[kept])
        index = run.models.index(model)
        series.append(Series(model, index, _tuple(yaw[kept]), _tuple(error[kept]), "dots", labels))
        places, middle = running_median(yaw, error)
        medians.append(Series(model, index, places, middle))
    top = upper_end([_quantile(part.y, 0.99) for part in series])
    return Figure(
        name=file_stem("yaw", dataset, protocol),
        title=f"{dataset}: error against yaw",
        subtitle=short_name(run.protocols[protocol]),
        x_ticks=(-90.0, -60.0, -30.0, 0.0, 30.0, 60.0, 90.0),
        x_label="yaw, degrees",
        y_label=f"error, {unit}",
        x_range=(-90.0, 90.0),
        y_range=(0.0, top),
        series=tuple(_clipped(part, top) for part in series) + tuple(medians),
        note=_yaw_note(series, top, unit),
        x_unit="°",
        y_unit=f" {unit}",
        protocol=protocol,
    )


def _yaw_note(series: list[Series], top: float, unit: str) -> str:
    above = sum(y > top for part in series for y in part.y)
    dots = "1 dot above {0} is" if above == 1 else f"{above} dots above {{0}} are"
    rest = f" {dots.format(f'{top:g} {unit}')} drawn at the upper edge." if above else ""
    return f"One dot a face; lines are running medians over 15° in which failed faces count as infinite.{rest}"


def _clipped(series: Series, top: float) -> Series:
    inside = tuple(max(-90.0, min(90.0, x)) for x in series.x)
    capped = tuple(min(y, top) for y in series.y)
    return Series(series.name, series.index, inside, capped, series.style, series.labels)


def running_median(
    yaw_deg: Array, error: Array, half_width: float = 7.5, least: int = 5
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Median error of the faces within ``half_width`` degrees, every 5 degrees; NaN with fewer than ``least`` faces."""
    places = np.arange(-90.0, 90.1, 5.0)
    near = [error[np.abs(yaw_deg - place) <= half_width] for place in places]
    medians = [float(np.median(values)) if len(values) >= least else math.nan for values in near]
    return _tuple(places), tuple(medians)


def region_figure(run: Run, dataset: str) -> Figure | None:
    """Mean error of each face region with its interval, or None where regions were not measured."""
    keys = [key for key in run.offered(dataset) if is_region(run.protocols[key])]
    if not keys:
        return None
    keys.sort(key=lambda key: REGIONS.index(run.protocols[key].points))
    series = []
    for model in run.models:
        ends = [
            [run.value(model, dataset, key, "all", name) for key in keys] for name in ("mean", "ci95_low", "ci95_high")
        ]
        if any(math.isfinite(value) for value in ends[0]):
            places = _tuple(np.arange(len(keys), dtype=np.float64))
            value, low, high = (tuple(end) for end in ends)
            series.append(Series(model, run.models.index(model), places, value, "bars", low=low, high=high))
    unit = run.protocols[keys[0]].unit
    tops = [value for part in series for value in (*part.high, *part.y)]
    return Figure(
        name=file_stem("regions", dataset),
        title=f"{dataset}: error by region of the face",
        subtitle="2D, landmarks of each region",
        x_label="region",
        y_label=f"mean error, {unit}",
        x_range=(-0.5, len(keys) - 0.5),
        y_range=(0.0, upper_end(tops)),
        series=tuple(series),
        note="Whiskers are 95 % intervals of the mean. All regions are divided by the size of the whole face.",
        y_unit=f" {unit}",
        categories=tuple(run.protocols[key].points for key in keys),
        protocol=keys[0],
    )


def _tuple(values: Iterable[float]) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


def _thinned(indices: NDArray[np.intp], most: int) -> NDArray[np.intp]:
    if len(indices) <= most:
        return indices
    kept: NDArray[np.intp] = indices[np.linspace(0, len(indices) - 1, most).astype(np.intp)]
    return kept


def _quantile(values: tuple[float, ...], share: float) -> float:
    return float(np.quantile(values, share)) if values else 0.0
