"""The built-in head's mesh: skin by Delaunay on the chart, lids, mouth cavity and ears as grids sewn into it.

Everything is made for the right half of the picture (u >= 0.5, x >= 0) and mirrored.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline, RBFInterpolator
from scipy.spatial import cKDTree

from prnbench.landmarks import MIRROR_68
from prnbench.synthetic import anatomy, ear, mouth
from prnbench.synthetic.chart import MouthSlit, disk_to_directions, points_to_disk, rim_points
from prnbench.synthetic.scatter import FINE, relaxed, scatter, skin_triangles
from prnbench.synthetic.surface import HeadSurface

Array = NDArray[np.float64]
Ints = NDArray[np.int64]

LID_SIDES, EYE_RINGS = 64, 22
MOUTH_COLUMNS, MOUTH_ROWS = 30, 22  # per half: columns middle to corner, rows from a lip to the throat
# points that stay where they are when the landmarks are moved to their means
_STILL: NDArray[np.float64] = np.array([
    (0, 139, -115), (66, 90, -140), (-66, 90, -140), (0, 100, -35), (33, 90, -30), (-33, 90, -30),
    (76, 12, -125), (-76, 12, -125), (50, -140, -120), (-50, -140, -120), (0, -125, -86),
], float)  # fmt: skip
_LAST_TEXEL = 255  # of a position map of 256 x 256
_LIP_ROWS = (0.0022, 0.0046, 0.0074, 0.0106)


@dataclass(frozen=True, eq=False)
class HeadMesh:
    """Mean geometry of the head with what later stages need to know of each vertex.

    Attributes
    ----------
    vertices
        (V, 3) mm.
    uv
        (V, 2).
    triangles
        (F, 3), counter-clockwise from outside.
    landmarks
        (68,) vertex ids.
    part
        (V,) 0 skin, 1 eye (lid margin to pupil), 2 mouth cavity, 3 ear.
    local
        (V, 2) eye: offset from the eye's axis in eye radii (x, y) on the ball, and beyond 1 on the lid's inside;
        mouth: position s along the lips, t from upper (1) over throat (0) to lower lip (-1); ear: ring, side.
    mirror
        (V,) id of each vertex's mirror image.
    """

    vertices: Array
    uv: Array
    triangles: Ints
    landmarks: Ints
    part: Ints
    local: Array
    mirror: Ints


def build_mesh() -> HeadMesh:
    """Build the mean head; the landmarks lie exactly at their anthropometric means."""
    return _warped_to_landmarks(_snapped(_Half().mirrored()))


class _Half:
    """The right half under construction: points are appended part by part, triangles name them."""

    def __init__(self) -> None:
        self.slit = MouthSlit()
        self.surface = HeadSurface()
        self.uv: list[Array] = []
        self.xyz: list[Array] = []
        self.part: list[Array] = []
        self.local: list[Array] = []
        self.triangles: list[Ints] = []
        self.count = 0
        lid_ring = lid_margin()
        lid_uv = self.slit.open(points_to_disk(lid_ring))
        ear_root = self.surface.base(_unit(ear.root()))
        ear_uv = self.slit.open(points_to_disk(ear_root))
        u = 0.5 + self.slit.corner * np.sin(np.linspace(0, np.pi / 2, MOUTH_COLUMNS + 1))
        up = np.stack([u, self.slit.line(u) + self.slit.half_height(u)], axis=1)
        low = np.stack([u, self.slit.line(u) - self.slit.half_height(u)], axis=1)
        self._skin(lid_ring, lid_uv, ear_uv, up, low)
        self._eye(lid_ring, lid_uv)
        self._mouth(u)
        self._ear(ear_root, ear_uv)

    def _append(self, uv: Array, xyz: Array, part: int, local: Array | None = None) -> Ints:
        ids = np.arange(self.count, self.count + len(uv))
        self.uv.append(uv)
        self.xyz.append(xyz)
        self.part.append(np.full(len(uv), part))
        self.local.append(np.zeros((len(uv), 2)) if local is None else local)
        self.count += len(uv)
        return ids

    def _skin(self, lid_ring: Array, lid_uv: Array, ear_uv: Array, up: Array, low: Array) -> None:
        centre = lid_uv.mean(axis=0)
        around_lid = [centre + k * (lid_uv - centre) for k in (1.05, 1.11, 1.18, 1.27, 1.38)]
        around_ear = [ear_uv.mean(axis=0) + k * (ear_uv - ear_uv.mean(axis=0)) for k in (1.12, 1.28)]
        around_ear = [ring[ring[:, 0] < 0.99] for ring in around_ear]
        lip_mouth = np.concatenate([up, low[-2::-1]])
        around_lips = [
            line[:-3] + np.array([0, side * step]) for line, side in ((up, 1), (low, -1)) for step in _LIP_ROWS
        ]
        fixed = [lid_uv, ear_uv, up, low[:-1], *around_lid, *around_ear, *around_lips, rim_points(140)]
        fixed.append(_landmark_points(self.slit, np.concatenate(fixed)))
        holes = [lid_uv, ear_uv, lip_mouth]
        uv, fixed_count = scatter(np.concatenate(fixed), holes)
        uv = relaxed(uv, fixed_count, holes)
        xyz = self.surface(disk_to_directions(self.slit.close(uv)))
        xyz = _pulled_to_ring(xyz, lid_ring, xyz[:LID_SIDES].copy())
        xyz[np.abs(uv[:, 0] - 0.5) < 1e-9, 0] = 0.0
        ids = self._append(uv, xyz, 0)
        self.lid_ids = ids[:LID_SIDES]
        self.ear_ids = ids[LID_SIDES : LID_SIDES + ear.SIDES]
        first = LID_SIDES + ear.SIDES
        self.up_ids = ids[first : first + MOUTH_COLUMNS + 1]
        self.low_ids = np.append(ids[first + MOUTH_COLUMNS + 1 : first + 2 * MOUTH_COLUMNS + 1], self.up_ids[-1])
        self.triangles.append(skin_triangles(uv, holes))

    def _eye(self, ring: Array, ring_uv: Array) -> None:
        """Lid margin, fold behind the lid and the ball's front, as rings that shrink to the ball's axis."""
        middle = ring.mean(axis=0)
        centre_uv = ring_uv.mean(axis=0)
        rho = np.concatenate([[0.965, 0.93, 0.89, 0.85], np.linspace(0.80, 0, EYE_RINGS - 4)])
        rows, local = [], []
        for value in rho:
            flat = middle[:2] + _ball_share(value) * (ring[:, :2] - middle[:2])
            ball = np.stack([*flat.T, ball_height(flat[:, 0], flat[:, 1], ring[:, 2])], axis=1)
            inside = ring + np.array([0, 0, -1.5]) * np.clip((1 - value) / 0.07, 0, 1)
            mix = np.clip((0.93 - value) / 0.08, 0, 1)
            rows.append(inside * (1 - mix) + ball * mix)
            place = (flat - anatomy.EYE_CENTRE[:2]) / anatomy.EYE_RADIUS_MM
            local.append(place if mix >= 1 else np.full((LID_SIDES, 2), 3.0 - mix))
        uv = np.stack([centre_uv + value * (ring_uv - centre_uv) for value in rho])
        ids = self._append(uv[:-1].reshape(-1, 2), np.concatenate(rows[:-1]), 1, np.concatenate(local[:-1]))
        tip = self._append(uv[-1, :1], rows[-1][:1], 1, local[-1][:1])
        grid = np.concatenate([self.lid_ids[None], ids.reshape(-1, LID_SIDES)])
        self.triangles.append(_rings(grid, tip[0], clockwise=True))

    def _mouth(self, u: Array) -> None:
        s = (u - 0.5) / self.slit.corner
        rows = np.linspace(1, -1, 2 * MOUTH_ROWS + 1)[1:-1]
        ss, tt = (a.ravel() for a in np.meshgrid(s[:-1], rows))
        uu = 0.5 + ss * self.slit.corner
        uv = np.stack([uu, self.slit.line(uu) + tt * self.slit.half_height(uu)], axis=1)
        line = np.stack([self.slit.line(uu)], axis=1)
        lip = self.surface(disk_to_directions(np.concatenate([uu[:, None], line], axis=1)))
        xyz = mouth.cavity(ss, tt, lip)
        xyz[ss == 0, 0] = 0
        ids = self._append(uv, xyz, 2, np.stack([ss, tt], axis=1)).reshape(len(rows), -1)
        grid = np.concatenate([self.up_ids[None, :-1], ids, self.low_ids[None, :-1]])
        a, b, c, d = grid[:-1, :-1], grid[:-1, 1:], grid[1:, 1:], grid[1:, :-1]
        quads = np.concatenate([np.stack([a, d, c], -1).reshape(-1, 3), np.stack([a, c, b], -1).reshape(-1, 3)])
        corner = np.full(len(grid) - 1, self.up_ids[-1])
        fan = np.stack([grid[:-1, -1], grid[1:, -1], corner], axis=1)
        self.triangles += [quads, fan]

    def _ear(self, root: Array, root_uv: Array) -> None:
        loft = ear.loft(root)
        share = np.linspace(1, 0, ear.RINGS + 1)[1:] ** 0.9
        centre = root_uv.mean(axis=0)
        uv = centre + share[:, None, None] * (root_uv - centre)
        ring, side = np.meshgrid(np.arange(1, ear.RINGS) / ear.RINGS, np.arange(ear.SIDES) / ear.SIDES, indexing="ij")
        local = np.stack([ring.ravel(), side.ravel()], axis=1)
        ids = self._append(uv[:-1].reshape(-1, 2), loft[1:-1].reshape(-1, 3), 3, local)
        canal = self._append(uv[-1, :1], loft[-1, :1], 3, np.array([[1.0, 0.0]]))
        grid = np.concatenate([self.ear_ids[None], ids.reshape(-1, ear.SIDES)])
        self.triangles.append(_rings(grid, canal[0], clockwise=False))

    def mirrored(self) -> HeadMesh:
        """Join the half with its mirror image along the midline."""
        uv, xyz = np.concatenate(self.uv), np.concatenate(self.xyz)
        part, local = np.concatenate(self.part), np.concatenate(self.local)
        triangles = _counter_clockwise(np.concatenate(self.triangles), uv)
        on_middle = np.abs(uv[:, 0] - 0.5) < 1e-9
        other = np.arange(len(uv))
        other[~on_middle] = len(uv) + np.arange((~on_middle).sum())
        mirror = np.concatenate([other, np.flatnonzero(~on_middle)])
        flip = ~on_middle
        sign = np.array([-1.0, 1.0, 1.0])
        both = HeadMesh(
            vertices=np.concatenate([xyz, xyz[flip] * sign]),
            uv=np.concatenate([uv, np.stack([1 - uv[flip, 0], uv[flip, 1]], axis=1)]),
            triangles=np.concatenate([triangles, other[triangles][:, ::-1]]),
            landmarks=np.zeros(68, np.int64),
            part=np.concatenate([part, part[flip]]),
            local=np.concatenate([local, local[flip]]),
            mirror=mirror,
        )
        return _with_landmarks(both, self, on_middle)


def lid_margin() -> Array:
    """(LID_SIDES, 3) lid margin from the inner corner over the upper lid to the outer corner and back below."""
    half = LID_SIDES // 2
    upper, lower = (_even(curve, half + 1) for curve in (anatomy.UPPER_LID, anatomy.LOWER_LID))
    return np.concatenate([upper, lower[-2:0:-1]])


def ball_height(x: Array, y: Array, ring_z: Array) -> Array:
    """Front of the eye ball, and the soft corner tissue where the ball falls too far back."""
    cx, cy, cz = anatomy.EYE_CENTRE
    squared = (x - cx) ** 2 + (y - cy) ** 2
    ball = cz + np.sqrt(np.maximum(anatomy.EYE_RADIUS_MM**2 - squared, 0.0))
    corner = ring_z - 2.2
    inner = np.clip((23.5 - x) / 3.0, 0, 1)
    return np.asarray(np.where(inner > 0, np.maximum(ball, corner * inner + (1 - inner) * (cz - 5)), ball))


def _ball_share(rho: float) -> float:
    """How far towards the lid the ball's point of a ring lies: rings at 0.85 already lie behind the lid."""
    return rho * 1.32 if rho < 0.8 else 1.056 + (rho - 0.8) * 0.4


