"""A whole evaluation: data sets and predictors by name, the per-sample table, timings and pictures, on disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from prnbench.benchmark_set import synthetic_faces
from prnbench.cards import DatasetCard, load_card
from prnbench.chunks import Chunk, Parts, chunks_of, evaluated, worker_processes
from prnbench.data.shards import ShardSet, open_shards
from prnbench.environment import environment
from prnbench.error_maps import ErrorMap, write_error_maps
from prnbench.error_maps import measure as measure_error_map
from prnbench.errors import UsageError
from prnbench.evaluate import (
    BATCH,
    Dataset,
    evaluate,
    kept,
    possible_protocols,
    predict,
    predict_inputs,
    table_of,
)
from prnbench.files import digest_of, sha256_of, write_json
from prnbench.metrics import Context
from prnbench.models import Predictor, load_model
from prnbench.morphable import MorphableModel
from prnbench.predictions import Predictions, read_predictions
from prnbench.progress import console, working
from prnbench.robustness.measure import Given, robust_protocols, robustness_rows
from prnbench.robustness.sheet import write_sheet
from prnbench.robustness.suite import load_suite
from prnbench.robustness.table import RobustnessTable
from prnbench.sample import Prediction, Sample
from prnbench.table import PerSampleTable
from prnbench.timing import Face, quick
from prnbench.uv import UvChart, chart_of, face_area

TIMED_FACES = 16
FACES, ROBUSTNESS = "faces", "robustness"
ROBUST_BATCH = 8
MAP_SIZE = 256
"""Texels a side of the context that is made for models on scans; maps of other sizes are resampled to it."""


@dataclass(frozen=True, slots=True)
class Request:
    """What to evaluate, on which faces and how; the fields are the options of ``prnbench evaluate``.

    ``pictures`` are those of persons; without them the gallery shows geometry only.
    """

    models: tuple[str, ...] = ()
    weights: Path | None = None
    predictions: tuple[Path, ...] = ()
    datasets: tuple[str, ...] = ()
    root: Path | None = None
    shards: Path | None = None
    annotations: Path | None = None
    face_model: str | None = None
    limit: int | None = None
    device: str = "cpu"
    runtime: str | None = None
    precision: str | None = None
    devices: int = 1
    robustness: int = 0
    timing: bool = True
    pictures: bool = True
    command: str = ""


def run_name(request: Request) -> str:
    """``prn-synthetic_faces``: models and data sets of a run, for its folder."""
    models = [Path(name).stem.replace(":", "-") for name in request.models] + [p.stem for p in request.predictions]
    return "-".join([*models, *(request.datasets or ("synthetic_faces",))])[:120]


def run(request: Request, out: Path) -> None:
    """Evaluate and write the table, and what was asked for beside it, to ``out``.

    ``per_sample.parquet`` and ``.json``, ``robustness.parquet`` and ``.json``, ``robustness.png``, ``timing.json``,
    ``gallery/``. A run that was stopped goes on where it was when it is started again with the same ``out``.
    """
    _check(request)
    devices = _devices(request)
    work = Work.load(request)
    parts = Parts(out, work.key)
    with worker_processes(devices if len(devices) > 1 else (), partial(_start, request, parts)) as pools:
        one = _work if pools else partial(write_part, work, parts)
        rows = [row for group in work.groups(FACES) for row in _rows_of(group, parts, one, pools)]
        harmed = [row for group in work.groups(ROBUSTNESS) for row in _rows_of(group, parts, one, pools)]
    header = {"environment": environment(), "command": request.command}
    datasets = list(work.datasets.values())
    table = table_of(rows, datasets, work.cards, header)
    table.write(out)
    if harmed:
        _write_robustness(harmed, table, work, out)
    timed = {name: predictor for name, predictor in work.predictors.items() if not _sees_truth(predictor)}
    if request.timing and timed and next(iter(datasets[0].samples)).jpeg is not None:
        with working("timing"):
            write_json(out / "timing.json", quick(timed, timed_faces(datasets[0])))
    with working("error maps"):
        write_error_maps(out, work.error_maps())
    from prnbench.gallery import write_gallery

    with working("pictures"):
        write_gallery(out, table, work.predictors, datasets, persons=request.pictures)
    parts.remove()


# -- the work and its parts --------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Work:
    """Models, predictions files and data sets of an evaluation by name: all that a process needs for any chunk.

    Attributes
    ----------
    seen
        Data set as a model sees it: with the context of the model's own chart where the truth has none.
    """

    request: Request
    predictors: dict[str, Predictor]
    given: dict[str, dict[str, Predictions]]
    datasets: dict[str, Dataset]
    seen: dict[tuple[str, str], Dataset]
    offers: dict[tuple[str, str], frozenset[str] | None]

    @classmethod
    def load(cls, request: Request) -> Work:
        """Load everything that the request names."""
        names = request.datasets or ("synthetic_faces",)
        for name in names:
            _check_source(load_card(name), request)
        predictors = {_label(name): _predictor(name, request) for name in request.models}
        datasets = {name: load_dataset(name, request) for name in names}
        given: dict[str, dict[str, Predictions]] = {}
        for path in request.predictions:
            for name, dataset in datasets.items():
                found = read_predictions(path, dataset.ids)
                given.setdefault(found.name, {})[name] = found
        if len(predictors.keys() | given.keys()) < len(request.models) + len(request.predictions):
            raise UsageError("two models have one name", remedy="rename a file, so that the tables can tell them apart")
        pairs = {(m, d): (predictors[m], datasets[d]) for m in predictors for d in datasets}
        seen = {pair: with_own_chart(predictor, dataset, request) for pair, (predictor, dataset) in pairs.items()}
        offers = {pair: _comparable(predictor, seen[pair]) for pair, (predictor, _) in pairs.items()}
        return cls(request, predictors, given, datasets, seen, offers)

    @property
    def cards(self) -> dict[str, Any]:
        """What is known of each model, JSON-able."""
        cards: dict[str, Any] = {name: predictor.card.as_dict() for name, predictor in self.predictors.items()}
        return cards | {name: _card_of(next(iter(files.values()))) for name, files in self.given.items()}

    @cached_property
    def key(self) -> str:
        """Digest of everything that changes a row: models, data, protocols, code."""
        code = [code_of(name) for name in self.request.models]
        data = [(d.name, d.digest, len(d.samples), [p.identity() for p in d.protocols]) for d in self.datasets.values()]
        how = self.request.device.partition(":")[0], self.request.face_model, self.request.robustness
        return digest_of(self.cards, code, data, how, load_suite().as_dict(), environment())

    def groups(self, kind: str) -> list[list[Chunk]]:
        """Chunks by model and data set; robustness is measured on models, where there are pictures and landmarks."""
        if kind == FACES:
            counts = {name: len(dataset.samples) for name, dataset in self.datasets.items()}
            names = [*self.predictors, *self.given]
            return [chunks_of(kind, m, d, count, BATCH) for m in names for d, count in counts.items()]
        counts = {name: len(self._robust_faces(name)) for name in self.datasets} if self.request.robustness else {}
        models = [name for name, predictor in self.predictors.items() if not _sees_truth(predictor)]
        return [chunks_of(kind, m, d, n, ROBUST_BATCH) for m in models for d, n in counts.items() if n]

    def rows(self, chunk: Chunk) -> list[dict[str, Any]]:
        """Rows of the per-sample table, or of the robustness table, for a chunk."""
        if chunk.kind == ROBUSTNESS:
            return self._robustness_rows(chunk)
        pair = chunk.model, chunk.dataset
        whole = self.seen.get(pair, self.datasets[chunk.dataset])
        part = replace(whole, samples=whole.samples[chunk.start : chunk.stop])
        if chunk.model in self.predictors:
            predictor = self.predictors[chunk.model]
            return evaluate(lambda batch: predict(predictor, batch), chunk.model, part, offers=self.offers[pair])
        given = self.given[chunk.model][chunk.dataset]
        return evaluate(lambda batch: given.of([sample.id for sample in batch]), chunk.model, part)

    def error_maps(self) -> list[ErrorMap]:
        """Where each model errs, for those that give position maps in the chart of the truth."""
        found = [self._error_map(model, name) for model in [*self.predictors, *self.given] for name in self.datasets]
        return [error_map for error_map in found if error_map is not None]

    def _error_map(self, model: str, name: str) -> ErrorMap | None:
        if self.offers.get((model, name)) is not None:
            return None
        if model in self.given:
            given = self.given[model][name]
            return measure_error_map(lambda batch: given.of([s.id for s in batch]), model, self.datasets[name])
        predictor = self.predictors[model]
        return measure_error_map(lambda batch: predict(predictor, batch), model, self.datasets[name])

    def _robust_faces(self, name: str) -> list[int]:
        """Places of the faces for robustness: as many as asked for, evenly over the data set; none without pictures."""
        dataset = self.datasets[name]
        first = next(iter(dataset.samples))
        if first.jpeg is None or first.landmarks_px is None or not robust_protocols(dataset.protocols):
            return []
        total = len(dataset.samples)
        count = min(self.request.robustness, total)
        return [i * total // count for i in range(count)]

    def _robustness_rows(self, chunk: Chunk) -> list[dict[str, Any]]:
        pair = chunk.model, chunk.dataset
        predictor, dataset = self.predictors[chunk.model], self.seen[pair]
        places = self._robust_faces(chunk.dataset)[chunk.start : chunk.stop]
        samples = [dataset.samples[i] for i in places]

        def predict_given(given: Sequence[Given]) -> list[Prediction]:
            inputs = [lambda make=make: predictor.preprocess(*make()) for make in given]
            return [kept(prediction, self.offers[pair]) for prediction in predict_inputs(predictor, inputs)]

        protocols = robust_protocols(dataset.protocols)
        rows = robustness_rows(predict_given, samples, protocols, dataset.context, load_suite())
        return [{"model": chunk.model, "dataset": chunk.dataset, **row} for row in rows]


def write_part(work: Work, parts: Parts, chunk: Chunk) -> None:
    """Evaluate one chunk and keep its rows."""
    parts.write(chunk, work.rows(chunk))


_process: tuple[Work, Parts] | None = None  # of a process that shares an evaluation


def _start(request: Request, parts: Parts, device: str) -> None:
    """Load everything in a process of its own, on its device, with its share of the cores."""
    import torch

    global _process
    console().quiet = True
    torch.set_num_threads(max(1, torch.get_num_threads() // request.devices) if device == "cpu" else 1)
    _process = Work.load(replace(request, device=device)), parts


def _work(chunk: Chunk) -> None:
    assert _process is not None
    write_part(*_process, chunk)


def _rows_of(chunks: list[Chunk], parts: Parts, work: Any, pools: Sequence[Any]) -> list[dict[str, Any]]:
    kind = "" if chunks[0].kind == FACES else ", robustness"
    return evaluated(chunks, parts, work, f"{chunks[0].model} on {chunks[0].dataset}{kind}", pools)


def _devices(request: Request) -> list[str]:
    if request.devices == 1 or not request.device.startswith("cuda"):
        return [request.device] * request.devices
    import torch

    if (there := torch.cuda.device_count()) < request.devices:
        raise UsageError(
            f"{request.devices} devices asked for, {there} there", remedy=f"give --devices {max(there, 1)}"
        )
    return [f"cuda:{i}" for i in range(request.devices)]


def _sees_truth(predictor: Predictor) -> bool:
    """Whether it is a ceiling that takes the Sample itself: no picture to time it on or to harm."""
    return hasattr(predictor, "preprocess_truth")


def code_of(model: str) -> str:
    """Digest of the module behind ``package.module:build``; prnbench's own code is known anyway."""
    from importlib.util import find_spec

    spec = find_spec(model.partition(":")[0]) if ":" in model else None
    return sha256_of(Path(spec.origin)) if spec is not None and spec.origin else ""


