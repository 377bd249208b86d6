"""The 68 iBUG landmarks: mirror order and regions."""

from __future__ import annotations

REGIONS: dict[str, tuple[int, ...]] = {
    "jaw": tuple(range(17)),
    "brows": tuple(range(17, 27)),
    "nose": tuple(range(27, 36)),
    "eyes": tuple(range(36, 48)),
    "mouth": tuple(range(48, 68)),
}
"""Region name -> landmark indices; together they are all 68, each once."""

PARTS: dict[str, tuple[int, ...]] = {
    "jaw": REGIONS["jaw"],
    "right_brow": tuple(range(17, 22)),
    "left_brow": tuple(range(22, 27)),
    "nose_bridge": tuple(range(27, 31)),
    "nose_base": tuple(range(31, 36)),
    "right_eye": tuple(range(36, 42)),
    "left_eye": tuple(range(42, 48)),
    "outer_lips": tuple(range(48, 60)),
    "inner_lips": tuple(range(60, 68)),
}
"""Curve name -> landmark indices in drawing order; right is the person's right, on the picture's left."""

CLOSED_PARTS = ("right_eye", "left_eye", "outer_lips", "inner_lips")
"""Parts whose last landmark joins the first."""

# Index ranges that run through the face from one side to the other: mirroring reverses each. Eyes and lips
# turn about their corners, so their upper and lower halves are given apart.
_REVERSED = (
    range(17),
    range(17, 27),
    (31, 32, 33, 34, 35),
    (36, 37, 38, 39, 42, 43, 44, 45),
    (41, 40, 47, 46),
    range(48, 55),
    (59, 58, 57, 56, 55),
    range(60, 65),
    (67, 66, 65),
)


def _mirror_order() -> tuple[int, ...]:
    order = list(range(68))
    for run in _REVERSED:
        for index, opposite in zip(run, reversed(run), strict=True):
            order[index] = opposite
    return tuple(order)


MIRROR_68: tuple[int, ...] = _mirror_order()
"""Landmark order of a mirrored face: ``flip_x(landmarks)[..., MIRROR_68, :]``; its own inverse."""

OUTER_EYE_CORNERS = (36, 45)
"""Landmarks whose distance is the outer-interocular normaliser."""
