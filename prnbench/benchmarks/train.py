"""`prnbench benchmark train`: the training step beside the plain float32 loop, and the loader alone.

The plain loop is what a port does: the published network, eager float32, contiguous memory, ``torch.optim.Adam``. Ours
is the network as ``prnbench train`` runs it: channels-last, bf16 autocast, fused Adam, freed memory kept. Each
measurement runs in a process of its own (memory settings are per process), in turns.
"""

from __future__ import annotations

import multiprocessing
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from prnbench.benchmarks.faces import machine
from prnbench.progress import console, progress

Record = dict[str, Any]
BATCH = 16
FACES = 64
STEPS = {128: 4, 256: 2}
TARGET = 2.5


def run(repeats: int = 3, device: str = "") -> list[Record]:
    """Measure, print the table, and return the records.

    Parameters
    ----------
    repeats
        Rounds; each measures every way once in a new process.
    device
        ``cpu`` or ``cuda``; the GPU where there is one.
    """
    import torch

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    times: dict[tuple[str, int], list[float]] = {
        (way, side): [] for side in STEPS for way in ("plain float32", "prnbench")
    }
    for _ in progress(range(repeats), "training steps", unit="rounds"):
        for way, side in times:
            times[way, side].append(_in_a_process(_step_s, way, side, device))
    records: list[Record] = [{"what": "machine", **machine(), "threads": torch.get_num_threads(), "device": device}]
    for (way, side), values in times.items():
        ratio = median(times["plain float32", side]) / median(values)
        records.append(_record("step", way, side, BATCH / median(values), ratio, TARGET if way == "prnbench" else None))
    with tempfile.TemporaryDirectory() as folder:
        shards = _shards(Path(folder))
        for side in STEPS:
            records += _loader(shards, side, device)
    _print(records)
    return records


def _record(
    what: str, name: str, side: int, rate: float, ratio: float | None = None, target: float | None = None
) -> Record:
    return {"what": what, "name": name, "resolution": side, "faces_per_s": rate, "ratio": ratio, "target": target}


def _in_a_process(work: Any, *arguments: Any) -> Any:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, arguments)


def _step_s(way: str, side: int, device: str) -> float:
    """Seconds of one training step: forward, backward, optimiser, data at hand; the best of a few."""
    import torch

    from prnbench.benchmarks.infer import published
    from prnbench.models.prn import PRN
    from prnbench.training.cli import keep_freed_memory

    ours = way == "prnbench"
    if ours:
        keep_freed_memory()
    network: Any = PRN().to(memory_format=torch.channels_last) if ours else published(PRN())  # type: ignore[call-overload]
    network.to(device).train()
    optimiser = (
        torch.optim.Adam(network.parameters(), 1e-4, fused=True)
        if ours
        else torch.optim.Adam(network.parameters(), 1e-4)
    )
    layout = torch.channels_last if ours else torch.contiguous_format
    image = torch.rand(BATCH, 3, side, side, device=device).contiguous(memory_format=layout)
    target = torch.rand(BATCH, 3, side, side, device=device)
    times = []
    for _ in range(STEPS[side] + 1):
        start = perf_counter()
        with torch.autocast(device, dtype=torch.bfloat16, enabled=ours):
            output = network(image)
        ((output.float() - target) ** 2).mean().backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        if device != "cpu":
            torch.cuda.synchronize()
        times.append(perf_counter() - start)
    return min(times[1:])


def _shards(folder: Path) -> Path:
    from prnbench.convert.pipeline import convert
    from prnbench.synthetic.layouts import generate

    generate("w300lp", FACES, 0, folder / "raw")
    convert("w300lp", folder / "raw", folder / "shards", face_model="builtin", workers=1)
    return folder / "shards"


def _loader(shards: Path, side: int, device: str) -> list[Record]:
    """Faces a second of the loader on one core, and of what it leaves to the device."""
    import torch

    from prnbench.data.datamodule import Draw, Faces
    from prnbench.data.shards import open_shards
    from prnbench.data.transforms import Augmentation, network_target, photometric

    faces = Faces(open_shards(shards), {0: side}, Augmentation())
    worker, on_device = [], []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for epoch in range(6):
        start = perf_counter()
        batch = faces.batch([Draw(i, epoch) for i in range(BATCH)])
        worker.append(perf_counter() - start)
        batch = type(batch)(*(value.to(device) for value in batch))
        start = perf_counter()
        photometric(batch), network_target(batch.position_map_BMM3, batch.crop_B23, side)
        if device != "cpu":
            torch.cuda.synchronize()
        on_device.append(perf_counter() - start)
    torch.set_num_threads(threads)
    return [
        _record("loader", "read, decode, crop on one core", side, BATCH / median(worker[1:])),
        _record("loader", f"recolour, occlude, move maps on {device}", side, BATCH / median(on_device[1:])),
    ]


def _print(records: list[Record]) -> None:
    from rich.table import Table

    facts = records[0]
    where = facts["processor"] if facts["device"] == "cpu" else facts["device"]
    title = f"Training PRN on {where}, {facts['threads']} threads"
    table = Table("", "way", "side", "faces/s", "ratio", "target", title=title)
    for r in records[1:]:
        ratio = "" if r["ratio"] is None else f"{r['ratio']:.2f}"
        table.add_row(
            r["what"], r["name"], str(r["resolution"]), f"{r['faces_per_s']:.1f}", ratio, str(r["target"] or "")
        )
    console().print(table)
    for side in STEPS:
        core = next(r["faces_per_s"] for r in records if r["what"] == "loader" and r["resolution"] == side)
        model = next(r["faces_per_s"] for r in records if r.get("name") == "prnbench" and r["resolution"] == side)
        console().print(
            f"{side}x{side}: 16 loading cores give {16 * core:.0f} faces/s, the network here takes {model:.0f}"
        )
