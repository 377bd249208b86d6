"""What an evaluation shows on the terminal: errors by yaw bin and latencies."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from prnbench.report.run import read_run
from prnbench.report.speed import speed_table
from prnbench.report.tables import terminal_tables

if TYPE_CHECKING:
    from rich.console import RenderableType


def terminal(folder: Path | str) -> RenderableType:
    """Rich tables of a run folder: one of errors per data set, one of latencies."""
    from rich.console import Group

    run = read_run(Path(folder))
    tables = [*terminal_tables(run), speed_table(run)]
    return Group(*(part for table in tables if table is not None for part in ("", table)))
