"""Contact sheets of the built-in head: identities, poses, expressions, the chart with its weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from prnbench.files import make_folder, replacing
from prnbench.geometry import project, to_image
from prnbench.render import rasterise
from prnbench.synthetic.expression import FULL_STRENGTH
from prnbench.synthetic.head import built_in_head
from prnbench.synthetic.person import SIZE_PX, Face, centred_pose, draw_face, landmarks_of, neutral_face
from prnbench.synthetic.scene import picture

Array = NDArray[np.float64]
UInt8 = NDArray[np.uint8]

SCALE = 1.45e-3
_CELL = 230


def write_sheets(folder: str | Path) -> list[Path]:
    """Write the contact sheets as PNG and return their paths.

    ``identities.png`` 16 people, ``poses.png`` one person over yaw -80..80, ``expressions.png`` 20 expressions,
    ``scenes.png`` 24 pictures as a training set has them, ``chart.png`` the chart with weights and landmarks.
    """
    out = Path(folder)
    make_folder(out)
    sheets = {
        "identities": identities(),
        "poses": poses(),
        "expressions": expressions(),
        "scenes": scenes(),
        "chart": chart(),
    }
    return [_save(out / f"{name}.png", sheet) for name, sheet in sheets.items()]


def identities() -> UInt8:
    """16 people, mostly from the front."""
    cells = []
    for k in range(16):
        rng = np.random.default_rng([900, k])
        face = draw_face(built_in_head(), 0.0, rng)
        shown = _face(face, (k % 3 == 2) * face.expression, yaw=(-22, 0, 18, 0)[k % 4])
        cells.append(_small(picture(built_in_head(), shown, np.random.default_rng([901, k]), plain=True)))
    return _grid(cells, 4)


def poses() -> UInt8:
    """One person over yaw -80..80 degrees, level, from above and from below."""
    face = draw_face(built_in_head(), 0.0, np.random.default_rng(1023))
    cells = []
    for pitch in (0, 25, -25):
        for yaw in (-80, -55, -30, 0, 30, 55, 80):
            shown = _face(face, 0 * face.expression, yaw=yaw, pitch=pitch)
            image = picture(built_in_head(), shown, np.random.default_rng(926), plain=True)
            cells.append(_labelled(_small(image), f"yaw {yaw}" + (f", pitch {pitch}" if pitch else "")))
    return _grid(cells, 7)


def expressions() -> UInt8:
    """20 expression units at full strength; left and right halves are shown together."""
    model = built_in_head()
    names = model.expression_names or ()
    units: dict[str, list[int]] = {}
    for k, name in enumerate(names):
        units.setdefault(name.removesuffix("_L").removesuffix("_R"), []).append(k)
    face = draw_face(model, 0.0, np.random.default_rng(1004))
    cells = []
    for name, columns in list(units.items())[:20]:
        b = np.zeros(len(names))
        b[columns] = FULL_STRENGTH
        shown = _face(face, b, yaw=-18, scale=1.9e-3)
        image = picture(model, shown, np.random.default_rng(907), plain=True)
        cells.append(_labelled(_small(image), name))
    return _grid(cells, 5)


def scenes() -> UInt8:
    """24 pictures as the writers make them, with landmarks on every second."""
    import cv2

    from prnbench.synthetic.layouts import test_yaw

    model, cells = built_in_head(), []
    for k in range(24):
        face = draw_face(model, test_yaw(4, k), np.random.default_rng([904, k]))
        image = picture(model, face, np.random.default_rng([905, k]))
        if k % 2:
            points = to_image(project(landmarks_of(model, face.shape, face.expression), face.pose), SIZE_PX)
            for x, y in points[:, :2]:
                cv2.circle(image, (round(x), round(y)), 3, (0, 255, 120), -1, cv2.LINE_AA)
        cells.append(_small(image, 205))
    return _grid(cells, 6)


def chart() -> UInt8:
    """The chart: albedo with landmarks, the weight mask, and the mesh's vertices."""
    import cv2

    from prnbench.uv import chart_of, weight_mask

    model, size = built_in_head(), 512
    assert model.uv is not None and model.albedo is not None
    points = np.concatenate([_chart_points(model.uv, size), np.zeros((model.vertex_count, 1))], axis=1)
    buffer = rasterise(points, model.triangles, size, size)
    from prnbench.render import interpolate

    colour = (255 * interpolate(buffer, model.triangles, model.albedo, 0.15)).astype(np.uint8)
    for x, y in points[model.landmarks, :2]:
        cv2.circle(colour, (round(x), round(y)), 3, (0, 255, 120), -1, cv2.LINE_AA)
    weights = weight_mask(model, chart_of(model), 256)
    shade = cv2.resize(
        np.sqrt(weights / weights.max()).astype(np.float32), (size, size), interpolation=cv2.INTER_NEAREST
    )
    mask = np.repeat((255 * shade).astype(np.uint8)[..., None], 3, axis=2)
    wires = np.full((size, size, 3), 250, np.uint8)
    lines = (points[:, :2] * 16).round().astype(np.int32)
    for triangle in model.triangles:
        cv2.polylines(wires, [lines[triangle].reshape(-1, 1, 2)], True, (60, 60, 60), 1, cv2.LINE_AA, 4)
    return np.hstack(
        [_labelled(colour, "albedo, landmarks"), _labelled(mask, "loss weights"), _labelled(wires, "mesh")]
    )


def _chart_points(uv: NDArray[np.float32], size: int) -> Array:
    return np.stack([uv[:, 0] * (size - 1), (1 - uv[:, 1]) * (size - 1)], axis=1).astype(np.float64)


def _face(face: Face, expression: Array, yaw: float, pitch: float = 3.0, scale: float = SCALE) -> Face:
    """The same person in even light with another expression and pose."""
    model = built_in_head()
    pose = centred_pose(model, face.shape, expression, np.deg2rad([pitch, yaw, 0.0]), scale, np.array([0.0, 28.0]))
    return neutral_face(face.shape, expression, face.texture, pose)


def _small(image: UInt8, size: int = _CELL) -> UInt8:
    import cv2

    return np.asarray(cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA), np.uint8)


def _labelled(image: UInt8, text: str) -> UInt8:
    import cv2

    out = np.ascontiguousarray(image)
    out[-24:] = (0.35 * out[-24:]).astype(np.uint8)
    cv2.putText(out, text, (8, out.shape[0] - 8), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 255, 255), 1, cv2.LINE_AA)
    return out


def _grid(cells: list[UInt8], columns: int) -> UInt8:
    rows = [np.hstack(cells[k : k + columns]) for k in range(0, len(cells), columns)]
    return np.vstack(rows)


def _save(path: Path, image: UInt8) -> Path:
    import cv2

    done, data = cv2.imencode(".png", image[:, :, ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 9])
    assert done
    with replacing(path) as temporary:
        temporary.write_bytes(data.tobytes())
    return path


__all__ = ["write_sheets"]
