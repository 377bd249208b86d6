"""`prnbench benchmark faces`: charts, position maps and rasteriser at full size, side by side in one run.

Every measurement is the median processor time of interleaved repetitions on one core (which is the wall time of an
idle machine, and does not count what other programs take); a ratio compares with the straightforward way of
:mod:`prnbench.benchmarks.peer` measured in the same run. Every result is checked.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from time import process_time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prnbench import geometry
from prnbench.benchmarks import peer
from prnbench.benchmarks.fullsize import made_up_model
from prnbench.facemodel import load_face_model, visible_face_vertices
from prnbench.morphable import MorphableModel
from prnbench.progress import console, progress
from prnbench.render import render_colours, render_texture
from prnbench.synthetic import layouts
from prnbench.synthetic.head import built_in_head
from prnbench.uv import UvBasis, chart_of, image_affine, tutte_chart

Record = dict[str, Any]
HEIGHT, RESOLUTION = 450, 256
BATCHES = (1, 16, 64)
STORAGES: dict[str, tuple[int, float]] = {
    "float32": (4, 0.0),
    "float16": (2, 0.0),
    "uint16 1/128": (2, 1 / 128),
    "uint16 1/64": (2, 1 / 64),
    "uint16 1/32": (2, 1 / 32),
}
"""How maps may be stored -> bytes a value and quantisation step in pixels of the 256-pixel crop frame."""


def run(repeats: int = 15) -> list[Record]:
    """Measure, print the tables, and return the records.

    Parameters
    ----------
    repeats
        Repetitions of each measurement, interleaved with what it is compared with.
    """
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    model = made_up_model()
    steps = (_charts, _maps, _rasteriser)
    with threadpool_limits(1):
        records = [record for step in progress(steps, "Measuring", unit="groups") for record in step(model, repeats)]
        records += _pictures(repeats)
    _print(records)
    errors = map_errors()
    _print_errors(errors)
    return [{"what": "machine", **machine()}, *records, *({"what": "map error", **row} for row in errors)]


def machine() -> Record:
    """Processor, threads and versions that the figures belong to."""
    import numba
    import scipy

    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    versions = {"numpy": np.__version__, "scipy": scipy.__version__, "numba": numba.__version__}
    return {"processor": names[0] if names else platform.processor(), "threads": 1, **versions}


def _charts(model: MorphableModel, repeats: int) -> list[Record]:
    bare = replace(model, uv=None)
    chart = chart_of(model)
    timed = _medians(
        {
            "Tutte embedding": lambda: tutte_chart(bare),
            "rasterised at 256 x 256": lambda: replace(chart, _rasters={}).raster(RESOLUTION),
        },
        max(repeats // 5, 3),
    )
    targets = {"Tutte embedding": "under 5000 ms"}
    return [_record("chart", name, ms, target=targets.get(name, "")) for name, ms in timed.items()]


def _maps(model: MorphableModel, repeats: int) -> list[Record]:
    chart = chart_of(model)
    raster = chart.raster(RESOLUTION, "face3d")
    basis = UvBasis(model, raster)
    chart_points = np.column_stack([raster.positions, np.zeros(len(raster.positions))]).astype(np.float32)
    shape, expression, pose, crops = _faces(model, max(BATCHES))

    def straightforward() -> NDArray[np.float32]:
        return peer.position_map(
            model, shape[0], expression[0], pose[0], HEIGHT, crops[0], chart_points, chart.triangles, RESOLUTION
        )

    def by_vertices(n: int) -> NDArray[np.float32]:
        linear, shift = image_affine(pose[:n], HEIGHT, crop=crops[:n])
        vertices = model.vertices(shape[:n], expression[:n])
        posed = vertices @ linear.astype(np.float32).swapaxes(1, 2) + shift.astype(np.float32)[:, None]
        return raster.position_map(posed)

    def by_basis(n: int) -> NDArray[np.float32]:
        return basis.position_maps(shape[:n], expression[:n], pose[:n], HEIGHT, crop=crops[:n])

    expected = straightforward()
    compared = np.abs(expected).sum(axis=2) > 0  # float32 edge tests leave pinholes in the reference,
    compared[[0, 1, -2, -1]] = compared[:, [0, 1, -2, -1]] = False  # and choose otherwise among ties at the border
    ways: dict[str, Callable[[], Any]] = {"per face, triangle loop (reference)": straightforward}
    counts = {"per face, triangle loop (reference)": 1}
    for n in BATCHES:
        for name, way in (("sparse chart matrix", by_vertices), ("basis in UV space", by_basis)):
            ways[f"{name}, N = {n}"] = lambda way=way, n=n: way(n)  # type: ignore[misc]
            counts[f"{name}, N = {n}"] = n
    errors = dict.fromkeys(ways, 0.0)

    def check(name: str, result: NDArray[np.float32]) -> None:
        first = result if result.ndim == 3 else result[0]
        errors[name] = max(errors[name], float(np.abs(first - expected)[compared].max()))
        if errors[name] > 1e-3:
            raise AssertionError(f"{name} is {errors[name]:.2g} px off the reference")

    timed = _medians(ways, repeats, check)
    per_face = {name: ms / counts[name] for name, ms in timed.items()}
    reference = next(iter(per_face.values()))
    return [
        _record("position map", name, ms, reference / ms, errors[name], _map_target(name))
        for name, ms in per_face.items()
    ]


def _map_target(name: str) -> str:
    return ">= 10, aim 20" if name == f"basis in UV space, N = {max(BATCHES)}" else ""


def _rasteriser(model: MorphableModel, repeats: int) -> list[Record]:
    colours = model.colours()
    texture = chart_of(model).raster(RESOLUTION).position_map(colours)
    names = ("triangle loop (reference)", "z-buffer, colours", "z-buffer, culling", "z-buffer, texture")
    targets = ("", ">= 1.4", ">= 1.8", "")
    uv = np.asarray(model.uv)
    times: dict[str, list[float]] = {name: [] for name in names}
    for yaw in (0.0, 35.0, 70.0):
        points = _head_in_picture(model, yaw)
        expected = peer.draw_colours(points, model.triangles, colours, RESOLUTION)
        arguments = points, model.triangles, colours, RESOLUTION, RESOLUTION
        ways: dict[str, Callable[[], Any]] = {
            names[0]: lambda p=points: peer.draw_colours(p, model.triangles, colours, RESOLUTION),  # type: ignore[misc]
            names[1]: lambda a=arguments: render_colours(*a),  # type: ignore[misc]
            names[2]: lambda a=arguments: render_colours(*a, cull=True),  # type: ignore[misc]
            names[3]: lambda p=points: render_texture(  # type: ignore[misc]
                p, model.triangles, texture, uv, RESOLUTION, RESOLUTION
            ),
        }

        def check(name: str, result: NDArray[np.float32], expected: NDArray[np.float32] = expected) -> None:
            tolerance = 0.02 if name == names[3] else 1e-3
            wrong = int((np.abs(result - expected).max(axis=2) > tolerance).sum())
            if wrong > 0.01 * RESOLUTION**2:  # silhouettes: the plain loop leaves out pixels on two of three edges
                raise AssertionError(f"{name}: {wrong} pixels differ from the reference")

        for name, ms in _medians(ways, repeats, check).items():
            times[name].append(ms)
    means = {name: float(np.mean(values)) for name, values in times.items()}
    return [
        _record("rasteriser", name, means[name], means[names[0]] / means[name], target=target)
        for name, target in zip(names, targets, strict=True)
    ]


def _pictures(repeats: int) -> list[Record]:
    """Whole synthetic faces, picture and annotations: 300W-LP's layout, 450 x 450, eight faces a photo."""
    photos = iter(range(repeats + 1))
    with TemporaryDirectory() as folder:
        ways = {
            "with JPEG and .mat": lambda: layouts.write_photo(built_in_head(), next(photos), 10**6, 0, Path(folder))
        }
        timed = _medians(ways, repeats)
    return [
        _record("synthetic face", name, ms / layouts.VARIANTS, target="<= 33.3 (60 a second on two cores)")
        for name, ms in timed.items()
    ]