def _even(curve: Array, count: int) -> Array:
    steps = np.linalg.norm(np.diff(curve, axis=0), axis=1)
    t = np.concatenate([[0], np.cumsum(steps)])
    return np.asarray(CubicSpline(t, curve)(np.linspace(0, t[-1], count)))


def _unit(points: Array) -> Array:
    from prnbench.synthetic.chart import CENTRE

    offset = points - CENTRE
    return np.asarray(offset / np.linalg.norm(offset, axis=1, keepdims=True))


def _landmark_points(slit: MouthSlit, others: Array) -> Array:
    """Chart points of the right half's landmarks that no other fixed point carries, and of the midline's."""
    means = anatomy.landmark_means()
    ids = [8, 9, 10, 11, 12, 13, 14, 15, 16, 22, 23, 24, 25, 26, 27, 28, 29, 30, 33, 34, 35, 51, 52, 53, 55, 56, 57]
    uv = slit.open(points_to_disk(means[ids]))
    uv[np.isin(ids, (8, 27, 28, 29, 30, 33, 51, 57)), 0] = 0.5
    return np.asarray(uv[cKDTree(others).query(uv)[0] > 0.3 * FINE])


def _pulled_to_ring(xyz: Array, ring: Array, ring_now: Array) -> Array:
    """Move skin near the lids so that the lid margin lies on its curve."""
    near = np.flatnonzero(cKDTree(ring_now).query(xyz)[0] < 14)
    apart = np.linalg.norm(xyz[near, None] - ring_now[None], axis=2)
    closest = apart.min(axis=1, keepdims=True)
    weight = np.exp(-((apart**2 - closest**2) / (0.15 + (0.45 * closest) ** 2)))
    pull = weight @ (ring - ring_now) / weight.sum(axis=1, keepdims=True)
    out = xyz.copy()
    out[near] += pull * np.exp(-((closest / 4.5) ** 2))
    return out


