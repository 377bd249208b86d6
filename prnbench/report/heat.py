"""Where models err, drawn: the mean error over the UV map and on the mean face from three views, on one scale."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from prnbench.error_maps import ErrorMap
from prnbench.files import make_folder, replacing
from prnbench.metrics.surface import grid_triangles
from prnbench.report.figure import upper_end
from prnbench.report.figures import file_stem
from prnbench.report.plots import STYLE
from prnbench.report.run import Run

Image = NDArray[np.uint8]

VIEWS = {"from its right": -60.0, "front": 0.0, "from its left": 60.0}
"""Name and yaw in degrees; right and left are the face's own."""
SIDE_PX = 256
UNIT = "% of face size"
COLOUR_MAP = "viridis"
_NO_ERROR_GREY = 0.62
_NOTE = (
    "Mean distance in the picture between predicted and true position of each point of the face, as in the dense 2D "
    "protocol, over {faces} faces taken evenly; a failed prediction is left out. Grey was not measured. The brightest "
    "colour also stands for all larger errors; the scale is one for all models, its steps widen towards small errors."
)


def heat_parts(run: Run, dataset: str) -> dict[str, Any] | None:
    """Pictures, scale and note for the page, or None where no position maps were compared."""
    entries = _of(run, dataset)
    if not entries:
        return None
    top = scale_end(entries)
    return {
        "models": [
            {
                "model": entry.model,
                "index": run.models.index(entry.model) if entry.model in run.models else 0,
                "pictures": [{"title": title, "source": _data_uri(image)} for title, image in pictures(entry, top)],
            }
            for entry in entries
        ],
        "stops": [{"offset": f"{100 * i / 16:g}%", "colour": _hex(i / 16)} for i in range(17)],
        "marks": [{"at": f"{100 * float(share(mark, top)):.2f}", "text": f"{mark:g}"} for mark in marks(top)],
        "unit": UNIT,
        "note": _NOTE.format(faces=" / ".join(sorted({str(entry.faces) for entry in entries}))),
    }


def write_heat_figures(run: Run, folder: Path) -> list[Path]:
    """Write ``error_map-<data set>-<model>.png`` for each error map and return the paths."""
    make_folder(folder)
    return [
        _write(entry, scale_end(_of(run, dataset)), folder / f"{file_stem('error_map', dataset, entry.model)}.png")
        for dataset in run.datasets
        for entry in _of(run, dataset)
    ]


def scale_end(entries: Sequence[ErrorMap]) -> float:
    """Upper end of the common scale: a round number above 99 % of the texels of every map."""
    return upper_end([float(np.nanquantile(entry.error_percent, 0.99)) for entry in entries])


def share(error_percent: ArrayLike, top: float) -> NDArray[np.float64]:
    """Place of an error on the colour scale, 0..1: its square root, so that good models show where they err too."""
    return np.sqrt(np.clip(np.asarray(error_percent, np.float64) / top, 0, 1))


def marks(top: float) -> list[float]:
    """Values named on the scale: 0 and the 1, 2, 5 steps of the upper four fifths of it."""
    steps = [digit * 10.0**power for power in range(-3, 4) for digit in (1, 2, 5)]
    return [0.0, *(step for step in steps if step <= top and share(step, top) > 0.18)]


def pictures(entry: ErrorMap, top: float) -> list[tuple[str, Image]]:
    """The UV map and the views, (H, W, 4) RGBA with a clear background, each with its title."""
    return [("UV map", _uv_picture(entry, top))] + [(name, _view(entry, yaw, top)) for name, yaw in VIEWS.items()]


def _of(run: Run, dataset: str) -> list[ErrorMap]:
    return [entry for entry in run.error_maps if entry.dataset == dataset]


