"""defa: DeFA, pose and all coefficients of a face model from one CNN, taught by landmarks, contour and pairs of views.

Liu, Jourabloo, Ren, Liu: Dense Face Alignment (ICCV Workshops 2017).

Shapes: B batch, K coefficients, P = 8 + K parameters: the first two rows of the frame (see
:mod:`prnbench.models._coefficients`), then coefficients in standard deviations. N vertices, D directions.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 -- its usual name

from prnbench.data.transforms import FaceBatch, moved_to_original
from prnbench.models import _weights
from prnbench.models._coefficients import face_vertices, frame_of, modes_of
from prnbench.models._network import NetworkPredictor, check_face_model, load_network, network_card
from prnbench.models.tddfa import Decoder, crop, posed, whitening
from prnbench.morphable import MorphableModel
from prnbench.sample import Prediction

__all__ = ["NEEDS", "RESOLUTION", "STEP", "build", "crop", "network", "objective"]

PAPER = (
    "Liu, Jourabloo, Ren, Liu: Dense Face Alignment, ICCV Workshops 2017 (parameters of pose, 199 shape and 29 "
    "expression modes; landmark fitting, contour fitting and SIFT pairing constraints)"
)
NEEDS, RESOLUTION, STEP = ("pose_params",), 96, 16
POSE = 8
LAYERS = ((32, 64), (64, 128), (96, 192), (128, 256), (160, 320))
"""Channels of the two convolutions at each size, those of CASIA-Net (Yi et al. 2014)."""
DIRECTIONS, EVERY, PAIRED = 64, 4, 500
"""Directions of the contour; one face vertex in so many can be its extreme point; vertices compared between views."""


class DefaNetwork(nn.Module):
    """Ten 3x3 convolutions with batch norm, halved after every second, then a mean over the places and one layer.

    Parameters
    ----------
    seed
        Of the initial values.
    shape, expression
        Coefficients to give: all that the face model has in the paper.
    width
        Factor of all channels.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, seed: int = 0, shape: int = 199, expression: int = 29, width: float = 1.0):
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for level, pair in enumerate(LAYERS):
            for wide in (int(count * width) for count in pair):
                layers += [nn.Conv2d(channels, wide, 3, padding=1, bias=False), nn.BatchNorm2d(wide), nn.ReLU()]
                channels = wide
            if level < len(LAYERS) - 1:
                layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.fc = nn.Linear(channels, POSE + shape + expression)
        self.sizes = shape, expression
        mean, std = (values[:POSE] for values in whitening())
        self.register_buffer("mean", F.pad(mean, (0, shape + expression)))
        self.register_buffer("std", F.pad(std, (0, shape + expression), value=1.0))
        generator = torch.Generator().manual_seed(seed)
        for module in self.features:
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
        nn.init.normal_(self.fc.weight, 0, 1e-3, generator=generator)
        nn.init.zeros_(self.fc.bias)

    def forward(self, image_B3RR: Tensor) -> Tensor:
        """Images (B, 3, R, R) in 0..1 to parameters (B, P)."""
        white = self.fc(self.features(image_B3RR - 0.5).mean(dim=(2, 3)))
        parameters: Tensor = white.float() * self.std + self.mean
        return parameters


def network(seed: int = 0, **options: Any) -> DefaNetwork:
    """The network to train; see :class:`DefaNetwork`."""
    return DefaNetwork(seed, **options)


def with_depth(parameters_BP: Tensor) -> Tensor:
    """Parameters (B, 12 + K) with the frame's third row: perpendicular to the others and of their mean length.

    y points down in the crop, so the row towards the camera is minus the cross product.
    """
    rows = parameters_BP[:, :POSE].reshape(-1, 2, 4)
    across, down = rows[:, 0, :3], rows[:, 1, :3]
    length = (across.norm(dim=1) * down.norm(dim=1)).clamp(min=1e-12).sqrt()
    depth = F.pad(-torch.linalg.cross(across, down) / length[:, None], (0, 1))
    return torch.cat([parameters_BP[:, :POSE], depth, parameters_BP[:, POSE:]], dim=1)


