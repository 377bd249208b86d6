"""Lightning's MLflow logger on the right store: it outlives a server that goes away, and keeps what training made."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prnbench.errors import PrnbenchError
from prnbench.files import read_json, write_json
from prnbench.progress import console
from prnbench.tracking.store import (
    EXPERIMENT,
    artifact_location,
    experiment_id,
    open_client,
    quiet,
    reachable,
    shown,
    store_uri,
)

RECORD = "tracking.json"
"""In the run's folder: its store and its id there."""

if TYPE_CHECKING:
    from lightning.pytorch.loggers import MLFlowLogger


def lightning_logger(
    folder: Path,
    run_name: str,
    *,
    store: str | Path | None = None,
    experiment: str = EXPERIMENT,
    tags: dict[str, str] | None = None,
    resume: bool = False,
) -> MLFlowLogger:
    """Lightning's MLFlowLogger on the right store, which outlives a tracking server that goes away.

    If the server does not answer at the start, the run is logged to ``mlflow.db`` in the folder; if it goes away
    later, one warning is printed and the training goes on. Use a CSVLogger beside it where every step counts.
    ``resume`` goes on with the run that ``tracking.json`` in the folder names. The logger's ``log_files`` and
    ``register`` (a weights file, as a new version of its model) fail with a warning too.
    """
    quiet()
    record = folder / RECORD
    earlier = read_json(record, "tracking record") if resume and record.is_file() else {}
    uri = store_uri(folder, store)
    if earlier.get("uri", shown(uri)) != shown(uri):
        uri = earlier["uri"]
    reason = reachable(uri)
    if reason is not None:
        console().print(f"warning: no answer from {shown(uri)} ({reason}); logging to {folder / 'mlflow.db'} instead")
        uri, earlier = f"sqlite:///{(folder / 'mlflow.db').resolve()}", {}
    with open_client(uri) as client:
        experiment_id(client, experiment, uri)
    logger = _forgiving_logger()(
        experiment_name=experiment,
        run_name=run_name,
        run_id=earlier.get("run_id"),
        tracking_uri=uri,
        artifact_location=artifact_location(uri),
        tags={"prnbench.kind": "training", **(tags or {})},
    )
    logger.record = record
    return logger


def _system_monitor(run_id: str, uri: str) -> Any:
    """A thread that logs processor, memory, disk, network and GPU load to a run, once in ten seconds."""
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    monitor = SystemMetricsMonitor(run_id, tracking_uri=uri)
    monitor.start()
    return monitor


def _forgiving_logger() -> type[MLFlowLogger]:
    from lightning.pytorch.loggers import MLFlowLogger
    from lightning.pytorch.utilities.rank_zero import rank_zero_only

    class ForgivingMLFlowLogger(MLFlowLogger):  # type: ignore[misc]
        """An MLFlowLogger whose store may go away: it says so once and stops. It logs the machine's load too."""

        lost = False
        record: Path
        monitor: Any = None

        def _try(self, action: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
            from mlflow.exceptions import MlflowException

            if self.lost or rank_zero_only.rank:
                return
            try:
                action(*args, **kwargs)
                if self.monitor is None:
                    self.monitor = _system_monitor(self.run_id, self._tracking_uri)
                    write_json(self.record, {"uri": shown(self._tracking_uri), "run_id": self.run_id})
            except (MlflowException, OSError) as error:
                type(self).lost = self.lost = True
                console().print(
                    f"warning: the tracking store went away ({str(error)[:120]}); training goes on without it"
                )

        def log_metrics(self, *args: Any, **kwargs: Any) -> None:
            self._try(super().log_metrics, *args, **kwargs)

        def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
            self._try(super().log_hyperparams, *args, **kwargs)

        def after_save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
            self._try(super().after_save_checkpoint, *args, **kwargs)

        def finalize(self, *args: Any, **kwargs: Any) -> None:
            if self.monitor is not None:
                self.monitor.finish()
            self._try(super().finalize, *args, **kwargs)

        def log_files(self, files: list[Path], folder: str | None = None) -> None:
            for file in files:
                self._try(lambda file: self.experiment.log_artifact(self.run_id, str(file), folder), file)

        def register(self, weights: Path) -> None:
            self._try(self._register, weights)

        def _register(self, weights: Path) -> None:
            from prnbench.tracking.registry import register_weights

            try:
                model = register_weights(self.experiment, self.run_id, weights)
                console().print(f"in MLflow's registry: {model}")
            except PrnbenchError as error:
                console().print(f"not in MLflow's registry: {error}")

    return ForgivingMLFlowLogger
