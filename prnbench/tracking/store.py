"""The tracking store: which one, is it there, a client on it, and an experiment in it."""

from __future__ import annotations

import logging
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from prnbench.errors import OutputError
from prnbench.files import cache_folder, make_folder, replacing
from prnbench.tracking import view

if TYPE_CHECKING:
    from mlflow import MlflowClient

EXPERIMENT = "prnbench"
_TAGS = {
    "mlflow.experimentKind": "custom_model_development",  # MLflow's page for runs, not the one for language models
    view.TAG: view.state(),
}

_QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_ARTIFACT_UPLOAD_DOWNLOAD_TIMEOUT": "30",
}


def store_uri(folder: Path, store: str | Path | None = None) -> str:
    """URI of the tracking store: the argument, else ``MLFLOW_TRACKING_URI``, else ``mlflow.db`` in the folder.

    ``store`` may be a URI, a database file, or a folder that holds (or shall hold) ``mlflow.db``.
    """
    named = str(store) if store is not None else os.environ.get("MLFLOW_TRACKING_URI", "")
    if "://" in named:
        return named
    path = Path(named).expanduser() if named else folder
    database = path if path.suffix == ".db" else path / "mlflow.db"
    return f"sqlite:///{database.resolve()}"


def quiet() -> None:
    """No telemetry, no addresses on stdout, short timeouts; MLflow's and Alembic's log floods are kept back."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)


@contextmanager
def open_client(uri: str) -> Iterator[MlflowClient]:
    """A client on the store; every way in which a store can fail becomes one OutputError."""
    quiet()
    ready = reachable(uri)
    if ready is not None:
        raise OutputError(
            f"no answer from the tracking store {shown(uri)}: {ready}", remedy="start it, or unset its URI"
        )
    import requests
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    quiet()
    try:
        _prepare_database(uri)
        yield MlflowClient(tracking_uri=uri)
    except (MlflowException, SQLAlchemyError, requests.RequestException, OSError, TimeoutError) as error:
        first = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise OutputError(f"the tracking store {shown(uri)} failed: {first}", remedy="upload later") from error


def reachable(uri: str, timeout_s: float = 3.0) -> str | None:
    """Why a tracking server does not answer, or None if it does (or the store is a local database)."""
    parts = urlsplit(uri)
    if parts.scheme not in ("http", "https"):
        return None
    try:
        with urllib.request.urlopen(f"{shown(uri).rstrip('/')}/health", timeout=timeout_s) as reply:
            return None if reply.status == 200 else f"status {reply.status}"
    except urllib.error.HTTPError as error:  # it asks for a password, which MLflow's client gives
        return None if error.code in (401, 403) else f"status {error.code}"
    except (OSError, ValueError) as error:
        return str(getattr(error, "reason", None) or error)


def shown(uri: str) -> str:
    """The URI without a user name and password in it."""
    parts = urlsplit(uri)
    if "@" not in parts.netloc:
        return uri
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def database_of(uri: str) -> Path | None:
    """The file of a SQLite store, None for any other."""
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None


def _prepare_database(uri: str) -> None:
    """Make a new SQLite store as a copy of a cached empty one: migrating a fresh one takes 3 to 6 seconds."""
    path = database_of(uri)
    if path is None or path.exists():
        return
    import mlflow

    empty = cache_folder("mlflow") / f"empty-{mlflow.__version__}.db"
    if not empty.exists():
        with replacing(empty) as temporary:
            from mlflow import MlflowClient

            MlflowClient(tracking_uri=f"sqlite:///{temporary}").search_experiments(max_results=1)
    with replacing(path) as temporary:
        temporary.write_bytes(empty.read_bytes())


def experiment_id(client: MlflowClient, name: str, uri: str) -> str:
    """Id of the experiment with this name, made if missing: its artifacts beside a local database, its view set up."""
    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    return str(client.create_experiment(name, artifact_location=artifact_location(uri), tags=_TAGS))


def artifact_location(uri: str) -> str | None:
    """Beside a local database (MLflow's own default is the working folder); a server chooses its own."""
    path = database_of(uri)
    if path is None:
        return None
    folder = path.parent / "mlartifacts"
    make_folder(folder)
    return folder.resolve().as_uri()
