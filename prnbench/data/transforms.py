"""Crops and batched augmentation of images with the exact motion of their position maps."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def warp(image_rgb: NDArray[np.uint8], affine: NDArray[np.float64], resolution: int) -> NDArray[np.uint8]:
    """Resample an image (H, W, 3) by a (2, 3) map from its pixels to a square crop; outside is black.

    Pixel centres are integers on both sides. Bilinear, as PRNet's own warp; an image that is to shrink by
    more than 2 is first averaged in blocks, so that large photographs do not alias.
    """
    import cv2

    scale = np.sqrt(abs(np.linalg.det(affine[:, :2])))
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

    height, width = image.shape[0] // block * block, image.shape[1] // block * block
    small = cv2.resize(
        image[:height, :width], (width // block, height // block), interpolation=cv2.INTER_AREA
    )
    # Block k covers pixels block*k .. block*k + block - 1: original = block * small + (block - 1) / 2.
    moved = np.array(affine, np.float64)
    moved[:, 2] += moved[:, :2] @ np.full(2, (block - 1) / 2)
    moved[:, :2] *= block
    return small, moved
