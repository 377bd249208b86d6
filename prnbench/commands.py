"""What each command does: it calls the rooms in order and tells the user where the results are."""

from __future__ import annotations

import shlex
import sys
from argparse import Namespace
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from prnbench.errors import CheckFailedError, InputError, UsageError
from prnbench.progress import console, working

REPORTS = Path("reports")


def say(text: str) -> None:
    """One line for the user, paths unbroken."""
    console().print(text, soft_wrap=True)


def evaluate(options: Namespace) -> int:
    """Score models and predictions on data sets: table, report, MLflow run."""
    from prnbench import evaluation

    request = evaluation.Request(
        models=tuple(options.model),
        weights=options.weights,
        predictions=tuple(options.predictions),
        datasets=tuple(options.dataset),
        root=options.root,
        shards=options.shards,
        annotations=options.annotations,
        face_model=options.face_model,
        limit=options.limit,
        device=options.device,
        runtime=options.runtime,
        precision=options.precision,
        devices=options.devices,
        robustness=options.robustness,
        timing=not options.no_timing,
        pictures=not options.private,
        command=shlex.join(["prnbench", *sys.argv[1:]]),
    )
    out = options.out or REPORTS / evaluation.run_name(request)
    with nullcontext() if options.no_tracking else _machine_load(out):
        evaluation.run(request, out)
    _finish_run(out, private=options.private, tracked=not options.no_tracking, store=None if options.out else REPORTS)
    return 0


def _machine_load(out: Path) -> AbstractContextManager[None]:
    from prnbench.tracking import machine_load

    return machine_load(out)


def _finish_run(out: Path, *, private: bool, tracked: bool, store: Path | None) -> None:
    import os

    from prnbench.report import terminal, write_report

    with working("report"):
        page = write_report(out, private=private)
    console().print(terminal(out))
    say(f"report: {page}")
    if tracked:
        from prnbench.tracking import log_run

        with working("MLflow"):
            where = log_run(out, store=None if os.environ.get("MLFLOW_TRACKING_URI") else store)
        if where is not None:
            say(f"MLflow run: {where.run_id} in {where.uri} (prnbench dashboard {where.uri})")


def convert(options: Namespace) -> int:
    """Turn a raw data set into shards."""
    from prnbench.convert import Options
    from prnbench.convert.pipeline import convert as run

    if (options.backend == "dask") != (options.scheduler is not None):
        raise UsageError("--backend dask and --scheduler ADDRESS belong together", remedy="give both or neither")
    views = {"pitch_deg": options.pitch, "yaw_deg": options.yaw}
    given = {name: tuple(values) for name, values in views.items() if values}
    run(
        options.converter,
        options.root,
        options.out,
        dataset=options.dataset,
        face_model=options.face_model,
        store=options.store,
        resolution=options.resolution,
        options=Options(annotations=options.annotations, seed=options.seed, **given),
        workers=options.workers,
        strict=options.strict,
        scheduler=options.scheduler,
    )
    return 0


def synth(options: Namespace) -> int:
    """Write synthetic faces in a real layout, or contact sheets of the head."""
    if options.sheets is not None:
        from prnbench.synthetic.sheets import write_sheets

        write_sheets(options.sheets)
        say(f"contact sheets: {options.sheets}")
        return 0
    if options.out is None:
        raise UsageError("no output folder", remedy="give --out DIR (or --sheets DIR)")
    from prnbench.synthetic.layouts import generate

    model = options.face_model
    generate(options.layout, options.count, options.seed, options.out, face_model=model, workers=options.workers)
    say(f"{options.count} synthetic faces in {options.layout}'s layout: {options.out}")
    return 0


def predict(options: Namespace) -> int:
    """Reconstruct the face in each picture."""
    from prnbench.models import load_model
    from prnbench.predict import box_beside, predict_picture, read_picture, write_prediction
    from prnbench.progress import progress

    images = {path: read_picture(path) for path in options.image}
    predictor = load_model(options.model, weights=options.weights, device=options.device)
    if not predictor.card.trained:
        say(f"[yellow]{predictor.card.name}: {predictor.card.notes[0]}[/yellow]")
    for path, image in progress(list(images.items()), "predicting"):
        box = options.box if options.box is not None else box_beside(path)
        prediction, used, source = predict_picture(predictor, image, box)
        if prediction.failed is not None:
            raise InputError(f"no prediction ({prediction.failed})", file=path, remedy="give --box L T R B")
        written = write_prediction(path, image, prediction, used, options.out, predictor, options.mesh)
        say(f"{path} (box {source}): {', '.join(str(file) for file in written)}")
    return 0


def report(options: Namespace) -> int:
    """Rebuild the report of a stored run."""
    from prnbench.report import terminal, write_report

    page = write_report(options.run, private=options.private)
    console().print(terminal(options.run))
    say(f"report: {page}")
    return 0


def compare(options: Namespace) -> int:
    """Compare stored runs."""
    from prnbench.report import compare as run

    if len(options.run) < 2:
        raise UsageError("one run only", remedy="give two or more, the reference first")
    say(f"comparison: {run(options.run, options.out, private=options.private)}")
    return 0


