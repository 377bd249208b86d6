"""Corruptions of one face: picture and box in, picture and box out, the same for the same face id whatever runs beside.

Ground truth is never moved. Levels are those of the suite's card; lengths there are in per cent of the face size.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from prnbench.landmarks import REGIONS
from prnbench.metrics.nme import box_size
from prnbench.sample import Sample, decode_rgb

Image = NDArray[np.uint8]
Rng = np.random.Generator

_CELLS = 6  # of an occluder's texture in one face size
_FOREHEAD = 0.35  # of the landmarks' box, which ends at the brows


@dataclass(frozen=True, slots=True, eq=False)
class Face:
    """What a model is given, with the true landmarks that say where the face is.

    Attributes
    ----------
    image_rgb
        (H, W, 3) uint8.
    box_px
        (4,) left, top, right, bottom.
    landmarks_px
        (68, 3) true landmarks.
    """

    image_rgb: Image
    box_px: NDArray[np.float64]
    landmarks_px: NDArray[np.float64]

    @property
    def size_px(self) -> float:
        """sqrt(w h) of the true landmarks' box."""
        return float(box_size(self.landmarks_px))


def face_of(sample: Sample) -> Face:
    """A sample's face as it is.

    Raises
    ------
    SampleError
        There is no picture, or it does not decode.
    """
    assert sample.box_px is not None and sample.landmarks_px is not None
    return Face(sample.image_rgb(), np.asarray(sample.box_px, np.float64), np.asarray(sample.landmarks_px, np.float64))


