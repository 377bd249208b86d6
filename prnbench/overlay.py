"""Pictures of faces with what is known of them: landmarks, shaded meshes, depth maps, contact sheets (uint8 RGB)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from prnbench.errors import OutputError
from prnbench.files import replacing
from prnbench.landmarks import CLOSED_PARTS, PARTS

Image = NDArray[np.uint8]

TRUTH_RGB = (0, 158, 115)
PREDICTION_RGB = (213, 94, 0)
_SUBPIXEL = 4


def draw_landmarks(image: Image, landmarks_px: ArrayLike, colour: tuple[int, int, int] = PREDICTION_RGB) -> Image:
    """The picture with the 68 landmarks (68, 2 or 3) as curves and dots; a copy."""
    points = np.asarray(landmarks_px, np.float64)[:, :2]
    if not np.isfinite(points).all():
        return image.copy()
    out = image.copy()
    span = float(np.ptp(points, axis=0).mean())
    line, dot = max(1, round(span / 150)), max(1.5, span / 90)
    fixed = np.round(points * (1 << _SUBPIXEL)).astype(np.int32)
    for name, indices in PARTS.items():
        curve = fixed[list(indices)].reshape(-1, 1, 2)
        cv2.polylines(out, [curve], name in CLOSED_PARTS, colour, line, cv2.LINE_AA, _SUBPIXEL)
    for x, y in fixed:
        cv2.circle(out, (int(x), int(y)), int(dot * (1 << _SUBPIXEL)), (255, 255, 255), -1, cv2.LINE_AA, _SUBPIXEL)
        cv2.circle(out, (int(x), int(y)), int(0.7 * dot * (1 << _SUBPIXEL)), colour, -1, cv2.LINE_AA, _SUBPIXEL)
    return out


def draw_box(image: Image, box_px: ArrayLike, colour: tuple[int, int, int] = PREDICTION_RGB) -> Image:
    """The picture with a box (left, top, right, bottom); a copy."""
    left, top, right, bottom = (round(float(value)) for value in np.asarray(box_px))
    return np.asarray(cv2.rectangle(image.copy(), (left, top), (right, bottom), colour, 2, cv2.LINE_AA), np.uint8)


def draw_mesh(image: Image, vertices_px: ArrayLike, triangles: ArrayLike, opacity: float = 0.75) -> Image:
    """The picture with a shaded surface of vertices (V, 3) laid over it; a copy."""
    from prnbench.render import interpolate, rasterise, vertex_normals

    vertices = np.asarray(vertices_px, np.float32)
    height, width = image.shape[:2]
    faces = np.asarray(triangles, np.int32)
    buffer = rasterise(vertices, faces, height, width, cull=True)
    upright = vertices * np.array([1, -1, 1], np.float32)
    normals = vertex_normals(upright, faces)
    light = np.array([-0.25, 0.35, 0.9], np.float32)
    shade = np.clip(normals @ (light / np.linalg.norm(light)), 0, 1)[:, None] * 0.8 + 0.2
    grey = interpolate(buffer, faces, shade * np.array([[200, 205, 215]], np.float32))
    mixed = np.where(buffer.covered[..., None], opacity * grey + (1 - opacity) * image, image)
    return np.clip(mixed + 0.5, 0, 255).astype(np.uint8)


def draw_depth(position_map_px: ArrayLike) -> Image:
    """A position map as the picture that looks at it: x, y, z as red, green, blue, each from its least to greatest."""
    values = np.asarray(position_map_px, np.float32)
    low, high = values.min(axis=(0, 1)), values.max(axis=(0, 1))
    out: Image = (255 * (values - low) / np.maximum(high - low, 1e-6)).astype(np.uint8)
    return out


def square_around(
    image: Image, box_px: ArrayLike, side: int = 256, factor: float = 1.8
) -> tuple[Image, NDArray[np.float64]]:
    """A square cut around a box, resized, with its (2, 3) map from picture to cut."""
    from prnbench.geometry import prn_crop

    crop = prn_crop(box_px, factor=factor, resolution=side)
    cut = cv2.warpAffine(image, crop, (side, side), flags=cv2.INTER_AREA, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(cut, np.uint8), crop


def contact_sheet(images: Sequence[Image], columns: int, labels: Sequence[str] | None = None, gap: int = 6) -> Image:
    """Pictures of one size in a grid on white, with a label below each where given."""
    height, width = images[0].shape[:2]
    strip = 26 if labels else 0
    rows = -(-len(images) // columns)
    sheet = np.full((rows * (height + strip + gap) + gap, columns * (width + gap) + gap, 3), 255, np.uint8)
    for i, image in enumerate(images):
        top, left = gap + (i // columns) * (height + strip + gap), gap + (i % columns) * (width + gap)
        sheet[top : top + height, left : left + width] = image
        if labels:
            at = (left + 2, top + height + 18)
            cv2.putText(sheet, labels[i], at, cv2.FONT_HERSHEY_SIMPLEX, 0.5, (30, 30, 30), 1, cv2.LINE_AA)
    return sheet


def write_image(path: Path, image: Image) -> None:
    """Write a picture by its suffix (.png, .jpg), atomically."""
    ok, encoded = cv2.imencode(path.suffix, image[:, :, ::-1])
    if not ok:
        raise OutputError("the picture cannot be encoded", file=path, remedy="use .png or .jpg")
    with replacing(path) as temporary:
        temporary.write_bytes(encoded.tobytes())
