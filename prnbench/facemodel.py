"""The face model that a user names: a file, a folder or the built-in head; what it is and how it looks."""

from __future__ import annotations

from pathlib import Path

from prnbench.morphable import MorphableModel, read_face_model


def load_face_model(path: str | Path | None = None) -> MorphableModel:
    """Load a morphable model; None or ``builtin`` is the built-in head.

    Raises
    ------
    FaceModelError
        The path holds no face model, or one with wrong fields or sizes.
    """
    if path is None or str(path) == "builtin":
        from prnbench.synthetic.head import built_in_head

        return built_in_head()
    return read_face_model(path)
