"""Boards rendered from their entries: Markdown for each protocol, an index, and one sortable HTML page."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from prnbench.cards import EvalProtocol, dataset_names, load_card
from prnbench.files import write_text
from prnbench.leaderboard.entries import Entry, entry_files, read_entry
from prnbench.leaderboard.published import PublishedRow, load_published
from prnbench.leaderboard.ranks import ranks
from prnbench.report.figures import file_stem
from prnbench.report.page import protocol_text
from prnbench.report.page import render as render_page
from prnbench.report.run import SUBSETS, protocol_place, short_name
from prnbench.report.tables import markdown_row, markdown_text, number

NOTE = (
    "Generated from the entries by `prnbench leaderboard render`; do not edit. Rank = 1 + the number of models that "
    "are better beyond chance on the same faces (paired test, corrected for their number): models that cannot be told "
    "apart from the best share its rank."
)
PUBLISHED_NOTE = "Quoted from their sources, not reproduced here, made with other code and training data: not ranked."
NO_RANKING = "Ranked are these weights, not the papers' methods"
CEILING = "ceiling, not ranked"
CEILING_NOTE = "A ceiling is fitted to the ground truth and never looks at the image: no method reaches it."


@dataclass(frozen=True)
class Board:
    """Entries of one protocol on the very same faces, best first; beside them, unranked, ceilings and quoted rows."""

    dataset: str
    protocol: EvalProtocol
    entries: tuple[Entry, ...]
    ceilings: tuple[Entry, ...]
    published: tuple[PublishedRow, ...]

    @cached_property
    def ranks(self) -> list[int]:
        """Rank of each entry; entries that cannot be told apart share one."""
        return ranks([entry.table for entry in self.entries], self.protocol.key)

    @property
    def measured(self) -> tuple[Entry, ...]:
        """Entries and ceilings."""
        return self.entries + self.ceilings

    @property
    def faces(self) -> int:
        """Number of faces."""
        return int(self.measured[0].value("all", "n")) if self.measured else 0

    @property
    def title(self) -> str:
        """Data set and protocol in a few words."""
        return f"{load_card(self.dataset).title}: {short_name(self.protocol)}"


def boards(folder: Path) -> list[Board]:
    """All boards of a folder; entries on other faces (another digest of the data) are another board."""
    entries = [read_entry(path) for path in entry_files(folder)]
    found: list[Board] = []
    measured = {entry.facts["dataset"] for entry in entries}
    for dataset in sorted(dataset_names(), key=lambda name: (name not in measured, name)):
        quoted = [row for row in load_published().rows if row.dataset == dataset]
        for protocol in sorted(load_card(dataset).protocols, key=protocol_place):
            mine = [e for e in entries if (e.facts["dataset"], e.facts["protocol"]) == (dataset, protocol.key)]
            rows = tuple(sorted((row for row in quoted if row.protocol == protocol.key), key=_quoted_place))
            groups: dict[str, list[Entry]] = {}
            for entry in mine:
                groups.setdefault(str(entry.facts["digests"].get("data")), []).append(entry)
            ordered = sorted(groups.values(), key=lambda group: -group[0].value("all", "n"))
            found += [_board(dataset, protocol, group, rows) for group in ordered]
            found += [_board(dataset, protocol, [], rows)] if rows and not ordered else []
    return found


def _board(dataset: str, protocol: EvalProtocol, group: list[Entry], rows: tuple[PublishedRow, ...]) -> Board:
    ranked, ceilings = ([entry for entry in group if entry.is_ceiling == wanted] for wanted in (False, True))
    return Board(dataset, protocol, _best_first(ranked), _best_first(ceilings), rows)


def _best_first(entries: list[Entry]) -> tuple[Entry, ...]:
    return tuple(sorted(entries, key=lambda entry: (_last_if_nan(entry.value("all")), entry.model)))


def _quoted_place(row: PublishedRow) -> tuple[bool, float, str]:
    return "balanced" not in row.values, row.values.get("balanced", row.values.get("all", math.inf)), row.model


def _last_if_nan(value: float) -> float:
    return math.inf if math.isnan(value) else value


# -- files -------------------------------------------------------------------------------------------------------------


def render(folder: Path | str) -> list[Path]:
    """Write the Markdown of every board, the index and the HTML page; return the files."""
    texts = rendered(Path(folder))
    for path, text in texts.items():
        write_text(path, text)
    return list(texts)


def stale(folder: Path | str) -> list[Path]:
    """Generated files that are not what renders from the entries."""
    texts = rendered(Path(folder))
    return [path for path, text in texts.items() if not path.exists() or path.read_text(encoding="utf-8") != text]


def rendered(folder: Path) -> dict[Path, str]:
    """Every generated file with its text."""
    found = boards(folder)
    texts = {folder / "README.md": _index(found), folder / "index.html": _html(found)}
    for place in dict.fromkeys(_place(board) for board in found if board.measured):
        mine = [board for board in found if _place(board) == place]
        texts[folder / place / "README.md"] = _board_page(mine)
    return texts


def show(folder: Path | str) -> str:
    """The boards with entries as Markdown, for a terminal."""
    found = [board for board in boards(Path(folder)) if board.measured]
    return (
        "\n".join(f"## {board.title}, {board.faces} faces\n\n{_table(board)}" for board in found) or "No entries yet.\n"
    )


def _place(board: Board) -> Path:
    return Path(file_stem(board.dataset)) / board.protocol.key


# -- Markdown ----------------------------------------------------------------------------------------------------------


def _index(found: list[Board]) -> str:
    lines = ["# Leaderboards", "", NOTE, "", markdown_text(budget_note(found)), ""]
    for dataset in dict.fromkeys(board.dataset for board in found):
        mine = [board for board in found if board.dataset == dataset]
        lines += [f"## {markdown_text(load_card(dataset).title)}", ""]
        lines += _index_table([board for board in mine if board.measured])
        for board in mine:
            lines += _published_table(board)
    lines += _unstated()
    return "\n".join(lines).rstrip() + "\n"


def _index_table(found: list[Board]) -> list[str]:
    if not found:
        return ["No measured entries yet.", ""]
    lines = [markdown_row(["protocol", "faces", "entries", "first rank"]), markdown_row(["---", "---:", "---:", "---"])]
    for board in found:
        first = [entry for entry, rank in zip(board.entries, board.ranks, strict=True) if rank == 1]
        names = ", ".join(f"{markdown_text(e.model)} {number(e.value('all'), board.protocol.unit)}" for e in first)
        link = f"[{markdown_text(short_name(board.protocol))}]({_place(board).as_posix()}/README.md)"
        lines.append(markdown_row([link, str(board.faces), str(len(board.entries)), names]))
    return [*lines, ""]


def _board_page(found: list[Board]) -> str:
    protocol = found[0].protocol
    lines = [
        f"# {markdown_text(found[0].title)}",
        "",
        NOTE,
        "",
        markdown_text(budget_note(found)),
        "",
        f"**{markdown_text(protocol.title)}** (`{protocol.key}`)",
        "",
    ]
    lines += [protocol.text.strip(), ""]
    for board in found:
        lines += [f"## {board.faces} faces", "", _table(board)]
    return "\n".join([*lines, *_published_table(found[0])]).rstrip() + "\n"


def _table(board: Board) -> str:
    heads = ["rank", "model", *SUBSETS.values(), "95 % interval", "failed", "trained on", "date"]
    lines = [markdown_row(heads), markdown_row(["---:", "---", *["---:"] * (len(SUBSETS) + 2), "---", "---"])]
    ranked = zip(board.entries, board.ranks, strict=True)
    lines += [_line(str(rank), markdown_text(entry.model), entry) for entry, rank in ranked]
    lines += [_line("–", f"*{markdown_text(entry.model)}* ({CEILING})", entry) for entry in board.ceilings]
    return "\n".join([*lines, *(["", CEILING_NOTE] if board.ceilings else []), ""])


def _line(rank: str, name: str, entry: Entry) -> str:
    values = [number(entry.value(subset)) for subset in SUBSETS]
    cells = [rank, name, *values, _bounds(entry), f"{entry.value('all', 'failed'):.0f}"]
    return markdown_row([*cells, markdown_text(training_text(entry)), str(entry.facts["date"])])


def _bounds(entry: Entry) -> str:
    return f"[{number(entry.value('all', 'ci95_low'))}, {number(entry.value('all', 'ci95_high'))}]"


def training_text(entry: Entry) -> str:
    """What a model was trained on and with what budget, in words; of a ceiling, what it is."""
    if entry.is_ceiling:
        return str(entry.card.get("title") or "fitted to the ground truth")
    parts = [str(entry.facts.get(name) or "") for name in ("trained_on", "budget")]
    return "; ".join(filter(None, parts)) or "not stated"


def budget_note(found: list[Board]) -> str:
    """One line: what was ranked, and what each model was trained with."""
    trained: dict[str, list[str]] = {}
    for entry in sorted((entry for board in found for entry in board.entries), key=lambda entry: entry.model):
        models = trained.setdefault(training_text(entry), [])
        models += [] if entry.model in models else [entry.model]
    budgets = "; ".join(f"{', '.join(models)}: {text}" for text, models in trained.items())
    return f"{NO_RANKING}: each number depends on the training budget ({budgets})." if budgets else f"{NO_RANKING}."


def _published_table(board: Board) -> list[str]:
    if not board.published:
        return []
    heads = ["published", *SUBSETS.values(), "source"]
    lines = [f"### Published: {markdown_text(short_name(board.protocol))}", "", PUBLISHED_NOTE, ""]
    lines += [markdown_row(heads), markdown_row(["---", *["---:"] * len(SUBSETS), "---"])]
    return [*lines, *(_published_line(row) for row in board.published), ""]


def _published_line(row: PublishedRow) -> str:
    values = [_quoted(row.values.get(subset)) for subset in SUBSETS]
    return markdown_row([markdown_text(row.model), *values, markdown_text(_source(row))])


def _quoted(value: float | None) -> str:
    """A quoted number as its source prints it, at least two digits."""
    return "" if value is None else (f"{value:.2f}" if round(value, 2) == value else f"{value:g}")


def _source(row: PublishedRow) -> str:
    timed = "" if row.latency_ms is None else f" {row.latency_ms:g} ms on {row.latency_device or 'a device not named'}."
    return f"{row.source}.{' ' + row.note if row.note else ''}{timed}"


def _unstated() -> list[str]:
    published = load_published()
    lines = ["## Published numbers whose protocol is not fully known", "", PUBLISHED_NOTE, ""]
    for key, about in published.unstated.items():
        lines += [f"### {markdown_text(about['title'])}", "", markdown_text(about["text"]), ""]
        rows = sorted((row for row in published.rows if row.protocol == key), key=_quoted_place)
        lines += [
            markdown_row(["published", "data set", "all faces", "source"]),
            markdown_row(["---", "---", "---:", "---"]),
        ]
        for row in rows:
            cells = [markdown_text(row.model), markdown_text(row.dataset), _quoted(row.values.get("all"))]
            lines.append(markdown_row([*cells, markdown_text(_source(row))]))
        lines.append("")
    return lines


# -- HTML --------------------------------------------------------------------------------------------------------------


def _html(found: list[Board]) -> str:
    context: dict[str, Any] = {
        "title": "prnbench leaderboards",
        "note": NOTE.replace("`", ""),
        "budget_note": budget_note(found),
        "ceiling_note": CEILING_NOTE,
        "published_note": PUBLISHED_NOTE,
        "columns": list(SUBSETS.values()),
        "boards": [_html_board(board) for board in found],
    }
    return render_page("board.html.j2", **context)


def _html_board(board: Board) -> dict[str, Any]:
    return {
        "title": load_card(board.dataset).title,
        "protocol": protocol_text(board.protocol),
        "unit": board.protocol.unit,
        "faces": board.faces,
        "rows": [_html_row(entry, str(rank)) for entry, rank in zip(board.entries, board.ranks, strict=True)],
        "ceilings": [_html_row(entry, "–") for entry in board.ceilings],
        "published": [
            {"model": row.model, "cells": [_quoted(row.values.get(s)) for s in SUBSETS], "source": _source(row)}
            for row in board.published
        ],
    }


def _html_row(entry: Entry, rank: str) -> dict[str, Any]:
    cells = [{"text": number(entry.value(subset)), "sort": f"{entry.value(subset):.6f}"} for subset in SUBSETS]
    return {
        "rank": rank,
        "model": entry.model,
        "cells": cells,
        "interval": _bounds(entry),
        "failed": f"{entry.value('all', 'failed'):.0f}",
        "parameters": int(entry.card.get("parameters") or 0),
        "training": training_text(entry),
        "date": str(entry.facts["date"]),
    }
