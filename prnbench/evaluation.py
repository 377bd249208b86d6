"""A whole evaluation: data sets and predictors by name, the per-sample table, timings and pictures, on disk."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from prnbench.benchmark_set import synthetic_faces
from prnbench.cards import DatasetCard, load_card
from prnbench.data.shards import ShardSet, open_shards
from prnbench.environment import environment
from prnbench.errors import UsageError
from prnbench.evaluate import Dataset, evaluate, possible_protocols, predict, table_of
from prnbench.files import digest_of, write_json
from prnbench.metrics import Context
from prnbench.models import Predictor, load_model
from prnbench.morphable import MorphableModel
from prnbench.predictions import Predictions, read_predictions
from prnbench.progress import console, working
from prnbench.sample import Sample
from prnbench.timing import Face, quick
from prnbench.uv import UvChart, chart_of, face_area

TIMED_FACES = 16


@dataclass(frozen=True, slots=True)
class Request:
    """What to evaluate, on which faces and how; the fields are the options of ``prnbench evaluate``."""

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
    timing: bool = True
    pictures: bool = True
    command: str = ""


def run_name(request: Request) -> str:
    """``prn-synthetic_faces``: models and data sets of a run, for its folder."""
    models = [Path(name).stem.replace(":", "-") for name in request.models] + [p.stem for p in request.predictions]
    return "-".join([*models, *(request.datasets or ("synthetic_faces",))])[:120]


def run(request: Request, out: Path) -> None:
    """Evaluate and write ``per_sample.parquet``, ``per_sample.json``, ``timing.json`` and ``gallery/`` to ``out``."""
    _check(request)
    names = request.datasets or ("synthetic_faces",)
    for name in names:
        _check_source(load_card(name), request)
    predictors = {_label(name): _predictor(name, request) for name in request.models}
    datasets = [load_dataset(name, request) for name in names]
    rows: list[dict[str, Any]] = []
    cards = {name: predictor.card.as_dict() for name, predictor in predictors.items()}
    for name, predictor in predictors.items():
        for dataset in datasets:
            offers = _comparable(predictor, dataset)
            rows += evaluate(lambda batch, p=predictor: predict(p, batch), name, dataset, offers=offers)
    for path in request.predictions:
        for dataset in datasets:
            given = read_predictions(path, dataset.ids)
            cards[given.name] = _card_of(given)
            rows += evaluate(lambda batch, g=given: g.of([s.id for s in batch]), given.name, dataset)
    header = {"environment": environment(), "command": request.command}
    table = table_of(rows, datasets, cards, header)
    table.write(out)
    if request.timing and predictors and next(iter(datasets[0].samples)).jpeg is not None:
        with working("timing"):
            write_json(out / "timing.json", quick(predictors, timed_faces(datasets[0])))
    if request.pictures:
        from prnbench.gallery import write_gallery

        with working("pictures"):
            write_gallery(out, table, predictors, datasets)


def _check(request: Request) -> None:
    if not request.models and not request.predictions:
        raise UsageError("nothing to evaluate", remedy="give --model NAME or --predictions FILE")
    if request.weights is not None and len(request.models) != 1:
        raise UsageError("--weights belongs to one --model", remedy="name weights files as models instead")
    if (request.root or request.shards or request.annotations) and len(request.datasets) != 1:
        raise UsageError("--root, --shards and --annotations belong to one --dataset", remedy="give --dataset NAME")
    if request.limit is not None and request.limit < 1:
        raise UsageError(f"--limit {request.limit} leaves no faces", remedy="give a positive number")


def _check_source(card: DatasetCard, request: Request) -> None:
    brought = request.root or request.shards or request.annotations
    if card.name != "synthetic_faces" and not brought:
        remedy = f"give --root DIR; it is had from {card.source}"
        raise UsageError(f"{card.title} has to be brought along", remedy=remedy)


def _label(name: str) -> str:
    return Path(name).stem if Path(name).suffix else name


def _predictor(name: str, request: Request) -> Predictor:
    wanted = {"device": request.device, "runtime": request.runtime, "precision": request.precision}
    options = {key: value for key, value in wanted.items() if value is not None}
    if request.device == "cpu":
        options.pop("device")
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
