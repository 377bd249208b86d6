"""Fake data in Florence's layout: face-like height fields as textured OBJ scans, with landmark files where asked."""

import json
from pathlib import Path

import cv2
import numpy as np


def surface(rng, columns=160, rows=200):
    """A head-sized bulge with a nose: (rows * columns, 3) points in mm, uv, triangles."""
    x, y = np.meshgrid(np.linspace(-75, 75, columns), np.linspace(-100, 100, rows))
    z = 90 * np.sqrt(np.clip(1 - (x / 85) ** 2 - (y / 120) ** 2, 0, None))
    z += 25 * np.exp(-((x / 10) ** 2) - ((y + 5) / 18) ** 2) + rng.normal(0, 0.1, x.shape)
    points = np.stack([x, y, z], axis=-1).reshape(-1, 3)
    uv = np.stack([(x + 75) / 150, (y + 100) / 200], axis=-1).reshape(-1, 2)
    corner = (np.arange(rows - 1)[:, None] * columns + np.arange(columns - 1)).ravel()
    lower = np.stack([corner, corner + 1, corner + columns + 1], axis=1)
    upper = np.stack([corner, corner + columns + 1, corner + columns], axis=1)
    return points, uv, np.concatenate([lower, upper])


def landmarks(points, rng):
    """68 points of the surface, the nose tip (30) its most forward one, the outer canthi (36, 45) 90 mm apart."""
    chosen = points[rng.choice(len(points), 68, replace=False)].copy()
    chosen[30] = points[points[:, 2].argmax()]
    chosen[36] = points[np.linalg.norm(points[:, :2] - (-45, 30), axis=1).argmin()]
    chosen[45] = points[np.linalg.norm(points[:, :2] - (45, 30), axis=1).argmin()]
    return chosen


def write_scan(folder: Path, stem: str, rng, *, unit=1.0, texture=True, nan_share=0.0, with_landmarks=True):
    """Write one OBJ with .mtl and texture; returns its points in mm."""
    folder.mkdir(parents=True, exist_ok=True)
    points, uv, triangles = surface(rng)
    if with_landmarks:
        (folder / f"{stem}.json").write_text(json.dumps({"landmarks": (landmarks(points, rng) * unit).tolist()}))
    written = points * unit
    if nan_share:
        written[rng.random(len(points)) < nan_share] = np.nan
    lines = [f"mtllib {stem}.mtl", "usemtl face"] if texture else []
    lines += [f"v {x:.6f} {y:.6f} {z:.6f}" for x, y, z in written]
    lines += [f"vt {u:.6f} {v:.6f}" for u, v in uv]
    lines += ["f " + " ".join(f"{i}/{i}" for i in triangle) for triangle in triangles + 1]
    (folder / f"{stem}.obj").write_text("\n".join(lines) + "\n")
    if texture:
        (folder / f"{stem}.mtl").write_text(f"newmtl face\nKd 1 1 1\nmap_Kd {stem}.png\n")
        small = rng.integers(60, 220, (16, 16, 3), np.uint8)
        cv2.imwrite(str(folder / f"{stem}.png"), cv2.resize(small, (256, 256)))
    return points


def write(root: Path, subjects=2, seed=0, **options):
    """Write subjects with frontal1 and frontal2; the last has no frontal2, as subject_30 in the real set."""
    rng = np.random.default_rng(seed)
    for number in range(1, subjects + 1):
        sides = ["frontal1", "frontal2"] if number < subjects else ["frontal1"]
        for side in sides:
            folder = root / f"subject_{number:02d}" / "Model" / side / "obj"
            write_scan(folder, f"1109261216{number:02d}", rng, **options)
    return 2 * subjects - 1


def write_vrml(folder: Path, stem: str, rng, *, version=2, texture="", transform=""):
    """The scan of ``write_scan`` as VRML, quads and a texture index of its own; returns its points in mm."""
    folder.mkdir(parents=True, exist_ok=True)
    points, uv, triangles = surface(rng)
    quads = np.concatenate([triangles[: len(triangles) // 2], triangles[len(triangles) // 2 :, 2:]], axis=1)
    chart = np.arange(len(uv))[::-1]  # texture coordinates in another order than the points

    def field(name, rows, end=""):
        return f"{name} [\n" + ",\n".join(" ".join(map(str, row)) + end for row in rows.tolist()) + "\n]"

    coordinates, positions = field("point", points.round(4)), field("point", uv[chart].round(6))
    faces, chart_faces = field("coordIndex", quads, " -1"), field("oordIndex", (len(uv) - 1 - quads), " -1")
    image = texture or f"{stem}.png"
    if version == 1:
        body = (
            f'#VRML V1.0 ascii\nSeparator {{ Texture2 {{ filename "{image}" }}\n Coordinate3 {{ {coordinates} }}\n'
            f" TextureCoordinate2 {{ {positions} }}\n IndexedFaceSet {{ {faces}\n textureC{chart_faces} }} }}\n"
        )
    else:
        body = (
            f"#VRML V2.0 utf8\n# a scan\n{transform}Shape {{ "
            f'appearance Appearance {{ texture ImageTexture {{ url ["{image}"] }} }}\n'
            f" geometry IndexedFaceSet {{ coord DEF P Coordinate {{ {coordinates} }}\n {faces}\n"
            f" texCoord TextureCoordinate {{ {positions} }}\n texC{chart_faces} }} }}\n"
        )
    (folder / f"{stem}.wrl").write_text(body)
    small = rng.integers(60, 220, (16, 16, 3), np.uint8)
    cv2.imwrite(str(folder / f"{stem}.png"), cv2.resize(small, (256, 256)))
    return points
