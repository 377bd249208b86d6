"""What a figure shows, described once: ``charts`` draws it into the page, ``plots`` into SVG and PNG files."""

from __future__ import annotations

import math
from dataclasses import dataclass

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#767676")
"""Okabe and Ito's colour-blind-safe palette; a model keeps its colour in all figures of a report."""

DASHES = ((), (6, 2.5), (1.5, 1.8), (7, 2, 1.5, 2), (3, 1.5))
"""Line patterns that go with the colours, so that a figure also reads in grey. Of another length on purpose."""

FEW_DOTS = 60
"""Up to so many dots are drawn larger."""


@dataclass(frozen=True, slots=True)
class Series:
    """One model's part of a figure.

    Attributes
    ----------
    name
        What the legend says.
    index
        Position of the model in the report: selects colour and dash.
    x, y
        Data coordinates; for bars x is the position of the category.
    style
        ``line``, ``dots``, ``bars`` or ``labelled`` (one dot with its name beside it).
    labels
        One text a point, shown when the reader points at it.
    low, high
        Ends of the whiskers of each point, in the unit of y.
    below
        The name of a ``labelled`` dot stands under it, so that neighbours' names do not cover each other.
    """

    name: str
    index: int
    x: tuple[float, ...]
    y: tuple[float, ...]
    style: str = "line"
    labels: tuple[str, ...] = ()
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    below: bool = False


@dataclass(frozen=True, slots=True)
class Figure:
    """Axes, series and the sentence that says how to read them.

    Attributes
    ----------
    name
        File stem, unique in a report.
    x_unit, y_unit
        Appended to values that are read off (``%``, ``ms``).
    categories
        Names on the x axis of a bar figure.
    subtitle
        What the numbers are, in a few words.
    protocol
        Key of the protocol of the numbers, or "".
    x_ticks
        Marks of the x axis where round numbers are not wanted.
    """

    name: str
    title: str
    x_label: str
    y_label: str
    x_range: tuple[float, float]
    y_range: tuple[float, float]
    series: tuple[Series, ...]
    note: str = ""
    x_unit: str = ""
    y_unit: str = ""
    categories: tuple[str, ...] = ()
    subtitle: str = ""
    protocol: str = ""
    x_ticks: tuple[float, ...] = ()

    @property
    def kind(self) -> str:
        """``bars``, ``dots``, ``labelled`` or ``line``: how values are read off."""
        styles = {series.style for series in self.series}
        return next((kind for kind in ("bars", "dots", "labelled") if kind in styles), "line")


def x_marks(figure: Figure) -> list[float]:
    """Marks of the x axis."""
    return list(figure.x_ticks) or ticks(*figure.x_range, 6)


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) inside the range, about this many."""
    if not (math.isfinite(low) and math.isfinite(high)) or high <= low:
        return [low] if math.isfinite(low) else []
    raw = (high - low) / max(about, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = power * next(factor for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(i * step, 10) for i in range(first, last + 1)]


def upper_end(values: list[float], floor: float = 0.0) -> float:
    """Upper end of an axis that starts at zero: the next tick above the largest finite value."""
    largest = max([v for v in values if math.isfinite(v)] + [floor]) or 1.0
    marks = ticks(0.0, largest * 1.0001)
    step = marks[1] - marks[0] if len(marks) > 1 else largest
    return float(math.ceil(largest * 1.0001 / step) * step)
