"""`prnbench benchmark metrics`: dense errors, normals, bootstrap and ICP, side by side with the straightforward ways.

Every measurement is the median processor time of interleaved repetitions on one core (which is the wall time of an
idle machine, and does not count what other programs take); a ratio compares with the reference measured in the same
run. Results are checked against the reference inside the run: nothing is fast by being wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from time import process_time
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from prnbench.geometry import rotation_from_euler, similarity_alignment
from prnbench.metrics.bootstrap import RESAMPLES, bca_interval, resampled_means
from prnbench.metrics.dense import dense_distances, inner_texels, normal_error
from prnbench.metrics.icp import Alignment, icp
from prnbench.metrics.reconstruction import point_distances
from prnbench.metrics.surface import distance_to_surface, grid_triangles, rim_of, vertex_normals
from prnbench.progress import console, progress

Array = NDArray[np.float64]
Record = dict[str, Any]

FACES, POINTS, SCAN_POINTS = 2000, 43_867, 19_000
"""Faces of AFLW2000-3D, texels of PRNet's face area, points of a Florence scan."""

INTEROCULAR_MM = 90.0
_PAIRS = 32  # different maps; 2,000 of them would only measure the memory of the machine


def run(repeats: int = 7) -> list[Record]:
    """Measure, print the table, and return the records.

    Parameters
    ----------
    repeats
        Repetitions of each measurement, interleaved with what it is compared with; slow ones run less often.
    """
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    steps = (_dense, _bootstrap, _icp)
    with threadpool_limits(1):
        records = [record for step in progress(steps, "Measuring", unit="groups") for record in step(repeats)]
    _print(records)
    return records


# dense errors and normals


def _dense(repeats: int) -> Iterator[Record]:
    predicted, truth, texels = _maps()
    few = range(4)
    ways: dict[str, Callable[[], Any]] = {
        "NumPy per face (reference)": lambda: [_dense_by_numpy(predicted[i], truth[i], texels) for i in few],
        "fused": lambda: dense_distances(predicted, truth, texels),
    }

    def check(name: str, result: Any) -> None:
        if name == "fused":
            fused = np.stack([result.xy, result.xyz_none, result.xyz_min, result.xyz_mean, result.own_size], axis=1)
            _agree(fused[: len(few)], [_dense_by_numpy(predicted[i], truth[i], texels) for i in few], 1e-6)

    per_face = _per_item(_medians(ways, repeats, check), {"NumPy per face (reference)": len(few), "fused": _PAIRS})
    what = f"dense errors, 5 a face, {POINTS:,} points"
    yield from _compared(what, per_face, ">= 10")
    start = process_time()
    for first in range(0, FACES, _PAIRS):
        dense_distances(predicted[: FACES - first], truth[: FACES - first], texels)
    total = 1e3 * (process_time() - start)
    yield _record(what, f"fused, {FACES:,} faces in all", total, None, "< 1000 ms")

    inner = inner_texels(texels, 256)
    angles = {
        "NumPy per face (reference)": lambda: _normals_by_numpy(predicted[0], truth[0], inner),
        "compiled": lambda: normal_error(predicted[0], truth[0], inner),
    }
    expected = _normals_by_numpy(predicted[0], truth[0], inner)
    timed = _medians(angles, repeats, lambda name, angle: _agree(angle, expected, 1e-5))
    yield from _compared("normal error of a face", timed, "")


def _maps() -> tuple[list[NDArray[np.float32]], list[NDArray[np.float32]], NDArray[np.int64]]:
    """Made-up smooth maps and a disk of 43,867 texels."""
    rows, columns = np.mgrid[:256, :256]
    radius = np.hypot(rows - 127.5, columns - 127.5).ravel()
    texels = np.sort(np.argsort(radius, kind="stable")[:POINTS])
    rng = np.random.default_rng(0)
    truth, predicted = [], []
    for _ in range(_PAIRS):
        a, b, c = rng.uniform(0.5, 1.0, 3)
        depth = 80 - a * (rows - 128.0) ** 2 / 256 - b * (columns - 128.0) ** 2 / 256
        truth.append(
            np.stack([225 + a * (columns - 128.0), 225 + b * (rows - 128.0), c * depth], -1).astype(np.float32)
        )
        noise = rng.normal(0, 2, (256, 256, 3)) + rng.normal(0, 3, 3)
        predicted.append((truth[-1] + noise).astype(np.float32))
    return predicted, truth, texels


def _dense_by_numpy(
    predicted: NDArray[np.float32], truth: NDArray[np.float32], texels: NDArray[np.int64]
) -> list[float]:
    """The five numbers, each by its formula, as evaluation scripts write it."""
    p = predicted.reshape(-1, 3)[texels].astype(np.float64)
    g = truth.reshape(-1, 3)[texels].astype(np.float64)
    found = [float(np.sqrt(((p[:, :2] - g[:, :2]) ** 2).sum(axis=1)).mean())]
    for shift in (lambda z: 0.0, np.min, np.mean):
        a, b = p.copy(), g.copy()
        a[:, 2] -= shift(a[:, 2])
        b[:, 2] -= shift(b[:, 2])
        found.append(float(np.sqrt(((a - b) ** 2).sum(axis=1)).mean()))
    width, height = np.ptp(g[:, 0]), np.ptp(g[:, 1])
    return [*found, float(np.sqrt(width * height))]


