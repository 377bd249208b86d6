"""Writers of synthetic data sets in the real sets' own layouts: AFLW2000-3D, 300W-LP and Florence.

Files, folders, names, dtypes and shapes are the real ones (see the dataset cards), so the same converters read
them. Every picture depends on (seed, index) only: the number of workers changes nothing, and a second call
finishes what a killed one left.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prnbench.errors import OutputError, UsageError, unknown_name
from prnbench.files import make_folder, read_json, write_json
from prnbench.geometry import project, to_image
from prnbench.morphable.model import MorphableModel
from prnbench.progress import progress
from prnbench.render import GBuffer, visible_vertices
from prnbench.synthetic.camera import encode
from prnbench.synthetic.person import SIZE_PX, Body, Face, bodies, camera_points, draw_face, landmarks_of
from prnbench.synthetic.scene import render

Array = NDArray[np.float64]

LAYOUTS = ("aflw2000_3d", "florence", "w300lp")
TEST_SHARES = (1306 / 2000, 462 / 2000, 232 / 2000)
"""AFLW2000-3D's shares of |yaw| in 0-30, 30-60 and 60-90 degrees."""
VARIANTS = 8
"""Pose variants of one photo in the 300W-LP layout."""
CHUNK = 8
"""Faces that one job makes together."""
_SETS = (("HELEN", 37676), ("LFPW", 16556), ("AFW", 5207), ("IBUG", 1786))
_GOLDEN = 0.6180339887498949
# AFLW's 21 points as means of iBUG landmarks: brows, eyes, ear lobes and nose, mouth, chin
_AFLW_21 = (
    (17,), (19,), (21,), (22,), (24,), (26,), (36,), (37, 38, 40, 41), (39,), (42,), (43, 44, 46, 47), (45,), (2,),
    (31,), (30,), (35,), (14,), (48,), (62, 66), (54,), (8,),
)  # fmt: skip


