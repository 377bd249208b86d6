"""MLflow's own pages on a store, started and stopped cleanly."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from prnbench.errors import InputError, OutputError, UsageError
from prnbench.progress import console
from prnbench.tracking import view
from prnbench.tracking.store import EXPERIMENT, database_of, reachable, shown, store_uri


def dashboard(store: str | Path | None = None, port: int = 5000, *, host: str = "127.0.0.1") -> None:
    """Run MLflow's UI on a store until Ctrl-C or SIGTERM, and take every process of it down at the end.

    Raises
    ------
    InputError
        The store does not exist yet.
    UsageError
        The port is in use.
    """
    uri = store_uri(Path(), store)
    if urlsplit(uri).scheme in ("http", "https"):
        console().print(f"the store is a server with a page of its own: {shown(uri)}")
        return
    database = database_of(uri)
    if database is not None and not database.exists():
        raise InputError(
            "there is no tracking store", file=database, remedy="run prnbench evaluate first, or name its folder"
        )
    _check_port(host, port)
    with tempfile.TemporaryFile() as log, _server(_server_command(uri, host, port), log) as process:
        try:
            with _stopped_by_signals():
                _announce(process, f"http://{host}:{port}", database)
                code = process.wait()
        except KeyboardInterrupt:
            console().print("stopped")
            return
        log.seek(0)
        last = log.read().decode(errors="replace").strip().splitlines()[-1:] or ["no message"]
    raise OutputError(f"MLflow's server ended by itself (code {code}): {last[0][:300]}", remedy="try another port")


def _check_port(host: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise UsageError(
                f"port {port} on {host} cannot be used ({error.strerror})", remedy="choose another --port"
            ) from None


def _server_command(uri: str, host: str, port: int) -> list[str]:
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri, "--host", host]
    return [*command, "--port", str(port), "--workers", "1"]


@contextmanager
def _server(command: list[str], log: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """The server in a process group of its own, which is gone when the block is left."""
    environment = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with subprocess.Popen(command, env=environment, start_new_session=True, stdout=log, stderr=log) as process:
        try:
            yield process
        finally:
            _stop_group(process)


def _stop_group(process: subprocess.Popen[bytes], patience_s: float = 5.0) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(patience_s)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """SIGTERM stops the dashboard like Ctrl-C; SIGINT does so too where a shell's background job would ignore it."""

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _announce(process: subprocess.Popen[bytes], address: str, database: Path | None) -> None:
    """Say where the page is as soon as it answers."""
    console().print(f"starting MLflow's dashboard on {database or 'the store'} (Ctrl-C stops it) ...")
    while process.poll() is None:
        if reachable(address, timeout_s=1.0) is None:
            console().print(f"open {_page(address)}", soft_wrap=True)
            return
        time.sleep(0.25)


def _page(address: str) -> str:
    """The experiment's page with its columns and charts, or MLflow's first page where there is no such experiment."""
    question = f"{address}/api/2.0/mlflow/experiments/get-by-name?experiment_name={EXPERIMENT}"
    try:
        with urllib.request.urlopen(question, timeout=10.0) as reply:
            experiment = json.load(reply)["experiment"]
    except (OSError, ValueError, KeyError):
        return address
    tags = {tag["key"] for tag in experiment.get("tags", [])}
    return view.address(address, experiment["experiment_id"]) if view.TAG in tags else address
