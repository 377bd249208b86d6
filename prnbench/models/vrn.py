"""vrn: VRN, the face as a volume of 192 x 192 x 200 voxels from two stacked hourglasses, and VRN-Guided.

Jackson, Bulat, Argyriou, Tzimiropoulos: Large Pose 3D Face Reconstruction from a Single Image via Direct Volumetric CNN
Regression (ICCV 2017).

A voxel (z, y, x) is filled if it lies between the frontmost crossing of the face area's surface with the line of sight
through crop pixel (x, y) and the rearmost crossing of the surface's convex hull, which closes the open back of a face.
Voxels are cubes of one crop pixel; slice z is at depth z - (slices - 1) / 2 from the middle of the face's depth range,
larger towards the camera.

Memory: a volume of 192 x 192 x 200 takes 29.5 MB as float32 and 7.4 MB as bytes, so a batch of 8 needs 236 MB for its
output, as much for its gradient, and about 2.5 GB in all to train.

Shapes: B batch, R side of the crop, D slices.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 -- its usual name

from prnbench import geometry
from prnbench.data.transforms import FaceBatch, moved_to_crop, moved_to_original
from prnbench.models import _weights, fan3d
from prnbench.models._coefficients import centre_and_size, face_vertices
from prnbench.models._network import NetworkPredictor, load_network, network_card
from prnbench.morphable import MorphableModel
from prnbench.sample import Prediction

PAPER = (
    "Jackson, Bulat, Argyriou, Tzimiropoulos: Large Pose 3D Face Reconstruction from a Single Image via Direct "
    "Volumetric CNN Regression, ICCV 2017 (VRN and VRN-Guided; voxel-wise sigmoid cross-entropy)"
)
NEEDS, RESOLUTION, STEP = ("position_map_px",), 192, 64
SLICES, FEATURES, CROP_FACTOR = 200, 256, 1.6
EMPTY = -2.2
"""Logit that training starts with: a tenth of the voxels are filled."""
START_YAW_DEG = (-75, -40, 0, 40, 75)
TEMPLATE_POINTS, TOLERANCE = 600, 1e-3
"""Points of the mean face that are fitted to the surface; they have arrived when none moves by more (face sizes)."""


class Volume(NamedTuple):
    """What the network says.

    Attributes
    ----------
    logits
        (B, D, R, R), positive inside the face.
    heat_maps
        (B, 68, R / 4, R / 4) of the guided variant, else (B, 0, 0, 0).
    """

    logits: Any
    heat_maps: Any


def crop(box_px: ArrayLike, resolution: int = RESOLUTION) -> NDArray[np.float64]:
    """PRNet's square crop, 1.6 times the box, of 192 pixels (the paper states no rule)."""
    return geometry.prn_crop(box_px, factor=CROP_FACTOR, resolution=resolution)


# -- the network


