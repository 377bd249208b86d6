"""Figures as inline SVG for the page: they follow its colours, light and dark, and can be read off by pointer.

The drawing is complete without JavaScript; ``report.js`` only adds the reading of values.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from prnbench.report.figure import COLOURS, DASHES, FEW_DOTS, Figure, Series, ticks, x_marks

WIDTH, HEIGHT = 460.0, 300.0
LEFT, RIGHT, TOP, BOTTOM = 50.0, 17.0, 10.0, 42.0


@dataclass(frozen=True, slots=True)
class Frame:
    """Map from data coordinates to SVG units."""

    x_range: tuple[float, float]
    y_range: tuple[float, float]

    def x(self, value: float) -> float:
        """SVG x of a data value."""
        low, high = self.x_range
        return LEFT + (value - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        """SVG y of a data value (SVG's y points down)."""
        low, high = self.y_range
        return HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - TOP - BOTTOM)


def chart(figure: Figure) -> Markup:
    """The figure as one ``<svg>`` element; every text is escaped."""
    frame = Frame(figure.x_range, figure.y_range)
    draw = {"line": _line, "dots": _dots, "bars": _bars, "labelled": _labelled}
    marks = [draw[series.style](series, frame, slot) for series, slot in _slots(figure)]
    return Markup(
        '<svg viewBox="0 0 {:g} {:g}" role="img" tabindex="0" aria-label="{}"><title>{}</title>{}{}{}</svg>'
    ).format(WIDTH, HEIGHT, _title(figure), _title(figure), _axes(figure, frame), Markup("").join(marks), _reader())


def _title(figure: Figure) -> str:
    return f"{figure.title}, {figure.subtitle}" if figure.subtitle else figure.title


def chart_data(figure: Figure) -> dict[str, Any]:
    """What ``report.js`` needs to read values off the figure (embedded as escaped JSON)."""
    frame = Frame(figure.x_range, figure.y_range)
    readable = [(series, slot) for series, slot in _slots(figure) if series.style == figure.kind]
    return {
        "kind": figure.kind,
        "plot": [LEFT, TOP, WIDTH - RIGHT, HEIGHT - BOTTOM],
        "xRange": figure.x_range,
        "xUnit": figure.x_unit,
        "yUnit": figure.y_unit,
        "xLabel": figure.x_label,
        "categories": figure.categories,
        "series": [_readable(series, frame, slot) for series, slot in readable],
    }


MOST_IN_A_ROW = 8
"""More names of categories than this stand in two rows."""

Slot = tuple[float, float]
"""Offset and width, in categories, of a series' bars beside those of the other series."""


def _slots(figure: Figure) -> list[tuple[Series, Slot]]:
    width = 0.8 / max(len(figure.series), 1)
    return [(series, (-0.4 + i * width, width)) for i, series in enumerate(figure.series)]


def _readable(series: Series, frame: Frame, slot: Slot) -> dict[str, Any]:
    shift = slot[0] + slot[1] / 2 if series.style == "bars" else 0.0
    points = list(zip(series.x, series.y, strict=True))
    return {
        "name": series.name,
        "index": series.index % len(COLOURS),
        "x": [_finite(x, 4) for x, _ in points],
        "y": [_finite(y, 4) for _, y in points],
        "px": [_finite(frame.x(x + shift), 1) for x, _ in points],
        "py": [_finite(frame.y(y), 1) for _, y in points],
        "labels": series.labels,
    }


def _finite(value: float, digits: int) -> float | None:
    return round(float(value), digits) if math.isfinite(value) else None


def _reader() -> Markup:
    return Markup(
        '<g class="reader" visibility="hidden"><line class="guide" y1="{:g}" y2="{:g}"/>'
        '<circle class="ring" r="6"/></g>'
    ).format(TOP, HEIGHT - BOTTOM)


def _axes(figure: Figure, frame: Frame) -> Markup:
    parts = [_y_tick(value, frame) for value in ticks(*figure.y_range)]
    if figure.categories:
        parts += [_category(i, name, frame, len(figure.categories)) for i, name in enumerate(figure.categories)]
    else:
        parts += [_x_tick(value, frame) for value in x_marks(figure)]
    middle_x, middle_y = (LEFT + WIDTH - RIGHT) / 2, (TOP + HEIGHT - BOTTOM) / 2
    parts.append(
        Markup('<line class="axis" x1="{0:g}" x2="{1:g}" y1="{2:g}" y2="{2:g}"/>').format(
            LEFT, WIDTH - RIGHT, HEIGHT - BOTTOM
        )
    )
    label = figure.x_label if len(figure.categories) <= MOST_IN_A_ROW else ""  # two rows of names leave no room
    parts.append(
        Markup('<text class="label" x="{:g}" y="{:g}" text-anchor="middle">{}</text>').format(
            middle_x, HEIGHT - 6, label
        )
    )
    parts.append(
        Markup('<text class="label" transform="translate(13 {:g}) rotate(-90)" text-anchor="middle">{}</text>').format(
            middle_y, figure.y_label
        )
    )
    return Markup("").join(parts)


