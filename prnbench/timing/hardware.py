"""The machine a latency was measured on: description, fingerprint, threads, and a reference kernel for its noise."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prnbench.files import digest_of

if TYPE_CHECKING:
    import torch

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def hardware() -> dict[str, Any]:
    """Describe the machine; ``fingerprint`` is equal on equal hardware, whatever the software.

    A latency is compared only with one of the same fingerprint.
    """
    import torch

    gpus = (
        [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    )
    described = {
        "cpu": _cpu_name(),
        "instructions": _instructions(),
        "cores": len(_cpus()),
        "memory_gib": round(_memory_bytes() / 2**30),
        "gpus": gpus,
    }
    return described | {"fingerprint": digest_of(described)[:16]}


def software(device: str) -> dict[str, Any]:
    """Versions and thread settings that move a latency."""
    import torch

    found = {
        "torch": torch.__version__,
        "numpy": np.__version__,
        "torch_threads": torch.get_num_threads(),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS"),
        "device": device,
    }
    if device.startswith("cuda"):
        found |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version(), "driver": _driver()}  # type: ignore[no-untyped-call]
    return found


@contextmanager
def pinned(threads: int | None) -> Iterator[None]:
    """Run on ``threads`` cores and as many torch threads; None leaves everything as it is. Restored afterwards."""
    import torch

    if threads is None:
        yield
        return
    before, cpus = torch.get_num_threads(), _cpus()
    torch.set_num_threads(threads)
    _pin(cpus[:threads])
    try:
        yield
    finally:
        torch.set_num_threads(before)
        _pin(cpus)


class ReferenceKernel:
    """A fixed piece of work (four float32 matrix products of 512 x 512), run between queries.

    Its times in one run say how repeatable the machine is, and its median is a yardstick between machines.
    """

    def __init__(self, device: str):
        import torch

        generator = torch.Generator().manual_seed(0)
        self._matrix = torch.rand(512, 512, generator=generator).to(device)
        self._device = device
        self.times_ms: list[float] = []
        for _ in range(3):
            self.run()
        self.times_ms.clear()

    def run(self) -> None:
        """Run once and keep the time."""
        synchronise(self._device)
        start = time.perf_counter_ns()
        product: torch.Tensor = self._matrix
        for _ in range(4):
            product = product @ self._matrix * 0.001
        synchronise(self._device)
        self.times_ms.append((time.perf_counter_ns() - start) / 1e6)

    def report(self) -> dict[str, Any]:
        """Median time, and noise as the robust relative standard deviation (1.4826 MAD / median) in per cent."""
        times = np.array(self.times_ms)
        median = float(np.median(times))
        noise = 148.26 * float(np.median(np.abs(times - median))) / median
        return {"median_ms": median, "noise_percent": noise, "runs": len(times), "kernel": "4 x matmul 512 float32"}


def synchronise(device: str) -> None:
    """Wait until the device has finished what was handed to it."""
    if device.startswith("cuda"):
        import torch

        torch.cuda.synchronize(device)


def reset_peak_memory(device: str) -> None:
    """Start a new measurement of peak memory."""
    if device.startswith("cuda"):
        import torch

        torch.cuda.reset_peak_memory_stats(device)
    with suppress(OSError):
        _RESET.write_text("5")


def peak_memory(device: str) -> dict[str, float]:
    """Peak resident memory of the process (and of the device) since the last reset, in MiB."""
    found = {"process_mib": _peak_resident_kib() / 1024}
    if device.startswith("cuda"):
        import torch

        found["device_mib"] = torch.cuda.max_memory_allocated(device) / 2**20
    return found


def _peak_resident_kib() -> float:
    with suppress(OSError):
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return float(line.split()[1])
    import resource

    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def _cpus() -> list[int]:
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _pin(cpus: list[int]) -> None:
    if not hasattr(os, "sched_setaffinity"):
        return
    for task in Path("/proc/self/task").iterdir():
        with suppress(OSError):
            os.sched_setaffinity(int(task.name), cpus)


def _cpu_name() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _instructions() -> list[str]:
    wanted = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "avx512_vnni", "asimd")
    with suppress(OSError):
        words = set(Path("/proc/cpuinfo").read_text().split())
        return [name for name in wanted if name in words]
    return []


def _memory_bytes() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 0


def _driver() -> str | None:
    with suppress(OSError, IndexError):
        return Path("/proc/driver/nvidia/version").read_text().split("Module")[1].split()[0]
    return None
