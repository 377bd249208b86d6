"""UvBasis: mean and modes of a face model per texel, so that a batch of position maps is one matrix product.

Vertices are linear in the coefficients and a map is linear in the vertices, so a map is linear in the coefficients:
map = A (basis c) + t with c = (1, shape, expression), and pose, pixel convention and crop in one affine A, t per
face. Kept in chunks of some thousand columns, each is multiplied and posed while it is in the processor's cache.

Shapes: N faces, K coefficients, R resolution, T texels of a chunk.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

from prnbench.geometry import rotation_from_euler
from prnbench.morphable import MorphableModel
from prnbench.uv.raster import ChartRaster, Float32

if TYPE_CHECKING:
    import torch

CHUNK_TEXELS = 2048
SMALL_BATCH = 16
"""Below this many faces the packing of a BLAS product costs more than a plain blocked loop."""
_OFFSETS = {"exact": (-1.0, 0.0), "face3d": (0.0, -1.0), "annotation": (0.0, 1.0)}


class UvBasis:
    """Position maps of a morphable model straight from its parameters.

    Parameters
    ----------
    model
        The face model.
    raster
        Its chart at the wanted resolution.
    """

    def __init__(self, model: MorphableModel, raster: ChartRaster):
        self.resolution = raster.resolution
        self.shape_modes = model.identity.shape[1]
        self.expression_modes = model.expression.shape[1]
        self._model_name = model.name
        self._chunks_CK3T = _chunks(model, raster)

    def position_maps(
        self,
        shape: ArrayLike,
        expression: ArrayLike,
        pose: ArrayLike,
        height: ArrayLike,
        *,
        crop: ArrayLike | None = None,
        convention: str = "exact",
    ) -> Float32:
        """Position maps of N faces in image pixels.

        Parameters
        ----------
        shape, expression
            (N, Ni'), (N, Ne') coefficients; missing ones at the end are zero.
        pose
            (N, 7) pitch, yaw, roll (rad), tx, ty, tz, scale: V = s R S + t in the 1-based y-up frame.
        height
            Image height(s) in pixels, a number or (N,).
        crop
            (2, 3) or (N, 2, 3) similarity from image to crop pixels; z is multiplied by its scale.
        convention
            Pixel convention of the values, see :func:`prnbench.geometry.to_image`.

        Returns
        -------
        (N, R, R, 3) float32, row = v, column = u.
        """
        coefficients = self.coefficients(shape, expression)
        linear, shift = image_affine(pose, height, crop=crop, convention=convention)
        return self.maps(coefficients, linear, shift)

    def coefficients(self, shape: ArrayLike, expression: ArrayLike) -> Float32:
        """(N, K) float32: 1, the shape and the expression coefficients, padded with zeros.

        Raises
        ------
        FaceModelError
            More coefficients than modes.
        """
        parts = (("shape", shape, self.shape_modes), ("expression", expression, self.expression_modes))
        padded = [
            _padded(np.asarray(values, np.float32), modes, what, self._model_name) for what, values, modes in parts
        ]
        ones = np.ones((len(padded[0]), 1), np.float32)
        return np.concatenate([ones, *padded], axis=1)

    def maps(self, coefficients: Float32, linear: NDArray[Any], shift: NDArray[Any]) -> Float32:
        """Maps (N, R, R, 3) of coefficients (N, K), each moved by its (3, 3) matrix and (3,) shift."""
        N, R = len(coefficients), self.resolution
        linear, shift = np.ascontiguousarray(linear, np.float32), np.ascontiguousarray(shift, np.float32)
        out = np.empty((N, R * R, 3), np.float32)
        for first, planes_N3T in self.planes(coefficients):
            _pose(planes_N3T, linear, shift, first, out)
        return out.reshape(N, R, R, 3)

    def planes(self, coefficients: Float32) -> Iterator[tuple[int, Float32]]:
        """Maps of coefficients (N, K) in model space, piece by piece: the first texel and (N, 3, T) x, y, z.

        The next piece overwrites the array. Texels count along rows; of the last piece some may lie beyond R * R.
        """
        N = len(coefficients)
        C, K, _, T = self._chunks_CK3T.shape
        small = 1 < N < SMALL_BATCH
        mixed = np.zeros((N + -N % 4 if small else N, K), np.float32)
        mixed[:N, : coefficients.shape[1]] = coefficients
        planes = np.empty((len(mixed), 3 * T), np.float32)
        for number, chunk in enumerate(self._chunks_CK3T.reshape(C, K, 3 * T)):
            if small:
                _mix(mixed, chunk, planes)
            else:
                np.matmul(mixed, chunk, out=planes)
            yield number * T, planes.reshape(-1, 3, T)[:N]

    def to_torch(self, device: str | torch.device = "cpu") -> TorchUvBasis:
        """The same basis as tensors on a device."""
        return TorchUvBasis(self, device)


class TorchUvBasis:
    """:class:`UvBasis` on a torch device: one matrix product and one batched 3 x 3 product.

    The product runs in float32; with TF32 allowed (``torch.set_float32_matmul_precision``) maps lose digits.
    """

    def __init__(self, basis: UvBasis, device: str | torch.device = "cpu"):
        import torch

        C, _, _, T = basis._chunks_CK3T.shape
        K = 1 + basis.shape_modes + basis.expression_modes
        self.resolution = R = basis.resolution
        planes = np.moveaxis(basis._chunks_CK3T[:, :K], 0, 2).reshape(K, 3, C * T)[:, :, : R * R]
        self._basis = basis
        self._flat_KX = torch.from_numpy(np.ascontiguousarray(planes).reshape(K, -1)).to(device)

    def position_maps(
        self,
        shape: ArrayLike,
        expression: ArrayLike,
        pose: ArrayLike,
        height: ArrayLike,
        *,
        crop: ArrayLike | None = None,
        convention: str = "exact",
    ) -> torch.Tensor:
        """As :meth:`UvBasis.position_maps`: (N, R, R, 3) on the device, a view of channels-first memory."""
        linear, shift = image_affine(pose, height, crop=crop, convention=convention)
        return self.maps(self._tensor(self._basis.coefficients(shape, expression)), *map(self._tensor, (linear, shift)))

    def maps(self, coefficients: torch.Tensor, linear: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        """As :meth:`UvBasis.maps`, differentiable; ``permute(0, 3, 1, 2)`` gives contiguous (N, 3, R, R)."""
        planes = (coefficients @ self._flat_KX).reshape(len(coefficients), 3, -1)
        posed = linear @ planes + shift[:, :, None]
        return posed.reshape(len(coefficients), 3, self.resolution, self.resolution).permute(0, 2, 3, 1)

    def _tensor(self, values: NDArray[Any]) -> torch.Tensor:
        import torch

        return torch.as_tensor(values, dtype=torch.float32).to(self._flat_KX.device)


def image_affine(
    pose: ArrayLike, height: ArrayLike, *, crop: ArrayLike | None = None, convention: str = "exact"
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Model space to image (or crop) pixels as (N, 3, 3) matrices and (N, 3) shifts.

    The same map as ``project``, ``to_image`` and ``transform_points`` of :mod:`prnbench.geometry` one after another.
    """
    params = np.atleast_2d(np.asarray(pose, np.float64))
    linear = params[:, 6, None, None] * rotation_from_euler(params[:, :3])
    shift = params[:, 3:6].copy()
    dx, dy = _OFFSETS[convention]
    linear[:, 1] *= -1.0
    shift[:, 0] += dx
    shift[:, 1] = np.asarray(height, np.float64) + dy - shift[:, 1]
    if crop is None:
        return linear, shift
    affine = np.broadcast_to(np.asarray(crop, np.float64), (len(params), 2, 3))
    full = np.zeros((len(params), 3, 3))
    full[:, :2, :2] = affine[:, :, :2]
    full[:, 2, 2] = np.sqrt(np.abs(np.linalg.det(affine[:, :, :2])))
    moved = np.einsum("nij,nj->ni", full, shift)
    moved[:, :2] += affine[:, :, 2]
    return full @ linear, moved


