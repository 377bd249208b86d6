"""Reading and checking raw files: roots, .mat fields, JPEG headers. What is wrong is said once, with the file."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prnbench.convert import Found
from prnbench.errors import InputError, SampleError

Float32 = NDArray[np.float32]

MAX_ANGLE_RAD = 4 * np.pi
"""Beyond two full turns a pose is nonsense; yaw beyond 90 degrees and odd winding occur in the real sets."""


def checked_root(root: Path, what: str) -> Path:
    """The folder itself, or an error that names what was looked for."""
    if not root.exists():
        raise InputError(f"there is no such folder; looked for {what}", file=root, remedy="check --root")
    if not root.is_dir():
        raise InputError(
            f"not a folder; looked for {what}", file=root, remedy="give the folder that holds the data set"
        )
    return root.resolve()


def nothing_found(root: Path, what: str) -> InputError:
    """The error for a folder without the data set: says what was looked for and what is there."""
    names = sorted(entry.name for entry in root.iterdir())
    there = ", ".join(names[:6]) + (", ..." if len(names) > 6 else "") if names else "nothing"
    return InputError(f"found 0 faces: looked for {what}; the folder holds {there}", file=root, remedy="check --root")


def pair_images(root: Path, folders: list[Path], *, ignore: str = "") -> Found:
    """Images and ``.mat`` files of the same stem in each folder, paired; what has no partner is skipped by name.

    Files whose real path leaves the root are skipped; a stem that occurs twice keeps its first image.
    """
    keys: list[str] = []
    skipped: list[tuple[str, str]] = []
    for folder in folders:
        files = sorted(entry for entry in folder.iterdir() if entry.is_file() and not entry.name.startswith("."))
        images = [file for file in files if file.suffix.lower() in (".jpg", ".jpeg")]
        mats = {file.stem for file in files if file.suffix == ".mat"}
        seen: set[str] = set()
        for image in images:
            name = image.relative_to(root).as_posix()
            if not image.resolve().is_relative_to(root):
                skipped.append((name, "a link that leads outside the root"))
            elif image.stem in seen:
                skipped.append((name, f"duplicate of another image named {image.stem}"))
            elif image.stem not in mats:
                skipped.append((name, f"no {image.stem}.mat beside the image"))
            else:
                keys.append(name)
            seen.add(image.stem)
        skipped += [
            (f"{(folder / stem).relative_to(root).as_posix()}.mat", f"no {stem}.jpg beside the .mat")
            for stem in sorted(mats - seen)
            if stem != ignore
        ]
    return Found(keys, skipped)


def read_mat(path: Path, fields: tuple[str, ...], optional: tuple[str, ...] = ()) -> dict[str, Any]:
    """Fields of a MATLAB file (versions 4 to 7.2), and those of ``optional`` that it has; without names, all.

    Raises
    ------
    SampleError
        The file is empty, in v7.3 format, damaged, or lacks one of ``fields``.
    """
    import scipy.io

    encoded = path.read_bytes()
    if not encoded:
        raise SampleError("the file is empty", file=path, remedy="copy it again")
    try:
        content: dict[str, Any] = scipy.io.loadmat(BytesIO(encoded), variable_names=(*fields, *optional) or None)
    except NotImplementedError:
        raise SampleError(
            "a MATLAB v7.3 file; the data set's own files are v5", file=path, remedy="save it with `save -v7`"
        ) from None
    except Exception as error:  # scipy raises many kinds for damaged files
        raise SampleError(f"not a readable .mat file ({error})", file=path, remedy="copy it again") from None
    missing = [name for name in fields if name not in content]
    if missing:
        held = ", ".join(sorted(name for name, _, _ in scipy.io.whosmat(path)))
        raise SampleError(f"no field {', '.join(missing)} (it holds {held})", file=path, remedy="check the data set")
    return content


def floats(content: dict[str, Any], name: str, shape: tuple[int | None, ...], path: Path) -> Float32:
    """A field as finite float32 of the expected shape (None: any size); integers, which occur, are accepted."""
    value = np.asarray(content[name])
    fits = value.ndim == len(shape) and all(want in (None, have) for want, have in zip(shape, value.shape, strict=True))
    if not fits or value.dtype.kind not in "fiu":
        expected = "x".join("n" if size is None else str(size) for size in shape)
        raise SampleError(
            f"{name} is {value.dtype} {'x'.join(map(str, value.shape))}, expected numbers {expected}",
            file=path,
            remedy="check the data set",
        )
    out: Float32 = value.astype(np.float32)
    if not np.isfinite(out).all():
        raise SampleError(f"{name} holds NaN or infinite values", file=path, remedy="remove or repair the file")
    return out


def pose_of(content: dict[str, Any], path: Path) -> Float32:
    """``Pose_Para``: (7,) pitch, yaw, roll (rad), tx, ty, tz, scale, refused where it is absurd."""
    pose: Float32 = floats(content, "Pose_Para", (1, 7), path)[0]
    if np.abs(pose[:3]).max() > MAX_ANGLE_RAD:
        raise SampleError(
            f"absurd pose: an angle of {np.abs(pose[:3]).max():.3g} rad", file=path, remedy="check the file"
        )
    if not 0 < pose[6] < 1e4 or np.abs(pose[3:6]).max() > 1e5:
        raise SampleError(
            f"absurd pose: scale {pose[6]:.3g}, translation {np.abs(pose[3:6]).max():.3g}",
            file=path,
            remedy="check the file",
        )
    return pose


def parameters_of(content: dict[str, Any], path: Path) -> tuple[Float32, Float32]:
    """``Shape_Para`` and ``Exp_Para`` as vectors; real files hold some of them as uint8."""
    shape = floats(content, "Shape_Para", (None, 1), path)[:, 0]
    expression = floats(content, "Exp_Para", (None, 1), path)[:, 0]
    return shape, expression


def checked_landmarks(landmarks_px: Float32, path: Path) -> Float32:
    """Landmarks that span a box; refused where they are absurd."""
    span = np.ptp(landmarks_px[:, :2], axis=0)
    if span.min() < 1 or np.abs(landmarks_px[:, :2]).max() > 1e5:
        raise SampleError(
            f"absurd landmarks: box {span[0]:.3g} x {span[1]:.3g} px",
            file=path,
            remedy="remove or repair the file",
        )
    return landmarks_px


def read_image(path: Path) -> tuple[bytes, tuple[int, int]]:
    """The file's bytes and its (width, height), from the header alone; a truncated JPEG is refused."""
    from PIL import Image, UnidentifiedImageError

    encoded = path.read_bytes()
    if not encoded:
        raise SampleError("the file is empty", file=path, remedy="copy it again")
    try:
        with Image.open(BytesIO(encoded)) as image:
            size = image.size
    except (UnidentifiedImageError, OSError, ValueError) as error:
        raise SampleError(f"not a readable image ({error})", file=path, remedy="copy it again") from None
    if encoded[:2] != b"\xff\xd8":
        raise SampleError("not a JPEG file", file=path, remedy="the data set's images are JPEG: copy it again")
    if b"\xff\xd9" not in encoded[-4096:]:
        raise SampleError("the JPEG is truncated (no end marker)", file=path, remedy="copy it again")
    return encoded, size


def split_of(group: str, share_percent: int = 5) -> str:
    """``val`` for a fixed share of the photo identities by their digest, else ``train``."""
    import hashlib

    return "val" if hashlib.sha256(group.encode()).digest()[0] * 100 < share_percent * 256 else "train"
