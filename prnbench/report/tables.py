"""The accuracy table by yaw bin, as rows and as terminal, Markdown, LaTeX and CSV text."""

from __future__ import annotations

import csv
import html
import io
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prnbench.metrics.stats import STATISTICS
from prnbench.report.run import SUBSETS, Run, headline_protocols, is_region, short_name

if TYPE_CHECKING:
    from rich.table import Table

NOT_OFFERED = "not offered"
LEAN: dict[str, Any] = {"box": None, "padding": (0, 2, 0, 0), "header_style": "dim", "pad_edge": False}
"""Style of terminal tables: no lines, two spaces between columns."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One mean with its 95 % interval; NaN where there is none."""

    value: float
    low: float
    high: float
    n: int
    failed: int
    best: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """One model under one protocol: a cell per subset, or nothing where the model does not offer it."""

    dataset: str
    protocol: str
    model: str
    unit: str
    cells: dict[str, Cell]

    @property
    def offered(self) -> bool:
        """Whether the model has numbers here."""
        return bool(self.cells)

    @property
    def all_faces(self) -> Cell:
        """The cell of all faces."""
        return self.cells["all"]


def accuracy_rows(run: Run, dataset: str, *, regions: bool = False) -> list[Row]:
    """Rows of one data set, protocol by protocol, models in the table's order.

    The smallest mean of a column is marked best if there is more than one model; ceilings are not counted.
    """
    rows: list[Row] = []
    models = [model for place, model in run.pairs() if place == dataset]
    for key in run.offered(dataset):
        if is_region(run.protocols[key]) != regions:
            continue
        cells = {model: _cells(run, model, dataset, key) for model in models}
        methods = {model: found for model, found in cells.items() if model not in run.ceilings}
        best = {subset: _best(methods, subset) for subset in SUBSETS}
        for model in models:
            marked = {s: _marked(cell, best[s]) if model in methods else cell for s, cell in cells[model].items()}
            rows.append(Row(dataset, key, model, run.protocols[key].unit, marked))
    return rows


def _cells(run: Run, model: str, dataset: str, protocol: str) -> dict[str, Cell]:
    cells = {}
    for subset in SUBSETS:
        record = run.record(model, dataset, protocol, subset, "auc_8" if subset == "all" else "mean")
        if record is not None:
            place = (model, dataset, protocol, subset)
            mean, low, high = (run.value(*place, name) for name in ("mean", "ci95_low", "ci95_high"))
            cells[subset] = Cell(mean, low, high, record["n"], record["failed"])
    return cells


def _best(cells: dict[str, dict[str, Cell]], subset: str) -> float:
    values = [of_model[subset].value for of_model in cells.values() if subset in of_model]
    finite = [value for value in values if math.isfinite(value)]
    return min(finite) if len(finite) > 1 else math.nan


def _marked(cell: Cell, best: float) -> Cell:
    return Cell(cell.value, cell.low, cell.high, cell.n, cell.failed, cell.value == best)


def number(value: float, unit: str = "") -> str:
    """A value as it is printed: two digits after the point, a dash where there is none."""
    if not math.isfinite(value):
        return "–"
    shown = f"{value:.2f}".replace("-", "\N{MINUS SIGN}")
    return f"{shown} {unit}".rstrip()


def interval(cell: Cell) -> str:
    """``[2.91, 3.20]``, or nothing where there is no interval."""
    if not (math.isfinite(cell.low) and math.isfinite(cell.high)):
        return ""
    return f"[{number(cell.low)}, {number(cell.high)}]"


# -- terminal ----------------------------------------------------------------------------------------------------------


def terminal_tables(run: Run) -> list[Table]:
    """Rich tables for the terminal: one per data set; of several models the headline protocols only."""
    return [_terminal_table(run, dataset) for dataset in run.datasets]


def _terminal_table(run: Run, dataset: str) -> Table:
    from rich.table import Table
    from rich.text import Text

    rows = accuracy_rows(run, dataset)
    several = len({row.model for row in rows}) > 1
    if several:
        main = headline_protocols(run, dataset)
        rows = [row for row in rows if row.protocol in main]
    failed = any(row.offered and row.all_faces.failed for row in rows)
    title = Text(f"{dataset}: mean error of {run.faces(dataset)} faces by yaw (smaller is better)")
    table = Table(title=title, title_justify="left", title_style="bold", **LEAN)
    table.caption = Text("z mean, z min: depth moved so that its mean or least is 0; z raw: as it is")
    table.caption_justify = "left"
    table.add_column("protocol", overflow="fold")
    for heading in (*_NARROW, "95 % interval", *(["failed"] if failed else [])):
        table.add_column(heading, justify="right", no_wrap=True)
    before = None
    for row in rows:
        name = Text(f"{_narrow_name(run, row.protocol)}, {row.unit}")
        if several and row.protocol != before:
            table.add_row(name.copy())
        first = Text(f"  {row.model}") if several else name
        table.add_row(first, *_terminal_cells(row, failed))
        before = row.protocol
    return table


_NARROW = ("0–30°", "30–60°", "60–90°", "mean of\nbins", "all\nfaces")
_ABBREVIATIONS = {
    " · ": " ",
    "68 points": "68",
    "z: mean to 0": "z mean",
    "z: min to 0": "z min",
    "z as it is": "z raw",
}


def _narrow_name(run: Run, protocol: str) -> str:
    """The protocol's short name for a terminal of 80 columns."""
    name = short_name(run.protocols[protocol])
    for long, short in _ABBREVIATIONS.items():
        name = name.replace(long, short)
    return name