def _colours(error_percent: NDArray[np.float32], top: float) -> NDArray[np.float32]:
    """RGBA in 0..1 of errors, grey where there is none."""
    import matplotlib

    shown = np.nan_to_num(error_percent, nan=0.0)
    colours: NDArray[np.float32] = matplotlib.colormaps[COLOUR_MAP](share(shown, top)).astype(np.float32)
    colours[np.isnan(error_percent), :3] = _NO_ERROR_GREY
    return colours


def _uv_picture(entry: ErrorMap, top: float) -> Image:
    colours = _colours(entry.error_percent, top)
    colours[np.isnan(entry.mean_face[..., 0])] = 0.0
    return np.asarray(np.rint(255 * colours), np.uint8)


def _view(entry: ErrorMap, yaw_deg: float, top: float) -> Image:
    """The mean face, turned, its texels coloured by their error and lightly shaded."""
    from prnbench.geometry import rotation_from_euler
    from prnbench.render import render_colours, vertex_normals

    texels = np.flatnonzero(np.isfinite(entry.mean_face[..., 0]))
    points = entry.mean_face.reshape(-1, 3)[texels]
    measured = np.isfinite(entry.error_percent.reshape(-1)[texels])
    middle = (points[measured].min(axis=0) + points[measured].max(axis=0)) / 2
    turned = (points - middle) @ rotation_from_euler(np.radians([0.0, yaw_deg, 0.0])).T
    scale = SIDE_PX / (1.18 * np.ptp(points[measured], axis=0)[:2].max())
    triangles = grid_triangles(texels, entry.mean_face.shape[1])
    normals = vertex_normals(turned, triangles)
    towards = np.abs(normals[:, 2:]) if normals[measured, 2].mean() < 0 else np.clip(normals[:, 2:], 0, 1)
    colours = _colours(entry.error_percent, top).reshape(-1, 4)[texels]
    colours[:, :3] *= 0.72 + 0.28 * towards
    image = turned * np.array([1, -1, 1]) * scale + np.array([SIDE_PX / 2, SIDE_PX / 2, 0])
    drawn = render_colours(image, triangles, colours, SIDE_PX, SIDE_PX, samples=2)
    drawn[..., :3] /= np.maximum(drawn[..., 3:], 1e-6)  # the average over sub-pixels mixed in the clear background
    return np.asarray(np.rint(255 * np.clip(drawn, 0, 1)), np.uint8)


def _data_uri(image: Image) -> str:
    return f"data:image/png;base64,{base64.b64encode(_png(image)).decode()}"


def _png(image: Image) -> bytes:
    import cv2

    encoded = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGBA2BGRA), [cv2.IMWRITE_PNG_COMPRESSION, 9])[1]
    return bytes(encoded)


def _hex(share: float) -> str:
    import matplotlib
    from matplotlib.colors import to_hex

    return str(to_hex(matplotlib.colormaps[COLOUR_MAP](share)))


def _write(entry: ErrorMap, top: float, path: Path) -> Path:
    import matplotlib
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure as Canvas

    shown = pictures(entry, top)
    with matplotlib.rc_context(STYLE):
        canvas = Canvas(figsize=(2.1 * len(shown), 3.0), layout="constrained")
        all_axes = canvas.subplots(1, len(shown))
        for axes, (title, image) in zip(all_axes, shown, strict=True):
            axes.imshow(image, interpolation="none")
            axes.set_title(title, y=-0.12, fontsize=9, color="#555555")
            axes.set_axis_off()
        canvas.suptitle(f"{entry.model} on {entry.dataset}: mean error on the face", fontsize=10.5, x=0.01, ha="left")
        scale = ScalarMappable(PowerNorm(0.5, 0.0, top), COLOUR_MAP)
        bar = canvas.colorbar(
            scale, ax=all_axes, orientation="horizontal", shrink=0.5, aspect=40, extend="max", ticks=marks(top)
        )
        bar.set_label(f"mean 2D error, {UNIT} ({entry.faces} faces)")
        with replacing(path) as temporary:
            canvas.savefig(temporary, format="png", dpi=150, metadata={"Software": None})
    return path
