"""`prnbench benchmark infer`: a model's latency after LoadGen, and PRN's runtimes beside plain eager float32, in turns.

The first part is ``prnbench.timing`` at full length, on pictures of the built-in benchmark, for any model. The second
is for PRN's weights, at the resolution they were trained at. Its reference is the published network as a port would
write it: transposed convolutions as such, cropped, batch norm apart, eager float32. Differences are against it, in
pixels of the network's crop.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter_ns
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 -- its usual name

from prnbench.benchmarks.faces import machine
from prnbench.errors import PrnbenchError
from prnbench.evaluation import Request, load_dataset, timed_faces
from prnbench.models import _runtime, _weights, load_model, prn
from prnbench.progress import console, progress, working
from prnbench.report.speed import milliseconds
from prnbench.report.tables import LEAN
from prnbench.timing import STAGES, Plan, measure

Record = dict[str, Any]
Run = Callable[[Tensor], Tensor]
REFERENCE = "plain eager float32"
BATCHES = 1, 8
WARM_UP = 3
TARGETS = {"float32": 2.5, "bf16": 4.5}


def run(repeats: int | None = None, model: str = "prn", device: str = "cpu") -> list[Record]:
    """Measure, print the tables, and return the records.

    Parameters
    ----------
    repeats
        Rounds of the runtimes, each of which runs every way once (30 by default), and least queries of a scenario
        (64 by default: as many as a 90th percentile needs); a small number makes a quick look.
    model
        Any model of ``prnbench evaluate``; runtimes are compared for ``prn`` and weights files of it.
    device
        ``cpu`` or ``cuda``.
    """
    records = [scenarios(model, device, plan_of(repeats))]
    if model == "prn" or (
        Path(model).suffix in (".safetensors", ".ckpt") and _weights.model_name(Path(model)) == "prn"
    ):
        records += runtimes(model, device, repeats or 30)
    return records


def plan_of(repeats: int | None) -> Plan:
    """Full length, or a quick look at so many queries a scenario."""
    return Plan() if repeats is None else Plan(seconds=0.5, queries=repeats, warmup_s=0.5, mode=f"{repeats} queries")


def scenarios(model: str, device: str, plan: Plan) -> Record:
    """Single stream, multi stream and offline of one model, pinned to the cores that are there; ``timing.json``."""
    options = {} if device == "cpu" else {"device": device}
    predictor = load_model(model, **options)
    faces = timed_faces(load_dataset("synthetic_faces", Request()))
    with working(f"{model}: single stream, multi stream, offline"):
        timing = measure({model: predictor}, faces, plan, threads=torch.get_num_threads())
    _print_scenarios(timing, model)
    return {"what": "loadgen", "model": model, **timing}


def _print_scenarios(timing: Record, model: str) -> None:
    from rich.table import Table

    found, software = timing["models"][model], timing["software"]
    title = f"{model} ({found['runtime']}) on {found['device']}, {software['torch_threads']} threads, ms a query"
    heads = ("scenario", "batch", "pre", "forward", "post", "end to end", "p90", "p99", "faces/s", "queries")
    table = Table(*heads, title=title, **LEAN)
    for name, scenario in found["scenarios"].items():
        stages = [milliseconds(scenario["stages"][stage]["median_ms"]) for stage in STAGES]
        bounds = [milliseconds(scenario.get(key)) for key in ("p90_ms", "p99_ms")]
        rate = f"{scenario['faces_per_s']:.1f}"
        table.add_row(name.replace("_", " "), str(scenario["batch"]), *stages, *bounds, rate, str(scenario["queries"]))
    console().print(table)
    warmup, memory, reference = found["warmup"], found["memory"], timing["reference"]
    peak = ", ".join(f"{name.removesuffix('_mib')} {mib:,.0f} MiB" for name, mib in memory.items())
    console().print(
        f"warm-up, left out: {warmup['queries']} queries, {warmup['seconds']:.1f} s, first {warmup['first_ms']:.0f} ms"
    )
    console().print(
        f"{found['parameters'] or 0:,} parameters, {(found['macs'] or 0) / 1e9:.2f} GMAC a face; peak memory: {peak}"
    )
    console().print(
        f"noise of the machine {reference['noise_percent']:.1f} % ({reference['kernel']}, {reference['runs']} times); "
        f"hardware {timing['hardware']['fingerprint']}"
    )


def runtimes(model: str, device: str, repeats: int) -> list[Record]:
    """PRN in every installed runtime and precision, run in turns with the reference."""
    network, resolution, trained = _network(model)
    ways, skipped = _ways(network.to(device), resolution, device)
    facts = {"threads": torch.get_num_threads(), "device": _named(device), "resolution": resolution}
    records: list[Record] = [{"what": "machine", **machine(), **facts}]
    for batch in BATCHES:
        image = _runtime.check_image(resolution).repeat(batch, 1, 1, 1)
        records += _measured(ways, image, repeats if batch == 1 else max(repeats // 4, 3), device)
    _print(records, trained, skipped)
    return records


def published(network: prn.PRN) -> nn.Module:
    """The network with each stride-1 transposed convolution as one, unpadded and cropped, as the original has it."""
    plain = copy.deepcopy(network).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    for module in list(plain.modules()):
        if isinstance(module, prn.ConvNorm) and isinstance(module.conv, prn.SameConvTranspose2d):
            module.conv.__class__ = _PlainTranspose
    eager: nn.Module = plain.eval()
    return eager


class _PlainTranspose(prn.SameConvTranspose2d):
    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        if self.stride == (2, 2):
            return super().forward(x)
        return F.conv_transpose2d(x, self.weight)[:, :, 1:-2, 1:-2]


def _network(model: str) -> tuple[prn.PRN, int, bool]:
    """The network, the side of its crops, and whether it was trained."""
    path = _weights.shipped_weights("prn") if model == "prn" else Path(model)
    if path is None:
        return prn.PRN().eval(), prn.RESOLUTION, False
    weights = _weights.read_weights(path)
    return prn.network_of(weights, path), _weights.trained_resolution(weights, prn.RESOLUTION), True


def _ways(network: prn.PRN, resolution: int, device: str) -> tuple[dict[str, Run], list[str]]:
    plain, skipped = published(network), []
    ways: dict[str, Run] = {REFERENCE: lambda image: plain(image.to(device))}
    for runtime in _runtime.RUNTIMES:
        for precision in _runtime.PRECISIONS:
            try:
                made = prn.ready(network, resolution, runtime, precision, device)
                ways[made.name] = made.run
            except PrnbenchError as error:
                skipped.append(f"{runtime} {precision}: {error.cause}")
    return ways, skipped


def _measured(ways: dict[str, Run], image: Tensor, repeats: int, device: str) -> list[Record]:
    batch, resolution = len(image), image.shape[-1]
    times: dict[str, list[float]] = {name: [] for name in ways}
    with torch.inference_mode():
        outputs = {name: way(image).float().cpu().clone() for name, way in ways.items()}
        for round_ in progress(range(repeats + WARM_UP), f"batch {batch}", unit="rounds"):
            for name, way in ways.items():
                start = perf_counter_ns()
                way(image)
                _synchronise(device)
                if round_ >= WARM_UP:
                    times[name].append((perf_counter_ns() - start) / 1e6)
    reference = median(times[REFERENCE])
    return [
        {
            "what": "infer",
            "name": name,
            "batch": batch,
            "median_ms": median(values),
            "min_ms": min(values),
            "faces_per_s": batch / median(values) * 1e3,
            "ratio": reference / median(values),
            "max_difference_px": float((outputs[name] - outputs[REFERENCE]).abs().max()) * prn.map_scale(resolution),
            "target": TARGETS.get(name.split()[-1]) if batch == 1 and name != REFERENCE else None,
        }
        for name, values in times.items()
    ]


def _synchronise(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def _named(device: str) -> str:
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else "cpu"


def _print(records: list[Record], trained: bool, skipped: list[str]) -> None:
    from rich.table import Table

    facts = records[0]
    side = facts["resolution"]
    title = f"PRN at {side}x{side} on {facts['processor'] if facts['device'] == 'cpu' else facts['device']}"
    table = Table(
        "batch",
        "way",
        "median ms",
        "min ms",
        "faces/s",
        "ratio",
        "max px",
        title=f"{title}, {facts['threads']} threads",
    )
    for r in records[1:]:
        values = f"{r['median_ms']:.1f}", f"{r['min_ms']:.1f}", f"{r['faces_per_s']:.1f}", f"{r['ratio']:.2f}"
        table.add_row(str(r["batch"]), r["name"], *values, f"{r['max_difference_px']:.2g}")
    console().print(table)
    console().print("targets at batch 1: 2.5 in float32, 4.5 in bf16 with at most 0.1 px")
    if not trained:
        console().print("the weights are untrained: their output hardly varies, so the differences in px mean nothing")
    for line in skipped:
        console().print(f"left out: {line}")
