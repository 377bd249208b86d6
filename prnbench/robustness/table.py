"""The robustness table: one row per model, data set, face and condition, beside the per-sample table.

::

    robustness.parquet   model, dataset, id, corruption, failed      text
                         severity    int64: 0 clean and steadiness, 1 to 5
                         level       float64, in the corruption's unit
                         one float64 column per protocol key, and one for the steadiness (jitter_2d_68-v1)
    robustness.json      schema_version, suite (the card of the corruptions), protocols, models, datasets, environment

NaN and inf mean what they mean in the per-sample table. The same table is written to the same bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prnbench.cards import EvalProtocol, protocol_from
from prnbench.errors import InputError, SchemaError, TableError
from prnbench.files import read_json, replacing, write_json
from prnbench.robustness.suite import Suite, suite_from

if TYPE_CHECKING:
    from pandas import DataFrame

SCHEMA_VERSION = 1
STEM = "robustness"
_TEXT = ("model", "dataset", "id", "corruption", "failed")


@dataclass(frozen=True, eq=False)
class RobustnessTable:
    """Rows and header; make it with :meth:`make` or read it with :func:`read_robustness`."""

    rows: DataFrame
    header: dict[str, Any]

    @classmethod
    def make(cls, rows: list[dict[str, Any]], header: dict[str, Any]) -> RobustnessTable:
        """Order the columns of rows; what a row does not have is NaN."""
        import pandas as pd

        keys = [*sorted(header["protocols"]), suite_from(header["suite"]).steadiness.key]
        frame = pd.DataFrame(rows).reindex(columns=[*_TEXT, "severity", "level", *keys])
        frame = frame.astype(dict.fromkeys(["level", *keys], np.float64) | {"severity": np.int64})
        return cls(frame, {"schema_version": SCHEMA_VERSION, **header})

    @property
    def suite(self) -> Suite:
        """The corruptions that were applied."""
        return suite_from(self.header["suite"])

    @property
    def protocols(self) -> dict[str, EvalProtocol]:
        """Protocols of the columns, by key."""
        return {key: protocol_from(entry) for key, entry in sorted(self.header["protocols"].items())}

    def write(self, folder: Path) -> Path:
        """Write ``robustness.parquet`` and ``robustness.json`` atomically; return the Parquet file."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        columns = {name: pa.array(self.rows[name].tolist(), pa.string()) for name in _TEXT}
        columns |= {name: pa.array(self.rows[name].to_numpy()) for name in self.rows.columns if name not in _TEXT}
        path = folder / f"{STEM}.parquet"
        with replacing(path) as temporary:
            pq.write_table(pa.table(columns), temporary, compression="zstd")
        write_json(path.with_suffix(".json"), self.header)
        return path


def read_robustness(folder: Path) -> RobustnessTable | None:
    """The robustness table of a run, or None where none was made.

    Raises
    ------
    TableError
        It is damaged.
    SchemaError
        It was written by a newer prnbench.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = folder / f"{STEM}.parquet"
    if not path.is_file():
        return None
    try:
        header = read_json(path.with_suffix(".json"), "header of a robustness table")
        if header["schema_version"] > SCHEMA_VERSION:
            raise SchemaError("written by a newer prnbench", file=path, remedy="update prnbench")
        table = RobustnessTable.make(pq.read_table(path).to_pylist(), header)
        assert table.suite and table.protocols is not None
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise TableError(f"not a readable robustness table ({error})", file=path, remedy="evaluate again") from None
    except InputError as error:
        if isinstance(error, SchemaError):
            raise
        raise TableError(error.cause, file=path, remedy="evaluate again") from None
    return table
