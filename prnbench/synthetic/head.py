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

IDENTITY_WIDTH, EXPRESSION_WIDTH, ALBEDO_WIDTH = 199, 29, 199
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
    columns of which 3 is full strength, 199 albedo columns. The mean's 68 landmarks are the published means.
    """
    path = _cached("model")
    if path.is_file():
        try:
            return read_arrays(path)
        except FaceModelError:
            path.unlink()
    model, parts = _build()
    model.save(path)
    with replacing(_cached("parts")) as temporary, temporary.open("wb") as handle:
        np.savez(handle, part=parts.part, local=parts.local, mirror=parts.mirror)
    return model


@lru_cache(maxsize=1)
def head_parts() -> HeadParts:
    """Return the parts that go with :func:`built_in_head`."""
    built_in_head()
    path = _cached("parts")
    if not path.is_file():
        return _build()[1]
    return HeadParts(**load_npz(path))


def _cached(kind: str) -> Path:
    return cache_folder("head") / f"head-{kind}-{_code_digest()}.npz"


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
    albedo, modes, albedo_std, _ = albedo_modes(rig, ALBEDO_WIDTH)
    model = MorphableModel(
        name="builtin",
        source="prnbench built-in head",
        licence=LICENCE,
        unit="um",
        mean=(mesh.vertices * um).astype(np.float32),
        identity=identity.astype(np.float32),
        identity_std=(identity_std * um).astype(np.float32),
        expression=expression.astype(np.float32),
        expression_std=np.ones(EXPRESSION_WIDTH, np.float32),
        triangles=mesh.triangles.astype(np.int32),
        landmarks=mesh.landmarks.astype(np.int32),
        uv=mesh.uv.astype(np.float32),
        albedo=albedo.astype(np.float32),
        albedo_modes=modes.astype(np.float32),
        albedo_std=albedo_std.astype(np.float32),
        expression_names=tuple(fields),
    )
    parts = HeadParts(mesh.part.astype(np.int8), mesh.local.astype(np.float32), mesh.mirror.astype(np.int32))
    return model, parts
