"""The built-in benchmark ``synthetic_faces``: written in AFLW2000-3D's layout, converted by its converter, cached."""

from __future__ import annotations

from pathlib import Path

from prnbench.files import cache_folder, digest_of_files

COUNT, SEED = 300, 2000
_DONE = "complete"


def synthetic_faces(count: int = COUNT, seed: int = SEED) -> Path:
    """Raw folder of the built-in benchmark, made on first use.

    The cache key is the code of the synthetic head and of the renderer, so a changed head never meets old faces.
    """
    from prnbench.synthetic.layouts import generate

    package = Path(__file__).parent
    code = sorted([*package.glob("synthetic/**/*.py"), *package.glob("render/*.py"), package / "geometry.py"])
    key = digest_of_files(package, [path for path in code if path.is_file()])[:16]
    folder = cache_folder("raw") / f"synthetic_faces-{count}-{seed}-{key}"
    if not (folder / _DONE).is_file():
        generate("aflw2000_3d", count, seed, folder)
        (folder / _DONE).touch()
    return folder
