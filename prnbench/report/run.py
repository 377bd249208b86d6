"""What a run folder holds: the table, its summary, and the optional timings and pictures beside it.

``gallery/index.json`` (written by the evaluation) lists pictures::

    [{"model": "prn", "dataset": "synthetic_faces", "id": "image00050", "place": "worst", "value": 7.3,
      "protocol": "nme_2d_68-v1",
      "pictures": [{"title": "input", "file": "image00050-input.jpg", "person": true}, ...]}]

``place`` is ``best``, ``median``, ``worst`` or any other heading (``mean error``); ``person`` says that a picture shows
a person and is left out of a private report (taken as true where it is missing).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prnbench.cards import EvalProtocol
from prnbench.error_maps import ErrorMap, read_error_maps
from prnbench.errors import InputError
from prnbench.files import read_json
from prnbench.metrics.comparison import comparisons
from prnbench.metrics.stats import summary
from prnbench.table import PerSampleTable

Array = NDArray[np.float64]
Record = dict[str, Any]

SUBSETS = {
    "yaw_0_30": "0–30°",
    "yaw_30_60": "30–60°",
    "yaw_60_90": "60–90°",
    "balanced": "mean of bins",
    "all": "all faces",
}
"""Columns of an accuracy table, in the order of the field's tables."""

REGIONS = ("jaw", "brows", "nose", "eyes", "mouth")
_POINTS = {"landmarks_68": "68 points", "face_area": "dense", "vertices": "vertices", "scan_19k": "scan"}
_DEPTH = {"none": "z as it is", "min": "z: min to 0", "mean": "z: mean to 0"}


@dataclass(frozen=True, eq=False)
class Run:
    """A run folder read into memory; everything else is derived from it.

    Attributes
    ----------
    folder
        Where it lies.
    table
        One row per model, data set and face.
    timing
        ``timing.json``, or None where nothing was timed.
    gallery
        Entries of ``gallery/index.json``, see the head of this module.
    error_maps
        Mean error of each point of the face, from ``error_maps.npz``.
    """

    folder: Path
    table: PerSampleTable
    timing: dict[str, Any] | None
    gallery: list[dict[str, Any]]
    error_maps: list[ErrorMap] = field(default_factory=list)

    @cached_property
    def records(self) -> list[Record]:
        """The records of ``summary.json``."""
        return summary(self.table)

    @cached_property
    def protocols(self) -> dict[str, EvalProtocol]:
        """Protocols of the table by key, landmarks first, then dense, regions, shape, normals and pose."""
        return {p.key: p for p in sorted(self.table.protocols.values(), key=protocol_place)}

    @cached_property
    def models(self) -> list[str]:
        """Models in the order of the table."""
        return [str(name) for name in dict.fromkeys(self.table.rows["model"])]

    @cached_property
    def ceilings(self) -> set[str]:
        """Models that are fitted to the ground truth: bounds, which no verdict ranks."""
        cards = self.table.header.get("models", {})
        return {name for name in self.models if cards.get(name, {}).get("sees_ground_truth")}

    @cached_property
    def datasets(self) -> list[str]:
        """Data sets in the order of the table."""
        return [str(name) for name in dict.fromkeys(self.table.rows["dataset"])]

    @cached_property
    def _by_place(self) -> dict[tuple[str, str, str, str, str], Record]:
        names = ("model", "dataset", "protocol", "subset", "statistic")
        return {tuple(record[name] for name in names): record for record in self.records}

    @cached_property
    def compared(self) -> dict[tuple[str, str, str, str], Record]:
        """Paired comparisons over all faces by (data set, protocol, model, other), headline protocols only.

        The p-values are corrected for these comparisons together.
        """
        if len(self.models) < 2:
            return {}
        keys = {key for dataset in self.datasets for key in headline_protocols(self, dataset)}
        protocols = {key: entry for key, entry in self.table.header["protocols"].items() if key in keys}
        records = comparisons(PerSampleTable(self.table.rows, {**self.table.header, "protocols": protocols}))
        return {(r["dataset"], r["protocol"], r["model"], r["other"]): r for r in records if r["subset"] == "all"}

    def record(
        self, model: str, dataset: str, protocol: str, subset: str = "all", statistic: str = "mean"
    ) -> Record | None:
        """One record of the summary, or None where it does not exist."""
        return self._by_place.get((model, dataset, protocol, subset, statistic))

    def value(self, model: str, dataset: str, protocol: str, subset: str, statistic: str) -> float:
        """The value of one record, NaN where it does not exist."""
        found = self.record(model, dataset, protocol, subset, statistic)
        return float("nan") if found is None else float(found["value"])

    def errors(self, model: str, dataset: str, protocol: str) -> Array:
        """(N,) errors of the faces that the protocol covers; infinite where the prediction failed."""
        values: Array = self.rows(model, dataset)[protocol].to_numpy(np.float64)
        return values[~np.isnan(values)]

    def rows(self, model: str, dataset: str) -> Any:
        """Rows of the table of one model on one data set."""
        return self._parts.get((model, dataset), self.table.rows.iloc[:0])

    @cached_property
    def _parts(self) -> dict[tuple[str, str], Any]:
        grouped = self.table.rows.groupby(["model", "dataset"], sort=False)
        return {(str(model), str(dataset)): part for (model, dataset), part in grouped}

    def faces(self, dataset: str) -> int:
        """Number of different faces of a data set in the table."""
        rows = self.table.rows
        return int(rows.loc[rows["dataset"] == dataset, "id"].nunique())

    def offered(self, dataset: str) -> dict[str, list[str]]:
        """Protocols that some model has numbers for on this data set, each with those models."""
        return self._offered[dataset]

    @cached_property
    def _offered(self) -> dict[str, dict[str, list[str]]]:
        return {dataset: self._offered_on(dataset) for dataset in self.datasets}

    def _offered_on(self, dataset: str) -> dict[str, list[str]]:
        covering = {key: [m for m in self.models if len(self.errors(m, dataset, key))] for key in self.protocols}
        return {key: models for key, models in covering.items() if models}

    def pairs(self) -> Iterator[tuple[str, str]]:
        """Data set and model of every part of the table."""
        for dataset in self.datasets:
            for model in self.models:
                if len(self.rows(model, dataset)):
                    yield dataset, model


