"""Figures as SVG and PNG files by matplotlib, byte-equal for equal data (fixed hash salt, no dates)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prnbench.files import make_folder, replacing
from prnbench.report.figure import COLOURS, DASHES, FEW_DOTS, Figure, Series, ticks, x_marks

STYLE = {
    "svg.hashsalt": "prnbench",
    "svg.fonttype": "path",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "text.usetex": False,
    "text.parse_math": False,
    "savefig.facecolor": "white",
}


def write_figures(figures: list[Figure], folder: Path) -> list[Path]:
    """Write every figure as ``<name>.svg`` and ``<name>.png`` and return the paths."""
    make_folder(folder)
    return [path for figure in figures for path in write_figure(figure, folder)]


def write_figure(figure: Figure, folder: Path) -> list[Path]:
    """Write one figure as SVG (vector) and PNG (150 dpi)."""
    paths = [folder / f"{figure.name}.svg", folder / f"{figure.name}.png"]
    with _drawn(figure) as canvas:
        for path, metadata in zip(paths, ({"Date": None, "Creator": None}, {"Software": None}), strict=True):
            with replacing(path) as temporary:
                canvas.savefig(temporary, format=path.suffix[1:], dpi=150, metadata=metadata)
    return paths


@contextmanager
def _drawn(figure: Figure) -> Iterator[Any]:
    import matplotlib
    from matplotlib.figure import Figure as Canvas

    with matplotlib.rc_context(STYLE):
        canvas = Canvas(figsize=(5.4, 3.7), layout="constrained")
        axes = canvas.add_subplot()
        draw: dict[str, Callable[..., None]] = {"line": _line, "dots": _dots, "bars": _bars, "labelled": _labelled}
        for order, series in enumerate(figure.series):
            draw[series.style](axes, series, order, len(figure.series))
        _decorate(canvas, axes, figure)
        _legend(canvas, axes, figure)
        yield canvas


def _decorate(canvas: Any, axes: Any, figure: Figure) -> None:
    axes.set(xlim=figure.x_range, ylim=figure.y_range, xlabel=figure.x_label, ylabel=figure.y_label)
    canvas.suptitle(figure.title, fontsize=10.5, x=0.01, horizontalalignment="left")
    axes.set_title(figure.subtitle, fontsize=9, loc="left", color="#555555")
    axes.set_yticks(ticks(*figure.y_range))
    if figure.categories:
        axes.set_xticks(range(len(figure.categories)), [name[:24] for name in figure.categories])
        axes.grid(axis="x", visible=False)
    else:
        axes.set_xticks(x_marks(figure))


def _legend(canvas: Any, axes: Any, figure: Figure) -> None:
    handles, names = axes.get_legend_handles_labels()
    if figure.kind != "labelled" and handles:
        canvas.legend(handles, [n[:40] for n in names], loc="outside lower center", ncols=min(len(names), 3))


def _colour(series: Series) -> str:
    return COLOURS[series.index % len(COLOURS)]


def _line(axes: Any, series: Series, *_: int) -> None:
    dash = DASHES[series.index % len(DASHES)]
    style = (0, dash) if dash else "-"
    axes.plot(series.x, series.y, color=_colour(series), linestyle=style, linewidth=1.8, label=_literal(series.name))


def _dots(axes: Any, series: Series, *_: int) -> None:
    size, alpha = (22, 0.75) if len(series.x) <= FEW_DOTS else (7, 0.35)
    axes.scatter(series.x, series.y, s=size, color=_colour(series), alpha=alpha, linewidths=0)


def _bars(axes: Any, series: Series, order: int, count: int) -> None:
    width = 0.8 / count
    middle = [x - 0.4 + (order + 0.5) * width for x in series.x]
    axes.bar(middle, series.y, width * 0.92, color=_colour(series), label=_literal(series.name))
    _whiskers(axes, middle, series)


def _labelled(axes: Any, series: Series, *_: int) -> None:
    axes.plot(series.x, series.y, "o", color=_colour(series), markersize=6)
    _whiskers(axes, list(series.x), series)
    offset = (7, -11) if series.below else (7, 4)
    for x, y in zip(series.x, series.y, strict=True):
        axes.annotate(_literal(series.name[:32]), (x, y), xytext=offset, textcoords="offset points", fontsize=8)


def _whiskers(axes: Any, x: list[float], series: Series) -> None:
    for place, low, high in zip(x, series.low, series.high, strict=False):
        if math.isfinite(low) and math.isfinite(high):
            axes.plot([place, place], [low, high], color="#333333", linewidth=1)


def _literal(name: str) -> str:
    """A name that matplotlib shows as it is: no leading underscore that would drop it from the legend."""
    return f" {name}" if name.startswith("_") else name
