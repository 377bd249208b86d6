"""One progress bar for every step that takes longer than a second: count, rate and time left, on stderr."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
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


def progress(
    items: Iterable[T],
    what: str,
    total: int | None = None,
    unit: str = "faces",
    size: Callable[[T], int] = lambda _: 1,
) -> Iterator[T]:
    """Yield the items while a bar shows count, rate and time left; without a terminal one line at the end.

    ``size`` says how many units an item (a batch, a shard) stands for; it counts when the next item is asked for.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    if total is None and isinstance(items, Sized):
        total = len(items)
    columns = (
        TextColumn("[progress.description]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    started = time.perf_counter()
    with Progress(*columns, console=console()) as bar:
        task = bar.add_task(what, total=total, rate="")
        done = 0
        for item in items:
            yield item
            done += size(item)
            bar.update(task, completed=done, rate=f"{done / (time.perf_counter() - started):.1f} {unit}/s")


@contextmanager
def working(what: str) -> Iterator[None]:
    """A moving bar with the time so far, around a step whose length is not known beforehand."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("[progress.description]{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console()) as bar:
        task = bar.add_task(what, total=None)
        yield
        bar.update(task, total=1, completed=1)
