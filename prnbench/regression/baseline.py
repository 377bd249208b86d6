"""The stored baseline: a run stripped to what a check needs, with the reason it was accepted."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from prnbench.errors import InputError, OutputError, UsageError
from prnbench.files import make_folder, read_json, sha256_of, write_json
from prnbench.table import PerSampleTable

ABOUT = "baseline.json"


@dataclass(frozen=True, slots=True)
class Stored:
    """A run or baseline folder: its table, its timings (None where there are none), and why it was accepted."""

    folder: Path
    table: PerSampleTable
    timing: dict[str, Any] | None
    reason: str

    @property
    def models(self) -> list[str]:
        """Names of the models in the table, in its order."""
        return [str(name) for name in self.table.rows["model"].unique()]

    def renamed(self, old: str, new: str) -> Stored:
        """The same with a model under another name."""
        header = dict(self.table.header)
        header["models"] = {new if name == old else name: card for name, card in header.get("models", {}).items()}
        rows = self.table.rows.assign(model=self.table.rows["model"].replace(old, new))
        timing = self.timing
        if timing is not None:
            models = {new if name == old else name: entry for name, entry in timing.get("models", {}).items()}
            timing = {**timing, "models": models}
        return replace(self, table=PerSampleTable(rows, header), timing=timing)


def read_stored(path: Path | str) -> Stored:
    """Read a run folder, a baseline folder, or any file inside one.

    Raises
    ------
    InputError
        There is nothing that can be read there.
    """
    path = Path(path)
    folder = path.parent if path.is_file() else path
    if not folder.is_dir():
        raise InputError(
            "there is no such run or baseline", file=path, remedy="write one: prnbench check --update REASON"
        )
    timing, about = folder / "timing.json", folder / ABOUT
    reason = str(read_json(about, "baseline").get("reason", "")) if about.exists() else ""
    return Stored(folder, PerSampleTable.read(folder), _timing(timing) if timing.exists() else None, reason)


def _timing(path: Path) -> dict[str, Any]:
    raw = read_json(path, "timing file")
    if not isinstance(raw, dict):
        raise InputError("not a timing file", file=path, remedy="evaluate again")
    return raw


def update_baseline(run: Path | str, path: Path | str, reason: str) -> Path:
    """Make a run the new baseline, with the reason and the digests of what it replaces.

    Parameters
    ----------
    run
        Run folder.
    path
        Baseline folder, or its ``baseline.json``.
    reason
        Why the new numbers are accepted; kept with them.

    Raises
    ------
    UsageError
        No reason is given, or run and baseline are one folder.
    """
    if not reason.strip():
        raise UsageError("a new baseline needs a reason", remedy='give it: --update "what changed and why it is right"')
    source = read_stored(run)
    folder = Path(path).parent if Path(path).suffix == ".json" else Path(path)
    if folder.resolve() == source.folder.resolve():
        raise UsageError("the run is the baseline already", file=folder, remedy="give another folder")
    previous = _digest(folder)
    make_folder(folder)
    source.table.write(folder)
    (folder / "per_sample.csv").unlink(missing_ok=True)
    _copy_timing(source, folder)
    about = {"reason": reason.strip(), "table": _digest(folder), "replaces": previous}
    write_json(folder / ABOUT, about | {"command": source.table.header.get("command", "")})
    return folder / ABOUT


def _digest(folder: Path) -> str | None:
    table = folder / "per_sample.parquet"
    return sha256_of(table) if table.exists() else None


def _copy_timing(source: Stored, folder: Path) -> None:
    try:
        if source.timing is not None:
            shutil.copyfile(source.folder / "timing.json", folder / "timing.json.new")
            (folder / "timing.json.new").replace(folder / "timing.json")
        else:
            (folder / "timing.json").unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(
            f"cannot be written ({error.strerror})", file=folder, remedy="free space, then run again"
        ) from None