def _rings(grid: Ints, tip: int, clockwise: bool) -> Ints:
    around = np.roll(grid, -1, axis=1)
    a, b, c, d = grid[:-1], around[:-1], around[1:], grid[1:]
    quads = np.concatenate([np.stack([a, b, c], -1).reshape(-1, 3), np.stack([a, c, d], -1).reshape(-1, 3)])
    fan = np.stack([grid[-1], around[-1], np.full(grid.shape[1], tip)], axis=1)
    triangles = np.concatenate([quads, fan])
    return triangles[:, ::-1] if clockwise else triangles


def _counter_clockwise(triangles: Ints, uv: Array) -> Ints:
    a, b, c = uv[triangles].transpose(1, 0, 2)
    area = (b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]
    return np.where((area < 0)[:, None], triangles[:, ::-1], triangles)


def _with_landmarks(mesh: HeadMesh, half: _Half, on_middle: NDArray[np.bool_]) -> HeadMesh:
    """Find the landmark vertices: on the rings for eyes and inner lips, nearest on the chart for the others."""
    means = anatomy.landmark_means()
    ids = np.full(68, -1, np.int64)
    skin = np.flatnonzero(mesh.part[: half.count] == 0)
    centre_line = skin[on_middle[skin]]
    wanted = half.slit.open(points_to_disk(means))
    for i in (8, 27, 28, 29, 30, 33, 51, 57):
        ids[i] = centre_line[np.abs(mesh.uv[centre_line, 1] - wanted[i, 1]).argmin()]
    for i in (9, 10, 11, 12, 13, 14, 15, 16, 22, 23, 24, 25, 26, 34, 35, 52, 53, 55, 56):
        ids[i] = skin[np.linalg.norm(mesh.uv[skin] - wanted[i], axis=1).argmin()]
    for i in range(42, 48):
        ids[i] = half.lid_ids[np.linalg.norm(mesh.vertices[half.lid_ids] - means[i], axis=1).argmin()]
    for i, lip in ((62, half.up_ids), (63, half.up_ids), (64, half.up_ids), (65, half.low_ids), (66, half.low_ids)):
        ids[i] = lip[np.abs(mesh.vertices[lip, 0] - means[i, 0]).argmin()]
    ids[54] = half.up_ids[-1]
    for i in range(68):
        if ids[i] < 0:
            ids[i] = mesh.mirror[ids[MIRROR_68[i]]]
    return replace(mesh, landmarks=ids)


