"""`prnbench benchmark convert`: conversion and loading at full size beside the straightforward per-image way.

The reference reads a picture and its ``.mat``, makes one position map by a matrix-vector product and a compiled
triangle loop, warps the picture to 256 pixels and writes ``np.save`` + JPEG; it loads by ``np.load`` + ``imread``. Both
ways run on one core, in turns, on the same faces (a made-up face model of 53,215 vertices with 199 + 29 modes, pictures
of 450 x 450). Times are processor times, so that other programs on the machine do not count.

The conversion's own start (model, chart, UV basis: once a process) is a line of its own. Loading hands over each face's
picture and float32 map in memory, ours in batches; two lines show what bounds it: decoding the original picture alone,
and the matrix product of a batch alone. Memory is that of all processes of a conversion with two workers, shared pages
counted once.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from time import process_time
from typing import Any

import numpy as np

from prnbench import geometry
from prnbench.benchmarks import peer
from prnbench.benchmarks.faces import machine
from prnbench.benchmarks.fullsize import made_up_model
from prnbench.convert.pipeline import convert
from prnbench.data.shards import ShardSet, open_shards
from prnbench.morphable import MorphableModel
from prnbench.progress import console, progress
from prnbench.report.tables import LEAN
from prnbench.sample import Sample, decode_rgb
from prnbench.uv import UvBasis, chart_of, texel_positions

Record = dict[str, Any]
FACES, PICTURES = 256, 32
BATCH = 16
MEMORY_FACES = (200, 800)
MEMORY_LIMIT_MB = 1500


def run(repeats: int = 5) -> list[Record]:
    """Measure, print the table, and return the records."""
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    with tempfile.TemporaryDirectory() as folder, threadpool_limits(1):
        work = Path(folder)
        raw, model_file = write_raw(work)
        start = _start(model_file)
        ways = _ways(raw, model_file, work)
        times: dict[str, list[float]] = {name: [] for name in ways}
        for _ in progress(range(repeats + 1), "measuring", unit="rounds"):
            for name, way in ways.items():
                begun = process_time()
                way()
                times[name].append((process_time() - begun) / FACES * 1e3)
        sizes, errors = _sizes(work), _largest_error(work, model_file)
        memory = [_memory(work, model_file, faces) for faces in MEMORY_FACES]
    records = [{"what": "machine", **machine()}, start, *_records(times), *sizes, *errors, *memory]
    _print(records)
    return records


def write_raw(work: Path) -> tuple[Path, Path]:
    """A 300W-LP folder of ``FACES`` faces with parameters of the full-size model, and the model's file."""
    from prnbench.synthetic.layouts import generate

    generate("aflw2000_3d", PICTURES, 0, work / "pictures")
    model = made_up_model()
    model.save(work / "model.npz")
    _write_faces(work / "raw", FACES, model, work / "pictures")
    return work / "raw", work / "model.npz"


def _write_faces(root: Path, count: int, model: MorphableModel, pictures: Path) -> None:
    import scipy.io

    encoded = [path.read_bytes() for path in sorted(pictures.glob("*.jpg"))]
    rng = np.random.default_rng(0)
    (root / "HELEN").mkdir(parents=True)
    for i in range(count):
        stem = root / "HELEN" / f"HELEN_{i:06d}_1_0"
        angles = rng.uniform([-0.5, -1.4, -0.4], [0.5, 1.4, 0.4])
        fields = {
            "Pose_Para": np.array([[*angles, 225, 225, -90, 1.1e-3]], np.float32),
            "Shape_Para": (model.identity_std * rng.normal(size=199))[:, None],
            "Exp_Para": (model.expression_std * rng.normal(size=29))[:, None],
            "pt2d": rng.uniform(130, 320, (2, 68)),
            "roi": np.array([[1, 1, 450, 450]], np.int16),
            "Illum_Para": rng.uniform(0, 1, (1, 10)),
            "Color_Para": rng.uniform(0, 1, (1, 7)).astype(np.float32),
            "Tex_Para": rng.normal(size=(199, 1)),
        }
        scipy.io.savemat(stem.with_suffix(".mat"), fields)
        stem.with_suffix(".jpg").write_bytes(encoded[i % len(encoded)])