def _normals_by_numpy(predicted: NDArray[np.float32], truth: NDArray[np.float32], texels: NDArray[np.int64]) -> float:
    normals = []
    for m in (predicted, truth):
        along_u, along_v = np.zeros_like(m), np.zeros_like(m)
        along_u[:, 1:-1], along_v[1:-1] = m[:, 2:] - m[:, :-2], m[2:] - m[:-2]
        normal = np.cross(along_u, along_v).reshape(-1, 3)[texels].astype(np.float64)
        normals.append(normal / np.linalg.norm(normal, axis=1, keepdims=True))
    cosine = np.clip((normals[0] * normals[1]).sum(axis=1), -1, 1)
    return float(np.degrees(np.arccos(cosine)).mean())


# bootstrap


def _bootstrap(repeats: int) -> Iterator[Record]:
    from scipy.stats import bootstrap

    errors = np.random.default_rng(0).gamma(3.0, 1.2, FACES)

    def by_scipy() -> tuple[float, float]:
        found = bootstrap((errors,), np.mean, n_resamples=RESAMPLES, rng=np.random.default_rng(0), batch=500)
        return tuple(found.confidence_interval)

    def by_counts(columns: int) -> tuple[float, float]:
        values = np.repeat(errors[:, None], columns, axis=1)
        low, high = bca_interval([values], resampled_means(values, np.random.default_rng(0)))
        return float(low[-1]), float(high[-1])

    ways: dict[str, Callable[[], Any]] = {
        "scipy.stats.bootstrap (reference)": by_scipy,
        "one column": lambda: by_counts(1),
        "20 columns at once, per column": lambda: by_counts(20),
    }
    expected = by_scipy()
    timed = _medians(ways, max(repeats // 2, 3), lambda name, interval: _agree(interval, expected, 1e-9))
    per_column = _per_item(timed, {"20 columns at once, per column": 20})
    yield from _compared(f"BCa bootstrap, {RESAMPLES:,} x {FACES:,}", per_column, "")


# ICP


@dataclass(frozen=True)
class _Scene:
    predicted: Array
    triangles: NDArray[np.int32]
    rim: NDArray[np.bool_]
    scan: Array
    start: Alignment

    @property
    def normals(self) -> Array:
        return vertex_normals(self.predicted, self.triangles)


def _icp(repeats: int) -> Iterator[Record]:
    scene = _scene()
    tolerance = 1e-4 * INTEROCULAR_MM
    slow = max(repeats // 3, 2)

    def ours() -> Alignment:
        return _plane(scene, tolerance)

    best = ours()
    residual = float(point_distances(best.undo(scene.scan), scene.predicted).mean())
    if not best.converged:
        raise AssertionError("point-to-plane ICP did not converge")

    def check_equal(name: str, result: Any) -> None:
        reached = float(cKDTree(_moved(result, scene)).query(scene.scan)[0].mean())
        if reached > 1.0101 * residual:
            raise AssertionError(f"{name}: residual {reached:.4f} mm against {residual:.4f} mm")

    what = (
        f"ICP to equal residual (1 %), {len(scene.scan):,} to {len(scene.predicted):,} points, mean {residual:.3f} mm"
    )
    ways: dict[str, Callable[[], Any]] = {
        "point to point, tree per iteration (reference)": lambda: _textbook(scene, goal=1.01 * residual)[0],
        "point to plane, exact grid, converged": ours,
    }
    yield from _compared(what, _medians(ways, slow, check_equal), ">= 20, about 50 ms")

    counts: dict[str, float] = {}

    def counted(name: str, way: Callable[[], tuple[Any, float]]) -> Callable[[], Any]:
        def call() -> Any:
            result, counts[name] = way()
            return result

        return call

    stop = 1e-3 * INTEROCULAR_MM  # point to point is far from converged here; both ways do the same iterations
    same: dict[str, Callable[[], tuple[Any, float]]] = {
        "tree per iteration (reference)": lambda: _textbook(scene, stop=stop),
        "tree once": lambda: _textbook(scene, stop=stop, once=True),
        "exact grid, once": lambda: (found := _point(scene, stop), found.iterations),
    }
    timed = _medians({name: counted(name, way) for name, way in same.items()}, slow)
    iterations = {name: f"{name}, {counts[name]:.0f} iterations" for name in same}
    if max(counts.values()) - min(counts.values()) > 2:
        raise AssertionError(f"the ways did not do the same iterations: {counts}")
    what = "ICP, point-to-point objective, same start and stop"
    yield from _compared(what, {iterations[name]: ms for name, ms in timed.items()}, ">= 2.5")

    back = best.undo(scene.scan)
    near = point_distances(back, scene.predicted)
    parts: dict[str, Callable[[], Any]] = {
        "normals": lambda: scene.normals,
        "nearest points, k-d tree (SciPy)": lambda: cKDTree(scene.predicted).query(back)[0],
        "nearest points, grid": lambda: point_distances(back, scene.predicted),
        "distance to surface": lambda: distance_to_surface(back, scene.predicted, scene.triangles, near),
    }
    for name, ms in _medians(parts, repeats).items():
        yield _record("parts of a reconstruction error", name, ms, None, "")


def _scene() -> _Scene:
    """Two faces that differ by smooth bumps: 40,000 predicted points on a grid, 19,000 noisy scan points, moved."""
    side = 200
    y, x = np.meshgrid(np.linspace(86, -86, side), np.linspace(-75, 75, side), indexing="ij")
    predicted = np.stack([x, y, _relief(x, y, 1)], axis=-1).reshape(-1, 3)
    triangles = grid_triangles(np.arange(side * side), side)
    rng = np.random.default_rng(0)
    xy = rng.uniform(-1, 1, (2 * SCAN_POINTS, 2)) * (68, 78)
    xy = xy[((xy / (68, 78)) ** 2).sum(axis=1) < 1][:SCAN_POINTS]
    scan = np.column_stack([xy, _relief(xy[:, 0], xy[:, 1], 2)]) + rng.normal(0, 0.3, (len(xy), 3))
    turned = scan @ rotation_from_euler(np.radians([4.0, -5.0, 3.0])).T + (3.0, -4.0, 5.0)
    return _Scene(predicted, triangles, rim_of(triangles, side * side), turned, Alignment(1.0, np.eye(3), np.zeros(3)))


def _relief(x: Array, y: Array, person: int) -> Array:
    a, b, c, d = np.random.default_rng(person).normal(size=4)
    nose = 28 * np.exp(-((x / 12) ** 2 + ((y + 5) / 22) ** 2))
    chin = 8 * np.exp(-((x / 25) ** 2 + ((y + 45) / 10) ** 2))
    own = 1.5 * a * np.sin(x / 25 + b) + 1.5 * c * np.cos(y / 30 + d)
    relief: Array = 60 - 0.006 * x**2 - 0.0045 * y**2 + nose + chin + own
    return relief


def _plane(scene: _Scene, tolerance: float) -> Alignment:
    return icp(
        scene.predicted, scene.scan, normals=scene.normals, rim=scene.rim, start=scene.start, tolerance=tolerance
    )


def _point(scene: _Scene, tolerance: float) -> Alignment:
    return icp(scene.predicted, scene.scan, start=scene.start, tolerance=tolerance, coarse=1)


def _textbook(
    scene: _Scene, *, goal: float = 0.0, stop: float = 0.0, once: bool = False, most: int = 1000
) -> tuple[Alignment, int]:
    """Point-to-point ICP until the mean residual is below ``goal`` or no scan point moves by more than ``stop``."""
    alignment, tree = scene.start, cKDTree(scene.predicted)
    for count in range(1, most + 1):
        if once:
            back = alignment.undo(scene.scan)
            distance, index = tree.query(back)
        else:
            distance, index = cKDTree(alignment.apply(scene.predicted)).query(scene.scan)
        if distance.mean() <= goal:
            return alignment, count
        _, R, t = similarity_alignment(scene.predicted[index], scene.scan, scale=False)
        step = Alignment(1.0, R, t)
        motion = np.linalg.norm(step.undo(scene.scan) - alignment.undo(scene.scan), axis=1).max()
        alignment = step
        if motion <= stop:
            return alignment, count + 1
    return alignment, most


def _moved(alignment: Alignment, scene: _Scene) -> Array:
    return alignment.apply(scene.predicted)


# measuring


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


def _agree(found: Any, expected: Any, tolerance: float) -> None:
    if not np.allclose(found, expected, rtol=tolerance, atol=0):
        raise AssertionError(f"{found} is not the reference's {expected}")


def _per_item(timed: dict[str, float], counts: dict[str, int]) -> dict[str, float]:
    return {name: ms / counts.get(name, 1) for name, ms in timed.items()}


def _compared(what: str, timed: dict[str, float], target: str) -> Iterator[Record]:
    """Records of several ways; the first is the reference, the last has the target."""
    reference, last = next(iter(timed.values())), list(timed)[-1]
    for name, ms in timed.items():
        yield _record(what, name, ms, reference / ms, target if name == last else "")


def _record(what: str, name: str, ms: float, ratio: float | None, target: str) -> Record:
    return {"what": what, "name": name, "median_ms": ms, "ratio": ratio, "target": target}


def _print(records: list[Record]) -> None:
    from rich.table import Table

    table = Table("", "way", "ms", "ratio", "target", title="Metrics, one core")
    last = ""
    for r in records:
        ratio = "" if r["ratio"] is None else f"{r['ratio']:.1f}"
        table.add_row(r["what"] if r["what"] != last else "", r["name"], f"{r['median_ms']:.3g}", ratio, r["target"])
        last = r["what"]
    console().print(table)
