"""What a result was made with: versions, platform, and a digest of prnbench's own code."""

from __future__ import annotations

import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from prnbench import __version__
from prnbench.files import digest_of_files

PACKAGES = (
    "torch",
    "lightning",
    "numpy",
    "scipy",
    "h5py",
    "opencv-python-headless",
    "numba",
    "onnxruntime",
    "openvino",
)


def environment() -> dict[str, Any]:
    """JSON-able description of the software; the hardware stands with the timings."""
    return {
        "prnbench": __version__,
        "code_digest": code_digest(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
    }


@cache
def code_digest() -> str:
    """Hex sha256 of all of the package's Python files."""
    package = Path(__file__).parent
    return digest_of_files(package, sorted(package.rglob("*.py")))


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
