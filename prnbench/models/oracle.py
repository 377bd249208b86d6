"""oracle: the morphable model's best fit to the ground truth, the ceiling of every coefficient regressor.

It is no method: it looks at the ground truth and never at the image. Its error is what the face model cannot say with
the coefficients a regressor uses (here all 199 shape and 29 expression modes; ``oracle_100_29`` and ``oracle_40_10``
are the smaller sets of 2DASL/SynergyNet and of 3DDFA).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from prnbench.errors import SampleError, UsageError
from prnbench.facemodel import load_face_model
from prnbench.geometry import euler_from_rotation, similarity_alignment
from prnbench.models import ModelCard
from prnbench.models._coefficients import Modes, modes_of
from prnbench.morphable import MorphableModel
from prnbench.sample import Prediction, Sample
from prnbench.uv import UvChart, chart_of, face_area

PAPER = "none: the least-squares fit of the face model to the ground truth, a ceiling and no method"
ROUNDS, TOLERANCE = 20, 1e-5
"""Pose and coefficients are fitted until no point moves by more than this share of the face."""
SHARES = (1.0, 0.5, 0.25, 0.1, 0.02)
"""Shares of a Gauss-Newton step that are tried until one lowers the cost: far from the fit a whole one overshoots."""
RIDGE = 1e-11
"""Weight of the squared coefficients (in standard deviations) against the mean squared distance in face sizes."""

EVERY = 4
"""Of the face area's texels, one in this many is fitted to: ten thousand equations in three dimensions are plenty."""

Array = NDArray[np.float64]


class Fit:
    """Least squares of pose and coefficients to points that are linear in the coefficients.

    Each round solves for the coefficients together with small changes of the pose (Gauss-Newton, normal equations with
    ``RIDGE``), then takes the best similarity for the new face (Umeyama 1991). Without the pose in the first step the
    two would wait for each other for hundreds of rounds.

    Parameters
    ----------
    mean_N3, basis_KN3
        The points of the mean face, and what a coefficient of 1 adds to them.
    """

    def __init__(self, mean_N3: NDArray[np.float32], basis_KN3: NDArray[np.float32]):
        self.mean_N3 = mean_N3.astype(np.float64)
        self.basis_KX = basis_KN3.reshape(len(basis_KN3), -1).astype(np.float64)
        self._normal = self.basis_KX @ self.basis_KX.T + RIDGE * len(mean_N3) * np.eye(len(basis_KN3))

    def __call__(self, points_N3: Array) -> tuple[Array, tuple[float, Array, Array]]:
        """Coefficients (K,) and similarity (scale, rotation, translation) that come nearest to points (N, 3), y up."""
        coefficients = np.zeros(len(self.basis_KX))
        unit = similarity_alignment(self.mean_N3, points_N3)[0]
        cost, face, back = self._cost(coefficients, points_N3, unit)
        for _ in range(ROUNDS):
            step = self._solved((back - self.mean_N3).ravel(), _tangents(face)) - coefficients
            for share in SHARES:
                tried = self._cost(coefficients + share * step, points_N3, unit)
                if tried[0] < cost:
                    break
            else:
                break
            coefficients, last = coefficients + share * step, face
            cost, face, back = tried
            if np.abs(face - last).max() < TOLERANCE:
                break
        return coefficients, similarity_alignment(face, points_N3)

    def _cost(self, coefficients: Array, points_N3: Array, unit: float) -> tuple[float, Array, Array]:
        """Cost of coefficients under the best similarity, their face (N, 3), and the points moved back to it (N, 3)."""
        face = self.mean_N3 + (coefficients @ self.basis_KX).reshape(-1, 3)
        scale, rotation, shift = similarity_alignment(face, points_N3)
        squared = ((scale * face @ rotation.T + shift - points_N3) ** 2).sum() / unit**2
        ridge = RIDGE * len(face) * float(coefficients @ coefficients)
        return float(squared) + ridge, face, (points_N3 - shift) @ rotation / scale

    def _solved(self, wanted_X: Array, tangents_7X: Array) -> Array:
        """Coefficients (K,) that, with the pose free to first order, give the displacements wanted."""
        across = self.basis_KX @ tangents_7X.T
        normal = np.block([[self._normal, across], [across.T, tangents_7X @ tangents_7X.T]])
        right = np.concatenate([self.basis_KX @ wanted_X, tangents_7X @ wanted_X])
        solved: Array = np.linalg.solve(normal, right)[: len(self.basis_KX)]
        return solved


def _tangents(face_N3: Array) -> Array:
    """(7, 3N) how points move with a small rotation about x, y, z, a change of size, and shifts."""
    x, y, z = face_N3.T
    zero, one = np.zeros_like(x), np.ones_like(x)
    moves = [(zero, -z, y), (z, zero, -x), (-y, x, zero), (x, y, z)]
    moves += [(one, zero, zero), (zero, one, zero), (zero, zero, one)]
    return np.array([np.stack(move, axis=1).ravel() for move in moves])


