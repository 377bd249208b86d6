"""Running a converter: raw folder -> shards and manifest, in parallel, resumable, the same bytes every time.

A shard is the unit of work. Its bytes depend only on the raw files, the face model and the settings; it appears under
its name when it is complete, and carries the digest of its job, so that a second call after a kill makes only what is
missing. The manifest is written last: a folder without one is unfinished.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from prnbench import __version__
from prnbench.cards import YAW_BINS
from prnbench.convert import Found, Options, load_converter
from prnbench.data.codec import QuantisedMaps, quantised_model_maps
from prnbench.data.shards import (
    FACES_PER_SHARD,
    MANIFEST,
    PIXEL_CONVENTION,
    SCHEMA_VERSION,
    map_step,
    read_manifest,
    shard_attributes,
    write_manifest,
    write_shard,
)
from prnbench.errors import (
    FaceModelError,
    InputError,
    MissingExtraError,
    OutputError,
    SampleError,
    SchemaError,
    ShardError,
    UsageError,
)
from prnbench.files import cache_folder, digest_of, digest_of_files, make_folder, sha256_of
from prnbench.progress import console, progress
from prnbench.sample import Sample


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything but the raw files that decides what a conversion writes."""

    dataset: str
    converter: str
    root: Path
    face_model: str | None
    fingerprint: str | None
    store: str
    resolution: int
    options: Options

    def settings(self) -> dict[str, Any]:
        """The recipe as it stands in the manifest; paths of the machine are left out."""
        options = {k: v for k, v in asdict(self.options).items() if k != "annotations"}
        if self.options.annotations is not None:
            files = sorted(p for p in self.options.annotations.iterdir() if p.suffix in (".npy", ".txt"))
            options["annotations"] = digest_of_files(self.options.annotations, files)
        return {
            "schema_version": SCHEMA_VERSION,
            "dataset": self.dataset,
            "converter": self.converter,
            "face_model_fingerprint": self.fingerprint,
            "store": self.store,
            "resolution": self.resolution,
            "options": options,
        }


@dataclass(frozen=True, slots=True)
class Job:
    """One shard to be made: its file name, items, and the digest that a finished shard carries."""

    file: str
    keys: tuple[str, ...]
    digest: str


def convert(
    converter: str,
    root: Path,
    out: Path,
    *,
    dataset: str | None = None,
    face_model: str | os.PathLike[str] | None = None,
    store: str = "maps",
    resolution: int = 256,
    options: Options | None = None,
    workers: int | None = None,
    strict: bool = False,
    scheduler: str | None = None,
) -> dict[str, Any]:
    """Convert a raw folder to shards and return the manifest.

    Parameters
    ----------
    converter, root, out
        Name of the converter, the raw folder, the folder of shards to make or to finish.
    dataset
        Name of the card; the converter's own by default.
    face_model
        ``builtin`` or the path of a morphable model; None keeps landmarks only. Not used for scans.
    store
        ``maps`` (self-contained), ``fast`` (the same without compression) or ``parameters`` (maps are made when a
        face is loaded).
    resolution
        Side of the position maps in texels.
    workers
        Processes; every core by default. The bytes do not depend on it.
    strict
        Stop at the first bad face instead of listing it in the manifest.
    scheduler
        Address of a Dask scheduler to run the jobs on instead.

    Raises
    ------
    InputError
        Nothing was found, or no face could be converted.
    FaceModelError
        The parameters do not belong to the face model.
    OutputError
        The disk is full or read-only; what is finished stays valid.
    """
    root = root.resolve()
    found = load_converter(converter).find(root)
    model = face_model if found.fitted else None
    recipe = _recipe(converter, root, dataset, model, store, resolution, options or Options())
    jobs = _jobs(recipe, found)
    _claim(out, recipe)
    pending = [job for job in jobs if (shard_attributes(out / job.file) or {}).get("job") != job.digest]
    if pending:
        (out / MANIFEST).unlink(missing_ok=True)
        _run(pending, recipe, out, workers, strict, scheduler)
    elif (out / MANIFEST).is_file():
        return read_manifest(out)
    return _finish(out, jobs, recipe, found)


