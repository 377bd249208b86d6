"""MLflow tracking (the only mlflow user): runs go from disk to a store, and a store that is down loses nothing.

A run folder is whole before anything here is called. :func:`log_run` is what an evaluation calls at its end: it copies
the run to the store, or prints one warning that names ``prnbench track`` and goes on. The store is ``mlflow.db`` in
the run folder unless ``MLFLOW_TRACKING_URI`` (or an argument) names another.
"""

from prnbench.tracking.dashboard import dashboard
from prnbench.tracking.load import machine_load
from prnbench.tracking.registry import ALIASES, register
from prnbench.tracking.store import store_uri
from prnbench.tracking.training import lightning_logger
from prnbench.tracking.upload import Tracked, log_run, track

__all__ = [
    "ALIASES",
    "Tracked",
    "dashboard",
    "lightning_logger",
    "log_run",
    "machine_load",
    "register",
    "store_uri",
    "track",
]
