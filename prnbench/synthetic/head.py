"""The built-in head: mean, modes, albedo and chart assembled into a MorphableModel, made once and cached."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from prnbench.errors import FaceModelError
from prnbench.files import cache_folder, digest_of, replacing
from prnbench.morphable.model import MorphableModel, load_npz, read_arrays

Float32 = NDArray[np.float32]

VERSION = "2"
"""Raised with every change of the head's shape, modes or chart: weights and shards belong to one version."""
IDENTITY_WIDTH, EXPRESSION_WIDTH = 199, 29
_SOURCES = (
    "anatomy",
    "chart",
    "surface",
    "ear",
    "mouth",
    "scatter",
    "mesh",
    "fields",
    "identity",
    "expression",
    "skin",
    "head",
)
LICENCE = "MIT (prnbench); proportions after figures measured on the MIT-licensed ICT Face Model Light, see NOTICE"


@dataclass(frozen=True, eq=False)
class HeadParts:
    """What the renderer knows of the built-in head's vertices beyond the morphable model.

    Attributes
    ----------
    part
        (V,) int8: 0 skin, 1 eye, 2 mouth cavity, 3 ear.
    local
        (V, 2) float32 coordinates within a part (see ``mesh.HeadMesh``).
    mirror
        (V,) int32 mirror image of each vertex.
    """

    part: NDArray[np.int8]
    local: Float32
    mirror: NDArray[np.int32]


@lru_cache(maxsize=1)
def built_in_head() -> MorphableModel:
    """Return prnbench's own head model, built on first use and cached below :func:`prnbench.files.cache_folder`.

    Unit um, 199 identity columns (unit norm; unused ones are zero with standard deviation 0), 29 named expression
    columns of which 3 is full strength, and albedo modes. The mean's 68 landmarks are the published means.
    """
    path = cached_file("model")
    if path.is_file():
        try:
            return read_arrays(path)
        except FaceModelError:
            path.unlink()
    model, parts = _build()
    _drop_older(path.parent)
    model.save(path)
    with replacing(cached_file("parts")) as temporary, temporary.open("wb") as handle:
        np.savez(handle, part=parts.part, local=parts.local, mirror=parts.mirror)
    return model


@lru_cache(maxsize=1)
def head_parts() -> HeadParts:
    """Return the parts that go with :func:`built_in_head`."""
    built_in_head()
    path = cached_file("parts")
    if not path.is_file():
        return _build()[1]
    return HeadParts(**load_npz(path))


def cached_file(kind: str, *sources: str) -> Path:
    """File in the cache for something made from the head by the code of this head and of more ``sources``."""
    own = digest_of(*((Path(__file__).parent / f"{name}.py").read_bytes() for name in sources))[:8]
    return cache_folder("head") / f"head-{kind}-{own}-{_code_digest()}.npz"


def _drop_older(folder: Path) -> None:
    """Remove what other versions of the code have left: a head is about 100 MB."""
    for path in folder.glob("head-*.npz"):
        if not path.stem.endswith(_code_digest()):
            path.unlink(missing_ok=True)


@lru_cache(maxsize=1)
def _code_digest() -> str:
    here = Path(__file__).parent
    return digest_of(*((here / f"{name}.py").read_bytes() for name in _SOURCES))[:16]


def _build() -> tuple[MorphableModel, HeadParts]:
    from prnbench.synthetic.expression import FULL_STRENGTH, expression_fields
    from prnbench.synthetic.fields import Rig
    from prnbench.synthetic.identity import identity_modes
    from prnbench.synthetic.mesh import build_mesh
    from prnbench.synthetic.skin import albedo_modes

    um = 1000.0
    mesh = build_mesh()
    rig = Rig(mesh)
    identity, identity_std = identity_modes(rig, IDENTITY_WIDTH)
    fields = expression_fields(rig)
    expression = np.stack([field.ravel() for field in fields.values()], axis=1) * (um / FULL_STRENGTH)
    albedo, modes, albedo_std, _ = albedo_modes(rig)
    model = MorphableModel(
        name="builtin",
        source="prnbench built-in head",
        licence=LICENCE,
        unit="um",
        mean=_rounded(mesh.vertices * um, 6),
        identity=_rounded(identity, 22),
        identity_std=_rounded(identity_std * um, 4),
        expression=_rounded(expression, 6),
        expression_std=np.ones(EXPRESSION_WIDTH, np.float32),
        triangles=mesh.triangles.astype(np.int32),
        landmarks=mesh.landmarks.astype(np.int32),
        uv=_rounded(mesh.uv, 22),
        albedo=_rounded(albedo, 16),
        albedo_modes=_rounded(modes, 16),
        albedo_std=albedo_std.astype(np.float32),
        expression_names=tuple(fields),
        version=VERSION,
    )
    parts = HeadParts(mesh.part.astype(np.int8), mesh.local.astype(np.float32), mesh.mirror.astype(np.int32))
    return model, parts


def _rounded(values: NDArray[np.float64], bits: int) -> Float32:
    """Values as multiples of 2^-bits, so that most are the same on every machine."""
    return np.asarray(np.round(values * 2.0**bits) / 2.0**bits, np.float32)