def _snapped(mesh: HeadMesh) -> HeadMesh:
    """Move the landmarks on the chart to texel centres of a 256-texel map, everything else smoothly along.

    Columns of the midline's landmarks stay at 0.5, between two texels, so that the chart stays symmetric.
    """
    now = mesh.uv[mesh.landmarks]
    wanted = np.round(now * _LAST_TEXEL) / _LAST_TEXEL
    middle = np.abs(now[:, 0] - 0.5) < 1e-9
    wanted[middle, 0] = 0.5
    wanted = 0.5 * (wanted + np.stack([1 - wanted[MIRROR_68, 0], wanted[MIRROR_68, 1]], axis=1))
    rim = rim_points(24)
    still = np.concatenate([rim, (rim * (-1, 1) + (1, 0))[1:-1]])
    moves = np.concatenate([wanted - now, np.zeros_like(still)])
    shift = RBFInterpolator(np.concatenate([now, still]), moves, kernel="linear")(mesh.uv)
    shift = 0.5 * (shift + shift[mesh.mirror] * (-1, 1))
    return replace(mesh, uv=mesh.uv + shift)


def _warped_to_landmarks(mesh: HeadMesh) -> HeadMesh:
    """Move the landmarks to their means exactly, everything else along with them by thin plates."""
    means = anatomy.landmark_means()
    now = mesh.vertices[mesh.landmarks]
    apart = [i for i in range(68) if i not in (61, 62, 63, 65, 66, 67)]  # the closed lips share one contact line
    source = np.concatenate([now[apart], _STILL])
    shift = np.concatenate([means[apart] - now[apart], np.zeros_like(_STILL)])
    warp = RBFInterpolator(source, shift, kernel="linear", smoothing=1e-3)
    moved = mesh.vertices + warp(mesh.vertices)
    balls = (mesh.part == 1) & (mesh.local[:, 0] < 1.9)
    for side in (1, -1):
        ball = balls & (side * mesh.vertices[:, 0] > 0)
        moved[ball] = mesh.vertices[ball] + warp(anatomy.EYE_CENTRE[None] * (side, 1, 1) + (0, 0, 10))
    moved = 0.5 * (moved + moved[mesh.mirror] * (-1, 1, 1))
    return replace(mesh, vertices=moved)