def _terminal_cells(row: Row, failed: bool) -> list[Any]:
    from rich.text import Text

    if not row.offered:
        return [""] * len(SUBSETS) + [Text(NOT_OFFERED, style="dim")]
    cells = [row.cells.get(subset) for subset in SUBSETS]
    shown = ["–" if cell is None else number(cell.value) for cell in cells]
    best = [cell is not None and cell.best for cell in cells]
    styled = [Text(text, style="bold green" if mark else "") for text, mark in zip(shown, best, strict=True)]
    return [*styled, interval(row.all_faces), *([str(row.all_faces.failed)] if failed else [])]


# -- Markdown ----------------------------------------------------------------------------------------------------------


def markdown_text(text: str) -> str:
    """Text that Markdown and the HTML in it show as it is, on one line."""
    plain = html.escape(" ".join(text.split()), quote=False)
    return "".join(f"\\{c}" if c in "\\`*_[]|#~" else c for c in plain)


def markdown_table(run: Run, dataset: str, *, regions: bool = False) -> str:
    """GitHub-flavoured table of one data set; empty if there is nothing to show."""
    rows = accuracy_rows(run, dataset, regions=regions)
    if not rows:
        return ""
    heads = ["protocol", "model", *SUBSETS.values(), "95 % interval", "faces", "failed"]
    lines = [markdown_row(heads), markdown_row(["---", "---"] + ["---:"] * (len(heads) - 2))]
    for row in rows:
        name = f"{short_name(run.protocols[row.protocol])}, {row.unit}"
        lines.append(markdown_row([markdown_text(name), markdown_text(row.model), *_markdown_cells(row)]))
    return "\n".join(lines) + "\n"


def _markdown_cells(row: Row) -> list[str]:
    if not row.offered:
        return [""] * (len(SUBSETS) - 1) + [NOT_OFFERED, "", "", ""]
    cells = [row.cells.get(subset) for subset in SUBSETS]
    shown = ["–" if cell is None else _bold(number(cell.value), cell.best) for cell in cells]
    return [*shown, interval(row.all_faces), str(row.all_faces.n), str(row.all_faces.failed)]


def _bold(text: str, strong: bool) -> str:
    return f"**{text}**" if strong else text


def markdown_row(cells: list[str]) -> str:
    """One line of a Markdown table, from cells that are Markdown already."""
    return f"| {' | '.join(cells)} |"


# -- LaTeX -------------------------------------------------------------------------------------------------------------

_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "°": r"$^\circ$", "–": "--", "·": r"$\cdot$", "\N{MINUS SIGN}": "$-$",
}  # fmt: skip


def latex_text(text: str) -> str:
    """Text that LaTeX prints as it is, on one line."""
    return "".join(_LATEX.get(c, c) for c in " ".join(text.split()))


def latex_table(run: Run) -> str:
    """One ``table`` environment per data set, with booktabs rules; the caption names faces and protocols."""
    return "% needs \\usepackage{booktabs}\n" + "\n".join(_latex_table(run, dataset) for dataset in run.datasets)


def _latex_table(run: Run, dataset: str) -> str:
    rows = accuracy_rows(run, dataset)
    keys = list(dict.fromkeys(row.protocol for row in rows))
    heads = " & ".join(["Method", *(latex_text(name) for name in SUBSETS.values())])
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{Mean error on {latex_text(dataset)} ({run.faces(dataset)} faces); smaller is better. "
        rf"Protocols: {latex_text(', '.join(keys))}.}}",
        rf"\begin{{tabular}}{{l{'r' * len(SUBSETS)}}}",
        r"\toprule",
        rf"{heads} \\",
    ]
    before = None
    for row in rows:
        if row.protocol != before:
            name = latex_text(f"{short_name(run.protocols[row.protocol])} ({row.unit})")
            lines += [r"\midrule", rf"\multicolumn{{{len(SUBSETS) + 1}}}{{l}}{{\emph{{{name}}}}} \\"]
        lines.append(rf"{latex_text(row.model)} & {' & '.join(_latex_cells(row))} \\")
        before = row.protocol
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])


def _latex_cells(row: Row) -> list[str]:
    if not row.offered:
        return ["--"] * len(SUBSETS)
    cells = [row.cells.get(subset) for subset in SUBSETS]
    shown = [latex_text("–" if cell is None else number(cell.value)) for cell in cells]
    marked = [cell is not None and cell.best for cell in cells]
    return [rf"\textbf{{{text}}}" if best else text for text, best in zip(shown, marked, strict=True)]


# -- CSV ---------------------------------------------------------------------------------------------------------------


def csv_table(run: Run) -> str:
    """Every statistic of every subset, six digits, one line per model, data set, protocol and subset."""
    names = ("dataset", "protocol", "model", "subset", "unit", "n", "failed", *STATISTICS)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(names)
    for dataset in run.datasets:
        for row in accuracy_rows(run, dataset) + accuracy_rows(run, dataset, regions=True):
            for subset, cell in row.cells.items():
                place = (row.model, dataset, row.protocol, subset)
                values = [run.value(*place, name) for name in STATISTICS]
                shown = ["" if math.isnan(value) else f"{value:.6g}" for value in values]
                head = [_spreadsheet_safe(text) for text in (dataset, row.protocol, row.model)]
                writer.writerow([*head, subset, row.unit, cell.n, cell.failed, *shown])
    return out.getvalue()


def _spreadsheet_safe(text: str) -> str:
    """A text that no spreadsheet takes for a formula."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text