class DefaObjective:
    """Sum of squared errors of parameters, landmarks, contour and pairs of views, lengths in crop sides.

    Parameters
    ----------
    face_model
        The data's face model.
    parameters
        Weight of the whitened parameters.
    landmarks
        Weight of the 68 landmarks (landmark fitting constraint).
    contour
        Weight of the outline of the face area (contour fitting constraint): each true contour point looks for the
        nearest predicted one. A contour point is the vertex farthest in one of 64 directions.
    pairing
        Weight of pairs of views (after the SIFT pairing constraint): a vertex lies at one place of the original
        picture, whichever view it was found in. Counts where the data module gives ``views = 2``.
    shape, expression
        Coefficients that the network gives.
    """

    def __init__(
        self,
        face_model: MorphableModel,
        parameters: float = 0.01,
        landmarks: float = 100.0,
        contour: float = 10.0,
        pairing: float = 10.0,
        shape: int = 199,
        expression: int = 29,
    ):
        self.modes = modes_of(face_model, shape, expression)
        self.weights = {"parameters": parameters, "landmarks": landmarks, "contour": contour, "pairing": pairing}
        self.landmark_ids = torch.from_numpy(face_model.landmarks.astype(np.int64))
        self.face_ids = torch.from_numpy(face_vertices(face_model)[::EVERY])
        self.std = F.pad(whitening()[1][:POSE], (0, self.modes.count), value=1.0)
        angle = torch.arange(DIRECTIONS) * (2 * torch.pi / DIRECTIONS)
        self.directions_2D = torch.stack([angle.cos(), angle.sin()])

    def loss(self, raw_BP: Tensor, batch: FaceBatch) -> dict[str, Tensor]:
        """``loss`` and its terms."""
        frame = frame_of(self.modes, batch.camera_B34, batch.crop_B23, batch.image_BRR3.shape[1])
        true = torch.cat([frame.flatten(1), self.modes.coefficients(batch.shape_BN, batch.expression_BE)], dim=1)
        found, device = with_depth(raw_BP), raw_BP.device
        wrong = (raw_BP - torch.cat([true[:, :POSE], true[:, 12:]], dim=1)) / self.std.to(device)
        terms = {"parameters": wrong.square().sum(dim=1).mean()}
        ids = self.landmark_ids.to(device)
        apart = posed(self.modes, found, ids)[..., :2] - posed(self.modes, true, ids)[..., :2]
        terms["landmarks"] = apart.square().sum(dim=2).mean()
        terms["contour"] = self._contour_error(found, true)
        if len(batch.index_B) % 2 == 0 and torch.equal(batch.index_B[::2], batch.index_B[1::2]):
            terms["pairing"] = self._pair_error(found, batch)
        total = sum((self.weights[name] * value for name, value in terms.items()), raw_BP.new_zeros(()))
        return {"loss": total, **terms}

    def landmarks(self, raw_BP: Tensor, batch: FaceBatch) -> Tensor:
        """Predicted landmarks (B, 68, 3) in original pixels, z from their centroid."""
        points = posed(self.modes, with_depth(raw_BP), self.landmark_ids.to(raw_BP.device))
        return moved_to_original(points * batch.image_BRR3.shape[1], batch.crop_B23)

    def contour(self, parameters_BP: Tensor) -> Tensor:
        """Vertices (B, D, 2) of the face area that lie farthest in each direction."""
        points = posed(self.modes, parameters_BP, self.face_ids.to(parameters_BP.device))[..., :2]
        farthest = (points.detach() @ self.directions_2D.to(points)).argmax(dim=1)
        return points.gather(1, farthest[..., None].expand(-1, -1, 2))

    def _contour_error(self, found: Tensor, true: Tensor) -> Tensor:
        wanted, have = self.contour(true), self.contour(found)
        apart = (wanted[:, :, None] - have[:, None]).square().sum(dim=3)
        return apart.amin(dim=2).mean()

    def _pair_error(self, found: Tensor, batch: FaceBatch) -> Tensor:
        ids = self.face_ids[torch.linspace(0, len(self.face_ids) - 1, PAIRED).long()].to(found.device)
        side = batch.image_BRR3.shape[1]
        points = moved_to_original(posed(self.modes, found, ids) * side, batch.crop_B23)[..., :2]
        scale = torch.linalg.det(batch.crop_B23[::2, :, :2]).abs()[:, None, None] / side**2
        error: Tensor = ((points[::2] - points[1::2]).square() * scale).sum(dim=2).mean()
        return error


def objective(face_model: MorphableModel, **options: Any) -> DefaObjective:
    """What training asks of the network; see :class:`DefaObjective`."""
    return DefaObjective(face_model, **options)


def build(weights: Path | None = None, device: str = "cpu", face_model: str | Path | None = None) -> NetworkPredictor:
    """Build DeFA from a weights file, the shipped weights, or (untrained) seeded initial values.

    Raises
    ------
    WeightsError
        The weights do not fit the network, or belong to another face model.
    """
    from prnbench.facemodel import load_face_model

    model = load_face_model(face_model)
    net, loaded = load_network("defa", network, weights)
    check_face_model(model, loaded)
    assert isinstance(net, DefaNetwork)
    side = _weights.trained_resolution(loaded, RESOLUTION)
    decoder = Decoder(modes_of(model, *net.sizes), side)

    def decode(raw_P: NDArray[np.float32], affine: NDArray[np.float64]) -> Prediction:
        return decoder(with_depth(torch.from_numpy(raw_P[None])).numpy(), affine)

    card = network_card(
        net,
        side,
        loaded,
        name="defa",
        title="DeFA",
        paper=PAPER,
        offers=("landmarks", "vertices", "pose"),
        notes=(
            "parameters and MACs were not published; the layers are those of CASIA-Net with batch norm",
            "left out of the paper: contours found in images (here the outline of the true mesh), SIFT matches between "
            "different photographs (here vertices between two augmented views of one), training on sets with "
            "6, 21 or 34 landmarks",
            "z is known up to a shift (here from the centroid of the landmarks)",
        ),
    )
    return NetworkPredictor(net, card, crop, side, decode, model, device)
