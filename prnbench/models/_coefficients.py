"""A face model as coefficient networks see it: whitened modes without units, and frames from the face to the crop.

A face is (v - centre) / size of its vertices v: the centroid of the mean landmarks is the origin, their larger side
is 1. A frame (3, 4) takes such a face to the crop, x and y in crop sides (0..1), y down, z in the same unit. So numbers
that a network has to learn depend neither on the face model's unit nor on the picture's size.

Shapes: B batch, V vertices, N some of them, K coefficients (shape, then expression).
"""

# ruff: noqa: N815 -- fields carry their shape in the name

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prnbench.geometry import box_of
from prnbench.morphable import MorphableModel

Float32 = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Modes:
    """The first modes of a face model; coefficients are in standard deviations.

    Attributes
    ----------
    model
        Where they come from.
    mean_V3
        The mean face.
    basis_KV3
        Displacement of the face for a coefficient of 1.
    shape_count, expression_count
        How many of the K there are of each.
    whitening_shape, whitening_expression
        (K_shape, Ni), (K_expression, Ne): take the model's own coefficients to these.
    """

    model: MorphableModel
    mean_V3: Float32
    basis_KV3: Float32
    shape_count: int
    expression_count: int
    whitening_shape: Float32
    whitening_expression: Float32
    _tensors: dict[tuple[str, torch.device], Tensor] = field(default_factory=dict, repr=False)

    @property
    def count(self) -> int:
        """K."""
        return self.shape_count + self.expression_count

    @property
    def centre(self) -> NDArray[np.float64]:
        """(3,) origin of the face in the model's space."""
        return centre_and_size(self.model)[0]

    @property
    def size(self) -> float:
        """Unit of the face in the model's unit."""
        return centre_and_size(self.model)[1]

    def coefficients(self, shape_BN: Tensor, expression_BE: Tensor) -> Tensor:
        """(B, K) of the face model's own coefficients; what is missing at their end is zero."""
        parts = (("whitening_shape", shape_BN), ("whitening_expression", expression_BE))
        return torch.cat([own @ self._on(name, own)[:, : own.shape[1]].T for name, own in parts], dim=1)

    def vertices(self, coefficients_BK: Tensor, ids: Tensor | None = None) -> Tensor:
        """Faces (B, V, 3), or (B, N, 3) of these vertex ids."""
        mean, basis = self._on("mean_V3", coefficients_BK), self._on("basis_KV3", coefficients_BK)
        if ids is not None:
            mean, basis = mean[ids], basis[:, ids]
        return mean + (coefficients_BK @ basis.reshape(len(basis), -1)).reshape(-1, *mean.shape)

    def norms(self, like: Tensor, ids: Tensor) -> Tensor:
        """(K,) length of each mode over the vertices with these ids."""
        lengths: Tensor = self._on("basis_KV3", like)[:, ids].flatten(1).norm(dim=1)
        return lengths

    def _on(self, name: str, like: Tensor) -> Tensor:
        key = name, like.device
        if key not in self._tensors:
            self._tensors[key] = torch.from_numpy(np.ascontiguousarray(getattr(self, name))).to(like.device)
        return self._tensors[key]


@lru_cache(maxsize=8)
def modes_of(model: MorphableModel, shape: int | None = None, expression: int | None = None) -> Modes:
    """The first ``shape`` and ``expression`` modes of a face model (None: all that move something).

    Where it has fewer, modes that move nothing fill the place, so that a network's outputs fit any face model.

    Principal components are taken as they come. Named blend shapes have no order, so theirs is the order of the
    principal components of blend shapes used independently (10 of the built-in head's 29 hold 97 % of the variance).
    """
    _, size = centre_and_size(model)
    shapes, to_shape = _principal(model.identity, model.identity_std, shape, model.identity_names is not None)
    moods, to_mood = _principal(model.expression, model.expression_std, expression, model.expression_names is not None)
    basis = np.concatenate([shapes, moods], axis=1).T.reshape(-1, model.vertex_count, 3) / np.float32(size)
    mean = (model.mean - centre_and_size(model)[0]) / size
    counts = shapes.shape[1], moods.shape[1]
    return Modes(model, mean.astype(np.float32), basis.astype(np.float32), *counts, to_shape, to_mood)


def centre_and_size(model: MorphableModel) -> tuple[NDArray[np.float64], float]:
    """Centroid of the mean landmarks (3,) and the larger side of their box, in the model's unit."""
    landmarks = model.mean[model.landmarks].astype(np.float64)
    left, bottom, right, top = box_of(landmarks)
    return landmarks.mean(axis=0), float(max(right - left, top - bottom))


@lru_cache(maxsize=8)
def face_vertices(model: MorphableModel) -> NDArray[np.int64]:
    """Ids of the vertices in the face area of the model's chart."""
    from prnbench.uv import chart_of, face_area

    inside = np.zeros((256, 256, 1), np.float32)
    inside.reshape(-1)[face_area(model, chart_of(model), 256)] = 1
    share = chart_of(model).raster(256).vertices(inside)[:, 0]
    return np.flatnonzero(np.nan_to_num(share) > 0.5)


def _principal(modes: Float32, std: Float32, count: int | None, mix: bool) -> tuple[Float32, Float32]:
    """Whitened modes (3V, K) and the matrix (K, N) from the model's own coefficients to theirs."""
    used = np.flatnonzero(std > 0)
    scaled = modes[:, used] * std[used]
    asked = len(used) if count is None else count
    count = min(asked, len(used))
    turn = np.eye(len(used), dtype=np.float32)
    if mix and count < len(used):
        variances, vectors = np.linalg.eigh(scaled.T.astype(np.float64) @ scaled)
        turn = vectors[:, np.argsort(-variances)].astype(np.float32)
    whitening, mixed = np.zeros((asked, modes.shape[1]), np.float32), np.zeros((len(modes), asked), np.float32)
    whitening[:count, used] = turn[:, :count].T / std[used]
    mixed[:, :count] = scaled @ turn[:, :count]
    return mixed, whitening


def frame_of(modes: Modes, camera_B34: Tensor, crop_B23: Tensor, resolution: int) -> Tensor:
    """Frames (B, 3, 4) from the face to the crop, of cameras (model space to original pixels) and crops; z from 0."""
    scale = torch.linalg.det(crop_B23[:, :, :2]).abs().sqrt()
    affine = torch.zeros_like(camera_B34[:, :, :3])
    affine[:, :2, :2], affine[:, 2, 2] = crop_B23[:, :, :2], scale
    moved = affine @ camera_B34
    centre = torch.from_numpy(modes.centre).to(moved)
    shift = moved[:, :, 3] + moved[:, :, :3] @ centre
    place = torch.cat([shift[:, :2] + crop_B23[:, :, 2], torch.zeros_like(shift[:, 2:])], dim=1)
    return torch.cat([moved[:, :, :3] * modes.size, place[:, :, None]], dim=2) / resolution


def placed(faces_BN3: Tensor, frame_B34: Tensor) -> Tensor:
    """Faces (B, N, 3) in the crop, in crop sides."""
    return torch.baddbmm(frame_B34[:, None, :, 3], faces_BN3, frame_B34[:, :, :3].transpose(1, 2))
