"""Crops and augmentation: a face is warped once from its original pixels, and its position map moves exactly with it.

All randomness of one face is one :class:`Jitter`, drawn in the loading worker from (seed, epoch, face, view); the
batch is then recoloured and occluded on the device. Shapes: B batch, R crop resolution, M map resolution,
T texture side.
"""

# ruff: noqa: N815 -- fields carry their shape in the name

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as functional
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from prnbench import geometry

TEXTURE = 6
"""Side of an occluder's random texture, enlarged smoothly over it."""
MAP_RANGE = 1.1 * 256 / 255
"""Network output 1.0 in crop sides: PRNet's 256 * 1.1 at 256 pixels, the same length at every resolution."""


@dataclass(frozen=True)  # no slots: jsonargparse reads the defaults from __dict__
class Augmentation:
    """How training faces vary; the defaults are the paper's (PRNet section 3.3).

    Attributes
    ----------
    rotation_deg
        In-plane rotation about the crop's centre, uniform in +-.
    scale
        Range of the size, uniform.
    shift
        Translation in x and y, uniform in +- this share of the crop's side.
    gain
        Range of the factor of each colour channel, uniform.
    occlusion
        Probability of a synthetic occluder: a box or an ellipse with a random smooth texture.
    flip
        Probability of mirroring (needs a mirror-symmetric chart).
    grey
        Probability of losing the colours.
    contrast
        Range of the contrast about the mean colour, uniform.
    blur
        Probability of a lower resolution, down to a quarter.
    noise
        Largest standard deviation of pixel noise, in 0..1.
    """

    rotation_deg: float = 45.0
    scale: tuple[float, float] = (0.9, 1.2)
    shift: float = 0.1
    gain: tuple[float, float] = (0.6, 1.4)
    occlusion: float = 0.5
    flip: float = 0.0
    grey: float = 0.0
    contrast: tuple[float, float] = (1.0, 1.0)
    blur: float = 0.0
    noise: float = 0.0

    def draw(self, rng: np.random.Generator) -> Jitter:
        """Draw the variation of one face; the number of draws does not depend on the settings."""
        angle, size, dx, dy, flip, grey, contrast, blur, noise, occluded = rng.uniform(size=10)
        gain, occluder = rng.uniform(size=3), rng.uniform(size=6)
        texture = rng.uniform(size=(3, TEXTURE, TEXTURE))
        return Jitter(
            rotation_rad=math.radians(self.rotation_deg) * (2 * angle - 1),
            scale=_between(self.scale, size),
            shift=(self.shift * (2 * dx - 1), self.shift * (2 * dy - 1)),
            flip=bool(flip < self.flip),
            reduction=1 + 3 * (blur / self.blur) if blur < self.blur else 1.0,
            gain=np.array([_between(self.gain, value) for value in gain], np.float32),
            contrast=_between(self.contrast, contrast),
            grey=bool(grey < self.grey),
            noise=noise * self.noise,
            occluder=_occluder(occluder) if occluded < self.occlusion else np.zeros(7, np.float32),
            texture=texture.astype(np.float32),
        )


def _between(limits: tuple[float, float], share: float) -> float:
    return limits[0] + (limits[1] - limits[0]) * float(share)


