"""The exception tree: every message names the file, the cause and the remedy.

::

    PrnbenchError                 exit code 2
    |-- UsageError                a wrong option or name ("did you mean ...")
    |-- MissingExtraError         an optional package is not installed
    |-- InputError                a file or folder that cannot be used
    |   |-- SampleError           one bad face: counted, listed and skipped (``--strict`` stops)
    |   |-- FaceModelError        a morphable model with wrong fields or sizes
    |   |-- ShardError            a shard or manifest that is damaged or does not match
    |   |   `-- SchemaError       written by a newer prnbench
    |   |-- WeightsError          network weights that do not fit
    |   `-- TableError            a per-sample table or predictions file that cannot be read
    |-- OutputError               a result that could not be written (disk full, read-only folder)
    |-- CheckFailedError          exit code 1: the regression check found a regression
    `-- UndecidedError            exit code 3: the machine was too noisy to decide
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from os import PathLike


class PrnbenchError(Exception):
    """An error that the user can act on.

    Parameters
    ----------
    cause
        What is wrong, without a full stop.
    file
        The file or folder it was found in.
    remedy
        What to do about it, as an imperative clause without a full stop.
    """

    exit_code = 2

    def __init__(self, cause: str, *, file: str | PathLike[str] | None = None, remedy: str | None = None):
        super().__init__(cause, file, remedy)
        self.cause = cause
        self.file = None if file is None else str(file)
        self.remedy = remedy

    def __str__(self) -> str:
        where = f"{self.file}: " if self.file else ""
        fix = f". {self.remedy[:1].upper()}{self.remedy[1:]}." if self.remedy else "."
        return f"{where}{self.cause}{fix}"

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.cause, self.file, self.remedy)


def _rebuild(kind: type[PrnbenchError], cause: str, file: str | None, remedy: str | None) -> PrnbenchError:
    return kind(cause, file=file, remedy=remedy)


class UsageError(PrnbenchError):
    """A wrong option, or a name that does not exist."""


class MissingExtraError(PrnbenchError):
    """An optional package is needed and not installed."""


class InputError(PrnbenchError):
    """A file or folder that cannot be used."""


class SampleError(InputError):
    """One bad face; a conversion counts it, lists it in the manifest and goes on."""


class FaceModelError(InputError):
    """A morphable model whose fields or sizes are not those expected."""


class ShardError(InputError):
    """A shard or manifest that is damaged or does not match its description."""


class SchemaError(ShardError):
    """A file written by a newer version of prnbench."""


class WeightsError(InputError):
    """Network weights that do not fit the network."""


class TableError(InputError):
    """A per-sample table or a predictions file that cannot be read."""


class OutputError(PrnbenchError):
    """A result that could not be written."""


class CheckFailedError(PrnbenchError):
    """The regression check found a regression."""

    exit_code = 1


class UndecidedError(PrnbenchError):
    """The regression check could not decide within its budget."""

    exit_code = 3


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """Return the error for a name that does not exist, with the nearest known one."""
    choices = sorted(known)
    near = difflib.get_close_matches(name, choices, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return UsageError(f"unknown {kind} {name!r}", remedy=f"{hint}known: {', '.join(choices)}")
