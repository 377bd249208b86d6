"""A long evaluation in chunks of faces: each a part file written whole, on one device or several, resumed after a kill.

::

    <out>/.parts/<key>/<chunk>.json    rows of one chunk; the key names models, data, protocols and code, so that parts
                                       of another evaluation are never taken for these

Chunks do not depend on the number of devices, so every device sees the batches that a single one would.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any

from prnbench.errors import PrnbenchError
from prnbench.files import digest_of, read_json, write_json
from prnbench.progress import progress

Rows = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Chunk:
    """Faces ``start`` to ``stop`` of a data set, for one model; ``kind`` says what is measured on them."""

    kind: str
    model: str
    dataset: str
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


def chunks_of(kind: str, model: str, dataset: str, count: int, size: int) -> list[Chunk]:
    """All chunks of ``count`` faces, each face in one."""
    return [Chunk(kind, model, dataset, start, min(start + size, count)) for start in range(0, count, size)]


class Parts:
    """Part files of one evaluation."""

    def __init__(self, out: Path, key: str):
        self._root = out / ".parts"
        self._folder = self._root / key[:16]

    def rows(self, chunk: Chunk) -> Rows:
        """Rows of a finished chunk."""
        rows: Rows = read_json(self._file(chunk), "part of an evaluation")
        return rows

    def has(self, chunk: Chunk) -> bool:
        """Whether a chunk is finished."""
        return self._file(chunk).is_file()

    def write(self, chunk: Chunk, rows: Rows) -> None:
        """Keep the rows of a chunk; numbers are read back bit by bit."""
        write_json(self._file(chunk), rows)

    def remove(self) -> None:
        """Remove all parts below the output folder, those of other evaluations too."""
        shutil.rmtree(self._root, ignore_errors=True)

    def _file(self, chunk: Chunk) -> Path:
        return self._folder / f"{digest_of(asdict(chunk))[:24]}.json"


def evaluated(
    chunks: Sequence[Chunk], parts: Parts, work: Callable[[Chunk], object], what: str, pools: Sequence[Any] = ()
) -> Rows:
    """Rows of all chunks in order, after those that are not finished yet were given to ``work``, which writes its part.

    Parameters
    ----------
    work
        Evaluates and writes one chunk; with ``pools`` a function of a module, else any.
    what
        Words beside the bar.
    pools
        Executors of :func:`worker_processes`; without any the work is done here.
    """
    waiting = [chunk for chunk in chunks if not parts.has(chunk)]
    ready = [chunk for chunk in chunks if parts.has(chunk)]
    done = _spread(waiting, work, pools) if pools else _one_by_one(waiting, work)
    for _ in progress(_chain(ready, done), what, sum(map(len, chunks)), size=len):
        pass
    return [row for chunk in chunks for row in parts.rows(chunk)]


def _chain(ready: Sequence[Chunk], done: Iterator[Chunk]) -> Iterator[Chunk]:
    yield from ready
    yield from done


def _one_by_one(chunks: Sequence[Chunk], work: Callable[[Chunk], object]) -> Iterator[Chunk]:
    for chunk in chunks:
        work(chunk)
        yield chunk


def _spread(
    chunks: Sequence[Chunk], work: Callable[[Chunk], object], pools: Sequence[ProcessPoolExecutor]
) -> Iterator[Chunk]:
    """Each process gets a new chunk when it has finished its last."""
    waiting = iter(chunks)
    running: dict[Future[object], tuple[ProcessPoolExecutor, Chunk]] = {}

    def feed(pool: ProcessPoolExecutor) -> None:
        if (chunk := next(waiting, None)) is not None:
            running[pool.submit(work, chunk)] = pool, chunk

    for pool in pools:
        feed(pool)
    while running:
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            pool, chunk = running.pop(future)
            try:
                future.result()
            except BrokenProcessPool:
                remedy = "run the same command again: finished faces are kept"
                raise PrnbenchError("a process of the evaluation ended unexpectedly", remedy=remedy) from None
            feed(pool)
            yield chunk


@contextmanager
def worker_processes(devices: Sequence[str], start: Callable[[str], object]) -> Iterator[list[ProcessPoolExecutor]]:
    """One process a device, each beginning with ``start(device)``; they end with this process, however it ends."""
    context = get_context("spawn")
    pools = [ProcessPoolExecutor(1, context, _started, (partial(start, device),)) for device in devices]
    try:
        yield pools
    finally:
        for pool in pools:
            pool.shutdown(wait=True, cancel_futures=True)


def _started(start: Callable[[], object]) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    start()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
