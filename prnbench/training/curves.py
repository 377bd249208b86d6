"""Curves of a training run, from the CSV records it leaves: loss over steps, validation NME by yaw bin."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

from prnbench.cards import YAW_BINS
from prnbench.files import replacing

BLUE, GREY = "#0072B2", "#767676"
BIN_COLOURS = ("#009E73", "#E69F00", "#D55E00")
"""Okabe and Ito's colour-blind-safe palette, one colour a yaw bin."""
SMOOTHING = 9
"""Records of the loss that its running median spans."""


def read_curves(run: Path) -> Any:
    """All records of a run and of its resumed parts as a DataFrame, in order of steps; later parts win."""
    import pandas as pd

    parts = sorted((run / "curves").glob("version_*/metrics.csv"), key=lambda path: path.stat().st_mtime)
    frames = [frame for frame in map(pd.read_csv, parts) if len(frame)]
    if not frames:
        return pd.DataFrame({"step": []})
    for earlier, later in pairwise(frames):
        earlier.drop(earlier.index[earlier["step"] >= later["step"].min()], inplace=True)
    return pd.concat(frames, ignore_index=True).sort_values("step", kind="stable")


def draw_curves(run: Path) -> Path | None:
    """Write ``curves.png`` into a run's folder; None where the run has left no records yet."""
    import matplotlib
    from matplotlib.figure import Figure

    records = read_curves(run)
    if "train/loss" not in records:
        return None
    with matplotlib.rc_context({"font.size": 10, "axes.grid": True, "grid.alpha": 0.3, "legend.frameon": False}):
        figure = Figure(figsize=(9.0, 3.6), layout="constrained")
        loss, error = figure.subplots(1, 2)
        _draw_loss(loss, records)
        _draw_error(error, records)
        path = run / "curves.png"
        with replacing(path) as temporary:
            figure.savefig(temporary, format="png", dpi=120)
    return path


def _draw_loss(axes: Any, records: Any) -> None:
    train = records.dropna(subset=["train/loss"])
    axes.plot(train["step"], train["train/loss"], color=GREY, alpha=0.4, linewidth=0.8, label="a batch")
    smooth = train["train/loss"].rolling(SMOOTHING, center=True, min_periods=1).median()
    axes.plot(train["step"], smooth, color=BLUE, linewidth=1.8, label="running median")
    axes.set(xlabel="step", ylabel="training loss (network units)", yscale="log", xlim=(0, None))
    axes.legend()


def _draw_error(axes: Any, records: Any) -> None:
    axes.set(xlabel="step", ylabel="validation NME (%)", xlim=(0, float(records["step"].max()) + 1))
    if "val/nme_2d" not in records:
        return
    found = records.dropna(subset=["val/nme_2d"])
    for (name, (low, high)), colour in zip(YAW_BINS.items(), BIN_COLOURS, strict=True):
        if f"val/nme_2d_{name}" in found:
            label = f"|yaw| {low:g}-{high:g} degrees" if high < 90 else f"|yaw| over {low:g} degrees"
            axes.plot(found["step"], found[f"val/nme_2d_{name}"], "o-", color=colour, linewidth=1.4, markersize=3,
                      label=label)  # fmt: skip
    axes.plot(found["step"], found["val/nme_2d"], "o-", color="black", linewidth=1.8, markersize=3, label="all faces")
    axes.set_ylim(0, None)
    axes.legend()