def generator(seed: int, face_id: str, corruption: str) -> Rng:
    """The random numbers of one face under one corruption; severities share them."""
    digest = hashlib.sha256(f"{seed}/{corruption}/{face_id}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "little"))


def corrupted(face: Face, corruption: str, level: float, rng: Rng) -> Face:
    """The face under a corruption of the suite at a level."""
    return _CORRUPTIONS[corruption](face, level, rng)


def shifted(face: Face, dx_px: float, dy_px: float) -> Face:
    """The picture moved by (dx, dy) pixels, bicubic, its border repeated; box and truth stay."""
    height, width = face.image_rgb.shape[:2]
    move = np.array([[1.0, 0.0, dx_px], [0.0, 1.0, dy_px]])
    moved = cv2.warpAffine(
        face.image_rgb, move, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
    )
    return replace(face, image_rgb=np.asarray(moved, np.uint8))


# -- the picture -------------------------------------------------------------------------------------------------------


def _resolution(face: Face, side_px: float, _: Rng) -> Face:
    scale = side_px / face.size_px
    if scale >= 1:
        return face
    height, width = face.image_rgb.shape[:2]
    small = max(round(width * scale), 1), max(round(height * scale), 1)
    averaged = cv2.resize(face.image_rgb, small, interpolation=cv2.INTER_AREA)
    return _with_image(face, cv2.resize(averaged, (width, height), interpolation=cv2.INTER_LINEAR))


def _blur(face: Face, percent: float, _: Rng) -> Face:
    return _with_image(face, cv2.GaussianBlur(face.image_rgb, (0, 0), percent / 100 * face.size_px))


def _noise(face: Face, counts: float, rng: Rng) -> Face:
    noise = rng.standard_normal(face.image_rgb.shape, np.float32) * np.float32(counts)
    return _with_image(face, np.clip(np.rint(face.image_rgb + noise), 0, 255).astype(np.uint8))


def _jpeg(face: Face, quality: float, _: Rng) -> Face:
    settings = [cv2.IMWRITE_JPEG_QUALITY, int(quality), cv2.IMWRITE_JPEG_SAMPLING_FACTOR, 0x221111]
    encoded = cv2.imencode(".jpg", face.image_rgb[:, :, ::-1], settings)[1]
    return _with_image(face, decode_rgb(encoded.tobytes()))


def _darkness(face: Face, stops: float, _: Rng) -> Face:
    return _exposed(face, (-stops, -stops, -stops))


def _over_exposure(face: Face, stops: float, _: Rng) -> Face:
    return _exposed(face, (stops, stops, stops))


def _colour_cast(face: Face, stops: float, rng: Rng) -> Face:
    warm = _sign(rng) * stops / 2
    return _exposed(face, (warm, 0.0, -warm))


def _exposed(face: Face, stops_rgb: tuple[float, float, float]) -> Face:
    """The picture with each channel's linear light multiplied by 2 to its stops; sRGB (IEC 61966-2-1) on both sides."""
    encoded = np.arange(256) / 255
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    light = np.clip(linear[:, None] * 2.0 ** np.array(stops_rgb), 0, 1)
    out = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    curves = np.rint(255 * out).astype(np.uint8)
    return _with_image(face, np.stack([curves[:, c][face.image_rgb[:, :, c]] for c in range(3)], axis=-1))


# -- something before the face -----------------------------------------------------------------------------------------


def _eyes(face: Face, percent: float, rng: Rng) -> Face:
    return _covered(face, _hull(face, "eyes", percent), rng)


def _mouth(face: Face, percent: float, rng: Rng) -> Face:
    return _covered(face, _hull(face, "mouth", percent), rng)


def _half(face: Face, percent: float, rng: Rng) -> Face:
    left, top, right, bottom = face.box_px
    width = percent / 100 * (right - left)
    margin = 0.25 * (right - left)  # ears and hair beyond the landmarks' box
    if _sign(rng) < 0:
        left, right = left - margin, left + width
    else:
        left, right = right - width, right + margin
    mask = np.zeros(face.image_rgb.shape[:2], np.uint8)
    corners = (round(left), round(top - _FOREHEAD * (bottom - top))), (round(right), round(bottom))
    return _covered(face, cv2.rectangle(mask, *corners, 1, -1), rng)


def _hull(face: Face, region: str, percent: float) -> NDArray[np.uint8]:
    points = np.rint(face.landmarks_px[list(REGIONS[region]), :2]).astype(np.int32)
    hull = cv2.convexHull(points)
    mask = cv2.fillConvexPoly(np.zeros(face.image_rgb.shape[:2], np.uint8), hull, 1)
    thickness = max(round(2 * percent / 100 * face.size_px), 1)
    return np.asarray(cv2.polylines(mask, [hull], True, 1, thickness), np.uint8)


def _covered(face: Face, mask: NDArray[np.uint8], rng: Rng) -> Face:
    height, width = mask.shape
    cells = [int(np.ceil(side * _CELLS / face.size_px)) + 1 for side in mask.shape]
    coarse = rng.integers(0, 256, (*cells, 3), np.uint8)
    texture = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)
    return _with_image(face, np.where(mask[:, :, None] > 0, texture, face.image_rgb))


# -- the box -----------------------------------------------------------------------------------------------------------


def _box_shift(face: Face, percent: float, rng: Rng) -> Face:
    angle = rng.uniform(0, 2 * np.pi)
    step = percent / 100 * face.size_px * np.array([np.cos(angle), np.sin(angle)])
    return replace(face, box_px=face.box_px + np.tile(step, 2))


def _box_scale(face: Face, percent: float, rng: Rng) -> Face:
    centre = np.tile((face.box_px[:2] + face.box_px[2:]) / 2, 2)
    factor = (1 + percent / 100) ** _sign(rng)
    return replace(face, box_px=centre + factor * (face.box_px - centre))


def _with_image(face: Face, image: NDArray[np.uint8]) -> Face:
    return replace(face, image_rgb=np.ascontiguousarray(image, np.uint8))


def _sign(rng: Rng) -> int:
    return 1 if rng.random() < 0.5 else -1


_CORRUPTIONS: dict[str, Callable[[Face, float, Rng], Face]] = {
    "resolution": _resolution,
    "blur": _blur,
    "noise": _noise,
    "jpeg": _jpeg,
    "darkness": _darkness,
    "over_exposure": _over_exposure,
    "colour_cast": _colour_cast,
    "occlusion_eyes": _eyes,
    "occlusion_mouth": _mouth,
    "occlusion_half": _half,
    "box_shift": _box_shift,
    "box_scale": _box_scale,
}
