"""Reports of a run: one HTML page, figures, and tables as Markdown, LaTeX and CSV, all from the per-sample table."""

from prnbench.report.compare import compare
from prnbench.report.run import Run, read_run
from prnbench.report.terminal import terminal
from prnbench.report.write import write_report

__all__ = ["Run", "compare", "read_run", "terminal", "write_report"]