def _faces(model: MorphableModel, count: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Random coefficients (n, Ni), (n, Ne), poses (n, 7) and crops (n, 2, 3) like those of 300W-LP."""
    rng = np.random.default_rng(0)
    shape = (0.5 * rng.normal(size=(count, model.identity.shape[1])) * model.identity_std).astype(np.float32)
    expression = (0.5 * rng.normal(size=(count, model.expression.shape[1])) * model.expression_std).astype(np.float32)
    scale = 190.0 / np.ptp(model.mean[model.landmarks], axis=0)[1]
    turn = rng.uniform(-1, 1, (count, 3)) * (0.4, 1.2, 0.4)
    pose = np.column_stack([turn, np.tile([HEIGHT / 2, HEIGHT / 2, 0, scale], (count, 1))])
    linear, shift = image_affine(pose, HEIGHT)
    landmarks = model.mean[model.landmarks] @ linear.swapaxes(1, 2) + shift[:, None]
    crops = [geometry.prn_crop(geometry.box_of(points), factor=1.5) for points in landmarks]
    return shape, expression, pose, np.stack(crops)


def _head_in_picture(model: MorphableModel, yaw_deg: float) -> NDArray[np.float32]:
    turned = model.mean @ geometry.rotation_from_euler(np.deg2rad([5.0, yaw_deg, 0.0])).T
    scale = 0.95 * RESOLUTION / np.ptp(turned[:, 1])
    points = turned * (scale, -scale, scale)
    points[:, :2] += RESOLUTION / 2 - (points[:, :2].min(axis=0) + points[:, :2].max(axis=0)) / 2
    return points.astype(np.float32)


def map_errors(face_model: str | Path | None = None, count: int = 8) -> list[Record]:
    """Geometric error that map resolution and storage precision cost: vertices to map, stored, and back.

    Random faces of the model, posed and cropped to 256 pixels, are written as maps of 128, 256 and 512 texels and
    read back at the vertices of the face area that can be seen from the front (not inside mouth and nostrils).
    Errors are 3D distances in pixels of the 256-pixel crop frame.

    Returns
    -------
    One record for each resolution and storage: median, 99 % and largest error (px), largest error of storage alone
    in x, y or z (px), median error (mm), size of a map without compression (KiB).
    """
    model = load_face_model(face_model)
    shape, expression, pose, crops = _faces(model, count)
    linear, shift = image_affine(pose, HEIGHT, crop=crops)
    vertices = (model.vertices(shape, expression) @ linear.swapaxes(1, 2) + shift[:, None]).astype(np.float32)
    px_per_mm = np.cbrt(np.abs(np.linalg.det(linear))) / model.mm_per_unit
    chart, face = chart_of(model), visible_face_vertices(model)
    rows = []
    for resolution in (128, 256, 512):
        raster = chart.raster(resolution)
        maps = raster.position_map(vertices)
        for storage, (size, step) in STORAGES.items():
            stored = [_stored(m, storage, step) for m in maps]
            read = np.stack([raster.vertices(m)[face] for m in stored])
            error = np.linalg.norm(read - vertices[:, face], axis=2)
            rows.append(
                {
                    "resolution": resolution,
                    "storage": storage,
                    "median_px": float(np.median(error)),
                    "p99_px": float(np.percentile(error, 99)),
                    "max_px": float(error.max()),
                    "median_mm": float(np.median(error / px_per_mm[:, None])),
                    "storage_px": float(max(np.abs(a - b).max() for a, b in zip(stored, maps, strict=True))),
                    "kib": 3 * size * resolution**2 / 1024,
                }
            )
    return rows


def _stored(position_map: NDArray[np.float32], storage: str, step: float) -> NDArray[np.float32]:
    if storage == "float16":
        return position_map.astype(np.float16).astype(np.float32)
    if step == 0:
        return position_map
    low = position_map.min(axis=(0, 1))
    quantised: NDArray[np.float32] = low + np.rint((position_map - low) / step).astype(np.uint16) * np.float32(step)
    return quantised


def _medians(
    ways: dict[str, Callable[[], Any]], repeats: int, check: Callable[[str, Any], None] = lambda name, result: None
) -> dict[str, float]:
    """Median milliseconds of processor time of each way, the ways taking turns; every result is checked."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(repeats + 1):
        for name, way in ways.items():
            start = process_time()
            result = way()
            elapsed = process_time() - start
            check(name, result)
            if turn:  # the first turn compiles and warms up
                times[name].append(1e3 * elapsed)
    return {name: float(np.median(values)) for name, values in times.items()}


def _record(
    what: str, name: str, ms: float, ratio: float | None = None, error_px: float | None = None, target: str = ""
) -> Record:
    return {"what": what, "name": name, "median_ms": ms, "ratio": ratio, "max_error_px": error_px, "target": target}


def _print(records: list[Record]) -> None:
    from rich.table import Table

    facts = machine()
    title = f"Faces at full size (53,215 vertices), one core of {facts['processor']}"
    table = Table("", "way", "ms", "ratio", "max px", "target", title=title)
    last = ""
    for r in records:
        ratio = "" if r["ratio"] is None else f"{r['ratio']:.1f}"
        error = "" if r["max_error_px"] is None else f"{r['max_error_px']:.1g}"
        table.add_row(
            r["what"] if r["what"] != last else "", r["name"], f"{r['median_ms']:.2f}", ratio, error, r["target"]
        )
        last = r["what"]
    console().print(table)


def _print_errors(rows: list[Record]) -> None:
    from rich.table import Table

    columns = ("map", "storage", "KiB", "median", "99 %", "max", "stored", "median mm")
    table = Table(*columns, title="Face vertices read back from a stored map: error in px of the 256-pixel crop")
    for r in rows:
        errors = (r["median_px"], r["p99_px"], r["max_px"], r["storage_px"], r["median_mm"])
        table.add_row(str(r["resolution"]), r["storage"], f"{r['kib']:.0f}", *(f"{e:.3f}" for e in errors))
    console().print(table)
