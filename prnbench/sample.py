"""One face as every room sees it: Sample (image and ground truth) and Prediction.

Coordinates are original-image pixels, 0-based, x right, y down ("exact" convention); z is in the same unit,
larger towards the camera. Missing is None.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prnbench.errors import SampleError

Float32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One face of a data set.

    Attributes
    ----------
    id
        File stem, unique in its data set (``image00050``).
    jpeg
        The original image file's bytes, untouched; None where only annotations are at hand.
    decoded_rgb
        (height, width, 3) uint8, read-only: the image already decoded, where the shards hold it so (``--store fast``).
    size_px
        Image (width, height).
    landmarks_px
        (68, 3) float32 iBUG landmarks; z as the source gives it.
    position_map_px
        (256, 256, 3) float32, row = v, column = u, in original-image pixels; None without a face model.
    pose_deg
        (3,) float32 pitch, yaw, roll after 3DDFA's ``angle2matrix_3ddfa``.
    reannotated_px
        (68, 2) float32 re-annotated landmarks of AFLW2000-3D, where given.
    points21_px, visible21
        (21, 2) float32 AFLW points and (21,) bool: which of them are visible.
    yaw_aflw_deg
        The second yaw source of AFLW2000-3D (absolute AFLW yaw), where given.
    shape_params, expression_params
        Morphable-model coefficients in the source's own units.
    pose_params
        (7,) float32 pitch, yaw, roll (rad), tx, ty, tz, scale: V = s R S + t, y up, 1-based.
    visible
        (68,) bool landmark visibility.
    source, split, group
        Folder the face comes from, its split, and the photo identity that must not straddle splits.
    scan
        Ground-truth scan points in mm with the camera that maps them to the image, for Florence.
    """

    id: str
    jpeg: bytes | None = None
    size_px: tuple[int, int] | None = None
    landmarks_px: Float32 | None = None
    position_map_px: Float32 | None = None
    reannotated_px: Float32 | None = None
    points21_px: Float32 | None = None
    visible21: NDArray[np.bool_] | None = None
    pose_deg: Float32 | None = None
    yaw_aflw_deg: float | None = None
    shape_params: Float32 | None = None
    expression_params: Float32 | None = None
    pose_params: Float32 | None = None
    visible: NDArray[np.bool_] | None = None
    source: str = ""
    split: str = "test"
    group: str = ""
    scan: Scan | None = None
    decoded_rgb: NDArray[np.uint8] | None = None

    def image_rgb(self) -> NDArray[np.uint8]:
        """The image, decoded if need be: (height, width, 3) uint8 RGB.

        Raises
        ------
        SampleError
            The sample has no image, or its bytes do not decode.
        """
        if self.decoded_rgb is not None:
            return self.decoded_rgb
        if self.jpeg is None:
            raise SampleError("the sample holds no image", file=self.id, remedy="convert from a folder with images")
        return decode_rgb(self.jpeg, self.id)

    @property
    def box_px(self) -> Float32 | None:
        """(4,) left, top, right, bottom of the landmarks' bounding box."""
        if self.landmarks_px is None:
            return None
        xy = self.landmarks_px[:, :2]
        return np.concatenate([xy.min(axis=0), xy.max(axis=0)])

    @property
    def yaw_deg(self) -> float | None:
        """Signed fitted yaw in degrees."""
        return None if self.pose_deg is None else float(self.pose_deg[1])


@dataclass(frozen=True, slots=True, eq=False)
class Scan:
    """A ground-truth scan seen by one view: points (N, 3) float32 in mm and the (3, 4) camera mm -> pixels."""

    points_mm: Float32
    camera_px_per_mm: Float32
    landmarks_mm: Float32 | None = None
    interocular_mm: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """What a model says of one face; everything it does not offer is None.

    Attributes
    ----------
    landmarks_px
        (68, 3) or (68, 2) float32.
    vertices_px
        (V, 3) float32 in the topology of the model's face model.
    position_map_px
        (H, W, 3) float32.
    failed
        Why there is no prediction; None when there is one.
    pixel_convention
        ``exact`` (0-based), ``face3d`` (PROTOCOLS: 2 px above pt3d_68), or ``annotation`` (numbers as the
        ground truth's own file has them).
    crop
        (2, 3) float64 affine map from original pixels to the network's input, for the record.
    extra
        Anything else a model wants to keep (volumes, heat maps).
    """

    landmarks_px: Float32 | None = None
    vertices_px: Float32 | None = None
    position_map_px: Float32 | None = None
    pose_deg: Float32 | None = None
    failed: str | None = None
    pixel_convention: str = "exact"
    crop: NDArray[np.float64] | None = None
    extra: dict[str, Any] = field(default_factory=dict)


def decode_rgb(encoded: bytes, name: str = "image") -> NDArray[np.uint8]:
    """Decode image bytes to (height, width, 3) uint8 RGB, refusing truncated JPEGs.

    OpenCV fills the missing part of a truncated JPEG with grey and says nothing, so the end marker is checked.
    """
    import cv2

    if encoded[:2] == b"\xff\xd8" and b"\xff\xd9" not in encoded[-4096:]:
        raise SampleError("the JPEG is truncated (no end marker)", file=name, remedy="copy the file again")
    image = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR) if encoded else None
    if image is None:
        raise SampleError("not a decodable image", file=name, remedy="copy the file again or remove it")
    rgb: NDArray[np.uint8] = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    return rgb
