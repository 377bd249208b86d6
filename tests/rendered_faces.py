"""A few faces of the built-in head, posed, rendered and with exact ground truth: material for the training tests."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from prnbench import geometry
from prnbench.data.shards import write_manifest, write_shard
from prnbench.facemodel import load_face_model
from prnbench.files import sha256_of
from prnbench.render import render_colours, vertex_normals
from prnbench.sample import Sample
from prnbench.uv import chart_of


def rendered_faces(count: int, seed: int = 0, side: int = 128, split: str = "train") -> list[Sample]:
    """Faces with random identity and pose (yaw within 60 degrees), lit from the front, on a plain background."""
    model, rng = load_face_model(), np.random.default_rng(seed)
    raster = chart_of(model).raster(256)
    unit = 0.45 * side / np.ptp(model.mean[model.landmarks, 0])
    samples = []
    for i in range(count):
        shape = (rng.standard_normal(len(model.identity_std)) * model.identity_std).astype(np.float32)
        pitch, yaw, roll = np.radians(rng.uniform([-15, -60, -15], [15, 60, 15]))
        pose = np.array([pitch, yaw, roll, 0, 0, 0, unit], np.float32)
        centre = geometry.project(model.mean[model.landmarks], pose).mean(axis=0)
        pose[3:5] = side / 2 + rng.uniform(-4, 4, 2) - centre[:2]
        vertices = geometry.to_image(geometry.project(model.vertices(shape), pose), side)
        shade = np.clip(-vertex_normals(vertices, model.triangles)[:, 2:], 0.2, 1)
        picture = render_colours(vertices, model.triangles, model.colours() * shade, side, side, background=0.4)
        encoded = cv2.imencode(".jpg", (picture[..., ::-1] * 255).astype(np.uint8))[1]
        samples.append(
            Sample(
                id=f"{split}{i:04d}",
                jpeg=encoded.tobytes(),
                size_px=(side, side),
                landmarks_px=vertices[model.landmarks].astype(np.float32),
                position_map_px=raster.position_map(vertices),
                pose_deg=np.degrees(pose[:3]).astype(np.float32),
                pose_params=pose,
                shape_params=shape,
                split=split,
                group=f"{split}{i:04d}",
            )
        )
    return samples


def write_faces(folder: Path, samples: list[Sample], fingerprint: str | None = None) -> Path:
    """Write faces as one shard with its manifest, as a conversion does, and beside them their face model."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "shard-00000.h5"
    write_shard(path, samples, {})
    model = load_face_model()
    model.save(folder / "face_model.npz")
    entry = {"file": path.name, "count": len(samples), "bytes": path.stat().st_size, "sha256": sha256_of(path)}
    manifest = {
        "dataset": "rendered",
        "store": "maps",
        "resolution": 256,
        "face_model": model.name,
        "face_model_fingerprint": fingerprint or model.fingerprint,
        "count": len(samples),
        "shards": [entry],
        "skipped": [],
    }
    write_manifest(folder, manifest)
    return folder
