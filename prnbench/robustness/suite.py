"""The suite of corruptions as its card says it: names, severities, seed, and the texts that explain them."""

from __future__ import annotations

import tomllib
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

from prnbench.cards import card_folder
from prnbench.errors import InputError

SEVERITIES = 5
CLEAN = "clean"
STEADINESS = "steadiness"


@dataclass(frozen=True, slots=True)
class Corruption:
    """One corruption: its level at severities 1 to 5 in ``unit``, and what it stands for."""

    id: str
    title: str
    unit: str
    levels: tuple[float, ...]
    text: str


@dataclass(frozen=True, slots=True)
class Steadiness:
    """Sub-pixel shifts: how many, how far, and the name of the number."""

    id: str
    version: int
    unit: str
    radius_px: float
    shifts: int
    title: str
    text: str

    @property
    def key(self) -> str:
        """Identity as used for columns: ``jitter_2d_68-v1``."""
        return f"{self.id}-v{self.version}"


@dataclass(frozen=True, slots=True)
class Suite:
    """All corruptions with seed and version: what a robustness number belongs to, like a protocol."""

    suite: str
    version: int
    seed: int
    title: str
    text: str
    corruptions: tuple[Corruption, ...]
    steadiness: Steadiness

    @property
    def key(self) -> str:
        """``corruptions-v1``."""
        return f"{self.suite}-v{self.version}"

    def as_dict(self) -> dict[str, Any]:
        """JSON-able fields."""
        return asdict(self)


@cache
def load_suite() -> Suite:
    """The suite that ``prnbench evaluate --robustness`` runs.

    Raises
    ------
    InputError
        The card has an unknown, missing or wrong field.
    """
    path = card_folder() / "protocols" / "robustness.toml"
    try:
        return suite_from(tomllib.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"not a suite of corruptions ({error})", file=path, remedy="correct it") from None


def suite_from(fields: dict[str, Any]) -> Suite:
    """The suite of a card's, or a table header's, fields."""
    known = dict(fields)
    entries = known.pop("corruptions", None) or known.pop("corruption")
    corruptions = tuple(Corruption(**{**entry, "levels": tuple(map(float, entry["levels"]))}) for entry in entries)
    if wrong := [c.id for c in corruptions if len(c.levels) != SEVERITIES]:
        raise ValueError(f"{', '.join(wrong)}: not {SEVERITIES} levels")
    return Suite(corruptions=corruptions, steadiness=Steadiness(**known.pop("steadiness")), **known)
