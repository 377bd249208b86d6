"""300W-LP: ``AFW/ HELEN/ IBUG/ LFPW/`` with pose variants of each photo, their ``_Flip`` copies, and ``landmarks/``.

Flipped copies are recognised and left out: flips are made when a face is loaded. Source:
http://www.cbsr.ia.ac.cn/users/xiangyuzhu/projects/3DDFA/main.htm; formats as in the dataset card.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from prnbench.convert import Found, Options
from prnbench.convert.raw import (
    Float32,
    checked_landmarks,
    checked_root,
    floats,
    nothing_found,
    pair_images,
    parameters_of,
    pose_of,
    read_image,
    read_mat,
    split_of,
)
from prnbench.errors import SampleError
from prnbench.geometry import convert_convention
from prnbench.sample import Sample

SETS = ("AFW", "HELEN", "IBUG", "LFPW")
LOOKED_FOR = "300W-LP: the folders AFW, HELEN, IBUG, LFPW with .jpg and .mat files of the same name"


def find(root: Path) -> Found:
    """Images of the four sets that have their ``.mat``; flipped copies are listed as left out, one line a folder."""
    root = checked_root(root, LOOKED_FOR)
    folders = [root / name for name in SETS if (root / name).is_dir()]
    found = pair_images(root, folders)
    flips = sorted(entry.name for entry in root.iterdir() if entry.name.endswith("_Flip") and entry.is_dir())
    if not found.keys and not found.skipped:
        raise nothing_found(root, LOOKED_FOR)
    left_out = [(f"{name}/", "mirrored copies: flips are made when a face is loaded") for name in flips]
    return Found(found.keys, [*found.skipped, *left_out])


def needs(root: Path, key: str) -> list[Path]:
    """Raw files that one item is made from."""
    image = root / key
    files = [image, image.with_suffix(".mat"), _landmark_file(root, image)]
    return [file for file in files if file.exists()]


def photo_identity(stem: str) -> str:
    """The photo of a name, without pose variant and face number (``IBUG_image_008_1_0``: ``IBUG_image_008``).

    LFPW names hold no face number, so only the pose variant is dropped there.
    """
    variants = 1 if stem.startswith("LFPW") else 2
    return re.sub(rf"(_\d+){{1,{variants}}}$", "", stem)


def read(root: Path, key: str, options: Options) -> list[Sample]:
    """One face; its landmarks come from ``pts_3d`` or ``pt2d`` (z is NaN) until a face model gives them with depth.

    Raises
    ------
    SampleError
        The image or the ``.mat`` cannot be used.
    """
    image = root / key
    mat = image.with_suffix(".mat")
    content = read_mat(mat, ("Pose_Para", "Shape_Para", "Exp_Para"), optional=("pt2d",))
    pose = pose_of(content, mat)
    shape, expression = parameters_of(content, mat)
    landmarks = checked_landmarks(_landmarks(root, image, content), mat)
    jpeg, size = read_image(image)
    group = photo_identity(image.stem)
    return [
        Sample(
            id=image.stem,
            jpeg=jpeg,
            size_px=size,
            landmarks_px=landmarks,
            pose_deg=np.rad2deg(pose[:3]),
            shape_params=shape,
            expression_params=expression,
            pose_params=pose,
            source=image.parent.name,
            split=split_of(group),
            group=group,
        )
    ]


def _landmark_file(root: Path, image: Path) -> Path:
    return root / "landmarks" / image.parent.name / f"{image.stem}_pts.mat"


def _landmarks(root: Path, image: Path, content: dict[str, Any]) -> Float32:
    points_file = _landmark_file(root, image)
    if points_file.is_file():
        points = floats(read_mat(points_file, ("pts_3d",)), "pts_3d", (68, 2), points_file)
    elif "pt2d" in content:
        points = floats(content, "pt2d", (2, 68), image.with_suffix(".mat")).T
    else:
        raise SampleError("no landmarks: neither pt2d nor a landmarks/ file", file=image, remedy="check the data set")
    exact = convert_convention(points, "annotation", "exact")
    return np.column_stack([exact, np.full(68, np.nan)]).astype(np.float32)
