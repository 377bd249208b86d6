"""Position maps as integers: uint16 steps and a 2-D delta that compresses losslessly, undone in one fused loop.

``stored[c, r, k]`` is the 2-D difference (modulo 2^16) of ``q[c, r, k] = round((map[r, k, c] - offset[c]) / step)``.
Without this module: ``q = stored.cumsum(1, dtype="uint16").cumsum(2, dtype="uint16")`` and
``map = (offset[:, None, None] + step * q).transpose(1, 2, 0)``.

Maps of a face model are quantised piece by piece while the matrix product that makes them is in the processor's cache;
they never exist as floats. Shapes: N faces, R resolution, T texels of a piece.
"""

# ruff: noqa: N815 -- fields carry their shape in the name

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numba import njit
from numpy.typing import NDArray

from prnbench.errors import SampleError
from prnbench.uv import UvBasis

STEPS_PER_CROP_PIXEL = 128
"""Quantisation steps per pixel of the 256-pixel crop frame: the largest error is 1/256 = 0.0039 crop pixels."""

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class QuantisedMaps:
    """Position maps of N faces: ``map[n, r, k, c] = offset_N3[n, c] + step_N[n] * steps_N3RR[n, c, r, k]``.

    ``errors`` says which faces have no map that can be stored, and why.
    """

    steps_N3RR: NDArray[np.uint16]
    offset_N3: Float32
    step_N: Float64
    errors: dict[int, SampleError] = field(default_factory=dict)

    def take(self, rows: list[int]) -> QuantisedMaps:
        """The maps of some faces."""
        return QuantisedMaps(self.steps_N3RR[rows], self.offset_N3[rows], self.step_N[rows])


def quantisation_step(box_px: Float32) -> float:
    """Step in original pixels that is 1/128 px in PRN's 256-pixel training crop (side 1.5 (w + h) / 2)."""
    left, top, right, bottom = (float(value) for value in box_px)
    size = 1.5 * (right - left + bottom - top) / 2
    return max(size, 1.0) / 255 / STEPS_PER_CROP_PIXEL


def quantised_model_maps(
    basis: UvBasis, coefficients_NK: Float32, linear_N33: Float64, shift_N3: Float64, step_N: Float64, names: list[str]
) -> QuantisedMaps:
    """Quantised maps straight from a face model's coefficients (the arguments of :meth:`UvBasis.maps`)."""
    R = basis.resolution
    # In steps, with whole steps of the shift kept aside: float32 then rounds to 1/400 of a step.
    whole_N3 = np.floor(shift_N3 / step_N[:, None])
    linear = (linear_N33 / step_N[:, None, None]).astype(np.float32)
    rest = (shift_N3 / step_N[:, None] - whole_N3).astype(np.float32)
    quantiser = _Quantiser(len(step_N), R)
    for first, planes_N3T in basis.planes(coefficients_NK):
        quantiser.add(first, planes_N3T, linear, rest)
    return quantiser.finished(whole_N3, step_N, names)


def quantise_map(position_map: Float32, step: float, name: str = "position map") -> QuantisedMaps:
    """Quantise one (R, R, 3) map.

    Raises
    ------
    SampleError
        The map is not finite, or it spans more than 65,535 steps.
    """
    R = len(position_map)
    whole_N3 = np.floor(np.nan_to_num(position_map[0, 0].astype(np.float64)) / step)[None]
    moved = position_map.astype(np.float64) - whole_N3[0] * step
    planes_N3T = np.ascontiguousarray(moved.reshape(-1, 3).T, np.float32)[None]
    quantiser = _Quantiser(1, R)
    quantiser.add(0, planes_N3T, np.eye(3, dtype=np.float32)[None] / np.float32(step), np.zeros((1, 3), np.float32))
    maps = quantiser.finished(whole_N3, np.array([step]), [name])
    for error in maps.errors.values():
        raise error
    return maps


class _Quantiser:
    """Steps of N maps as they come, piece by piece, with their least and largest values."""

    def __init__(self, faces: int, resolution: int):
        self.steps_N3RR = np.empty((faces, 3, resolution, resolution), np.uint16)
        self.low_N3 = np.full((faces, 3), np.iinfo(np.int32).max, np.int32)
        self.high_N3 = np.full((faces, 3), np.iinfo(np.int32).min, np.int32)
        self.total_N3 = np.zeros((faces, 3), np.float32)

    def add(self, first: int, planes_N3T: Float32, linear_N33: Float32, shift_N3: Float32) -> None:
        """Move texels ``first``... of model space by an affine map in steps, and keep them modulo 2^16."""
        steps_N3X = self.steps_N3RR.reshape(*self.steps_N3RR.shape[:2], -1)
        _quantise(planes_N3T, linear_N33, shift_N3, first, steps_N3X, self.low_N3, self.high_N3, self.total_N3)

    def finished(self, whole_N3: Float64, step_N: Float64, names: list[str]) -> QuantisedMaps:
        span_N = (self.high_N3.astype(np.int64) - self.low_N3).max(axis=1)
        finite_N = np.asarray(np.isfinite(self.total_N3).all(axis=1))
        bad = np.flatnonzero(~finite_N | (span_N > 65535)).tolist()
        errors = {i: _error(span_N[i], step_N[i], bool(finite_N[i]), names[i]) for i in bad}
        self.steps_N3RR -= self.low_N3.astype(np.uint16)[:, :, None, None]
        offset_N3 = ((whole_N3 + self.low_N3) * step_N[:, None]).astype(np.float32)
        return QuantisedMaps(self.steps_N3RR, offset_N3, step_N, errors)


