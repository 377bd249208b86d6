"""From a position map to a mesh file: vertices, triangles, texture unwrapped from the image; OBJ and PLY."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from prnbench.errors import UsageError
from prnbench.files import make_folder
from prnbench.uv.chart import UvChart

Float32 = NDArray[np.float32]
Uint8 = NDArray[np.uint8]


def unwrap_texture(image: Uint8, position_map: ArrayLike) -> Uint8:
    """The image as a texture (R, R, 3) uint8: its colour at each texel's x, y, bilinear, edges repeated.

    ``position_map`` (R, R, 3) is in 0-based pixels of the image (H, W, 3); hidden texels show what hides them.
    """
    import cv2

    xy = np.ascontiguousarray(np.asarray(position_map, np.float32)[..., :2])
    texture: Any = cv2.remap(image, xy, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(texture, np.uint8)


def write_mesh(
    path: Path,
    position_map: ArrayLike,
    chart: UvChart,
    image: Uint8 | None = None,
) -> Path:
    """Write the surface that a position map shows as ``.obj`` (texture beside it) or ``.ply`` (vertex colours).

    Parameters
    ----------
    position_map
        (R, R, 3) in image pixels, y down; the mesh is written y up, so that viewers show it upright.
    chart
        The chart of the map.
    image
        (H, W, 3) uint8 RGB to take the texture from; without it the mesh has no colours.

    Raises
    ------
    UsageError
        Another suffix than ``.obj`` or ``.ply``.
    OutputError
        The folder cannot be made.
    """
    import trimesh

    if path.suffix.lower() not in (".obj", ".ply"):
        raise UsageError(f"cannot write {path.suffix or 'no suffix'!r} meshes", remedy="use .obj or .ply")
    make_folder(path.parent)
    maps = np.asarray(position_map, np.float32)
    raster = chart.raster(len(maps))
    used = np.flatnonzero(chart.on_chart)
    local = np.full(len(chart.uv), -1)
    local[used] = np.arange(len(used))
    vertices = raster.sample(maps, used)
    vertices[:, 1] *= -1.0
    mesh = trimesh.Trimesh(vertices, local[chart.triangles[: chart.surface_count]], process=False)
    if image is not None:
        texture = unwrap_texture(image, maps)
        uv = texture_coordinates(chart.uv[used], len(maps))
        mesh.visual = _visual(path, texture, uv, raster.sample(texture.astype(np.float32), used))
    obj = path.suffix.lower() == ".obj"
    options = {"include_normals": True, "mtl_name": f"{path.stem}.mtl"} if obj else {"vertex_normal": True}
    mesh.export(path, **options)
    return path


def texture_coordinates(uv: NDArray[np.float64], resolution: int) -> NDArray[np.float64]:
    """Chart coordinates (..., 2) as texture coordinates of mesh files, whose 0 and 1 are the texture's outer edges.

    On the chart 0 and 1 are the centres of the first and last texel.
    """
    return (uv * (resolution - 1) + 0.5) / resolution


def _visual(path: Path, texture: Uint8, uv: NDArray[np.float64], colours: Float32) -> Any:
    from trimesh.visual import ColorVisuals, TextureVisuals
    from trimesh.visual.material import SimpleMaterial

    if path.suffix.lower() == ".ply":
        return ColorVisuals(vertex_colors=np.rint(colours).astype(np.uint8))
    from PIL import Image

    material = SimpleMaterial(image=Image.fromarray(texture), ambient=[255] * 3, name=path.stem)
    return TextureVisuals(uv=uv, material=material)