def generate(
    layout: str,
    count: int,
    seed: int,
    out: str | Path,
    face_model: str | Path | None = None,
    workers: int | None = None,
    *,
    flips: bool = False,
) -> Path:
    """Write a synthetic data set.

    Parameters
    ----------
    layout
        ``aflw2000_3d``, ``w300lp`` or ``florence``.
    count
        Faces; for Florence subjects.
    seed
        Any non-negative integer; other seeds give other people.
    out
        Folder, made if missing. A second call with the same arguments finishes an interrupted one.
    face_model
        A morphable model to use instead of the built-in head.
    workers
        Processes; None is one per core.
    flips
        Also write 300W-LP's mirrored ``*_Flip`` folders.

    Returns
    -------
    The folder.

    Raises
    ------
    UsageError
        An unknown layout, or a count or seed that makes no sense.
    """
    if layout not in LAYOUTS:
        raise unknown_name("layout", layout, LAYOUTS)
    if count < 1 or seed < 0:
        raise UsageError(f"cannot make {count} faces from seed {seed}", remedy="give a count from 1 and a seed from 0")
    folder = Path(out)
    make_folder(folder)
    _same_recipe(folder, {"layout": layout, "seed": seed, "face_model": str(face_model or "builtin"), "flips": flips})
    writer = _writer(layout)
    per_job = {"aflw2000_3d": CHUNK, "w300lp": VARIANTS, "florence": 1}[layout]
    jobs = [(writer, k, count, seed, folder, face_model, flips) for k in range(-(-count // per_job))]
    _run(jobs, count, workers, "subjects" if layout == "florence" else "faces")
    return folder


def _writer(layout: str) -> Callable[..., int]:
    if layout == "florence":
        from prnbench.synthetic.florence import write_subject

        return write_subject
    writers: dict[str, Callable[..., int]] = {"aflw2000_3d": _write_aflw, "w300lp": write_photo}
    return writers[layout]


def _run(jobs: list[tuple[Any, ...]], count: int, workers: int | None, unit: str) -> None:
    from joblib import Parallel, cpu_count, delayed

    processes = min(workers or cpu_count(), len(jobs))
    if processes > 1:
        _warm()
    done = Parallel(n_jobs=processes, return_as="generator_unordered")(delayed(_job)(*job) for job in jobs)
    for _ in progress(_one_by_one(done), "synthetic faces", total=count, unit=unit):
        pass


def _one_by_one(counts: Iterable[int]) -> Iterator[None]:
    for count in counts:
        yield from (None for _ in range(count))


def _warm() -> None:
    """Build head and caches once before the workers do."""
    from prnbench.synthetic.bust import bust
    from prnbench.synthetic.detail import detail_maps

    bust()
    detail_maps()


def _job(writer: Callable[..., int], k: int, count: int, seed: int, out: Path, face_model: Any, flips: bool) -> int:
    return writer(_model(None if face_model is None else str(face_model)), k, count, seed, out, flips)


@lru_cache(maxsize=2)
def _model(path: str | None) -> MorphableModel:
    if path is None or path == "builtin":
        from prnbench.synthetic.head import built_in_head

        return built_in_head()
    from prnbench.morphable import read_face_model

    return read_face_model(path)


def _same_recipe(folder: Path, recipe: dict[str, Any]) -> None:
    """Refuse to mix two recipes in one folder."""
    path = folder / "synthetic.json"
    if path.is_file() and read_json(path) != recipe:
        raise UsageError(
            "the folder already holds a synthetic set of another recipe", file=folder, remedy="choose another folder"
        )
    write_json(path, recipe)


# ---------------------------------------------------------------- AFLW2000-3D


def test_yaw(seed: int, index: int) -> float:
    """Signed yaw in degrees of face ``index``, in AFLW2000-3D's shares for every run of indices."""
    u, v = _even(seed, index, 1), _even(seed, index, 2)
    edges = np.cumsum((0.0, *TEST_SHARES))
    k = min(int(np.searchsorted(edges, u, side="right")) - 1, 2)
    magnitude = 30 * (k + (u - edges[k]) / TEST_SHARES[k])
    return float(magnitude if v < 0.5 else -magnitude)


test_yaw.__test__ = False  # type: ignore[attr-defined]


def training_yaw(seed: int, photo: int, variant: int) -> float:
    """Signed yaw in degrees of a pose variant: even over -90..90, as 300W-LP's profile-rich spread."""
    return float(-90 + 180 * ((variant + _even(seed, photo, 3)) / VARIANTS))


def _even(seed: int, index: int, stream: int) -> float:
    """Evenly spread numbers in 0..1 (additive recurrence with an irrational step, shifted by the seed)."""
    start = np.random.default_rng([seed, stream]).random()
    step = (_GOLDEN, np.sqrt(2) - 1, np.sqrt(3) - 1)[stream - 1]
    return float((start + index * step) % 1.0)


def _write_aflw(model: MorphableModel, chunk: int, count: int, seed: int, out: Path, flips: bool) -> int:
    first = chunk * CHUNK
    indices = range(first, min(first + CHUNK, count))
    paths = {index: out / f"image{index + 1:05d}" for index in indices}
    if all(path.with_suffix(".mat").is_file() for path in paths.values()):
        return len(indices)
    # always the whole chunk, so that a face's numbers do not depend on how many are asked for
    faces = [_aflw_face(model, seed, index) for index in range(first, first + CHUNK)]
    for (index, path), face, body in zip(paths.items(), faces, bodies(model, faces), strict=False):
        if path.with_suffix(".mat").is_file():
            continue
        rng = np.random.default_rng([seed, index, 2])
        jpeg, buffer = _jpeg(model, face, body, rng)
        _write(path.with_suffix(".jpg"), jpeg)
        points = annotated(model, face)
        fields = {"pt2d": points_21(model, face, points, body.vertices, buffer), **_parameters(face)}
        _write(path.with_suffix(".mat"), mat_bytes({**fields, "pt3d_68": points.T.astype(np.float32)}))
    return len(indices)


def _aflw_face(model: MorphableModel, seed: int, index: int) -> Face:
    return draw_face(model, test_yaw(seed, index), np.random.default_rng([seed, index, 1]))


# ---------------------------------------------------------------- 300W-LP


def photo_name(index: int) -> tuple[str, str]:
    """Set and name of a photo, in the real sets' shares and naming."""
    total = sum(weight for _, weight in _SETS)
    place, k = (index * _GOLDEN + 0.11) % 1.0 * total, 0
    while place >= _SETS[k][1]:
        place -= _SETS[k][1]
        k += 1
    name = _SETS[k][0]
    stem = {
        "HELEN": f"HELEN_{100000000 + index}_1",
        "LFPW": f"LFPW_image_train_{index:04d}",
        "AFW": f"AFW_{100000 + index}_1",
        "IBUG": f"IBUG_image_{index:03d}_1",
    }[name]
    return name, stem


def write_photo(model: MorphableModel, photo: int, count: int, seed: int, out: Path, flips: bool = False) -> int:
    """Write the pose variants of one photo of a set of ``count`` faces; returns how many there are."""
    name, stem = photo_name(photo)
    variants = range(min(VARIANTS, count - photo * VARIANTS))
    paths = [out / name / f"{stem}_{k}" for k in variants]
    flipped = [out / f"{name}_Flip" / f"{stem}_{k}" for k in variants] if flips else []
    if all(path.with_suffix(".mat").is_file() for path in (*paths, *flipped)):
        return len(variants)
    faces = [_photo_face(model, seed, photo, k) for k in range(VARIANTS)]
    for k, (path, face, body) in enumerate(zip(paths, faces, bodies(model, faces), strict=False)):
        jpeg, _ = _jpeg(model, face, body, np.random.default_rng([seed, photo, 12]))
        _write_variant(model, face, out, path, jpeg)
        if flips:
            _write_variant(model, mirrored_face(model, face), out, flipped[k], _flipped(jpeg))
    return len(variants)


def _photo_face(model: MorphableModel, seed: int, photo: int, variant: int) -> Face:
    person = np.random.default_rng([seed, photo, 10])
    rng = np.random.default_rng([seed, photo, 11, variant])
    return draw_face(model, training_yaw(seed, photo, variant), rng, person)


def _write_variant(model: MorphableModel, face: Face, out: Path, path: Path, jpeg: bytes) -> None:
    points = annotated(model, face)[:, :2]
    _write(path.with_suffix(".jpg"), jpeg)
    marks = out / "landmarks" / path.relative_to(out).with_name(f"{path.name}_pts.mat")
    _write(marks, mat_bytes({"pts_2d": points, "pts_3d": points}))
    _write(path.with_suffix(".mat"), mat_bytes({"pt2d": points.T, **_parameters(face)}))


def mirrored_face(model: MorphableModel, face: Face) -> Face:
    """The ground truth of the mirrored picture.

    The built-in head's modes are each symmetric, antisymmetric or one of a left-right pair, so its mirrored
    face is in the model; for other models the shape is kept, as 300W-LP does.
    """
    pose = face.pose * (1, -1, -1, 1, 1, 1, 1)
    pose[3] = SIZE_PX + 1 - pose[3]
    shape, expression = face.shape, face.expression
    if model.name == "builtin":
        from prnbench.synthetic.mirror import mirror_coefficients

        shape, expression = mirror_coefficients(shape, expression)
    return Face(shape, expression, face.texture, pose, face.illumination, face.colour)


def _flipped(jpeg: bytes) -> bytes:
    import cv2

    image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    done, data = cv2.imencode(".jpg", np.ascontiguousarray(np.asarray(image)[:, ::-1]), [cv2.IMWRITE_JPEG_QUALITY, 95])
    assert done
    return bytes(data.tobytes())


# ---------------------------------------------------------------- fields and files


def annotated(model: MorphableModel, face: Face) -> Array:
    """(68, 3) landmarks as annotation files have them: (Vx, 450 + 1 - Vy, Vz)."""
    posed = project(landmarks_of(model, face.shape, face.expression), face.pose)
    return to_image(posed, SIZE_PX, "annotation")


def points_21(
    model: MorphableModel, face: Face, points: Array, vertices: NDArray[np.float32], buffer: GBuffer
) -> Array:
    """(2, 21) AFLW points; those that the bare head hides are (-1, 452) as in the real files."""
    posed = camera_points(vertices, face.pose)
    seen = visible_vertices(posed, model.triangles, buffer, tolerance=4.0)
    marks = seen[model.landmarks]
    out = np.empty((2, 21))
    for k, group in enumerate(_AFLW_21):
        hidden = not marks[list(group)].any()
        out[:, k] = (-1.0, SIZE_PX + 2.0) if hidden else points[list(group), :2].mean(axis=0)
    return out


def _parameters(face: Face) -> dict[str, NDArray[Any]]:
    return {
        "roi": np.array([[1, 1, SIZE_PX, SIZE_PX]], np.int16),
        "Illum_Para": face.illumination[None],
        "Color_Para": face.colour[None].astype(np.float32),
        "Tex_Para": np.pad(face.texture, (0, max(199 - len(face.texture), 0)))[:, None],
        "Shape_Para": face.shape[:, None],
        "Exp_Para": face.expression[:, None],
        "Pose_Para": face.pose[None].astype(np.float32),
    }


def _jpeg(model: MorphableModel, face: Face, body: Body, rng: np.random.Generator) -> tuple[bytes, GBuffer]:
    quality = int(rng.integers(60, 97))
    image, buffer = render(model, face, rng, body=body)
    return encode(image, quality), buffer


def mat_bytes(fields: dict[str, NDArray[Any]]) -> bytes:
    """MATLAB 5 file with a header that does not hold the time, so that the same fields give the same bytes."""
    from scipy.io import savemat

    stream = BytesIO()
    savemat(stream, fields)
    text = b"MATLAB 5.0 MAT-file, written by prnbench".ljust(116)
    return text + stream.getvalue()[116:]


def _write(path: Path, data: bytes) -> None:
    """Write under a temporary name and rename; not synced, since a lost picture can be made again."""
    make_folder(path.parent)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError as error:
        cause = f"cannot be written ({error.strerror})"
        raise OutputError(cause, file=path, remedy="free space or choose another folder, then run again") from None
    finally:
        temporary.unlink(missing_ok=True)


__all__ = ["LAYOUTS", "VARIANTS", "annotated", "generate", "mat_bytes", "mirrored_face", "write_photo"]