def convert_cached(converter: str, root: Path, **settings: Any) -> Path:
    """Convert into the cache, keyed by the content of the raw files and the settings; returns the shards' folder."""
    root = root.resolve()
    module = load_converter(converter)
    found = module.find(root)
    files = sorted({file for key in found.keys for file in module.needs(root, key)})
    recipe = _recipe(
        converter,
        root,
        settings.get("dataset"),
        settings.get("face_model") if found.fitted else None,
        settings.get("store", "maps"),
        settings.get("resolution", 256),
        settings.get("options") or Options(),
    )
    key = digest_of(recipe.settings(), digest_of_files(root, files), found.skipped)
    out = cache_folder("shards") / f"{recipe.dataset}-{key[:16]}"
    convert(converter, root, out, **settings)
    return out


def _recipe(
    converter: str,
    root: Path,
    dataset: str | None,
    face_model: str | os.PathLike[str] | None,
    store: str,
    resolution: int,
    options: Options,
) -> Recipe:
    path = None if face_model is None else os.fspath(face_model)
    fingerprint = None if path is None else _face_model(path).fingerprint
    if fingerprint is None and store != "landmarks":
        store = "landmarks"
    return Recipe(dataset or converter, converter, root, path, fingerprint, store, resolution, options)


def _jobs(recipe: Recipe, found: Found) -> list[Job]:
    module, settings = load_converter(recipe.converter), recipe.settings()
    size = max(FACES_PER_SHARD // found.faces_per_item, 1)
    jobs = []
    for index, start in enumerate(range(0, len(found.keys), size)):
        keys = tuple(found.keys[start : start + size])
        sizes = [[file.stat().st_size for file in module.needs(recipe.root, key)] for key in keys]
        jobs.append(Job(f"shard-{index:05d}.h5", keys, digest_of(settings, keys, sizes)))
    return jobs


def _claim(out: Path, recipe: Recipe) -> None:
    """Make the output folder ours: refuse another data set's, clear what a killed run left half-written."""
    make_folder(out)
    if not os.access(out, os.W_OK):
        raise OutputError("the output folder is read-only", file=out, remedy="choose another --out")
    if (out / MANIFEST).is_file():
        _refuse_other_dataset(out, recipe)
    for leftover in out.glob(".shard-*.tmp"):
        leftover.unlink()


def _refuse_other_dataset(out: Path, recipe: Recipe) -> None:
    try:
        held = read_manifest(out)["dataset"]
    except SchemaError:
        raise
    except (ShardError, KeyError):
        return
    if held != recipe.dataset:
        raise OutputError(f"the folder holds the data set {held!r}", file=out, remedy="choose another --out")


def _run(
    jobs: Sequence[Job], recipe: Recipe, out: Path, workers: int | None, strict: bool, scheduler: str | None
) -> None:
    what = f"converting {recipe.dataset}"
    faces = sum(len(job.keys) for job in jobs)
    for _ in progress(_results(jobs, recipe, out, workers, strict, scheduler), what, total=faces, size=int):
        pass


def _results(
    jobs: Sequence[Job], recipe: Recipe, out: Path, workers: int | None, strict: bool, scheduler: str | None
) -> Iterator[int]:
    count = min(workers or os.cpu_count() or 1, len(jobs))
    if count == 1 and scheduler is None:
        for job in jobs:
            yield make_shard(job, recipe, out, strict)
        return
    from joblib import Parallel, delayed

    with _backend(scheduler):
        where = {} if scheduler else {"n_jobs": count, "pre_dispatch": "2*n_jobs"}
        pool = Parallel(return_as="generator_unordered", batch_size=1, **where)
        yield from pool(delayed(make_shard)(job, recipe, out, strict) for job in jobs)


@contextmanager
def _backend(scheduler: str | None) -> Iterator[None]:
    """Where joblib runs its jobs: processes of this machine, or all workers of a Dask cluster."""
    if scheduler is None:
        yield
        return
    try:
        from dask.distributed import Client
    except ImportError:
        raise MissingExtraError("Dask is not installed", remedy='run `pip install "prnbench[cluster]"`') from None
    import joblib

    try:
        client = Client(scheduler, timeout=10)
    except (OSError, ValueError) as error:
        raise UsageError(f"no Dask scheduler at {scheduler} ({error})", remedy="check --scheduler") from None
    with client, joblib.parallel_config(backend="dask", n_jobs=-1):
        yield


def make_shard(job: Job, recipe: Recipe, out: Path, strict: bool = False) -> int:
    """Make one shard; returns the number of items it stands for."""
    samples: list[Sample] = []
    keys: list[str] = []
    errors: list[tuple[str, SampleError]] = []
    read = load_converter(recipe.converter).read
    for key in job.keys:
        try:
            faces = read(recipe.root, key, recipe.options)
        except SampleError as error:
            if strict:
                raise
            errors.append((key, error))
        else:
            samples += faces
            keys += [key] * len(faces)
    maps = None
    if recipe.face_model and samples:
        samples = _with_face_model(samples, recipe)
        maps = _position_maps(samples, recipe)
    if maps is not None and maps.errors:
        if strict:
            raise next(iter(maps.errors.values()))
        errors += [(keys[i], error) for i, error in maps.errors.items()]
        good = [i for i in range(len(samples)) if i not in maps.errors]
        samples, maps = [samples[i] for i in good], maps.take(good)
    skipped = [(key, _without_root(error, recipe.root)) for key, error in sorted(errors, key=lambda e: e[0])]
    attributes = {"job": job.digest, "skipped": skipped, **_tally(samples)}
    write_shard(out / job.file, samples, attributes, maps, fast=recipe.store == "fast")
    return len(job.keys)


def _without_root(error: SampleError, root: Path) -> str:
    return str(error).replace(f"{root}{os.sep}", "")


def _tally(samples: list[Sample]) -> dict[str, Any]:
    yaws = [abs(sample.yaw_deg) for sample in samples if sample.yaw_deg is not None]
    bins = {name: sum(low < yaw <= high or (low == 0 == yaw) for yaw in yaws) for name, (low, high) in YAW_BINS.items()}
    return {
        "count": len(samples),
        "splits": dict(Counter(sample.split for sample in samples)),
        "sources": dict(Counter(sample.source for sample in samples)),
        "yaw_bins": bins,
    }


@cache
def _face_model(path: str) -> Any:
    from prnbench.facemodel import load_face_model

    return load_face_model(path)


@cache
def _uv_basis(path: str, resolution: int) -> Any:
    from prnbench.uv import UvBasis, chart_of

    model = _face_model(path)
    return UvBasis(model, chart_of(model).raster(resolution))


def _with_face_model(samples: list[Sample], recipe: Recipe) -> list[Sample]:
    """Parameters cut to the face model's modes, the landmarks' visibility, and landmarks with depth where missing."""
    assert recipe.face_model is not None
    model = _face_model(recipe.face_model)
    shape = _fitted(samples, "shape_params", model.identity.shape[1], recipe)
    expression = _fitted(samples, "expression_params", model.expression.shape[1], recipe)
    samples = [
        replace(s, shape_params=a, expression_params=b) for s, a, b in zip(samples, shape, expression, strict=True)
    ]
    return _with_landmarks(samples, recipe, shape, expression)


def _position_maps(samples: list[Sample], recipe: Recipe) -> QuantisedMaps | None:
    if recipe.face_model is None or recipe.store == "parameters":
        return None
    from prnbench.uv import image_affine

    basis = _uv_basis(recipe.face_model, recipe.resolution)
    coefficients = basis.coefficients([s.shape_params for s in samples], [s.expression_params for s in samples])
    heights = np.array([s.size_px[1] for s in samples])  # type: ignore[index]
    linear, shift = image_affine([s.pose_params for s in samples], heights)  # type: ignore[arg-type]
    steps = np.array([map_step(sample) for sample in samples])
    return quantised_model_maps(basis, coefficients, linear, shift, steps, [sample.id for sample in samples])


def _fitted(samples: list[Sample], name: str, modes: int, recipe: Recipe) -> Any:
    """The samples' parameters with as many columns as the model has modes; only zeros may be cut off."""
    rows = []
    for sample in samples:
        values = getattr(sample, name)
        if len(values) < modes or np.any(values[modes:]):
            raise FaceModelError(
                f"{name} of {sample.id} has {len(values)} values, this face model has {modes} modes",
                file=recipe.face_model,
                remedy="give the face model that the data set was fitted with (300W-LP, AFLW2000-3D: 199 + 29 modes)",
            )
        rows.append(values[:modes])
    return np.stack(rows)


@cache
def _landmark_visibility(path: str) -> Any:
    from prnbench.convert.visibility import LandmarkVisibility

    return LandmarkVisibility(_face_model(path))


def _with_landmarks(samples: list[Sample], recipe: Recipe, shape: Any, expression: Any) -> list[Sample]:
    """The visibility of the face model's landmarks, and these for the faces whose source has none with depth."""
    from prnbench.geometry import project, to_image

    assert recipe.face_model is not None
    model = _face_model(recipe.face_model)
    rows = (3 * model.landmarks[:, None] + np.arange(3)).ravel()
    moved = shape @ model.identity[rows].T + expression @ model.expression[rows].T
    vertices = moved.reshape(-1, 68, 3) + model.mean[model.landmarks]
    pose = np.stack([s.pose_params for s in samples])  # type: ignore[misc]
    visible = _landmark_visibility(recipe.face_model)(shape, expression, pose)
    out = []
    for i, sample in enumerate(samples):
        landmarks = sample.landmarks_px
        if landmarks is None or not np.isfinite(landmarks).all():
            assert sample.size_px is not None
            landmarks = to_image(project(vertices[i], pose[i]), sample.size_px[1]).astype(np.float32)
        out.append(replace(sample, landmarks_px=landmarks, visible=visible[i]))
    return out


def _finish(out: Path, jobs: list[Job], recipe: Recipe, found: Found) -> dict[str, Any]:
    """Write the manifest from the finished shards; shards of an earlier, longer conversion are removed."""
    wanted = {job.file for job in jobs}
    for stale in out.glob("shard-*.h5"):
        if stale.name not in wanted:
            stale.unlink()
    attributes = [shard_attributes(out / job.file) or {} for job in jobs]
    skipped = [list(entry) for entry in found.skipped] + [entry for a in attributes for entry in a["skipped"]]
    total = sum(a["count"] for a in attributes)
    if total == 0:
        reasons = "; ".join(f"{file}: {reason}" for file, reason in skipped[:3])
        for job in jobs:
            (out / job.file).unlink(missing_ok=True)
        raise InputError(f"found 0 usable faces ({reasons})", file=recipe.root, remedy="check the folder")
    manifest = {
        **recipe.settings(),
        "prnbench": __version__,
        "face_model": _face_model(recipe.face_model).name if recipe.face_model else None,
        "pixel_convention": PIXEL_CONVENTION,
        "count": total,
        "splits": _sum(attributes, "splits"),
        "sources": _sum(attributes, "sources"),
        "yaw_bins": _sum(attributes, "yaw_bins"),
        "shards": [
            {"file": job.file, "count": a["count"], "bytes": path.stat().st_size, "sha256": sha256_of(path)}
            for job, a in zip(jobs, attributes, strict=True)
            for path in [out / job.file]
        ],
        "skipped": [{"file": file, "reason": reason} for file, reason in skipped],
    }
    write_manifest(out, manifest)
    _say(manifest, out, found.fitted)
    return read_manifest(out)


def _sum(attributes: list[dict[str, Any]], name: str) -> dict[str, int]:
    total: Counter[str] = Counter()
    for entry in attributes:
        total.update(entry[name])
    return dict(sorted(total.items()))


def _say(manifest: dict[str, Any], out: Path, fitted: bool) -> None:
    bad = [entry for entry in manifest["skipped"] if not entry["file"].endswith("_Flip/")]
    console().print(f"{manifest['dataset']}: {manifest['count']} faces in {out}", soft_wrap=True)
    if manifest["store"] == "landmarks" and fitted:
        console().print("landmarks only: give --face-model BFM.mat to get position maps too")
    for entry in bad[:5]:
        console().print(f"[yellow]skipped[/yellow] {entry['file']}: {entry['reason']}", soft_wrap=True)
    if len(bad) > 5:
        console().print(f"... and {len(bad) - 5} more, all listed in {out / MANIFEST}", soft_wrap=True)
