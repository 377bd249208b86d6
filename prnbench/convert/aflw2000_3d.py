"""AFLW2000-3D: ``imageNNNNN.jpg`` with ``.mat`` (``pt3d_68``, pose and parameters), and the annotations held beside it.

Source: http://www.cbsr.ia.ac.cn/users/xiangyuzhu/projects/3DDFA/main.htm; formats as in the dataset card.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from prnbench.convert import Found, Options
from prnbench.convert.raw import (
    checked_landmarks,
    checked_root,
    floats,
    nothing_found,
    pair_images,
    parameters_of,
    pose_of,
    read_image,
    read_mat,
)
from prnbench.geometry import convert_convention
from prnbench.sample import Sample

LOOKED_FOR = "AFLW2000-3D: imageNNNNN.jpg files with .mat files of the same name"


def find(root: Path) -> Found:
    """Images of the folder that have their ``.mat``, in sorted file-name order."""
    root = checked_root(root, LOOKED_FOR)
    found = pair_images(root, [root])
    if not found.keys and not found.skipped:
        raise nothing_found(root, LOOKED_FOR)
    return found


def needs(root: Path, key: str) -> list[Path]:
    """Raw files that one item is made from."""
    image = root / key
    return [image, image.with_suffix(".mat")]


def read(root: Path, key: str, options: Options) -> list[Sample]:
    """One face. Landmarks are ``pt3d_68`` moved to exact pixels: minus 1 in x and y, z as it is.

    Raises
    ------
    SampleError
        The image or the ``.mat`` cannot be used.
    """
    image, mat = needs(root, key)
    content = read_mat(mat, ("pt3d_68", "Pose_Para", "Shape_Para", "Exp_Para"), optional=("pt2d",))
    pose = pose_of(content, mat)
    shape, expression = parameters_of(content, mat)
    points = floats(content, "pt3d_68", (3, 68), mat).T
    landmarks = checked_landmarks(convert_convention(points, "annotation", "exact").astype(np.float32), mat)
    jpeg, size = read_image(image)
    sample = Sample(
        id=image.stem,
        jpeg=jpeg,
        size_px=size,
        landmarks_px=landmarks,
        pose_deg=np.rad2deg(pose[:3]),
        shape_params=shape,
        expression_params=expression,
        pose_params=pose,
        source="AFLW2000-3D",
        split="test",
        group=image.stem,
    )
    sample = _with_21_points(sample, content, mat)
    return [_with_annotations(sample, options.annotations)]


def _with_21_points(sample: Sample, content: dict[str, Any], mat: Path) -> Sample:
    if "pt2d" not in content or np.shape(content["pt2d"]) != (2, 21):
        return sample
    points = floats(content, "pt2d", (2, 21), mat).T
    visible = points[:, 0] != -1
    moved = convert_convention(points, "annotation", "exact").astype(np.float32)
    return replace(sample, points21_px=moved, visible21=visible)


def _with_annotations(sample: Sample, folder: Path | None) -> Sample:
    if folder is None:
        return sample
    given = _annotations(folder).get(sample.id)
    if given is None:
        return sample
    return replace(sample, reannotated_px=given.reannotated_px, yaw_aflw_deg=given.yaw_aflw_deg)


@cache
def _annotations(folder: Path) -> dict[str, Sample]:
    from prnbench.annotations import read_annotations

    return {sample.id: sample for sample in read_annotations(folder)}
