"""prn_lite: PRN with half its channels, at crops and maps of 96 pixels.

A 27th of the published network's work at 256 pixels, a seventh of that of the shipped PRN at 128. Both are needed:
narrowing alone saves less time than work, since the high-resolution layers are bound by memory, not by arithmetic.
"""

from __future__ import annotations

from pathlib import Path

from prnbench.models import ModelCard, prn
from prnbench.models.prn import NEEDS, STEP, PrnPredictor, crop, folded, network_of, objective

__all__ = ["NEEDS", "STEP", "build", "crop", "folded", "network", "network_of", "objective"]

WIDTH, RESOLUTION = 8, 96
NOTES = (f"PRN's layers with {WIDTH} channels in place of 16 at their narrowest",)


def network(seed: int = prn.NETWORK_SEED, width: int = WIDTH) -> prn.PRN:
    """The network to train; see :class:`prnbench.models.prn.PRN`."""
    return prn.PRN(seed, width)


def build(
    weights: Path | None = None,
    device: str = "cpu",
    face_model: str | Path | None = None,
    resolution: int | None = None,
    runtime: str | None = None,
    precision: str = "float32",
) -> PrnPredictor:
    """Build the small network; the parameters are those of :func:`prnbench.models.prn.build`."""
    return prn.of_width(
        WIDTH,
        ModelCard("prn_lite", "PRN lite", f"after {prn.PAPER}", notes=NOTES),
        weights,
        device=device,
        face_model=face_model,
        resolution=resolution,
        runtime=runtime,
        precision=precision,
        usual=RESOLUTION,
    )
