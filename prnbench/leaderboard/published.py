"""Published reference rows: quoted with their source, never reproduced here, never ranked with measured entries."""

from __future__ import annotations

import math
import tomllib
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from prnbench.cards import card_folder, load_protocols
from prnbench.errors import InputError
from prnbench.metrics.stats import SUBSETS


@dataclass(frozen=True, slots=True)
class PublishedRow:
    """One quoted result.

    Attributes
    ----------
    protocol
        Key of a protocol, or of an entry of ``unstated`` where the source leaves something open.
    values
        Percent by subset: ``yaw_0_30, yaw_30_60, yaw_60_90, balanced, all``.
    source
        Where the number was read.
    latency_ms, latency_device
        Quoted with the number, or None.
    """

    model: str
    dataset: str
    protocol: str
    values: dict[str, float]
    source: str
    reproduced: bool
    note: str = ""
    latency_ms: float | None = None
    latency_device: str | None = None


@dataclass(frozen=True, slots=True)
class Published:
    """All quoted rows, and what is open about the protocols that are not fully stated."""

    rows: tuple[PublishedRow, ...]
    unstated: dict[str, dict[str, str]] = field(default_factory=dict)


def published_file() -> Path:
    """``leaderboards/published.toml`` in a checkout, its copy beside the cards in an installed wheel."""
    installed = card_folder() / "published.toml"
    return installed if installed.exists() else card_folder().parent / "leaderboards" / "published.toml"


@cache
def load_published(path: Path | None = None) -> Published:
    """Read and check the quoted rows.

    Raises
    ------
    InputError
        A row lacks its source, claims to be reproduced, or names a protocol that does not exist.
    """
    file = published_file() if path is None else path
    try:
        raw = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"published rows cannot be read ({error})", file=file, remedy="restore the file") from None
    unstated = raw.get("unstated", {})
    rows = tuple(_row(entry, unstated, file) for entry in raw.get("row", []))
    return Published(rows, unstated)


def _row(entry: dict[str, Any], unstated: dict[str, Any], file: Path) -> PublishedRow:
    try:
        row = PublishedRow(**entry)
    except TypeError as error:
        raise InputError(
            f"wrong row {entry.get('model')!r}: {error}", file=file, remedy="compare it with another"
        ) from None
    cause = ""
    if not row.source or row.reproduced:
        cause = "a quoted row has a source and reproduced = false"
    elif row.protocol not in unstated and row.protocol not in load_protocols():
        cause = f"no protocol {row.protocol!r}"
    elif not row.values or not set(row.values) <= set(SUBSETS) or not all(map(math.isfinite, row.values.values())):
        cause = "values are numbers by subset"
    if cause:
        raise InputError(f"{row.model}: {cause}", file=file, remedy="correct the row")
    return row