def _write_robustness(rows: list[dict[str, Any]], table: PerSampleTable, work: Work, out: Path) -> None:
    used = [p for dataset in work.datasets.values() for p in robust_protocols(dataset.protocols)]
    header = {name: table.header[name] for name in ("models", "datasets", "environment", "command")}
    header |= {"suite": load_suite().as_dict(), "protocols": {p.key: asdict(p) for p in used}}
    RobustnessTable.make(rows, header).write(out)
    if work.request.pictures:
        dataset = next(d for name, d in work.datasets.items() if work._robust_faces(name))
        write_sheet(next(iter(dataset.samples)), load_suite(), out / f"{ROBUSTNESS}.png")


def with_own_chart(predictor: Predictor, dataset: Dataset, request: Request) -> Dataset:
    """The data set with the context of the model's own chart, where the truth (a scan) brings none."""
    own = getattr(predictor, "chart", None)
    if own is None or dataset.chart is not None:
        return dataset
    from prnbench.facemodel import load_face_model

    for candidate in dict.fromkeys((request.face_model, None)):
        model = load_face_model(candidate)
        if same_chart(own, chart_of(model)):
            return replace(dataset, context=face_context(model, MAP_SIZE), chart=own)
    return dataset


def _check(request: Request) -> None:
    if not request.models and not request.predictions:
        raise UsageError("nothing to evaluate", remedy="give --model NAME or --predictions FILE")
    if request.weights is not None and len(request.models) != 1:
        raise UsageError("--weights belongs to one --model", remedy="name weights files as models instead")
    if (request.root or request.shards or request.annotations) and len(request.datasets) != 1:
        raise UsageError("--root, --shards and --annotations belong to one --dataset", remedy="give --dataset NAME")
    if request.devices < 1 or request.robustness < 0:
        raise UsageError("--devices and --robustness are counts", remedy="give a positive number")
    if request.robustness and not request.models:
        raise UsageError("--robustness needs a model to run", remedy="give --model NAME")
    if request.limit is not None and request.limit < 1:
        raise UsageError(f"--limit {request.limit} leaves no faces", remedy="give a positive number")


