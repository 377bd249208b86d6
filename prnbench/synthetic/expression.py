"""Expression modes after the facial action coding system; amplitudes after the figures named in NOTICE.

A coefficient of 3 is the unit at full strength, so that coefficients run 0..3 like 300W-LP's.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from prnbench.synthetic import anatomy
from prnbench.synthetic.fields import Rig, Stroke, smoothstep, strokes

Array = NDArray[np.float64]

FULL_STRENGTH = 3.0
_HINGE: Array = np.array([0.0, -2.6, -129.0])
_JAW_OPEN_RAD = np.deg2rad(18.1)

_SMILE: list[Stroke] = [
    ((25, -39, -29), (6.5, 9.0, -8.0), 9.5),
    ((17, -32, -18), (1.6, 0.6, -1.6), 7),
    ((18, -45, -22), (1.4, 0.8, -1.4), 7),
    ((36, -12, -40), (2.0, 4.5, 3.6), 12),
    ((40, 8, -40), (0.5, 2.8, 1.8), 10),
    ((31, -27, -33), (1.5, 2.5, -1.0), 6),
]
_SIDED: dict[str, list[Stroke]] = {
    "mouthSmile": _SMILE,
    "mouthStretch": [((25, -40, -29), (7.0, -3.0, -6.8), 10), ((24, -52, -30), (3.2, -2.6, -2.0), 11)],
    "noseSneer": [((14, -4, -20), (1.0, 5.6, 0.6), 8), ((12, 14, -20), (-0.6, 3.4, 1.6), 7),
                  ((16, -26, -19), (0.5, 5.0, 0.0), 8), ((10, 48, -23), (-1.2, -1.6, 1.0), 8)],
    "browOuterUp": [((46, 57, -38), (2.0, 7.2, -2.4), 13), ((58, 48, -52), (0.6, 3.0, -1.5), 11)],
    "browDown": [((34, 56, -30), (-3.6, -3.4, 2.4), 12), ((14, 54, -23), (-3.2, -3.6, 1.6), 10)],
}  # fmt: skip
_BOTH: dict[str, list[Stroke]] = {
    "cheekSquint": [((40, 14, -40), (0.2, 3.8, 2.6), 11), ((44, 4, -44), (0.5, 3.0, 2.2), 12)],
    "cheekPuff": [((38, -32, -42), (8.0, 0.0, 10.5), 14), ((24, -42, -28), (-1.5, 1.0, 6.0), 9)],
    "mouthLowerDown": [((12, -53, -18), (0.9, -4.6, -1.4), 9)],
    "mouthUpperUp": [((13, -24, -17), (1.2, 6.4, -0.6), 8.5), ((24, -14, -28), (0.8, 4.0, 1.8), 9)],
    "mouthFrown": [((25, -39, -29), (1.9, -5.0, -1.6), 9), ((22, -50, -27), (1.0, -1.8, 0.4), 9)],
    "browInnerUp": [((15, 57, -23), (0.5, 5.4, -0.5), 11), ((0, 66, -22), (0.0, 2.6, 0.2), 14)],
    "mouthPucker": [((25, -39, -29), (-7.0, 1.2, 9.5), 8), ((12, -32, -16), (-3.6, 1.4, 6.5), 8),
                    ((12, -46, -18), (-3.6, 0.6, 6.5), 8), ((0, -37, -14), (0, 0, 3.6), 10)],
    "mouthFunnel": [((25, -39, -29), (-5.0, 0.0, 7.5), 8), ((9, -33, -15), (-1.0, 3.6, 6.0), 8),
                    ((9, -45, -17), (-1.0, -6.6, 6.2), 8), ((0, -48, -16), (0.0, -3.0, 1.6), 9)],
    "mouthPress": [((10, -46, -17), (0.0, 2.8, -0.8), 9), ((10, -31, -14), (0.0, -2.0, -1.4), 8),
                   ((0, -60, -18), (0, 2.4, 1.4), 14)],
    "mouthRollLower": [((6, -42, -15), (0.0, 3.2, -5.5), 6.5), ((0, -47, -16), (0.0, 4.0, -2.0), 9)],
    "chinRaise": [((0, -64, -18), (0.0, 5.0, 2.2), 13), ((0, -46, -16), (0.0, 3.2, 2.0), 11)],
}  # fmt: skip


def expression_fields(rig: Rig) -> dict[str, Array]:
    """Name -> (V, 3) displacement in mm at full strength; ``_L`` is the person's left, on the picture's right."""
    fields: dict[str, Array] = {}
    weight = jaw_weight(rig)[:, None]
    jaw_open = _jaw_turn(rig)
    fields["jawOpen"] = rig.follow_lips(weight * jaw_open, jaw_open)
    for name, motion in (("jawLeft", (8.6, 0, 0)), ("jawForward", (0, -1.6, 10.8))):
        rigid = np.broadcast_to(np.array(motion, float), rig.points.shape)
        fields[name] = rig.follow_lips(weight * rigid, rigid)
    for name, wanted in _BOTH.items():
        fields[name] = _with_parts(rig, strokes(rig.opened, wanted))
    for name, wanted in _SIDED.items():
        for suffix, side in (("_L", 1), ("_R", -1)):
            fields[name + suffix] = _with_parts(rig, strokes(rig.opened, wanted, side))
    for suffix, right in (("_L", True), ("_R", False)):
        for name, upper, lower in (("eyeBlink", -1.16, 0.04), ("eyeSquint", -0.12, 0.30)):
            fields[name + suffix] = _lids(rig, right, upper, lower)
    fields["eyeWide"] = _lids(rig, True, 0.34, -0.05) + _lids(rig, False, 0.34, -0.05)
    return fields


def _with_parts(rig: Rig, field: Array) -> Array:
    return rig.follow_lips(rig.follow_lids(field), np.zeros_like(field))


def jaw_weight(rig: Rig) -> Array:
    """(V,) how far each vertex goes along with the lower jaw."""
    q = rig.opened
    x = np.abs(q[:, 0])
    line = -38.0 + 0.55 * np.maximum(x - 25, 0)
    band = 8.0 + 0.34 * np.maximum(x - 20, 0)
    weight = smoothstep(0.5 + (line - q[:, 1]) / (2 * band))
    weight *= smoothstep((q[:, 1] + 132) / 56) * smoothstep((q[:, 2] + 118) / 40)
    return np.asarray(weight)


def _jaw_turn(rig: Rig) -> Array:
    """Displacement of every vertex if it turned with the jaw about its hinge."""
    c, s = np.cos(_JAW_OPEN_RAD), np.sin(_JAW_OPEN_RAD)
    y, z = (rig.points - _HINGE)[:, 1:].T
    return np.stack([np.zeros_like(y), c * y - s * z - y, s * y + c * z - z], axis=1)


def _lids(rig: Rig, right: bool, upper: float, lower: float) -> Array:
    """Move the lids over the ball: 1 is the whole opening, negative closes the upper lid."""
    sign = 1.0 if right else -1.0
    p = rig.points * (sign, 1, 1)
    x, y, _ = p.T
    gap = _lid_y(x, anatomy.UPPER_LID) - _lid_y(x, anatomy.LOWER_LID)
    within = smoothstep((x - 16.5) / 2.5) * smoothstep((47.5 - x) / 2.5)
    above = y - _lid_y(x, anatomy.UPPER_LID)
    below = _lid_y(x, anatomy.LOWER_LID) - y
    is_upper = above > -0.5 * np.maximum(gap, 0.2)
    fade_up = smoothstep(1 - np.maximum(above, 0) / 7.5)
    fade_low = smoothstep(1 - np.maximum(below, 0) / 8.0)
    lift = np.where(is_upper, upper * fade_up, lower * fade_low) * within * np.maximum(gap, 0)
    lift *= smoothstep((p[:, 2] + 62) / 10)
    return rig.follow_lids(_over_ball(p, lift, lower_skin=~is_upper) * (sign, 1, 1))


def _over_ball(p: Array, lift: Array, lower_skin: NDArray[np.bool_]) -> Array:
    """Displacement that moves points by ``lift`` in height and keeps their distance from the ball's centre."""
    offset = p - anatomy.EYE_CENTRE
    reach = np.sqrt(np.maximum(offset[:, 1] ** 2 + offset[:, 2] ** 2, 1.0))
    y = offset[:, 1] + lift
    z = np.sqrt(np.maximum(reach**2 - y**2, 0.25 * reach**2))
    dz = np.where(lift == 0, 0.0, z - np.sqrt(np.maximum(reach**2 - offset[:, 1] ** 2, 0.25 * reach**2)))
    clear = 1.1 * np.clip(-lift / 6.0, 0.0, 1.0)  # a closing lid rides over the cornea
    return np.stack([np.zeros_like(lift), lift, np.where(lower_skin, 0.6, 1.0) * dz + clear], axis=1)


def _lid_y(x: Array, curve: Array) -> Array:
    from scipy.interpolate import PchipInterpolator

    return np.asarray(PchipInterpolator(curve[:, 0], curve[:, 1])(np.clip(x, curve[0, 0], curve[-1, 0])))
