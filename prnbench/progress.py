"""One progress bar for every step that takes longer than a second: rate and time left, on stderr."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.console import Console

T = TypeVar("T")


@cache
def console() -> Console:
    """The console that talks to the user (stderr: stdout stays free for results)."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def progress(items: Iterable[T], what: str, total: int | None = None, unit: str = "faces") -> Iterator[T]:
    """Yield the items while a bar shows count, rate and time left; without a terminal one line at the end."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    if total is None and hasattr(items, "__len__"):
        total = len(items)
    columns = (
        TextColumn("[progress.description]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console()) as bar:
        task = bar.add_task(what, total=total, rate="")
        for item in items:
            yield item
            speed = bar.tasks[0].finished_speed or bar.tasks[0].speed
            bar.update(task, advance=1, rate=f"{speed:.1f} {unit}/s" if speed else "")