def _check_source(card: DatasetCard, request: Request) -> None:
    brought = request.root or request.shards or request.annotations
    if card.name != "synthetic_faces" and not brought:
        remedy = f"give --root DIR; it is had from {card.source}"
        raise UsageError(f"{card.title} has to be brought along", remedy=remedy)


def _label(name: str) -> str:
    return Path(name).stem if Path(name).suffix and ":" not in name else name


def _predictor(name: str, request: Request) -> Predictor:
    wanted = {"device": request.device, "runtime": request.runtime, "precision": request.precision}
    options = {key: value for key, value in wanted.items() if value is not None}
    if request.device == "cpu":
        options.pop("device")
    if request.face_model is not None and ":" not in name:
        options["face_model"] = request.face_model
    predictor = load_model(name, weights=request.weights, **options)
    if not predictor.card.trained:
        console().print(f"[yellow]{predictor.card.name}: {predictor.card.notes[0]}[/yellow]", soft_wrap=True)
    return predictor


def load_dataset(name: str, request: Request) -> Dataset:
    """Faces, protocols and context of a data set by name; raw folders are converted and cached."""
    card = load_card(name)
    if request.annotations is not None and request.root is None and request.shards is None:
        return _annotated(card, request)
    shards = _shards(card, request)
    samples: ShardSet = shards if request.limit is None else shards[: request.limit]
    skipped = sum(not entry["file"].endswith("_Flip/") for entry in shards.manifest["skipped"])
    digest = digest_of([entry["sha256"] for entry in shards.manifest["shards"]], request.limit)
    model = _truth_model(shards, request)
    context = Context() if model is None else face_context(model, int(shards.manifest["resolution"]))
    found = _dataset(card, samples, samples[0], digest, context, skipped)
    return found if model is None else replace(found, chart=chart_of(model))