class VRN(nn.Module):
    """Two stacked hourglasses and a rise to the full resolution, a channel for each slice.

    Parameters
    ----------
    seed
        Of the initial values.
    guided
        Find 68 landmarks as heat maps first and hand them on with the image (VRN-Guided).
    slices
        D; 200 in the paper, for 192 pixels.
    features
        256 in the paper.
    """

    def __init__(self, seed: int = 0, guided: bool = False, slices: int = SLICES, features: int = FEATURES):
        super().__init__()
        half, quarter = features // 2, features // 4
        self.guide = fan3d.FAN(1, features) if guided else None
        self.enter = nn.Conv2d(3 + 68 * guided, quarter, 7, 2, 3, bias=False)
        self.norm = nn.BatchNorm2d(quarter)
        self.widen = nn.ModuleList(
            fan3d.MultiScaleBlock(a, b) for a, b in ((quarter, half), (half, half), (half, features))
        )
        self.hourglasses = nn.ModuleList(fan3d.Hourglass(features) for _ in range(2))
        self.between = fan3d.MultiScaleBlock(features, features)
        self.narrow = nn.ModuleList(fan3d.MultiScaleBlock(a, b) for a, b in ((features, half), (half, quarter)))
        self.leave = nn.Conv2d(quarter, slices, 1)
        generator = torch.Generator().manual_seed(seed)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.normal_(self.leave.weight, 0, 1e-2, generator=generator)
        nn.init.constant_(self.leave.get_parameter("bias"), EMPTY)
        if self.guide is not None:
            nn.init.normal_(self.guide.get_submodule("l0").get_parameter("weight"), 0, 1e-2, generator=generator)

    def forward(self, image_B3RR: Tensor) -> Volume:
        """Images (B, 3, R, R) in 0..1 to the volume."""
        x, maps = image_B3RR, image_B3RR.new_zeros(len(image_B3RR), 0, 0, 0)
        if self.guide is not None:
            maps = self.guide(image_B3RR)[:, 0]
            x = torch.cat([x, F.interpolate(maps, scale_factor=4.0, mode="bilinear", align_corners=False)], dim=1)
        x = self.widen[0](F.relu(self.norm(self.enter(x))))
        x = self.widen[2](self.widen[1](F.avg_pool2d(x, 2)))
        x = x + self.hourglasses[0](x)
        x = self.hourglasses[1](self.between(x))
        for block in self.narrow:
            x = F.interpolate(block(x), scale_factor=2.0, mode="bilinear", align_corners=False)
        return Volume(self.leave(F.relu(x)), maps)


def network(seed: int = 0, **options: Any) -> VRN:
    """The network to train; see :class:`VRN`."""
    return VRN(seed, **options)


# -- volumes


def voxelised(
    surface_N3: NDArray[np.floating[Any]], triangles: NDArray[np.int32], resolution: int, slices: int
) -> NDArray[np.uint8]:
    """Volume (D, R, R), 1 inside the face, of a surface in crop pixels (z in the same unit, any origin).

    See the top of this file for the rule: a voxel counts by its centre; where none does, the one behind the front.
    """
    from scipy.spatial import ConvexHull

    from prnbench.render import rasterise

    points = np.array(surface_N3, np.float32)
    points[:, 2] += (slices - 1) / 2 - (points[:, 2].min() + points[:, 2].max()) / 2
    front = rasterise(points, triangles, resolution, resolution)
    behind = rasterise(points * np.array([1, 1, -1], np.float32), ConvexHull(points).simplices, resolution, resolution)
    high = np.where(front.covered, front.depth, -np.inf)
    low = np.minimum(np.where(behind.covered, -behind.depth, np.inf), np.floor(high))
    depth = np.arange(slices)[:, None, None]
    filled: NDArray[np.uint8] = ((depth >= low) & (depth <= high)).astype(np.uint8)
    return filled


def surface_of(
    logits_DRR: NDArray[np.float32], level: float = 0.0
) -> tuple[NDArray[np.float32], NDArray[np.int32]] | None:
    """Vertices (N, 3) in crop pixels (z from the middle slice) and triangles of a volume by marching cubes, or None."""
    from skimage.measure import marching_cubes

    if not logits_DRR.min() < level < logits_DRR.max():
        return None
    padded = np.pad(logits_DRR, 1, constant_values=min(float(logits_DRR.min()), level - 1.0))
    zyx, triangles, _, _ = marching_cubes(padded, level)
    middle = np.array([0.0, 0.0, (logits_DRR.shape[0] - 1) / 2], np.float32)
    return (zyx[:, ::-1] - 1 - middle).astype(np.float32), triangles.astype(np.int32)


# -- what it learns


