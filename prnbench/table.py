"""The per-sample table: one row per model, data set and face, with the header that says how its numbers were made.

::

    per_sample.parquet   model, dataset, id, failed            text; failed is "" or the reason
                         yaw_fitted_deg, yaw_aflw_deg, pitch_deg, roll_deg    float64, NaN where not annotated
                         one float64 column per protocol key (nme_2d_68-v1, ...)
                             NaN = the model does not offer it, or there is no ground truth
                             inf = the model offers it and failed on this face
    per_sample.json      schema_version, protocols {key: fields of EvalProtocol}, models {name: card},
                         datasets {name: {...}}, environment, command

``per_sample.csv`` with the same columns is read as well. The same table is written to the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prnbench.cards import EvalProtocol, protocol_from
from prnbench.errors import InputError, SchemaError, TableError
from prnbench.files import read_json, replacing, write_json

if TYPE_CHECKING:
    from pandas import DataFrame

SCHEMA_VERSION = 1
KEY = ("model", "dataset", "id")
TEXT = (*KEY, "failed")
ANGLES = ("yaw_fitted_deg", "yaw_aflw_deg", "pitch_deg", "roll_deg")
STEM = "per_sample"


@dataclass(frozen=True, eq=False)
class PerSampleTable:
    """Rows and header; make it with :meth:`make` or :meth:`read`.

    Attributes
    ----------
    rows
        DataFrame with the columns named in the module's text.
    header
        JSON-able dict; ``header["protocols"]`` maps each protocol key to the fields of its EvalProtocol.
    """

    rows: DataFrame
    header: dict[str, Any]

    @classmethod
    def make(cls, rows: DataFrame, header: dict[str, Any]) -> PerSampleTable:
        """Check and order rows and header.

        Columns that are missing become NaN (text: ""). Where a model failed on a face but never gives a
        protocol's quantity on any other face of the data set, its infinite errors become NaN: not offered.

        Raises
        ------
        TableError
            A row has no model, data set or id, a face occurs twice, or a column is not numeric.
        """
        table = cls(_canonical(rows, list(header.get("protocols", {}))), {"schema_version": SCHEMA_VERSION, **header})
        _clear_not_offered(table)
        return table

    @property
    def protocols(self) -> dict[str, EvalProtocol]:
        """Protocols of the columns, by key."""
        return {key: protocol_from(entry) for key, entry in sorted(self.header["protocols"].items())}

    def write(self, folder: Path | str) -> Path:
        """Write ``per_sample.parquet`` and ``per_sample.json`` atomically; return the Parquet file.

        Raises
        ------
        OutputError
            The folder cannot be written.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        rows = self.rows
        columns = {name: pa.array(rows[name].tolist(), pa.string()) for name in TEXT}
        numbers = [name for name in rows.columns if name not in TEXT]
        columns |= {name: pa.array(rows[name].to_numpy(np.float64), pa.float64()) for name in numbers}
        path = Path(folder) / f"{STEM}.parquet"
        with replacing(path) as temporary:
            pq.write_table(pa.table(columns), temporary, compression="zstd")
        write_json(path.with_suffix(".json"), self.header)
        return path

    @classmethod
    def read(cls, path: Path | str) -> PerSampleTable:
        """Read a table from its folder, or from its ``.parquet`` or ``.csv`` file.

        Raises
        ------
        TableError
            The file or its header is missing or damaged.
        SchemaError
            It was written by a newer prnbench.
        """
        file = _find(Path(path))
        header = _read_header(file.with_suffix(".json"))
        try:
            return cls.make(_read_rows(file, [*ANGLES, *header["protocols"]]), header)
        except TableError as error:
            raise TableError(error.cause, file=file, remedy=error.remedy) from None


