"""Iterative closest point (ICP): the prediction moves, distances count from the true points and in the truth's unit.

Objective ``plane``: the mean squared distance from the true points to the tangent planes at their nearest predicted
points (Chen and Medioni 1992, Gauss-Newton); where that point lies on the rim of the prediction, the distance itself.
Objective ``point``: the mean squared distance to the nearest predicted points (Besl and McKay 1992).

Both run until an iteration moves no true point by more than a tolerance. Plane steps that do not shrink (the two may
swing around the solution where surfaces differ much) are damped, which leaves the solution where it is. Nearest points
are exact. For planes a first stage on every eighth point only finds the start of the second, which uses all points; a
prediction that this stage leaves farther than 4 % of the truth's diagonal away (rms) is no face and stays there.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import ArrayLike, NDArray

from prnbench.geometry import similarity_alignment
from prnbench.metrics.nearest import PointGrid, nearest_from, point_grid

Array = NDArray[np.float64]

_COARSE = 8
_MOST_PASSES = {"plane": 50, "point": 1000}
_ABSURD_PASSES, _ABSURD_SHARE = 8, 0.04
"""After so many passes a prediction farther off than this share of the truth's diagonal is no face."""


@dataclass(frozen=True, slots=True)
class Alignment:
    """x = scale R p + t takes the prediction to the truth; R is a rotation, never a reflection.

    Attributes
    ----------
    scale, rotation, translation
        float, (3, 3), (3,).
    iterations
        Passes over the true points, in units of all points.
    converged
        False if the tolerance was not reached, as for shapes that slide along each other; the alignment with the
        least objective is then returned.
    distances
        (N,) from the true points to the nearest predicted points after alignment, in the truth's unit; empty if no
        ICP ran.
    """

    scale: float
    rotation: Array
    translation: Array
    iterations: float = 0.0
    converged: bool = False
    distances: Array = field(default_factory=lambda: np.empty(0), repr=False)

    @property
    def rms(self) -> float:
        """Root mean square of ``distances``."""
        return float(np.sqrt((self.distances**2).mean()))

    def apply(self, points: ArrayLike) -> Array:
        """Move predicted points (..., 3) to the truth."""
        moved: Array = self.scale * np.asarray(points, np.float64) @ self.rotation.T + self.translation
        return moved

    def undo(self, points: ArrayLike) -> Array:
        """Move true points (..., 3) to the prediction."""
        back: Array = (np.asarray(points, np.float64) - self.translation) @ self.rotation / self.scale
        return back


def icp(
    predicted: ArrayLike,
    truth: ArrayLike,
    *,
    normals: ArrayLike | None = None,
    rim: NDArray[np.bool_] | None = None,
    scale: bool = False,
    start: Alignment | None = None,
    tolerance: float,
    coarse: int = _COARSE,
) -> Alignment:
    """Align predicted points to true points.

    Parameters
    ----------
    predicted
        (P, 3) points of the prediction's surface.
    truth
        (N, 3) true points; every one of them looks for its nearest predicted point.
    normals
        (P, 3) unit normals of the prediction: objective ``plane``. None: objective ``point``.
    rim
        (P,) points on the border of the prediction.
    scale
        Whether the prediction may be scaled (similarity) or not (rigid).
    start
        Where to begin, usually an alignment of landmarks; it brings the scale that a rigid ICP keeps.
    tolerance
        Largest motion of a true point in the last iteration, in the truth's unit.
    coarse
        The first stage uses every ``coarse``-th true point; 1 leaves it out.
    """
    p, g = np.ascontiguousarray(predicted, np.float64), np.ascontiguousarray(truth, np.float64)
    grid = point_grid(p)
    alignment = start or Alignment(1.0, np.eye(3), np.zeros(3))
    if normals is None:
        return _to_points(grid, g, alignment, scale, tolerance)
    ordered = np.ascontiguousarray(normals, np.float64)[grid.order]
    surface = _Planes(grid, ordered, np.zeros(len(p), bool) if rim is None else rim[grid.order])
    passes = 0.0
    if coarse > 1 and len(g) // coarse >= 100:
        alignment = _to_planes(surface, g[::coarse], alignment, scale, 10 * tolerance)
        passes = alignment.iterations / coarse
        if alignment.rms > _absurd_rms(g):
            last = _linearised(surface, g, alignment, np.full(len(g), -1, np.int32))
            return last.finished(passes + 1, converged=False)
    done = _to_planes(surface, g, alignment, scale, tolerance)
    return replace(done, iterations=done.iterations + passes)


def _absurd_rms(truth: Array) -> float:
    return _ABSURD_SHARE * float(np.linalg.norm(np.ptp(truth, axis=0)))


def _to_points(grid: PointGrid, truth: Array, alignment: Alignment, scale: bool, limit: float) -> Alignment:
    """Alternate nearest points and the best motion onto them; the objective never rises."""
    hint, squared = np.full(len(truth), -1, np.int32), np.empty(len(truth))
    before = np.full_like(truth, np.inf)
    for passes in range(1, _MOST_PASSES["point"] + 1):
        q = alignment.undo(truth)
        nearest_from(q, *grid[:5], hint, squared)
        converged = _farthest(alignment, q, before) <= limit
        if converged or passes == _MOST_PASSES["point"]:
            break
        s, R, t = similarity_alignment(grid.points[hint], q, scale=scale)
        alignment, before = _composed(alignment, s, R, t, np.zeros(3)), q
    distances = alignment.scale * np.sqrt(squared)
    return replace(alignment, iterations=passes, converged=converged, distances=distances)