class VrnObjective:
    """Cross-entropy of every voxel, and of the guided variant's heat maps the squared error.

    Parameters
    ----------
    face_model
        Gives the face area of the chart; the surface is that of the true position map.
    guide
        Weight of the heat maps.
    """

    def __init__(self, face_model: MorphableModel, guide: float = 0.01):
        self.face_model, self.guide = face_model, guide
        self._grids: dict[tuple[int, int], tuple[NDArray[np.int64], NDArray[np.int32]]] = {}

    def loss(self, raw: Volume, batch: FaceBatch) -> dict[str, Tensor]:
        """``loss`` and its terms."""
        target = self.volumes(batch, raw.logits.shape[1]).to(raw.logits)
        terms = {"volume": F.binary_cross_entropy_with_logits(raw.logits, target)}
        total = terms["volume"]
        if raw.heat_maps.shape[1]:
            points = moved_to_crop(batch.landmarks_B683, batch.crop_B23)[..., :2]
            wanted = fan3d.gaussians((points - 1.5) / 4, raw.heat_maps.shape[-1], fan3d.TARGET_SIGMA)
            terms["guide"] = (raw.heat_maps - wanted).square().sum(dim=(2, 3)).mean()
            total = total + self.guide * terms["guide"]
        return {"loss": total, **terms}

    def volumes(self, batch: FaceBatch, slices: int) -> Tensor:
        """True volumes (B, D, R, R) uint8."""
        side = batch.image_BRR3.shape[1]
        texels, triangles = self._grid(batch.position_map_BMM3.shape[1], side)
        surface = batch.position_map_BMM3.flatten(1, 2)[:, texels].float()
        surfaces = moved_to_crop(surface, batch.crop_B23).cpu().numpy()
        return torch.from_numpy(np.stack([voxelised(points, triangles, side, slices) for points in surfaces]))

    def landmarks(self, raw: Volume, batch: FaceBatch) -> Tensor:
        """Predicted landmarks (B, 68, 3) in original pixels; those of an empty volume are all in the crop's middle."""
        logits, maps = raw.logits.cpu().numpy(), raw.heat_maps.cpu().numpy()
        found = [landmarks_of(Volume(*face), self.face_model) for face in zip(logits, maps, strict=True)]
        missing = np.full((68, 3), (batch.image_BRR3.shape[1] - 1) / 2, np.float32)
        points = np.stack([missing if face is None else face for face in found])
        return moved_to_original(torch.from_numpy(points).to(raw.logits), batch.crop_B23)

    def _grid(self, size: int, side: int) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Texels of a map's face area, not many more than twice a crop's pixels a side, and triangles between them."""
        from prnbench.metrics.surface import grid_triangles
        from prnbench.uv import chart_of, face_area

        if (size, side) not in self._grids:
            texels, step = face_area(self.face_model, chart_of(self.face_model), size), max(size // (2 * side), 1)
            row, column = np.divmod(texels, size)
            kept, width = (row % step == 0) & (column % step == 0), -(-size // step)
            triangles = grid_triangles(row[kept] // step * width + column[kept] // step, width)
            self._grids[size, side] = texels[kept], triangles
        return self._grids[size, side]


def objective(face_model: MorphableModel, **options: Any) -> VrnObjective:
    """What training asks of the network; see :class:`VrnObjective`."""
    return VrnObjective(face_model, **options)


# -- landmarks


def landmarks_of(raw: Volume, model: MorphableModel) -> NDArray[np.float32] | None:
    """Landmarks (68, 3) in crop pixels of one face's volume, None if it is empty.

    The guided variant has its heat maps for x and y and the frontmost filled voxel there for z. The plain one has no
    correspondence: the mean face is fitted to the surface, and each landmark is the surface point nearest to its own.
    """
    if raw.heat_maps.shape[0]:
        return _guided(raw) if (raw.logits > 0).any() else None
    surface = surface_of(raw.logits)
    return None if surface is None else _nearest_to_template(surface[0], model)


def _guided(raw: Volume) -> NDArray[np.float32]:
    xy = fan3d.to_crop(fan3d.peaks(torch.from_numpy(raw.heat_maps[None])))[0].numpy()
    filled = raw.logits > 0
    slices = filled.shape[0]
    front = np.where(filled.any(axis=0), slices - 1 - filled[::-1].argmax(axis=0), -1)
    rows, columns = np.nonzero(front >= 0)
    from scipy.spatial import cKDTree

    _, nearest = cKDTree(np.stack([columns, rows], axis=1)).query(xy)
    z = front[rows[nearest], columns[nearest]] - (slices - 1) / 2
    return np.concatenate([xy, z[:, None]], axis=1).astype(np.float32)


def _nearest_to_template(surface_N3: NDArray[np.float32], model: MorphableModel) -> NDArray[np.float32]:
    """Similarity ICP of the mean face from several yaws; the start with the least distance counts."""
    from scipy.spatial import cKDTree

    from prnbench.metrics.icp import Alignment, icp

    centre, size = centre_and_size(model)
    upright = np.array([1.0, -1.0, 1.0])
    face = (model.mean - centre) / size
    ids = face_vertices(model)
    ids = ids[:: max(len(ids) // TEMPLATE_POINTS, 1)]
    surface = surface_N3.astype(np.float64)
    extent, middle = np.ptp(surface[:, 1]), (surface.min(axis=0) + surface.max(axis=0)) / 2
    fits = []
    for yaw in START_YAW_DEG:
        template = (face @ geometry.rotation_from_euler(np.radians([0.0, yaw, 0.0])).T) * upright
        scale = np.ptp(template[ids, 1]) / max(extent, 1e-6)
        place = (template[ids].min(axis=0) + template[ids].max(axis=0)) / 2
        start = Alignment(scale, np.eye(3), place - scale * middle)
        fit = icp(surface[:: max(len(surface) // 6000, 1)], template[ids], scale=True, start=start, tolerance=TOLERANCE)
        fits.append((fit.rms, fit.undo(template[model.landmarks])))
    points = min(fits, key=lambda fit: fit[0])[1]
    _, nearest = cKDTree(surface).query(points)
    found: NDArray[np.float32] = surface_N3[nearest]
    return found


# -- prediction


def build(weights: Path | None = None, device: str = "cpu", face_model: str | Path | None = None) -> NetworkPredictor:
    """Build VRN from a weights file, the shipped weights, or (untrained) seeded initial values.

    Parameters
    ----------
    weights
        ``.safetensors`` or ``.ckpt``; they say whether the network is guided.
    device
        ``cpu``, ``cuda``, ``cuda:1``.
    face_model
        Whose mean face finds the landmarks on the surface; None is the built-in head.
    """
    from prnbench.facemodel import load_face_model

    model = load_face_model(face_model)
    net, loaded = load_network("vrn", network, weights)
    assert isinstance(net, VRN)
    guided, side = net.guide is not None, _weights.trained_resolution(loaded, RESOLUTION)

    def decode(raw: Volume, affine: NDArray[np.float64]) -> Prediction:
        points = landmarks_of(raw, model)
        if points is None:
            return Prediction(failed="the volume is empty", crop=affine)
        found = geometry.transform_points(points, geometry.invert_affine(affine)).astype(np.float32)
        return Prediction(landmarks_px=found, crop=affine)

    card = network_card(
        net,
        side,
        loaded,
        name="vrn",
        title="VRN-Guided" if guided else "VRN",
        paper=PAPER,
        offers=("landmarks",),
        notes=(
            "parameters and MACs were not published; blocks and hourglasses here are FAN's, the rise to the full "
            "resolution is bilinear",
            "a volume has no dense correspondence: landmarks are "
            + (
                "its heat maps with the frontmost depth"
                if guided
                else "the surface points nearest to a fitted mean face"
            ),
            f"one volume takes {4e-6 * net.leave.out_channels * side**2:.1f} MB",
            "z is relative to the middle of the face's depth",
        ),
    )
    return NetworkPredictor(net, card, crop, side, decode, None, device)