def _padded(values: Float32, modes: int, what: str, model: str) -> Float32:
    from prnbench.errors import FaceModelError

    if values.shape[1] > modes:
        raise FaceModelError(
            f"{values.shape[1]} {what} coefficients for the {modes} {what} modes of {model}",
            remedy="give the face model that the coefficients were made with",
        )
    return np.pad(values, ((0, 0), (0, modes - values.shape[1])))


def _chunks(model: MorphableModel, raster: ChartRaster) -> Float32:
    """(C, K, 3, T) float32: mean and modes at the texels, in pieces that stay in the cache; K a multiple of 4."""
    texels, T = raster.resolution**2, min(CHUNK_TEXELS, raster.resolution**2)
    K = 1 + model.identity.shape[1] + model.expression.shape[1]
    C = -(-texels // T)
    chunks = np.zeros((C, K + -K % 4, 3, T), np.float32)
    plane = np.zeros((3, C * T), np.float32)
    fields = [model.mean, *model.identity.T, *model.expression.T]
    for row, field in enumerate(fields):
        plane[:, :texels] = raster.position_map(field.reshape(-1, 3)).reshape(-1, 3).T
        chunks[:, row] = plane.reshape(3, C, T).swapaxes(0, 1)
    return chunks


@njit(nogil=True, cache=True, fastmath=True)
def _mix(coefficients, rows, out):  # type: ignore[no-untyped-def]
    """Out (N, X) = coefficients (N, K) @ rows (K, X), four faces and four rows at a time; N, K multiples of 4."""
    for n in range(0, out.shape[0], 4):
        o0, o1, o2, o3 = out[n], out[n + 1], out[n + 2], out[n + 3]
        out[n : n + 4] = 0.0
        for k in range(0, rows.shape[0], 4):
            r0, r1, r2, r3 = rows[k], rows[k + 1], rows[k + 2], rows[k + 3]
            a, b = coefficients[n, k : k + 4], coefficients[n + 1, k : k + 4]
            c, d = coefficients[n + 2, k : k + 4], coefficients[n + 3, k : k + 4]
            a0, a1, a2, a3 = a[0], a[1], a[2], a[3]
            b0, b1, b2, b3 = b[0], b[1], b[2], b[3]
            c0, c1, c2, c3 = c[0], c[1], c[2], c[3]
            d0, d1, d2, d3 = d[0], d[1], d[2], d[3]
            for x in range(rows.shape[1]):
                p0, p1, p2, p3 = r0[x], r1[x], r2[x], r3[x]
                o0[x] += a0 * p0 + a1 * p1 + a2 * p2 + a3 * p3
                o1[x] += b0 * p0 + b1 * p1 + b2 * p2 + b3 * p3
                o2[x] += c0 * p0 + c1 * p1 + c2 * p2 + c3 * p3
                o3[x] += d0 * p0 + d1 * p1 + d2 * p2 + d3 * p3


@njit(nogil=True, cache=True)
def _pose(planes, linear, shift, first, out):  # type: ignore[no-untyped-def]
    texels = min(planes.shape[2], out.shape[1] - first)
    for n in range(out.shape[0]):
        a, b, c = linear[n, 0], linear[n, 1], linear[n, 2]
        dx, dy, dz = shift[n, 0], shift[n, 1], shift[n, 2]
        px, py, pz = planes[n, 0], planes[n, 1], planes[n, 2]
        target = out[n]
        for t in range(texels):
            x, y, z = px[t], py[t], pz[t]
            target[first + t, 0] = a[0] * x + a[1] * y + a[2] * z + dx
            target[first + t, 1] = b[0] * x + b[1] * y + b[2] * z + dy
            target[first + t, 2] = c[0] * x + c[1] * y + c[2] * z + dz
