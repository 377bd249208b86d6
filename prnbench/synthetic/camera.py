"""The camera: resolution, focus, exposure, colour cast, noise, borders and JPEG."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from prnbench.synthetic import shade

Float32 = NDArray[np.float32]
UInt8 = NDArray[np.uint8]
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Camera:
    """What a camera does to a picture."""

    resolution: float
    blur_px: float
    motion_px: float
    noise: float
    grey: bool
    contrast: float
    quality: int
    border: int


def draw_camera(rng: np.random.Generator, plain: bool) -> Camera:
    """Draw a camera; a plain one is good."""
    if plain:
        return Camera(1.0, 0.45, 0.0, 1.0, False, 1.0, 95, 0)
    return Camera(
        resolution=float(rng.choice([1.0, rng.uniform(0.35, 0.95)], p=[0.45, 0.55])),
        blur_px=float(rng.choice([0.0, rng.uniform(0.35, 0.8), rng.uniform(0.8, 2.6)], p=[0.25, 0.5, 0.25])),
        motion_px=float(rng.choice([0.0, rng.uniform(3, 9)], p=[0.94, 0.06])),
        noise=float(rng.gamma(1.3, 2.2)),
        grey=bool(rng.random() < 0.08),
        contrast=float(rng.normal(1.0, 0.10)),
        quality=int(rng.integers(55, 97)),
        border=int(rng.integers(10, 110)) if rng.random() < 0.14 else 0,
    )


def photograph(image: Float32, camera: Camera, colour: Array, rng: np.random.Generator) -> UInt8:
    """Linear picture (H, W, 3) to display uint8 through the camera; ``colour`` is Color_Para."""
    import cv2

    out: UInt8 = np.empty(image.shape, np.uint8)
    table = _film(round(camera.contrast, 2))
    gain = colour[:3].astype(np.float32)
    shade.to_display(image, gain, table, _noise(), int(rng.integers(1 << 20)), np.float32(camera.noise), out)
    size = image.shape[0]
    if camera.resolution < 1:
        small = max(int(size * camera.resolution), 90)
        out = cv2.resize(out, (small, small), interpolation=cv2.INTER_AREA)
        out = cv2.resize(out, (size, size), interpolation=cv2.INTER_CUBIC)
    if camera.blur_px:
        out = cv2.GaussianBlur(out, (0, 0), camera.blur_px)
    if camera.motion_px:
        out = cv2.filter2D(out, -1, _motion_kernel(camera.motion_px, rng.uniform(0, np.pi)))
    if camera.grey:
        out[...] = cv2.cvtColor(out, cv2.COLOR_RGB2GRAY)[..., None]
    if camera.border:
        _black_border(out, camera.border, rng)
    return out


def encode(image: UInt8, quality: int) -> bytes:
    """JPEG bytes of an RGB picture."""
    import cv2

    done, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert done
    return bytes(data.tobytes())


@lru_cache(maxsize=64)
def _film(contrast: float) -> Float32:
    """Display value 0..255 by the square root of the linear value: sRGB-like with a soft shoulder."""
    v = np.linspace(0, 1, 1024) ** 2
    shoulder = v * (1 + 0.18 * v) / (1 + 0.18 * v * v) / 1.0
    display = np.clip(shoulder, 0, 1) ** (1 / 2.2)
    display = 0.5 + contrast * (display - 0.5)
    return np.clip(display * 255, 0, 255).astype(np.float32)


@lru_cache(maxsize=1)
def _noise() -> Float32:
    return np.random.default_rng(3).normal(0, 1, (1 << 20) + 7).astype(np.float32)


def _motion_kernel(length: float, angle: float) -> Float32:
    n = int(length) // 2 * 2 + 3
    y, x = np.mgrid[0:n, 0:n] - n // 2
    along, across = x * np.cos(angle) + y * np.sin(angle), -x * np.sin(angle) + y * np.cos(angle)
    kernel = np.clip(1 - np.abs(across), 0, 1) * (np.abs(along) <= length / 2)
    return np.asarray((kernel / kernel.sum()).astype(np.float32))


def _black_border(image: UInt8, width: int, rng: np.random.Generator) -> None:
    """Blank the side that lay outside the original photo, as in the real sets."""
    sides = (np.s_[:width], np.s_[-width:], np.s_[:, :width], np.s_[:, -width:])
    image[sides[int(rng.integers(4))]] = 0