def _error(span: int, step: float, finite: bool, name: str) -> SampleError:
    if not finite:
        return SampleError("the position map is not finite", file=name, remedy="check the parameters of this face")
    return SampleError(
        f"the position map spans {span * step:.0f} px, {span} steps of {step:.2g} px; 65535 fit",
        file=name,
        remedy="check that the pose and parameters belong to this face model",
    )


def difference(steps_N3RR: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """2-D difference of each plane, modulo 2^16: what a shard stores."""
    stored: NDArray[np.uint16] = np.empty_like(steps_N3RR)
    R = steps_N3RR.shape[-1]
    _difference(steps_N3RR.reshape(-1, R, R), stored.reshape(-1, R, R))
    return stored


def interleaved(steps_N3RR: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """Planes (N, 3, R, R) as (N, R, R, 3)."""
    N, _, R, _ = steps_N3RR.shape
    out = np.empty((N, R, R, 3), np.uint16)
    _interleaved(steps_N3RR, out)
    return out


def decode_map(stored: NDArray[np.uint16], offset: Float32, step: float) -> Float32:
    """A map (R, R, 3) float32 from its stored differences (3, R, R)."""
    out = np.empty((*stored.shape[1:], 3), np.float32)
    _decode(stored, _tiled(offset, stored.shape[2]), np.float32(step), out.reshape(len(out), -1))
    return out


def scaled_steps(steps: NDArray[np.uint16], offset: Float32, step: float) -> Float32:
    """A map (R, R, 3) float32 from its interleaved steps (R, R, 3)."""
    out = np.empty(steps.shape, np.float32)
    _scale(steps.reshape(len(out), -1), _tiled(offset, steps.shape[1]), np.float32(step), out.reshape(len(out), -1))
    return out


def _tiled(offset: Float32, columns: int) -> Float32:
    """Offsets of one row of texels, x y z x y z ...: plain loops over it compile to vector instructions."""
    return np.tile(offset.astype(np.float32), columns)


@njit(cache=True, nogil=True, fastmath={"contract", "reassoc"})
def _quantise(planes, linear, shift, first, steps, low, high, total):  # type: ignore[no-untyped-def]  # pragma: no cover
    texels = min(planes.shape[2], steps.shape[2] - first)
    for n in range(planes.shape[0]):
        x, y, z = planes[n, 0], planes[n, 1], planes[n, 2]
        for c in range(3):
            a, b, d, e = linear[n, c, 0], linear[n, c, 1], linear[n, c, 2], shift[n, c] + np.float32(0.5)
            least, largest, added = low[n, c], high[n, c], np.float32(0.0)
            out = steps[n, c, first : first + texels]
            for t in range(texels):
                value = a * x[t] + b * y[t] + d * z[t] + e
                added += value
                step = np.int32(np.floor(value))
                least, largest = min(least, step), max(largest, step)
                out[t] = np.uint16(step)
            low[n, c], high[n, c] = least, largest
            total[n, c] += added


@njit(cache=True, nogil=True)
def _difference(steps, out):  # type: ignore[no-untyped-def]  # pragma: no cover
    for plane in range(steps.shape[0]):
        for r in range(steps.shape[1]):
            row, target = steps[plane, r], out[plane, r]
            if r == 0:
                target[0] = row[0]
                for k in range(1, row.size):
                    target[k] = row[k] - row[k - 1]
            else:
                above = steps[plane, r - 1]
                target[0] = row[0] - above[0]
                for k in range(1, row.size):
                    target[k] = row[k] - row[k - 1] - above[k] + above[k - 1]


@njit(cache=True, nogil=True)
def _interleaved(steps, out):  # type: ignore[no-untyped-def]  # pragma: no cover
    for n in range(out.shape[0]):
        for r in range(out.shape[1]):
            for k in range(out.shape[2]):
                for c in range(3):
                    out[n, r, k, c] = steps[n, c, r, k]


@njit(cache=True, nogil=True, fastmath={"contract"})
def _scale(steps, offset, step, out):  # type: ignore[no-untyped-def]  # pragma: no cover
    for r in range(out.shape[0]):
        row, target = steps[r], out[r]
        for i in range(offset.size):
            target[i] = offset[i] + step * np.float32(row[i])


@njit(cache=True, nogil=True, fastmath={"contract"})
def _decode(stored, offset, step, out):  # type: ignore[no-untyped-def]  # pragma: no cover
    columns = stored.shape[2]
    down = np.zeros((3, columns), np.uint16)
    row = np.empty(3 * columns, np.uint16)
    for r in range(out.shape[0]):
        for c in range(3):
            total, new = down[c], stored[c, r]
            for k in range(columns):
                total[k] += new[k]
        x = y = z = np.uint16(0)
        for k in range(columns):
            x, y, z = np.uint16(x + down[0, k]), np.uint16(y + down[1, k]), np.uint16(z + down[2, k])
            row[3 * k], row[3 * k + 1], row[3 * k + 2] = x, y, z
        target = out[r]
        for i in range(offset.size):
            target[i] = offset[i] + step * np.float32(row[i])
