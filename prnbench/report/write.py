"""Writing a report: everything that is derived from a run folder's per-sample table, beside it."""

from __future__ import annotations

from pathlib import Path

from prnbench.files import write_json, write_text
from prnbench.report.figures import run_figures
from prnbench.report.heat import write_heat_figures
from prnbench.report.page import report_page
from prnbench.report.plots import write_figures
from prnbench.report.robustness import robustness_figures
from prnbench.report.run import Run, read_run
from prnbench.report.speed import speed_figures
from prnbench.report.summary import summary_markdown
from prnbench.report.tables import csv_table, latex_table


def write_report(folder: Path | str, *, private: bool = False) -> Path:
    """Write ``report.html``, ``figures/``, ``summary.json``, ``summary.md``, ``table.tex`` and ``table.csv``.

    Parameters
    ----------
    folder
        A run folder: ``per_sample.parquet`` with its header, optionally ``timing.json``, ``gallery/`` and
        ``error_maps.npz``.
    private
        Leave out every picture of a person.

    Returns
    -------
    Path
        The page. The same folder gives the same bytes.

    Raises
    ------
    TableError, InputError
        The folder holds no usable table, timing or gallery.
    OutputError
        The folder cannot be written.
    """
    run = read_run(Path(folder))
    write_json(run.folder / "summary.json", run.records)
    write_text(run.folder / "summary.md", summary_markdown(run))
    write_text(run.folder / "table.tex", latex_table(run))
    write_text(run.folder / "table.csv", csv_table(run))
    _write_figures(run)
    page = run.folder / "report.html"
    write_text(page, report_page(run, private=private))
    return page


def _write_figures(run: Run) -> None:
    """Write the figures and remove those of an earlier table."""
    folder = run.folder / "figures"
    figures = run_figures(run) + robustness_figures(run) + speed_figures(run)
    written = {*write_figures(figures, folder), *write_heat_figures(run, folder)}
    for stale in {*folder.glob("*.svg"), *folder.glob("*.png")} - written:
        stale.unlink()