def read_run(folder: Path) -> Run:
    """Read a run folder.

    Raises
    ------
    TableError
        There is no readable per-sample table.
    InputError
        ``timing.json``, ``gallery/index.json`` or ``error_maps.npz`` is there and cannot be used.
    """
    folder = Path(folder)
    table = PerSampleTable.read(folder)
    timing = folder / "timing.json"
    times = read_json(timing, "timing file") if timing.exists() else None
    return Run(folder, table, times, _gallery(folder), read_error_maps(folder))


def _gallery(folder: Path) -> list[dict[str, Any]]:
    path = folder / "gallery" / "index.json"
    if not path.exists():
        return []
    entries = read_json(path, "gallery index")
    if not isinstance(entries, list) or not all(
        isinstance(e, dict) and isinstance(e.get("pictures"), list) for e in entries
    ):
        raise InputError("not a gallery index (a list of entries with pictures)", file=path, remedy="evaluate again")
    return entries


def short_name(protocol: EvalProtocol) -> str:
    """The protocol in a few words, the treatment of depth named: ``3D · 68 points · z: mean to 0``."""
    if protocol.metric == "pose_mae":
        return "head pose"
    if protocol.metric == "normal_error":
        return "surface normals"
    shape = {"reconstruction": "shape"}.get(protocol.metric, f"{protocol.dims}D")
    parts = [shape, _POINTS.get(protocol.points, protocol.points)]
    parts += [_DEPTH[protocol.z_align]] if protocol.z_align in _DEPTH else []
    parts += ["surface"] if protocol.aggregation == "point_to_surface" else []
    parts += ["rigid"] if "rigid_icp" in protocol.alignment else []
    parts += ["similarity"] if "similarity_icp" in protocol.alignment else []
    parts += ["reverse"] if protocol.direction == "prediction_to_truth" else []
    parts += ["re-annotated"] if protocol.ground_truth == "reannotated" else []
    parts += ["AFLW yaw"] if protocol.yaw_source == "aflw" else []
    parts += ["own box"] if protocol.normaliser == "sqrt_box_points" else []
    return " · ".join(parts)


def protocol_place(protocol: EvalProtocol) -> tuple[Any, ...]:
    """Sort key that puts landmarks first, then dense, regions, shape, normals and pose."""
    kinds = ("landmarks_68", "face_area", "vertices", *REGIONS)
    kind = kinds.index(protocol.points) if protocol.metric == "nme" and protocol.points in kinds else len(kinds)
    plain = protocol.ground_truth in ("pt3d_68", "position_map") and protocol.yaw_source == "fitted"
    metrics = ("nme", "reconstruction", "normal_error", "pose_mae")
    depth = ("not_applicable", "mean", "min", "none").index(protocol.z_align)
    return kind, metrics.index(protocol.metric), not plain, protocol.dims, protocol.normaliser, depth, protocol.key


def is_region(protocol: EvalProtocol) -> bool:
    """Whether the protocol measures one region of the face (eyes, nose, ...)."""
    return protocol.points in REGIONS


def headline_protocols(run: Run, dataset: str) -> list[str]:
    """Up to four protocols that stand for the rest: 2D and 3D landmarks, dense, and shape."""
    offered = [run.protocols[key] for key in run.offered(dataset)]
    kinds = [
        [p for p in offered if p.metric == "nme" and p.points == "landmarks_68" and p.dims == 2],
        [p for p in offered if p.metric == "nme" and p.points == "landmarks_68" and p.dims == 3],
        [p for p in offered if p.metric == "nme" and p.points == "face_area" and p.dims == 2],
        [p for p in offered if p.metric == "reconstruction"],
    ]
    chosen = [kind[0].key for kind in kinds if kind]
    return chosen or [p.key for p in offered[:1]]
