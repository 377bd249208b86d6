"""Position maps as integers: uint16 steps and a 2-D delta that compresses losslessly, undone in one fused loop.

``stored[c, r, k]`` is the 2-D difference (modulo 2^16) of ``q[c, r, k] = round((map[r, k, c] - offset[c]) / step)``.
Without this module: ``q = stored.cumsum(1, dtype="uint16").cumsum(2, dtype="uint16")`` and
``map = (offset[:, None, None] + step * q).transpose(1, 2, 0)``.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from prnbench.errors import SampleError

STEPS_PER_CROP_PIXEL = 128
"""Quantisation steps per pixel of the 256-pixel crop frame: the largest error is 1/256 = 0.0039 crop pixels."""

Float32 = NDArray[np.float32]


def quantisation_step(box_px: Float32) -> float:
    """Step in original pixels that is 1/128 px in PRN's 256-pixel training crop (side 1.5 (w + h) / 2)."""
    left, top, right, bottom = (float(value) for value in box_px)
    size = 1.5 * (right - left + bottom - top) / 2
    return max(size, 1.0) / 255 / STEPS_PER_CROP_PIXEL


def encode_map(position_map: Float32, step: float, name: str = "position map") -> tuple[NDArray[np.uint16], Float32]:
    """Quantise a (R, R, 3) map: (3, R, R) uint16 2-D differences and (3,) offsets.

    Raises
    ------
    SampleError
        The map is not finite, or it spans more than 65,535 steps.
    """
    low = _checked_low(position_map, step, name)
    return _encode(position_map, low.astype(np.float64), 1.0 / step), low


def _checked_low(position_map: Float32, step: float, name: str) -> Float32:
    """Least value of each channel (3,), if the map is finite and its steps fit 16 bits."""
    low: Float32 = position_map.min(axis=(0, 1)).astype(np.float32)
    span = float((position_map.max(axis=(0, 1)) - low).max())
    if not np.isfinite(span):
        raise SampleError("the position map is not finite", file=name, remedy="check the parameters of this face")
    if span / step > 65535:
        raise SampleError(
            f"the position map spans {span:.0f} px, {span / step:.0f} steps of {step:.2g} px; 65535 fit",
            file=name,
            remedy="check that the pose and parameters belong to this face model",
        )
    return low


def quantise_map(position_map: Float32, step: float, name: str = "position map") -> tuple[NDArray[np.uint16], Float32]:
    """As :func:`encode_map`, but (R, R, 3) uint16 steps without the delta: larger, and faster to read."""
    low = _checked_low(position_map, step, name)
    steps = np.floor((position_map - low.astype(np.float64)) * (1.0 / step) + 0.5)
    return steps.astype(np.uint16), low


def decode_map(stored: NDArray[np.uint16], offset: Float32, step: float) -> Float32:
    """Undo :func:`encode_map`: (R, R, 3) float32."""
    out: Float32 = _decode(stored, offset.astype(np.float64), float(step))
    return out


def scaled_steps(steps: NDArray[np.uint16], offset: Float32, step: float) -> Float32:
    """Undo :func:`quantise_map`: (R, R, 3) float32."""
    out: Float32 = _scale(steps, offset.astype(np.float64), float(step))
    return out


@njit(cache=True, nogil=True)
def _scale(steps, offset, step):  # type: ignore[no-untyped-def]  # pragma: no cover
    out = np.empty(steps.shape, np.float32)
    flat, values = steps.reshape(-1, 3), out.reshape(-1, 3)
    for i in range(flat.shape[0]):
        for c in range(3):
            values[i, c] = np.float32(offset[c] + step * flat[i, c])
    return out


@njit(cache=True, nogil=True)
def _encode(position_map, offset, steps_per_unit):  # type: ignore[no-untyped-def]  # pragma: no cover
    rows, columns, channels = position_map.shape
    out = np.empty((channels, rows, columns), np.uint16)
    above = np.empty(columns, np.uint16)
    for c in range(channels):
        above[:] = 0
        for r in range(rows):
            left = np.uint16(0)
            left_above = np.uint16(0)
            for k in range(columns):
                q = np.uint16(np.floor((position_map[r, k, c] - offset[c]) * steps_per_unit + 0.5))
                up = above[k]
                out[c, r, k] = np.uint16(q - left - up + left_above)
                left_above = up
                above[k] = q
                left = q
    return out


@njit(cache=True, nogil=True)
def _decode(stored, offset, step):  # type: ignore[no-untyped-def]  # pragma: no cover
    channels, rows, columns = stored.shape
    out = np.empty((rows, columns, channels), np.float32)
    above = np.empty((channels, columns), np.uint16)
    above[:] = 0
    for r in range(rows):
        for c in range(channels):
            run = np.uint16(0)
            base = offset[c]
            for k in range(columns):
                run = np.uint16(run + stored[c, r, k])
                q = np.uint16(above[c, k] + run)
                above[c, k] = q
                out[r, k, c] = np.float32(base + step * q)
    return out
