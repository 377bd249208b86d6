"""Data-set cards and evaluation protocols, read from ``datasets/<name>.toml``.

A number is a value with its protocol: :class:`EvalProtocol` is the whole identity of a metric, and results are
ranked only within one protocol key. Protocols are defined once, in ``datasets/protocols/*.toml``; a card lists the
keys that apply to its data set, so that one key means one thing everywhere.
"""

from __future__ import annotations

import tomllib
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any

from prnbench.errors import InputError, unknown_name

YAW_BINS = {"yaw_0_30": (0.0, 30.0), "yaw_30_60": (30.0, 60.0), "yaw_60_90": (60.0, float("inf"))}
"""Subset name -> (lower, upper]: |yaw| <= 30, (30, 60], > 60 degrees; faces beyond 90 count in the last bin."""

CHOICES: dict[str, tuple[Any, ...]] = {
    "metric": ("nme", "reconstruction", "pose_mae", "normal_error"),
    "points": ("landmarks_68", "face_area", "scan_19k", "vertices", "eyes", "nose", "mouth", "jaw", "brows", "pose"),
    "dims": (1, 2, 3),
    "normaliser": ("sqrt_box_68", "sqrt_box_points", "outer_interocular_3d", "none"),
    "z_align": ("none", "min", "mean", "not_applicable"),
    "alignment": ("none", "similarity", "landmark_similarity_rigid_icp", "landmark_similarity_similarity_icp"),
    "subset": ("all", "angles_within_99_deg"),
    "yaw_source": ("fitted", "aflw"),
    "ground_truth": ("pt3d_68", "reannotated", "position_map", "scan", "pose_para"),
    "aggregation": ("mean", "point_to_point", "point_to_surface"),
    "direction": ("not_applicable", "truth_to_prediction", "prediction_to_truth"),
    "unit": ("%", "deg", "mm"),
}


@dataclass(frozen=True, slots=True)
class EvalProtocol:
    """How one number is made; every field belongs to its identity except ``title`` and ``text``.

    Attributes
    ----------
    id, version
        Name and version; ``key`` joins them and is what results are filed under.
    metric, points, dims, normaliser, z_align, alignment, subset, yaw_source, ground_truth, aggregation, direction, unit
        See ``CHOICES`` for the values and PROTOCOLS in the documentation for their meaning. Ground-truth points
        are compared in the annotation's own convention (``pt3d_68`` as it is): a prediction whose pixel
        convention is known is moved into it, the numbers of a predictions file are taken to be in it.
    title, text
        One line, and a text that a newcomer understands.
    """

    id: str
    version: int
    metric: str
    points: str
    dims: int
    normaliser: str
    unit: str
    title: str
    text: str
    z_align: str = "not_applicable"
    alignment: str = "none"
    subset: str = "all"
    yaw_source: str = "fitted"
    ground_truth: str = "pt3d_68"
    aggregation: str = "mean"
    direction: str = "not_applicable"

    @property
    def key(self) -> str:
        """Identity as used for folders and columns: ``nme_2d_68-v1``."""
        return f"{self.id}-v{self.version}"

    def identity(self) -> dict[str, Any]:
        """Everything that changes the number, without the prose."""
        return {name: value for name, value in asdict(self).items() if name not in ("title", "text")}


@dataclass(frozen=True, slots=True)
class DatasetCard:
    """What a user must know of a data set, and the protocols its numbers are made by."""

    name: str
    title: str
    converter: str
    source: str
    licence: str
    consent: str
    privacy: str
    citation: str
    layout: str
    counts: dict[str, int]
    known_defects: tuple[str, ...]
    protocols: tuple[EvalProtocol, ...]
    annotations: dict[str, str] = field(default_factory=dict)

    def protocol(self, key: str) -> EvalProtocol:
        """Return the protocol with this id or key."""
        for protocol in self.protocols:
            if key in (protocol.id, protocol.key):
                return protocol
        raise unknown_name("protocol", key, [p.key for p in self.protocols])


def card_folder() -> Path:
    """Folder of the cards: ``datasets/`` in a checkout, ``prnbench/_cards`` in an installed wheel."""
    package = Path(__file__).parent
    installed = package / "_cards"
    return installed if installed.is_dir() else package.parent / "datasets"


def dataset_names() -> list[str]:
    """Names of all cards."""
    return sorted(path.stem for path in card_folder().glob("*.toml") if path.stem != "published")


@cache
def load_protocols() -> dict[str, EvalProtocol]:
    """All protocols by key, in the order of their definition.

    Raises
    ------
    InputError
        A definition has an unknown, missing or wrong field, or a key is defined twice.
    """
    found: dict[str, EvalProtocol] = {}
    for path in sorted((card_folder() / "protocols").glob("*.toml")):
        for entry in _read_toml(path).get("protocol", []):
            protocol = protocol_from(entry, path)
            if protocol.key in found:
                raise InputError(f"protocol {protocol.key} is defined twice", file=path, remedy="remove one")
            found[protocol.key] = protocol
    return found


@cache
def load_card(name: str) -> DatasetCard:
    """Read the card of a data set.

    Raises
    ------
    UsageError
        There is no such card.
    InputError
        The card has an unknown, missing or wrong field.
    """
    if name not in dataset_names():
        raise unknown_name("data set", name, dataset_names())
    path = card_folder() / f"{name}.toml"
    raw = _read_toml(path)
    try:
        protocols = tuple(load_protocols()[key] for key in raw.pop("protocols", []))
        defects = tuple(raw.pop("known_defects", []))
        return DatasetCard(name=name, known_defects=defects, protocols=protocols, **raw)
    except KeyError as error:
        remedy = "define it in datasets/protocols"
        raise InputError(f"unknown protocol {error}", file=path, remedy=remedy) from None
    except TypeError as error:
        raise InputError(f"wrong card: {error}", file=path, remedy="compare it with another card") from None


def protocol_from(entry: dict[str, Any], file: Path | str | None = None) -> EvalProtocol:
    """Build a protocol from its fields, refusing unknown, missing and wrong ones."""
    unknown = set(entry) - {f.name for f in fields(EvalProtocol)}
    if unknown:
        raise InputError(f"unknown protocol fields {sorted(unknown)}", file=file, remedy="see EvalProtocol")
    for name, allowed in CHOICES.items():
        if name in entry and entry[name] not in allowed:
            raise InputError(f"{name} = {entry[name]!r} is none of {allowed}", file=file, remedy="correct the card")
    try:
        return EvalProtocol(**entry)
    except TypeError as error:
        raise InputError(f"wrong protocol: {error}", file=file, remedy="see EvalProtocol") from None


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"not a valid TOML file ({error})", file=path, remedy="correct the line") from None