def _annotated(card: DatasetCard, request: Request) -> Dataset:
    from prnbench.annotations import read_annotations

    assert request.annotations is not None
    samples = read_annotations(request.annotations)[: request.limit]
    digest = digest_of(*((s.id, b"" if s.landmarks_px is None else s.landmarks_px.tobytes()) for s in samples))
    return _dataset(card, samples, samples[0], digest, Context(), 0)


def _dataset(card: DatasetCard, samples: Any, first: Sample, digest: str, context: Context, skipped: int) -> Dataset:
    possible, left_out = possible_protocols(card.protocols, first)
    if left_out:
        console().print(f"{card.name}: {len(possible)} of {len(card.protocols)} metrics are possible; left out:")
        for reason in sorted(set(left_out.values())):
            keys = ", ".join(key for key, value in left_out.items() if value == reason)
            console().print(f"  {keys}: {reason}", soft_wrap=True)
    described: dict[str, Any] = {
        "title": card.title,
        "source": card.source,
        "licence": card.licence,
        "consent": card.consent,
    }
    described |= {"privacy": card.privacy, "left_out": left_out}
    return Dataset(card.name, samples, tuple(possible), digest, context, skipped, described)


def _shards(card: DatasetCard, request: Request) -> ShardSet:
    from prnbench.convert import Options
    from prnbench.convert.pipeline import convert_cached

    if request.shards is not None:
        shards = open_shards(request.shards, request.face_model)
        if shards.name != card.name:
            raise UsageError(
                f"{request.shards} holds {shards.name}, not {card.name}", remedy=f"give --dataset {shards.name}"
            )
        return shards
    if card.name == "synthetic_faces":
        folder = convert_cached("aflw2000_3d", synthetic_faces(), dataset=card.name, face_model="builtin")
    else:
        assert request.root is not None
        options = Options(annotations=request.annotations)
        folder = convert_cached(card.converter, request.root, face_model=request.face_model, options=options)
    return open_shards(folder, request.face_model)