def _start(model_file: Path) -> Record:
    """Seconds that a process spends before its first map: reading the model, its chart, the basis in UV space."""
    from prnbench.facemodel import load_face_model
    from prnbench.uv import UvBasis

    begun = process_time()
    model = load_face_model(model_file)
    UvBasis(model, chart_of(model).raster(256))
    return {"what": "start of a converting process (not in the lines below)", "seconds": process_time() - begun}


def _ways(raw: Path, model_file: Path, work: Path) -> dict[str, Callable[[], None]]:
    reference = _Reference(raw, model_file, work / "reference")
    opened: dict[str, ShardSet] = {}

    def converting(store: str) -> Callable[[], None]:
        def once() -> None:
            out = Path(tempfile.mkdtemp(dir=work)) / store
            convert("w300lp", raw, out, face_model=model_file, store=store, workers=1)
            shutil.rmtree(work / store, ignore_errors=True)
            out.rename(work / store)

        return once

    def batches(store: str) -> Iterator[list[Sample]]:
        if store not in opened:
            opened[store] = open_shards(work / store, model_file)
        for start in range(0, FACES, BATCH):
            yield opened[store].__getitems__(range(start, start + BATCH))

    def loading(store: str) -> Callable[[], None]:
        def once() -> None:
            for batch in batches(store):
                for sample in batch:
                    np.array(sample.image_rgb())

        return once

    def decoding() -> None:
        for path in reference.images:
            decode_rgb(path.read_bytes())

    def multiplying() -> None:
        basis, rng = reference.basis, np.random.default_rng(0)
        coefficients = rng.normal(size=(BATCH, 1 + 199 + 29)).astype(np.float32)
        for _ in range(FACES // BATCH):
            for _ in basis.planes(coefficients):
                pass

    return {
        "convert: reference": reference.convert,
        "convert: --store maps": converting("maps"),
        "convert: --store fast": converting("fast"),
        "convert: --store parameters": converting("parameters"),
        "load: reference": reference.load,
        "load: --store maps": loading("maps"),
        "load: --store fast": loading("fast"),
        "load: --store parameters": loading("parameters"),
        "load: decoding the original picture alone": decoding,
        "load: matrix product of a batch alone": multiplying,
    }


class _Reference:
    """The straightforward way, one face at a time."""

    def __init__(self, raw: Path, model_file: Path, out: Path):
        from prnbench.facemodel import load_face_model

        self.model = load_face_model(model_file)
        self.images = sorted(raw.glob("*/*.jpg"))
        self.out = out
        out.mkdir()
        chart = chart_of(self.model)
        positions = texel_positions(chart.uv, 256)
        self.chart_points = np.column_stack([positions, np.zeros(len(positions))]).astype(np.float32)
        self.triangles = chart.triangles
        self.basis = UvBasis(self.model, chart.raster(256))

    def convert(self) -> None:
        """Read, product, pose, triangles, warp, write."""
        import cv2
        import scipy.io

        for path in self.images:
            image = np.asarray(cv2.imread(str(path)))
            mat = scipy.io.loadmat(path.with_suffix(".mat"))
            shape, expression = (mat[name][:, 0].astype(np.float32) for name in ("Shape_Para", "Exp_Para"))
            pose = mat["Pose_Para"][0]
            crop = geometry.prn_crop(geometry.box_of(mat["pt2d"].T), factor=1.5)
            made = peer.position_map(
                self.model, shape, expression, pose, image.shape[0], crop, self.chart_points, self.triangles, 256
            )
            np.save(self.out / f"{path.stem}.npy", made)
            cv2.imwrite(str(self.out / f"{path.stem}.jpg"), cv2.warpAffine(image, crop, (256, 256)))

    def load(self) -> None:
        """Map and picture of every face."""
        import cv2

        for path in self.images:
            np.load(self.out / f"{path.stem}.npy")
            cv2.imread(str(self.out / f"{path.stem}.jpg"))


def _records(times: dict[str, list[float]]) -> Iterator[Record]:
    """Median ms a face of each way (the first round warms up) and its ratio to the reference of its kind."""
    medians = {name: median(rounds[1:]) for name, rounds in times.items()}
    targets = {
        "convert: --store maps": 8.0,
        "convert: --store parameters": 25.0,
        "load: --store maps": 1.0,
        "load: --store fast": 2.0,
        "load: --store parameters": 2.0,
    }
    for name, ms in medians.items():
        kind = name.split(":")[0]
        ratio = medians[f"{kind}: reference"] / ms
        yield {"what": name, "ms_per_face": ms, "faces_per_s": 1e3 / ms, "ratio": ratio, "target": targets.get(name)}


def _sizes(work: Path) -> list[Record]:
    """KiB a face on disk, and of that beyond the original JPEG."""
    jpeg = sum(path.stat().st_size for path in (work / "raw").glob("*/*.jpg")) / FACES / 1024
    reference = sum(path.stat().st_size for path in (work / "reference").glob("*.npy")) / FACES / 1024
    records: list[Record] = [{"what": "size: reference map", "kib_per_face": reference}]
    for store, target in (("maps", 7.0), ("fast", None), ("parameters", None)):
        total = sum(path.stat().st_size for path in (work / store).glob("*.h5")) / FACES / 1024
        what, beyond = f"size: --store {store}, beyond the JPEG", total - jpeg
        records.append({"what": what, "kib_per_face": beyond, "ratio": reference / beyond, "target": target})
    return records


def _largest_error(work: Path, model_file: Path) -> list[Record]:
    """Largest difference of a stored map to its exact one, in pixels of the 256-pixel crop frame."""
    exact = open_shards(work / "parameters", model_file)
    records = []
    for store in ("maps", "fast"):
        worst = 0.0
        pairs = zip(open_shards(work / store), exact, strict=True)
        for stored, made in pairs:
            box, found, truth = stored.box_px, stored.position_map_px, made.position_map_px
            assert box is not None and found is not None and truth is not None
            left, top, right, bottom = box
            to_crop = 255 / (1.5 * (right - left + bottom - top) / 2)
            worst = max(worst, float(np.abs(found - truth).max() * to_crop))
        records.append({"what": f"largest error: --store {store}", "crop_px": worst, "target": 0.004})
    return records


_WATCHED = """
import os, sys, threading
from pathlib import Path
from prnbench.convert.pipeline import convert

def processes(pid):
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    children = [int(child) for task in tasks for child in task.read_text().split()]
    return [pid, *(found for child in children for found in processes(child))]

def memory(pid):
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)

peak, done = 0, threading.Event()
def watch():
    global peak
    while not done.wait(0.05):
        peak = max(peak, sum(map(memory, processes(os.getpid()))))

watcher = threading.Thread(target=watch)
watcher.start()
convert("w300lp", Path(sys.argv[1]), Path(sys.argv[2]), face_model=sys.argv[3], workers=2)
done.set()
watcher.join()
print(peak / 1024)
"""
"""Converts with two workers and prints the largest memory of all its processes in MB (Linux)."""


def _memory(work: Path, model_file: Path, faces: int) -> Record:
    model = made_up_model()
    _write_faces(work / f"raw{faces}", faces, model, work / "pictures")
    del model
    command = [sys.executable, "-c", _WATCHED, str(work / f"raw{faces}"), str(work / f"out{faces}"), str(model_file)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    megabytes = float(done.stdout.split()[-1])
    return {"what": f"memory: {faces} faces, two workers", "mb": megabytes, "target": MEMORY_LIMIT_MB}


def _print(records: list[Record]) -> None:
    from rich.table import Table

    units = {"ms_per_face": "ms a face", "kib_per_face": "KiB a face", "crop_px": "crop px", "seconds": "s", "mb": "MB"}
    table = Table(title="Conversion and loading, one core, medians", title_justify="left", title_style="bold", **LEAN)
    table.add_column("", overflow="fold")
    for heading in ("measured", "x reference", "asked"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in records[1:]:
        value, unit = next((row[key], unit) for key, unit in units.items() if key in row)
        numbers = ("" if row.get(key) is None else f"{row[key]:.4g}" for key in ("ratio", "target"))
        table.add_row(row["what"], f"{value:.4g} {unit}", *numbers)
    console().print(table)
    console().print(str(records[0]), soft_wrap=True)