def leaderboard(options: Namespace) -> int:
    """Show, extend, render or verify the boards."""
    from datetime import date

    from prnbench import leaderboard as boards

    if options.action == "add":
        if options.run is None:
            raise UsageError("no run to add", remedy="give the folder of an evaluation")
        day = options.date or date.today().isoformat()
        for path in boards.add(options.run, options.folder, date=day, budget=options.budget):
            say(f"added {path}")
        boards.render(options.folder)
    elif options.action == "render":
        for path in boards.render(options.folder):
            say(f"rendered {path}")
    elif options.action == "verify":
        problems = boards.verify(options.folder)
        for problem in problems:
            say(f"[red]{problem}[/red]")
        if problems:
            raise CheckFailedError(f"{len(problems)} problems on the boards", file=options.folder)
        say("the boards hold what their tables say")
    else:
        print(boards.show(options.folder))
    return 0


def check(options: Namespace) -> int:
    """Compare a run with a baseline; 0 passed, 1 regressed, 3 undecided."""
    from prnbench import evaluation, regression

    run = options.run
    tolerances = _share(options.max_nme_increase), _share(options.max_latency_increase)
    if run is not None and options.baseline_model is not None and options.model is None:
        raise UsageError("--baseline-model needs the model of the run beside it", remedy="give --model")
    model = options.model or "prn"
    if run is None:
        run = options.out or REPORTS / "check"
        command = shlex.join(["prnbench", *sys.argv[1:]])
        timing = options.baseline_model is None or options.update is not None
        evaluation.run(evaluation.Request(models=(model,), timing=timing, pictures=False, command=command), run)
    if options.update is not None:
        regression.update_baseline(run, options.baseline, options.update)
        say(f"new baseline: {options.baseline}")
        return 0
    calls = None
    if options.baseline_model is not None:
        calls = regression.interleaved_calls(options.baseline_model, model, options.baseline, run)
    verdict = regression.check(
        run,
        options.baseline,
        calls=calls,
        max_nme_increase=tolerances[0],
        max_latency_increase=tolerances[1],
    )
    regression.write_outputs(verdict, options.out or run)
    console().print(regression.terminal(verdict))
    return int(verdict.exit_code)


def _share(text: str) -> float:
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 <= value < 10:
        raise UsageError(f"not a tolerance: {text!r}", remedy="give a percentage such as 2%")
    return value


def dashboard(options: Namespace) -> int:
    """Start MLflow's pages on the stored runs until Ctrl-C."""
    from prnbench.tracking import dashboard as run

    run(options.store or REPORTS / "mlflow.db", options.port, host=options.host)
    return 0


def track(options: Namespace) -> int:
    """Upload a stored run."""
    from prnbench.tracking import register
    from prnbench.tracking import track as run

    if options.weights is not None and options.model is None:
        raise UsageError("--weights belongs to --model", remedy="give --model NAME")
    where = run(options.run, store=options.store)
    say(f"MLflow run: {where.run_id} in {where.uri}")
    if options.model is not None:
        say(f"model: {register(where, options.run, options.model, options.alias, weights=options.weights)}")
    return 0


def verify(options: Namespace) -> int:
    """Check shards against their manifest."""
    from prnbench.data.shards import read_manifest
    from prnbench.data.shards import verify as run

    problems = run(options.shards)
    for problem in problems:
        say(f"[red]{problem}[/red]")
    if problems:
        raise CheckFailedError(f"{len(problems)} problems", file=options.shards, remedy="convert again as told above")
    manifest = read_manifest(options.shards)
    say(f"{options.shards}: {manifest['count']} faces in {len(manifest['shards'])} shards, all as the manifest says")
    return 0


def info(options: Namespace) -> int:
    """Describe shards, a data set, a model or a face model."""
    from prnbench import describe

    given = [name for name in ("shards", "dataset", "model", "face_model") if getattr(options, name) is not None]
    if len(given) > 1:
        raise UsageError(f"describe one thing at a time, not {' and '.join(given)}", remedy="give one of them")
    kind = given[0] if given else "overview"
    describers: dict[str, Callable[[], Any]] = {
        "shards": lambda: describe.shards(options.shards, options.gallery),
        "dataset": lambda: describe.dataset(options.dataset),
        "model": lambda: describe.model(options.model),
        "face_model": lambda: describe.face_model(options.face_model, options.gallery),
        "overview": describe.overview,
    }
    from rich.console import Console

    Console(highlight=False).print(describers[kind]())
    return 0


def benchmark(options: Namespace) -> int:
    """Measure one room."""
    from importlib import import_module

    from prnbench.files import write_json

    module = import_module(f"prnbench.benchmarks.{options.what}")
    settings = {} if options.repeats is None else {"repeats": options.repeats}
    if options.what == "infer":
        settings |= {"model": options.model, "device": options.device}
    records = module.run(**settings)
    if options.json is not None:
        write_json(options.json, records)
        say(f"records: {options.json}")
    return 0


def import_weights(options: Namespace) -> int:
    """Read weights of the original release."""
    from prnbench.training.tf_checkpoint import import_tf

    import_tf(options.checkpoint, options.out)
    say(f"weights: {options.out}  (prnbench evaluate --model {options.out})")
    return 0


def export(options: Namespace) -> int:
    """Write weights in another format."""
    from prnbench.training.export import export as run

    run(options.checkpoint, options.out, float16=options.float16)
    say(f"written: {options.out}")
    return 0
