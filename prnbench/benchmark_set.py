"""The built-in benchmark ``synthetic_faces``: written in AFLW2000-3D's layout, converted by its converter, cached."""

from __future__ import annotations

from pathlib import Path

from prnbench.files import cache_folder, digest_of_files

COUNT, SEED = 300, 2000
TRAINING_COUNT, TRAINING_SEED = 512, 300
_DONE = "complete"


def synthetic_faces(count: int = COUNT, seed: int = SEED) -> Path:
    """Raw folder of the built-in benchmark, made on first use.

    The cache key is the code of the synthetic head and of the renderer, so a changed head never meets old faces.
    """
    from prnbench.synthetic.layouts import generate

    folder = _folder(f"synthetic_faces-{count}-{seed}")
    if not (folder / _DONE).is_file():
        generate("aflw2000_3d", count, seed, folder)
        (folder / _DONE).touch()
    return folder


def synthetic_training_shards(count: int = TRAINING_COUNT, seed: int = TRAINING_SEED) -> Path:
    """Shards of a small training set in 300W-LP's layout, other people than the benchmark's; made on first use."""
    from prnbench.convert.pipeline import convert_cached
    from prnbench.synthetic.layouts import generate

    raw = _folder(f"synthetic_training-{count}-{seed}")
    if not (raw / _DONE).is_file():
        generate("w300lp", count, seed, raw)
        (raw / _DONE).touch()
    return convert_cached("w300lp", raw, face_model="builtin")


def _folder(name: str) -> Path:
    """Cache folder of a synthetic set, named by the code that makes it."""
    package = Path(__file__).parent
    code = sorted([*package.glob("synthetic/**/*.py"), *package.glob("render/*.py"), package / "geometry.py"])
    key = digest_of_files(package, [path for path in code if path.is_file()])[:16]
    return cache_folder("raw") / f"{name}-{key}"
