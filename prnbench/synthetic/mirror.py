"""Coefficients of the built-in head's mirror image."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from prnbench.synthetic.head import built_in_head, head_parts

Array = NDArray[np.float64]


def mirror_coefficients(shape: Array, expression: Array) -> tuple[Array, Array]:
    """Coefficients whose face is the mirror image of the given one's."""
    signs, order, expression_signs = _mirror_maps()
    return shape * signs[: len(shape)], expression[order] * expression_signs


@lru_cache(maxsize=1)
def _mirror_maps() -> tuple[Array, NDArray[np.int64], Array]:
    model, mirror = built_in_head(), head_parts().mirror
    columns = model.identity.reshape(len(mirror), 3, -1)
    flipped = columns[mirror] * np.array([-1, 1, 1], np.float32)[:, None]
    signs = np.where((columns * flipped).sum(axis=(0, 1)) < 0, -1.0, 1.0)
    names = list(model.expression_names or ())
    swap = {"_L": "_R", "_R": "_L"}
    order = [names.index(n[:-2] + swap[n[-2:]]) if n[-2:] in swap else k for k, n in enumerate(names)]
    return signs, np.array(order), np.array([-1.0 if n == "jawLeft" else 1.0 for n in names])