def _truth_model(shards: ShardSet, request: Request) -> MorphableModel | None:
    """The face model behind the ground truth's position maps."""
    if shards.face_model_fingerprint is None:
        return None
    from prnbench.facemodel import load_face_model

    model = load_face_model(request.face_model)
    if model.fingerprint == shards.face_model_fingerprint:
        return model
    raise UsageError(
        f"the position maps of {shards.folder} follow another face model than {model.name}",
        remedy=f"give theirs, {shards.manifest['face_model']!r}, with --face-model",
    )


def face_context(model: MorphableModel, resolution: int) -> Context:
    """What dense protocols need of a face model."""
    chart = chart_of(model)
    raster = chart.raster(resolution)
    return Context(
        face_texels=face_area(model, chart, resolution),
        map_size=resolution,
        triangles=model.triangles,
        vertex_count=model.vertex_count,
        landmark_vertices=model.landmarks,
        position_map_of=raster.position_map,
        landmarks_of_map=partial(raster.sample, where=chart.landmark_uv),
    )


def _comparable(predictor: Predictor, dataset: Dataset) -> frozenset[str] | None:
    """Dense fields of a prediction count only where model and ground truth share the chart."""
    own, truth = getattr(predictor, "chart", None), dataset.chart
    if own is None or truth is None or same_chart(own, truth):
        return None
    console().print(f"{predictor.card.name}: its chart is not {dataset.name}'s; dense metrics are left out")
    return frozenset()


def same_chart(first: UvChart, second: UvChart) -> bool:
    """Whether two charts put the same vertices at the same places."""
    return first.uv.shape == second.uv.shape and np.allclose(first.uv, second.uv, atol=1e-6, equal_nan=True)


def _card_of(given: Predictions) -> dict[str, Any]:
    """What is known of the model behind a predictions file."""
    card: dict[str, Any] = {"name": given.name, "title": given.name, "predictions_digest": given.digest}
    if given.latency_ms:
        card["latency_ms"] = {"median": median(given.latency_ms.values()), "faces": len(given.latency_ms)}
    return card


def timed_faces(dataset: Dataset) -> list[Face]:
    """Decoded images and face boxes of the first faces, for timing."""
    first = islice(iter(dataset.samples), TIMED_FACES)
    return [(s.image_rgb(), box) for s in first if s.jpeg is not None and (box := s.box_px) is not None]
