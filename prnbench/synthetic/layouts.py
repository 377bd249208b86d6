"""Writers of synthetic data sets in the real sets' own layouts: AFLW2000-3D, 300W-LP and Florence.

Files, folders, names, dtypes and shapes are the real ones (see the dataset cards), so the same converters read
them. Every picture depends on (seed, index) only: the number of workers changes nothing, and a second call
finishes what a killed one left.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prnbench.errors import UsageError, unknown_name
from prnbench.files import make_folder, read_json, replacing, write_json
from prnbench.geometry import project, to_image
from prnbench.morphable.model import MorphableModel
from prnbench.progress import progress
from prnbench.render import rasterise, visible_vertices
from prnbench.synthetic.camera import draw_camera, encode
from prnbench.synthetic.scene import SIZE_PX, Face, draw_face, landmarks_of, picture

Array = NDArray[np.float64]

LAYOUTS = ("aflw2000_3d", "florence", "w300lp")
TEST_SHARES = (1306 / 2000, 462 / 2000, 232 / 2000)
"""AFLW2000-3D's shares of |yaw| in 0-30, 30-60 and 60-90 degrees."""
VARIANTS = 8
"""Pose variants of one photo in the 300W-LP layout."""
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
    # 300W-LP's items are photos with all their pose variants
    items = -(-count // VARIANTS) if layout == "w300lp" else count
    jobs = ((writer, k, count, seed, folder, face_model, flips) for k in range(items))
    _run(jobs, items, workers, "subjects" if layout == "florence" else "faces", VARIANTS if layout == "w300lp" else 1)
    return folder


Job = tuple[Callable[..., None], int, int, int, Path, "str | Path | None", bool]


def _writer(layout: str) -> Callable[..., None]:
    if layout == "florence":
        from prnbench.synthetic.florence import write_subject

        return write_subject
    return {"aflw2000_3d": _write_aflw, "w300lp": _write_photo}[layout]


def _run(jobs: Any, items: int, workers: int | None, unit: str, per_item: int) -> None:
    from joblib import Parallel, cpu_count, delayed

    count = min(workers or cpu_count(), items)
    if items > 1:
        _warm()
    parallel = Parallel(n_jobs=count, return_as="generator_unordered", batch_size="auto" if count > 1 else 1)
    done = parallel(delayed(_job)(*job) for job in jobs)
    bar = progress(done, "synthetic faces", total=items * per_item, unit=unit) if per_item == 1 else done
    for _ in bar:
        pass


def _warm() -> None:
    """Build head and caches once before the workers do."""
    from prnbench.synthetic.bust import bust
    from prnbench.synthetic.detail import detail_maps

    bust()
    detail_maps()


def _job(writer: Callable[..., None], k: int, count: int, seed: int, out: Path, face_model: Any, flips: bool) -> None:
    writer(_model(None if face_model is None else str(face_model)), k, count, seed, out, flips)


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


def _write_aflw(model: MorphableModel, index: int, count: int, seed: int, out: Path, flips: bool) -> None:
    path = out / f"image{index + 1:05d}"
    if path.with_suffix(".mat").is_file():
        return
    rng = np.random.default_rng([seed, index, 1])
    face = draw_face(model, test_yaw(seed, index), rng)
    image = np.random.default_rng([seed, index, 2])
    _write(path.with_suffix(".jpg"), _jpeg(model, face, image))
    fields = _parameters(face)
    points = annotated(model, face)
    fields = {"pt2d": points_21(model, face, points), **fields, "pt3d_68": points.T.astype(np.float32)}
    _write(path.with_suffix(".mat"), mat_bytes(fields))


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


def _write_photo(model: MorphableModel, photo: int, count: int, seed: int, out: Path, flips: bool) -> None:
    name, stem = photo_name(photo)
    for variant in range(min(VARIANTS, count - photo * VARIANTS)):
        person = np.random.default_rng([seed, photo, 10])
        rng = np.random.default_rng([seed, photo, 11, variant])
        face = draw_face(model, training_yaw(seed, photo, variant), rng, person)
        _write_variant(model, face, out, name, f"{stem}_{variant}", np.random.default_rng([seed, photo, 12]), flips)


def _write_variant(
    model: MorphableModel, face: Face, out: Path, name: str, stem: str, rng: np.random.Generator, flips: bool
) -> None:
    image_bytes: bytes | None = None
    for mirrored in (False, True) if flips else (False,):
        folder = f"{name}_Flip" if mirrored else name
        path = out / folder / stem
        if path.with_suffix(".mat").is_file():
            continue
        shown = mirrored_face(model, face) if mirrored else face
        image_bytes = image_bytes or _jpeg(model, face, rng)
        _write(path.with_suffix(".jpg"), _flipped(image_bytes) if mirrored else image_bytes)
        points = annotated(model, shown)
        marks = {"pts_2d": points[:, :2], "pts_3d": points[:, :2]}
        _write(out / "landmarks" / folder / f"{stem}_pts.mat", mat_bytes(marks))
        _write(path.with_suffix(".mat"), mat_bytes({"pt2d": points[:, :2].T, **_parameters(shown)}))


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
    done, data = cv2.imencode(".jpg", np.ascontiguousarray(image[:, ::-1]), [cv2.IMWRITE_JPEG_QUALITY, 95])
    assert done
    return bytes(data.tobytes())


# ---------------------------------------------------------------- fields and files


def annotated(model: MorphableModel, face: Face) -> Array:
    """(68, 3) landmarks as annotation files have them: (Vx, 450 + 1 - Vy, Vz)."""
    posed = project(landmarks_of(model, face.shape, face.expression), face.pose)
    return to_image(posed, SIZE_PX, "annotation")


def points_21(model: MorphableModel, face: Face, points: Array) -> Array:
    """(2, 21) AFLW points; invisible ones are (-1, 452) as in the real files."""
    posed = to_image(project(model.vertices(face.shape, face.expression), face.pose), SIZE_PX)
    seen = visible_vertices(posed, model.triangles, rasterise(posed, model.triangles, SIZE_PX, SIZE_PX), tolerance=4.0)
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
        "Tex_Para": face.texture[:, None],
        "Shape_Para": face.shape[:, None],
        "Exp_Para": face.expression[:, None],
        "Pose_Para": face.pose[None].astype(np.float32),
    }


def _jpeg(model: MorphableModel, face: Face, rng: np.random.Generator) -> bytes:
    quality = int(np.random.default_rng(rng.integers(1 << 32)).integers(60, 97))
    return encode(picture(model, face, rng), quality)


def mat_bytes(fields: dict[str, NDArray[Any]]) -> bytes:
    """MATLAB 5 file with a header that does not hold the time, so that the same fields give the same bytes."""
    from scipy.io import savemat

    stream = BytesIO()
    savemat(stream, fields)
    text = b"MATLAB 5.0 MAT-file, written by prnbench".ljust(116)
    return text + stream.getvalue()[116:]


def _write(path: Path, data: bytes) -> None:
    with replacing(path) as temporary:
        temporary.write_bytes(data)


__all__ = ["LAYOUTS", "annotated", "draw_camera", "generate", "mat_bytes", "mirrored_face"]