def _to_planes(surface: _Planes, truth: Array, start: Alignment, scale: bool, limit: float) -> Alignment:
    """Gauss-Newton steps with nearest points found anew each time, damped while they do not shrink."""
    used, damping, last = 7 if scale else 6, 0.0, np.inf
    now = best = _linearised(surface, truth, start, np.full(len(truth), -1, np.int32))
    for passes in range(2, _MOST_PASSES["plane"] + 1):
        if passes > _ABSURD_PASSES and best.rms > _absurd_rms(truth):
            break
        step, A = np.zeros(7), now.A[:used, :used]
        step[:used] = np.linalg.lstsq(A + damping * np.diag(np.diag(A)), now.b[:used], rcond=1e-12)[0]
        trial = _composed(
            now.alignment, 1.0 + np.clip(step[6], -0.5, 1.0), _rotation(step[:3]), step[3:6], now.q.mean(axis=0)
        )
        then = _linearised(surface, truth, trial, now.hint.copy())
        motion = _farthest(trial, then.q, now.q)
        if (1.0 + damping) * motion <= limit:  # what the step would be without damping
            return then.finished(passes, converged=True)
        damping = damping / 2 if motion < 0.7 * last else min(max(2 * damping, 0.5), 4.0)
        now, last = then, motion
        best = min(best, then, key=lambda state: state.error)
    return best.finished(passes, converged=False)


class _Planes(NamedTuple):
    """A predicted surface in the order of its grid: points, unit normals (P, 3), rim (P,)."""

    grid: PointGrid
    normals: Array
    rim: NDArray[np.bool_]


class _Linearised(NamedTuple):
    """The objective at an alignment: true points on the prediction, their neighbours, normal equations, value."""

    alignment: Alignment
    q: Array
    hint: NDArray[np.int32]
    squared: Array
    A: Array
    b: Array
    error: float

    @property
    def rms(self) -> float:
        """Root mean square distance to the nearest predicted points, in the truth's unit."""
        return self.alignment.scale * float(np.sqrt(self.squared.mean()))

    def finished(self, passes: float, converged: bool) -> Alignment:
        distances = self.alignment.scale * np.sqrt(self.squared)
        return replace(self.alignment, iterations=passes, converged=converged, distances=distances)


def _linearised(surface: _Planes, truth: Array, alignment: Alignment, hint: NDArray[np.int32]) -> _Linearised:
    q, squared = alignment.undo(truth), np.empty(len(truth))
    nearest_from(q, *surface.grid[:5], hint, squared)
    points, centre = surface.grid.points, q.mean(axis=0)
    A, b, error = _normal_equations(q, points, surface.normals, surface.rim, hint, squared, centre)
    return _Linearised(alignment, q, hint, squared, A, b, alignment.scale**2 * float(error))


def _farthest(alignment: Alignment, q: Array, before: Array) -> float:
    """Largest motion of a true point between two alignments, in the truth's unit."""
    return alignment.scale * float(np.sqrt(((q - before) ** 2).sum(axis=1).max()))


def _composed(first: Alignment, s: float, R: Array, t: Array, centre: Array) -> Alignment:
    """The alignment after the prediction's own points p became centre + s R (p - centre) + t."""
    shift = centre + t - s * R @ centre
    rotation = first.rotation @ R
    translation = first.scale * first.rotation @ shift + first.translation
    return Alignment(first.scale * s, rotation, translation)


def _rotation(vector: Array) -> Array:
    """Rotation matrix of a rotation vector (Rodrigues)."""
    angle = float(np.linalg.norm(vector))
    if angle < 1e-12:
        return np.eye(3) + _cross(vector)
    K = _cross(vector / angle)
    return np.asarray(np.eye(3) + np.sin(angle) * K + (1.0 - np.cos(angle)) * K @ K)


def _cross(v: Array) -> Array:
    return np.array([[0.0, -v[2], v[1]], [v[2], 0.0, -v[0]], [-v[1], v[0], 0.0]])


@numba.njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def _normal_equations(q, points, normals, rim, hint, squared, centre):  # type: ignore[no-untyped-def]
    """A, b and value of sum (n . (q - p) - a . (omega, t, sigma))^2, a = (p x n, n, n . p), p about the centre."""
    A, b, a = np.zeros((7, 7)), np.zeros(7), np.empty(7)
    error = 0.0
    for i in range(len(q)):
        k = hint[i]
        px, py, pz = points[k, 0] - centre[0], points[k, 1] - centre[1], points[k, 2] - centre[2]
        ex, ey, ez = q[i, 0] - points[k, 0], q[i, 1] - points[k, 1], q[i, 2] - points[k, 2]
        nx, ny, nz = normals[k, 0], normals[k, 1], normals[k, 2]
        if rim[k] and squared[i] > 0.0:
            length = np.sqrt(squared[i])
            nx, ny, nz = ex / length, ey / length, ez / length
        residual = nx * ex + ny * ey + nz * ez
        error += residual * residual
        a[0], a[1], a[2] = py * nz - pz * ny, pz * nx - px * nz, px * ny - py * nx
        a[3], a[4], a[5] = nx, ny, nz
        a[6] = px * nx + py * ny + pz * nz
        for r in range(7):
            b[r] += a[r] * residual
            for c in range(r, 7):
                A[r, c] += a[r] * a[c]
    for r in range(7):
        for c in range(r):
            A[r, c] = A[c, r]
    return A, b, error
