"""Florence (MICC): textured scans ``subject_NN/Model/frontal{1,2}/obj/*.obj`` -> rendered views with the scan as truth.

Where a side has no OBJ scan, its VRML scan (``vrml/*.wrl``) is read.

Each scan is seen orthographically on a grid of pitch and yaw (20 views by default, 600 px); the ground truth is the
scan's points within 95 mm of the nose tip, 19,000 of them drawn with a stored seed. Protocol as in the dataset card.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from prnbench.convert import Found, Options
from prnbench.convert.raw import checked_root, nothing_found
from prnbench.files import digest_of
from prnbench.geometry import rotation_from_euler
from prnbench.sample import Sample, Scan
from prnbench.scan import ScanLandmarks, ScanMesh, landmarks_of, read_scan

LOOKED_FOR = "Florence: subject_NN/Model/frontal1/obj/*.obj or vrml/*.wrl with texture (frontal2 too, where it exists)"
SIZE_PX = 600
PX_PER_MM = 2.0
CROP_MM = 95.0
GROUND_TRUTH_POINTS = 19_000
DEPTH_OF_CENTRE_MM = 60.0
BACKGROUND = 128.0


def find(root: Path) -> Found:
    """Frontal scans in sorted order; a subject's missing ``frontal2`` is normal, a missing ``frontal1`` is listed."""
    root = checked_root(root, LOOKED_FOR)
    keys: list[str] = []
    skipped: list[tuple[str, str]] = []
    subjects = sorted(entry for entry in root.glob("subject_*") if entry.is_dir())
    for subject in subjects:
        scans = _scans(subject)
        for scan in scans:
            name = scan.relative_to(root).as_posix()
            if scan.resolve().is_relative_to(root):
                keys.append(name)
            else:
                skipped.append((name, "a link that leads outside the root"))
        if not any("/frontal1/" in path.as_posix() for path in scans):
            skipped.append((f"{subject.name}/", "no frontal1 scan"))
    if not keys and not skipped:
        raise nothing_found(root, LOOKED_FOR)
    views = len(Options().pitch_deg) * len(Options().yaw_deg)
    return Found(keys, skipped, faces_per_item=views, fitted=False)


def _scans(subject: Path) -> list[Path]:
    """Scan files of a subject's frontal sides: OBJ, or VRML where a side has no OBJ."""
    scans: list[Path] = []
    for side in sorted(subject.glob("Model/frontal[12]")):
        found = [path for path in side.glob("obj/*.obj") if path.is_file()]
        scans += sorted(found or [path for path in side.glob("vrml/*.wrl") if path.is_file()])
    return scans


def needs(root: Path, key: str) -> list[Path]:
    """Raw files that one scan is made from: everything in its folder."""
    return sorted(path for path in (root / key).parent.iterdir() if path.is_file())


def read(root: Path, key: str, options: Options) -> list[Sample]:
    """All views of one scan.

    Raises
    ------
    SampleError
        The scan or its texture cannot be used.
    """
    path = root / key
    scan = read_scan(path, root)
    found = landmarks_of(scan, path, options.annotations)
    truth = ground_truth(scan, found, options.seed, key)
    subject, _, side = Path(key).parts[:3]
    stem = f"{subject}_{side}_{path.stem}"
    views = [(pitch, yaw) for pitch in options.pitch_deg for yaw in options.yaw_deg]
    return [_view(scan, found, truth, stem, subject, pitch, yaw) for pitch, yaw in views]


def ground_truth(scan: ScanMesh, found: ScanLandmarks, seed: int, key: str) -> NDArray[np.float32]:
    """(at most 19,000, 3) scan points within 95 mm of the nose tip (landmark 30), drawn without replacement."""
    near = np.linalg.norm(scan.vertices_mm - found.points_mm[30], axis=1) <= CROP_MM
    points: NDArray[np.float32] = scan.vertices_mm[near]
    if len(points) <= GROUND_TRUTH_POINTS:
        return points
    rng = np.random.default_rng([seed, int(digest_of(key)[:8], 16)])
    drawn: NDArray[np.float32] = points[np.sort(rng.choice(len(points), GROUND_TRUTH_POINTS, replace=False))]
    return drawn


def _view(
    scan: ScanMesh,
    found: ScanLandmarks,
    truth: NDArray[np.float32],
    stem: str,
    subject: str,
    pitch_deg: float,
    yaw_deg: float,
) -> Sample:
    import cv2

    pose = view_pose(found.points_mm[30].astype(np.float64), pitch_deg, yaw_deg)
    camera = camera_of(pose)
    image = render_view(scan, seen_by(camera, scan.vertices_mm))
    encoded = cv2.imencode(".jpg", image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
    interocular = float(np.linalg.norm(found.points_mm[36] - found.points_mm[45]))
    return Sample(
        id=f"{stem}_pitch{pitch_deg:+03.0f}_yaw{yaw_deg:+03.0f}",
        jpeg=encoded,
        size_px=(SIZE_PX, SIZE_PX),
        landmarks_px=seen_by(camera, found.points_mm),
        pose_deg=np.array([pitch_deg, yaw_deg, 0.0], np.float32),
        pose_params=pose.astype(np.float32),
        source=f"{found.method}, confidence {found.confidence:.2f}, unit {scan.unit}",
        split="test",
        group=subject,
        scan=Scan(truth, camera.astype(np.float32), found.points_mm, interocular),
    )


def view_pose(nose_tip_mm: NDArray[np.float64], pitch_deg: float, yaw_deg: float) -> NDArray[np.float64]:
    """(7,) pose of 300W-LP's form that turns the scan about a point 60 mm behind its nose tip, kept mid-picture."""
    angles = np.deg2rad([pitch_deg, yaw_deg, 0.0])
    centre = nose_tip_mm - [0.0, 0.0, DEPTH_OF_CENTRE_MM]
    middle = np.array([(SIZE_PX + 1) / 2, (SIZE_PX + 1) / 2, 0.0])
    translation = middle - PX_PER_MM * rotation_from_euler(angles) @ centre
    return np.concatenate([angles, translation, [PX_PER_MM]])


def camera_of(pose: NDArray[np.float64]) -> NDArray[np.float64]:
    """(3, 4) map from mm to exact pixels (x right, y down, z to the camera) of a pose."""
    sR = pose[6] * rotation_from_euler(pose[:3])
    flip = np.diag([1.0, -1.0, 1.0])
    shift = flip @ pose[3:6] + [-1.0, SIZE_PX, 0.0]
    return np.column_stack([flip @ sR, shift])


def seen_by(camera: NDArray[np.float64], points_mm: NDArray[np.float32]) -> NDArray[np.float32]:
    """Points (N, 3) in mm as image points (N, 3) in exact pixels."""
    return (points_mm @ camera[:, :3].T + camera[:, 3]).astype(np.float32)


def render_view(scan: ScanMesh, vertices_px: NDArray[np.float32]) -> NDArray[np.uint8]:
    """(600, 600, 3) uint8 RGB picture of the scan before plain grey."""
    from prnbench.render import render_colours, render_texture

    if scan.texture is not None and scan.uv is not None:
        shape = (SIZE_PX, SIZE_PX)
        picture = render_texture(
            vertices_px, scan.triangles, scan.texture, scan.uv, *shape, background=BACKGROUND, samples=2
        )
    else:
        assert scan.colours is not None
        picture = render_colours(
            vertices_px, scan.triangles, scan.colours, SIZE_PX, SIZE_PX, background=BACKGROUND, samples=2
        )
    out: NDArray[np.uint8] = np.clip(picture + 0.5, 0, 255).astype(np.uint8)
    return out
