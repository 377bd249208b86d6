"""Raw data sets to Samples: one file per data set, found by name; ``pipeline`` turns them into shards.

A converter module has two functions: ``find(root)`` lists its items (sorted keys and what was skipped), and
``read(root, key, options)`` returns the Samples of one item or raises :class:`prnbench.errors.SampleError`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from prnbench.errors import unknown_name
from prnbench.sample import Sample


@dataclass(frozen=True, slots=True)
class Found:
    """Items of a raw folder: keys (paths relative to the root, sorted), and files left out with the reason.

    ``fitted``: the faces come with parameters of a face model, so that it gives them position maps.
    """

    keys: list[str]
    skipped: list[tuple[str, str]] = field(default_factory=list)
    faces_per_item: int = 1
    fitted: bool = True


@dataclass(frozen=True, slots=True)
class Options:
    """What changes the result of a conversion; recorded in the manifest."""

    annotations: Path | None = None
    pitch_deg: tuple[float, ...] = (-15.0, 0.0, 15.0, 30.0)
    yaw_deg: tuple[float, ...] = (-80.0, -40.0, 0.0, 40.0, 80.0)
    seed: int = 0


class Converter(Protocol):
    """A module ``prnbench/convert/<name>.py``."""

    find: Callable[[Path], Found]
    read: Callable[[Path, str, Options], list[Sample]]
    needs: Callable[[Path, str], list[Path]]


_NOT_CONVERTERS = {"__init__", "pipeline", "raw", "visibility"}


def converter_names() -> list[str]:
    """Names of all converters: the files of this folder."""
    return sorted(p.stem for p in Path(__file__).parent.glob("*.py") if p.stem not in _NOT_CONVERTERS)


def load_converter(name: str) -> Converter:
    """Import a converter by its name.

    Raises
    ------
    UsageError
        There is no such converter.
    """
    if name not in converter_names():
        raise unknown_name("converter", name, converter_names())
    return cast(Converter, import_module(f"prnbench.convert.{name}"))