def concatenate(tables: Iterable[PerSampleTable]) -> PerSampleTable:
    """Join tables of different models or data sets into one; the header keeps what each says.

    Raises
    ------
    TableError
        A face of a model occurs in two tables, or one protocol key stands for two definitions.
    """
    import pandas as pd

    parts = list(tables)
    if not parts:
        raise TableError("no tables to join", remedy="give at least one")
    header = dict(parts[0].header)
    for kind in ("protocols", "models", "datasets"):
        header[kind] = {name: entry for part in parts for name, entry in part.header.get(kind, {}).items()}
    for part in parts:
        for key, protocol in part.protocols.items():
            if protocol.identity() != protocol_from(header["protocols"][key]).identity():
                raise TableError(f"protocol {key} has two definitions", remedy="evaluate again with one version")
    return PerSampleTable.make(pd.concat([part.rows for part in parts], ignore_index=True), header)


def _canonical(rows: DataFrame, protocols: list[str]) -> DataFrame:
    import pandas as pd

    missing = [name for name in KEY if name not in rows]
    if missing:
        raise TableError(f"no column {', '.join(missing)}", remedy="see the column list in the documentation")
    out: dict[str, Any] = {}
    for name in TEXT:
        values = rows[name] if name in rows else pd.Series("", index=rows.index)
        out[name] = ["" if pd.isna(value) else str(value) for value in values]
    for name in (*ANGLES, *sorted(protocols)):
        out[name] = _numbers(rows[name], name) if name in rows else np.full(len(rows), np.nan)
    series = {name: pd.Series(value, dtype=object if name in TEXT else np.float64) for name, value in out.items()}
    frame = pd.DataFrame(series)
    twice = frame.duplicated(list(KEY))
    if twice.any():
        model, dataset, face = frame.loc[twice.idxmax(), list(KEY)]
        raise TableError(f"{model} has two rows for face {face} of {dataset}", remedy="keep one row per face")
    return frame


def _numbers(column: Any, name: str) -> Any:
    try:
        return column.to_numpy(np.float64)
    except (TypeError, ValueError):
        raise TableError(f"column {name} holds something that is no number", remedy="correct it") from None


def _clear_not_offered(table: PerSampleTable) -> None:
    rows = table.rows
    for _, part in rows.groupby(["model", "dataset"], sort=False):
        if (part["failed"] != "").all():
            continue  # nothing is known of what a model offers that failed everywhere
        for key in table.header.get("protocols", {}):
            values = part[key].to_numpy()
            unpredicted = (part["failed"] != "").to_numpy()
            if np.isnan(values[~unpredicted]).all():
                rows.loc[part.index, key] = np.nan


def _find(path: Path) -> Path:
    if path.is_dir():
        for suffix in (".parquet", ".csv"):
            if (file := path / f"{STEM}{suffix}").is_file():
                return file
        raise TableError(f"holds no {STEM}.parquet or {STEM}.csv", file=path, remedy="give the folder of an evaluation")
    if not path.is_file() or path.suffix not in (".parquet", ".csv"):
        raise TableError("no per-sample table there", file=path, remedy="give a folder, or a .parquet or .csv file")
    return path


def _read_header(path: Path) -> dict[str, Any]:
    try:
        header: dict[str, Any] = read_json(path, "header of a per-sample table")
    except InputError as error:
        raise TableError(error.cause, file=path, remedy="keep the .json beside the table") from None
    version = header.get("schema_version") if isinstance(header, dict) else None
    if not isinstance(version, int) or not isinstance(header.get("protocols"), dict):
        raise TableError("not the header of a per-sample table", file=path, remedy="evaluate again")
    if version > SCHEMA_VERSION:
        cause = f"schema version {version} is newer than this prnbench reads ({SCHEMA_VERSION})"
        raise SchemaError(cause, file=path, remedy="update prnbench")
    for entry in header["protocols"].values():
        protocol_from(entry, path)
    return header


def _read_rows(file: Path, numbers: list[str]) -> DataFrame:
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if file.suffix == ".parquet":
            return pq.read_table(file).to_pandas()
        missing = {name: ["", "nan", "NaN"] for name in numbers}  # a face may be named "NA"
        text = dict.fromkeys(TEXT, str)
        return pd.read_csv(file, dtype=text, keep_default_na=False, na_values=missing, float_precision="round_trip")
    except (OSError, ValueError, pa.ArrowException) as error:
        cause = f"not a readable table ({str(error).splitlines()[0]})"
        raise TableError(cause, file=file, remedy="evaluate again") from None
