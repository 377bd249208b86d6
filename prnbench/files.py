"""Atomic writes, digests and the cache folder: nothing half-written is ever taken for whole."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prnbench.errors import InputError, OutputError


def cache_folder(*parts: str) -> Path:
    """Folder below ``$PRNBENCH_CACHE`` (default: the user's cache folder), made if missing."""
    root = os.environ.get("PRNBENCH_CACHE") or Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "prnbench"
    folder = Path(root).expanduser().joinpath(*parts)
    make_folder(folder)
    return folder


def make_folder(folder: Path) -> None:
    """Make a folder with its parents, or say why it cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder ({error.strerror})", file=folder, remedy="choose another") from None


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside ``path``; on success it is synced and renamed, on failure removed.

    Raises
    ------
    OutputError
        The disk is full or the folder cannot be written.
    """
    make_folder(path.parent)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as handle:
            os.fsync(handle.fileno())
        temporary.replace(path)
    except OSError as error:
        cause = f"cannot be written ({error.strerror or error})"
        raise OutputError(cause, file=path, remedy="free space or choose another folder, then run again") from error
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write sorted, indented JSON atomically."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


def read_json(path: Path, what: str = "JSON file") -> Any:
    """Read a JSON file, naming it in the error."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read the {what} ({error.strerror})", file=path, remedy="check the path") from None
    except ValueError as error:
        raise InputError(f"not a valid {what} ({error})", file=path, remedy="make it again") from None


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def digest_of(*parts: Any) -> str:
    """Hex sha256 of JSON-able values and byte strings, in order."""
    digest = hashlib.sha256()
    for part in parts:
        raw = part if isinstance(part, bytes) else json.dumps(part, sort_keys=True, default=str).encode()
        digest.update(len(raw).to_bytes(8, "little") + raw)
    return digest.hexdigest()


def digest_of_files(root: Path, files: list[Path]) -> str:
    """One digest of many files: names relative to ``root`` and contents."""
    return digest_of(*(part for file in files for part in (str(file.relative_to(root)), sha256_of(file))))
