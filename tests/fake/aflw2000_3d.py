"""Fake data in AFLW2000-3D's layout: images of noise, mats with every field of the real ones."""

from pathlib import Path

import cv2
import numpy as np
import scipy.io


def jpeg(rng, width=450, height=450):
    """Bytes of a JPEG with smooth noise."""
    small = rng.integers(0, 256, (height // 30, width // 30, 3), np.uint8)
    return cv2.imencode(".jpg", cv2.resize(small, (width, height)))[1].tobytes()


def parameters(rng, yaw_deg, modes=(199, 29)):
    """Parameter fields shared by AFLW2000-3D and 300W-LP, with the real dtypes."""
    angles = np.deg2rad([rng.uniform(-20, 20), yaw_deg, rng.uniform(-20, 20)])
    return {
        "Pose_Para": np.array([[*angles, 225, 225, -90, 1.2e-3]], np.float32),
        "Shape_Para": rng.normal(0, 1e5, (modes[0], 1)),
        "Exp_Para": rng.normal(0, 1, (modes[1], 1)),
        "Tex_Para": rng.normal(0, 1e3, (199, 1)),
        "Illum_Para": rng.uniform(0, 1, (1, 10)),
        "Color_Para": rng.uniform(0, 1, (1, 7)).astype(np.float32),
        "roi": np.array([[1, 1, 450, 450]], np.int16),
    }


def points68(rng):
    """Made-up ``pt3d_68`` (3, 68) float32: a cloud of about 190 px around the middle, z from -90 to 80."""
    xy = rng.uniform(130, 320, (2, 68))
    return np.vstack([xy, rng.uniform(-90, 80, (1, 68))]).astype(np.float32)


def write(root: Path, count=5, seed=0, **change):
    """Write ``count`` faces; keyword arguments replace fields of every mat (None removes them). Returns the stems."""
    root.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    stems = [f"image{i:05d}" for i in range(2, 2 + count)]
    for stem, yaw in zip(stems, np.linspace(-85, 85, count), strict=True):
        content = parameters(rng, yaw) | {"pt2d": rng.uniform(100, 350, (2, 21)), "pt3d_68": points68(rng)}
        content["pt2d"][:, 3] = (-1, 452)
        content = {name: value for name, value in (content | change).items() if value is not None}
        scipy.io.savemat(root / f"{stem}.mat", content)
        (root / f"{stem}.jpg").write_bytes(jpeg(rng))
    return stems
