"""prnbench: benchmark and data-set toolkit for UV position-map regression of faces.

The public API is small and imported lazily, so that ``import prnbench`` stays cheap:

- :func:`prnbench.open_shards` -- a converted data set as a sequence of :class:`prnbench.Sample`.
- :class:`prnbench.Sample`, :class:`prnbench.Prediction` -- one face, and what a model says of it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Prediction", "Sample", "__version__", "open_shards"]

if TYPE_CHECKING:
    from prnbench.data.shards import open_shards
    from prnbench.sample import Prediction, Sample

_HOMES = {
    "open_shards": "prnbench.data.shards",
    "Sample": "prnbench.sample",
    "Prediction": "prnbench.sample",
}


def __getattr__(name: str) -> Any:
    """Import a public name from its room on first use."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'prnbench' has no attribute {name!r}")