class OraclePredictor:
    """The fit behind the Predictor methods; ``preprocess_truth`` takes the place of ``preprocess``."""

    def __init__(self, model: MorphableModel, modes: Modes, card: ModelCard):
        self.model, self.modes, self.card = model, modes, card
        self._fits: dict[int, Fit] = {}
        self._texels: dict[int, NDArray[np.int64]] = {}

    @property
    def chart(self) -> UvChart:
        """Chart of the face model."""
        return chart_of(self.model)

    def preprocess(self, image_rgb: NDArray[np.uint8], box_px: ArrayLike) -> tuple[None, Any]:
        """Refuse: a picture alone has no ground truth."""
        raise UsageError(f"{self.card.name} is fitted to the ground truth", remedy="use it in `prnbench evaluate` only")

    def preprocess_truth(self, sample: Sample) -> tuple[None, Sample]:
        """Keep the ground truth."""
        if sample.position_map_px is None and sample.landmarks_px is None:
            raise SampleError("no ground truth to fit to", file=sample.id)
        return None, sample

    def forward(self, batch: None) -> None:
        """Nothing to run."""

    def postprocess(self, raw: None, contexts: Sequence[Sample]) -> list[Prediction]:
        """Fit the face model to each face."""
        return [self._fitted(sample) for sample in contexts]

    def _fitted(self, sample: Sample) -> Prediction:
        upright = np.array([1.0, -1.0, 1.0])
        coefficients, (scale, rotation, shift) = self._fit(sample)(self._truth(sample) * upright)
        face = self.modes.mean_V3 + np.tensordot(coefficients.astype(np.float32), self.modes.basis_KV3, 1)
        vertices = ((scale * face @ rotation.T + shift) * upright).astype(np.float32)
        pose = np.rad2deg(euler_from_rotation(rotation)).astype(np.float32)
        return Prediction(landmarks_px=vertices[self.model.landmarks], vertices_px=vertices, pose_deg=pose)

    def _fit(self, sample: Sample) -> Fit:
        """The fit to this kind of ground truth: a map of some size, or landmarks."""
        side = 0 if sample.position_map_px is None else sample.position_map_px.shape[0]
        if side not in self._fits:
            self._fits[side] = Fit(*map(self._points(side), (self.modes.mean_V3, self.modes.basis_KV3)))
        return self._fits[side]

    def _points(self, side: int) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
        """Function from vertices (..., V, 3) to the points (..., N, 3) that :func:`_truth` gives."""
        if not side:
            return lambda vertices: vertices[..., self.model.landmarks, :]
        raster, texels = self.chart.raster(side), face_area(self.model, self.chart, side)[::EVERY]

        def points(vertices: NDArray[np.float32]) -> NDArray[np.float32]:
            return raster.position_map(vertices).reshape(*vertices.shape[:-2], -1, 3)[..., texels, :]

        self._texels[side] = texels
        return points

    def _truth(self, sample: Sample) -> Array:
        """True points (N, 3) in original pixels."""
        found = sample.landmarks_px
        if sample.position_map_px is not None:
            found = sample.position_map_px.reshape(-1, 3)[self._texels[sample.position_map_px.shape[0]]]
        return np.asarray(found, np.float64)


def build(
    weights: Path | None = None,
    device: str = "cpu",
    face_model: str | Path | None = None,
    shape: int = 199,
    expression: int = 29,
) -> OraclePredictor:
    """Build the oracle of a face model with its first ``shape`` and ``expression`` modes.

    Parameters
    ----------
    weights
        There are none to give.
    device
        Accepted for uniformity.
    face_model
        The face model of the ground truth; None is the built-in head.
    shape, expression
        How many modes are fitted; fewer where the face model has fewer.
    """
    if weights is not None:
        raise UsageError("the oracle has no weights", remedy="leave out --weights")
    model = load_face_model(face_model)
    modes = modes_of(model, shape, expression)
    full = (shape, expression) == (199, 29)
    used = min(shape, int((model.identity_std > 0).sum())), min(expression, int((model.expression_std > 0).sum()))
    card = ModelCard(
        name="oracle" if full else f"oracle_{shape}_{expression}",
        title=f"Oracle {shape}/{expression} (fitted to the ground truth, no method)",
        paper=PAPER,
        trained_on=None,
        licence="MIT",
        offers=("landmarks", "vertices", "pose"),
        notes=(
            "sees the ground truth: the lowest squared error that the face model's modes allow, not a result",
            f"{used[0]} shape and {used[1]} expression modes of {model.name}, a similarity",
            "fitted in 3D to the face area of the true position map, or to the 68 landmarks where there is no map",
        ),
        sees_ground_truth=True,
    )
    return OraclePredictor(model, modes, card)