def _x_tick(value: float, frame: Frame) -> Markup:
    x = frame.x(value)
    return Markup(
        '<line class="grid" x1="{0:.1f}" x2="{0:.1f}" y1="{1:g}" y2="{2:g}"/>'
        '<text class="tick" x="{0:.1f}" y="{3:g}" text-anchor="middle">{4}</text>'
    ).format(x, TOP, HEIGHT - BOTTOM, HEIGHT - BOTTOM + 15, _number(value))


def _y_tick(value: float, frame: Frame) -> Markup:
    y = frame.y(value)
    return Markup(
        '<line class="grid" x1="{1:g}" x2="{2:g}" y1="{0:.1f}" y2="{0:.1f}"/>'
        '<text class="tick" x="{3:g}" y="{4:.1f}" text-anchor="end">{5}</text>'
    ).format(y, LEFT, WIDTH - RIGHT, LEFT - 6, y + 4, _number(value))


def _category(position: int, name: str, frame: Frame, count: int) -> Markup:
    rows = 1 + (count > MOST_IN_A_ROW)
    limit = max(4, int(66 * rows / count))
    short = name if len(name) <= limit else name[: limit - 1] + "…"
    return Markup('<text class="tick" x="{:.1f}" y="{:g}" text-anchor="middle">{}<title>{}</title></text>').format(
        frame.x(position), HEIGHT - BOTTOM + 15 + 16 * (position % rows), short, name
    )


def _number(value: float) -> str:
    return f"{value:g}".replace("-", "\N{MINUS SIGN}")


def _line(series: Series, frame: Frame, _: Slot) -> Markup:
    path = ""
    pen_down = False
    for x, y in zip(series.x, series.y, strict=True):
        if math.isfinite(x) and math.isfinite(y):
            path += f"{'L' if pen_down else 'M'}{frame.x(x):.1f} {frame.y(y):.1f}"
        pen_down = math.isfinite(x) and math.isfinite(y)
    dash = " ".join(f"{length:g}" for length in DASHES[series.index % len(DASHES)])
    return Markup('<path class="line s{}" stroke-dasharray="{}" d="{}"/>').format(
        series.index % len(COLOURS), dash or "none", path
    )


def _dots(series: Series, frame: Frame, _: Slot) -> Markup:
    # Zero-length strokes with round caps: one element for thousands of dots.
    path = "".join(
        f"M{frame.x(x):.1f} {frame.y(min(y, frame.y_range[1])):.1f}h0"
        for x, y in zip(series.x, series.y, strict=True)
        if math.isfinite(x) and math.isfinite(y)
    )
    few = " few" if len(series.x) <= FEW_DOTS else ""
    return Markup('<path class="dots{} s{}" d="{}"/>').format(few, series.index % len(COLOURS), path)


def _bars(series: Series, frame: Frame, slot: Slot) -> Markup:
    parts = []
    whiskers = list(zip(series.low, series.high, strict=True)) or [(math.nan, math.nan)] * len(series.x)
    for x, y, (low, high) in zip(series.x, series.y, whiskers, strict=True):
        if not math.isfinite(y):
            continue
        left, right = frame.x(x + slot[0]), frame.x(x + slot[0] + slot[1])
        parts.append(
            Markup('<rect class="bar s{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"/>').format(
                series.index % len(COLOURS), left, frame.y(y), max(right - left - 1.5, 1), frame.y(0) - frame.y(y)
            )
        )
        parts.append(_whisker((left + right - 1.5) / 2, low, high, frame))
    return Markup("").join(parts)


def _whisker(x: float, low: float, high: float, frame: Frame) -> Markup:
    if not (math.isfinite(low) and math.isfinite(high)):
        return Markup("")
    return Markup('<path class="whisker" d="M{0:.1f} {1:.1f}V{2:.1f}M{3:.1f} {1:.1f}h6M{3:.1f} {2:.1f}h6"/>').format(
        x, frame.y(low), frame.y(high), x - 3
    )


def _labelled(series: Series, frame: Frame, _: Slot) -> Markup:
    parts = []
    whiskers = list(zip(series.low, series.high, strict=True)) or [(math.nan, math.nan)] * len(series.x)
    for x, y, (low, high) in zip(series.x, series.y, whiskers, strict=True):
        if not (math.isfinite(x) and math.isfinite(y)):
            continue
        px, py = frame.x(x), frame.y(y)
        left_half = px < (LEFT + WIDTH) / 2
        parts.append(_whisker(px, low, high, frame))
        parts.append(
            Markup(
                '<circle class="dot s{}" cx="{:.1f}" cy="{:.1f}" r="5"/>'
                '<text class="name" x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>'
            ).format(
                series.index % len(COLOURS), px, py, px + (9 if left_half else -9), py + (15 if series.below else -6),
                "start" if left_half else "end", series.name[:32],
            )
        )  # fmt: skip
    return Markup("").join(parts)