def _occluder(u: NDArray[np.float64]) -> NDArray[np.float32]:
    """Centre x, y, half sides a, b, angle, roundness (1 ellipse, 0 box) and 1; lengths in crop sides."""
    half = 0.05 + 0.2 * u[2:4]
    return np.array([u[0], u[1], half[0], half[1], math.pi * u[4], float(u[5] < 0.5), 1.0], np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class Jitter:
    """The variation of one face, see :class:`Augmentation`; lengths are in crop sides."""

    rotation_rad: float = 0.0
    scale: float = 1.0
    shift: tuple[float, float] = (0.0, 0.0)
    flip: bool = False
    reduction: float = 1.0
    gain: NDArray[np.float32] | None = None
    contrast: float = 1.0
    grey: bool = False
    noise: float = 0.0
    occluder: NDArray[np.float32] | None = None
    texture: NDArray[np.float32] | None = None

    def crop(self, unvaried: ArrayLike, resolution: int) -> NDArray[np.float64]:
        """(2, 3) map from original pixels to this crop: the model's own, mirrored, then turned about its centre."""
        base = np.array(unvaried, np.float64)
        side, centre = resolution - 1, np.full(2, (resolution - 1) / 2)
        if self.flip:
            base[0] = [-base[0, 0], -base[0, 1], side - base[0, 2]]
        cos, sin = math.cos(self.rotation_rad), math.sin(self.rotation_rad)
        turn = self.scale * np.array([[cos, -sin], [sin, cos]])
        moved = turn @ base
        moved[:, 2] += centre - turn @ centre + np.array(self.shift) * side
        return moved


class FaceBatch(NamedTuple):
    """A batch as it leaves the loader; ``moved_to_crop`` and ``photometric`` finish it on the device.

    Attributes
    ----------
    image_BRR3
        uint8 crops.
    crop_B23
        Map from original pixels to crop pixels.
    position_map_BMM3
        Original pixels; already flipped along u where the crop is mirrored. (B, 0, 0, 3) where there are none.
    landmarks_B683
        Original pixels, in mirrored order where the crop is mirrored; NaN where there are none.
    yaw_B
        Fitted yaw in degrees, NaN where unknown.
    index_B
        Place of the face in its data set.
    counts_B
        False for the fill that makes the ranks' shares equal in distributed validation.
    flipped_B
        Whether the crop is mirrored.
    colour_B6
        Gains of the three channels, contrast, grey (0 or 1), noise.
    occluder_B7, texture_B3TT
        See ``Augmentation``.
    camera_B34
        Model space to original pixels (x, y down, z in pixels), from the pose parameters; NaN where there are none, and
        where the crop is mirrored: a face model need not be symmetric.
    shape_BN, expression_BE
        Coefficients of the face model in its own units, (B, 0) where there are none.
    """

    image_BRR3: Tensor
    crop_B23: Tensor
    position_map_BMM3: Tensor
    landmarks_B683: Tensor
    yaw_B: Tensor
    index_B: Tensor
    counts_B: Tensor
    flipped_B: Tensor
    colour_B6: Tensor
    occluder_B7: Tensor
    texture_B3TT: Tensor
    camera_B34: Tensor
    shape_BN: Tensor
    expression_BE: Tensor


def warp(image_rgb: NDArray[np.uint8], affine: NDArray[np.float64], resolution: int) -> NDArray[np.uint8]:
    """Resample an image (H, W, 3) by a (2, 3) map from its pixels to a square crop; outside is black.

    Pixel centres are integers on both sides. Bilinear, as PRNet's own warp; an image that is to shrink by
    more than 2 is first averaged in blocks, so that large photographs do not alias.
    """
    import cv2

    scale = geometry.affine_scale(affine)
    block = int(0.5 / scale) if scale > 0 else 1
    if block > 1:
        image_rgb, affine = _shrunk(image_rgb, affine, block)
    size = (resolution, resolution)
    warped: NDArray[np.uint8] = cv2.warpAffine(image_rgb, affine, size, flags=cv2.INTER_LINEAR)
    return warped


def _shrunk(
    image: NDArray[np.uint8], affine: NDArray[np.float64], block: int
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    import cv2

    block = min(block, *image.shape[:2])
    height, width = image.shape[0] // block * block, image.shape[1] // block * block
    small = cv2.resize(image[:height, :width], (width // block, height // block), interpolation=cv2.INTER_AREA)
    # Block k covers pixels block*k .. block*k + block - 1: original = block * small + (block - 1) / 2.
    moved = np.array(affine, np.float64)
    moved[:, 2] += moved[:, :2] @ np.full(2, (block - 1) / 2)
    moved[:, :2] *= block
    return small, moved


def reduced(crop: NDArray[np.uint8], reduction: float) -> NDArray[np.uint8]:
    """A crop (R, R, 3) seen at a lower resolution: averaged down by ``reduction`` and enlarged again."""
    import cv2

    if reduction <= 1:
        return crop
    size = crop.shape[1], crop.shape[0]
    small = cv2.resize(crop, None, fx=1 / reduction, fy=1 / reduction, interpolation=cv2.INTER_AREA)
    enlarged: NDArray[np.uint8] = cv2.resize(small, size, interpolation=cv2.INTER_LINEAR)
    return enlarged


def moved_to_crop(points_BN3: Tensor, crop_B23: Tensor) -> Tensor:
    """Points (B, ..., 3) in original pixels to crop pixels; z is multiplied by the crop's scale."""
    batch = points_BN3.shape[0]
    scale = torch.linalg.det(crop_B23[:, :, :2]).abs().sqrt()
    linear = crop_B23.new_zeros(batch, 3, 3)
    linear[:, :2, :2], linear[:, 2, 2] = crop_B23[:, :, :2].transpose(1, 2), scale
    offset = functional.pad(crop_B23[:, :, 2], (0, 1))[:, None]
    return torch.baddbmm(offset, points_BN3.reshape(batch, -1, 3), linear).reshape(points_BN3.shape)


def moved_to_original(points_BN3: Tensor, crop_B23: Tensor) -> Tensor:
    """Points (B, ..., 3) in crop pixels to original pixels; z is divided by the crop's scale."""
    inverse = torch.linalg.inv(crop_B23[:, :, :2])
    offset = -(inverse @ crop_B23[:, :, 2:])
    return moved_to_crop(points_BN3, torch.cat([inverse, offset], dim=2))


def network_target(position_map_BMM3: Tensor, crop_B23: Tensor, resolution: int) -> Tensor:
    """Position maps in original pixels to what PRN learns: (B, 3, R, R) float32, crop pixels / ``MAP_RANGE`` sides.

    x and y move with the crop; z is multiplied by its scale, then its minimum over the map is subtracted (over the
    texels, up to 0.6 px above the minimum over the vertices: both stand for an unknown depth). Maps of another
    resolution are resampled at the texels' own UV positions, the corners staying in place.
    """
    moved = moved_to_crop(position_map_BMM3.float(), crop_B23.float()).permute(0, 3, 1, 2)
    if moved.shape[-1] != resolution:
        moved = functional.interpolate(moved, size=(resolution, resolution), mode="bilinear", align_corners=True)
    depth = moved[:, 2:] - moved[:, 2:].amin(dim=(2, 3), keepdim=True)
    return torch.cat([moved[:, :2], depth], dim=1) / (MAP_RANGE * (resolution - 1))


def sample_map(map_B3RR: Tensor, uv_N2: Tensor) -> Tensor:
    """Bilinear values (B, N, 3) of maps at UV positions (N, 2) in 0..1: column u (R - 1), row (1 - v) (R - 1)."""
    grid = torch.stack([2 * uv_N2[:, 0] - 1, 1 - 2 * uv_N2[:, 1]], dim=-1)
    grid = grid.to(map_B3RR)[None, None].expand(map_B3RR.shape[0], -1, -1, -1)
    return functional.grid_sample(map_B3RR, grid, align_corners=True)[:, :, 0].transpose(1, 2)


def photometric(batch: FaceBatch) -> Tensor:
    """Crops as the network sees them: (B, 3, R, R) float32 in 0..1, recoloured, made noisy and occluded.

    Loss of colour, gain and contrast are one affine map of each pixel's colour. The memory is channels-last.
    """
    size, resolution = batch.image_BRR3.shape[:2]
    pixels = batch.image_BRR3.reshape(size, -1, 3).float()
    matrix, offset = _colour_map(pixels.mean(dim=1), batch.colour_B6)
    image = torch.baddbmm(offset, pixels, matrix).reshape(size, resolution, resolution, 3).permute(0, 3, 1, 2)
    noisy = torch.nonzero(batch.colour_B6[:, 5])[:, 0]
    if len(noisy):
        image[noisy] += batch.colour_B6[noisy, 5, None, None, None] * _noise(batch.texture_B3TT[noisy], resolution)
    hidden = torch.nonzero(batch.occluder_B7[:, 6])[:, 0]
    if len(hidden):
        image[hidden] = _occluded(image[hidden], batch.occluder_B7[hidden], batch.texture_B3TT[hidden])
    return image.clamp_(0, 1)


def _colour_map(mean_B3: Tensor, colour_B6: Tensor) -> tuple[Tensor, Tensor]:
    """Matrix (B, 3, 3) and offset (B, 1, 3) from 0..255 to 0..1: towards grey, gain, contrast about the mean."""
    gain, contrast, grey = colour_B6[:, None, :3], colour_B6[:, 3, None, None], colour_B6[:, 4, None, None]
    identity = torch.eye(3, device=colour_B6.device)
    toned = torch.lerp(identity, torch.full_like(identity, 1 / 3), grey) * gain / 255
    mean = (mean_B3[:, None] @ toned).mean(dim=2, keepdim=True)
    return toned * contrast, (mean * (1 - contrast)).expand(-1, 1, 3)


def _noise(texture_B3TT: Tensor, resolution: int) -> Tensor:
    """White noise (B, 3, R, R) of variance 1, seeded by the face's own texture (drawn anew for every view)."""
    seeds = (texture_B3TT[:, 0, 0, 0].double() * 2**31).long().tolist()
    size, device = (3, resolution, resolution), texture_B3TT.device
    draws = [torch.randn(size, generator=torch.Generator(device).manual_seed(seed), device=device) for seed in seeds]
    return torch.stack(draws)


def _occluded(image_B3RR: Tensor, occluder_B7: Tensor, texture_B3TT: Tensor) -> Tensor:
    resolution = image_B3RR.shape[-1]
    axis = torch.linspace(0, 1, resolution, device=image_B3RR.device)
    x, y, a, b, angle, ellipse = (value[:, None, None] for value in occluder_B7[:, :6].unbind(1))
    dx, dy = axis[None, None, :] - x, axis[None, :, None] - y
    across = (dx * angle.cos() + dy * angle.sin()).abs() / a
    along = (dy * angle.cos() - dx * angle.sin()).abs() / b
    distance = torch.where(ellipse > 0, (across**2 + along**2).sqrt(), torch.maximum(across, along))
    texture = functional.interpolate(texture_B3TT, size=(resolution, resolution), mode="bilinear", align_corners=True)
    return torch.where((distance < 1)[:, None], texture, image_B3RR)
