"""The machine's load while an evaluation runs: MLflow's own monitors, kept on disk until the run is uploaded."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from prnbench.files import write_json
from prnbench.tracking.store import quiet

FILE = "load.json"
PERIOD_S = 5.0


@contextmanager
def machine_load(folder: Path) -> Iterator[None]:
    """Measure processor, memory, disk, network and GPU while the block runs, into ``load.json`` in the folder.

    The file is a list of samples, one in ``PERIOD_S`` seconds and one at the end: ``time_ms`` and MLflow's names
    (``system/cpu_utilization_percentage``), each the mean since the sample before. A block that fails leaves no file.
    """
    monitors, samples, over = _monitors(), list[dict[str, float]](), threading.Event()
    thread = threading.Thread(target=_measure, args=(monitors, samples, over), name="machine load", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    write_json(folder / FILE, samples)


def _measure(monitors: list[Any], samples: list[dict[str, float]], over: threading.Event) -> None:
    _sample(monitors)  # shares of the processor are counted from here, thread by thread
    last = False
    while not last:
        last = over.wait(PERIOD_S)
        samples.append(_sample(monitors))


def _sample(monitors: list[Any]) -> dict[str, float]:
    values: dict[str, float] = {"time_ms": int(time.time() * 1000)}
    for monitor in monitors:
        monitor.collect_metrics()
        values |= {f"system/{name}": float(value) for name, value in monitor.aggregate_metrics().items()}
        monitor.clear_metrics()
    return values


def _monitors() -> list[Any]:
    quiet()
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
    from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
    from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

    monitors: list[Any] = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
    with suppress(ImportError, RuntimeError):  # no NVIDIA driver or its bindings
        monitors.append(GPUMonitor())
    return monitors
